/* SPDX-License-Identifier: MIT
 * Sixteen float lanes on AVX2: two registers. Float contracts count in 16 lanes (kernel/gemm_nt.h,
 * activation.h), so the *_body.h files are written once against these names; lanes_avx512.h is the
 * other implementation. Everything is static: nothing compiled here may reach another object. */
#ifndef BAL_KERNEL_LANES_AVX2_H
#define BAL_KERNEL_LANES_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#include "kernel/x86/lanes_x86.h"

typedef struct v16 {
    __m256 a, b; /* lanes 0..7, 8..15 */
} v16;

/* One register: 16 lanes are PARTS of them with VEC lanes each. */
typedef __m256 vec;
enum { VEC = 8, PARTS = 2 };

ALWAYS_INLINE vec vec_zero(void)
{
    return _mm256_setzero_ps();
}

ALWAYS_INLINE vec vec_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

ALWAYS_INLINE void vec_store(float *p, vec x)
{
    _mm256_storeu_ps(p, x);
}

/* *p in every lane */
ALWAYS_INLINE vec vec_splat(const float *p)
{
    return _mm256_broadcast_ss(p);
}

ALWAYS_INLINE vec vec_add(vec x, vec y)
{
    return _mm256_add_ps(x, y);
}

ALWAYS_INLINE vec vec_fma(vec x, vec y, vec z)
{
    return _mm256_fmadd_ps(x, y, z);
}

#define V16_UNARY(name, op)                                                                        \
    ALWAYS_INLINE v16 name(v16 x)                                                                  \
    {                                                                                              \
        return (v16){op(x.a), op(x.b)};                                                            \
    }
#define V16_BINARY(name, op)                                                                       \
    ALWAYS_INLINE v16 name(v16 x, v16 y)                                                           \
    {                                                                                              \
        return (v16){op(x.a, y.a), op(x.b, y.b)};                                                  \
    }

#define ROUND_EVEN(x) _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

V16_BINARY(v16_add, _mm256_add_ps)
V16_BINARY(v16_sub, _mm256_sub_ps)
V16_BINARY(v16_mul, _mm256_mul_ps)
V16_BINARY(v16_div, _mm256_div_ps)
V16_BINARY(v16_max, _mm256_max_ps) /* x > y ? x : y, so y where either is NaN */
V16_BINARY(v16_min, _mm256_min_ps) /* x < y ? x : y */
V16_UNARY(v16_round, ROUND_EVEN)

ALWAYS_INLINE v16 v16_set1(float x)
{
    return (v16){_mm256_set1_ps(x), _mm256_set1_ps(x)};
}

ALWAYS_INLINE v16 v16_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}

ALWAYS_INLINE void v16_store(float *p, v16 x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}

/* x * y + z, rounded once */
ALWAYS_INLINE v16 v16_fma(v16 x, v16 y, v16 z)
{
    return (v16){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

ALWAYS_INLINE v16 v16_negate(v16 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){_mm256_xor_ps(x.a, sign), _mm256_xor_ps(x.b, sign)};
}

ALWAYS_INLINE v16 v16_from_bf16(const void *p)
{
    const __m256i h = _mm256_loadu_si256(p);
    const __m256i a = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(h));
    const __m256i b = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(h, 1));
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
}

ALWAYS_INLINE v16 v16_from_f16(const void *p)
{
    const __m256i h = _mm256_loadu_si256(p);
    return (v16){_mm256_cvtph_ps(_mm256_castsi256_si128(h)),
                 _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))};
}

ALWAYS_INLINE __m256 ldexp8(__m256 x, __m256 n)
{
    const __m256i e = _mm256_cvtps_epi32(n), bias = _mm256_set1_epi32(127);
    const __m256i half = _mm256_srai_epi32(e, 1), rest = _mm256_sub_epi32(e, half);
    const __m256i f = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i g = _mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(f)), _mm256_castsi256_ps(g));
}

/* x * 2^n for whole n in -252..254, applied as two factors (ref/exp_ref.h) */
ALWAYS_INLINE v16 v16_ldexp(v16 x, v16 n)
{
    return (v16){ldexp8(x.a, n.a), ldexp8(x.b, n.b)};
}

/* The tree h = 8, 4, 2, 1 with l + (l + h). */
ALWAYS_INLINE float v16_sum(v16 x)
{
    const __m256 t8 = _mm256_add_ps(x.a, x.b);
    const __m128 t4 = _mm_add_ps(_mm256_castps256_ps128(t8), _mm256_extractf128_ps(t8, 1));
    const __m128 t2 = _mm_add_ps(t4, _mm_movehl_ps(t4, t4));
    return _mm_cvtss_f32(_mm_add_ss(t2, _mm_movehdup_ps(t2)));
}

/* The same tree with b > a ? b : a for lanes a = l, b = l + h. */
ALWAYS_INLINE float v16_max_across(v16 x)
{
    const __m256 t8 = _mm256_max_ps(x.b, x.a);
    const __m128 t4 = _mm_max_ps(_mm256_extractf128_ps(t8, 1), _mm256_castps256_ps128(t8));
    const __m128 t2 = _mm_max_ps(_mm_movehl_ps(t4, t4), t4);
    return _mm_cvtss_f32(_mm_max_ss(_mm_movehdup_ps(t2), t2));
}

#endif
