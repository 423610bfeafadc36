/* SPDX-License-Identifier: MIT
 * How the AVX2 kernels of packed weights read code words (type/packed.h): a panel is two halves of
 * 8 outputs, one 32-bit lane each, four codes of a quad to a lane. Everything is static: nothing
 * compiled here may reach another object. */
#ifndef BAL_KERNEL_CODES_AVX2_H
#define BAL_KERNEL_CODES_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define BYTES8 1 /* 8-bit codes are multiplied as they stand */

#ifndef AVXVNNI /* else emulated, tests/kernel/emulated_avxvnni.h */
#define AVXVNNI(name) name##_avxvnni
#endif

/* A sum that must exist here: gcc 12 otherwise reorders the integer additions, first making all
 * products of a unit and spilling them (1.5x slower with 2 tokens or more). */
#define KEEP(v) __asm__("" : "+x"(v))

/* How far ahead of the unit in work code words are fetched, to the second cache; see
 * codes_avx512.h. Here, one thread at W3: 61 % of the read limit with 2 KiB, 78 % with 16. */
enum { PREFETCH_BYTES = 16384 };

/* Fetches the words of the unit PREFETCH_BYTES ahead. */
ALWAYS_INLINE void fetch_ahead(const int bits, const uint32_t *unit)
{
    for (int v = 0; v < bits; v++)
        _mm_prefetch((const char *)(unit + 16 * v) + PREFETCH_BYTES, _MM_HINT_T1);
}

ALWAYS_INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256(p);
}

/* Four activations to every lane. */
ALWAYS_INLINE __m256i bcast4(const int8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

ALWAYS_INLINE __m256i field(__m256i word, int shift, int mask)
{
    const __m256i m = _mm256_set1_epi8((char)mask);
    return _mm256_and_si256(shift ? _mm256_srli_epi32(word, shift) : word, m);
}

/* Codes of 2 to 4 bits of quad j of half h; w[v] is word v of the unit. */
ALWAYS_INLINE __m256i quad_of_words(const int bits, __m256i (*w)[2], const int h, const int j)
{
    if (bits == 2) return field(w[j / 4][h], 2 * (j % 4), 3);
    if (bits == 4) return field(w[j / 2][h], 4 * (j % 2), 15);
    if (j < 6) return field(w[j / 2][h], 3 * (j % 2), 7);
    return _mm256_or_si256(field(w[j - 6][h], 6, 3), field(w[2][h], j - 2, 4));
}

/* ---- Where a kernel reads a unit's words as it goes --------------------------------------------
 * bits: 2, 3, 4, 6 or 8, or BYTES(bits) of codes that were taken out to bytes before; a literal at
 * every call. */

#define BYTES(bits) ((bits) + 16)

/* Words of one unit. */
ALWAYS_INLINE int words_of(const int bits)
{
    return bits > 8 ? 8 * 16 : bits * 16;
}

ALWAYS_INLINE __m256i word(const uint32_t *unit, int v, int h)
{
    return load(unit + 16 * v + 8 * h);
}

/* quad of 6 bits */
ALWAYS_INLINE __m256i wide_quad(const uint32_t *unit, const int h, const int j)
{
    if (j < 6) return field(word(unit, j, h), 0, 63);
    const int v = 3 * (j - 6);
    const __m256i low = field(word(unit, v, h), 6, 3), mid = field(word(unit, v + 1, h), 4, 12);
    return _mm256_or_si256(_mm256_or_si256(low, mid), field(word(unit, v + 2, h), 2, 48));
}

/* Codes of quad j of half h, four per lane; eight bits and bytes as they stand. */
ALWAYS_INLINE __m256i quad(const int bits, const uint32_t *unit, const int h, const int j)
{
    if (bits >= 8) return word(unit, j, h);
    if (bits == 2) return field(word(unit, j / 4, h), 2 * (j % 4), 3);
    if (bits == 4) return field(word(unit, j / 2, h), 4 * (j % 2), 15);
    if (bits == 6) return wide_quad(unit, h, j);
    if (j < 6) return field(word(unit, j / 2, h), 3 * (j % 2), 7);
    return _mm256_or_si256(field(word(unit, j - 6, h), 6, 3), field(word(unit, 2, h), j - 2, 4));
}

#define ALL_QUADS(call) call(0) call(1) call(2) call(3) call(4) call(5) call(6) call(7)

#endif
