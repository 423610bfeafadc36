/* SPDX-License-Identifier: MIT
 * Lets src/kernel/x86/ *_avx512.c and *_avx512vnni.c be compiled and checked on any processor:
 * SIMDe emulates the intrinsics, and this file adds the few that SIMDe 0.7 lacks or does not round
 * as the processor does (its multiply-add is not fused without FMA). Single headers: the whole of
 * SIMDe takes half a minute to compile. Force-included ahead of those files, whose functions then
 * end in _emulated or _emulatedvnni. */
#ifndef BAL_TESTS_EMULATED_AVX512_H
#define BAL_TESTS_EMULATED_AVX512_H

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512/add.h>
#include <simde/x86/avx512/and.h>
#include <simde/x86/avx512/broadcast.h>
#include <simde/x86/avx512/cast.h>
#include <simde/x86/avx512/div.h>
#include <simde/x86/avx512/dpbusd.h>
#include <simde/x86/avx512/dpwssd.h>
#include <simde/x86/avx512/loadu.h>
#include <simde/x86/avx512/madd.h>
#include <simde/x86/avx512/maddubs.h>
#include <simde/x86/avx512/max.h>
#include <simde/x86/avx512/min.h>
#include <simde/x86/avx512/mul.h>
#include <simde/x86/avx512/mullo.h>
#include <simde/x86/avx512/or.h>
#include <simde/x86/avx512/set1.h>
#include <simde/x86/avx512/setzero.h>
#include <simde/x86/avx512/shuffle.h>
#include <simde/x86/avx512/slli.h>
#include <simde/x86/avx512/srli.h>
#include <simde/x86/avx512/storeu.h>
#include <simde/x86/avx512/sub.h>
#include <simde/x86/avx512/ternarylogic.h>
#include <simde/x86/avx512/xor.h>
#include <math.h>
#include <string.h>

#include "base/half.h"

#define BAL_EMULATED_AVX512
#define ISA(name)  name##_emulated
#define VNNI(name) name##_emulatedvnni

static inline __m512 emulated_fmadd_ps(__m512 a, __m512 b, __m512 c)
{
    float x[16], y[16], z[16];
    simde_mm512_storeu_ps(x, a);
    simde_mm512_storeu_ps(y, b);
    simde_mm512_storeu_ps(z, c);
    for (int i = 0; i < 16; i++) z[i] = fmaf(x[i], y[i], z[i]);
    return simde_mm512_loadu_ps(z);
}

/* only the rounding that the kernels ask for: to nearest, ties to even */
static inline __m512 emulated_rint_ps(__m512 a)
{
    float x[16];
    simde_mm512_storeu_ps(x, a);
    for (int i = 0; i < 16; i++) x[i] = rintf(x[i]);
    return simde_mm512_loadu_ps(x);
}

static inline __m512i emulated_cvtps_epi32(__m512 a)
{
    float x[16];
    int32_t r[16];
    simde_mm512_storeu_ps(x, a);
    for (int i = 0; i < 16; i++)
        r[i] = fabsf(x[i]) < 0x1p31f ? (int32_t)rintf(x[i]) : INT32_MIN; /* NaN too */
    return simde_mm512_loadu_si512(r);
}

static inline __m512 emulated_cvtepi32_ps(__m512i a)
{
    float r[16];
    int32_t x[16];
    simde_mm512_storeu_si512(x, a);
    for (int i = 0; i < 16; i++) r[i] = (float)x[i];
    return simde_mm512_loadu_ps(r);
}

static inline __m512i emulated_srai_epi32(__m512i a, unsigned count)
{
    int32_t x[16];
    simde_mm512_storeu_si512(x, a);
    for (int i = 0; i < 16; i++) x[i] = x[i] >> count;
    return simde_mm512_loadu_si512(x);
}

static inline __m512 emulated_cvtph_ps(__m256i a)
{
    uint16_t x[16];
    float r[16];
    simde_mm256_storeu_si256((void *)x, a);
    for (int i = 0; i < 16; i++) r[i] = bal_f16_to_f32(x[i]);
    return simde_mm512_loadu_ps(r);
}

static inline __m512i emulated_cvtepu16_epi32(__m256i a)
{
    uint16_t x[16];
    int32_t r[16];
    simde_mm256_storeu_si256((void *)x, a);
    for (int i = 0; i < 16; i++) r[i] = x[i];
    return simde_mm512_loadu_si512(r);
}

static inline __m512i emulated_cvtepu8_epi32(__m128i a)
{
    uint8_t x[16];
    int32_t r[16];
    simde_mm_storeu_si128((void *)x, a);
    for (int i = 0; i < 16; i++) r[i] = x[i];
    return simde_mm512_loadu_si512(r);
}

static inline __m512i emulated_cvtepi8_epi32(__m128i a)
{
    int8_t x[16];
    int32_t r[16];
    simde_mm_storeu_si128((void *)x, a);
    for (int i = 0; i < 16; i++) r[i] = x[i];
    return simde_mm512_loadu_si512(r);
}

static inline __m256 emulated_extractf32x8_ps(__m512 a, int part)
{
    float x[16];
    simde_mm512_storeu_ps(x, a);
    return simde_mm256_loadu_ps(x + 8 * part);
}

/* blocks of four lanes: two of a, then two of b */
static inline __m512 emulated_shuffle_f32x4(__m512 a, __m512 b, int which)
{
    float x[2][16], r[16];
    simde_mm512_storeu_ps(x[0], a);
    simde_mm512_storeu_ps(x[1], b);
    for (int i = 0; i < 4; i++) memcpy(r + 4 * i, x[i / 2] + 4 * (which >> 2 * i & 3), 16);
    return simde_mm512_loadu_ps(r);
}

/* the same of lanes, in each block of four */
static inline __m512 emulated_shuffle_ps(__m512 a, __m512 b, int which)
{
    float x[2][16], r[16];
    simde_mm512_storeu_ps(x[0], a);
    simde_mm512_storeu_ps(x[1], b);
    for (int i = 0; i < 16; i++) r[i] = x[i % 4 / 2][i / 4 * 4 + (which >> 2 * (i % 4) & 3)];
    return simde_mm512_loadu_ps(r);
}

static inline __m512 emulated_maskz_loadu_ps(unsigned mask, const float *p)
{
    float r[16];
    for (int i = 0; i < 16; i++) r[i] = mask >> i & 1 ? p[i] : 0.0f;
    return simde_mm512_loadu_ps(r);
}

#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_ps
#undef _mm512_maskz_loadu_ps
#define _mm512_shuffle_f32x4(a, b, which) emulated_shuffle_f32x4(a, b, which)
#define _mm512_shuffle_ps(a, b, which)    emulated_shuffle_ps(a, b, which)
#define _mm512_maskz_loadu_ps(mask, p)    emulated_maskz_loadu_ps(mask, p)
#undef _mm512_madd_epi16 /* SIMDe 0.7.4 gives these two the arguments of the masked forms */
#undef _mm512_maddubs_epi16
#undef _mm512_fmadd_ps
#undef _mm512_roundscale_ps
#undef _mm512_cvtps_epi32
#undef _mm512_cvtepi32_ps
#undef _mm512_srai_epi32
#undef _mm512_cvtph_ps
#undef _mm512_cvtepu16_epi32
#undef _mm512_cvtepu8_epi32
#undef _mm512_cvtepi8_epi32
#undef _mm512_extractf32x8_ps
#define _mm512_roundscale_ps(a, how) emulated_rint_ps(a)
#define _mm512_madd_epi16(a, b)      simde_mm512_madd_epi16(a, b)
#define _mm512_maddubs_epi16(a, b)   simde_mm512_maddubs_epi16(a, b)
#define _mm512_fmadd_ps(a, b, c)     emulated_fmadd_ps(a, b, c)
#define _mm512_cvtps_epi32(a)        emulated_cvtps_epi32(a)
#define _mm512_cvtepi32_ps(a)        emulated_cvtepi32_ps(a)
#define _mm512_srai_epi32(a, n)      emulated_srai_epi32(a, n)
#define _mm512_cvtph_ps(a)           emulated_cvtph_ps(a)
#define _mm512_cvtepu16_epi32(a)     emulated_cvtepu16_epi32(a)
#define _mm512_cvtepu8_epi32(a)      emulated_cvtepu8_epi32(a)
#define _mm512_cvtepi8_epi32(a)      emulated_cvtepi8_epi32(a)
#define _mm512_extractf32x8_ps(a, n) emulated_extractf32x8_ps(a, n)

#endif
