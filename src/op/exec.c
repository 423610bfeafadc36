/* SPDX-License-Identifier: MIT */
#include "op/exec.h"

#include "base/size.h"
#include "op/attention.h"
#include "op/scratch.h"
#include "type/packed.h"

#include <stdlib.h>

static size_t lane_bytes(size_t k)
{
    const size_t tile = bal_round_up(BAL_OUT_TILE * k * sizeof(float), 64);
    const size_t panel = 16 * bal_panel_w_lane(k) * sizeof(float);
    return bal_max(bal_max(tile, panel), bal_max(BAL_GRAD_SCRATCH, BAL_ATTENTION_SCRATCH));
}

static size_t shared_bytes(size_t k)
{
    const size_t integers = BAL_ROW_CHUNK * bal_ceil_div(k, BAL_UNIT) * sizeof(bal_a16);
    const size_t blocks = BAL_FLOAT_CHUNK / BAL_PANEL_TOKENS;
    return bal_round_up(bal_max(integers, blocks * 16 * bal_panel_x_lane(k) * sizeof(float)), 64);
}

size_t bal_exec_bytes(int threads, int max_k)
{
    return shared_bytes((size_t)max_k) + (size_t)threads * lane_bytes((size_t)max_k);
}

bal_status bal_exec_create(bal_exec *e, bal_pool *pool, const bal_kernels *kernels, int max_k,
                           bal_error *err)
{
    *e = (bal_exec){.pool = pool, .kernels = kernels};
    const size_t lanes = (size_t)bal_pool_size(pool), shared = shared_bytes((size_t)max_k);
    e->lane_bytes = lane_bytes((size_t)max_k);
    e->shared = aligned_alloc(64, shared);
    e->lanes = aligned_alloc(64, lanes * e->lane_bytes);
    if (e->shared && e->lanes) return BAL_OK;
    bal_exec_destroy(e);
    return bal_nomem(err, shared + lanes * e->lane_bytes, "scratch of the ops");
}

void bal_exec_destroy(bal_exec *e)
{
    free(e->shared);
    free(e->lanes);
    *e = (bal_exec){0};
}
