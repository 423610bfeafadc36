/* SPDX-License-Identifier: MIT
 * What every op needs to run: threads, the chosen kernels, and scratch memory sliced by lane.
 * An exec belongs to one thread at a time. Ops cannot fail: shapes are checked when a model is
 * bound and scratch is sized by bal_exec_create for the largest linear of the model. */
#ifndef BAL_OP_EXEC_H
#define BAL_OP_EXEC_H

#include "base/pool.h"
#include "kernel/table.h"
#include "op/shapes.h"

enum {
    BAL_ROW_CHUNK = 64, /* rows of activations quantized or converted at a time */
    BAL_OUT_TILE = 36,  /* output features per work item of a float linear: what gemm_nt likes */
    BAL_FLOAT_CHUNK = 5 * BAL_PANEL_TOKENS, /* rows that a float linear packs at a time */
};

typedef struct bal_exec {
    bal_pool *pool;
    const bal_kernels *kernels;
    uint8_t *shared; /* activations of one chunk, read by all lanes */
    uint8_t *lanes;  /* bal_pool_size slices of lane_bytes */
    size_t lane_bytes;
    const bal_shapes *shapes; /* borrowed; NULL, as bal_exec_create leaves it: rules alone */
} bal_exec;

/* max_k: widest linear input that will be asked for. */
bal_status bal_exec_create(bal_exec *e, bal_pool *pool, const bal_kernels *kernels, int max_k,
                           bal_error *err);
/* What that allocates, for `threads` lanes. */
size_t bal_exec_bytes(int threads, int max_k);
void bal_exec_destroy(bal_exec *e);

static inline void *bal_exec_lane(const bal_exec *e, int lane)
{
    return e->lanes + (size_t)lane * e->lane_bytes;
}

#endif
