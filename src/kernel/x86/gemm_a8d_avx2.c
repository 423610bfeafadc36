/* SPDX-License-Identifier: MIT
 * gemm_a8d4 for AVX2; read a8d_body_avx2.h. Products of a unit fit 16 bits (8 * 2 * 15 * 127 =
 * 30480); what takes them to 32 bits anyway (vpmaddwd) multiplies them by the group's step as it
 * does so, and the end of a group subtracts z * step * sum x. */
#define MR 4 /* 8 sums of 16 bits, two registers of codes */
#include "kernel/x86/a8d_body_avx2.h"

/* Codes of quads 2 v and 2 v + 1 of half h. */
ALWAYS_INLINE void codes_of(const uint32_t *unit, const int h, const int v, __m256i q[2])
{
    const __m256i word = _mm256_loadu_si256((const void *)(unit + 16 * v + 8 * h));
    const __m256i low = _mm256_set1_epi8(15);
    q[0] = _mm256_and_si256(word, low);
    q[1] = _mm256_and_si256(_mm256_srli_epi32(word, 4), low);
}

/* dot += step * (sum of code * q_x) over one unit; step as a pair of 16 bits in every lane */
ALWAYS_INLINE void add_unit(const int mr, const bal_a8 *a, size_t a_stride, const uint32_t *unit,
                            const __m256i step[2], __m256i (*dot)[2])
{
    __m256i s[MR][2];
    for (int i = 0; i < mr; i++) s[i][0] = s[i][1] = _mm256_setzero_si256();
    for (int v = 0; v < 4; v++) {
        __m256i q[2][2];
        codes_of(unit, 0, v, q[0]);
        codes_of(unit, 1, v, q[1]);
        for (int j = 0; j < 2; j++)
            for (int i = 0; i < mr; i++) {
                const __m256i x = bcast4(a[(size_t)i * a_stride].q + 8 * v + 4 * j);
                for (int h = 0; h < 2; h++) {
                    s[i][h] = _mm256_add_epi16(s[i][h], _mm256_maddubs_epi16(q[h][j], x));
                    KEEP(s[i][h]);
                }
            }
    }
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++)
            dot[i][h] = _mm256_add_epi32(dot[i][h], _mm256_madd_epi16(s[i][h], step[h]));
}

/* The zero points are taken off at the end. */
ALWAYS_INLINE void add_run(const int mr, size_t u, size_t end, const bal_a8 *a, size_t a_stride,
                           const uint32_t *codes, const uint8_t *steps, const uint8_t *zeros,
                           __m256i (*dot)[2])
{
    __m256i step[2], off[2];
    for (int h = 0; h < 2; h++) {
        const __m256i m = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(steps + 8 * h)));
        const __m256i z = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(zeros + 8 * h)));
        step[h] = _mm256_or_si256(m, _mm256_slli_epi32(m, 16));
        off[h] = _mm256_mullo_epi16(m, z); /* at most 255 * 255: 16 bits hold it */
    }
    for (size_t at = u; at < end; at++) {
        const uint32_t *unit = codes + at * WORDS;
        fetch_ahead(4, unit);
        add_unit(mr, a + at, a_stride, unit, step, dot);
    }
    for (int i = 0; i < mr; i++) {
        const __m256i sum = _mm256_set1_epi32(sum_of(a + (size_t)i * a_stride, u, end));
        for (int h = 0; h < 2; h++)
            dot[i][h] = _mm256_sub_epi32(dot[i][h], _mm256_mullo_epi32(off[h], sum));
    }
}

GEMM_A8D(bal_gemm_a8d4_avx2)
