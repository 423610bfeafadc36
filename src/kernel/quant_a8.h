/* SPDX-License-Identifier: MIT
 * Contract: 8-bit activations. A row of floats becomes signed bytes with one scale per group of
 * inputs, found in them or given, the right operand of gemm_a8.h. Class EXACT: all variants agree
 * bit for bit. */
#ifndef BAL_KERNEL_QUANT_A8_H
#define BAL_KERNEL_QUANT_A8_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* 32 consecutive k of one token: x ~ scale * q, |q| <= 127. */
typedef struct bal_a8 {
    float scale; /* of the group that this unit is part of */
    int32_t sum; /* of q in this unit and all before it, so that any run's is a difference */
    int8_t q[32];
} bal_a8;
static_assert(sizeof(bal_a8) == 40, "units are read as raw bytes");

#define BAL_A8_MAX 127

/* x[k] to out[ceil(k / 32)], the tail of the last unit filled with q = 0. group: inputs that share
 * a scale, a multiple of 32; 0, or k and more: the whole row. Per group:
 *   absmax = max |x|;  scale = absmax / 127;  q = rint(x * (127 / absmax)), ties to even.
 * absmax below 2^-100 gives scale 0 and q 0 (its reciprocal would overflow). A NaN or infinity in
 * the group gives scale NaN and q 0, so that every result made from it is NaN. */
typedef void bal_quant_a8_fn(const float *x, size_t k, size_t group, bal_a8 *out);

/* The same with a scale that was fixed before, one for the row, and saturation:
 *   q = rint(min(max(x * (1 / scale), -127), 127)), ties to even.
 * scale is a number, not negative; below 2^-100 it gives scale 0 and q 0. A NaN or infinity in the
 * row gives scale NaN and q 0 throughout. */
typedef void bal_quant_a8_fixed_fn(const float *x, size_t k, float scale, bal_a8 *out);

#endif
