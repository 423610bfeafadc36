/* SPDX-License-Identifier: MIT
 * Contract: the same product as gemm_nt for many tokens, from operands that were put in the order
 * of use before (packing, as in BLIS: van Zee and van de Geijn, ACM TOMS 41(3), 2015). Class EXACT.
 * gemm_nt sums 16 lanes of inputs per output and so carries 16 sums for each; here lane r of all
 * outputs is summed before lane r + 1, outputs side by side in the registers, which spares those
 * sums their way through memory. Packing pays from some dozens of tokens on. */
#ifndef BAL_KERNEL_GEMM_PANEL_H
#define BAL_KERNEL_GEMM_PANEL_H

#include <stddef.h>
#include <stdint.h>

enum {
    BAL_PANEL_GROUP = 12,  /* tokens that lie side by side, divisible by what registers hold */
    BAL_PANEL_TOKENS = 48, /* tokens of a block, whose sums stay in L2 */
    BAL_PANEL_OUTPUTS = 16,
};

/* Input c = 16 s + r is step s of lane r; inputs from k on are +0. */
static inline size_t bal_panel_steps(size_t k)
{
    return (k + 15) / 16;
}

/* Floats from a lane to the next of a block of tokens [16 lanes][4 groups][steps][12 tokens], and
 * of a panel of weights [16 lanes][steps][16 outputs]; the last 16 are a gap, lest all lanes share
 * the sets of a cache. */
static inline size_t bal_panel_x_lane(size_t k)
{
    return bal_panel_steps(k) * BAL_PANEL_TOKENS + 16;
}

static inline size_t bal_panel_w_lane(size_t k)
{
    return bal_panel_steps(k) * BAL_PANEL_OUTPUTS + 16;
}

/* Token 12 g + i of a block, 0 <= i < m <= 12: out[r * x_lane + s * 12 + i] = x[i][16 s + r], +0
 * where i >= m; k >= 1. out is the block + g * steps * 12; x f32, row stride ldx in elements. */
typedef void bal_pack_x_fn(size_t m, size_t k, const float *x, size_t ldx, float *out);

/* 1 <= n <= 16 rows of weights of the named little-endian type on any byte, row stride ldw in
 * elements: out[r * w_lane + s * 16 + j] = w[j][16 s + r], +0 where j >= n. */
typedef void bal_pack_w_fn(size_t n, size_t k, const void *w, size_t ldw, float *out);

/* y[i][j] as gemm_nt_f32 defines it, to the bit, for tokens i < m and the 16 outputs j of a panel.
 *   x   blocks of 48 tokens, the last one's groups up to token m - 1
 *   y   row stride ldy in elements; all 16 are written */
typedef void bal_gemm_panel_fn(size_t m, size_t k, const float *x, const float *w, float *y,
                               size_t ldy);

typedef bal_pack_w_fn bal_pack_f32_fn, bal_pack_bf16_fn, bal_pack_f16_fn;

#endif
