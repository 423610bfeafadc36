/* SPDX-License-Identifier: MIT
 * Widths under a budget without measuring anything, as people choose them by hand, and the way from
 * one choice to another in batches of moves. Both are pure arithmetic on an allocator's problem
 * (allocate.h); whether a batch is worth it, its user finds out (verify.h). */
#ifndef BAL_QUANT_RULES_H
#define BAL_QUANT_RULES_H

#include "quant/allocate.h"

/* Units are the decoder's linears, q k v o gate up down of every block in turn. All get the widest
 * option that all can have; then one more, each as far as the budget goes, in this order: down of
 * the first two blocks and of the last, their other linears, down of the other blocks, every v,
 * every o, all others. Costs are not looked at. A budget below the least possible is BAL_E_ARG. */
bal_status bal_alloc_rules(int *choice, const bal_alloc_problem *p, bal_error *err);

typedef struct bal_move {
    int unit;
    double rate; /* cost saved, or added, per byte */
} bal_move;

/* What is to be changed to get from one choice to another: more bytes for some units, those first
 * that gain most by them; fewer for others, those first that lose least. */
typedef struct bal_moves {
    const bal_alloc_problem *problem; /* borrowed, as `to` is */
    const int *to;
    bal_move *up, *down;
    int n_up, n_down, at_up, at_down; /* how many there are, and are taken */
    int batch;                        /* of `up`, taken at a time */
} bal_moves;

enum { BAL_MOVE_BATCHES = 8 };

bal_status bal_moves_create(bal_moves *m, const bal_alloc_problem *p, const int *from,
                            const int *to, bal_error *err);
void bal_moves_destroy(bal_moves *m); /* idempotent; zeroed struct is fine */

/* trial := now with the next batch: some units moved up, and as many down as the budget asks for.
 * False when there is none left, or none that fits. Moves of a batch are not offered again. */
bool bal_moves_next(bal_moves *m, const int *now, int *trial);

#endif
