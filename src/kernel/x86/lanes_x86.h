/* SPDX-License-Identifier: MIT
 * What both lanes_avx2.h and lanes_avx512.h, which include this, do on AVX2 registers. */
#ifndef BAL_KERNEL_LANES_X86_H
#define BAL_KERNEL_LANES_X86_H

/* A hint: p need not be an address that may be read. */
#define PREFETCH_L2(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

/* v16_sum of eight times 16 lanes at p, half as many instructions each: after each addition two
 * sums share a register. Short inputs (attention's heads) spend as much on these sums as on
 * products. */
ALWAYS_INLINE void v16_sum_eight(const float *p, float *out)
{
    __m256 t[8];
    for (int i = 0; i < 8; i++)
        t[i] = _mm256_add_ps(_mm256_loadu_ps(p + 16 * i), _mm256_loadu_ps(p + 16 * i + 8));
    for (int i = 0; i < 4; i++)
        t[i] = _mm256_add_ps(_mm256_permute2f128_ps(t[2 * i], t[2 * i + 1], 0x20),
                             _mm256_permute2f128_ps(t[2 * i], t[2 * i + 1], 0x31));
    for (int i = 0; i < 2; i++) /* lower halves: sums 0, 2 and 4, 6; upper: 1, 3 and 5, 7 */
        t[i] = _mm256_add_ps(_mm256_shuffle_ps(t[2 * i], t[2 * i + 1], 0x44),
                             _mm256_shuffle_ps(t[2 * i], t[2 * i + 1], 0xee));
    const __m256 sums =
        _mm256_add_ps(_mm256_shuffle_ps(t[0], t[1], 0x88), _mm256_shuffle_ps(t[0], t[1], 0xdd));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(sums, order));
}

/* 8 x 8 floats, dst[c][i] = src[i][c]; row strides in elements */
ALWAYS_INLINE void transpose8(const float *src, size_t ld, float *dst, size_t ldd)
{
    __m256 a[8], t[8];
    for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_ps(src + (size_t)i * ld);
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int h = 0; h < 2; h++) {
            a[i + 2 * h] = _mm256_shuffle_ps(t[i + h], t[i + 2 + h], 0x44);
            a[i + 2 * h + 1] = _mm256_shuffle_ps(t[i + h], t[i + 2 + h], 0xee);
        }
    for (int c = 0; c < 4; c++) {
        _mm256_storeu_ps(dst + (size_t)c * ldd, _mm256_permute2f128_ps(a[c], a[c + 4], 0x20));
        _mm256_storeu_ps(dst + (size_t)(c + 4) * ldd, _mm256_permute2f128_ps(a[c], a[c + 4], 0x31));
    }
}

#endif
