/* SPDX-License-Identifier: MIT
 * Contract: the products of gemm_w.h, gemm_t.h and gemm_a8.h for many tokens, from activations that
 * were put in the order of use before. Twelve tokens and two panels of weights are multiplied at
 * once, so that what is loaded serves many products; the codes of both panels are taken out once
 * for all tokens of a call. Class EXACT: the bits are those of the op with one token. */
#ifndef BAL_KERNEL_GEMM_TILE_H
#define BAL_KERNEL_GEMM_TILE_H

#include "kernel/gemm_a8.h"
#include "kernel/gemm_t.h"
#include "kernel/gemm_w.h"

enum {
    BAL_TILE_TOKENS = 12, /* that lie side by side */
    BAL_TILE_PANELS = 2,  /* of one call */
    BAL_TILE_CHUNK = 240  /* most tokens of a call */
};

/* What a tile has beside its bytes, for each unit. Sixteen lanes may be read from the sums on. */
typedef struct bal_tile_unit {
    int32_t sum[BAL_TILE_TOKENS];
    float scale[BAL_TILE_TOKENS];
} bal_tile_unit;

enum {
    BAL_TILE_UNIT_A8 = 32 * BAL_TILE_TOKENS, /* bytes of the activations of one unit */
    BAL_TILE_UNIT_A16 = 64 * BAL_TILE_TOKENS
};

/* Bytes of a tile of 12 tokens: a8 bytes [units][8 quads][12 tokens][4], or 16-bit integers
 * [units][16 pairs][12 tokens][2]; then bal_tile_unit [units]. A tile starts at a multiple of 4
 * bytes. */
static inline size_t bal_tile_bytes_a8(size_t units)
{
    return units * (BAL_TILE_UNIT_A8 + sizeof(bal_tile_unit));
}

static inline size_t bal_tile_bytes_a16(size_t units)
{
    return units * (BAL_TILE_UNIT_A16 + sizeof(bal_tile_unit));
}

/* Rows [n][units] of the first n <= 12 tokens of a tile to their places; those of the other tokens
 * are left as they are, and may hold anything. */
void bal_tile_pack_a8(uint8_t *tile, size_t units, int n, const bal_a8 *rows);
void bal_tile_pack_a16(uint8_t *tile, size_t units, int n, const bal_a16 *rows);

/* y[i][f] for tokens i < m and the 16 or 32 outputs f of `panels` panels that follow each other in
 * the packed bytes; all of them are written.
 *   m        1 to BAL_TILE_CHUNK; the tiles of ceil(m / 12) follow each other
 *   codes, scales, steps, zeros   of the first panel, as bal_packed_codes and its like give them;
 *            with a table, zeros is the matrix's
 *   the rest as in gemm_a8.h, gemm_w.h and gemm_t.h */
typedef void bal_tile_a8_fn(size_t m, int panels, size_t units, size_t units_per_group,
                            size_t units_per_scale, const uint8_t *tiles, const uint32_t *codes,
                            const uint16_t *scales, const uint8_t *zeros, float *y,
                            size_t y_stride);
typedef void bal_tile_a16_fn(size_t m, int panels, size_t units, size_t units_per_group,
                             const uint8_t *tiles, const uint32_t *codes, const uint16_t *scales,
                             const uint8_t *steps, const uint8_t *zeros, float *y, size_t y_stride);

typedef bal_tile_a8_fn bal_tile_a8w2_fn, bal_tile_a8w3_fn, bal_tile_a8w4_fn, bal_tile_a8w6_fn,
    bal_tile_a8w8_fn;
typedef bal_tile_a16_fn bal_tile_w2_fn, bal_tile_w3_fn, bal_tile_w4_fn, bal_tile_w6_fn,
    bal_tile_w8_fn, bal_tile_t2_fn, bal_tile_t3_fn, bal_tile_t4_fn, bal_tile_d4_fn;

#endif
