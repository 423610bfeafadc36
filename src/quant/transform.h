/* SPDX-License-Identifier: MIT
 * Changes of basis that leave what the float model computes as it is, made before anything is
 * measured. rotate=residual: the residual stream h becomes h Q (rotation.h). Gains of the decoder's
 * norms go into the linears behind them, Q^T in front of q, k, v, gate, up and the head, Q behind
 * o, down, the embedding table, the projector and the newline; norms keep gains of 1. A head that
 * was tied to the embedding table becomes a tensor of its own, since only one of them has the last
 * norm's gain in it.
 *
 * hadamard=down or all: down, or o too, reads (x s) T where it read x, T = Hadamard's transform of
 * runs of inputs, which the engine computes, and s signs that go into the rows of up (of v) in
 * front, so that inputs of one sign do not meet in the first element of a run. The weight becomes W
 * diag(s) T.
 *
 * The new weights are written to files of the workspace and the model's fields become views of
 * these, so everything behind works on the changed model as on any other: blocks in F32, what goes
 * into the finished file in F16, or F32 where the checkpoint has that. */
#ifndef BAL_QUANT_TRANSFORM_H
#define BAL_QUANT_TRANSFORM_H

#include "model/model.h"
#include "op/exec.h"
#include "quant/part.h"
#include "quant/rotation.h"
#include "quant/workspace.h"

/* What stands outside the decoder's blocks and is not the checkpoint's any more. */
enum { BAL_TRANSFORM_TENSORS = 6 };

typedef struct bal_transform {
    bal_model *model;
    bal_rotation rotation; /* of the stream; n 0: there is none */
    bal_mixing mixing;     /* of inputs */
    uint64_t seed;         /* of all signs */
    /* name, shape and size from the start, data once they are made; names are those of the file */
    bal_tensor_view tensors[BAL_TRANSFORM_TENSORS];
    size_t n_tensors;
    float *ones; /* [hidden], gains of the norms */
    bal_tensor_set *pieces;
    int n_pieces;
} bal_transform;

/* What `recipe` changes in m, which must outlive the list; nothing is changed yet. BAL_E_UNSUP: a
 * width for which there is no rotation or no transform. On failure *t is empty. */
bal_status bal_transform_list(bal_transform *t, bal_model *m, const bal_recipe *recipe,
                              uint64_t seed, bal_error *err);

/* Changes the model. Memory holds one block's weights or one table. A weight that F16 cannot hold
 * is BAL_E_NUMERIC. */
bal_status bal_transform_apply(bal_transform *t, const bal_exec *e, const bal_workspace *space,
                               bal_step_fn *step, void *step_ctx, bal_error *err);

/* Whether anything is changed; the run of inputs that decoder linear i will read mixed, 0: none. */
bool bal_transform_any(const bal_transform *t);
int bal_transform_block(const bal_transform *t, int linear);

/* The tensor of that canonical name, or NULL where it stays as it is. */
const bal_tensor_view *bal_transform_find(const bal_transform *t, const char *name);

/* Bytes of the files in the workspace. */
uint64_t bal_transform_bytes(const bal_transform *t);

void bal_transform_close(bal_transform *t); /* idempotent; a zeroed struct is fine */

#endif
