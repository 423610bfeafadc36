/* SPDX-License-Identifier: MIT
 * 16-bit activations times a panel of packed weights (kernel/gemm_w.h, gemm_t.h); included after a
 * dots_*.h by gemm_w_<isa>.c and gemm_t_<isa>.c. The two byte planes of the activations have sums
 * of their own, which meet at the end of a unit. kind and mr are literals at every call, so the
 * loops unroll and sums live in registers. */
typedef int8x16_t levels;
#include "kernel/body/gemm_a16_blocks.h"

ALWAYS_INLINE levels levels_of(const uint8_t *table, const int mask)
{
    return vandq_s8(vld1q_s8((const int8_t *)table), vdupq_n_s8((int8_t)mask));
}

/* Largest magnitude that is multiplied. */
ALWAYS_INLINE int top_of(const int kind)
{
    const int bits = bits_of(kind);
    return kind & TABLE ? (4 << bits) - 1 : bits == 8 ? 128 : (1 << bits) - 1;
}

/* What is multiplied for quad j of quarter h, out of words. */
ALWAYS_INLINE int8x16_t factors(const int kind, const sides *p, const uint32_t *unit, const int h,
                                const int j)
{
    const int8x16_t q = quad(bits_of(kind), unit, h, j);
    return kind & TABLE ? vqtbl1q_s8(p->level, vreinterpretq_u8_s8(q)) : q;
}

/* What step s of quarter h multiplies, out of words. */
ALWAYS_INLINE int8x16x2_t take_step(const int kind, const sides *p, const uint32_t *unit,
                                    const int s, const int h)
{
    return step_of(factors(kind, p, unit, h, 2 * s), factors(kind, p, unit, h, 2 * s + 1));
}

/* Sums of one unit, in 32 bits. */
ALWAYS_INLINE void dot_unit(const int kind, const bool pulled, const int mr, const bal_a16 *a,
                            size_t a_stride, const uint32_t *unit, const sides *p,
                            int32x4_t (*sum)[4])
{
    dots d[MR_A16][4]; /* of low and high bytes */
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 4; h++) d[i][h] = dots_zero();
#define STEP(s)                                                                                    \
    for (int h = 0; h < 4; h++) {                                                                  \
        const int8x16x2_t w = pulled ? load_step(unit, s, h) : take_step(kind, p, unit, s, h);     \
        for (int i = 0; i < mr; i++) {                                                             \
            const bal_a16 *x = a + (size_t)i * a_stride;                                           \
            dots_add(top_of(kind), s, 2, &d[i][h], w, x->lo, x->hi);                               \
        }                                                                                          \
    }
    ALL_STEPS(STEP)
#undef STEP
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 4; h++)
            sum[i][h] = vaddq_s32(dots_sum(&d[i][h], 0), vshlq_n_s32(dots_sum(&d[i][h], 1), 8));
}

/* The steps of group g as signed integers. */
ALWAYS_INLINE void steps_of(const int kind, const sides *p, size_t g, int32x4_t m[4])
{
    if (kind & TWO_LEVEL) {
        widen_u8(vld1q_u8(p->steps + 16 * g), m);
        return;
    }
    const int8x16_t meaning = {1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4, -5, -6, -7, -8};
    const uint8x8_t both = vld1_u8(p->steps + 8 * g);
    const uint8x16_t code = vcombine_u8(vand_u8(both, vdup_n_u8(15)), vshr_n_u8(both, 4));
    widen_s8(vqtbl1q_s8(meaning, code), m);
}

/* What group g of the panel multiplies and subtracts. */
ALWAYS_INLINE void group_of(const int kind, const sides *p, size_t g, float32x4_t s[4],
                            int32x4_t z[4])
{
    const bool steps = kind & (TABLE | TWO_LEVEL);
    widen_scales(p->scales + (steps ? 0 : 16 * g), s);
    if (steps) {
        int32x4_t m[4];
        steps_of(kind, p, g, m);
        for (int h = 0; h < 4; h++) s[h] = vmulq_f32(s[h], vcvtq_f32_s32(m[h]));
    }
    if (kind & TABLE)
        for (int h = 0; h < 4; h++) z[h] = vdupq_n_s32(p->zeros[16] & top_of(kind));
    else
        widen_u8(vld1q_u8(p->zeros + 16 * g), z);
    if (kind == 8) /* codes were multiplied less 128 */
        for (int h = 0; h < 4; h++) z[h] = vsubq_s32(z[h], vdupq_n_s32(128));
}

/* The end of one unit: acc += (dot - z * sum) * (s * scale). */
ALWAYS_INLINE void finish(const int mr, const bal_a16 *a, size_t a_stride, int32x4_t (*sum)[4],
                          const float32x4_t s[4], const int32x4_t z[4], float32x4_t (*acc)[4])
{
    for (int i = 0; i < mr; i++) {
        const bal_a16 *x = a + (size_t)i * a_stride;
        for (int h = 0; h < 4; h++) {
            const float32x4_t d = vcvtq_f32_s32(vmlsq_n_s32(sum[i][h], z[h], x->sum));
            acc[i][h] = vfmaq_f32(acc[i][h], d, vmulq_n_f32(s[h], x->scale));
        }
    }
}

/* n units, of which the first is unit u, for mr tokens; codes are words or what was pulled out. */
ALWAYS_INLINE void tile(const int kind, const bool pulled, const int mr, size_t u, size_t n,
                        size_t units_per_group, const bal_a16 *a, size_t a_stride,
                        const uint32_t *codes, const sides *p, float *y, size_t y_stride)
{
    const size_t words = pulled ? 8 * 16 : 16 * (size_t)bits_of(kind);
    float32x4_t acc[MR_A16][4], s[4];
    int32x4_t z[4], sum[MR_A16][4];
    size_t g = u / units_per_group, left = units_per_group - u % units_per_group;
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 4; h++) acc[i][h] = vld1q_f32(y + (size_t)i * y_stride + 4 * h);
    group_of(kind, p, g, s, z);
    for (size_t k = 0; k < n; k++, left--, a++, codes += words) {
        if (left == 0) {
            g++, left = units_per_group;
            group_of(kind, p, g, s, z);
        }
        dot_unit(kind, pulled, mr, a, a_stride, codes, p, sum);
        finish(mr, a, a_stride, sum, s, z, acc);
    }
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 4; h++) vst1q_f32(y + (size_t)i * y_stride + 4 * h, acc[i][h]);
}

ALWAYS_INLINE void tiles(const int kind, const bool pulled, size_t rows, size_t u, size_t n,
                         size_t units_per_group, const bal_a16 *a, size_t a_stride,
                         const uint32_t *codes, const sides *p, float *y, size_t y_stride)
{
#define TILE(mr) tile(kind, pulled, mr, u, n, units_per_group, a, a_stride, codes, p, y, y_stride)
    for (; rows >= MR_A16; rows -= MR_A16, a += MR_A16 * a_stride, y += MR_A16 * y_stride)
        TILE(MR_A16);
    if (rows) TILE(1);
#undef TILE
}

ALWAYS_INLINE void pull(const int kind, const uint32_t *codes, size_t n, const sides *p,
                        uint32_t *out)
{
    for (; n > 0; n--, codes += 16 * bits_of(kind), out += 8 * 16)
        for (int h = 0; h < 4; h++) {
#define PUT(s) store_step(out, s, h, take_step(kind, p, codes, s, h));
            ALL_STEPS(PUT)
#undef PUT
        }
}
