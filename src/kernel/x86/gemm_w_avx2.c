/* SPDX-License-Identifier: MIT
 * gemm_w for AVX2. A panel is two halves of 8 outputs, one 32-bit lane each. Codes are pulled out
 * as unsigned bytes and multiplied with the two byte planes of the activations (vpmaddubsw); sums
 * stay in 16 bits for a whole unit: 8 products of two bytes reach at most 8 * 2 * 15 * 128 = 30720.
 * Codes of six and eight bits would overflow there and go through 16-bit products (vpmaddwd)
 * instead.
 * Few tokens pull codes out as they go. More tokens have them pulled out once for all, some units
 * at a time, into a buffer that stays in the first cache: with 64 tokens 1.1 times the rate at 2
 * and 4 bits, 1.25 times at 3 bits, which cost most to pull out, and from 6 bits, where the
 * activations' halves are joined in the same go. bits and mr are literals at every call, so the
 * loops unroll and sums live in registers at -O3. */
#include "kernel/gemm_w.h"
#include "kernel/x86/a16_unit_avx2.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

bal_gemm_w2_fn bal_gemm_w2_avx2;
bal_gemm_w3_fn bal_gemm_w3_avx2;
bal_gemm_w4_fn bal_gemm_w4_avx2;
bal_gemm_w6_fn bal_gemm_w6_avx2;
bal_gemm_w8_fn bal_gemm_w8_avx2;

/* Tokens multiplied at once. Two fill the registers (8 sums of 16 bits, the codes of two halves);
 * three or four would have to take the halves in turn and broadcast every activation twice, which
 * measured 0.85 of the rate of two passes with two tokens each. Wider codes that were pulled
 * out leave room for four. */
enum { MR = 4, FEW = 4 };

/* Units whose codes are pulled out at once: 16 KiB, as bytes or from 6 bits as pairs of words. */
enum { BLOCK = 32, BLOCK8 = 16 };

/* Bits of codes that were pulled out already; the values are not numbers of bits. */
#define PULLED(bits) ((bits) + 16)

/* Adds quad j of the unit to the 16-bit sums of mr tokens; codes are read, not w, once they were
 * pulled out. */
ALWAYS_INLINE void step(const int bits, const int mr, const int j, const bal_a16 *a,
                        size_t a_stride, const uint32_t *codes, __m256i (*w)[2], __m256i (*lo)[2],
                        __m256i (*hi)[2])
{
    const bool pulled = bits > 8;
    const __m256i q[2] = {pulled ? load(codes + 16 * j) : quad_of_words(bits, w, 0, j),
                          pulled ? load(codes + 16 * j + 8) : quad_of_words(bits, w, 1, j)};
    for (int i = 0; i < mr; i++) {
        const bal_a16 *x = a + (size_t)i * a_stride;
        const __m256i xl = bcast4(x->lo + 4 * j), xh = bcast4(x->hi + 4 * j);
        for (int h = 0; h < 2; h++) {
            lo[i][h] = _mm256_add_epi16(lo[i][h], _mm256_maddubs_epi16(q[h], xl));
            hi[i][h] = _mm256_add_epi16(hi[i][h], _mm256_maddubs_epi16(q[h], xh));
            KEEP(lo[i][h]);
            KEEP(hi[i][h]);
        }
    }
}

/* dot[i][h] = sum of q_w * q_x over one unit, bits 2, 3, 4. The steps are written out since gcc 12
 * leaves a loop over j rolled and w, lo, hi in memory. */
ALWAYS_INLINE void dot_bytes(const int bits, const int mr, const bal_a16 *a, size_t a_stride,
                             const uint32_t *codes, __m256i (*dot)[2])
{
    __m256i w[4][2], lo[MR][2], hi[MR][2]; /* w: unless pulled out */
    for (int v = 0; bits < 8 && v < bits; v++)
        for (int h = 0; h < 2; h++) w[v][h] = load(codes + 16 * v + 8 * h);
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) lo[i][h] = hi[i][h] = _mm256_setzero_si256();
    step(bits, mr, 0, a, a_stride, codes, w, lo, hi);
    step(bits, mr, 1, a, a_stride, codes, w, lo, hi);
    step(bits, mr, 2, a, a_stride, codes, w, lo, hi);
    step(bits, mr, 3, a, a_stride, codes, w, lo, hi);
    step(bits, mr, 4, a, a_stride, codes, w, lo, hi);
    step(bits, mr, 5, a, a_stride, codes, w, lo, hi);
    step(bits, mr, 6, a, a_stride, codes, w, lo, hi);
    step(bits, mr, 7, a, a_stride, codes, w, lo, hi);
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++)
            dot[i][h] = _mm256_add_epi32(_mm256_madd_epi16(lo[i][h], _mm256_set1_epi16(1)),
                                         _mm256_madd_epi16(hi[i][h], _mm256_set1_epi16(256)));
}

/* The activations of a unit as 16-bit pairs in the order that dot_words multiplies them:
 * inputs (0, 2), (1, 3) of each quad. */
ALWAYS_INLINE void widen(const bal_a16 *a, int32_t pair[16])
{
    const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    for (int h = 0; h < 2; h++) {
        const __m128i lo = _mm_loadu_si128((const void *)(a->lo + 16 * h));
        const __m128i hi = _mm_loadu_si128((const void *)(a->hi + 16 * h));
        const __m256i l16 = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(lo, order));
        const __m256i h16 = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(hi, order));
        _mm256_storeu_si256((void *)(pair + 8 * h),
                            _mm256_add_epi16(l16, _mm256_slli_epi16(h16, 8)));
    }
}

/* The same for 6 and 8 bits. */
ALWAYS_INLINE void dot_words(const int bits, const int mr, const bal_a16 *a, size_t a_stride,
                             const uint32_t *codes, __m256i (*dot)[2])
{
    int32_t pair[MR][16];
    for (int i = 0; i < mr; i++) {
        widen(a + (size_t)i * a_stride, pair[i]);
        dot[i][0] = dot[i][1] = _mm256_setzero_si256();
    }
    for (int j = 0; j < 8; j++)
        for (int h = 0; h < 2; h++) {
            const __m256i w = quad(bits, codes, h, j);
            const __m256i even = _mm256_and_si256(w, _mm256_set1_epi16(255));
            const __m256i odd = _mm256_srli_epi16(w, 8);
            for (int i = 0; i < mr; i++) {
                const __m256i e = _mm256_madd_epi16(even, _mm256_set1_epi32(pair[i][2 * j]));
                const __m256i o = _mm256_madd_epi16(odd, _mm256_set1_epi32(pair[i][2 * j + 1]));
                dot[i][h] = _mm256_add_epi32(dot[i][h], _mm256_add_epi32(e, o));
                KEEP(dot[i][h]);
            }
        }
}

/* The same with codes and activations pulled out: per quad and half its two pairs of words as
 * pull_words leaves them; pairs of token i at pair + i * pair_stride. */
ALWAYS_INLINE void dot_pulled(const int mr, const int32_t *pair, size_t pair_stride,
                              const uint32_t *codes, __m256i (*dot)[2])
{
    for (int i = 0; i < mr; i++) dot[i][0] = dot[i][1] = _mm256_setzero_si256();
#define PAIR(i, at) _mm256_set1_epi32(pair[(size_t)(i)*pair_stride + (size_t)(at)])
    for (int j = 0; j < 8; j++)
        for (int h = 0; h < 2; h++) {
            const __m256i even = load(codes + 32 * j + 16 * h);
            const __m256i odd = load(codes + 32 * j + 16 * h + 8);
            for (int i = 0; i < mr; i++) {
                const __m256i e = _mm256_madd_epi16(even, PAIR(i, 2 * j));
                const __m256i o = _mm256_madd_epi16(odd, PAIR(i, 2 * j + 1));
                dot[i][h] = _mm256_add_epi32(dot[i][h], _mm256_add_epi32(e, o));
                KEEP(dot[i][h]);
            }
        }
#undef PAIR
}

ALWAYS_INLINE void group_of(const uint16_t *scales, const uint8_t *zeros, __m256 s[2], __m256i z[2])
{
    for (int h = 0; h < 2; h++) {
        s[h] = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(scales + 8 * h)));
        z[h] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(zeros + 8 * h)));
    }
}

ALWAYS_INLINE void panel(const int bits, const int mr, size_t units, size_t units_per_group,
                         const bal_a16 *a, size_t a_stride, const uint32_t *codes,
                         const uint16_t *scales, const uint8_t *zeros, float *y, size_t y_stride)
{
    __m256 acc[MR][2];
    for (int i = 0; i < mr; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    for (size_t left = units; left > 0; scales += 16, zeros += 16) {
        __m256 s[2];
        __m256i z[2], dot[MR][2];
        group_of(scales, zeros, s, z);
        const size_t count = left < units_per_group ? left : units_per_group;
        for (size_t u = 0; u < count; u++, codes += 16 * bits, a++) {
            fetch_ahead(bits, codes);
            if (bits >= 6)
                dot_words(bits, mr, a, a_stride, codes, dot);
            else
                dot_bytes(bits, mr, a, a_stride, codes, dot);
            finish(mr, a, a_stride, dot, s, z, acc);
        }
        left -= count;
    }
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(y + (size_t)i * y_stride + 8 * h, acc[i][h]);
}

/* ---- Many tokens -------------------------------------------------------------------------- */

/* What was pulled out of some units: codes, and from 6 bits the activations. */
typedef struct pulled {
    _Alignas(32) uint32_t codes[BLOCK * 8 * 16]; /* [unit][quad][16], or [unit][quad][half][16] */
    int32_t pairs[BAL_GEMM_W_MR][BLOCK8][16];
} pulled;

ALWAYS_INLINE void pull_bytes(const int bits, const uint32_t *codes, size_t n, pulled *p)
{
    for (size_t u = 0; u < n; u++, codes += 16 * bits) {
        __m256i w[4][2];
        fetch_ahead(bits, codes);
        for (int v = 0; v < bits; v++)
            for (int h = 0; h < 2; h++) w[v][h] = load(codes + 16 * v + 8 * h);
        for (int j = 0; j < 8; j++)
            for (int h = 0; h < 2; h++)
                _mm256_store_si256((void *)(p->codes + 128 * u + 16 * (size_t)j + 8 * (size_t)h),
                                   quad_of_words(bits, w, h, j));
    }
}

/* Inputs (0, 1) of each quad as words, then (2, 3). */
ALWAYS_INLINE void pull_words(const int bits, const uint32_t *codes, size_t n, pulled *p)
{
    const __m256i first =
        _mm256_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1, 0, -1, 1, -1, 4,
                         -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1);
    const __m256i last =
        _mm256_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1, 2, -1, 3, -1,
                         6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1);
    for (size_t u = 0; u < n; u++, codes += 16 * bits) {
        fetch_ahead(bits, codes);
        for (int j = 0; j < 8; j++)
            for (int h = 0; h < 2; h++) {
                uint32_t *out = p->codes + 256 * u + 32 * (size_t)j + 16 * (size_t)h;
                const __m256i w = quad(bits, codes, h, j);
                _mm256_store_si256((void *)out, _mm256_shuffle_epi8(w, first));
                _mm256_store_si256((void *)(out + 8), _mm256_shuffle_epi8(w, last));
            }
    }
}

/* The activations of a unit as 16-bit integers in order. */
ALWAYS_INLINE void join(const bal_a16 *a, int32_t pair[16])
{
    for (int h = 0; h < 2; h++) {
        const __m256i lo = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(a->lo + 16 * h)));
        const __m256i hi = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)(a->hi + 16 * h)));
        _mm256_storeu_si256((void *)(pair + 8 * h), _mm256_add_epi16(lo, _mm256_slli_epi16(hi, 8)));
    }
}

/* n units, of which the first is unit u, for mr tokens, the first of which is token i of pairs. */
ALWAYS_INLINE void tile(const int bits, const int mr, size_t u, size_t n, size_t units_per_group,
                        const bal_a16 *a, size_t a_stride, const pulled *p, size_t i,
                        const uint16_t *scales, const uint8_t *zeros, float *y, size_t y_stride)
{
    __m256 acc[MR][2], s[2];
    __m256i z[2], dot[MR][2];
    size_t g = u / units_per_group, left = units_per_group - u % units_per_group;
    for (int r = 0; r < mr; r++)
        for (int h = 0; h < 2; h++) acc[r][h] = _mm256_loadu_ps(y + (size_t)r * y_stride + 8 * h);
    group_of(scales + 16 * g, zeros + 16 * g, s, z);
    for (size_t k = 0; k < n; k++, left--) {
        if (left == 0) {
            g++, left = units_per_group;
            group_of(scales + 16 * g, zeros + 16 * g, s, z);
        }
        if (bits >= 6)
            dot_pulled(mr, p->pairs[i][k], BLOCK8 * 16, p->codes + 256 * k, dot);
        else
            dot_bytes(PULLED(bits), mr, a + k, a_stride, p->codes + 128 * k, dot);
        finish(mr, a + k, a_stride, dot, s, z, acc);
    }
    for (int r = 0; r < mr; r++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(y + (size_t)r * y_stride + 8 * h, acc[r][h]);
}

ALWAYS_INLINE void many(const int bits, int m, size_t units, size_t units_per_group,
                        const bal_a16 *a, size_t a_stride, const uint32_t *codes,
                        const uint16_t *scales, const uint8_t *zeros, float *y, size_t y_stride)
{
    pulled p;
    const size_t block = bits >= 6 ? BLOCK8 : BLOCK, rows = (size_t)m;
    for (size_t i = 0; i < rows; i++) memset(y + i * y_stride, 0, 16 * sizeof *y);
    for (size_t u = 0; u < units; u += block, codes += block * 16 * bits, a += block) {
        const size_t n = units - u < block ? units - u : block;
        if (bits >= 6)
            pull_words(bits, codes, n, &p);
        else
            pull_bytes(bits, codes, n, &p);
        for (size_t i = 0; bits >= 6 && i < rows; i++)
            for (size_t k = 0; k < n; k++) join(a + i * a_stride + k, p.pairs[i][k]);
#define TILE(mr)                                                                                   \
    tile(bits, mr, u, n, units_per_group, a + i * a_stride, a_stride, &p, i, scales, zeros,        \
         y + i * y_stride, y_stride)
        size_t i = 0;
        for (; bits >= 6 && i + 4 <= rows; i += 4) TILE(4);
        for (; i + 2 <= rows; i += 2) TILE(2);
        if (i < rows) TILE(1);
#undef TILE
    }
}

/* The arguments of a kernel behind bits and a literal mr. */
#define ARGS units, units_per_group, a, a_stride, codes, scales, zeros, y, y_stride

#define GEMM_W(bits)                                                                               \
    void bal_gemm_w##bits##_avx2(int m, size_t units, size_t units_per_group, const bal_a16 *a,    \
                                 size_t a_stride, const uint32_t *codes, const uint16_t *scales,   \
                                 const uint8_t *zeros, float *y, size_t y_stride)                  \
    {                                                                                              \
        assert(1 <= m && m <= BAL_GEMM_W_MR && units && units_per_group);                          \
        if (m > FEW) {                                                                             \
            many(bits, m, ARGS);                                                                   \
            return;                                                                                \
        }                                                                                          \
        for (; m >= 2; m -= 2, a += 2 * a_stride, y += 2 * y_stride) panel(bits, 2, ARGS);         \
        if (m == 1) panel(bits, 1, ARGS);                                                          \
    }

GEMM_W(2)
GEMM_W(3)
GEMM_W(4)
GEMM_W(6)
GEMM_W(8)
