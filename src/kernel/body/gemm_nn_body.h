/* SPDX-License-Identifier: MIT
 * gemm_nn_f32 on 16 lanes; included after a lanes_*.h by gemm_nn_<isa>.c, which defines ISA(), the
 * tile MR rows x NV vectors, and EACH_MR(X) listing the row counts 1..MR.
 * Lanes are outputs, so a tile streams through t with its sums in registers. For many rows a strip
 * of v, T_BLOCK x 16 NV, is first copied to one place: it then stays in L1 for all rows of a block,
 * whatever the stride of v, and M_BLOCK x T_BLOCK of p stay in L2 for all strips (192 KiB).
 * Splitting t is exact since a chain continues from what y holds. */
#include "kernel/gemm_nn.h"

bal_gemm_nn_f32_fn ISA(bal_gemm_nn_f32);

enum { COLS = 16 * NV, T_BLOCK = 256, M_BLOCK = 192 };

ALWAYS_INLINE void tile(const int mr, const int nv, size_t n_t, const float *p, size_t ldp,
                        const float *v, size_t ldv, float *y, size_t ldy, bool from_zero)
{
    v16 acc[MR][NV];
    for (int i = 0; i < mr; i++)
        for (int c = 0; c < nv; c++)
            acc[i][c] = from_zero ? v16_set1(0.0f) : v16_load(y + (size_t)i * ldy + 16 * c);
    for (size_t t = 0; t < n_t; t++, v += ldv) {
        v16 b[NV];
        for (int c = 0; c < nv; c++) b[c] = v16_load(v + 16 * c);
        for (int i = 0; i < mr; i++) {
            const v16 a = v16_set1(p[(size_t)i * ldp + t]);
            for (int c = 0; c < nv; c++) acc[i][c] = v16_fma(a, b[c], acc[i][c]);
        }
    }
    for (int i = 0; i < mr; i++)
        for (int c = 0; c < nv; c++) v16_store(y + (size_t)i * ldy + 16 * c, acc[i][c]);
}

/* All rows of one strip of nv vectors. */
ALWAYS_INLINE void rows(const int nv, size_t m, size_t n_t, const float *p, size_t ldp,
                        const float *v, size_t ldv, float *y, size_t ldy, bool from_zero)
{
    for (size_t i = 0; i < m; i += MR, p += MR * ldp, y += MR * ldy) switch (m - i) {
#define CASE(mr)                                                                                   \
    case mr: tile(mr, nv, n_t, p, ldp, v, ldv, y, ldy, from_zero); break;
            EACH_MR(CASE)
#undef CASE
        default: tile(MR, nv, n_t, p, ldp, v, ldv, y, ldy, from_zero);
        }
}

static void strip(size_t m, size_t n_t, const float *p, size_t ldp, const float *v, size_t ldv,
                  float *y, size_t ldy, bool from_zero)
{
    rows(NV, m, n_t, p, ldp, v, ldv, y, ldy, from_zero);
}

/* Copies rows x cols (cols <= COLS) and fills the remaining columns with zeros. */
static void copy_strip(float *to, const float *from, size_t ld_from, size_t rows, size_t cols)
{
    for (size_t t = 0; t < rows; t++, to += COLS, from += ld_from) {
        if (cols == COLS) {
            for (int c = 0; c < NV; c++) v16_store(to + 16 * c, v16_load(from + 16 * c));
        } else {
            memset(to, 0, COLS * sizeof *to);
            memcpy(to, from, cols * sizeof *to);
        }
    }
}

/* A strip of fewer than COLS columns: y goes through a copy, MR rows at a time, and up to 16
 * columns are one vector. */
static void narrow_strip(size_t m, size_t n_t, size_t cols, const float *p, size_t ldp,
                         const float *packed, float *y, size_t ldy, bool from_zero)
{
    float part[MR * COLS];
    for (size_t i = 0; i < m; i += MR) {
        const size_t n = m - i < MR ? m - i : MR;
        if (!from_zero) copy_strip(part, y + i * ldy, ldy, n, cols);
        if (cols <= 16)
            rows(1, n, n_t, p + i * ldp, ldp, packed, COLS, part, COLS, from_zero);
        else
            strip(n, n_t, p + i * ldp, ldp, packed, COLS, part, COLS, from_zero);
        for (size_t r = 0; r < n; r++) memcpy(y + (i + r) * ldy, part + r * COLS, cols * sizeof *y);
    }
}

/* Up to M_BLOCK rows */
static void block(size_t m, size_t n_t, size_t n_d, const float *p, size_t ldp, const float *v,
                  size_t ldv, float *y, size_t ldy, bool accumulate)
{
    float packed[T_BLOCK * COLS];
    size_t t = 0;
    do { /* once even for n_t = 0: then y becomes zero, or stays */
        const size_t n = n_t - t < T_BLOCK ? n_t - t : T_BLOCK;
        const bool from_zero = t == 0 && !accumulate;
        for (size_t d = 0; d < n_d; d += COLS) {
            const size_t cols = n_d - d < COLS ? n_d - d : COLS;
            const float *strip_v = v + t * ldv + d;
            if (cols == COLS && m <= MR) {
                strip(m, n, p + t, ldp, strip_v, ldv, y + d, ldy, from_zero);
                continue;
            }
            copy_strip(packed, strip_v, ldv, n, cols);
            if (cols == COLS)
                strip(m, n, p + t, ldp, packed, COLS, y + d, ldy, from_zero);
            else
                narrow_strip(m, n, cols, p + t, ldp, packed, y + d, ldy, from_zero);
        }
        t += n;
    } while (t < n_t);
}

void ISA(bal_gemm_nn_f32)(size_t m, size_t n_t, size_t n_d, const float *p, size_t ldp,
                          const float *v, size_t ldv, float *y, size_t ldy, bool accumulate)
{
    for (size_t i = 0; i < m; i += M_BLOCK)
        block(m - i < M_BLOCK ? m - i : M_BLOCK, n_t, n_d, p + i * ldp, ldp, v, ldv, y + i * ldy,
              ldy, accumulate);
}
