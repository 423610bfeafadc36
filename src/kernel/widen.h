/* SPDX-License-Identifier: MIT
 * Contract: cached keys and values back to f32. Class EXACT. */
#ifndef BAL_KERNEL_WIDEN_H
#define BAL_KERNEL_WIDEN_H

#include <stddef.h>
#include <stdint.h>

/* y[i] = x[i], i < n, any n, any alignment; a NaN stays a NaN, its payload is unspecified. */
typedef void bal_widen_f16_fn(float *y, const uint16_t *x, size_t n);

/* y[i] = (float)x[i] * scale, rounded once. */
typedef void bal_widen_i8_fn(float *y, const int8_t *x, float scale, size_t n);

#endif
