/* SPDX-License-Identifier: MIT */
#include "args.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ballast.h"
#include "base/cpu.h"

enum { MAX_ARGS = 64, COMMON_ARGS = 9, HELP_COLUMN = 30 };

/* ---- Sentences ------------------------------------------------------------------------------- */

static void say(const char *command, const char *fmt, va_list ap)
{
    fprintf(stderr, "ballast%s%s: ", command ? " " : "", command ? command : "");
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
}

int bal_usage(const char *command, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(command, fmt, ap);
    va_end(ap);
    return 2;
}

int bal_failure(const char *command, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say(command, fmt, ap);
    va_end(ap);
    return 1;
}

int bal_finish(const char *command, int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) return status;
    return bal_failure(command, "standard output could not be written: %s",
                       errno ? strerror(errno) : "it is closed");
}

/* ---- Nearest names --------------------------------------------------------------------------- */

static int min3(int a, int b, int c)
{
    const int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Levenshtein distance of the first 63 characters. */
static int distance(const char *a, const char *b)
{
    int row[64];
    const int n = (int)strnlen(b, 63);
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 0; a[i] && i < 63; i++) {
        int corner = row[0];
        row[0] = i + 1;
        for (int j = 0; j < n; j++) {
            const int next = min3(row[j] + 1, row[j + 1] + 1, corner + (a[i] != b[j]));
            corner = row[j + 1];
            row[j + 1] = next;
        }
    }
    return row[n];
}

/* A slip of the keyboard, not another word: at most a third of the letters, and two in a short
 * one. */
static bool is_near(const char *given, const char *name)
{
    const int letters = (int)strlen(name) - (int)strspn(name, "-");
    return distance(given, name) <= (letters < 6 ? 2 : letters / 3);
}

void bal_nearest(char *out, size_t size, const char *given, const char *const names[], size_t n)
{
    bool taken[MAX_ARGS] = {false};
    const char *best[3];
    int n_best = 0;
    for (; n_best < 3; n_best++) {
        size_t at = n;
        for (size_t i = 0; i < n && i < MAX_ARGS; i++)
            if (!taken[i] && is_near(given, names[i]) &&
                (at == n || distance(given, names[i]) < distance(given, names[at])))
                at = i;
        if (at == n) break;
        taken[at] = true;
        best[n_best] = names[at];
    }
    out[0] = 0;
    for (int i = 0; i < n_best; i++) {
        const char *glue = i == 0 ? "; did you mean " : i == n_best - 1 ? " or " : ", ";
        const size_t used = strlen(out);
        snprintf(out + used, size - used, "%s'%s'", glue, best[i]);
    }
}

/* ---- The table ------------------------------------------------------------------------------- */

typedef struct arg_set {
    const bal_command *cmd;
    bal_arg common[COMMON_ARGS];
    const bal_arg *all[MAX_ARGS];
    size_t n;
    bool help;
} arg_set;

static bool goes_without(const bal_command *cmd, const char *name)
{
    const size_t n = strlen(name);
    for (const char *p = cmd->without; p; p = strchr(p, ' ') ? strchr(p, ' ') + 1 : NULL)
        if (strncmp(p, name, n) == 0 && (p[n] == ' ' || p[n] == 0)) return true;
    return false;
}

static void set_init(arg_set *s, const bal_command *cmd, bal_common *c)
{
    const bal_arg common[COMMON_ARGS] = {
        {"--threads", 0, BAL_ARG_INT, &c->threads, "N", "threads (all CPUs)", 0, 256},
        {"--device", 0, BAL_ARG_STRING, &c->device, "DEV",
         "where to compute: cpu, cuda:N, auto (cpu)", 0, 0},
        {"--isa", 0, BAL_ARG_CHOICE, &c->isa, BAL_ISA_LEVELS, "use at most these instructions", 0,
         0},
        {"--shapes", 0, BAL_ARG_STRING, &c->shapes, "FILE",
         "what is fastest here by bench --shapes-make, or none (the cache's)", 0, 0},
        {"--ctx", 0, BAL_ARG_INT, &c->ctx, "N", "positions of context (the model's, at most 16384)",
         1, 1 << 24},
        {"--seed", 0, BAL_ARG_U64, &c->seed, "S", "seed of everything random (0)", 0, 0},
        {"--quiet", 'q', BAL_ARG_BOOL, &c->quiet, "", "no progress, no statistics", 0, 0},
        {"--verbose", 'v', BAL_ARG_BOOL, &c->verbose, "", "statistics even off a terminal", 0, 0},
        {"--json", 0, BAL_ARG_BOOL, &c->json, "", "machine-readable result on stdout", 0, 0},
    };
    *s = (arg_set){.cmd = cmd};
    memcpy(s->common, common, sizeof common);
    for (size_t i = 0; i < cmd->n_args && s->n < MAX_ARGS - COMMON_ARGS; i++)
        s->all[s->n++] = &cmd->args[i];
    const size_t own = s->n;
    for (size_t i = 0; i < COMMON_ARGS; i++) {
        bool shadowed = false; /* a command may give a common flag a meaning of its own */
        for (size_t j = 0; j < own; j++) shadowed |= strcmp(s->all[j]->name, common[i].name) == 0;
        if (!shadowed && !goes_without(cmd, common[i].name)) s->all[s->n++] = &s->common[i];
    }
}

static void print_help(const arg_set *s)
{
    printf("usage: ballast %s %s%s[flags]\n", s->cmd->name, s->cmd->operands,
           s->cmd->operands[0] ? " " : "");
    printf("%s\n\n", s->cmd->summary);
    for (size_t i = 0; i < s->n; i++) {
        const bal_arg *a = s->all[i];
        char left[128];
        snprintf(left, sizeof left, "  %s%s%s%s %s", a->letter ? (char[]){'-', a->letter, 0} : "",
                 a->letter ? ", " : "", a->name, "", a->value);
        printf("%-*s %s\n", HELP_COLUMN, left, a->help);
    }
}

/* ---- Values ---------------------------------------------------------------------------------- */

static int bad_value(const arg_set *s, const bal_arg *a, const char *given, const char *expected)
{
    return bal_usage(s->cmd->name, "%s: '%s' is not %s", a->name, given, expected);
}

static int read_number(const arg_set *s, const bal_arg *a, const char *text)
{
    char *end, expected[96];
    errno = 0;
    const double x = strtod(text, &end);
    const bool whole = a->type == BAL_ARG_INT;
    const bool any = a->min == 0.0 && a->max == 0.0;
    snprintf(expected, sizeof expected, any ? "a%s number" : "a%s number from %.10g to %.10g",
             whole ? " whole" : "", a->min, a->max);
    if (end == text || *end || errno || !isfinite(x) || (whole && x != floor(x)) ||
        (whole && fabs(x) > 2147483647.0) || (!any && (x < a->min || x > a->max)))
        return bad_value(s, a, text, expected);
    if (whole)
        *(int *)a->out = (int)x;
    else
        *(double *)a->out = x;
    return -1;
}

static int read_u64(const arg_set *s, const bal_arg *a, const char *text)
{
    char *end;
    errno = 0;
    const unsigned long long x = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno)
        return bad_value(s, a, text, "a whole number from 0 to 18446744073709551615");
    *(uint64_t *)a->out = x;
    return -1;
}

static int read_choice(const arg_set *s, const bal_arg *a, const char *text)
{
    const size_t n = strlen(text);
    for (const char *p = a->value; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL) {
        if (n == 0 || strncmp(p, text, n) != 0 || (p[n] != '|' && p[n] != 0)) continue;
        *(const char **)a->out = text;
        return -1;
    }
    return bal_usage(s->cmd->name, "%s: '%s', expected one of %s", a->name, text, a->value);
}

static int read_list(const arg_set *s, const bal_arg *a, const char *text)
{
    bal_arg_list *list = a->out;
    if (list->n == BAL_ARG_LIST_MAX)
        return bal_usage(s->cmd->name, "%s: given more than %d times", a->name, BAL_ARG_LIST_MAX);
    list->items[list->n++] = text;
    return -1;
}

static int read_value(const arg_set *s, const bal_arg *a, const char *text)
{
    switch (a->type) {
    case BAL_ARG_INT:
    case BAL_ARG_REAL: return read_number(s, a, text);
    case BAL_ARG_U64: return read_u64(s, a, text);
    case BAL_ARG_CHOICE: return read_choice(s, a, text);
    case BAL_ARG_LIST: return read_list(s, a, text);
    default: *(const char **)a->out = text; return -1;
    }
}

/* ---- The line -------------------------------------------------------------------------------- */

static int unknown_flag(const arg_set *s, const char *flag)
{
    const char *names[MAX_ARGS];
    char near[200];
    for (size_t i = 0; i < s->n; i++) names[i] = s->all[i]->name;
    bal_nearest(near, sizeof near, flag, names, s->n);
    return bal_usage(s->cmd->name, "unknown flag '%s'%s (ballast %s --help lists all)", flag, near,
                     s->cmd->name);
}

static const bal_arg *find(const arg_set *s, const char *flag, size_t n)
{
    for (size_t i = 0; i < s->n; i++) {
        const bal_arg *a = s->all[i];
        if (strlen(a->name) == n && strncmp(a->name, flag, n) == 0) return a;
        if (n == 2 && flag[1] == a->letter && a->letter) return a;
    }
    return NULL;
}

/* argv[*i] is a flag; takes its value with it. */
static int read_flag(arg_set *s, int argc, char **argv, int *i)
{
    const char *flag = argv[*i], *equal = flag[1] == '-' ? strchr(flag, '=') : NULL;
    const size_t n = equal ? (size_t)(equal - flag) : strlen(flag);
    if (strcmp(flag, "--help") == 0 || strcmp(flag, "-h") == 0) {
        s->help = true;
        return -1;
    }
    const bal_arg *a = find(s, flag, n);
    if (!a) return unknown_flag(s, flag);
    if (a->type == BAL_ARG_BOOL) {
        if (equal) return bal_usage(s->cmd->name, "%s takes no value", a->name);
        *(bool *)a->out = true;
        return -1;
    }
    if (equal) return read_value(s, a, equal + 1);
    if (*i + 1 >= argc) return bal_usage(s->cmd->name, "%s needs a value: %s", a->name, a->value);
    return read_value(s, a, argv[++*i]);
}

static int read_line(arg_set *s, int argc, char **argv, const char **operands, int *n_operands)
{
    bool flags = true;
    for (int i = 1; i < argc; i++) {
        if (flags && strcmp(argv[i], "--") == 0) {
            flags = false;
        } else if (flags && argv[i][0] == '-' && argv[i][1]) {
            const int st = read_flag(s, argc, argv, &i);
            if (st >= 0 || s->help) return st;
        } else if (*n_operands == s->cmd->max_operands) {
            return bal_usage(s->cmd->name,
                             "unexpected operand '%s'; usage: ballast %s %s [flags] (--help lists "
                             "them)",
                             argv[i], s->cmd->name, s->cmd->operands);
        } else {
            operands[(*n_operands)++] = argv[i];
        }
    }
    return -1;
}

int bal_args_read(const bal_command *cmd, bal_common *common, int argc, char **argv,
                  const char **operands, int *n_operands)
{
    arg_set s;
    set_init(&s, cmd, common);
    *n_operands = 0;
    const int st = read_line(&s, argc, argv, operands, n_operands);
    if (s.help) {
        print_help(&s);
        return bal_finish(cmd->name, 0);
    }
    if (st >= 0) return st;
    if (*n_operands < cmd->min_operands)
        return bal_usage(cmd->name, "%s missing; usage: ballast %s %s [flags]", cmd->operands,
                         cmd->name, cmd->operands);
    return -1;
}
