/* SPDX-License-Identifier: MIT
 * tile_a8w* for AVX-512 with VNNI. Twelve tokens times two panels are 24 sums of 16 outputs: a quad
 * of both panels and four bytes of twelve tokens, 14 loads, feed 24 vpdpbusd. Codes of some units
 * are taken out to bytes that stay in the first cache while all tiles pass by; sums of a segment
 * that goes on in the next units wait in `carry`. The zero point is taken off by vpdpwssd: the sum
 * of the activations is 128 h + l with both in 16 bits, since a segment has 1024 units at most, and
 * is multiplied by the pair 128 z, z. */
#include <assert.h>

#include "kernel/gemm_tile.h"
#include "kernel/x86/codes_avx512.h"

bal_tile_a8w2_fn VNNI(bal_tile_a8w2);
bal_tile_a8w3_fn VNNI(bal_tile_a8w3);
bal_tile_a8w4_fn VNNI(bal_tile_a8w4);
bal_tile_a8w6_fn VNNI(bal_tile_a8w6);
bal_tile_a8w8_fn VNNI(bal_tile_a8w8);

/* BLOCK: units taken out at once, 16 KiB of two panels. */
enum { T = BAL_TILE_TOKENS, P = BAL_TILE_PANELS, TILES = BAL_TILE_CHUNK / T, BLOCK = 16 };

/* Words of a unit as bytes. */
enum { BYTE_WORDS = 8 * 16 };

typedef struct weights {
    size_t units, groups, units_per_group, units_per_scale;
    const uint32_t *codes;
    const uint16_t *scales;
    const uint8_t *zeros;
} weights;

/* Of all tiles, between blocks. */
typedef struct sums {
    float acc[TILES][T][P][16];
    int32_t carry[TILES][T][P][16];
} sums;

/* dot += codes * activations of n units */
ALWAYS_INLINE void add_units(const int np, size_t n, const uint8_t *x, const uint32_t *bytes,
                             __m512i (*dot)[P])
{
    for (size_t j = 0; j < 8 * n; j++, x += 4 * T, bytes += 16) {
        __m512i w[P];
        for (int p = 0; p < np; p++) w[p] = word(bytes + p * BLOCK * BYTE_WORDS, 0);
#define TOKEN(i)                                                                                   \
    {                                                                                              \
        const __m512i v = bcast4((const int8_t *)x + 4 * (i));                                     \
        for (int p = 0; p < np; p++) {                                                             \
            dot[i][p] = _mm512_dpbusd_epi32(dot[i][p], w[p], v);                                   \
            KEEP(dot[i][p]);                                                                       \
        }                                                                                          \
    }
        ALL_TOKENS(TOKEN)
#undef TOKEN
    }
}

/* The sums of the activations of units begin .. end - 1 as pairs of 16 bits: -sum = 128 h + l. */
ALWAYS_INLINE void sum_pairs(const bal_tile_unit *beside, size_t begin, size_t end, int32_t *pair)
{
    __m512i minus = _mm512_setzero_si512();
    if (begin) minus = _mm512_loadu_si512((const void *)beside[begin - 1].sum);
    minus = _mm512_sub_epi32(minus, _mm512_loadu_si512((const void *)beside[end - 1].sum));
    const __m512i h = _mm512_and_si512(_mm512_srai_epi32(minus, 7), _mm512_set1_epi32(0xffff));
    const __m512i l = _mm512_and_si512(minus, _mm512_set1_epi32(127));
    _mm512_storeu_si512((void *)pair, _mm512_or_si512(h, _mm512_slli_epi32(l, 16)));
}

/* acc += (dot - z * sum) * (s * scale) at the end of a segment of weight group g */
ALWAYS_INLINE void finish(const int np, const weights *w, size_t g, const bal_tile_unit *beside,
                          size_t begin, size_t end, __m512i (*dot)[P], float (*acc)[P][16])
{
    int32_t pair[16];
    sum_pairs(beside, begin, end, pair);
    __asm__("" : "+m"(pair)); /* loads broadcast for nothing; gcc 12 would shuffle a register */
    __m512 sc[P];
    __m512i zz[P];
    for (int p = 0; p < np; p++) {
        const size_t at = 16 * ((size_t)p * w->groups + g);
        const __m512i z = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(w->zeros + at)));
        sc[p] = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(w->scales + at)));
        zz[p] = _mm512_or_si512(_mm512_slli_epi32(z, 7), _mm512_slli_epi32(z, 16));
    }
#define END(i)                                                                                     \
    for (int p = 0; p < np; p++) {                                                                 \
        const __m512i d = _mm512_dpwssd_epi32(dot[i][p], zz[p], _mm512_set1_epi32(pair[i]));       \
        const __m512 sx = _mm512_mul_ps(sc[p], _mm512_set1_ps(beside[end - 1].scale[i]));          \
        _mm512_storeu_ps(acc[i][p],                                                                \
                         _mm512_fmadd_ps(_mm512_cvtepi32_ps(d), sx, _mm512_loadu_ps(acc[i][p])));  \
        dot[i][p] = _mm512_setzero_si512();                                                        \
        KEEP(dot[i][p]);                                                                           \
    }
    ALL_TOKENS(END)
#undef END
}

/* Units u .. u1 - 1 of one tile; bytes are those of unit u. */
ALWAYS_INLINE void tile(const int np, const weights *w, bal_a8_walk walk, size_t u, size_t u1,
                        const uint8_t *x, const uint32_t *bytes, float (*acc)[P][16],
                        int32_t (*carry)[P][16])
{
    const bal_tile_unit *beside = (const void *)(x + w->units * BAL_TILE_UNIT_A8);
    __m512i dot[T][P];
#define LOAD(i)                                                                                    \
    for (int p = 0; p < np; p++) dot[i][p] = _mm512_loadu_si512((const void *)carry[i][p]);
    ALL_TOKENS(LOAD)
#undef LOAD
    while (u < u1) {
        const size_t left = bal_a8_walk_left(&walk), n = left < u1 - u ? left : u1 - u;
        const size_t begin = walk.begin, g = walk.group;
        add_units(np, n, x + u * BAL_TILE_UNIT_A8, bytes, dot);
        bytes += n * BYTE_WORDS, u += n;
        if (bal_a8_walk_on(&walk, n, u) || u == w->units)
            finish(np, w, g, beside, begin, u, dot, acc);
    }
#define STORE(i)                                                                                   \
    for (int p = 0; p < np; p++) _mm512_storeu_si512((void *)carry[i][p], dot[i][p]);
    ALL_TOKENS(STORE)
#undef STORE
}

/* n units of one panel to bytes; those of the next block are fetched meanwhile. */
ALWAYS_INLINE void take_out(const int bits, const uint32_t *codes, size_t n, uint32_t *bytes)
{
    for (; n > 0; n--, codes += 16 * bits, bytes += BYTE_WORDS) {
        const unit_words u = words_of(bits, codes);
        fetch(bits, codes + BLOCK * 16 * bits);
#define PUT(j) _mm512_storeu_si512((void *)(bytes + 16 * (j)), quad(bits, &u, j));
        ALL_QUADS(PUT)
#undef PUT
    }
}

ALWAYS_INLINE void all(const int bits, const int np, size_t m, const weights *w,
                       const uint8_t *tiles, float *y, size_t y_stride)
{
    _Alignas(64) uint32_t bytes[P * BLOCK * BYTE_WORDS];
    _Alignas(64) sums s;
    const size_t count = (m + T - 1) / T, tile_bytes = bal_tile_bytes_a8(w->units);
    memset(s.acc, 0, count * sizeof *s.acc);
    memset(s.carry, 0, count * sizeof *s.carry);
    for (size_t u = 0; u < w->units; u += BLOCK) {
        const size_t n = w->units - u < BLOCK ? w->units - u : BLOCK;
        const bal_a8_walk walk = bal_a8_walk_at(u, w->units_per_group, w->units_per_scale);
        for (int p = 0; p < np; p++)
            take_out(bits, w->codes + ((size_t)p * w->units + u) * 16 * (size_t)bits, n,
                     bytes + p * BLOCK * BYTE_WORDS);
        for (size_t t = 0; t < count; t++)
            tile(np, w, walk, u, u + n, tiles + t * tile_bytes, bytes, s.acc[t], s.carry[t]);
    }
    for (size_t i = 0; i < m; i++)
        memcpy(y + i * y_stride, s.acc[i / T][i % T], (size_t)np * 16 * sizeof *y);
}

#define TILE_A8(bits)                                                                              \
    void VNNI(bal_tile_a8w##bits)(size_t m, int panels, size_t units, size_t units_per_group,      \
                                  size_t units_per_scale, const uint8_t *tiles,                    \
                                  const uint32_t *codes, const uint16_t *scales,                   \
                                  const uint8_t *zeros, float *y, size_t y_stride)                 \
    {                                                                                              \
        assert(1 <= m && m <= BAL_TILE_CHUNK && units && units_per_group && units_per_scale);      \
        const weights w = {units,                                                                  \
                           (units - 1) / units_per_group + 1,                                      \
                           units_per_group,                                                        \
                           units_per_scale,                                                        \
                           codes,                                                                  \
                           scales,                                                                 \
                           zeros};                                                                 \
        if (panels == 2)                                                                           \
            all(bits, 2, m, &w, tiles, y, y_stride);                                               \
        else                                                                                       \
            all(bits, 1, m, &w, tiles, y, y_stride);                                               \
    }

TILE_A8(2)
TILE_A8(3)
TILE_A8(4)
TILE_A8(6)
TILE_A8(8)
