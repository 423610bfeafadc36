/* SPDX-License-Identifier: MIT
 * Sixteen float lanes on AVX-512: one register; the same names as lanes_avx2.h. A test compiles the
 * *_avx512.c files a second time against an emulation of the intrinsics: it then includes the
 * emulation first and defines BAL_EMULATED_AVX512 and ISA (tests/kernel/emulated_avx512.h). */
#ifndef BAL_KERNEL_LANES_AVX512_H
#define BAL_KERNEL_LANES_AVX512_H

#ifndef BAL_EMULATED_AVX512
#include <immintrin.h>
#define ISA(name) name##_avx512
#endif
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#include "kernel/x86/lanes_x86.h"

typedef __m512 v16;

/* One register: 16 lanes are PARTS of them with VEC lanes each. */
typedef __m512 vec;
enum { VEC = 16, PARTS = 1 };

ALWAYS_INLINE vec vec_zero(void)
{
    return _mm512_setzero_ps();
}

ALWAYS_INLINE vec vec_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

ALWAYS_INLINE void vec_store(float *p, vec x)
{
    _mm512_storeu_ps(p, x);
}

/* *p in every lane */
ALWAYS_INLINE vec vec_splat(const float *p)
{
    return _mm512_set1_ps(*p);
}

ALWAYS_INLINE vec vec_add(vec x, vec y)
{
    return _mm512_add_ps(x, y);
}

ALWAYS_INLINE vec vec_fma(vec x, vec y, vec z)
{
    return _mm512_fmadd_ps(x, y, z);
}

ALWAYS_INLINE v16 v16_add(v16 x, v16 y)
{
    return _mm512_add_ps(x, y);
}

ALWAYS_INLINE v16 v16_sub(v16 x, v16 y)
{
    return _mm512_sub_ps(x, y);
}

ALWAYS_INLINE v16 v16_mul(v16 x, v16 y)
{
    return _mm512_mul_ps(x, y);
}

ALWAYS_INLINE v16 v16_div(v16 x, v16 y)
{
    return _mm512_div_ps(x, y);
}

/* x > y ? x : y, so y where either is NaN */
ALWAYS_INLINE v16 v16_max(v16 x, v16 y)
{
    return _mm512_max_ps(x, y);
}

/* x < y ? x : y */
ALWAYS_INLINE v16 v16_min(v16 x, v16 y)
{
    return _mm512_min_ps(x, y);
}

ALWAYS_INLINE v16 v16_round(v16 x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

ALWAYS_INLINE v16 v16_set1(float x)
{
    return _mm512_set1_ps(x);
}

ALWAYS_INLINE v16 v16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

ALWAYS_INLINE void v16_store(float *p, v16 x)
{
    _mm512_storeu_ps(p, x);
}

/* x * y + z, rounded once */
ALWAYS_INLINE v16 v16_fma(v16 x, v16 y, v16 z)
{
    return _mm512_fmadd_ps(x, y, z);
}

ALWAYS_INLINE v16 v16_negate(v16 x)
{
    return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
}

ALWAYS_INLINE v16 v16_from_bf16(const void *p)
{
    const __m512i h = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(h, 16));
}

ALWAYS_INLINE v16 v16_from_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}

/* x * 2^n for whole n in -252..254, applied as two factors (ref/exp_ref.h) */
ALWAYS_INLINE v16 v16_ldexp(v16 x, v16 n)
{
    const __m512i e = _mm512_cvtps_epi32(n), bias = _mm512_set1_epi32(127);
    const __m512i half = _mm512_srai_epi32(e, 1), rest = _mm512_sub_epi32(e, half);
    const __m512i f = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
    const __m512i g = _mm512_slli_epi32(_mm512_add_epi32(rest, bias), 23);
    return _mm512_mul_ps(_mm512_mul_ps(x, _mm512_castsi512_ps(f)), _mm512_castsi512_ps(g));
}

/* The tree h = 8, 4, 2, 1 with l + (l + h). */
ALWAYS_INLINE float v16_sum(v16 x)
{
    const __m256 t8 = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    const __m128 t4 = _mm_add_ps(_mm256_castps256_ps128(t8), _mm256_extractf128_ps(t8, 1));
    const __m128 t2 = _mm_add_ps(t4, _mm_movehl_ps(t4, t4));
    return _mm_cvtss_f32(_mm_add_ss(t2, _mm_movehdup_ps(t2)));
}

/* That sum of each of 16 times 16 lanes, a[4 i + j] at lane 4 i + j: after each addition two sums,
 * or twice as many, share a register. */
#define HAVE_V16_SUM_SIXTEEN
ALWAYS_INLINE v16 v16_sum_sixteen(const v16 a[16])
{
    v16 row[4];
    for (int j = 0; j < 4; j++) {
        v16 pair[2];
        for (int h = 0; h < 2; h++) {
            const v16 x = a[8 * h + j], y = a[8 * h + 4 + j];
            pair[h] =
                _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
        }
        row[j] = _mm512_add_ps(_mm512_shuffle_f32x4(pair[0], pair[1], 0x88),
                               _mm512_shuffle_f32x4(pair[0], pair[1], 0xdd));
    }
    for (int j = 0; j < 4; j += 2)
        row[j] = _mm512_add_ps(_mm512_shuffle_ps(row[j], row[j + 1], 0x44),
                               _mm512_shuffle_ps(row[j], row[j + 1], 0xee));
    return _mm512_add_ps(_mm512_shuffle_ps(row[0], row[2], 0x88),
                         _mm512_shuffle_ps(row[0], row[2], 0xdd));
}

/* The first n < 16 lanes from p, the others 0. */
ALWAYS_INLINE v16 v16_load_first(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps((uint16_t)((1u << n) - 1), p);
}

/* The same tree with b > a ? b : a for lanes a = l, b = l + h. */
ALWAYS_INLINE float v16_max_across(v16 x)
{
    const __m256 t8 = _mm256_max_ps(_mm512_extractf32x8_ps(x, 1), _mm512_castps512_ps256(x));
    const __m128 t4 = _mm_max_ps(_mm256_extractf128_ps(t8, 1), _mm256_castps256_ps128(t8));
    const __m128 t2 = _mm_max_ps(_mm_movehl_ps(t4, t4), t4);
    return _mm_cvtss_f32(_mm_max_ss(_mm_movehdup_ps(t2), t2));
}

#endif
