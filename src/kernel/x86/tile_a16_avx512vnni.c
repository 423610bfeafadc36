/* SPDX-License-Identifier: MIT
 * tile_w*, t* and d4 for AVX-512 with VNNI: the loops of tile_a8_avx512vnni.c, with vpdpwssd, which
 * adds two products of 16 bits to a lane. That is as many products a cycle as vpdpbusd gives for
 * two byte planes, without planes to join, and lets what multiplies have its zero point taken off
 * when it is pulled out. Every unit ends in floats, as its scale asks. What multiplies is that of
 * a16_avx512vnni.h. */
#include "kernel/gemm_tile.h"
#include "kernel/x86/a16_avx512vnni.h"

bal_tile_w2_fn VNNI(bal_tile_w2);
bal_tile_w3_fn VNNI(bal_tile_w3);
bal_tile_w4_fn VNNI(bal_tile_w4);
bal_tile_w6_fn VNNI(bal_tile_w6);
bal_tile_w8_fn VNNI(bal_tile_w8);
bal_tile_t2_fn VNNI(bal_tile_t2);
bal_tile_t3_fn VNNI(bal_tile_t3);
bal_tile_t4_fn VNNI(bal_tile_t4);
bal_tile_d4_fn VNNI(bal_tile_d4);

/* UNITS: pulled out at once, 16 KiB of two panels, beside 7 KiB of a tile. */
enum { T = BAL_TILE_TOKENS, P = BAL_TILE_PANELS, TILES = BAL_TILE_CHUNK / T, UNITS = 8 };

/* Of a unit: pairs of inputs, and words of a panel that hold them. */
enum { PAIRS = 16, PAIR_WORDS = PAIRS * 16 };

typedef struct weights {
    size_t units, units_per_group;
    const uint32_t *codes;
    sides sides[P];
} weights;

/* What the units of a block multiply: pairs of (factor - zero point), and their groups' scales. */
typedef struct block {
    uint32_t pairs[P][UNITS * PAIR_WORDS];
    float scale[P][UNITS][16];
} block;

/* acc += dot * (s * scale) of one unit, dot the sums of its products */
ALWAYS_INLINE void add_unit(const int np, const block *b, size_t k, const uint8_t *x,
                            const bal_tile_unit *beside, float (*acc)[P][16])
{
    const uint32_t *w = b->pairs[0] + k * PAIR_WORDS, *end = w + PAIR_WORDS;
    __m512i dot[T][P];
    __asm__("" : "+r"(end)); /* or gcc 12 unrolls the loop and spills */
#define ZERO(i)                                                                                    \
    for (int p = 0; p < np; p++) {                                                                 \
        dot[i][p] = _mm512_setzero_si512();                                                        \
        KEEP(dot[i][p]);                                                                           \
    }
    ALL_TOKENS(ZERO)
#undef ZERO
    for (; w < end; w += 16, x += 4 * T) {
        __m512i q[P];
        for (int p = 0; p < np; p++) q[p] = word(w + p * UNITS * PAIR_WORDS, 0);
#define TOKEN(i)                                                                                   \
    {                                                                                              \
        const __m512i v = bcast4((const int8_t *)x + 4 * (i));                                     \
        for (int p = 0; p < np; p++) {                                                             \
            dot[i][p] = _mm512_dpwssd_epi32(dot[i][p], q[p], v);                                   \
            KEEP(dot[i][p]);                                                                       \
        }                                                                                          \
    }
        ALL_TOKENS(TOKEN)
#undef TOKEN
    }
#define END(i)                                                                                     \
    for (int p = 0; p < np; p++) {                                                                 \
        const __m512 s = _mm512_loadu_ps(b->scale[p][k]);                                          \
        const __m512 sx = _mm512_mul_ps(s, _mm512_set1_ps(beside->scale[i]));                      \
        _mm512_storeu_ps(acc[i][p], _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[i][p]), sx,             \
                                                    _mm512_loadu_ps(acc[i][p])));                  \
    }
    ALL_TOKENS(END)
#undef END
}

/* Inputs 4j, 4j + 1 and 4j + 2, 4j + 3 of quad j as pairs of 16 bits, less z, a pair too. */
ALWAYS_INLINE void put_pairs(__m512i quad_bytes, __m512i z, uint32_t *out)
{
    const __m512i even = _mm512_and_si512(quad_bytes, _mm512_set1_epi16(255)),
                  odd = _mm512_srli_epi16(quad_bytes, 8);
    const __m512i low = _mm512_and_si512(even, _mm512_set1_epi32(0xffff));
    const __m512i first = _mm512_or_si512(low, _mm512_slli_epi32(odd, 16));
    const __m512i second = _mm512_or_si512(_mm512_srli_epi32(even, 16),
                                           _mm512_and_si512(odd, _mm512_set1_epi32(-65536)));
    _mm512_storeu_si512((void *)out, _mm512_sub_epi16(first, z));
    _mm512_storeu_si512((void *)(out + 16), _mm512_sub_epi16(second, z));
}

/* Units u .. u + n - 1 of panel p. */
ALWAYS_INLINE void fill_block(const int kind, const weights *w, size_t u, size_t n, int p, block *b)
{
    const sides *side = &w->sides[p];
    const size_t words = 16 * (size_t)bits_of(kind);
    const uint32_t *codes = w->codes + ((size_t)p * w->units + u) * words;
    for (size_t k = 0; k < n; k++, codes += words) {
        __m512 s;
        __m512i z;
        const unit_words q = words_of(bits_of(kind), codes);
        fetch(bits_of(kind), codes + UNITS * words); /* of the next block */
        group_of(kind, side, (u + k) / w->units_per_group, &s, &z);
        _mm512_storeu_ps(b->scale[p][k], s);
        z = _mm512_or_si512(z, _mm512_slli_epi32(z, 16));
#define PUT(j) put_pairs(factors(kind, side, &q, j), z, b->pairs[p] + k * PAIR_WORDS + 32 * (j));
        ALL_QUADS(PUT)
#undef PUT
    }
}

ALWAYS_INLINE void all(const int kind, const int np, size_t m, const weights *w, const uint8_t *x,
                       float *y, size_t y_stride)
{
    _Alignas(64) block b;
    _Alignas(64) float acc[TILES][T][P][16];
    const size_t count = (m + T - 1) / T, tile_bytes = bal_tile_bytes_a16(w->units);
    memset(acc, 0, count * sizeof *acc);
    for (size_t u = 0; u < w->units; u += UNITS) {
        const size_t n = w->units - u < UNITS ? w->units - u : UNITS;
        for (int p = 0; p < np; p++) fill_block(kind, w, u, n, p, &b);
        for (size_t t = 0; t < count; t++) {
            const uint8_t *at = x + t * tile_bytes;
            const bal_tile_unit *beside = (const void *)(at + w->units * BAL_TILE_UNIT_A16);
            for (size_t k = 0; k < n; k++)
                add_unit(np, &b, k, at + (u + k) * BAL_TILE_UNIT_A16, beside + u + k, acc[t]);
        }
    }
    for (size_t i = 0; i < m; i++)
        memcpy(y + i * y_stride, acc[i / T][i % T], (size_t)np * 16 * sizeof *y);
}

/* Where the sides of the next panel begin. */
ALWAYS_INLINE sides next_of(const int kind, const sides *first, size_t groups)
{
    sides p = *first;
    p.scales += 16 * (kind & (TABLE | TWO_LEVEL) ? 1 : groups);
    if (kind & TABLE)
        p.steps += 8 * groups;
    else
        p.zeros += 16 * groups;
    if (kind & TWO_LEVEL) p.steps += 16 * groups;
    return p;
}

ALWAYS_INLINE void tiles_of(const int kind, size_t m, int panels, weights *w, const uint8_t *x,
                            float *y, size_t y_stride)
{
    assert(1 <= m && m <= BAL_TILE_CHUNK && w->units && w->units_per_group);
    if (kind & TABLE)
        w->sides[0].level =
            masked(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)w->sides[0].zeros)),
                   (4 << bits_of(kind)) - 1);
    w->sides[1] = next_of(kind, &w->sides[0], (w->units - 1) / w->units_per_group + 1);
    if (panels == 2)
        all(kind, 2, m, w, x, y, y_stride);
    else
        all(kind, 1, m, w, x, y, y_stride);
}

#define TILE_A16(name, kind)                                                                       \
    void VNNI(bal_tile_##name)(size_t m, int panels, size_t units, size_t units_per_group,         \
                               const uint8_t *x, const uint32_t *codes, const uint16_t *scales,    \
                               const uint8_t *steps, const uint8_t *zeros, float *y,               \
                               size_t y_stride)                                                    \
    {                                                                                              \
        weights w = {                                                                              \
            units, units_per_group, codes, {{.scales = scales, .steps = steps, .zeros = zeros}}};  \
        tiles_of(kind, m, panels, &w, x, y, y_stride);                                             \
    }

TILE_A16(w2, 2)
TILE_A16(w3, 3)
TILE_A16(w4, 4)
TILE_A16(w6, 6)
TILE_A16(w8, 8)
TILE_A16(t2, TABLE | 2)
TILE_A16(t3, TABLE | 3)
TILE_A16(t4, TABLE | 4)
TILE_A16(d4, TWO_LEVEL | 4)
