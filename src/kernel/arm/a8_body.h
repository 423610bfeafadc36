/* SPDX-License-Identifier: MIT
 * 8-bit activations times a panel of packed weights (kernel/gemm_a8.h, and two levels of
 * gemm_t.h); included after a dots_*.h by gemm_a8_<isa>.c and gemm_a8d_<isa>.c. bits and mr are
 * literals at every call, so the loops unroll and sums live in registers. Of m tokens a multiple of
 * LEAST_A8 is multiplied. */
#define FEW 4
#include "kernel/body/gemm_a8_blocks.h"
#include "kernel/gemm_t.h"

enum { PAIRS_A8 = (MR_A8 + 1) / 2 };

/* What step s of quarter h multiplies, out of words. */
ALWAYS_INLINE int8x16x2_t take_step(const int bits, const uint32_t *unit, const int s, const int h)
{
    return step_of(quad(bits, unit, h, 2 * s), quad(bits, unit, h, 2 * s + 1));
}

ALWAYS_INLINE void clear(const int mr, dots (*d)[4])
{
    for (int i = 0; i < mr; i += 2)
        for (int h = 0; h < 4; h++) d[i / 2][h] = dots_zero();
}

/* d += sum of code * q_x over n units; codes are words or bytes that were taken out. mr is 1 or
 * even. */
ALWAYS_INLINE void add_units(const int bits, const bool bytes, const int mr, size_t n,
                             const bal_a8 *a, size_t a_stride, const uint32_t *codes, dots (*d)[4])
{
    const int top = bits == 8 ? 128 : (1 << bits) - 1;
    for (; n > 0; n--, a++, codes += bytes ? 8 * 16 : 16 * bits) {
#define STEP(s)                                                                                    \
    for (int h = 0; h < 4; h++) {                                                                  \
        const int8x16x2_t w = bytes ? load_step(codes, s, h) : take_step(bits, codes, s, h);       \
        for (int i = 0; i < mr; i += 2)                                                            \
            dots_add(top, s, mr == 1 ? 1 : 2, &d[i / 2][h], w, a[(size_t)i * a_stride].q,          \
                     a[(size_t)(i + (mr > 1)) * a_stride].q);                                      \
    }
        ALL_STEPS(STEP)
#undef STEP
    }
}

/* Sum of q_x over units begin .. end - 1 */
ALWAYS_INLINE int32_t sum_of(const bal_a8 *a, size_t begin, size_t end)
{
    return begin ? a[end - 1].sum - a[begin - 1].sum : a[end - 1].sum;
}

/* y += sum * (s * scale) for one token */
ALWAYS_INLINE void add_scaled(const int32x4_t sum[4], const float32x4_t s[4], float scale, float *y)
{
    for (int h = 0; h < 4; h++) {
        const float32x4_t sx = vmulq_n_f32(s[h], scale);
        vst1q_f32(y + 4 * h, vfmaq_f32(vld1q_f32(y + 4 * h), vcvtq_f32_s32(sum[h]), sx));
    }
}

/* ---- A scale and a zero point per group ---------------------------------------------------- */

/* y += (carry + dot - z * sum) * (s * scale) at the end of a segment of weight group g, units begin
 * up to end of mr tokens, and all sums from 0 again; codes of 8 bits were multiplied less 128. */
ALWAYS_INLINE void finish(const int bits, const int mr, const panel *p, size_t g, const bal_a8 *a,
                          size_t a_stride, size_t begin, size_t end, dots (*d)[4],
                          int32_t (*carry)[16], float *y, size_t y_stride)
{
    float32x4_t s[4];
    int32x4_t z[4], sum[4];
    widen_scales(p->scales + 16 * g, s);
    widen_u8(vld1q_u8(p->zeros + 16 * g), z);
    for (int i = 0; i < mr; i++) {
        const bal_a8 *x = a + (size_t)i * a_stride;
        const int32_t sum_x = sum_of(x, begin, end);
        for (int h = 0; h < 4; h++) {
            const int32x4_t off = bits == 8 ? vsubq_s32(z[h], vdupq_n_s32(128)) : z[h];
            const int32x4_t all =
                vaddq_s32(vld1q_s32(carry[i] + 4 * h), dots_sum(&d[i / 2][h], i % 2));
            sum[h] = vmlsq_n_s32(all, off, sum_x);
        }
        memset(carry[i], 0, sizeof carry[i]);
        add_scaled(sum, s, x[end - 1].scale, y + (size_t)i * y_stride);
    }
    clear(mr, d);
}

/* rows for mr tokens. */
ALWAYS_INLINE void tile(const int bits, const bool bytes, const int mr, const panel *p,
                        bal_a8_walk walk, size_t u, size_t u1, size_t units, const bal_a8 *a,
                        size_t a_stride, int32_t (*carry)[16], float *y, size_t y_stride)
{
    dots d[PAIRS_A8][4];
    const uint32_t *codes = p->codes;
    clear(mr, d);
    while (u < u1) {
        const size_t left = bal_a8_walk_left(&walk), n = left < u1 - u ? left : u1 - u;
        const size_t begin = walk.begin, g = walk.group;
        add_units(bits, bytes, mr, n, a + u, a_stride, codes, d);
        codes += n * (bytes ? 8 * 16 : 16 * (size_t)bits), u += n;
        if (bal_a8_walk_on(&walk, n, u) || u == units)
            finish(bits, mr, p, g, a, a_stride, begin, u, d, carry, y, y_stride);
    }
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 4; h++) {
            int32_t *c = carry[i] + 4 * h;
            vst1q_s32(c, vaddq_s32(vld1q_s32(c), dots_sum(&d[i / 2][h], i % 2)));
        }
}

ALWAYS_INLINE void rows(const int bits, const bool bytes, int m, const panel *p, bal_a8_walk walk,
                        size_t u, size_t u1, size_t units, const bal_a8 *a, size_t a_stride,
                        int32_t (*carry)[16], float *y, size_t y_stride)
{
#define TILES(mr)                                                                                  \
    for (; m >= mr; m -= mr, a += mr * a_stride, y += mr * y_stride, carry += mr)                  \
        tile(bits, bytes, mr, p, walk, u, u1, units, a, a_stride, carry, y, y_stride);
    TILES(MR_A8)
    TILES(LEAST_A8)
#undef TILES
}

ALWAYS_INLINE void take_out(const int bits, const uint32_t *codes, size_t n, uint32_t *bytes)
{
    for (; n > 0; n--, codes += 16 * bits, bytes += 8 * 16)
        for (int h = 0; h < 4; h++) {
#define PUT(s) store_step(bytes, s, h, take_step(bits, codes, s, h));
            ALL_STEPS(PUT)
#undef PUT
        }
}

/* ---- Two levels ------------------------------------------------------------------------------ */

/* Units u .. end - 1, which share a group, to the integer sums of mr tokens: groups meet there,
 * each times its step. */
ALWAYS_INLINE void add_run(const int mr, size_t u, size_t end, const bal_a8 *a, size_t a_stride,
                           const uint32_t *codes, const uint8_t *steps, const uint8_t *zeros,
                           int32x4_t (*sum)[4])
{
    dots d[PAIRS_A8][4];
    int32x4_t m[4], z[4];
    widen_u8(vld1q_u8(steps), m);
    widen_u8(vld1q_u8(zeros), z);
    clear(mr, d);
    add_units(4, false, mr, end - u, a + u, a_stride, codes + u * 4 * 16, d);
    for (int i = 0; i < mr; i++) {
        const int32_t sum_x = sum_of(a + (size_t)i * a_stride, u, end);
        for (int h = 0; h < 4; h++) {
            const int32x4_t off = vmlsq_n_s32(dots_sum(&d[i / 2][h], i % 2), z[h], sum_x);
            sum[i][h] = vmlaq_s32(sum[i][h], m[h], off);
        }
    }
}

ALWAYS_INLINE void tile_d(const int mr, size_t units, size_t units_per_group,
                          size_t units_per_scale, const bal_a8 *a, size_t a_stride,
                          const uint32_t *codes, const uint16_t *scales, const uint8_t *steps,
                          const uint8_t *zeros, float *y, size_t y_stride)
{
    float32x4_t s[4];
    int32x4_t sum[MR_A8][4];
    widen_scales(scales, s);
    for (int i = 0; i < mr; i++) {
        memset(y + (size_t)i * y_stride, 0, 16 * sizeof *y);
        for (int h = 0; h < 4; h++) sum[i][h] = vdupq_n_s32(0);
    }
    bal_a8_walk walk = bal_a8_walk_at(0, units_per_group, units_per_scale);
    for (size_t u = 0; u < units;) {
        const size_t left = bal_a8_walk_left(&walk), g = walk.group;
        const size_t end = left < units - u ? u + left : units;
        add_run(mr, u, end, a, a_stride, codes, steps + 16 * g, zeros + 16 * g, sum);
        bal_a8_walk_on(&walk, end - u, end);
        u = end;
        if (u % units_per_scale && u % BAL_A8_SEGMENT && u != units) continue;
        for (int i = 0; i < mr; i++) {
            const bal_a8 *x = a + (size_t)i * a_stride;
            add_scaled(sum[i], s, x[u - 1].scale, y + (size_t)i * y_stride);
            for (int h = 0; h < 4; h++) sum[i][h] = vdupq_n_s32(0);
        }
    }
}

ALWAYS_INLINE void gemm_d(int m, size_t units, size_t units_per_group, size_t units_per_scale,
                          const bal_a8 *a, size_t a_stride, const uint32_t *codes,
                          const uint16_t *scales, const uint8_t *steps, const uint8_t *zeros,
                          float *y, size_t y_stride)
{
    assert(1 <= m && m <= BAL_GEMM_A8_ROWS && units && units_per_group && units_per_scale);
#define TILES(mr)                                                                                  \
    for (; m >= mr; m -= mr, a += mr * a_stride, y += mr * y_stride)                               \
        tile_d(mr, units, units_per_group, units_per_scale, a, a_stride, codes, scales, steps,     \
               zeros, y, y_stride);
    TILES(MR_A8)
    TILES(LEAST_A8)
#undef TILES
}

#define GEMM_A8D(name)                                                                             \
    bal_gemm_a8d_fn name;                                                                          \
    void name(int m, size_t units, size_t units_per_group, size_t units_per_scale,                 \
              const bal_a8 *a, size_t a_stride, const uint32_t *codes, const uint16_t *scales,     \
              const uint8_t *steps, const uint8_t *zeros, float *y, size_t y_stride)               \
    {                                                                                              \
        gemm_d(m, units, units_per_group, units_per_scale, a, a_stride, codes, scales, steps,      \
               zeros, y, y_stride);                                                                \
    }
