/* SPDX-License-Identifier: MIT
 * quant_a8 for NEON, read quant_a8_body.h: one pass over a group for its largest magnitude, one for
 * the bytes. */
#include "kernel/quant_a8.h"

#include <arm_neon.h>
#include <string.h>

static inline uint32x4_t magnitudes(const float *p)
{
    return vandq_u32(vreinterpretq_u32_f32(vld1q_f32(p)), vdupq_n_u32(0x7fffffff));
}

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

static inline int32x4_t rounded(const float *p, float inv)
{
    const float32x4_t x = vmulq_n_f32(vld1q_f32(p), inv);
    const float32x4_t top = vdupq_n_f32(BAL_A8_MAX), bottom = vdupq_n_f32(-BAL_A8_MAX);
    return vcvtnq_s32_f32(vminq_f32(vmaxq_f32(x, bottom), top));
}

static inline int32_t quant_unit(const float *p, float inv, int8_t *out)
{
    int32_t sum = 0;
    for (int i = 0; i < 4; i++, p += 8) {
        const int32x4_t a = rounded(p, inv);
        const int32x4_t b = rounded(p + 4, inv);
        const int16x8_t q = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
        vst1_s8(out + 8 * i, vmovn_s16(q));
        sum += vaddvq_s16(q);
    }
    return sum;
}

#define ISA(name) name##_neon
#include "kernel/body/quant_a8_body.h"
