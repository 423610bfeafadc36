/* SPDX-License-Identifier: MIT
 * The products of a16_body_avx2.h for AVX-VNNI; included by gemm_w_avxvnni.c and gemm_t_avxvnni.c.
 * vpdpbusd adds four products of unsigned codes, or of the levels that a table gives them, with
 * each byte plane of the activations to 32-bit sums of their own, which meet at the end of a unit.
 */
#ifndef BAL_KERNEL_A16_AVXVNNI_H
#define BAL_KERNEL_A16_AVXVNNI_H

#define MR 3 /* 12 sums, two registers of codes, one of activations: of 16 */
#include "kernel/x86/a16_body_avx2.h"

/* Adds quad j of the unit to the sums of mr tokens. */
ALWAYS_INLINE void step(const int mr, const int j, const bal_a16 *a, size_t a_stride,
                        const __m256i q[2], __m256i (*lo)[2], __m256i (*hi)[2])
{
    for (int i = 0; i < mr; i++) {
        const bal_a16 *x = a + (size_t)i * a_stride;
        const __m256i xl = bcast4(x->lo + 4 * j), xh = bcast4(x->hi + 4 * j);
        for (int h = 0; h < 2; h++) {
            lo[i][h] = _mm256_dpbusd_avx_epi32(lo[i][h], q[h], xl);
            hi[i][h] = _mm256_dpbusd_avx_epi32(hi[i][h], q[h], xh);
            KEEP(lo[i][h]);
            KEEP(hi[i][h]);
        }
    }
}

ALWAYS_INLINE void dot_unit(const int kind, const bool pulled, const int mr, const bal_a16 *a,
                            size_t a_stride, const uint32_t *codes, const sides *p,
                            __m256i (*dot)[2])
{
    __m256i w[4][2], lo[MR][2], hi[MR][2];
    if (!pulled) load_words(kind, codes, w);
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) lo[i][h] = hi[i][h] = _mm256_setzero_si256();
#define STEP(j)                                                                                    \
    {                                                                                              \
        const __m256i q[2] = {pulled ? word(codes, j, 0) : factors(kind, p, codes, w, 0, j),       \
                              pulled ? word(codes, j, 1) : factors(kind, p, codes, w, 1, j)};      \
        step(mr, j, a, a_stride, q, lo, hi);                                                       \
    }
    ALL_QUADS(STEP)
#undef STEP
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++)
            dot[i][h] = _mm256_add_epi32(lo[i][h], _mm256_slli_epi32(hi[i][h], 8));
}

#endif
