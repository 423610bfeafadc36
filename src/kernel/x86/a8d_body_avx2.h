/* SPDX-License-Identifier: MIT
 * What gemm_a8d4 is on registers of 256 bits, but for the products of a group: the walk over
 * groups, whose sums meet as integers, and their end in floats, once per segment, which mostly is
 * the row. A panel is two halves of 8 outputs, one 32-bit lane each. mr is a literal at every call,
 * so the loops unroll and sums live in registers at -O3.
 *
 * Whoever includes this says first
 *   MR   tokens multiplied at once, 4 or 6
 * and afterwards what add_run does. */
#ifndef BAL_KERNEL_A8D_BODY_AVX2_H
#define BAL_KERNEL_A8D_BODY_AVX2_H

#include "kernel/gemm_t.h"
#include "kernel/x86/codes_avx2.h"

#include <assert.h>
#include <string.h>

enum { WORDS = 4 * 16 /* of a unit */ };

/* Sum of q_x over units begin .. end - 1 */
ALWAYS_INLINE int32_t sum_of(const bal_a8 *a, size_t begin, size_t end)
{
    return begin ? a[end - 1].sum - a[begin - 1].sum : a[end - 1].sum;
}

/* dot += step * (sum of (code - zero point) * q_x) over units u .. end - 1, which share a group. */
ALWAYS_INLINE void add_run(const int mr, size_t u, size_t end, const bal_a8 *a, size_t a_stride,
                           const uint32_t *codes, const uint8_t *steps, const uint8_t *zeros,
                           __m256i (*dot)[2]);

/* acc += dot * (s * scale), and dot from 0 again */
ALWAYS_INLINE void finish(const int mr, const bal_a8 *last, size_t a_stride, const __m256 s[2],
                          __m256i (*dot)[2], float *y, size_t y_stride)
{
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) {
            float *out = y + (size_t)i * y_stride + 8 * h;
            const __m256 sx = _mm256_mul_ps(s[h], _mm256_set1_ps(last[(size_t)i * a_stride].scale));
            const __m256 d = _mm256_cvtepi32_ps(dot[i][h]);
            _mm256_storeu_ps(out, _mm256_fmadd_ps(d, sx, _mm256_loadu_ps(out)));
            dot[i][h] = _mm256_setzero_si256();
        }
}

ALWAYS_INLINE void tile(const int mr, size_t units, size_t units_per_group, size_t units_per_scale,
                        const bal_a8 *a, size_t a_stride, const uint32_t *codes,
                        const uint16_t *scales, const uint8_t *steps, const uint8_t *zeros,
                        float *y, size_t y_stride)
{
    __m256i dot[MR][2];
    __m256 s[2];
    for (int h = 0; h < 2; h++)
        s[h] = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(scales + 8 * h)));
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) {
            _mm256_storeu_ps(y + (size_t)i * y_stride + 8 * h, _mm256_setzero_ps());
            dot[i][h] = _mm256_setzero_si256();
        }
    bal_a8_walk groups = bal_a8_walk_at(0, units_per_group, units_per_scale);
    for (size_t u = 0; u < units;) {
        const size_t left = bal_a8_walk_left(&groups), g = groups.group;
        const size_t end = left < units - u ? u + left : units;
        add_run(mr, u, end, a, a_stride, codes, steps + 16 * g, zeros + 16 * g, dot);
        bal_a8_walk_on(&groups, end - u, end);
        u = end;
        if (u % units_per_scale == 0 || u % BAL_A8_SEGMENT == 0 || u == units)
            finish(mr, a + u - 1, a_stride, s, dot, y, y_stride);
    }
}

#define TILE(rows)                                                                                 \
    case rows:                                                                                     \
        tile(rows, units, units_per_group, units_per_scale, a, a_stride, codes, scales, steps,     \
             zeros, y, y_stride);                                                                  \
        break;

ALWAYS_INLINE void gemm(int m, size_t units, size_t units_per_group, size_t units_per_scale,
                        const bal_a8 *a, size_t a_stride, const uint32_t *codes,
                        const uint16_t *scales, const uint8_t *steps, const uint8_t *zeros,
                        float *y, size_t y_stride)
{
    assert(1 <= m && m <= BAL_GEMM_A8_ROWS && units && units_per_group && units_per_scale);
    for (; m > 0; m -= MR, a += MR * a_stride, y += MR * y_stride) {
        switch (m) {
#if MR > 4
        default:
            TILE(6)
            TILE(5)
            TILE(4)
#else
        default: TILE(4)
#endif
            TILE(3)
            TILE(2)
            TILE(1)
        }
    }
}

#define GEMM_A8D(name)                                                                             \
    bal_gemm_a8d_fn name;                                                                          \
    void name(int m, size_t units, size_t units_per_group, size_t units_per_scale,                 \
              const bal_a8 *a, size_t a_stride, const uint32_t *codes, const uint16_t *scales,     \
              const uint8_t *steps, const uint8_t *zeros, float *y, size_t y_stride)               \
    {                                                                                              \
        gemm(m, units, units_per_group, units_per_scale, a, a_stride, codes, scales, steps, zeros, \
             y, y_stride);                                                                         \
    }

#endif
