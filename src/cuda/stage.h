/* SPDX-License-Identifier: MIT
 * Staged activations: the input of every linear on the device, the same for all weights. m rows of
 * k inputs are T = ceil(k / 128) tiles:
 *   halves [T][m][128]  f16 of x / scale, in the order of a lane's B fragments of mma.m16n8k16:
 *                       input c of the tile at bal_stage_at(c); zeros beyond k
 *   info   [T][m][16]   f32: [0] the scale; sums of the f16 values, as rounded: [1] over even, [2]
 * over odd groups of 8 inputs of the tile; [4 + 2 u], [5 + 2 u] the same within unit u of 32
 * inputs; others 0 The scale belongs to a row and tile: the power of two with max |x| / scale in
 * [2^14, 2^15), so that f16 neither overflows nor loses what is 2^-28 of the largest; or the scale
 * of 8-bit activations, whose values are then the integers themselves. No reduction over a row is
 * needed to stage it. */
#ifndef BAL_CUDA_STAGE_H
#define BAL_CUDA_STAGE_H

#include <stddef.h>

#include "type/act.h"

enum { BAL_STAGE_INFO = 16 }; /* floats per row and tile */

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

/* Place of input c < 128 of a tile among its halves. */
static inline int bal_stage_at(int c)
{
    return c / 32 * 32 + c % 8 / 2 * 8 + c / 8 % 4 * 2 + c % 2;
}

#endif
