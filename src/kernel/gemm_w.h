/* SPDX-License-Identifier: MIT
 * Contract: 16-bit activations times one panel of packed weights (type/packed.h), for 2, 3, 4, 6
 * and 8 bits. Class EXACT: integer sums are exact and the float order is fixed, so all variants
 * agree bit for bit, and a token's result does not depend on how many tokens are multiplied
 * together. */
#ifndef BAL_KERNEL_GEMM_W_H
#define BAL_KERNEL_GEMM_W_H

#include "kernel/quant_a16.h"

enum { BAL_GEMM_W_MR = 64, BAL_GEMM_W_NR = 16 }; /* most tokens of a call; outputs of a panel */

/* y[i][f] = sum over k of x[i][k] * w[f][k] for 1 <= m <= 64 tokens i and the 16 outputs f of one
 * panel. All 16 are written: a caller with fewer real outputs gives room for 16.
 *   a       units of token i at a + i * a_stride (in units), `units` of them, at least 1
 *   codes   of the panel, [units][bits][16]; scales, zeros of the panel, [groups][16]
 *   unit u belongs to group u / units_per_group; units_per_group >= 1
 *   y       token i at y + i * y_stride (in floats); overwritten
 * Definition, for each unit ascending, acc starting at +0:
 *   dot = sum over 32 k of q_w * q_x - z * sum_x            exact in int32
 *   acc = fmaf((float)dot, s * scale_x, acc)                s * scale_x rounded to f32 */
typedef void bal_gemm_w_fn(int m, size_t units, size_t units_per_group, const bal_a16 *a,
                           size_t a_stride, const uint32_t *codes, const uint16_t *scales,
                           const uint8_t *zeros, float *y, size_t y_stride);

typedef bal_gemm_w_fn bal_gemm_w2_fn, bal_gemm_w3_fn, bal_gemm_w4_fn, bal_gemm_w6_fn,
    bal_gemm_w8_fn;

#endif
