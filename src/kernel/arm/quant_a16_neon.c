/* SPDX-License-Identifier: MIT
 * quant_a16 for NEON: eight registers of 4 floats are one unit. */
#include "kernel/quant_a16.h"

#include <arm_neon.h>
#include <math.h>
#include <string.h>

bal_quant_a16_fn bal_quant_a16_neon;

/* Bits of max |x|: magnitudes compare as integers, NaN above infinity above all numbers. */
static inline uint32_t top_bits(const float32x4_t x[8])
{
    const uint32x4_t mask = vdupq_n_u32(0x7fffffff);
    uint32x4_t m = vdupq_n_u32(0);
    for (int i = 0; i < 8; i++) m = vmaxq_u32(m, vandq_u32(vreinterpretq_u32_f32(x[i]), mask));
    return vmaxvq_u32(m);
}

static inline int16x8_t quant8(float32x4_t a, float32x4_t b, float inv)
{
    const int32x4_t qa = vcvtnq_s32_f32(vmulq_n_f32(a, inv));
    const int32x4_t qb = vcvtnq_s32_f32(vmulq_n_f32(b, inv));
    return vcombine_s16(vmovn_s32(qa), vmovn_s32(qb));
}

static inline void quant_unit(const float *p, bal_a16 *out)
{
    float32x4_t x[8];
    for (int i = 0; i < 8; i++) x[i] = vld1q_f32(p + 4 * i);
    const uint32_t top = top_bits(x);
    float absmax;
    memcpy(&absmax, &top, sizeof absmax);
    if (top >= 0x7f800000u || absmax < 0x1p-100f) {
        *out = (bal_a16){.scale = top >= 0x7f800000u ? NAN : 0.0f};
        return;
    }
    const float inv = BAL_A16_MAX / absmax;
    int32x4_t sum = vdupq_n_s32(0);
    for (int i = 0; i < 4; i++) {
        const int16x8_t q = quant8(x[2 * i], x[2 * i + 1], inv);
        const int16x8_t hi = vshrq_n_s16(vaddq_s16(q, vdupq_n_s16(128)), 8);
        vst1_s8(out->hi + 8 * i, vmovn_s16(hi));
        vst1_s8(out->lo + 8 * i, vmovn_s16(vsubq_s16(q, vshlq_n_s16(hi, 8))));
        sum = vpadalq_s16(sum, q);
    }
    out->scale = absmax / BAL_A16_MAX;
    out->sum = vaddvq_s32(sum);
}

void bal_quant_a16_neon(const float *x, size_t k, bal_a16 *out)
{
    for (; k >= 32; k -= 32, x += 32, out++) quant_unit(x, out);
    if (k) {
        float unit[32] = {0};
        memcpy(unit, x, k * sizeof *x);
        quant_unit(unit, out);
    }
}
