/* SPDX-License-Identifier: MIT
 * How the AVX-512 kernels of packed weights read code words (type/packed.h): one register holds a
 * word of all 16 outputs of a panel, four codes of a quad to a lane. Everything is static: nothing
 * compiled here may reach another object. A test compiles the files that include this once more
 * against an emulation of the intrinsics (tests/kernel/emulated_avx512.h). */
#ifndef BAL_KERNEL_CODES_AVX512_H
#define BAL_KERNEL_CODES_AVX512_H

#ifndef BAL_EMULATED_AVX512
#include <immintrin.h>
#define VNNI(name) name##_avx512vnni
#endif
#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#define BYTES8 1 /* 8-bit codes are multiplied as they stand */

/* How far ahead of the unit in work code words are fetched, to the second cache: beyond the next
 * page of 4 KiB, since the processor itself stops at a page (measured on Zen 4, one thread, part of
 * the read limit at W3: 48 % with 2 KiB, 70 % with 4, 78 % with 8 to 24, 72 % with 48; to the first
 * cache instead, 65 % with 4). */
enum { PREFETCH_BYTES = 16384 };

/* Four activations to every lane. */
ALWAYS_INLINE __m512i bcast4(const int8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

ALWAYS_INLINE __m512i word(const uint32_t *unit, const int v)
{
    return _mm512_loadu_si512((const void *)(unit + 16 * v));
}

ALWAYS_INLINE __m512i masked(__m512i w, const int mask)
{
    return _mm512_and_si512(w, _mm512_set1_epi8((char)mask));
}

ALWAYS_INLINE __m512i field(__m512i w, const unsigned shift, const int mask)
{
    return masked(shift ? _mm512_srli_epi32(w, shift) : w, mask);
}

/* low | (the field): one instruction for both gates */
ALWAYS_INLINE __m512i with_field(__m512i low, __m512i w, const unsigned shift, const int mask)
{
    const __m512i m = _mm512_set1_epi8((char)mask);
    return _mm512_ternarylogic_epi32(low, _mm512_srli_epi32(w, shift), m, 0xF8); /* a | (b & c) */
}

ALWAYS_INLINE __m512i six_bits(const uint32_t *unit, const int j)
{
    if (j < 6) return masked(word(unit, j), 63);
    const int v = 3 * (j - 6);
    const __m512i low = field(word(unit, v), 6, 3);
    return with_field(with_field(low, word(unit, v + 1), 4, 12), word(unit, v + 2), 2, 48);
}

/* Codes of quad j, four per lane. */
ALWAYS_INLINE __m512i quad(const int bits, const uint32_t *unit, const int j)
{
    if (bits == 8) return word(unit, j);
    if (bits == 2) return field(word(unit, j / 4), 2 * (unsigned)(j % 4), 3);
    if (bits == 4) return field(word(unit, j / 2), 4 * (unsigned)(j % 2), 15);
    if (bits == 6) return six_bits(unit, j);
    if (j < 6) return field(word(unit, j / 2), 3 * (unsigned)(j % 2), 7);
    return with_field(field(word(unit, j - 6), 6, 3), word(unit, 2), (unsigned)j - 2, 4);
}

/* A sum that must exist here, in a register of its own: gcc 12 otherwise copies the sums of a large
 * tile to and fro in every turn of a loop (twice slower). */
#ifdef BAL_EMULATED_AVX512
#define KEEP(v) (void)(v)
#else
#define KEEP(v) __asm__("" : "+v"(v))
#endif

/* Fetches the words of a unit to the second cache. */
ALWAYS_INLINE void fetch(const int bits, const uint32_t *unit)
{
    for (int v = 0; v < bits; v++) _mm_prefetch((const char *)(unit + 16 * v), _MM_HINT_T1);
}

/* The same of the unit PREFETCH_BYTES ahead. */
ALWAYS_INLINE void fetch_ahead(const int bits, const uint32_t *unit)
{
    fetch(bits, unit + PREFETCH_BYTES / sizeof *unit);
}

/* Written out, since gcc 12 leaves such loops rolled and what they index in memory. */
#define ALL_QUADS(call) call(0) call(1) call(2) call(3) call(4) call(5) call(6) call(7)
/* Of a tile of tokens. */
#define ALL_TOKENS(call) ALL_QUADS(call) call(8) call(9) call(10) call(11)

#endif
