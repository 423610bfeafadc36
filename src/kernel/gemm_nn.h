/* SPDX-License-Identifier: MIT
 * Contract: f32 matrix product with both operands row-major: attention weights times values, and
 * activation gradients dX = dY W. Class EXACT. */
#ifndef BAL_KERNEL_GEMM_NN_H
#define BAL_KERNEL_GEMM_NN_H

#include <stdbool.h>
#include <stddef.h>

/* y[i][d] (+)= sum over t of p[i][t] * v[t][d], i < m, t < n_t, d < n_d; any m, n_d >= 1, n_t >= 0.
 * Row strides ldp, ldv, ldy in elements; y overlaps neither operand. Definition, per output:
 *   acc = accumulate ? y : +0;  for t ascending: acc = fmaf(p, v, acc);  y = acc.
 * So splitting t over several calls with `accumulate` set gives the bits of one call. */
typedef void bal_gemm_nn_f32_fn(size_t m, size_t n_t, size_t n_d, const float *p, size_t ldp,
                                const float *v, size_t ldv, float *y, size_t ldy, bool accumulate);

#endif
