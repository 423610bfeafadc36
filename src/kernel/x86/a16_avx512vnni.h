/* SPDX-License-Identifier: MIT
 * 16-bit activations times a panel of packed weights (kernel/gemm_w.h, gemm_t.h) for AVX-512 with
 * VNNI; included by gemm_w_avx512vnni.c and gemm_t_avx512vnni.c. vpdpbusd adds four products of
 * unsigned codes, or of the levels that a table gives them, with each byte plane of the activations
 * to 32-bit sums of their own, which meet at the end of a unit. kind and mr are literals at every
 * call, so the loops unroll and sums live in registers. */
#include "kernel/x86/codes_avx512.h"

typedef __m512i levels;
#include "kernel/body/gemm_a16_body.h"

enum { MR = 8 }; /* tokens multiplied at once */

ALWAYS_INLINE levels levels_of(const uint8_t *table, const int mask)
{
    return masked(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table)), mask);
}

/* What is multiplied for quad j. */
ALWAYS_INLINE __m512i factors(const int kind, const sides *p, const unit_words *u, const int j)
{
    const __m512i q = quad(bits_of(kind), u, j);
    return kind & TABLE ? _mm512_shuffle_epi8(p->level, q) : q;
}

/* dot[i] = sum of factor * q_x over one unit */
ALWAYS_INLINE void dot_unit(const int kind, const int mr, const bal_a16 *a, size_t a_stride,
                            const uint32_t *unit, const sides *p, __m512i *dot)
{
    const unit_words u = words_of(bits_of(kind), unit);
    __m512i lo[MR], hi[MR];
    for (int i = 0; i < mr; i++) lo[i] = hi[i] = _mm512_setzero_si512();
#define STEP(j)                                                                                    \
    {                                                                                              \
        const __m512i q = factors(kind, p, &u, j);                                                 \
        for (int i = 0; i < mr; i++) {                                                             \
            const bal_a16 *x = a + (size_t)i * a_stride;                                           \
            lo[i] = _mm512_dpbusd_epi32(lo[i], q, bcast4(x->lo + 4 * (j)));                        \
            hi[i] = _mm512_dpbusd_epi32(hi[i], q, bcast4(x->hi + 4 * (j)));                        \
        }                                                                                          \
    }
    ALL_QUADS(STEP)
#undef STEP
    for (int i = 0; i < mr; i++) dot[i] = _mm512_add_epi32(lo[i], _mm512_slli_epi32(hi[i], 8));
}

/* The steps of group g as signed integers. */
ALWAYS_INLINE __m512i steps_of(const int kind, const sides *p, size_t g)
{
    if (kind & TWO_LEVEL)
        return _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(p->steps + 16 * g)));
    const __m128i meaning = _mm_setr_epi8(1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4, -5, -6, -7, -8);
    const __m128i both = _mm_loadl_epi64((const void *)(p->steps + 8 * g));
    const __m128i four =
        _mm_and_si128(_mm_unpacklo_epi64(both, _mm_srli_epi16(both, 4)), _mm_set1_epi8(15));
    return _mm512_cvtepi8_epi32(_mm_shuffle_epi8(meaning, four));
}

ALWAYS_INLINE __m512 scales_at(const uint16_t *scales)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)scales));
}

/* What group g of the panel multiplies and subtracts. */
ALWAYS_INLINE void group_of(const int kind, const sides *p, size_t g, __m512 *s, __m512i *z)
{
    const bool steps = kind & (TABLE | TWO_LEVEL);
    *s = scales_at(p->scales + (steps ? 0 : 16 * g));
    if (steps) *s = _mm512_mul_ps(*s, _mm512_cvtepi32_ps(steps_of(kind, p, g)));
    if (kind & TABLE)
        *z = _mm512_set1_epi32(p->zeros[16] & ((4 << bits_of(kind)) - 1));
    else
        *z = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(p->zeros + 16 * g)));
}

/* The end of one unit: acc += (dot - z * sum) * (s * scale). */
ALWAYS_INLINE void finish(const int mr, const bal_a16 *a, size_t a_stride, const __m512i *dot,
                          __m512 s, __m512i z, __m512 *acc)
{
    for (int i = 0; i < mr; i++) {
        const bal_a16 *x = a + (size_t)i * a_stride;
        const __m512i zx = _mm512_mullo_epi32(z, _mm512_set1_epi32(x->sum));
        const __m512 sx = _mm512_mul_ps(s, _mm512_set1_ps(x->scale));
        acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(dot[i], zx)), sx, acc[i]);
    }
}

/* Whether code words are read fast enough for touch_ahead (one thread, part of the read limit with
 * fetch_ahead and with touch_ahead: 3 bits 82 % and 57 %, 6 bits 67 and 77, 8 bits 64 and 87). */
ALWAYS_INLINE bool is_stream(const int kind, const int mr)
{
    return mr == 1 && (kind == 6 || kind == 8);
}

/* All units for mr tokens. */
ALWAYS_INLINE void tile(const int kind, const int mr, size_t units, size_t units_per_group,
                        const bal_a16 *a, size_t a_stride, const uint32_t *codes, const sides *p,
                        float *y, size_t y_stride)
{
    __m512 acc[MR], s;
    __m512i z, dot[MR];
    size_t g = 0, left = units_per_group;
    for (int i = 0; i < mr; i++) acc[i] = _mm512_loadu_ps(y + (size_t)i * y_stride);
    group_of(kind, p, g, &s, &z);
    for (size_t u = 0; u < units; u++, left--, a++, codes += 16 * bits_of(kind)) {
        if (left == 0) {
            g++, left = units_per_group;
            group_of(kind, p, g, &s, &z);
        }
        if (is_stream(kind, mr))
            touch_ahead(bits_of(kind), codes);
        else
            fetch_ahead(bits_of(kind), codes);
        dot_unit(kind, mr, a, a_stride, codes, p, dot);
        finish(mr, a, a_stride, dot, s, z, acc);
    }
    for (int i = 0; i < mr; i++) _mm512_storeu_ps(y + (size_t)i * y_stride, acc[i]);
}

/* Codes are pulled out anew for every eight tokens, beside the products, on another port. */
ALWAYS_INLINE void multiply(const int kind, size_t rows, size_t units, size_t units_per_group,
                            const bal_a16 *a, size_t a_stride, const uint32_t *codes,
                            const sides *p, float *y, size_t y_stride)
{
#define TILE(mr)                                                                                   \
    case mr: tile(kind, mr, units, units_per_group, a, a_stride, codes, p, y, y_stride); break;
    for (; rows >= MR; rows -= MR, a += MR * a_stride, y += MR * y_stride)
        tile(kind, MR, units, units_per_group, a, a_stride, codes, p, y, y_stride);
    switch (rows) {
        TILE(7)
        TILE(6)
        TILE(5)
        TILE(4)
        TILE(3)
        TILE(2)
        TILE(1)
    }
#undef TILE
}
