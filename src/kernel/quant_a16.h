/* SPDX-License-Identifier: MIT
 * Contract: 16-bit activations. A row of floats becomes units of 32 integers with one scale each,
 * the right operand of gemm_w.h. Class EXACT: all variants agree bit for bit. */
#ifndef BAL_KERNEL_QUANT_A16_H
#define BAL_KERNEL_QUANT_A16_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* 32 consecutive k of one token: x ~ scale * q with q = 256 * hi + lo, |q| <= 32639, kept as two
 * byte planes because the dot products of low-bit weights are byte-wise. 32639 = 127 * 256 + 127 is
 * the largest q whose high byte stays in -127..127. */
typedef struct bal_a16 {
    float scale;
    int32_t sum; /* of q */
    int8_t lo[32], hi[32];
} bal_a16;
static_assert(sizeof(bal_a16) == 72, "units are read as raw bytes");

#define BAL_A16_MAX 32639

/* x[k] to out[ceil(k / 32)], the tail of the last unit filled with q = 0. Per unit:
 *   absmax = max |x|;  scale = absmax / 32639;  q = rint(x * (32639 / absmax)), ties to even.
 * absmax below 2^-100 gives scale 0 and q 0 (its reciprocal would overflow). A NaN or infinity in
 * the unit gives scale NaN and q 0, so that every result made from it is NaN. */
typedef void bal_quant_a16_fn(const float *x, size_t k, bal_a16 *out);

#endif
