/* SPDX-License-Identifier: MIT
 * The end of a unit of 16-bit activations in 256-bit registers, for AVX2's gemm_w and the bodies
 * beside it. Everything is static. */
#ifndef BAL_KERNEL_A16_UNIT_AVX2_H
#define BAL_KERNEL_A16_UNIT_AVX2_H

#include "kernel/gemm_w.h"
#include "kernel/x86/codes_avx2.h"

/* acc += (dot - z * sum) * (s * scale), of mr tokens and both halves of a panel. */
ALWAYS_INLINE void finish(const int mr, const bal_a16 *a, size_t a_stride, __m256i (*dot)[2],
                          const __m256 s[2], const __m256i z[2], __m256 (*acc)[2])
{
    for (int i = 0; i < mr; i++) {
        const bal_a16 *x = a + (size_t)i * a_stride;
        for (int h = 0; h < 2; h++) {
            const __m256i zx = _mm256_mullo_epi32(z[h], _mm256_set1_epi32(x->sum));
            const __m256 sx = _mm256_mul_ps(s[h], _mm256_set1_ps(x->scale));
            const __m256 d = _mm256_cvtepi32_ps(_mm256_sub_epi32(dot[i][h], zx));
            acc[i][h] = _mm256_fmadd_ps(d, sx, acc[i][h]);
        }
    }
}

#endif
