/* SPDX-License-Identifier: MIT
 * Quantizes and watches itself: a line for every step with the seconds since the start, wall and
 * CPU, and the anonymous memory now and at its peak so far (RssAnon of /proc/self/status, sampled
 * every 20 ms). Lines of the run's own JSON at the end.
 *
 *   measure MODEL OUT CALIB SAMPLES THREADS RECIPE [KEY=VALUE ...] */
#include "ballast_quant.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static atomic_long now_kb, peak_kb;
static atomic_bool over;

static long anonymous_kb(void)
{
    char line[200];
    long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %ld", &kb) == 1) break;
    if (f) fclose(f);
    return kb;
}

static void *sample(void *unused)
{
    const struct timespec pause = {.tv_nsec = 20000000};
    while (!atomic_load(&over)) {
        const long kb = anonymous_kb();
        atomic_store(&now_kb, kb);
        if (kb > atomic_load(&peak_kb)) atomic_store(&peak_kb, kb);
        nanosleep(&pause, NULL);
    }
    return unused;
}

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void say(double start, const char *stage, uint64_t done, uint64_t total)
{
    printf("%9.1f s %9.1f cpu %7.1f MB now %7.1f MB peak  %s %llu/%llu\n",
           seconds(CLOCK_MONOTONIC) - start, seconds(CLOCK_PROCESS_CPUTIME_ID),
           (double)atomic_load(&now_kb) / 1e3, (double)atomic_load(&peak_kb) / 1e3, stage,
           (unsigned long long)done, (unsigned long long)total);
    fflush(stdout);
}

static bool watch(void *ctx, const bal_progress *p)
{
    say(*(double *)ctx, p->stage, p->done, p->total);
    return true;
}

int main(int argc, char **argv)
{
    if (argc < 7) {
        fprintf(stderr, "usage: measure MODEL OUT CALIB SAMPLES THREADS RECIPE [KEY=VALUE ...]\n");
        return 2;
    }
    double start = seconds(CLOCK_MONOTONIC);
    bal_error err;
    pthread_t sampler;
    pthread_create(&sampler, NULL, sample, NULL);
    bal_quant_opts o = {.size = sizeof o,
                        .threads = (uint32_t)atoi(argv[5]),
                        .recipe = argv[6],
                        .set = (const char *const *)argv + 7,
                        .n_set = (size_t)argc - 7,
                        .calib = argv[3],
                        .samples = atoi(argv[4]),
                        .force = true,
                        .progress = watch,
                        .progress_ctx = &start};
    bal_quant_plan plan;
    bal_status st = bal_quantize_plan(&plan, argv[1], NULL, &o, &err);
    if (st >= 0)
        printf("planned: %.1f MB of memory, %.1f MB of disk\n", (double)plan.ram_bytes / 1e6,
               (double)plan.disk_bytes / 1e6);
    if (st >= 0) st = bal_quantize(argv[1], argv[2], &o, &err);
    atomic_store(&over, true);
    pthread_join(sampler, NULL);
    say(start, st < 0 ? err.text : "end", 0, 0);
    return st < 0;
}
