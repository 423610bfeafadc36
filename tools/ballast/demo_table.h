/* SPDX-License-Identifier: MIT
 * What the demo measured, as a table on the terminal, as JSON rows, and as docs/results.md. Every
 * figure printed here comes out of this run. */
#ifndef BAL_TOOL_DEMO_TABLE_H
#define BAL_TOOL_DEMO_TABLE_H

#include <jansson.h>
#include <stdio.h>

#include "measured.h"
#include "run/evaluate.h"

enum { DEMO_SETS = 3, DEMO_MODELS = 80 };

/* The evaluation sets of a run, in this order; a set that was not run has no questions. */
enum { DEMO_QUESTIONS, DEMO_DESCRIPTIONS, DEMO_EASY_VQA };

typedef struct demo_row {
    const char *recipe; /* "float" for the reference */
    int bits;
    double linear_bpw, file_bpw; /* bits per quantized weight; per weight of the whole file */
    uint64_t bytes;
    bal_cost quantize;
    double tokens_per_s;       /* decoding, median of the rounds */
    double speed_lo, speed_hi; /* slowest and fastest round */
    bal_eval_result eval[DEMO_SETS];
    json_t *record; /* what quantize measured, NULL for float */
} demo_row;

typedef struct demo_table {
    demo_row rows[DEMO_MODELS]; /* rows[0] is the float reference */
    int n_rows;
    bal_evaldata data[DEMO_SETS];
    int calibration, group;
    const char *isa, *version;
    int threads;
    char machine[128];
} demo_table;

/* a minus b on a set, paired over groups of pictures. */
typedef struct demo_difference {
    bal_interval kl, accuracy;
} demo_difference;

bal_status demo_compare(demo_difference *out, const demo_table *t, int set, const demo_row *a,
                        const demo_row *b, bal_error *err);
/* KL of a as a part of that of b on a set, paired likewise. */
bal_status demo_part(bal_interval *out, const demo_table *t, int set, const demo_row *a,
                     const demo_row *b, bal_error *err);
const demo_row *demo_find(const demo_table *t, const char *recipe, int bits);

void demo_print_table(FILE *f, const demo_table *t);
/* Rows as README documents them: {recipe, bits, bpw, bytes, n, accuracy, ...}. */
json_t *demo_json(const demo_table *t);
bal_status demo_print_markdown(FILE *f, const demo_table *t, bal_error *err);

#endif
