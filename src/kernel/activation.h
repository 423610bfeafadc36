/* SPDX-License-Identifier: MIT
 * Contract: softmax and gated activations, all built on one exponential. Class EXACT: every variant
 * computes the operations of ref/exp_ref.h in that order. The payload of a NaN is unspecified. */
#ifndef BAL_KERNEL_ACTIVATION_H
#define BAL_KERNEL_ACTIVATION_H

#include <stddef.h>

/* exp here: error at most 2 ulp (subnormal results included), exp(-inf) = 0, results beyond the
 * float range are +inf, exp(NaN) is NaN, exp(0) = 1 exactly. */

/* In place x[i] = exp(x[i] - max), n >= 1. *max_out: the maximum, NaN elements not counted;
 * *sum_out: of the results. When all elements are -inf: zeros, max -inf, sum 0.
 * Definition: 16 lanes, element i in lane i % 16, ascending; lane maxima start at -inf and
 * sums at +0, absent elements leave a maximum alone and add +0; lanes then combine with
 * h = 8, 4, 2, 1 (l with l + h; b > a ? b : a for maxima). */
typedef void bal_softmax_exp_fn(float *x, size_t n, float *max_out, float *sum_out);

/* In place softmax: softmax_exp, then each result times 1 / sum; all zeros when the sum is 0. */
typedef void bal_softmax_row_fn(float *x, size_t n);

/* y[i] = g / (1 + exp(-g)) * u  (SiLU of the gate times the up projection). y may be g or u.
 * g = -inf gives NaN. */
typedef void bal_silu_mul_fn(float *y, const float *g, const float *u, size_t n);

/* y[i] = x / (1 + exp(-2 z)), z = sqrt(2 / pi) * (x + 0.044715 x^3): the tanh form of GELU
 * (Hendrycks and Gimpel 2016) with tanh written through exp. y may be x. x = -inf gives NaN. */
typedef void bal_gelu_tanh_fn(float *y, const float *x, size_t n);

#endif
