/* SPDX-License-Identifier: MIT
 * gemm_a8 for AVX-512 with VNNI: one register holds a quad of all 16 outputs of a panel, and
 * vpdpbusd adds four products of unsigned codes with signed bytes to a 32-bit lane, which no
 * segment overflows. Few tokens take codes out of the words as they go, and out only: a mask leaves
 * a code where it stands in its byte, that is times a power of two, and products of the same power
 * have a sum of their own, which the end of a segment shifts down; 10 masks and 10 products are all
 * that 3-bit codes cost a unit. More tokens, for which so many sums are dear, take codes out whole,
 * anew for every eight: that goes on beside the products, on another port. */
#include "kernel/x86/codes_avx512.h"

#include "kernel/body/gemm_a8_body.h"

enum {
    MR = 8,    /* tokens multiplied at once: as many independent sums as hide vpdpbusd's latency */
    WHOLE = 4, /* tokens from which on codes are taken out whole */
    POWERS = 5 /* most sums of one token that differ in the power of two */
};

/* Sum s of one token is this power of two too large. Where the words have fewer powers than sums,
 * several sums share one, which makes more chains. */
ALWAYS_INLINE unsigned power_of(const int bits, const int s)
{
    if (bits == 2) return 2 * (unsigned)s;
    if (bits == 4) return 4 * (unsigned)(s % 2);
    if (bits == 3) return s == 0 ? 0 : s == 1 ? 3 : s == 2 ? 6 : s == 3 ? 4 : 5;
    if (bits == 6) return s < 2 ? 0 : s == 2 ? 6 : s == 3 ? 4 : 2;
    return 0;
}

ALWAYS_INLINE int sums_of(const int bits)
{
    return bits == 3 || bits == 6 ? POWERS : 4;
}

/* sum s of mr tokens += masked codes * quad j of the activations */
ALWAYS_INLINE void add(const int mr, const int s, const int j, __m512i codes, const bal_a8 *a,
                       size_t a_stride, __m512i (*sum)[POWERS])
{
    for (int i = 0; i < mr; i++)
        sum[i][s] =
            _mm512_dpbusd_epi32(sum[i][s], codes, bcast4(a[(size_t)i * a_stride].q + 4 * j));
}

/* Adds quad j of a unit where it stands. */
ALWAYS_INLINE void add_quad(const int bits, const int mr, const int j, const bal_a8 *a,
                            size_t a_stride, const unit_words *u, __m512i (*sum)[POWERS])
{
#define ADD(s, w, mask) add(mr, s, j, masked(w, mask), a, a_stride, sum)
    if (bits == 8) add(mr, j % 4, j, u->w[j], a, a_stride, sum);
    if (bits == 2) ADD(j % 4, u->w[j / 4], 3 << 2 * (j % 4));
    if (bits == 4) ADD(j % 4, u->w[j / 2], 15 << 4 * (j % 2));
    if (bits == 3 && j < 6) ADD(j % 2, u->w[j / 2], 7 << 3 * (j % 2));
    if (bits == 3 && j >= 6) {
        ADD(2, u->w[j - 6], 192);
        ADD(j - 3, u->w[2], 1 << j);
    }
    if (bits == 6 && j < 6) ADD(j % 2, u->w[j], 63);
    if (bits == 6 && j >= 6)
        for (int v = 0; v < 3; v++) ADD(2 + v, u->w[3 * (j - 6) + v], 192);
#undef ADD
}

/* Whether code words of a segment of n units are read fast enough for touch_ahead (one thread, part
 * of the read limit with fetch_ahead and with touch_ahead; 4 units: 2 bits 73 % and 59 %, 3 bits 69
 * and 78, 4 bits 68 and 80, 8 bits 64 and 91; 1 unit: 3 bits 72 and 54, 4 bits 71 and 62, 8 bits 66
 * and 77). */
ALWAYS_INLINE bool is_stream(const int bits, const int mr, size_t n)
{
    return mr == 1 && (bits >= 6 || (bits > 2 && n >= 4));
}

/* dot += sum of code * q_x over n units of few tokens */
ALWAYS_INLINE void add_in_place(const int bits, const int mr, size_t n, const bal_a8 *a,
                                size_t a_stride, const uint32_t *codes, __m512i *dot)
{
    const bool stream = is_stream(bits, mr, n);
    __m512i sum[WHOLE - 1][POWERS];
    for (int i = 0; i < mr; i++)
        for (int s = 0; s < sums_of(bits); s++) sum[i][s] = _mm512_setzero_si512();
    for (; n > 0; n--, a++, codes += 16 * bits) {
        const unit_words u = words_of(bits, codes);
        if (stream)
            touch_ahead(bits, codes);
        else
            fetch_ahead(bits, codes);
#define STEP(j) add_quad(bits, mr, j, a, a_stride, &u, sum);
        ALL_QUADS(STEP)
#undef STEP
    }
    for (int i = 0; i < mr; i++)
        for (int s = 0; s < sums_of(bits); s++)
            dot[i] = _mm512_add_epi32(dot[i], _mm512_srai_epi32(sum[i][s], power_of(bits, s)));
}

/* The same of more tokens. */
ALWAYS_INLINE void add_whole(const int bits, const int mr, size_t n, const bal_a8 *a,
                             size_t a_stride, const uint32_t *codes, __m512i *dot)
{
    for (; n > 0; n--, a++, codes += 16 * bits) {
        const unit_words u = words_of(bits, codes);
        fetch_ahead(bits, codes);
#define STEP(j)                                                                                    \
    {                                                                                              \
        const __m512i q = quad(bits, &u, j);                                                       \
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

/* All units for mr tokens. */
ALWAYS_INLINE void tile(const int bits, const int mr, size_t units, bal_a8_walk walk,
                        const bal_a8 *a, size_t a_stride, panel p, float *y, size_t y_stride)
{
    __m512i dot[MR];
    for (int i = 0; i < mr; i++) dot[i] = _mm512_setzero_si512();
    for (size_t u = 0; u < units;) {
        const size_t left = bal_a8_walk_left(&walk), n = left < units - u ? left : units - u;
        const size_t begin = walk.begin, g = walk.group;
        if (mr >= WHOLE)
            add_whole(bits, mr, n, a + u, a_stride, p.codes, dot);
        else
            add_in_place(bits, mr, n, a + u, a_stride, p.codes, dot);
        p.codes += n * 16 * (size_t)bits, u += n;
        if (bal_a8_walk_on(&walk, n, u) || u == units)
            finish(mr, &p, g, a, a_stride, begin, u, dot, y, y_stride);
    }
}

ALWAYS_INLINE void multiply(const int bits, int m, size_t units, size_t units_per_group,
                            size_t units_per_scale, const bal_a8 *a, size_t a_stride, panel p,
                            float *y, size_t y_stride)
{
    const bal_a8_walk walk = bal_a8_walk_at(0, units_per_group, units_per_scale);
#define TILE(mr)                                                                                   \
    case mr: tile(bits, mr, units, walk, a, a_stride, p, y, y_stride); break;
    for (; m >= MR; m -= MR, a += MR * a_stride, y += MR * y_stride)
        tile(bits, MR, units, walk, a, a_stride, p, y, y_stride);
    switch (m) {
        TILE(7)
        TILE(6)
        TILE(5)
        TILE(4)
        TILE(3)
        TILE(2)
        TILE(1)
    }
#undef TILE
}

GEMM_A8(VNNI(bal_gemm_a8w2), 2)
GEMM_A8(VNNI(bal_gemm_a8w3), 3)
GEMM_A8(VNNI(bal_gemm_a8w4), 4)
GEMM_A8(VNNI(bal_gemm_a8w6), 6)
GEMM_A8(VNNI(bal_gemm_a8w8), 8)
