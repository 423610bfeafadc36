/* SPDX-License-Identifier: MIT
 * What commands share at the terminal: a progress bar on stderr, Ctrl-C as a flag, opening a model
 * with the flags that all commands take, JSON to stdout. */
#ifndef BAL_TOOL_CONSOLE_H
#define BAL_TOOL_CONSOLE_H

#include <jansson.h>

#include "args.h"
#include "ballast.h"

/* A line on stderr that is drawn over itself; silent when stderr is no terminal or under --quiet.
 * Zero-initialise, then bal_bar_init. A caller may set `lines` behind that: a bar that is not on
 * then writes a line for each stage and at most every 10 seconds one more. */
typedef struct bal_bar {
    bool on, lines;
    double start, drawn; /* seconds */
    const char *stage;
} bal_bar;

void bal_bar_init(bal_bar *b, bool quiet);
/* Draws at most ten times a second; a new stage starts its own clock. */
void bal_bar_show(bal_bar *b, const char *stage, uint64_t done, uint64_t total);
/* Clears the line; anything printed afterwards starts at its beginning. */
void bal_bar_clear(bal_bar *b);

/* From now on Ctrl-C sets a flag; a second one that nobody has looked at ends the program. */
void bal_interrupt_catch(void);
/* Whether Ctrl-C was pressed since the last bal_interrupt_reset. */
bool bal_interrupted(void);
void bal_interrupt_reset(void);

/* -1 if --device is one that the command may try; else the exit status, the sentence is printed
 * already. cpu_only: the command computes on the CPU whatever there is. */
int bal_device_check(const char *command, const bal_common *common, bool cpu_only);

/* Prints a JSON object with a newline to stdout and drops the reference. Exit status: 1, with a
 * sentence, where `object` is NULL because something did not fit into JSON (a name that is not
 * UTF-8). */
int bal_print_json(const char *command, json_t *object);

/* Prints n bytes of foreign text to stdout, control characters replaced: a terminal would obey
 * them. one_line: newlines and tabs count as such. */
void bal_print_foreign(const char *text, size_t n, bool one_line);

#endif
