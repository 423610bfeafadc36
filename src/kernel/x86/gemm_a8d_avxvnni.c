/* SPDX-License-Identifier: MIT
 * gemm_a8d4 for AVX-VNNI; read a8d_body_avx2.h and a8_avxvnni.h. */
#include "kernel/x86/a8_avxvnni.h"

#include "kernel/x86/a8d_body_avx2.h"

ALWAYS_INLINE void add_run(const int mr, size_t u, size_t end, const bal_a8 *a, size_t a_stride,
                           const uint32_t *codes, const uint8_t *steps, const uint8_t *zeros,
                           __m256i (*dot)[2])
{
    __m256i run[MR][2];
    for (int i = 0; i < mr; i++) run[i][0] = run[i][1] = _mm256_setzero_si256();
    add_all(4, mr, end - u, a + u, a_stride, codes + u * WORDS, run);
    for (int h = 0; h < 2; h++) {
        const __m256i m = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(steps + 8 * h)));
        const __m256i z = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(zeros + 8 * h)));
        for (int i = 0; i < mr; i++) {
            const __m256i sum = _mm256_set1_epi32(sum_of(a + (size_t)i * a_stride, u, end));
            const __m256i d = _mm256_sub_epi32(run[i][h], _mm256_mullo_epi32(z, sum));
            dot[i][h] = _mm256_add_epi32(dot[i][h], _mm256_mullo_epi32(m, d));
        }
    }
}

GEMM_A8D(AVXVNNI(bal_gemm_a8d4))
