/* SPDX-License-Identifier: MIT
 * Sixteen float lanes on NEON: four registers; the same names as x86/lanes_avx2.h, for the files of
 * body/. Everything is static: nothing compiled here may reach another object. */
#ifndef BAL_KERNEL_LANES_NEON_H
#define BAL_KERNEL_LANES_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* A hint: p need not be an address that may be read. */
#define PREFETCH_L2(p) __builtin_prefetch(p, 0, 2)

typedef struct v16 {
    float32x4_t r[4]; /* lanes 0..3, 4..7 and so on */
} v16;

/* One register: 16 lanes are PARTS of them with VEC lanes each. */
typedef float32x4_t vec;
enum { VEC = 4, PARTS = 4 };

ALWAYS_INLINE vec vec_zero(void)
{
    return vdupq_n_f32(0.0f);
}

ALWAYS_INLINE vec vec_load(const float *p)
{
    return vld1q_f32(p);
}

ALWAYS_INLINE void vec_store(float *p, vec x)
{
    vst1q_f32(p, x);
}

/* *p in every lane */
ALWAYS_INLINE vec vec_splat(const float *p)
{
    return vld1q_dup_f32(p);
}

ALWAYS_INLINE vec vec_add(vec x, vec y)
{
    return vaddq_f32(x, y);
}

ALWAYS_INLINE vec vec_fma(vec x, vec y, vec z)
{
    return vfmaq_f32(z, x, y);
}

/* x > y ? x : y, so y where either is NaN: FMAX would return the NaN. */
ALWAYS_INLINE float32x4_t max4(float32x4_t x, float32x4_t y)
{
    return vbslq_f32(vcgtq_f32(x, y), x, y);
}

/* x < y ? x : y */
ALWAYS_INLINE float32x4_t min4(float32x4_t x, float32x4_t y)
{
    return vbslq_f32(vcltq_f32(x, y), x, y);
}

#define V16_UNARY(name, op)                                                                        \
    ALWAYS_INLINE v16 name(v16 x)                                                                  \
    {                                                                                              \
        return (v16){{op(x.r[0]), op(x.r[1]), op(x.r[2]), op(x.r[3])}};                            \
    }
#define V16_BINARY(name, op)                                                                       \
    ALWAYS_INLINE v16 name(v16 x, v16 y)                                                           \
    {                                                                                              \
        return (v16){                                                                              \
            {op(x.r[0], y.r[0]), op(x.r[1], y.r[1]), op(x.r[2], y.r[2]), op(x.r[3], y.r[3])}};     \
    }

V16_BINARY(v16_add, vaddq_f32)
V16_BINARY(v16_sub, vsubq_f32)
V16_BINARY(v16_mul, vmulq_f32)
V16_BINARY(v16_div, vdivq_f32)
V16_BINARY(v16_max, max4)
V16_BINARY(v16_min, min4)
V16_UNARY(v16_round, vrndnq_f32)
V16_UNARY(v16_negate, vnegq_f32)

ALWAYS_INLINE v16 v16_set1(float x)
{
    const float32x4_t v = vdupq_n_f32(x);
    return (v16){{v, v, v, v}};
}

ALWAYS_INLINE v16 v16_load(const float *p)
{
    return (v16){{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}

ALWAYS_INLINE void v16_store(float *p, v16 x)
{
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.r[i]);
}

/* x * y + z, rounded once */
ALWAYS_INLINE v16 v16_fma(v16 x, v16 y, v16 z)
{
    return (v16){{vfmaq_f32(z.r[0], x.r[0], y.r[0]), vfmaq_f32(z.r[1], x.r[1], y.r[1]),
                  vfmaq_f32(z.r[2], x.r[2], y.r[2]), vfmaq_f32(z.r[3], x.r[3], y.r[3])}};
}

/* Sixteen 16-bit elements on any byte. */
ALWAYS_INLINE uint16x8x2_t load_halves(const void *p)
{
    const uint8_t *b = p;
    return (uint16x8x2_t){
        {vreinterpretq_u16_u8(vld1q_u8(b)), vreinterpretq_u16_u8(vld1q_u8(b + 16))}};
}

ALWAYS_INLINE v16 v16_from_bf16(const void *p)
{
    const uint16x8x2_t h = load_halves(p);
    v16 y;
    for (int i = 0; i < 2; i++) {
        y.r[2 * i] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h.val[i]), 16));
        y.r[2 * i + 1] = vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(h.val[i]), 16));
    }
    return y;
}

ALWAYS_INLINE v16 v16_from_f16(const void *p)
{
    const uint16x8x2_t h = load_halves(p);
    v16 y;
    for (int i = 0; i < 2; i++) {
        y.r[2 * i] = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(h.val[i])));
        y.r[2 * i + 1] = vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(h.val[i])));
    }
    return y;
}

ALWAYS_INLINE float32x4_t ldexp4(float32x4_t x, float32x4_t n)
{
    const int32x4_t e = vcvtnq_s32_f32(n), bias = vdupq_n_s32(127);
    const int32x4_t half = vshrq_n_s32(e, 1), rest = vsubq_s32(e, half);
    const int32x4_t f = vshlq_n_s32(vaddq_s32(half, bias), 23);
    const int32x4_t g = vshlq_n_s32(vaddq_s32(rest, bias), 23);
    return vmulq_f32(vmulq_f32(x, vreinterpretq_f32_s32(f)), vreinterpretq_f32_s32(g));
}

/* x * 2^n for whole n in -252..254, applied as two factors (ref/exp_ref.h) */
V16_BINARY(v16_ldexp, ldexp4)

/* The tree h = 8, 4 with l + (l + h). */
ALWAYS_INLINE float32x4_t sum_to_4(v16 x)
{
    return vaddq_f32(vaddq_f32(x.r[0], x.r[2]), vaddq_f32(x.r[1], x.r[3]));
}

/* The tree h = 8, 4, 2, 1 with l + (l + h). */
ALWAYS_INLINE float v16_sum(v16 x)
{
    const float32x4_t t4 = sum_to_4(x);
    return vpadds_f32(vadd_f32(vget_low_f32(t4), vget_high_f32(t4)));
}

/* The same tree with b > a ? b : a for lanes a = l, b = l + h. */
ALWAYS_INLINE float v16_max_across(v16 x)
{
    const float32x4_t t4 = max4(max4(x.r[3], x.r[1]), max4(x.r[2], x.r[0]));
    const float32x4_t t2 = max4(vextq_f32(t4, t4, 2), t4);
    return vgetq_lane_f32(max4(vextq_f32(t2, t2, 1), t2), 0);
}

/* v16_sum of eight times 16 lanes at p: after the halving to 4 lanes two sums share a register. */
ALWAYS_INLINE void v16_sum_eight(const float *p, float *out)
{
    float32x4_t t[4];
    for (int i = 0; i < 4; i++) {
        const float64x2_t a = vreinterpretq_f64_f32(sum_to_4(v16_load(p + 32 * i)));
        const float64x2_t b = vreinterpretq_f64_f32(sum_to_4(v16_load(p + 32 * i + 16)));
        t[i] = vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(a, b)),
                         vreinterpretq_f32_f64(vzip2q_f64(a, b)));
    }
    vst1q_f32(out, vpaddq_f32(t[0], t[1]));
    vst1q_f32(out + 4, vpaddq_f32(t[2], t[3]));
}

/* 4 x 4 floats, dst[c][i] = src[i][c]; row strides in elements */
ALWAYS_INLINE void transpose4(const float *src, size_t ld, float *dst, size_t ldd)
{
    const float32x4x2_t a = vtrnq_f32(vld1q_f32(src), vld1q_f32(src + ld));
    const float32x4x2_t b = vtrnq_f32(vld1q_f32(src + 2 * ld), vld1q_f32(src + 3 * ld));
    for (size_t c = 0; c < 2; c++) {
        vst1q_f32(dst + c * ldd, vcombine_f32(vget_low_f32(a.val[c]), vget_low_f32(b.val[c])));
        vst1q_f32(dst + (c + 2) * ldd,
                  vcombine_f32(vget_high_f32(a.val[c]), vget_high_f32(b.val[c])));
    }
}

/* 8 x 8 of them */
ALWAYS_INLINE void transpose8(const float *src, size_t ld, float *dst, size_t ldd)
{
    for (size_t c = 0; c < 8; c += 4)
        for (size_t i = 0; i < 8; i += 4) transpose4(src + i * ld + c, ld, dst + c * ldd + i, ldd);
}

#endif
