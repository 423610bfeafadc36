/* SPDX-License-Identifier: MIT
 * quant_a8 for AVX2, read quant_a8_body.h: one pass over a group for its largest magnitude, one for
 * the bytes. */
#include "kernel/quant_a8.h"

#include <immintrin.h>
#include <string.h>

static inline __m256i magnitudes(const float *p)
{
    const __m256i x = _mm256_loadu_si256((const void *)p);
    return _mm256_and_si256(x, _mm256_set1_epi32(0x7fffffff));
}

static inline uint32_t top_bits(const float *x, size_t n)
{
    __m256i m[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    float tail[16] = {0};
    for (; n >= 16; n -= 16, x += 16)
        for (int h = 0; h < 2; h++) m[h] = _mm256_max_epi32(m[h], magnitudes(x + 8 * h));
    memcpy(tail, x, n * sizeof *x);
    for (int h = 0; h < 2; h++) m[h] = _mm256_max_epi32(m[h], magnitudes(tail + 8 * h));
    m[0] = _mm256_max_epi32(m[0], m[1]);
    __m128i t = _mm_max_epi32(_mm256_castsi256_si128(m[0]), _mm256_extracti128_si256(m[0], 1));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(t);
}

static inline int32_t sum32(__m256i q)
{
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
    const __m256i s = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    return _mm_cvtsi128_si32(t);
}

static inline int32_t quant_unit(const float *p, float inv, int8_t *out)
{
    const __m256 by = _mm256_set1_ps(inv);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256 top = _mm256_set1_ps(BAL_A8_MAX), bottom = _mm256_set1_ps(-BAL_A8_MAX);
    __m256i q[4];
    for (int i = 0; i < 4; i++) {
        const __m256 x = _mm256_mul_ps(_mm256_loadu_ps(p + 8 * i), by);
        q[i] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(x, bottom), top));
    }
    const __m256i a = _mm256_packs_epi32(q[0], q[1]), b = _mm256_packs_epi32(q[2], q[3]);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
    _mm256_storeu_si256((void *)out, bytes);
    return sum32(bytes);
}

#define ISA(name) name##_avx2
#include "kernel/body/quant_a8_body.h"
