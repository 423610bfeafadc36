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
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* How far ahead of the unit in work code words are asked for, to the second cache: farther than a
 * page, at which the processor's own prefetch stops. */
enum { FETCH_BYTES = 16384, TOUCH_BYTES = 12288, PAGE_BYTES = 4096 };

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

/* Written out, since gcc 12 leaves such loops rolled and what they index in memory. */
#define ALL_QUADS(call) call(0) call(1) call(2) call(3) call(4) call(5) call(6) call(7)
/* Of a tile of tokens. */
#define ALL_TOKENS(call) ALL_QUADS(call) call(8) call(9) call(10) call(11)

/* A sum that must exist here, in a register of its own: gcc 12 otherwise copies the sums of a large
 * tile to and fro in every turn of a loop (twice slower). IN_ORDER: that must be loaded before what
 * the next one says. */
#ifdef BAL_EMULATED_AVX512
#define KEEP(v)     (void)(v)
#define IN_ORDER(v) (void)(v)
#else
#define KEEP(v)     __asm__("" : "+v"(v))
#define IN_ORDER(v) __asm__ volatile("" : "+v"(v))
#endif

typedef struct unit_words {
    __m512i w[8];
} unit_words;

/* The words of a unit, read in order: where gcc reads the last one early, the processor's own
 * prefetch sees no stream (8-bit codes, one thread: 18 GB/s instead of 26). */
ALWAYS_INLINE unit_words words_of(const int bits, const uint32_t *unit)
{
    unit_words u;
#define LOAD(v)                                                                                    \
    if (v < bits) {                                                                                \
        u.w[v] = word(unit, v);                                                                    \
        IN_ORDER(u.w[v]);                                                                          \
    }
    ALL_QUADS(LOAD)
#undef LOAD
    return u;
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

ALWAYS_INLINE __m512i six_bits(const unit_words *u, const int j)
{
    if (j < 6) return masked(u->w[j], 63);
    const int v = 3 * (j - 6);
    const __m512i low = field(u->w[v], 6, 3);
    return with_field(with_field(low, u->w[v + 1], 4, 12), u->w[v + 2], 2, 48);
}

/* Codes of quad j, four per lane. */
ALWAYS_INLINE __m512i quad(const int bits, const unit_words *u, const int j)
{
    if (bits == 8) return u->w[j];
    if (bits == 2) return field(u->w[j / 4], 2 * (unsigned)(j % 4), 3);
    if (bits == 4) return field(u->w[j / 2], 4 * (unsigned)(j % 2), 15);
    if (bits == 6) return six_bits(u, j);
    if (j < 6) return field(u->w[j / 2], 3 * (unsigned)(j % 2), 7);
    return with_field(field(u->w[j - 6], 6, 3), u->w[2], (unsigned)j - 2, 4);
}

/* Fetches the words of a unit to the second cache. */
ALWAYS_INLINE void fetch(const int bits, const uint32_t *unit)
{
    for (int v = 0; v < bits; v++) _mm_prefetch((const char *)(unit + 16 * v), _MM_HINT_T1);
}

/* The same of the unit FETCH_BYTES ahead. A core waits for so many lines at once, which is 18 to 20
 * of the 25 GB/s that it can read (Zen 4). */
ALWAYS_INLINE void fetch_ahead(const int bits, const uint32_t *unit)
{
    fetch(bits, unit + FETCH_BYTES / sizeof *unit);
}

/* The first lines of every page alone. The processor's own prefetch goes on from there, with more
 * lines under way, if the loop reads in order, fast and hardly anything else. */
ALWAYS_INLINE void touch_ahead(const int bits, const uint32_t *unit)
{
    if ((uintptr_t)unit % PAGE_BYTES >= 64 * (unsigned)bits) return;
    for (size_t at = TOUCH_BYTES; at < TOUCH_BYTES + 256; at += 64)
        _mm_prefetch((const char *)unit + at, _MM_HINT_T1);
}

#endif
