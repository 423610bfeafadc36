/* SPDX-License-Identifier: MIT
 * gemm_t2, t3, t4 and d4 for AVX2. Products are those of gemm_w_avx2.c, which explains them: two
 * halves of 8 outputs, unsigned bytes times the two byte planes of the activations, summed in 16
 * bits. With a table the codes go through one vpshufb, which makes levels of them, and sums hold
 * for as many quads as the levels allow: 8 of two bits (8 * 2 * 15 * 128 = 30720), 4 of three
 * (4 * 2 * 31 * 128 = 31744), 2 of four (2 * 2 * 63 * 128 = 32256). */
#define MR 2 /* 8 sums of 16 bits, two registers of levels */
#include "kernel/x86/a16_body_avx2.h"

/* Quads that 16-bit sums hold. */
ALWAYS_INLINE int held(const int kind)
{
    return kind == (TABLE | 3) ? 4 : kind == (TABLE | 4) ? 2 : 8;
}

/* Adds quad j of the unit to the 16-bit sums of mr tokens. */
ALWAYS_INLINE void step(const int kind, const bool pulled, const int mr, const int j,
                        const bal_a16 *a, size_t a_stride, const uint32_t *codes, const sides *s,
                        __m256i (*w)[2], __m256i (*lo)[2], __m256i (*hi)[2])
{
    const __m256i v[2] = {pulled ? load(codes + 16 * j) : factors(kind, s, codes, w, 0, j),
                          pulled ? load(codes + 16 * j + 8) : factors(kind, s, codes, w, 1, j)};
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

GEMM_T(bal_gemm_t2_avx2, TABLE | 2)
GEMM_T(bal_gemm_t3_avx2, TABLE | 3)
GEMM_T(bal_gemm_t4_avx2, TABLE | 4)
GEMM_T(bal_gemm_d4_avx2, TWO_LEVEL | 4)
