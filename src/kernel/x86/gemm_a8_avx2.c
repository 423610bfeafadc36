/* SPDX-License-Identifier: MIT
 * gemm_a8 for AVX2. A panel is two halves of 8 outputs, one 32-bit lane each.
 * Codes of 2 to 4 bits are unsigned bytes times signed bytes (vpmaddubsw), summed in 16 bits for as
 * long as those hold: 8 products of two bytes reach at most 8 * 2 * 15 * 127 = 30480, so one unit
 * of 4-bit codes, two of 3 bits, four of 2 bits. Of six bits they hold two products, 2 * 2 * 63 *
 * 127 = 32004. Eight-bit codes would overflow in the first
 * product; they become v = q - 128, and |v| * (x with the sign of v) is at most 2 * 128 * 127 =
 * 32512. Few tokens take codes out of the words as they go. More tokens take them out once for all,
 * some units at a time, into bytes that stay in the first cache.
 * bits and mr are literals at every call, so the loops unroll and sums live in registers at -O3. */
#include "kernel/gemm_a8.h"
#include "kernel/x86/codes_avx2.h"

#include <assert.h>
#include <string.h>

bal_gemm_a8w2_fn bal_gemm_a8w2_avx2;
bal_gemm_a8w3_fn bal_gemm_a8w3_avx2;
bal_gemm_a8w4_fn bal_gemm_a8w4_avx2;
bal_gemm_a8w6_fn bal_gemm_a8w6_avx2;
bal_gemm_a8w8_fn bal_gemm_a8w8_avx2;

enum {
    MR = 4,    /* tokens multiplied at once: 8 sums of 16 bits, two registers of codes */
    BLOCK = 32 /* units taken out at once: 16 KiB of bytes, half of the first cache */
};

/* Bits of codes whose bytes were taken out already; the value is not a number of bits. */
#define BYTES(bits) ((bits) + 16)

typedef struct panel {
    const uint32_t *codes; /* words, or bytes that were taken out, of the first unit in work */
    const uint16_t *scales;
    const uint8_t *zeros;
} panel;

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

/* Codes of quad j of half h, four per lane. */
ALWAYS_INLINE __m256i quad(const int bits, const uint32_t *unit, const int h, const int j)
{
    if (bits > 8) return word(unit, j, h);
    if (bits == 2) return field(word(unit, j / 4, h), 2 * (j % 4), 3);
    if (bits == 4) return field(word(unit, j / 2, h), 4 * (j % 2), 15);
    if (bits == 6) return wide_quad(unit, h, j);
    if (j < 6) return field(word(unit, j / 2, h), 3 * (j % 2), 7);
    return _mm256_or_si256(field(word(unit, j - 6, h), 6, 3), field(word(unit, 2, h), j - 2, 4));
}

/* Words of one unit. */
ALWAYS_INLINE int words_of(const int bits)
{
    return bits > 8 ? 8 * 16 : bits * 16;
}

/* Units that 16-bit sums hold. */
ALWAYS_INLINE size_t units_held(const int bits)
{
    return bits % 16 == 4 ? 1 : bits % 16 == 3 ? 2 : 4;
}

/* Adds quad j of a unit to the 16-bit sums of mr tokens. */
ALWAYS_INLINE void step(const int bits, const int mr, const int j, const bal_a8 *a, size_t a_stride,
                        const uint32_t *unit, __m256i (*s)[2])
{
    const __m256i q[2] = {quad(bits, unit, 0, j), quad(bits, unit, 1, j)};
    for (int i = 0; i < mr; i++) {
        const __m256i x = bcast4(a[(size_t)i * a_stride].q + 4 * j);
        for (int h = 0; h < 2; h++) {
            s[i][h] = _mm256_add_epi16(s[i][h], _mm256_maddubs_epi16(q[h], x));
            KEEP(s[i][h]);
        }
    }
}

/* Quads j and j + 1 of 6 bits, to 32-bit sums. */
ALWAYS_INLINE void step6(const int bits, const int mr, const int j, const bal_a8 *a,
                         size_t a_stride, const uint32_t *unit, __m256i (*dot)[2])
{
    for (int h = 0; h < 2; h++) {
        const __m256i q0 = quad(bits, unit, h, j), q1 = quad(bits, unit, h, j + 1);
        for (int i = 0; i < mr; i++) {
            const int8_t *x = a[(size_t)i * a_stride].q + 4 * j;
            const __m256i p = _mm256_add_epi16(_mm256_maddubs_epi16(q0, bcast4(x)),
                                               _mm256_maddubs_epi16(q1, bcast4(x + 4)));
            dot[i][h] = _mm256_add_epi32(dot[i][h], _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
            KEEP(dot[i][h]);
        }
    }
}

/* The same for 8 bits, to 32-bit sums: 4 operations for 32 products where step has 2. */
ALWAYS_INLINE void step8(const int mr, const int j, const bal_a8 *a, size_t a_stride,
                         const uint32_t *unit, __m256i (*dot)[2])
{
    for (int h = 0; h < 2; h++) {
        const __m256i v = _mm256_xor_si256(word(unit, j, h), _mm256_set1_epi8(-128));
        const __m256i size = _mm256_abs_epi8(v);
        for (int i = 0; i < mr; i++) {
            const __m256i x = _mm256_sign_epi8(bcast4(a[(size_t)i * a_stride].q + 4 * j), v);
            const __m256i p = _mm256_maddubs_epi16(size, x);
            dot[i][h] = _mm256_add_epi32(dot[i][h], _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
            KEEP(dot[i][h]);
        }
    }
}

#define ALL_QUADS(call) call(0) call(1) call(2) call(3) call(4) call(5) call(6) call(7)

/* dot += sum of code * q_x over n units; the steps are written out since gcc 12 leaves a loop over
 * j rolled and the sums in memory. */
ALWAYS_INLINE void add_units(const int bits, const int mr, size_t n, const bal_a8 *a,
                             size_t a_stride, const uint32_t *codes, __m256i (*dot)[2])
{
    const size_t held = units_held(bits);
    while (n > 0) {
        __m256i s[MR][2];
        size_t now = n < held ? n : held;
        n -= now;
        for (int i = 0; i < mr; i++) s[i][0] = s[i][1] = _mm256_setzero_si256();
        for (; now > 0; now--, a++, codes += words_of(bits)) {
            if (bits < 8) fetch_ahead(bits, codes);
#define STEP(j) step(bits, mr, j, a, a_stride, codes, s);
            ALL_QUADS(STEP)
#undef STEP
        }
        for (int i = 0; i < mr; i++)
            for (int h = 0; h < 2; h++)
                dot[i][h] =
                    _mm256_add_epi32(dot[i][h], _mm256_madd_epi16(s[i][h], _mm256_set1_epi16(1)));
    }
}

ALWAYS_INLINE void add_units6(const int bits, const int mr, size_t n, const bal_a8 *a,
                              size_t a_stride, const uint32_t *codes, __m256i (*dot)[2])
{
    for (; n > 0; n--, a++, codes += words_of(bits)) {
        if (bits < 8) fetch_ahead(bits, codes);
        step6(bits, mr, 0, a, a_stride, codes, dot);
        step6(bits, mr, 2, a, a_stride, codes, dot);
        step6(bits, mr, 4, a, a_stride, codes, dot);
        step6(bits, mr, 6, a, a_stride, codes, dot);
    }
}

ALWAYS_INLINE void add_units8(const int mr, size_t n, const bal_a8 *a, size_t a_stride,
                              const uint32_t *codes, __m256i (*dot)[2])
{
    for (; n > 0; n--, a++, codes += 8 * 16) {
        fetch_ahead(8, codes);
#define STEP(j) step8(mr, j, a, a_stride, codes, dot);
        ALL_QUADS(STEP)
#undef STEP
    }
}

ALWAYS_INLINE __m256i bcast32(const int32_t *p)
{
    return _mm256_set1_epi32(*p);
}

/* Sum of q_x over units begin .. end - 1, in every lane. */
ALWAYS_INLINE __m256i sum_of(const bal_a8 *a, size_t begin, size_t end)
{
    const __m256i all = bcast32(&a[end - 1].sum);
    return begin ? _mm256_sub_epi32(all, bcast32(&a[begin - 1].sum)) : all;
}

/* y += (dot - z * sum) * (s * scale) at the end of a segment of weight group g, units begin up to
 * end of mr tokens; codes of 8 bits were multiplied as q - 128. */
ALWAYS_INLINE void finish(const int bits, const int mr, const panel *p, size_t g, const bal_a8 *a,
                          size_t a_stride, size_t begin, size_t end, __m256i (*dot)[2], float *y,
                          size_t y_stride)
{
    for (int h = 0; h < 2; h++) {
        const size_t at = 16 * g + 8 * (size_t)h;
        const __m256 s = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p->scales + at)));
        __m256i z = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(p->zeros + at)));
        if (bits == 8) z = _mm256_sub_epi32(z, _mm256_set1_epi32(128));
        for (int i = 0; i < mr; i++) {
            const bal_a8 *x = a + (size_t)i * a_stride;
            float *out = y + (size_t)i * y_stride + 8 * h;
            const __m256i zx = _mm256_mullo_epi32(z, sum_of(x, begin, end));
            const __m256 d = _mm256_cvtepi32_ps(_mm256_sub_epi32(dot[i][h], zx));
            const __m256 sx = _mm256_mul_ps(s, _mm256_set1_ps(x[end - 1].scale));
            _mm256_storeu_ps(out, _mm256_fmadd_ps(d, sx, _mm256_loadu_ps(out)));
            dot[i][h] = _mm256_setzero_si256();
        }
    }
}

/* Units u .. u1 - 1 for mr tokens; p->codes are those of unit u. Of a segment that reaches beyond
 * either end, the sum so far is in carry [mr][16]. */
ALWAYS_INLINE void tile(const int bits, const int mr, const panel *p, bal_a8_walk walk, size_t u,
                        size_t u1, size_t units, const bal_a8 *a, size_t a_stride,
                        int32_t (*carry)[16], float *y, size_t y_stride)
{
    __m256i dot[MR][2];
    const uint32_t *codes = p->codes;
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) dot[i][h] = load(carry[i] + 8 * h);
    while (u < u1) {
        const size_t left = bal_a8_walk_left(&walk), n = left < u1 - u ? left : u1 - u;
        const size_t begin = walk.begin, g = walk.group;
        if (bits == 8)
            add_units8(mr, n, a + u, a_stride, codes, dot);
        else if (bits % 16 == 6)
            add_units6(bits, mr, n, a + u, a_stride, codes, dot);
        else
            add_units(bits, mr, n, a + u, a_stride, codes, dot);
        codes += n * (size_t)words_of(bits), u += n;
        if (!bal_a8_walk_on(&walk, n, u) && u < units) continue;
        finish(bits, mr, p, g, a, a_stride, begin, u, dot, y, y_stride);
    }
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) _mm256_storeu_si256((void *)(carry[i] + 8 * h), dot[i][h]);
}

#define TILE(bits, rows)                                                                           \
    case rows: tile(bits, rows, p, walk, u, u1, units, a, a_stride, carry, y, y_stride); break;

ALWAYS_INLINE void rows(const int bits, int m, const panel *p, bal_a8_walk walk, size_t u,
                        size_t u1, size_t units, const bal_a8 *a, size_t a_stride,
                        int32_t (*carry)[16], float *y, size_t y_stride)
{
    for (; m > 0; m -= MR, a += MR * a_stride, y += MR * y_stride, carry += MR) {
        switch (m) {
        default:
            TILE(bits, 4)
            TILE(bits, 3)
            TILE(bits, 2)
            TILE(bits, 1)
        }
    }
}

/* n units of codes to bytes. */
ALWAYS_INLINE void take_out(const int bits, const uint32_t *codes, size_t n, uint32_t *bytes)
{
    for (; n > 0; n--, codes += words_of(bits), bytes += 8 * 16)
        for (int h = 0; h < 2; h++) {
#define PUT(j) _mm256_store_si256((void *)(bytes + 16 * j + 8 * h), quad(bits, codes, h, j));
            ALL_QUADS(PUT)
#undef PUT
        }
}

ALWAYS_INLINE void gemm(const int bits, int m, size_t units, size_t units_per_group,
                        size_t units_per_scale, const bal_a8 *a, size_t a_stride, panel p, float *y,
                        size_t y_stride)
{
    int32_t carry[BAL_GEMM_A8_ROWS][16];
    _Alignas(32) uint32_t bytes[BLOCK * 8 * 16];
    assert(1 <= m && m <= BAL_GEMM_A8_ROWS && units && units_per_group && units_per_scale);
    memset(carry, 0, (size_t)m * sizeof *carry);
    for (int i = 0; i < m; i++) memset(y + (size_t)i * y_stride, 0, 16 * sizeof *y);
    if (m <= MR) {
        const bal_a8_walk walk = bal_a8_walk_at(0, units_per_group, units_per_scale);
        rows(bits, m, &p, walk, 0, units, units, a, a_stride, carry, y, y_stride);
        return;
    }
    const uint32_t *codes = p.codes;
    for (size_t u = 0; u < units; u += BLOCK) {
        const size_t n = units - u < BLOCK ? units - u : BLOCK;
        const bal_a8_walk walk = bal_a8_walk_at(u, units_per_group, units_per_scale);
        p.codes = codes + u * (size_t)words_of(bits);
        if (bits < 8) {
            take_out(bits, p.codes, n, bytes);
            p.codes = bytes;
        }
        rows(bits < 8 ? BYTES(bits) : 8, m, &p, walk, u, u + n, units, a, a_stride, carry, y,
             y_stride);
    }
}

#define GEMM_A8(bits)                                                                              \
    void bal_gemm_a8w##bits##_avx2(int m, size_t units, size_t units_per_group,                    \
                                   size_t units_per_scale, const bal_a8 *a, size_t a_stride,       \
                                   const uint32_t *codes, const uint16_t *scales,                  \
                                   const uint8_t *zeros, float *y, size_t y_stride)                \
    {                                                                                              \
        const panel p = {codes, scales, zeros};                                                    \
        gemm(bits, m, units, units_per_group, units_per_scale, a, a_stride, p, y, y_stride);       \
    }

GEMM_A8(2)
GEMM_A8(3)
GEMM_A8(4)
GEMM_A8(6)
GEMM_A8(8)
