/* SPDX-License-Identifier: MIT
 * quant_a8 and quant_a8_fixed; included by quant_a8_<isa>.c, which defines ISA() and
 *   uint32_t top_bits(const float *x, size_t n)                bits of max |x|: magnitudes compare
 *                                                              as integers, NaN above infinity
 *                                                              above all numbers
 *   int32_t quant_unit(const float *p, float inv, int8_t *out) 32 floats to bytes in order,
 *                                                              saturating; returns their sum
 * Saturation is in both forms: where the scale was found in the group, nothing is beyond it. */
#include "kernel/quant_a8.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

bal_quant_a8_fn ISA(bal_quant_a8);
bal_quant_a8_fixed_fn ISA(bal_quant_a8_fixed);

static void no_numbers(float scale, size_t n_units, int32_t sum, bal_a8 *out)
{
    for (size_t u = 0; u < n_units; u++) out[u] = (bal_a8){.scale = scale, .sum = sum};
}

/* n floats at one scale, inv its inverse; returns the running sum. */
static int32_t quant_units(const float *x, size_t n, float scale, float inv, int32_t sum,
                           bal_a8 *out)
{
    for (; n; out++) {
        float unit[32] = {0};
        const size_t count = n < 32 ? n : 32;
        if (count < 32) memcpy(unit, x, count * sizeof *x);
        sum += quant_unit(count < 32 ? unit : x, inv, out->q);
        out->scale = scale;
        out->sum = sum;
        n -= count, x += count;
    }
    return sum;
}

static int32_t quant_group(const float *x, size_t n, int32_t sum, bal_a8 *out)
{
    const uint32_t top = top_bits(x, n);
    float absmax;
    memcpy(&absmax, &top, sizeof absmax);
    if (top >= 0x7f800000u || absmax < 0x1p-100f) {
        no_numbers(top >= 0x7f800000u ? NAN : 0.0f, (n + 31) / 32, sum, out);
        return sum;
    }
    return quant_units(x, n, absmax / BAL_A8_MAX, BAL_A8_MAX / absmax, sum, out);
}

void ISA(bal_quant_a8)(const float *x, size_t k, size_t group, bal_a8 *out)
{
    const size_t size = group && group < k ? group : k;
    int32_t sum = 0;
    for (size_t at = 0; at < k; at += size)
        sum = quant_group(x + at, k - at < size ? k - at : size, sum, out + at / 32);
}

void ISA(bal_quant_a8_fixed)(const float *x, size_t k, float scale, bal_a8 *out)
{
    const bool finite = top_bits(x, k) < 0x7f800000u;
    if (!finite || scale < 0x1p-100f)
        no_numbers(finite ? 0.0f : NAN, (k + 31) / 32, 0, out);
    else
        quant_units(x, k, scale, 1.0f / scale, 0, out);
}
