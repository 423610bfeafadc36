/* SPDX-License-Identifier: MIT
 * gemm_nt_f32, bf16, f16 on 16 lanes; included after a lanes_*.h by gemm_nt_<isa>.c, which defines
 * ISA(), the tile MR tokens x NR rows for several tokens, NR1 rows for one token (3 or 4 both), and
 * the larger of the two as NR_MAX.
 * One token streams the weights once and converts on the way. Several tokens work on blocks that
 * stay in L1: K_BLOCK inputs of NR rows, converted to f32 once, against all tokens of the block;
 * partial sums of all lanes wait in `part` between blocks of k, which is exact. */
#include "kernel/gemm_nt.h"

bal_gemm_nt_f32_fn ISA(bal_gemm_nt_f32);
bal_gemm_nt_bf16_fn ISA(bal_gemm_nt_bf16);
bal_gemm_nt_f16_fn ISA(bal_gemm_nt_f16);

enum { F32, BF16, F16 };
enum { M_BLOCK = 16, N_BLOCK = 12, K_BLOCK = 1024 };

ALWAYS_INLINE size_t element_size(const int type)
{
    return type == F32 ? sizeof(float) : sizeof(uint16_t);
}

ALWAYS_INLINE v16 load_w(const int type, const void *p)
{
    return type == F32 ? v16_load(p) : type == BF16 ? v16_from_bf16(p) : v16_from_f16(p);
}

/* Continues the 16 sums of mr x nr outputs over 16 * steps inputs. Sums of token i, row j lie at
 * part + (i * N_BLOCK + j) * 16. Strides in bytes for w, which may stand on any byte. */
ALWAYS_INLINE void tile(const int type, const int mr, const int nr, size_t steps, const float *x,
                        size_t ldx, const uint8_t *w, size_t w_stride, float *part)
{
    v16 acc[MR][NR_MAX];
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nr; j++) acc[i][j] = v16_load(part + (i * N_BLOCK + j) * 16);
    for (size_t s = 0; s < steps; s++) {
        v16 a[MR];
        for (int i = 0; i < mr; i++) a[i] = v16_load(x + (size_t)i * ldx + 16 * s);
        for (int j = 0; j < nr; j++) {
            const v16 b = load_w(type, w + (size_t)j * w_stride + 16 * element_size(type) * s);
            for (int i = 0; i < mr; i++) acc[i][j] = v16_fma(a[i], b, acc[i][j]);
        }
    }
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nr; j++) v16_store(part + (i * N_BLOCK + j) * 16, acc[i][j]);
}

/* One row count with 1..max columns as literals, max 3 or 4. */
#define TILE_COLUMNS(type, mr, max)                                                                \
    switch (nr) {                                                                                  \
    case 1: tile(type, mr, 1, steps, x, ldx, w, w_stride, part); break;                            \
    case 2: tile(type, mr, 2, steps, x, ldx, w, w_stride, part); break;                            \
    case 3: tile(type, mr, 3, steps, x, ldx, w, w_stride, part); break;                            \
    default: tile(type, mr, max, steps, x, ldx, w, w_stride, part);                                \
    }

#define TILE_ROW(name, type)                                                                       \
    static void name(size_t nr, size_t steps, const float *x, size_t ldx, const uint8_t *w,        \
                     size_t w_stride, float *part)                                                 \
    {                                                                                              \
        TILE_COLUMNS(type, 1, NR1)                                                                 \
    }

TILE_ROW(row_f32, F32)
TILE_ROW(row_bf16, BF16)
TILE_ROW(row_f16, F16)

/* m tokens x nr <= NR rows of f32 weights */
static void column_f32(size_t m, size_t nr, size_t steps, const float *x, size_t ldx,
                       const uint8_t *w, size_t w_stride, float *part)
{
    for (; m >= MR; m -= MR, x += MR * ldx, part += MR * N_BLOCK * 16) TILE_COLUMNS(F32, MR, NR)
    for (; m > 0; m--, x += ldx, part += N_BLOCK * 16)
        row_f32(nr, steps, x, ldx, w, w_stride, part);
}

/* Rows of `count` elements to f32 rows of `width` >= count, the rest zero. */
ALWAYS_INLINE void convert(const int type, const uint8_t *w, size_t w_stride, size_t nr,
                           size_t count, float *out, size_t width)
{
    for (size_t j = 0; j < nr; j++, w += w_stride, out += width) {
        size_t c = 0;
        for (; c + 16 <= count; c += 16)
            v16_store(out + c, load_w(type, w + c * element_size(type)));
        if (c < count) {
            float tail[16] = {0}; /* the bytes of any type; zero bytes are zeros */
            memcpy(tail, w + c * element_size(type), (count - c) * element_size(type));
            v16_store(out + c, load_w(type, tail));
        }
    }
}

/* The last k % 16 inputs: x and w padded with zeros, one step. */
ALWAYS_INLINE void tail_step(const int type, size_t m, size_t nr, size_t rest, const float *x,
                             size_t ldx, const uint8_t *w, size_t w_stride, float *part)
{
    float xt[M_BLOCK * 16], wt[NR_MAX * 16];
    convert(F32, (const uint8_t *)x, ldx * sizeof *x, m, rest, xt, 16);
    convert(type, w, w_stride, nr, rest, wt, 16);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < nr; j++) {
            float *sum = part + (i * N_BLOCK + j) * 16;
            v16_store(sum, v16_fma(v16_load(xt + 16 * i), v16_load(wt + 16 * j), v16_load(sum)));
        }
}

/* count inputs of m tokens and nr rows */
ALWAYS_INLINE void strip(const int type, size_t m, size_t nr, size_t count, const float *x,
                         size_t ldx, const uint8_t *w, size_t w_stride, float *part)
{
    const size_t steps = count / 16, rest = count % 16;
    if (m == 1) {
        if (type == F32) row_f32(nr, steps, x, ldx, w, w_stride, part);
        if (type == BF16) row_bf16(nr, steps, x, ldx, w, w_stride, part);
        if (type == F16) row_f16(nr, steps, x, ldx, w, w_stride, part);
    } else if (type == F32) {
        column_f32(m, nr, steps, x, ldx, w, w_stride, part);
    } else {
        float wide[NR * K_BLOCK];
        convert(type, w, w_stride, nr, steps * 16, wide, K_BLOCK);
        column_f32(m, nr, steps, x, ldx, (const uint8_t *)wide, K_BLOCK * sizeof *wide, part);
    }
    if (rest)
        tail_step(type, m, nr, rest, x + 16 * steps, ldx, w + 16 * steps * element_size(type),
                  w_stride, part);
}

/* Up to M_BLOCK tokens x N_BLOCK rows */
ALWAYS_INLINE void block(const int type, size_t m, size_t n, size_t k, const float *x, size_t ldx,
                         const uint8_t *w, size_t w_stride, float *y, size_t ldy)
{
    float part[M_BLOCK * N_BLOCK * 16];
    memset(part, 0, m * N_BLOCK * 16 * sizeof *part);
    const size_t nr_max = m == 1 ? NR1 : NR, k_step = m == 1 ? k : K_BLOCK;
    for (size_t c = 0; c < k; c += k_step)
        for (size_t j = 0; j < n; j += nr_max)
            strip(type, m, n - j < nr_max ? n - j : nr_max, k - c < k_step ? k - c : k_step, x + c,
                  ldx, w + j * w_stride + c * element_size(type), w_stride, part + j * 16);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            y[i * ldy + j] = v16_sum(v16_load(part + (i * N_BLOCK + j) * 16));
}

#define GEMM_NT(name, type)                                                                        \
    void ISA(name)(size_t m, size_t n, size_t k, const float *x, size_t ldx, const void *w,        \
                   size_t ldw, float *y, size_t ldy)                                               \
    {                                                                                              \
        const size_t w_stride = ldw * element_size(type);                                          \
        for (size_t j = 0; j < n; j += N_BLOCK)                                                    \
            for (size_t i = 0; i < m; i += M_BLOCK)                                                \
                block(type, m - i < M_BLOCK ? m - i : M_BLOCK, n - j < N_BLOCK ? n - j : N_BLOCK,  \
                      k, x + i * ldx, ldx, (const uint8_t *)w + j * w_stride, w_stride,            \
                      y + i * ldy + j, ldy);                                                       \
    }

GEMM_NT(bal_gemm_nt_f32, F32)
GEMM_NT(bal_gemm_nt_bf16, BF16)
GEMM_NT(bal_gemm_nt_f16, F16)
