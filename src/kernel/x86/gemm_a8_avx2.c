/* SPDX-License-Identifier: MIT
 * gemm_a8 for AVX2. Codes of 2 to 4 bits are unsigned bytes times signed bytes (vpmaddubsw), summed
 * in 16 bits for as long as those hold: 8 products of two bytes reach at most 8 * 2 * 15 * 127 =
 * 30480, so one unit of 4-bit codes, two of 3 bits, four of 2 bits. Of six bits they hold two
 * products, 2 * 2 * 63 * 127 = 32004. Eight-bit codes would overflow in the first product; they
 * become v = q - 128, and |v| * (x with the sign of v) is at most 2 * 128 * 127 = 32512. */
#include "kernel/gemm_a8.h"
#include "kernel/x86/codes_avx2.h"

#define MR      4 /* 8 sums of 16 bits, two registers of codes */
#define OFFSET8 128

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

ALWAYS_INLINE void add_all(const int bits, const int mr, size_t n, const bal_a8 *a, size_t a_stride,
                           const uint32_t *codes, __m256i (*dot)[2])
{
    if (bits == 8)
        add_units8(mr, n, a, a_stride, codes, dot);
    else if (bits % 16 == 6)
        add_units6(bits, mr, n, a, a_stride, codes, dot);
    else
        add_units(bits, mr, n, a, a_stride, codes, dot);
}

#include "kernel/x86/a8_body_avx2.h"

GEMM_A8(bal_gemm_a8w2_avx2, 2)
GEMM_A8(bal_gemm_a8w3_avx2, 3)
GEMM_A8(bal_gemm_a8w4_avx2, 4)
GEMM_A8(bal_gemm_a8w6_avx2, 6)
GEMM_A8(bal_gemm_a8w8_avx2, 8)
