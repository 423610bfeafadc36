/* SPDX-License-Identifier: MIT
 * f32 copies of a decoder block that the solvers may change, and folding of channel scales into
 * them: consumers' columns times s, and the op before divided by s, so that the float block
 * computes the same function. */
#ifndef BAL_QUANT_FOLD_H
#define BAL_QUANT_FOLD_H

#include "model/decoder.h"
#include "quant/block.h"

/* the order of bal_decoder_linear */
enum {
    BAL_LINEAR_Q,
    BAL_LINEAR_K,
    BAL_LINEAR_V,
    BAL_LINEAR_O,
    BAL_LINEAR_GATE,
    BAL_LINEAR_UP,
    BAL_LINEAR_DOWN
};

/* Consumers first .. first + count - 1 of a scale group, and whose ratio it uses. */
typedef struct bal_group_info {
    int first, count, sub;
    const char *name; /* "{q,k,v}", ... */
} bal_group_info;
extern const bal_group_info bal_group_table[BAL_GROUPS];

/* The group whose input linear `i` reads, and the sub-block it stands in. */
int bal_group_of_linear(int i);

static inline const bal_linear *bal_layer_linear(const bal_decoder_layer *l, int i)
{
    return bal_decoder_linear((bal_decoder_layer *)(uintptr_t)l, i);
}

typedef struct bal_layer_copy {
    bal_decoder_layer l;              /* every linear F32, reading the memory below */
    float *w[BAL_DECODER_LINEARS];    /* [n][k] */
    float *bias[BAL_DECODER_LINEARS]; /* [n] or NULL */
    float *attn_norm, *mlp_norm;      /* [hidden] */
} bal_layer_copy;

/* Copies the float layer `l`. A NaN or Inf weight, bias or norm fails with BAL_E_NUMERIC, naming
 * layer `index`, tensor and position. */
bal_status bal_layer_copy_create(bal_layer_copy *out, bal_pool *pool, const bal_text_config *c,
                                 const bal_decoder_layer *l, int index, bal_error *err);
void bal_layer_copy_destroy(bal_layer_copy *copy); /* idempotent; zeroed struct is fine */
/* Folds s (length: inputs of the group's consumers) into the copy. Every result is rounded to
 * `arith`, as the published code folds in its own 16-bit type. Group {o} needs v and o of one
 * shape. */
void bal_fold_group(bal_layer_copy *copy, bal_pool *pool, int group, const float *s,
                    bal_arith arith);

#endif
