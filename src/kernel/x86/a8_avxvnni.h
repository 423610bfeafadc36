/* SPDX-License-Identifier: MIT
 * The products of 8-bit activations for AVX-VNNI, which processors without AVX-512 have; included
 * by gemm_a8_avxvnni.c and gemm_a8d_avxvnni.c. vpdpbusd adds four products of unsigned codes with
 * signed bytes to a 32-bit lane, which no segment overflows. One token takes codes out of the words
 * with a mask alone: a code stays where it stands in its byte, that is times a power of two, and
 * products of the same power have a sum of their own, which the end of a segment shifts down (as
 * gemm_a8_avx512vnni.c). */
#ifndef BAL_KERNEL_A8_AVXVNNI_H
#define BAL_KERNEL_A8_AVXVNNI_H

#include "kernel/gemm_a8.h"
#include "kernel/x86/codes_avx2.h"

#define MR      6 /* 12 sums, two registers of codes, one of activations: of 16 */
#define OFFSET8 0

enum { POWERS = 5 /* most sums that differ in the power of two */ };

/* Sum s is this power of two too large. Where words have fewer powers than sums, several sums share
 * one, which makes more chains. */
ALWAYS_INLINE int power_of(const int bits, const int s)
{
    if (bits == 2) return 2 * s;
    if (bits == 4) return 4 * (s % 2);
    if (bits == 3) return s == 0 ? 0 : s == 1 ? 3 : s == 2 ? 6 : s == 3 ? 4 : 5;
    if (bits == 6) return s < 2 ? 0 : s == 2 ? 6 : s == 3 ? 4 : 2;
    return 0;
}

ALWAYS_INLINE int sums_of(const int bits)
{
    return bits == 3 || bits == 6 ? POWERS : 4;
}

/* sum s of either half += masked codes of word v * x; eight bits need no mask */
ALWAYS_INLINE void add_masked(const uint32_t *unit, const int v, const int mask, __m256i x,
                              __m256i sum[2])
{
    for (int h = 0; h < 2; h++) {
        const __m256i w = word(unit, v, h);
        const __m256i q = mask == 255 ? w : _mm256_and_si256(w, _mm256_set1_epi8((char)mask));
        sum[h] = _mm256_dpbusd_avx_epi32(sum[h], q, x);
        KEEP(sum[h]);
    }
}

/* Adds quad j of a unit where it stands. */
ALWAYS_INLINE void add_quad(const int bits, const int j, const bal_a8 *a, const uint32_t *unit,
                            __m256i (*sum)[2])
{
    const __m256i x = bcast4(a->q + 4 * j);
    if (bits == 8) add_masked(unit, j, 255, x, sum[j % 4]);
    if (bits == 2) add_masked(unit, j / 4, 3 << 2 * (j % 4), x, sum[j % 4]);
    if (bits == 4) add_masked(unit, j / 2, 15 << 4 * (j % 2), x, sum[j % 4]);
    if (bits == 3 && j < 6) add_masked(unit, j / 2, 7 << 3 * (j % 2), x, sum[j % 2]);
    if (bits == 3 && j >= 6) {
        add_masked(unit, j - 6, 192, x, sum[2]);
        add_masked(unit, 2, 1 << j, x, sum[j - 3]);
    }
    if (bits == 6 && j < 6) add_masked(unit, j, 63, x, sum[j % 2]);
    if (bits == 6 && j >= 6)
        for (int v = 0; v < 3; v++) add_masked(unit, 3 * (j - 6) + v, 192, x, sum[2 + v]);
}

/* dot += sum of code * q_x over n units of one token */
ALWAYS_INLINE void add_in_place(const int bits, size_t n, const bal_a8 *a, const uint32_t *codes,
                                __m256i dot[2])
{
    __m256i sum[POWERS][2];
    for (int s = 0; s < sums_of(bits); s++) sum[s][0] = sum[s][1] = _mm256_setzero_si256();
    for (; n > 0; n--, a++, codes += words_of(bits)) {
        fetch_ahead(bits, codes);
#define STEP(j) add_quad(bits, j, a, codes, sum);
        ALL_QUADS(STEP)
#undef STEP
    }
    for (int s = 0; s < sums_of(bits); s++)
        for (int h = 0; h < 2; h++)
            dot[h] = _mm256_add_epi32(dot[h], _mm256_srai_epi32(sum[s][h], power_of(bits, s)));
}

/* Adds quad j of a unit to the sums of mr tokens. */
ALWAYS_INLINE void step(const int bits, const int mr, const int j, const bal_a8 *a, size_t a_stride,
                        const uint32_t *unit, __m256i (*dot)[2])
{
    const __m256i q[2] = {quad(bits, unit, 0, j), quad(bits, unit, 1, j)};
    for (int i = 0; i < mr; i++) {
        const __m256i x = bcast4(a[(size_t)i * a_stride].q + 4 * j);
        for (int h = 0; h < 2; h++) {
            dot[i][h] = _mm256_dpbusd_avx_epi32(dot[i][h], q[h], x);
            KEEP(dot[i][h]);
        }
    }
}

ALWAYS_INLINE void add_all(const int bits, const int mr, size_t n, const bal_a8 *a, size_t a_stride,
                           const uint32_t *codes, __m256i (*dot)[2])
{
    if (mr == 1 && bits <= 8) {
        add_in_place(bits, n, a, codes, dot[0]);
        return;
    }
    for (; n > 0; n--, a++, codes += words_of(bits)) {
        if (bits <= 8) fetch_ahead(bits, codes);
#define STEP(j) step(bits, mr, j, a, a_stride, codes, dot);
        ALL_QUADS(STEP)
#undef STEP
    }
}

#endif
