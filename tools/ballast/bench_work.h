/* SPDX-License-Identifier: MIT
 * How much work a model is, from its sizes: what a fraction of a limit is taken of. */
#ifndef BAL_TOOL_BENCH_WORK_H
#define BAL_TOOL_BENCH_WORK_H

#include "image/plan.h"
#include "model/model.h"
#include "op/kv.h"

/* Multiply-adds by what does them, and bytes that cannot be in a cache. */
typedef struct bal_work {
    double weights;   /* used, each once */
    double products;  /* of a weight and an input */
    double bytes_mul; /* products of bytes: a packed weight meets an activation of one or two */
    double floats;    /* multiply-adds of f32 */
    double bytes;     /* of weights, keys and values */
} bal_work;

/* `rows` tokens through the decoder behind `first` cached ones, logits of the last. kv NULL: keys
 * and values are not counted. */
bal_work bal_work_decoder(const bal_model *m, const bal_kv_layout *kv, int first, int rows);
/* A picture through tower and projector. */
bal_work bal_work_picture(const bal_model *m, const bal_view_plan *p);

double bal_work_linear_bytes(const bal_linear *l);

#endif
