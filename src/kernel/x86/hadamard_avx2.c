/* SPDX-License-Identifier: MIT
 * The transform for AVX2: a run stays in registers or next to them from the first stage to the
 * last; the first three stages meet inside a register, the others between two. */
#include "kernel/hadamard.h"

#include <immintrin.h>
#include <math.h>

bal_hadamard_fn bal_hadamard_avx2;

enum { VECTORS = BAL_HADAMARD_MOST / 8 };

/* Stages 1, 2 and 4. The upper of two that meet is (lower) - (upper): its partner minus itself. */
static inline __m256 inside(__m256 x)
{
    __m256 other = _mm256_permute_ps(x, 0xb1);
    x = _mm256_blend_ps(_mm256_add_ps(x, other), _mm256_sub_ps(other, x), 0xaa);
    other = _mm256_permute_ps(x, 0x4e);
    x = _mm256_blend_ps(_mm256_add_ps(x, other), _mm256_sub_ps(other, x), 0xcc);
    other = _mm256_permute2f128_ps(x, x, 0x01);
    return _mm256_blend_ps(_mm256_add_ps(x, other), _mm256_sub_ps(other, x), 0xf0);
}

void bal_hadamard_avx2(float *x, size_t n, size_t block)
{
    const __m256 scale = _mm256_set1_ps(1.0f / sqrtf((float)block));
    const size_t vectors = block / 8;
    __m256 v[VECTORS];
    for (size_t at = 0; at < n; at += block) {
        for (size_t i = 0; i < vectors; i++) v[i] = inside(_mm256_loadu_ps(x + at + 8 * i));
        for (size_t half = 1; half < vectors; half *= 2)
            for (size_t i = 0; i < vectors; i++) {
                if (i & half) continue;
                const __m256 a = v[i], b = v[i + half];
                v[i] = _mm256_add_ps(a, b);
                v[i + half] = _mm256_sub_ps(a, b);
            }
        for (size_t i = 0; i < vectors; i++)
            _mm256_storeu_ps(x + at + 8 * i, _mm256_mul_ps(v[i], scale));
    }
}
