/* SPDX-License-Identifier: MIT
 * widen_f16 and widen_i8 for AVX2 with F16C: eight elements a step, the rest one by one. */
#include "kernel/widen.h"

#include <immintrin.h>
#include <string.h>

#include "base/half.h"

bal_widen_f16_fn bal_widen_f16_avx2;
bal_widen_i8_fn bal_widen_i8_avx2;

void bal_widen_f16_avx2(float *y, const uint16_t *x, size_t n)
{
    const uint8_t *bytes = (const void *)x;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i, _mm256_cvtph_ps(_mm_loadu_si128((const void *)(bytes + 2 * i))));
    for (; i < n; i++) {
        uint16_t h;
        memcpy(&h, bytes + 2 * i, sizeof h);
        y[i] = bal_f16_to_f32(h);
    }
}

void bal_widen_i8_avx2(float *y, const int8_t *x, float scale, size_t n)
{
    const __m256 s = _mm256_set1_ps(scale);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(x + i)));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_cvtepi32_ps(q), s));
    }
    for (; i < n; i++) y[i] = (float)x[i] * scale;
}
