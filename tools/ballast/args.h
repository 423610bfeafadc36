/* SPDX-License-Identifier: MIT
 * Options of all subcommands: a command declares a table, this reads the command line into the
 * caller's variables, prints --help, and refuses unknown flags and values out of range with a
 * sentence that names the flag and the nearest that would do. Values are untouched where a flag is
 * not given, so a variable's initial value is the default.
 *
 * Forms: --name VALUE, --name=VALUE, -x VALUE; "--" ends the flags; "-" alone is an operand. */
#ifndef BAL_TOOL_ARGS_H
#define BAL_TOOL_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum bal_arg_type {
    BAL_ARG_BOOL,   /* bool *; takes no value */
    BAL_ARG_INT,    /* int *, min..max */
    BAL_ARG_U64,    /* uint64_t * */
    BAL_ARG_REAL,   /* double *, min..max */
    BAL_ARG_STRING, /* const char ** */
    BAL_ARG_LIST,   /* bal_arg_list *; may be given several times */
    BAL_ARG_CHOICE, /* const char **, one of `choices` separated by '|' */
} bal_arg_type;

enum { BAL_ARG_LIST_MAX = 64 };
typedef struct bal_arg_list {
    const char *items[BAL_ARG_LIST_MAX];
    int n;
} bal_arg_list;

typedef struct bal_arg {
    const char *name; /* "--max-tokens" */
    char letter;      /* 'n' for -n, or 0 */
    bal_arg_type type;
    void *out;
    const char *value; /* "N", as --help shows it; for a choice "a|b|c" */
    const char *help;  /* one line; says the default */
    double min, max;   /* of numbers; both 0: any */
} bal_arg;

typedef struct bal_command {
    const char *name;     /* "run" */
    const char *operands; /* "MODEL", as the usage line shows them */
    const char *summary;  /* a line or several under the usage line */
    const bal_arg *args;
    size_t n_args;
    int min_operands, max_operands;
    const char *without; /* the common flags that mean nothing to it: "--json --seed"; NULL: none */
} bal_command;

/* Flags that every command takes. */
typedef struct bal_common {
    int threads;        /* 0: all */
    const char *device; /* NULL: "cpu" */
    const char *isa;    /* NULL: all that the CPU has */
    const char *shapes; /* as given; after bal_shapes_check the file to use, or NULL */
    char shapes_path[1100];
    int ctx; /* 0: the model's */
    uint64_t seed;
    bool quiet, json, verbose;
} bal_common;

/* Reads argv[1..]; operands (room for max_operands) and their number come out. common may not be
 * NULL. Returns -1 to go on, else the exit status: 0 after --help, 2 after a usage error. */
int bal_args_read(const bal_command *cmd, bal_common *common, int argc, char **argv,
                  const char **operands, int *n_operands);

/* "ballast COMMAND: sentence" to stderr; returns 2. */
int bal_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for a failure; returns 1. */
int bal_failure(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Of names[n] those nearest to `given` (at most three) as "'a', 'b' or 'c'" into out. */
void bal_nearest(char *out, size_t size, const char *given, const char *const names[], size_t n);

/* Flushes stdout and reports what could not be written; returns status, or 1 if that failed. */
int bal_finish(const char *command, int status);

#endif
