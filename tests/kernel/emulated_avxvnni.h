/* SPDX-License-Identifier: MIT
 * Lets src/kernel/x86/ *_avxvnni.c be compiled and checked on any processor with AVX2: its one
 * instruction beyond that is written out. Force-included ahead of those files, whose functions then
 * end in _emulatedavxvnni. */
#ifndef BAL_TESTS_EMULATED_AVXVNNI_H
#define BAL_TESTS_EMULATED_AVXVNNI_H

#include <immintrin.h>
#include <stdint.h>

#define AVXVNNI(name) name##_emulatedavxvnni

/* sum + four products of unsigned bytes of q with signed ones of x, in each lane of 32 bits */
static inline __m256i emulated_dpbusd(__m256i sum, __m256i q, __m256i x)
{
    int32_t s[8];
    uint8_t a[32];
    int8_t b[32];
    _mm256_storeu_si256((void *)s, sum);
    _mm256_storeu_si256((void *)a, q);
    _mm256_storeu_si256((void *)b, x);
    for (int i = 0; i < 32; i++) s[i / 4] += a[i] * b[i];
    return _mm256_loadu_si256((const void *)s);
}

#undef _mm256_dpbusd_avx_epi32
#define _mm256_dpbusd_avx_epi32(sum, q, x) emulated_dpbusd(sum, q, x)

#endif
