/* SPDX-License-Identifier: MIT
 * Bits of what stands beside the decoder's blocks (tower.h) under budgets of their own: what each
 * width does to what the model sees, and what an allocator (allocate.h) buys for a side's budget.
 * Formulas: docs/numerics.md, "Widths under a budget". Refuses budgets that cannot be met or spent,
 * saying what the least and the most is. */
#ifndef BAL_QUANT_SIDE_H
#define BAL_QUANT_SIDE_H

#include "quant/allocate.h"
#include "quant/gather.h"
#include "quant/tower.h"

#include <jansson.h>

enum { BAL_SIDE_PICTURES = 4 }; /* records with pictures that are looked at, at most */

typedef struct bal_side_plan {
    size_t n;                        /* linears of the tower's list; those that are not auto
                                        have neither costs nor bits */
    double (*cost)[BAL_SIDE_WIDTHS]; /* [n] mean squared error of what is seen; of a head, squared
                                        error of its weights */
    int *bits;                       /* [n]; all 0 until bought */
    bal_alloc_result result[BAL_SIDES];
} bal_side_plan;

bal_status bal_side_plan_create(bal_side_plan *p, const bal_tower *t, bal_error *err);
void bal_side_plan_free(bal_side_plan *p); /* idempotent; zeroed struct is fine */

/* Whether every budget lies between the least and the most that its side can take. */
bal_status bal_side_check(const bal_tower *t, const bal_recipe *r, bal_error *err);
/* Bytes that the budgets allow beyond the list as it stands, with all bits at their narrowest. */
bal_status bal_side_room(uint64_t *out, const bal_tower *t, const bal_recipe *r, bal_error *err);

/* Measures cost. The tower is as in the checkpoint, and is so again afterwards. order[n]: records
 * of calib in use. step: stage "sides", linears done. A vision tower or projector without any
 * record with a picture is BAL_E_ARG. */
bal_status bal_side_measure(bal_side_plan *p, bal_tower *t, const bal_engine *engine,
                            const bal_exec *exec, const bal_recipe *r, const bal_calib *calib,
                            const size_t *order, size_t n, bal_rank *rank, bal_step_fn *step,
                            void *step_ctx, bal_error *err);

/* Chooses bits under each side's budget; cost must be there. */
bal_status bal_side_buy(bal_side_plan *p, const bal_tower *t, const bal_recipe *r, bal_error *err);
/* Gives the list its bits. */
bal_status bal_side_apply(const bal_side_plan *p, bal_tower *t, bal_error *err);

/* {"vision": {"bits": {NAME: bits}, "costs": {NAME: [4 6 8]}, "cost", "bound", "proved", "bytes"},
 * ...} of the sides that are auto; and back from a file that others may have written to: every
 * linear must be there at bits that it can have. NULL when memory is short. */
json_t *bal_side_to_json(const bal_side_plan *p, const bal_tower *t, const bal_recipe *r);
bal_status bal_side_read(bal_side_plan *p, const bal_tower *t, const bal_recipe *r,
                         const char *path, bal_error *err);

#endif
