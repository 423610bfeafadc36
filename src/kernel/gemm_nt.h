/* SPDX-License-Identifier: MIT
 * Contract: float activations times rows of float weights as a checkpoint holds them. Class EXACT,
 * and the three weight types give the same bits when their values are equal. */
#ifndef BAL_KERNEL_GEMM_NT_H
#define BAL_KERNEL_GEMM_NT_H

#include <stddef.h>
#include <stdint.h>

/* y[i][j] = sum over c of x[i][c] * w[j][c], i < m tokens, j < n rows, c < k. Any m, n, k >= 1; the
 * kernel blocks for registers and L1, so a caller splits only for threads: up to 64 tokens
 * and 36 rows a call are a good size, since x is read once per 36 rows.
 *   x, y   f32, row strides ldx, ldy in elements
 *   w      little-endian elements of the named type, row stride ldw in elements, any alignment
 * Definition, per output, independent of m and n:
 *   s[0..15] = +0;  for c ascending to k rounded up to 16:  s[c % 16] = fmaf(x, w, s[c % 16]),
 * where x and w are +0 beyond k. Then for h = 8, 4, 2, 1: s[l] = s[l] + s[l + h] for l < h; y =
 * s[0]. */
typedef void bal_gemm_nt_fn(size_t m, size_t n, size_t k, const float *x, size_t ldx, const void *w,
                            size_t ldw, float *y, size_t ldy);

typedef bal_gemm_nt_fn bal_gemm_nt_f32_fn, bal_gemm_nt_bf16_fn, bal_gemm_nt_f16_fn;

#endif
