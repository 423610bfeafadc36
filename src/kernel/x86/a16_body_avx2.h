/* SPDX-License-Identifier: MIT
 * What 16-bit activations times a panel of packed weights (kernel/gemm_w.h, gemm_t.h) are on
 * registers of 256 bits, but for the products of a unit. A panel is two halves of 8 outputs, one
 * 32-bit lane each. kind and mr are literals at every call, so the loops unroll and sums live in
 * registers at -O3.
 *
 * Whoever includes this says first
 *   MR        tokens multiplied at once, 2 or 3
 * and afterwards what dot_unit does. */
#ifndef BAL_KERNEL_A16_BODY_AVX2_H
#define BAL_KERNEL_A16_BODY_AVX2_H

#include "kernel/x86/a16_unit_avx2.h"

typedef __m256i levels;
#include "kernel/body/gemm_a16_blocks.h"

ALWAYS_INLINE levels levels_of(const uint8_t *table, const int mask)
{
    const __m128i all = _mm_loadu_si128((const void *)table);
    return _mm256_and_si256(_mm256_broadcastsi128_si256(all), _mm256_set1_epi8((char)mask));
}

/* Those of up to 4 bits; wider ones are read as they are needed. */
ALWAYS_INLINE void load_words(const int kind, const uint32_t *unit, __m256i (*w)[2])
{
    for (int v = 0; bits_of(kind) <= 4 && v < bits_of(kind); v++)
        for (int h = 0; h < 2; h++) w[v][h] = load(unit + 16 * v + 8 * h);
}

/* What is multiplied for quad j of half h, out of the words of a unit. */
ALWAYS_INLINE __m256i factors(const int kind, const sides *p, const uint32_t *unit, __m256i (*w)[2],
                              const int h, const int j)
{
    const int bits = bits_of(kind);
    const __m256i q = bits > 4 ? quad(bits, unit, h, j) : quad_of_words(bits, w, h, j);
    return kind & TABLE ? _mm256_shuffle_epi8(p->level, q) : q;
}

/* dot[i][h] = sum of factor * q_x over one unit; codes are words or, if pulled, factors. */
ALWAYS_INLINE void dot_unit(const int kind, const bool pulled, const int mr, const bal_a16 *a,
                            size_t a_stride, const uint32_t *codes, const sides *p,
                            __m256i (*dot)[2]);

/* The steps of group g as signed integers, of half h. */
ALWAYS_INLINE __m256i steps_of(const int kind, const sides *p, size_t g, const int h)
{
    if (kind & TWO_LEVEL)
        return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(p->steps + 16 * g + 8 * h)));
    const __m128i meaning = _mm_setr_epi8(1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4, -5, -6, -7, -8);
    const __m128i both = _mm_loadl_epi64((const void *)(p->steps + 8 * g));
    const __m128i four = _mm_and_si128(h ? _mm_srli_epi16(both, 4) : both, _mm_set1_epi8(15));
    return _mm256_cvtepi8_epi32(_mm_shuffle_epi8(meaning, four));
}

/* What group g of the panel multiplies and subtracts. */
ALWAYS_INLINE void group_of(const int kind, const sides *p, size_t g, __m256 s[2], __m256i z[2])
{
    const bool steps = kind & (TABLE | TWO_LEVEL);
    for (int h = 0; h < 2; h++) {
        const size_t at = 16 * g + 8 * (size_t)h;
        const uint16_t *scales = p->scales + (steps ? 8 * (size_t)h : at);
        s[h] = _mm256_cvtph_ps(_mm_loadu_si128((const void *)scales));
        if (steps) s[h] = _mm256_mul_ps(s[h], _mm256_cvtepi32_ps(steps_of(kind, p, g, h)));
        if (kind & TABLE)
            z[h] = _mm256_set1_epi32(p->zeros[16] & ((4 << bits_of(kind)) - 1));
        else
            z[h] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(p->zeros + at)));
    }
}

/* n units, of which the first is unit u, for mr tokens; codes are words or, if pulled, factors. */
ALWAYS_INLINE void tile(const int kind, const bool pulled, const int mr, size_t u, size_t n,
                        size_t units_per_group, const bal_a16 *a, size_t a_stride,
                        const uint32_t *codes, const sides *p, float *y, size_t y_stride)
{
    const size_t words = pulled ? 8 * 16 : 16 * (size_t)bits_of(kind);
    __m256 acc[MR][2], s[2];
    __m256i z[2], dot[MR][2];
    size_t g = u / units_per_group, left = units_per_group - u % units_per_group;
    for (int r = 0; r < mr; r++)
        for (int h = 0; h < 2; h++) acc[r][h] = _mm256_loadu_ps(y + (size_t)r * y_stride + 8 * h);
    group_of(kind, p, g, s, z);
    for (size_t k = 0; k < n; k++, left--, a++, codes += words) {
        if (left == 0) {
            g++, left = units_per_group;
            group_of(kind, p, g, s, z);
        }
        if (!pulled) fetch_ahead(bits_of(kind), codes);
        dot_unit(kind, pulled, mr, a, a_stride, codes, p, dot);
        finish(mr, a, a_stride, dot, s, z, acc);
    }
    for (int r = 0; r < mr; r++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(y + (size_t)r * y_stride + 8 * h, acc[r][h]);
}

ALWAYS_INLINE void tiles(const int kind, const bool pulled, size_t rows, size_t u, size_t n,
                         size_t units_per_group, const bal_a16 *a, size_t a_stride,
                         const uint32_t *codes, const sides *p, float *y, size_t y_stride)
{
#define TILE(mr) tile(kind, pulled, mr, u, n, units_per_group, a, a_stride, codes, p, y, y_stride)
    for (; rows >= MR; rows -= MR, a += MR * a_stride, y += MR * y_stride) TILE(MR);
    if (rows == 2) TILE(2);
    if (rows == 1) TILE(1);
#undef TILE
}

ALWAYS_INLINE void pull(const int kind, const uint32_t *codes, size_t n, const sides *p,
                        uint32_t *out)
{
    for (; n > 0; n--, codes += 16 * bits_of(kind), out += 8 * 16) {
        __m256i w[4][2];
        fetch_ahead(bits_of(kind), codes);
        load_words(kind, codes, w);
#define PUT(j)                                                                                     \
    _mm256_store_si256((void *)(out + 16 * j), factors(kind, p, codes, w, 0, j));                  \
    _mm256_store_si256((void *)(out + 16 * j + 8), factors(kind, p, codes, w, 1, j));
        ALL_QUADS(PUT)
#undef PUT
    }
}

#endif
