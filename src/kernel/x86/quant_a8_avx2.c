/* SPDX-License-Identifier: MIT
 * quant_a8 for AVX2: one pass over a group for its largest magnitude, one for the bytes. Saturation
 * is in both forms: where the scale was found in the group, nothing is beyond it. */
#include "kernel/quant_a8.h"

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

bal_quant_a8_fn bal_quant_a8_avx2;
bal_quant_a8_fixed_fn bal_quant_a8_fixed_avx2;

static inline __m256i magnitudes(const float *p)
{
    const __m256i x = _mm256_loadu_si256((const void *)p);
    return _mm256_and_si256(x, _mm256_set1_epi32(0x7fffffff));
}

/* Bits of max |x|: magnitudes compare as integers, NaN above infinity above all numbers. */
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

/* 32 floats to bytes in order; returns the sum of them. */
static inline int32_t quant_unit(const float *p, __m256 inv, int8_t *out)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256 top = _mm256_set1_ps(BAL_A8_MAX), bottom = _mm256_set1_ps(-BAL_A8_MAX);
    __m256i q[4];
    for (int i = 0; i < 4; i++) {
        const __m256 x = _mm256_mul_ps(_mm256_loadu_ps(p + 8 * i), inv);
        q[i] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(x, bottom), top));
    }
    const __m256i a = _mm256_packs_epi32(q[0], q[1]), b = _mm256_packs_epi32(q[2], q[3]);
    const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
    _mm256_storeu_si256((void *)out, bytes);
    return sum32(bytes);
}

static void no_numbers(float scale, size_t n_units, int32_t sum, bal_a8 *out)
{
    for (size_t u = 0; u < n_units; u++) out[u] = (bal_a8){.scale = scale, .sum = sum};
}

/* n floats at one scale, inv its inverse; returns the running sum. */
static int32_t quant_units(const float *x, size_t n, float scale, float inv, int32_t sum,
                           bal_a8 *out)
{
    const __m256 by = _mm256_set1_ps(inv);
    for (; n; out++) {
        float unit[32] = {0};
        const size_t count = n < 32 ? n : 32;
        if (count < 32) memcpy(unit, x, count * sizeof *x);
        sum += quant_unit(count < 32 ? unit : x, by, out->q);
        out->scale = scale;
        out->sum = sum;
        n -= count, x += count;
    }
    return sum;
}

static int32_t quant_group(const float *x, size_t n, int32_t sum, bal_a8 *out)
{
    const uint32_t top = top_bits(x, n);
    float absmax;
    memcpy(&absmax, &top, sizeof absmax);
    if (top >= 0x7f800000u || absmax < 0x1p-100f) {
        no_numbers(top >= 0x7f800000u ? NAN : 0.0f, (n + 31) / 32, sum, out);
        return sum;
    }
    return quant_units(x, n, absmax / BAL_A8_MAX, BAL_A8_MAX / absmax, sum, out);
}

void bal_quant_a8_avx2(const float *x, size_t k, size_t group, bal_a8 *out)
{
    const size_t size = group && group < k ? group : k;
    int32_t sum = 0;
    for (size_t at = 0; at < k; at += size)
        sum = quant_group(x + at, k - at < size ? k - at : size, sum, out + at / 32);
}

void bal_quant_a8_fixed_avx2(const float *x, size_t k, float scale, bal_a8 *out)
{
    const bool finite = top_bits(x, k) < 0x7f800000u;
    if (!finite || scale < 0x1p-100f)
        no_numbers(finite ? 0.0f : NAN, (k + 31) / 32, 0, out);
    else
        quant_units(x, k, scale, 1.0f / scale, 0, out);
}
