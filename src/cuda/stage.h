/* SPDX-License-Identifier: MIT
 * Staged activations: the input of every linear on the device, the same for all weights. m rows of
 * k inputs are T = ceil(k / 128) tiles:
 *   halves [T][m][128]  f16 of x / scale, in the order of a lane's B fragments of mma.m16n8k16:
 *                       input c of the tile at bal_stage_at(c); zeros beyond k
 *   info   [T][m][16]   f32: [0] the scale; sums of the f16 values, as rounded: [1] over even, [2]
 * over odd groups of 8 inputs of the tile; [4 + 2 u], [5 + 2 u] the same within unit u of 32
 * inputs; others 0 The scale belongs to a row and tile: the power of two with max |x| / scale in
 * [2^14, 2^15), so that f16 neither overflows nor loses what is 2^-28 of the largest. No reduction
 * over a row is needed to stage it.
 *
 * 8-bit activations (kernel/quant_a8.h) lie otherwise, in the same room:
 *   bytes  [T][m][128]  i8, input c of the tile at bal_stage_byte_at(c): a lane's B fragments of
 *                       mma.m16n8k32 for weights as bytes (cuda/bytes.cuh); zeros beyond k
 *   info   [T][m][8]    f32 [0 .. 3] the scales of the tile's units of 32 inputs, i32 [4 .. 7] the
 *                       sums of their bytes */
#ifndef BAL_CUDA_STAGE_H
#define BAL_CUDA_STAGE_H

#include <stddef.h>

#include "type/act.h"

enum { BAL_STAGE_INFO = 16, BAL_STAGE_BYTE_INFO = 8 }; /* words per row and tile */

static inline size_t bal_stage_tiles(size_t k)
{
    return (k + 127) / 128;
}

/* Bytes of a staged buffer; the info begins behind the halves. 16-byte aligned. */
static inline size_t bal_stage_info_offset(size_t m, size_t k)
{
    return bal_stage_tiles(k) * m * 256;
}

static inline size_t bal_stage_bytes(size_t m, size_t k)
{
    return bal_stage_tiles(k) * m * (256 + 4 * BAL_STAGE_INFO);
}

static inline size_t bal_stage_byte_info_offset(size_t m, size_t k)
{
    return bal_stage_tiles(k) * m * 128;
}

/* Place of input c < 128 of a tile among its halves. */
static inline int bal_stage_at(int c)
{
    return c / 32 * 32 + c % 8 / 2 * 8 + c / 8 % 4 * 2 + c % 2;
}

/* Its place among the bytes: of the four runs of 8 inputs in a unit, 3 and 0 share a word, and so
 * do 1 and 2. */
static inline int bal_stage_byte_at(int c)
{
    const int run = c / 8 % 4, word = (run + 1) / 2 % 2, byte = run % 2 ? 0 : 1;
    return c / 64 * 64 + c % 8 / 2 * 16 + c / 32 % 2 * 8 + word * 4 + c % 2 * 2 + byte;
}

#endif
