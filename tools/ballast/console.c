/* SPDX-License-Identifier: MIT
 * What the commands share of the terminal: the bar, Ctrl-C, JSON and foreign text on stdout. */
#include "console.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "device/load.h"

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

static void show_line(bal_bar *b, const char *stage, uint64_t done, uint64_t total)
{
    enum { EVERY_S = 10 };
    const double t = now();
    if (b->stage && strcmp(b->stage, stage) == 0 && t - b->drawn < EVERY_S) return;
    b->stage = stage;
    b->drawn = t;
    fprintf(stderr, "%s: %llu of %llu\n", stage, (unsigned long long)done,
            (unsigned long long)total);
}

void bal_bar_show(bal_bar *b, const char *stage, uint64_t done, uint64_t total)
{
    enum { WIDTH = 24, STEPS_PER_S = 10 };
    static const char full[] = "########################", empty[] = "........................";
    if (total == 0) return;
    if (b->lines && !b->on) show_line(b, stage, done, total);
    if (!b->on) return;
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

int bal_device_check(const char *command, const bal_common *common, bool cpu_only)
{
    bal_error err;
    bal_device_choice choice;
    if (bal_device_parse(common->device, &choice, &err) < 0)
        return bal_usage(command, "--device: %s", err.text);
    if (!cpu_only || !choice.insist) return -1;
    return bal_failure(command, "--device %s: this command computes on the CPU only",
                       common->device);
}

int bal_print_json(const char *command, json_t *object)
{
    char *text = object ? json_dumps(object, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (!text)
        return bal_failure(command, "the result cannot be written as JSON: a name in it is not "
                                    "UTF-8, or memory is short");
    puts(text); /* bal_finish tells when that fails */
    free(text);
    return 0;
}

/* Bytes of the control character at s, 0 where there is none. */
static size_t control_length(const char *s, size_t n, bool one_line)
{
    const unsigned char a = (unsigned char)s[0], b = n > 1 ? (unsigned char)s[1] : 0;
    if (!one_line && (a == '\n' || a == '\t')) return 0;
    if (a < 0x20 || a == 0x7f) return 1;
    return a == 0xc2 && b >= 0x80 && b < 0xa0 ? 2 : 0;
}

void bal_print_foreign(const char *text, size_t n, bool one_line)
{
    for (size_t i = 0; i < n;) {
        const size_t control = control_length(text + i, n - i, one_line);
        if (control)
            fputs("\xef\xbf\xbd", stdout);
        else
            putchar(text[i]);
        i += control ? control : 1;
    }
}
