/* SPDX-License-Identifier: MIT
 * Tiles back to plain rows of 16-bit floats, for a dense matrix product of another library and for
 * looking at what is on the device. */
#ifndef BAL_CUDA_EXPAND_H
#define BAL_CUDA_EXPAND_H

#include "cuda/linear.h"

/* Columns of the result: k to the next multiple of 128; those beyond k are 0. */
static inline size_t bal_expand_ld(const bal_tiles *t)
{
    return t->k_tiles * BAL_TILE_COLS;
}

/* Row blocks first .. first + n - 1 of a weight into out, 16-byte aligned: row r of the parts at
 * out + r * bal_expand_ld elements, so that blocks can be expanded a few at a time into a buffer
 * whose start the caller has shifted. bf16, or f16 (infinite where a weight is beyond 65504).
 * Values are scale * (code - zero), rounded once from f32. Fails only as a launch does. */
cudaError_t bal_expand(const bal_linear_weight *w, size_t first, size_t n, bool bf16, void *out,
                       bool early, cudaStream_t s);

#endif
