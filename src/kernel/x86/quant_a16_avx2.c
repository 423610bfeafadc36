/* SPDX-License-Identifier: MIT
 * quant_a16 for AVX2: four registers of 8 floats are one unit. */
#include "kernel/quant_a16.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

bal_quant_a16_fn bal_quant_a16_avx2;

/* Bits of max |x|: magnitudes compare as integers, NaN above infinity above all numbers. */
static inline uint32_t top_bits(const __m256 x[4])
{
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    __m256i m = _mm256_and_si256(_mm256_castps_si256(x[0]), mask);
    for (int i = 1; i < 4; i++)
        m = _mm256_max_epi32(m, _mm256_and_si256(_mm256_castps_si256(x[i]), mask));
    __m128i t = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(t);
}

/* Two registers of 8 int32 to 16 int16 in order. */
static inline __m256i narrow16(__m256i a, __m256i b)
{
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
}

static inline __m256i narrow8(__m256i a, __m256i b)
{
    return _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0xd8);
}

static inline int32_t sum16(__m256i q)
{
    const __m256i s = _mm256_madd_epi16(q, _mm256_set1_epi16(1));
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    return _mm_cvtsi128_si32(t);
}

static inline void quant_unit(const float *p, bal_a16 *out)
{
    __m256 x[4];
    for (int i = 0; i < 4; i++) x[i] = _mm256_loadu_ps(p + 8 * i);
    const uint32_t top = top_bits(x);
    float absmax;
    memcpy(&absmax, &top, sizeof absmax);
    if (top >= 0x7f800000u || absmax < 0x1p-100f) {
        *out = (bal_a16){.scale = top >= 0x7f800000u ? NAN : 0.0f};
        return;
    }
    const __m256 inv = _mm256_set1_ps(BAL_A16_MAX / absmax);
    __m256i q[4], q16[2], hi[2], lo[2];
    for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], inv));
    for (int i = 0; i < 2; i++) {
        q16[i] = narrow16(q[2 * i], q[2 * i + 1]);
        hi[i] = _mm256_srai_epi16(_mm256_add_epi16(q16[i], _mm256_set1_epi16(128)), 8);
        lo[i] = _mm256_sub_epi16(q16[i], _mm256_slli_epi16(hi[i], 8));
    }
    out->scale = absmax / BAL_A16_MAX;
    out->sum = sum16(q16[0]) + sum16(q16[1]);
    _mm256_storeu_si256((void *)out->lo, narrow8(lo[0], lo[1]));
    _mm256_storeu_si256((void *)out->hi, narrow8(hi[0], hi[1]));
}

void bal_quant_a16_avx2(const float *x, size_t k, bal_a16 *out)
{
    for (; k >= 32; k -= 32, x += 32, out++) quant_unit(x, out);
    if (k) {
        float unit[32] = {0};
        memcpy(unit, x, k * sizeof *x);
        quant_unit(unit, out);
    }
}
