/* SPDX-License-Identifier: MIT
 * Staged activations: the input of every linear on the device, the same for all weights. m rows of
 * k inputs are T = ceil(k / 128) tiles of P panels of 8 rows (bal_stage_rows), the columns of
 * one product of tensor cores, so that a warp's load of 16 bytes a lane is one run of 512 bytes:
 *   halves [T][P][4 units][8 rows][32]
 *          f16 of x / scale; within a unit of 32 inputs the order of a lane's B fragments of
 *          mma.m16n8k16 (bal_stage_at); zeros beyond k
 *   info   [T][P][16][8 rows]
 *          f32: [0] the scale; sums of the f16 values, as rounded: [1] over even, [2] over odd
 *          groups of 8 inputs of the tile; [4 + 2 u], [5 + 2 u] the same within unit u of 32
 *          inputs; others 0
 * The scale belongs to a row and tile: the power of two with max |x| / scale in [2^14, 2^15), so
 * that f16 neither overflows nor loses what is 2^-28 of the largest. No reduction over a row is
 * needed to stage it. Rows beyond m are not written.
 *
 * 8-bit activations (kernel/quant_a8.h) lie otherwise, in the same room:
 *   bytes  [T][P][2 pairs of units][8 rows][64]
 *          i8 in the order of a lane's B fragments of mma.m16n8k32 for weights as bytes
 *          (cuda/bytes.cuh, bal_stage_byte_at); zeros beyond k
 *   info   [T][P][8][8 rows]
 *          f32 [0 .. 3] the scales of the tile's units of 32 inputs, i32 [4 .. 7] the sums of
 *          their bytes */
#ifndef BAL_CUDA_STAGE_H
#define BAL_CUDA_STAGE_H

#include <stddef.h>

#include "type/act.h"

enum {
    BAL_STAGE_PANEL = 8,    /* rows */
    BAL_STAGE_INFO = 16,    /* words per row and tile */
    BAL_STAGE_BYTE_INFO = 8 /* of 8-bit activations */
};

static inline size_t bal_stage_tiles(size_t k)
{
    return (k + 127) / 128;
}

/* m rows as whole panels, many of them as whole blocks of the linear kernel for many. */
static inline size_t bal_stage_rows(size_t m)
{
    const size_t whole = m > 16 ? 32 : BAL_STAGE_PANEL;
    return (m + whole - 1) / whole * whole;
}

/* Bytes of a staged buffer; the info begins behind the halves. 16-byte aligned. */
static inline size_t bal_stage_info_offset(size_t m, size_t k)
{
    return bal_stage_tiles(k) * bal_stage_rows(m) * 256;
}

static inline size_t bal_stage_bytes(size_t m, size_t k)
{
    return bal_stage_tiles(k) * bal_stage_rows(m) * (256 + 4 * BAL_STAGE_INFO);
}

static inline size_t bal_stage_byte_info_offset(size_t m, size_t k)
{
    return bal_stage_tiles(k) * bal_stage_rows(m) * 128;
}

/* Place of input c < 128 of a tile among the halves of its panel, for row `row` < 8 of the panel.
 */
static inline int bal_stage_at(int row, int c)
{
    return c / 32 * 256 + row * 32 + c % 8 / 2 * 8 + c / 8 % 4 * 2 + c % 2;
}

/* Its place among the bytes: of the four runs of 8 inputs in a unit, 3 and 0 share a word, and so
 * do 1 and 2. */
static inline int bal_stage_byte_at(int row, int c)
{
    const int run = c / 8 % 4, word = (run + 1) / 2 % 2, byte = run % 2 ? 0 : 1;
    return c / 64 * 512 + row * 64 + c % 8 / 2 * 16 + c / 32 % 2 * 8 + word * 4 + c % 2 * 2 + byte;
}

#endif
