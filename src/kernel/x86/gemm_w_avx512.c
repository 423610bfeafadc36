/* SPDX-License-Identifier: MIT
 * gemm_w for AVX-512 (F, BW): one register holds a 32-bit word of all 16 outputs of a panel. The
 * arithmetic is that of gemm_w_avx2.c, which explains it; here four tokens fit the registers. */
#include "kernel/gemm_w.h"
#include "kernel/x86/codes_avx512.h"
#include "kernel/x86/lanes_avx512.h"

bal_gemm_w2_fn ISA(bal_gemm_w2);
bal_gemm_w3_fn ISA(bal_gemm_w3);
bal_gemm_w4_fn ISA(bal_gemm_w4);
bal_gemm_w6_fn ISA(bal_gemm_w6);
bal_gemm_w8_fn ISA(bal_gemm_w8);

enum { MR = 4 }; /* tokens multiplied at once */

/* Adds quad j of the unit to the 16-bit sums of mr tokens. */
ALWAYS_INLINE void step(const int bits, const int mr, const int j, const bal_a16 *a,
                        size_t a_stride, const unit_words *u, __m512i *lo, __m512i *hi)
{
    const __m512i q = quad(bits, u, j);
    for (int i = 0; i < mr; i++) {
        const bal_a16 *x = a + (size_t)i * a_stride;
        lo[i] = _mm512_add_epi16(lo[i], _mm512_maddubs_epi16(q, bcast4(x->lo + 4 * j)));
        hi[i] = _mm512_add_epi16(hi[i], _mm512_maddubs_epi16(q, bcast4(x->hi + 4 * j)));
        KEEP(lo[i]);
        KEEP(hi[i]);
    }
}

/* dot[i] = sum of q_w * q_x over one unit, bits 2, 3, 4 */
ALWAYS_INLINE void dot_bytes(const int bits, const int mr, const bal_a16 *a, size_t a_stride,
                             const uint32_t *codes, __m512i *dot)
{
    const unit_words u = words_of(bits, codes);
    __m512i lo[MR], hi[MR];
    for (int i = 0; i < mr; i++) lo[i] = hi[i] = _mm512_setzero_si512();
#define STEP(j) step(bits, mr, j, a, a_stride, &u, lo, hi);
    ALL_QUADS(STEP)
#undef STEP
    for (int i = 0; i < mr; i++)
        dot[i] = _mm512_add_epi32(_mm512_madd_epi16(lo[i], _mm512_set1_epi16(1)),
                                  _mm512_madd_epi16(hi[i], _mm512_set1_epi16(256)));
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
                             const uint32_t *codes, __m512i *dot)
{
    const unit_words u = words_of(bits, codes);
    int32_t pair[MR][16];
    for (int i = 0; i < mr; i++) {
        widen(a + (size_t)i * a_stride, pair[i]);
        dot[i] = _mm512_setzero_si512();
    }
    for (int j = 0; j < 8; j++) {
        const __m512i w = quad(bits, &u, j);
        const __m512i even = _mm512_and_si512(w, _mm512_set1_epi16(255));
        const __m512i odd = _mm512_srli_epi16(w, 8);
        for (int i = 0; i < mr; i++) {
            const __m512i e = _mm512_madd_epi16(even, _mm512_set1_epi32(pair[i][2 * j]));
            const __m512i o = _mm512_madd_epi16(odd, _mm512_set1_epi32(pair[i][2 * j + 1]));
            dot[i] = _mm512_add_epi32(dot[i], _mm512_add_epi32(e, o));
            KEEP(dot[i]);
        }
    }
}

ALWAYS_INLINE void panel(const int bits, const int mr, size_t units, size_t units_per_group,
                         const bal_a16 *a, size_t a_stride, const uint32_t *codes,
                         const uint16_t *scales, const uint8_t *zeros, float *y, size_t y_stride)
{
    __m512 acc[MR];
    for (int i = 0; i < mr; i++) acc[i] = _mm512_setzero_ps();
    for (size_t left = units; left > 0; scales += 16, zeros += 16) {
        const __m512 s = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)scales));
        const __m512i z = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)zeros));
        const size_t count = left < units_per_group ? left : units_per_group;
        for (size_t u = 0; u < count; u++, codes += 16 * bits, a++) {
            __m512i dot[MR];
            fetch_ahead(bits, codes);
            if (bits >= 6)
                dot_words(bits, mr, a, a_stride, codes, dot);
            else
                dot_bytes(bits, mr, a, a_stride, codes, dot);
            for (int i = 0; i < mr; i++) {
                const bal_a16 *x = a + (size_t)i * a_stride;
                const __m512i zx = _mm512_mullo_epi32(z, _mm512_set1_epi32(x->sum));
                const __m512 sx = _mm512_mul_ps(s, _mm512_set1_ps(x->scale));
                const __m512 d = _mm512_cvtepi32_ps(_mm512_sub_epi32(dot[i], zx));
                acc[i] = _mm512_fmadd_ps(d, sx, acc[i]);
            }
        }
        left -= count;
    }
    for (int i = 0; i < mr; i++) _mm512_storeu_ps(y + (size_t)i * y_stride, acc[i]);
}

/* The arguments of a kernel behind bits and a literal mr. */
#define ARGS units, units_per_group, a, a_stride, codes, scales, zeros, y, y_stride

#define GEMM_W(name, bits)                                                                         \
    void ISA(name)(int m, size_t units, size_t units_per_group, const bal_a16 *a, size_t a_stride, \
                   const uint32_t *codes, const uint16_t *scales, const uint8_t *zeros, float *y,  \
                   size_t y_stride)                                                                \
    {                                                                                              \
        assert(1 <= m && m <= BAL_GEMM_W_MR && units && units_per_group);                          \
        for (; m >= MR; m -= MR, a += MR * a_stride, y += MR * y_stride) panel(bits, MR, ARGS);    \
        if (m == 1) panel(bits, 1, ARGS);                                                          \
        if (m == 2) panel(bits, 2, ARGS);                                                          \
        if (m == 3) panel(bits, 3, ARGS);                                                          \
    }

GEMM_W(bal_gemm_w2, 2)
GEMM_W(bal_gemm_w3, 3)
GEMM_W(bal_gemm_w4, 4)
GEMM_W(bal_gemm_w6, 6)
GEMM_W(bal_gemm_w8, 8)
