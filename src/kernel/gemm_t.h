/* SPDX-License-Identifier: MIT
 * Contract: activations times one panel of packed weights that have one scale per output and an
 * integer step per group (type/packed.h): tables of 2, 3 and 4 bits (t2, t3, t4) and two levels of
 * 4 bits (d4). Class EXACT: integer sums are exact and the float order is fixed, so all variants
 * agree bit for bit, and a token's result does not depend on how many tokens are multiplied
 * together. */
#ifndef BAL_KERNEL_GEMM_T_H
#define BAL_KERNEL_GEMM_T_H

#include "kernel/gemm_a8.h"
#include "kernel/gemm_w.h"

/* y[i][f] = sum over k of x[i][k] * w[f][k] for 1 <= m <= 64 tokens i and the 16 outputs f of one
 * panel. All 16 are written: a caller with fewer real outputs gives room for 16.
 *   a       units of token i at a + i * a_stride (in units), `units` of them, at least 1
 *   codes   of the panel, [units][bits][16]; scales of the panel, f16 [16]
 *   steps   of the panel: t: [groups][8] of two steps each; d4: [groups][16]
 *   zeros   t: the matrix's table, level[16] and the zero; d4: of the panel, [groups][16]
 *   unit u belongs to group u / units_per_group; units_per_group >= 1
 *   y       token i at y + i * y_stride (in floats); overwritten
 * Definition, for each unit ascending, acc starting at +0, v the level of the code or the code:
 *   dot = sum over 32 k of v * q_x - z * sum_x              exact in int32
 *   acc = fmaf((float)dot, (s * step) * scale_x, acc)       both products rounded to f32
 * Of a level and of a table's zero the low bits + 2 bits count. */
typedef void bal_gemm_t_fn(int m, size_t units, size_t units_per_group, const bal_a16 *a,
                           size_t a_stride, const uint32_t *codes, const uint16_t *scales,
                           const uint8_t *steps, const uint8_t *zeros, float *y, size_t y_stride);

/* The same of d4 and 8-bit activations: steps are integers, so groups meet in the integer sum. Unit
 * u has the activation scale of group u / units_per_scale. Segments end behind unit u when u + 1 is
 * a multiple of units_per_scale or of 1024, or is `units`. For each segment ascending, acc starting
 * at +0:
 *   dot = sum over its k of (q_w - z) * step * q_x          modulo 2^32; exact for bytes that
 *                                                           bal_pack_parts made
 *   acc = fmaf((float)dot, s * scale_x, acc)                (float)dot and s * scale_x rounded */
typedef void bal_gemm_a8d_fn(int m, size_t units, size_t units_per_group, size_t units_per_scale,
                             const bal_a8 *a, size_t a_stride, const uint32_t *codes,
                             const uint16_t *scales, const uint8_t *steps, const uint8_t *zeros,
                             float *y, size_t y_stride);

typedef bal_gemm_t_fn bal_gemm_t2_fn, bal_gemm_t3_fn, bal_gemm_t4_fn, bal_gemm_d4_fn;
typedef bal_gemm_a8d_fn bal_gemm_a8d4_fn;

#endif
