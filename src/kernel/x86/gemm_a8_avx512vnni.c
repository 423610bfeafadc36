/* SPDX-License-Identifier: MIT
 * gemm_a8 for AVX-512 with VNNI: one register holds a quad of all 16 outputs of a panel, and
 * vpdpbusd adds four products of unsigned codes with signed bytes to a 32-bit lane, which no
 * segment overflows. Few tokens take codes out of the words as they go; more tokens take them out
 * once for all, some units at a time (see gemm_a8_avx2.c). */
#include "kernel/gemm_a8.h"

#ifndef BAL_EMULATED_AVX512
#include <immintrin.h>
#define ISA(name) name##_avx512vnni
#endif
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

bal_gemm_a8w2_fn ISA(bal_gemm_a8w2);
bal_gemm_a8w3_fn ISA(bal_gemm_a8w3);
bal_gemm_a8w4_fn ISA(bal_gemm_a8w4);
bal_gemm_a8w6_fn ISA(bal_gemm_a8w6);
bal_gemm_a8w8_fn ISA(bal_gemm_a8w8);

enum {
    MR = 8,    /* tokens multiplied at once: as many independent sums as hide vpdpbusd's latency */
    BLOCK = 32 /* units taken out at once: 16 KiB of bytes */
};

/* Bits of codes that take no taking out: bytes, as 8-bit codes are. */
#define AS_BYTES 8

typedef struct panel {
    const uint32_t *codes;
    const uint16_t *scales;
    const uint8_t *zeros;
} panel;

ALWAYS_INLINE __m512i bcast4(const int8_t *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

ALWAYS_INLINE __m512i word(const uint32_t *unit, int v)
{
    return _mm512_loadu_si512((const void *)(unit + 16 * v));
}

ALWAYS_INLINE __m512i field(__m512i w, const unsigned shift, int mask)
{
    const __m512i m = _mm512_set1_epi8((char)mask);
    return _mm512_and_si512(shift ? _mm512_srli_epi32(w, shift) : w, m);
}

ALWAYS_INLINE __m512i six_bits(const uint32_t *unit, const int j)
{
    if (j < 6) return field(word(unit, j), 0, 63);
    const int v = 3 * (j - 6);
    const __m512i low = field(word(unit, v), 6, 3), mid = field(word(unit, v + 1), 4, 12);
    return _mm512_or_si512(_mm512_or_si512(low, mid), field(word(unit, v + 2), 2, 48));
}

/* Codes of quad j, four per lane. */
ALWAYS_INLINE __m512i quad(const int bits, const uint32_t *unit, const int j)
{
    if (bits == 8) return word(unit, j);
    if (bits == 2) return field(word(unit, j / 4), 2 * (unsigned)(j % 4), 3);
    if (bits == 4) return field(word(unit, j / 2), 4 * (unsigned)(j % 2), 15);
    if (bits == 6) return six_bits(unit, j);
    if (j < 6) return field(word(unit, j / 2), 3 * (unsigned)(j % 2), 7);
    return _mm512_or_si512(field(word(unit, j - 6), 6, 3),
                           field(word(unit, 2), (unsigned)j - 2, 4));
}

#define ALL_QUADS(call) call(0) call(1) call(2) call(3) call(4) call(5) call(6) call(7)

/* dot += sum of code * q_x over n units */
ALWAYS_INLINE void add_units(const int bits, const int mr, size_t n, const bal_a8 *a,
                             size_t a_stride, const uint32_t *codes, __m512i *dot)
{
    for (; n > 0; n--, a++, codes += 16 * bits) {
#define STEP(j)                                                                                    \
    {                                                                                              \
        const __m512i q = quad(bits, codes, j);                                                    \
        for (int i = 0; i < mr; i++)                                                               \
            dot[i] = _mm512_dpbusd_epi32(dot[i], q, bcast4(a[(size_t)i * a_stride].q + 4 * (j)));  \
    }
        ALL_QUADS(STEP)
#undef STEP
    }
}

/* y += (dot - z * sum) * (s * scale) at the end of a segment of weight group g, units begin up to
 * end of mr tokens. */
ALWAYS_INLINE void finish(const int mr, const panel *p, size_t g, const bal_a8 *a, size_t a_stride,
                          size_t begin, size_t end, __m512i *dot, float *y, size_t y_stride)
{
    const __m512 s = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(p->scales + 16 * g)));
    const __m512i z = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(p->zeros + 16 * g)));
    for (int i = 0; i < mr; i++) {
        const bal_a8 *x = a + (size_t)i * a_stride;
        float *out = y + (size_t)i * y_stride;
        const int32_t sum = x[end - 1].sum - (begin ? x[begin - 1].sum : 0);
        const __m512i zx = _mm512_mullo_epi32(z, _mm512_set1_epi32(sum));
        const __m512 d = _mm512_cvtepi32_ps(_mm512_sub_epi32(dot[i], zx));
        const __m512 sx = _mm512_mul_ps(s, _mm512_set1_ps(x[end - 1].scale));
        _mm512_storeu_ps(out, _mm512_fmadd_ps(d, sx, _mm512_loadu_ps(out)));
        dot[i] = _mm512_setzero_si512();
    }
}

/* Units u .. u1 - 1 for mr tokens; p->codes are those of unit u. Of a segment that reaches beyond
 * either end, the sum so far is in carry [mr][16]. */
ALWAYS_INLINE void tile(const int bits, const int mr, const panel *p, bal_a8_walk walk, size_t u,
                        size_t u1, size_t units, const bal_a8 *a, size_t a_stride,
                        int32_t (*carry)[16], float *y, size_t y_stride)
{
    __m512i dot[MR];
    const uint32_t *codes = p->codes;
    for (int i = 0; i < mr; i++) dot[i] = _mm512_loadu_si512((const void *)carry[i]);
    while (u < u1) {
        const size_t left = bal_a8_walk_left(&walk), n = left < u1 - u ? left : u1 - u;
        const size_t begin = walk.begin, g = walk.group;
        add_units(bits, mr, n, a + u, a_stride, codes, dot);
        codes += n * 16 * (size_t)bits, u += n;
        if (bal_a8_walk_on(&walk, n, u) || u == units)
            finish(mr, p, g, a, a_stride, begin, u, dot, y, y_stride);
    }
    for (int i = 0; i < mr; i++) _mm512_storeu_si512((void *)carry[i], dot[i]);
}

#define TILE(bits, rows)                                                                           \
    case rows: tile(bits, rows, p, walk, u, u1, units, a, a_stride, carry, y, y_stride); break;

ALWAYS_INLINE void rows(const int bits, int m, const panel *p, bal_a8_walk walk, size_t u,
                        size_t u1, size_t units, const bal_a8 *a, size_t a_stride,
                        int32_t (*carry)[16], float *y, size_t y_stride)
{
    while (m > 0) {
        const int now = m >= 8 ? 8 : m >= 4 ? 4 : m;
        switch (now) {
            TILE(bits, 8)
            TILE(bits, 4)
            TILE(bits, 3)
            TILE(bits, 2)
            TILE(bits, 1)
        }
        m -= now, a += (size_t)now * a_stride, y += (size_t)now * y_stride, carry += now;
    }
}

/* n units of codes to bytes. */
ALWAYS_INLINE void take_out(const int bits, const uint32_t *codes, size_t n, uint32_t *bytes)
{
    for (; n > 0; n--, codes += 16 * bits, bytes += 16 * AS_BYTES) {
#define PUT(j) _mm512_storeu_si512((void *)(bytes + 16 * (j)), quad(bits, codes, j));
        ALL_QUADS(PUT)
#undef PUT
    }
}

ALWAYS_INLINE void gemm(const int bits, int m, size_t units, size_t units_per_group,
                        size_t units_per_scale, const bal_a8 *a, size_t a_stride, panel p, float *y,
                        size_t y_stride)
{
    int32_t carry[BAL_GEMM_A8_ROWS][16];
    uint32_t bytes[BLOCK * 16 * AS_BYTES];
    assert(1 <= m && m <= BAL_GEMM_A8_ROWS && units && units_per_group && units_per_scale);
    memset(carry, 0, (size_t)m * sizeof *carry);
    for (int i = 0; i < m; i++) memset(y + (size_t)i * y_stride, 0, 16 * sizeof *y);
    if (m <= 4) {
        const bal_a8_walk walk = bal_a8_walk_at(0, units_per_group, units_per_scale);
        rows(bits, m, &p, walk, 0, units, units, a, a_stride, carry, y, y_stride);
        return;
    }
    const uint32_t *codes = p.codes;
    for (size_t u = 0; u < units; u += BLOCK) {
        const size_t n = units - u < BLOCK ? units - u : BLOCK;
        const bal_a8_walk walk = bal_a8_walk_at(u, units_per_group, units_per_scale);
        p.codes = codes + u * 16 * (size_t)bits;
        if (bits < 8) {
            take_out(bits, p.codes, n, bytes);
            p.codes = bytes;
        }
        rows(AS_BYTES, m, &p, walk, u, u + n, units, a, a_stride, carry, y, y_stride);
    }
}

#define GEMM_A8(name, bits)                                                                        \
    void ISA(name)(int m, size_t units, size_t units_per_group, size_t units_per_scale,            \
                   const bal_a8 *a, size_t a_stride, const uint32_t *codes,                        \
                   const uint16_t *scales, const uint8_t *zeros, float *y, size_t y_stride)        \
    {                                                                                              \
        const panel p = {codes, scales, zeros};                                                    \
        gemm(bits, m, units, units_per_group, units_per_scale, a, a_stride, p, y, y_stride);       \
    }

GEMM_A8(bal_gemm_a8w2, 2)
GEMM_A8(bal_gemm_a8w3, 3)
GEMM_A8(bal_gemm_a8w4, 4)
GEMM_A8(bal_gemm_a8w6, 6)
GEMM_A8(bal_gemm_a8w8, 8)
