/* SPDX-License-Identifier: MIT
 * Definition of quant_a8. Nothing may be made faster here. */
#include "kernel/quant_a8.h"

#include <math.h>
#include <stdbool.h>

#include "base/half.h"

bal_quant_a8_fn bal_quant_a8_ref;
bal_quant_a8_fixed_fn bal_quant_a8_fixed_ref;

/* n inputs of one group; returns the running sum of q. */
static int32_t quant_group(const float *x, size_t n, int32_t sum, bal_a8 *out)
{
    uint32_t top = 0; /* bits of max |x|; those of NaN and infinity compare above all numbers */
    for (size_t i = 0; i < n; i++) {
        const uint32_t mag = bal_f32_bits(x[i]) & 0x7fffffffu;
        if (mag > top) top = mag;
    }
    const float absmax = bal_f32_from_bits(top);
    const bool finite = top < 0x7f800000u, zero = finite && absmax < 0x1p-100f;
    const float inv = BAL_A8_MAX / absmax;
    for (size_t u = 0; u * 32 < n; u++) {
        bal_a8 *a = &out[u];
        *a = (bal_a8){.scale = !finite ? NAN : zero ? 0.0f : absmax / BAL_A8_MAX};
        for (size_t i = 0; i < 32 && u * 32 + i < n && finite && !zero; i++) {
            a->q[i] = (int8_t)rintf(x[u * 32 + i] * inv);
            sum += a->q[i];
        }
        a->sum = sum;
    }
    return sum;
}

void bal_quant_a8_ref(const float *x, size_t k, size_t group, bal_a8 *out)
{
    const size_t size = group && group < k ? group : k;
    int32_t sum = 0;
    for (size_t at = 0; at < k; at += size)
        sum = quant_group(x + at, k - at < size ? k - at : size, sum, out + at / 32);
}

void bal_quant_a8_fixed_ref(const float *x, size_t k, float scale, bal_a8 *out)
{
    bool finite = true;
    for (size_t i = 0; i < k; i++)
        finite = finite && (bal_f32_bits(x[i]) & 0x7fffffffu) < 0x7f800000u;
    const bool zero = scale < 0x1p-100f;
    const float inv = 1.0f / scale;
    int32_t sum = 0;
    for (size_t u = 0; u * 32 < k; u++) {
        bal_a8 *a = &out[u];
        *a = (bal_a8){.scale = !finite ? NAN : zero ? 0.0f : scale};
        for (size_t i = 0; i < 32 && u * 32 + i < k && finite && !zero; i++) {
            a->q[i] = (int8_t)rintf(fminf(fmaxf(x[u * 32 + i] * inv, -BAL_A8_MAX), BAL_A8_MAX));
            sum += a->q[i];
        }
        a->sum = sum;
    }
}
