/* SPDX-License-Identifier: MIT
 * gemm_nt_f32, bf16, f16 on 16 lanes; included after a lanes_*.h by gemm_nt_<isa>.c, which defines
 * ISA() and the tile MR = 4 tokens x NR rows, NR 3 or 4.
 * One token streams the weights once and converts on the way. Several tokens work on blocks that
 * stay in L1: K_BLOCK inputs of NR rows, converted to f32 once, against all tokens of the block;
 * partial sums of all lanes wait in `part` between blocks of k, which is exact. With registers
 * enough for it, few inputs need neither blocks nor `part`. */
#include <stdbool.h>

#include "kernel/body/convert_body.h"
#include "kernel/gemm_nt.h"

bal_gemm_nt_f32_fn ISA(bal_gemm_nt_f32);
bal_gemm_nt_bf16_fn ISA(bal_gemm_nt_bf16);
bal_gemm_nt_f16_fn ISA(bal_gemm_nt_f16);

/* L1 holds K_BLOCK inputs of M_L1 tokens and NR rows, 22 to 24 KiB. L2 holds those of M_BLOCK
 * tokens (128 KiB) and N_BLOCK rows (72 KiB; whole tiles for NR 3 and 4), and `part` (144 KiB). */
enum { M_BLOCK = 64, N_BLOCK = 36, K_BLOCK = 512, M_L1 = 8, STREAMS = 4 };

/* Bytes that one token's weights are asked for ahead of use; rows that are short in comparison are
 * left to the processor. */
enum { AHEAD = 8192, LONG_ROW = AHEAD / 4 };

/* Rows of a copied block are not a power of two apart: 1.1 times faster on Zen 3. */
enum { COPY_LD = K_BLOCK + 32 };

/* Starts (first) or continues the 16 sums of mr x nr outputs over 16 * steps inputs, f32 weights,
 * steps >= 0; xt, if not NULL, has the inputs of one step more, [mr][16], whose weights follow the
 * others. Those of token i and row j lie at part + (i * N_BLOCK + j) * 16. One pass per
 * register of the 16 lanes: 12 or 16 sums and what they are made of fit the registers, and a step
 * needs mr + nr loads for mr * nr products. Both halves of an AVX2 tile at once (2 x 3 outputs)
 * would need 10 loads for 12 products. */
ALWAYS_INLINE void tile(const int mr, const int nr, size_t steps, const float *x, size_t ldx,
                        const float *w, size_t ldw, float *part, bool first, const float *xt)
{
    for (int p = 0; p < PARTS; p++, x += VEC, w += VEC, part += VEC) {
        vec acc[MR][NR];
        for (int i = 0; i < mr; i++)
            for (int j = 0; j < nr; j++)
                acc[i][j] = first ? vec_zero() : vec_load(part + (i * N_BLOCK + j) * 16);
        for (size_t s = 0; s < 16 * steps; s += 16) {
            vec b[NR];
            for (int j = 0; j < nr; j++) b[j] = vec_load(w + (size_t)j * ldw + s);
            for (int i = 0; i < mr; i++) {
                const vec a = vec_load(x + (size_t)i * ldx + s);
                for (int j = 0; j < nr; j++) acc[i][j] = vec_fma(a, b[j], acc[i][j]);
            }
        }
        if (xt)
            for (int i = 0; i < mr; i++) {
                const vec a = vec_load(xt + i * 16 + p * VEC);
                for (int j = 0; j < nr; j++)
                    acc[i][j] = vec_fma(a, vec_load(w + (size_t)j * ldw + 16 * steps), acc[i][j]);
            }
        for (int i = 0; i < mr; i++)
            for (int j = 0; j < nr; j++) vec_store(part + (i * N_BLOCK + j) * 16, acc[i][j]);
    }
}

/* nr literal; m tokens */
ALWAYS_INLINE void column(size_t m, const int nr, size_t steps, const float *x, size_t ldx,
                          const float *w, size_t ldw, float *part, bool first, const float *xt)
{
    for (; m >= 4; m -= 4, x += 4 * ldx, part += 4 * N_BLOCK * 16) {
        tile(4, nr, steps, x, ldx, w, ldw, part, first, xt);
        if (xt) xt += 4 * 16;
    }
    if (m == 3) tile(3, nr, steps, x, ldx, w, ldw, part, first, xt);
    if (m == 2) tile(2, nr, steps, x, ldx, w, ldw, part, first, xt);
    if (m == 1) tile(1, nr, steps, x, ldx, w, ldw, part, first, xt);
}

/* m tokens x nr <= NR rows of f32 weights */
static void columns(size_t m, size_t nr, size_t steps, const float *x, size_t ldx, const float *w,
                    size_t ldw, float *part, bool first, const float *xt)
{
    if (nr == 1) column(m, 1, steps, x, ldx, w, ldw, part, first, xt);
    if (nr == 2) column(m, 2, steps, x, ldx, w, ldw, part, first, xt);
    if (nr == 3) column(m, 3, steps, x, ldx, w, ldw, part, first, xt);
    if (nr == 4 && NR == 4) column(m, NR, steps, x, ldx, w, ldw, part, first, xt);
}

/* Asks for what nr rows have AHEAD of byte `at`, behind whose end come the next STREAMS rows: a
 * processor's own prefetch stops at the end of a page. */
ALWAYS_INLINE void prefetch_ahead(const int nr, const uint8_t *w, size_t w_stride, size_t at)
{
    at += AHEAD;
    if (at >= w_stride) at += (STREAMS - 1) * w_stride;
    for (int j = 0; j < nr; j++) PREFETCH_L2(w + (size_t)j * w_stride + at);
}

/* One token, all inputs, weights of any type, which may stand on any byte; stride in bytes. */
ALWAYS_INLINE void stream(const int type, const int nr, size_t steps, const float *x,
                          const uint8_t *w, size_t w_stride, float *part)
{
    v16 acc[STREAMS];
    for (int j = 0; j < nr; j++) acc[j] = v16_set1(0.0f);
    const size_t step = 16 * element_size(type);
    const bool far = steps * step >= LONG_ROW;
    for (size_t s = 0; s < steps; s++) {
        const v16 a = v16_load(x + 16 * s);
        if (far && s * step % 64 == 0) prefetch_ahead(nr, w, w_stride, s * step);
        for (int j = 0; j < nr; j++) {
            const v16 b = load_w(type, w + (size_t)j * w_stride + step * s);
            acc[j] = v16_fma(a, b, acc[j]);
        }
    }
    for (int j = 0; j < nr; j++) v16_store(part + j * 16, acc[j]);
}

/* nr <= STREAMS rows */
ALWAYS_INLINE void streams(const int type, size_t nr, size_t steps, const float *x,
                           const uint8_t *w, size_t w_stride, float *part)
{
    if (nr == 1) stream(type, 1, steps, x, w, w_stride, part);
    if (nr == 2) stream(type, 2, steps, x, w, w_stride, part);
    if (nr == 3) stream(type, 3, steps, x, w, w_stride, part);
    if (nr == 4) stream(type, 4, steps, x, w, w_stride, part);
}

/* The last k % 16 inputs of one token: x and w padded with zeros, one step. */
ALWAYS_INLINE void tail_step(const int type, size_t nr, size_t rest, const float *x,
                             const uint8_t *w, size_t w_stride, float *part)
{
    float xt[16], wt[N_BLOCK * 16];
    convert(F32, (const uint8_t *)x, 0, 1, rest, xt, 16);
    convert(type, w, w_stride, nr, rest, wt, 16);
    for (size_t j = 0; j < nr; j++) {
        float *sum = part + j * 16;
        v16_store(sum, v16_fma(v16_load(xt), v16_load(wt + 16 * j), v16_load(sum)));
    }
}

/* Asks for n_bytes of nr rows. A piece of a row is too short for the processor to see a stream in
 * it, and waiting for memory at the start of each piece costs more than multiplying 16 tokens. */
ALWAYS_INLINE void prefetch_rows(const uint8_t *w, size_t w_stride, size_t nr, size_t n_bytes)
{
    for (size_t j = 0; j < nr; j++)
        for (size_t i = 0; i < n_bytes; i += 64) PREFETCH_L2(w + j * w_stride + i);
}

/* Several tokens. While the first ones work on a block of k, the weights of the next are on their
 * way. */
ALWAYS_INLINE void block_many(const int type, size_t m, size_t n, size_t k, const float *x,
                              size_t ldx, const uint8_t *w, size_t w_stride, float *part)
{
    const size_t size = element_size(type);
    float copy[N_BLOCK * COPY_LD], tail[M_BLOCK * 16];
    prefetch_rows(w, w_stride, n, (k < K_BLOCK ? k : K_BLOCK) * size);
    for (size_t c = 0; c < k; c += K_BLOCK, w += K_BLOCK * size) {
        const size_t count = k - c < K_BLOCK ? k - c : K_BLOCK, steps = count / 16;
        const size_t ahead = k - c - count < K_BLOCK ? k - c - count : K_BLOCK, rest = count % 16;
        const float *xt = rest ? tail : NULL;
        /* copying f32 only pays for many tokens, or to pad the last step with zeros */
        const bool direct = type == F32 && m < 16 && !rest;
        if (!direct) convert(type, w, w_stride, n, count, copy, COPY_LD);
        if (rest) convert(F32, (const void *)(x + c + 16 * steps), ldx * 4, m, rest, tail, 16);
        const float *wide = direct ? (const void *)w : copy;
        const size_t ld_wide = direct ? w_stride / sizeof *wide : COPY_LD;
        for (size_t i = 0; i < m; i += M_L1)
            for (size_t j = 0; j < n; j += NR) {
                const size_t nr = n - j < NR ? n - j : NR;
                if (i == 0)
                    prefetch_rows(w + j * w_stride + K_BLOCK * size, w_stride, nr, ahead * size);
                columns(m - i < M_L1 ? m - i : M_L1, nr, steps, x + i * ldx + c, ldx,
                        wide + j * ld_wide, ld_wide, part + (i * N_BLOCK + j) * 16, c == 0,
                        xt ? xt + i * 16 : NULL);
            }
    }
}

ALWAYS_INLINE void block_one(const int type, size_t n, size_t k, const float *x, const uint8_t *w,
                             size_t w_stride, float *part)
{
    const size_t steps = k / 16, size = element_size(type);
    for (size_t j = 0; j < n; j += STREAMS)
        streams(type, n - j < STREAMS ? n - j : STREAMS, steps, x, w + j * w_stride, w_stride,
                part + j * 16);
    if (k % 16) tail_step(type, n, k % 16, x + 16 * steps, w + 16 * steps * size, w_stride, part);
}

/* Up to M_BLOCK tokens x N_BLOCK rows */
ALWAYS_INLINE void block(const int type, size_t m, size_t n, size_t k, const float *x, size_t ldx,
                         const uint8_t *w, size_t w_stride, float *y, size_t ldy)
{
    float part[M_BLOCK * N_BLOCK * 16];
    if (m == 1)
        block_one(type, n, k, x, w, w_stride, part);
    else
        block_many(type, m, n, k, x, ldx, w, w_stride, part);
    for (size_t i = 0; i < m; i++) {
        size_t j = 0;
        for (; j + 8 <= n; j += 8) v16_sum_eight(part + (i * N_BLOCK + j) * 16, y + i * ldy + j);
        for (; j < n; j++) y[i * ldy + j] = v16_sum(v16_load(part + (i * N_BLOCK + j) * 16));
    }
}

ALWAYS_INLINE void product(const int type, size_t m, size_t n, size_t k, const float *x, size_t ldx,
                           const uint8_t *w, size_t w_stride, float *y, size_t ldy)
{
    for (size_t j = 0; j < n; j += N_BLOCK)
        for (size_t i = 0; i < m; i += M_BLOCK)
            block(type, m - i < M_BLOCK ? m - i : M_BLOCK, n - j < N_BLOCK ? n - j : N_BLOCK, k,
                  x + i * ldx, ldx, w + j * w_stride, w_stride, y + i * ldy + j, ldy);
}

#ifdef HAVE_V16_SUM_SIXTEEN
/* Inputs so few that the sums of a 4 x 4 tile need no memory of their own: attention's heads. */
enum { FEW_INPUTS = 256 };

ALWAYS_INLINE void tile_of_sixteen(size_t k, const float *x, size_t ldx, const float *w, size_t ldw,
                                   float *y, size_t ldy)
{
    v16 acc[16], b[4];
    for (int i = 0; i < 16; i++) acc[i] = v16_set1(0.0f);
    size_t s = 0;
    for (; s + 16 <= k; s += 16) {
        for (size_t j = 0; j < 4; j++) b[j] = v16_load(w + j * ldw + s);
        for (size_t i = 0; i < 4; i++) {
            const v16 a = v16_load(x + i * ldx + s);
            for (size_t j = 0; j < 4; j++) acc[4 * i + j] = v16_fma(a, b[j], acc[4 * i + j]);
        }
    }
    if (s < k) {
        for (size_t j = 0; j < 4; j++) b[j] = v16_load_first(w + j * ldw + s, k - s);
        for (size_t i = 0; i < 4; i++) {
            const v16 a = v16_load_first(x + i * ldx + s, k - s);
            for (size_t j = 0; j < 4; j++) acc[4 * i + j] = v16_fma(a, b[j], acc[4 * i + j]);
        }
    }
    float sums[16];
    v16_store(sums, v16_sum_sixteen(acc));
    for (size_t i = 0; i < 4; i++) memcpy(y + i * ldy, sums + 4 * i, 4 * sizeof *y);
}

/* Whole tiles; what is left over takes the way of longer inputs. */
static void few_inputs(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w,
                       size_t ldw, float *y, size_t ldy)
{
    const size_t m4 = m / 4 * 4, n4 = n / 4 * 4;
    for (size_t i = 0; i < m4; i += 4)
        for (size_t j = 0; j < n4; j += 4)
            tile_of_sixteen(k, x + i * ldx, ldx, w + j * ldw, ldw, y + i * ldy + j, ldy);
    const size_t w_stride = ldw * sizeof *w;
    product(F32, m - m4, n4, k, x + m4 * ldx, ldx, (const void *)w, w_stride, y + m4 * ldy, ldy);
    product(F32, m, n - n4, k, x, ldx, (const void *)(w + n4 * ldw), w_stride, y + n4, ldy);
}
#endif

#define GEMM_NT(name, type)                                                                        \
    void ISA(name)(size_t m, size_t n, size_t k, const float *x, size_t ldx, const void *w,        \
                   size_t ldw, float *y, size_t ldy)                                               \
    {                                                                                              \
        SHORT_CUT(type)                                                                            \
        product(type, m, n, k, x, ldx, w, ldw *element_size(type), y, ldy);                        \
    }

#ifdef HAVE_V16_SUM_SIXTEEN
#define SHORT_CUT(type)                                                                            \
    if (type == F32 && k <= FEW_INPUTS && m >= 4) {                                                \
        few_inputs(m, n, k, x, ldx, w, ldw, y, ldy);                                               \
        return;                                                                                    \
    }
#else
#define SHORT_CUT(type)
#endif

GEMM_NT(bal_gemm_nt_f32, F32)
GEMM_NT(bal_gemm_nt_bf16, BF16)
GEMM_NT(bal_gemm_nt_f16, F16)
