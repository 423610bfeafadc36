/* SPDX-License-Identifier: MIT
 * What gemm_a8 is on registers of 256 bits, but for the products: the walk over segments, their end
 * in floats, tokens by tiles of MR. A panel is two halves of 8 outputs, one 32-bit lane each. bits
 * and mr are literals at every call, so the loops unroll and sums live in registers at -O3.
 *
 * Whoever includes this says first
 *   MR       tokens multiplied at once
 *   OFFSET8  what its products take off codes of 8 bits
 *   add_all(bits, mr, n, a, a_stride, codes, dot)
 *            dot [mr][2] += sum of code * q_x over n units at `codes` */
#ifndef BAL_KERNEL_A8_BODY_AVX2_H
#define BAL_KERNEL_A8_BODY_AVX2_H

#include "kernel/x86/codes_avx2.h"

#define FEW MR
#include "kernel/body/gemm_a8_blocks.h"

ALWAYS_INLINE __m256i bcast32(const int32_t *p)
{
    return _mm256_set1_epi32(*p);
}

/* Sum of q_x over units begin .. end - 1, in every lane. */
ALWAYS_INLINE __m256i sum_of(const bal_a8 *a, size_t begin, size_t end)
{
    const __m256i all = bcast32(&a[end - 1].sum);
    return begin ? _mm256_sub_epi32(all, bcast32(&a[begin - 1].sum)) : all;
}

/* y += (dot - z * sum) * (s * scale) at the end of a segment of weight group g, units begin up to
 * end of mr tokens; codes of 8 bits were multiplied as q - OFFSET8. */
ALWAYS_INLINE void finish(const int bits, const int mr, const panel *p, size_t g, const bal_a8 *a,
                          size_t a_stride, size_t begin, size_t end, __m256i (*dot)[2], float *y,
                          size_t y_stride)
{
    for (int h = 0; h < 2; h++) {
        const size_t at = 16 * g + 8 * (size_t)h;
        const __m256 s = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p->scales + at)));
        __m256i z = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(p->zeros + at)));
        if (bits == 8 && OFFSET8 != 0) z = _mm256_sub_epi32(z, _mm256_set1_epi32(OFFSET8));
        for (int i = 0; i < mr; i++) {
            const bal_a8 *x = a + (size_t)i * a_stride;
            float *out = y + (size_t)i * y_stride + 8 * h;
            const __m256i zx = _mm256_mullo_epi32(z, sum_of(x, begin, end));
            const __m256 d = _mm256_cvtepi32_ps(_mm256_sub_epi32(dot[i][h], zx));
            const __m256 sx = _mm256_mul_ps(s, _mm256_set1_ps(x[end - 1].scale));
            _mm256_storeu_ps(out, _mm256_fmadd_ps(d, sx, _mm256_loadu_ps(out)));
            dot[i][h] = _mm256_setzero_si256();
        }
    }
}

/* rows for mr tokens, bits as codes_avx2.h reads them. */
ALWAYS_INLINE void tile(const int bits, const int mr, const panel *p, bal_a8_walk walk, size_t u,
                        size_t u1, size_t units, const bal_a8 *a, size_t a_stride,
                        int32_t (*carry)[16], float *y, size_t y_stride)
{
    __m256i dot[MR][2];
    const uint32_t *codes = p->codes;
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) dot[i][h] = load(carry[i] + 8 * h);
    while (u < u1) {
        const size_t left = bal_a8_walk_left(&walk), n = left < u1 - u ? left : u1 - u;
        const size_t begin = walk.begin, g = walk.group;
        add_all(bits, mr, n, a + u, a_stride, codes, dot);
        codes += n * (size_t)words_of(bits), u += n;
        if (!bal_a8_walk_on(&walk, n, u) && u < units) continue;
        finish(bits, mr, p, g, a, a_stride, begin, u, dot, y, y_stride);
    }
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) _mm256_storeu_si256((void *)(carry[i] + 8 * h), dot[i][h]);
}

#define TILE(bits, rows)                                                                           \
    case rows: tile(bits, rows, p, walk, u, u1, units, a, a_stride, carry, y, y_stride); break;

ALWAYS_INLINE void rows(const int bits, const bool bytes, int m, const panel *p, bal_a8_walk walk,
                        size_t u, size_t u1, size_t units, const bal_a8 *a, size_t a_stride,
                        int32_t (*carry)[16], float *y, size_t y_stride)
{
    const int as = bytes && bits < 8 ? BYTES(bits) : bits;
    for (; m > 0; m -= MR, a += MR * a_stride, y += MR * y_stride, carry += MR) {
        switch (m) {
#if MR > 4
        default:
            TILE(as, 6)
            TILE(as, 5)
            TILE(as, 4)
#else
        default: TILE(as, 4)
#endif
            TILE(as, 3)
            TILE(as, 2)
            TILE(as, 1)
        }
    }
}

ALWAYS_INLINE void take_out(const int bits, const uint32_t *codes, size_t n, uint32_t *bytes)
{
    for (; n > 0; n--, codes += words_of(bits), bytes += 8 * 16) {
        fetch_ahead(bits, codes);
        for (int h = 0; h < 2; h++) {
#define PUT(j) _mm256_store_si256((void *)(bytes + 16 * j + 8 * h), quad(bits, codes, h, j));
            ALL_QUADS(PUT)
#undef PUT
        }
    }
}

#endif
