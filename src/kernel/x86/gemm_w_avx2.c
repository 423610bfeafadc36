/* SPDX-License-Identifier: MIT
 * gemm_w for AVX2. A panel is two halves of 8 outputs, one 32-bit lane each. Codes are pulled out
 * as unsigned bytes and multiplied with the two byte planes of the activations (vpmaddubsw); sums
 * stay in 16 bits for a whole unit: 8 products of two bytes reach at most 8 * 2 * 15 * 128 = 30720.
 * Codes of six and eight bits would overflow there and go through 16-bit products (vpmaddwd)
 * instead. bits and mr are literals at every call, so the loops unroll and sums live in registers
 * at -O3. */
#include "kernel/gemm_w.h"

#include <assert.h>
#include <immintrin.h>
#include <string.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* A sum that must exist here: gcc 12 otherwise reorders the integer additions, first making all
 * products of a unit and spilling them (1.5x slower with 2 tokens or more). */
#define KEEP(v) __asm__("" : "+x"(v))

bal_gemm_w2_fn bal_gemm_w2_avx2;
bal_gemm_w3_fn bal_gemm_w3_avx2;
bal_gemm_w4_fn bal_gemm_w4_avx2;
bal_gemm_w6_fn bal_gemm_w6_avx2;
bal_gemm_w8_fn bal_gemm_w8_avx2;

/* Tokens multiplied at once. Two fill the registers (8 sums of 16 bits, the codes of two halves);
 * three or four would have to take the halves in turn and broadcast every activation twice, which
 * measured 0.85 of the rate of two passes with two tokens each. */
enum { MR = 2 };

/* How far ahead of the unit in work code words are fetched: about one memory latency. */
enum { PREFETCH_BYTES = 2048 };

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

/* Codes of quad j of one half, four per lane; w[v] points to word v of the unit. */
ALWAYS_INLINE __m256i quad(const int bits, __m256i (*w)[2], const int h, const int j)
{
    if (bits == 2) return field(w[j / 4][h], 2 * (j % 4), 3);
    if (bits == 4) return field(w[j / 2][h], 4 * (j % 2), 15);
    if (j < 6) return field(w[j / 2][h], 3 * (j % 2), 7);
    return _mm256_or_si256(field(w[j - 6][h], 6, 3), field(w[2][h], j - 2, 4));
}

/* Adds quad j of the unit to the 16-bit sums of mr tokens. */
ALWAYS_INLINE void step(const int bits, const int mr, const int j, const bal_a16 *a,
                        size_t a_stride, __m256i (*w)[2], __m256i (*lo)[2], __m256i (*hi)[2])
{
    const __m256i q[2] = {quad(bits, w, 0, j), quad(bits, w, 1, j)};
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
    __m256i w[4][2], lo[MR][2], hi[MR][2];
    for (int v = 0; v < bits; v++)
        for (int h = 0; h < 2; h++)
            w[v][h] = _mm256_loadu_si256((const void *)(codes + 16 * v + 8 * h));
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) lo[i][h] = hi[i][h] = _mm256_setzero_si256();
    step(bits, mr, 0, a, a_stride, w, lo, hi);
    step(bits, mr, 1, a, a_stride, w, lo, hi);
    step(bits, mr, 2, a, a_stride, w, lo, hi);
    step(bits, mr, 3, a, a_stride, w, lo, hi);
    step(bits, mr, 4, a, a_stride, w, lo, hi);
    step(bits, mr, 5, a, a_stride, w, lo, hi);
    step(bits, mr, 6, a, a_stride, w, lo, hi);
    step(bits, mr, 7, a, a_stride, w, lo, hi);
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

ALWAYS_INLINE __m256i word_of(const uint32_t *codes, const int h, const int v)
{
    return _mm256_loadu_si256((const void *)(codes + 16 * v + 8 * h));
}

/* Codes of quad j of one half, four per lane, for 6 and 8 bits. */
ALWAYS_INLINE __m256i wide_quad(const int bits, const uint32_t *codes, const int h, const int j)
{
    if (bits == 8) return word_of(codes, h, j);
    if (j < 6) return field(word_of(codes, h, j), 0, 63);
    const int v = 3 * (j - 6);
    const __m256i low = field(word_of(codes, h, v), 6, 3);
    const __m256i mid = field(word_of(codes, h, v + 1), 4, 12);
    return _mm256_or_si256(_mm256_or_si256(low, mid), field(word_of(codes, h, v + 2), 2, 48));
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
            const __m256i w = wide_quad(bits, codes, h, j);
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

/* One unit: acc += (dot - z * sum) * (s * scale). */
ALWAYS_INLINE void unit(const int bits, const int mr, const bal_a16 *a, size_t a_stride,
                        const uint32_t *codes, const __m256 s[2], const __m256i z[2],
                        __m256 (*acc)[2])
{
    __m256i dot[MR][2];
    if (bits >= 6)
        dot_words(bits, mr, a, a_stride, codes, dot);
    else
        dot_bytes(bits, mr, a, a_stride, codes, dot);
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

ALWAYS_INLINE void panel(const int bits, const int mr, size_t units, size_t units_per_group,
                         const bal_a16 *a, size_t a_stride, const uint32_t *codes,
                         const uint16_t *scales, const uint8_t *zeros, float *y, size_t y_stride)
{
    __m256 acc[MR][2];
    for (int i = 0; i < mr; i++) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
    for (size_t left = units; left > 0; scales += 16, zeros += 16) {
        __m256 s[2];
        __m256i z[2];
        for (int h = 0; h < 2; h++) {
            s[h] = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(scales + 8 * h)));
            z[h] = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(zeros + 8 * h)));
        }
        const size_t count = left < units_per_group ? left : units_per_group;
        for (size_t u = 0; u < count; u++, codes += 16 * bits, a++) {
            for (int v = 0; v < bits; v++)
                _mm_prefetch((const char *)(codes + 16 * v) + PREFETCH_BYTES, _MM_HINT_T0);
            unit(bits, mr, a, a_stride, codes, s, z, acc);
        }
        left -= count;
    }
    for (int i = 0; i < mr; i++)
        for (int h = 0; h < 2; h++) _mm256_storeu_ps(y + (size_t)i * y_stride + 8 * h, acc[i][h]);
}

/* The arguments of a kernel behind bits and a literal mr. */
#define ARGS units, units_per_group, a, a_stride, codes, scales, zeros, y, y_stride

#define GEMM_W(bits)                                                                               \
    void bal_gemm_w##bits##_avx2(int mr, size_t units, size_t units_per_group, const bal_a16 *a,   \
                                 size_t a_stride, const uint32_t *codes, const uint16_t *scales,   \
                                 const uint8_t *zeros, float *y, size_t y_stride)                  \
    {                                                                                              \
        assert(1 <= mr && mr <= BAL_GEMM_W_MR && units && units_per_group);                        \
        for (; mr >= 2; mr -= 2, a += 2 * a_stride, y += 2 * y_stride) panel(bits, 2, ARGS);       \
        if (mr == 1) panel(bits, 1, ARGS);                                                         \
    }

GEMM_W(2)
GEMM_W(3)
GEMM_W(4)
GEMM_W(6)
GEMM_W(8)
