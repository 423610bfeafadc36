/* SPDX-License-Identifier: MIT
 * Makes a shape table (op/shapes.h): every linear of a model, at every number of rows it may meet,
 * with each choice of kernels and cuts that differs from the rule's, on this machine. Choices take
 * turns, round after round, so that a busy neighbour hits all of them alike, and each round gives
 * the ratio of a choice to the rule. The rule stays unless the best median ratio is below 1 by more
 * than the distance of the quartiles of its ratios. That all choices give the rule's bits is
 * checked on the way. */
#ifndef BAL_TOOL_BENCH_CHOICES_H
#define BAL_TOOL_BENCH_CHOICES_H

#include "run/engine.h"

enum { BAL_CHOICES_LEAST_ROUNDS = 3, BAL_CHOICES_MOST_ROUNDS = 101 };

typedef struct bal_choices_plan {
    const bal_engine *engine;
    int repeats;               /* rounds; fewer than the least: the rule always stays */
    bal_progress_fn *progress; /* NULL: nobody watches; stage "measuring", in keys */
    void *ctx;
} bal_choices_plan;

/* What came of one key. */
typedef struct bal_choices_row {
    bal_shapes_entry best; /* of the choices beside the rule */
    bal_shapes_choice rule;
    double seconds;       /* of a call by the rule, the median */
    double ratio, spread; /* of the best to the rule */
    bool taken;           /* better by more than the spread */
} bal_choices_row;

/* On success *rows is the caller's, to be freed: linears in the order of the model, rows ascending.
 * BAL_E_NUMERIC: a choice gave other bits than the rule, which names it; no table may hold it. */
bal_status bal_choices_measure(const bal_choices_plan *plan, bal_choices_row **rows, size_t *n,
                               bal_error *err);

/* The entries of `old` whose keys were not measured, and what was taken; the caller's. */
bal_status bal_choices_merge(bal_shapes *out, const bal_shapes *old, const bal_choices_row *rows,
                             size_t n, bal_error *err);

#endif
