/* SPDX-License-Identifier: MIT
 * quant_a8 for NEON: one pass over a group for its largest magnitude, one for the bytes. */
#include "kernel/quant_a8.h"

#include <arm_neon.h>
#include <math.h>
#include <string.h>

bal_quant_a8_fn bal_quant_a8_neon;

static inline uint32x4_t magnitudes(const float *p)
{
    return vandq_u32(vreinterpretq_u32_f32(vld1q_f32(p)), vdupq_n_u32(0x7fffffff));
}

/* Bits of max |x|: magnitudes compare as integers, NaN above infinity above all numbers. */
static inline uint32_t top_bits(const float *x, size_t n)
{
    uint32x4_t m[2] = {vdupq_n_u32(0), vdupq_n_u32(0)};
    float tail[8] = {0};
    for (; n >= 8; n -= 8, x += 8)
        for (int h = 0; h < 2; h++) m[h] = vmaxq_u32(m[h], magnitudes(x + 4 * h));
    memcpy(tail, x, n * sizeof *x);
    for (int h = 0; h < 2; h++) m[h] = vmaxq_u32(m[h], magnitudes(tail + 4 * h));
    return vmaxvq_u32(vmaxq_u32(m[0], m[1]));
}

/* 32 floats to bytes in order; returns the sum of them. */
static inline int32_t quant_unit(const float *p, float inv, int8_t *out)
{
    int32_t sum = 0;
    for (int i = 0; i < 4; i++, p += 8) {
        const int32x4_t a = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(p), inv));
        const int32x4_t b = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(p + 4), inv));
        const int16x8_t q = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
        vst1_s8(out + 8 * i, vmovn_s16(q));
        sum += vaddvq_s16(q);
    }
    return sum;
}

static void no_numbers(float scale, size_t n_units, int32_t sum, bal_a8 *out)
{
    for (size_t u = 0; u < n_units; u++) out[u] = (bal_a8){.scale = scale, .sum = sum};
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
    const float scale = absmax / BAL_A8_MAX, inv = BAL_A8_MAX / absmax;
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

void bal_quant_a8_neon(const float *x, size_t k, size_t group, bal_a8 *out)
{
    const size_t size = group && group < k ? group : k;
    int32_t sum = 0;
    for (size_t at = 0; at < k; at += size)
        sum = quant_group(x + at, k - at < size ? k - at : size, sum, out + at / 32);
}
