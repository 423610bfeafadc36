/* SPDX-License-Identifier: MIT
 * widen_f16 and widen_i8 for NEON: eight elements a step, the rest one by one. */
#include "kernel/widen.h"

#include <arm_neon.h>
#include <string.h>

#include "base/half.h"

bal_widen_f16_fn bal_widen_f16_neon;
bal_widen_i8_fn bal_widen_i8_neon;

void bal_widen_f16_neon(float *y, const uint16_t *x, size_t n)
{
    const uint8_t *bytes = (const void *)x;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const float16x8_t h = vreinterpretq_f16_u8(vld1q_u8(bytes + 2 * i));
        vst1q_f32(y + i, vcvt_f32_f16(vget_low_f16(h)));
        vst1q_f32(y + i + 4, vcvt_high_f32_f16(h));
    }
    for (; i < n; i++) {
        uint16_t h;
        memcpy(&h, bytes + 2 * i, sizeof h);
        y[i] = bal_f16_to_f32(h);
    }
}

void bal_widen_i8_neon(float *y, const int8_t *x, float scale, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const int16x8_t q = vmovl_s8(vld1_s8(x + i));
        const float32x4_t a = vcvtq_f32_s32(vmovl_s16(vget_low_s16(q)));
        const float32x4_t b = vcvtq_f32_s32(vmovl_high_s16(q));
        vst1q_f32(y + i, vmulq_n_f32(a, scale));
        vst1q_f32(y + i + 4, vmulq_n_f32(b, scale));
    }
    for (; i < n; i++) y[i] = (float)x[i] * scale;
}
