/* SPDX-License-Identifier: MIT
 * gemm_t2, t3, t4 and d4 for AVX2. Products are those of gemm_w_avx2.c, which explains them: two
 * halves of 8 outputs, unsigned bytes times the two byte planes of the activations, summed in 16
 * bits. With a table the codes go through one vpshufb, which makes levels of them, and sums hold
 * for as many quads as the levels allow: 8 of two bits (8 * 2 * 15 * 128 = 30720), 4 of three
 * (4 * 2 * 31 * 128 = 31744), 2 of four (2 * 2 * 63 * 128 = 32256).
 * More than a few tokens have the levels pulled out once for all. kind and mr are literals at every
 * call, so the loops unroll and sums live in registers at -O3. */
#include "kernel/gemm_t.h"
#include "kernel/x86/codes_avx2.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

bal_gemm_t2_fn bal_gemm_t2_avx2;
bal_gemm_t3_fn bal_gemm_t3_avx2;
bal_gemm_t4_fn bal_gemm_t4_avx2;
bal_gemm_d4_fn bal_gemm_d4_avx2;

/* MR: tokens multiplied at once; FEW: tokens up to which codes are pulled out as they are needed;
 * BLOCK: units pulled out at once, 16 KiB. */
enum { MR = 2, FEW = 4, BLOCK = 32 };

/* The number of bits, and for two levels a bit that is none. */
enum { T2 = 2, T3 = 3, T4 = 4, D4 = 4 | 16 };

ALWAYS_INLINE int bits_of(const int kind)
{
    return kind & 15;
}

/* Quads that 16-bit sums hold. */
ALWAYS_INLINE int held(const int kind)
{
    return kind == T3 ? 4 : kind == T4 ? 2 : 8;
}

typedef struct sides {
    const uint16_t *scales;
    const uint8_t *steps, *zeros;
    __m256i level; /* of each code, twice */
} sides;

/* Their levels. */
ALWAYS_INLINE __m256i levels(const int kind, const sides *s, __m256i (*w)[2], const int h,
                             const int j)
{
    const __m256i q = quad_of_words(bits_of(kind), w, h, j);
    return kind == D4 ? q : _mm256_shuffle_epi8(s->level, q);
}

ALWAYS_INLINE void load_words(const int kind, const uint32_t *codes, __m256i (*w)[2])
{
    for (int v = 0; v < bits_of(kind); v++)
        for (int h = 0; h < 2; h++) w[v][h] = load(codes + 16 * v + 8 * h);
}

/* Adds quad j of the unit to the 16-bit sums of mr tokens. */
ALWAYS_INLINE void step(const int kind, const bool pulled, const int mr, const int j,
                        const bal_a16 *a, size_t a_stride, const uint32_t *codes, const sides *s,
                        __m256i (*w)[2], __m256i (*lo)[2], __m256i (*hi)[2])
{
    const __m256i v[2] = {pulled ? load(codes + 16 * j) : levels(kind, s, w, 0, j),
                          pulled ? load(codes + 16 * j + 8) : levels(kind, s, w, 1, j)};
    for (int i = 0; i < mr; i++) {
        const bal_a16 *x = a + (size_t)i * a_stride;
        const __m256i xl = bcast4(x->lo + 4 * j), xh = bcast4(x->hi + 4 * j);
        for (int h = 0; h < 2; h++) {
            lo[i][h] = _mm256_add_epi16(lo[i][h], _mm256_maddubs_epi16(v[h], xl));
            hi[i][h] = _mm256_add_epi16(hi[i][h], _mm256_maddubs_epi16(v[h], xh));
            KEEP(lo[i][h]);
            KEEP(hi[i][h]);
        }
    }
}

/* 16-bit sums to 32 bits, and from 0 again. */
ALWAYS_INLINE void flush(const int mr, const bool first, __m256i (*lo)[2], __m256i (*hi)[2],
                         __m256i (*dot)[2])
{
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) {
            const __m256i d = _mm256_add_epi32(_mm256_madd_epi16(lo[i][h], _mm256_set1_epi16(1)),
                                               _mm256_madd_epi16(hi[i][h], _mm256_set1_epi16(256)));
            dot[i][h] = first ? d : _mm256_add_epi32(dot[i][h], d);
            lo[i][h] = hi[i][h] = _mm256_setzero_si256();
        }
}

/* dot[i][h] = sum of level * q_x over one unit. The steps are written out since gcc 12 leaves a
 * loop over j rolled and the sums in memory. */
ALWAYS_INLINE void dot_unit(const int kind, const bool pulled, const int mr, const bal_a16 *a,
                            size_t a_stride, const uint32_t *codes, const sides *s,
                            __m256i (*dot)[2])
{
    __m256i w[4][2], lo[MR][2], hi[MR][2];
    if (!pulled) load_words(kind, codes, w);
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) lo[i][h] = hi[i][h] = _mm256_setzero_si256();
#define QUAD(j)                                                                                    \
    step(kind, pulled, mr, j, a, a_stride, codes, s, w, lo, hi);                                   \
    if ((j + 1) % held(kind) == 0) flush(mr, j + 1 == held(kind), lo, hi, dot);
    ALL_QUADS(QUAD)
#undef QUAD
}

/* What group g of the panel multiplies and subtracts. */
ALWAYS_INLINE void group_of(const int kind, const sides *p, size_t g, __m256 s[2], __m256i z[2])
{
    const __m128i table_steps =
        _mm_setr_epi8(1, 2, 3, 4, 5, 6, 7, 8, -1, -2, -3, -4, -5, -6, -7, -8);
    const __m128i both = _mm_loadl_epi64((const void *)(p->steps + 8 * g));
    for (int h = 0; h < 2; h++) {
        const __m256 row = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(p->scales + 8 * h)));
        const uint8_t *side = p->steps + 16 * g + 8 * h;
        const __m128i four = _mm_and_si128(h ? _mm_srli_epi16(both, 4) : both, _mm_set1_epi8(15));
        const __m256i m = kind == D4 ? _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)side))
                                     : _mm256_cvtepi8_epi32(_mm_shuffle_epi8(table_steps, four));
        s[h] = _mm256_mul_ps(row, _mm256_cvtepi32_ps(m));
        if (kind == D4)
            z[h] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(p->zeros + 16 * g + 8 * h)));
        else
            z[h] = _mm256_set1_epi32(p->zeros[16] & ((4 << kind) - 1));
    }
}

/* The end of one unit: acc += (dot - z * sum) * (s * scale). */
ALWAYS_INLINE void finish(const int mr, const bal_a16 *a, size_t a_stride, __m256i (*dot)[2],
                          const __m256 s[2], const __m256i z[2], __m256 (*acc)[2])
{
    for (int i = 0; i < mr; i++) {
        const bal_a16 *x = a + (size_t)i * a_stride;
        for (int h = 0; h < 2; h++) {
            const __m256i zx = _mm256_mullo_epi32(z[h], _mm256_set1_epi32(x->sum));
            const __m256 sx = _mm256_mul_ps(s[h], _mm256_set1_ps(x->scale));
            const __m256 d = _mm256_cvtepi32_ps(_mm256_sub_epi32(dot[i][h], zx));
            acc[i][h] = _mm256_fmadd_ps(d, sx, acc[i][h]);
        }
    }
}

/* n units, of which the first is unit u, for mr tokens; codes are words or, if pulled, levels. */
ALWAYS_INLINE void tile(const int kind, const bool pulled, const int mr, size_t u, size_t n,
                        size_t units_per_group, const bal_a16 *a, size_t a_stride,
                        const uint32_t *codes, const sides *p, float *y, size_t y_stride)
{
    const size_t words = pulled ? 8 * 16 : 16 * (size_t)bits_of(kind);
    __m256 acc[MR][2], s[2];
    __m256i z[2], dot[MR][2];
    size_t g = u / units_per_group, left = units_per_group - u % units_per_group;
    for (int r = 0; r < mr; r++)
        for (int h = 0; h < 2; h++) acc[r][h] = _mm256_loadu_ps(y + (size_t)r * y_stride + 8 * h);
    group_of(kind, p, g, s, z);
    for (size_t k = 0; k < n; k++, left--, a++, codes += words) {
        if (left == 0) {
            g++, left = units_per_group;
            group_of(kind, p, g, s, z);
        }
        if (!pulled) fetch_ahead(bits_of(kind), codes);
        dot_unit(kind, pulled, mr, a, a_stride, codes, p, dot);
        finish(mr, a, a_stride, dot, s, z, acc);
    }
    for (int r = 0; r < mr; r++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(y + (size_t)r * y_stride + 8 * h, acc[r][h]);
}

/* Tokens two by two. */
ALWAYS_INLINE void tiles(const int kind, const bool pulled, size_t rows, size_t u, size_t n,
                         size_t units_per_group, const bal_a16 *a, size_t a_stride,
                         const uint32_t *codes, const sides *p, float *y, size_t y_stride)
{
#define TILE(mr) tile(kind, pulled, mr, u, n, units_per_group, a, a_stride, codes, p, y, y_stride)
    for (; rows >= 2; rows -= 2, a += 2 * a_stride, y += 2 * y_stride) TILE(2);
    if (rows) TILE(1);
#undef TILE
}

ALWAYS_INLINE void pull(const int kind, const uint32_t *codes, size_t n, const sides *p,
                        uint32_t *out)
{
    for (; n > 0; n--, codes += 16 * bits_of(kind), out += 8 * 16) {
        __m256i w[4][2];
        load_words(kind, codes, w);
#define PUT(j)                                                                                     \
    _mm256_store_si256((void *)(out + 16 * j), levels(kind, p, w, 0, j));                          \
    _mm256_store_si256((void *)(out + 16 * j + 8), levels(kind, p, w, 1, j));
        ALL_QUADS(PUT)
#undef PUT
    }
}

ALWAYS_INLINE void many(const int kind, size_t rows, size_t units, size_t units_per_group,
                        const bal_a16 *a, size_t a_stride, const uint32_t *codes, const sides *p,
                        float *y, size_t y_stride)
{
    _Alignas(32) uint32_t pulled[BLOCK * 8 * 16];
    for (size_t u = 0; u < units; u += BLOCK, codes += BLOCK * 16 * bits_of(kind), a += BLOCK) {
        const size_t n = units - u < BLOCK ? units - u : BLOCK;
        pull(kind, codes, n, p, pulled);
        tiles(kind, true, rows, u, n, units_per_group, a, a_stride, pulled, p, y, y_stride);
    }
}

ALWAYS_INLINE void gemm(const int kind, int m, size_t units, size_t units_per_group,
                        const bal_a16 *a, size_t a_stride, const uint32_t *codes,
                        const uint16_t *scales, const uint8_t *steps, const uint8_t *zeros,
                        float *y, size_t y_stride)
{
    assert(1 <= m && m <= BAL_GEMM_W_MR && units && units_per_group);
    sides p = {.scales = scales, .steps = steps, .zeros = zeros};
    if (kind != D4) {
        const __m128i table = _mm_loadu_si128((const void *)zeros);
        p.level = _mm256_and_si256(_mm256_broadcastsi128_si256(table),
                                   _mm256_set1_epi8((char)((4 << kind) - 1)));
    }
    for (int i = 0; i < m; i++) memset(y + (size_t)i * y_stride, 0, 16 * sizeof *y);
    if (m > FEW)
        many(kind, (size_t)m, units, units_per_group, a, a_stride, codes, &p, y, y_stride);
    else
        tiles(kind, false, (size_t)m, 0, units, units_per_group, a, a_stride, codes, &p, y,
              y_stride);
}

#define GEMM_T(name, kind)                                                                         \
    void bal_gemm_##name##_avx2(int m, size_t units, size_t units_per_group, const bal_a16 *a,     \
                                size_t a_stride, const uint32_t *codes, const uint16_t *scales,    \
                                const uint8_t *steps, const uint8_t *zeros, float *y,              \
                                size_t y_stride)                                                   \
    {                                                                                              \
        gemm(kind, m, units, units_per_group, a, a_stride, codes, scales, steps, zeros, y,         \
             y_stride);                                                                            \
    }

GEMM_T(t2, T2)
GEMM_T(t3, T3)
GEMM_T(t4, T4)
GEMM_T(d4, D4)
