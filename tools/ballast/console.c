/* SPDX-License-Identifier: MIT */
#include "console.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- Bar ------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void bal_bar_init(bal_bar *b, bool quiet)
{
    *b = (bal_bar){.on = !quiet && isatty(STDERR_FILENO)};
}

static void time_left(char *out, size_t size, double s)
{
    if (s >= 3600.0)
        snprintf(out, size, "%d h %02d min", (int)s / 3600, (int)s / 60 % 60);
    else if (s >= 60.0)
        snprintf(out, size, "%d min %02d s", (int)s / 60, (int)s % 60);
    else
        snprintf(out, size, "%d s", (int)(s + 0.5));
}

void bal_bar_show(bal_bar *b, const char *stage, uint64_t done, uint64_t total)
{
    enum { WIDTH = 24, STEPS_PER_S = 10 };
    static const char full[] = "########################", empty[] = "........................";
    if (!b->on || total == 0) return;
    const double t = now();
    if (!b->stage || strcmp(b->stage, stage) != 0) {
        b->start = t;
        b->stage = stage;
    } else if (t - b->drawn < 1.0 / STEPS_PER_S) {
        return;
    }
    b->drawn = t;
    const double part = done >= total ? 1.0 : (double)done / (double)total;
    const int n = (int)(part * WIDTH);
    char left[40] = "";
    if (done > 0 && t - b->start > 1.0) {
        char s[32];
        time_left(s, sizeof s, (t - b->start) * (1.0 - part) / part);
        snprintf(left, sizeof left, ", %s left", s);
    }
    fprintf(stderr, "\r\033[K%s [%.*s%.*s] %llu of %llu%s", stage, n, full, WIDTH - n, empty,
            (unsigned long long)done, (unsigned long long)total, left);
    fflush(stderr);
}

void bal_bar_clear(bal_bar *b)
{
    if (b->on && b->stage) fputs("\r\033[K", stderr);
    b->stage = NULL;
}

/* ---- Ctrl-C ---------------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupts;

static void on_interrupt(int signal_number)
{
    if (interrupts++) {
        signal(signal_number, SIG_DFL);
        raise(signal_number);
    }
}

void bal_interrupt_catch(void)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_interrupt; /* no SA_RESTART: a read at the prompt comes back */
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
}

bool bal_interrupted(void)
{
    return interrupts != 0;
}

void bal_interrupt_reset(void)
{
    interrupts = 0;
}

/* ---- Others ---------------------------------------------------------------------------------- */

bool bal_device_known(const char *command, const bal_common *common)
{
    if (!common->device || strcmp(common->device, "cpu") == 0) return true;
    bal_failure(command, "--device %s: this build computes on 'cpu' only", common->device);
    return false;
}

void bal_print_json(json_t *object)
{
    json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    fputc('\n', stdout);
    json_decref(object);
}
