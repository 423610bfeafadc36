/* SPDX-License-Identifier: MIT
 * gemm_panel and its packing on 16 lanes; included after a lanes_*.h by gemm_panel_<isa>.c, which
 * defines ISA() and MR, the tokens whose sums fit the registers: MR * PARTS of them, a divisor of
 * BAL_PANEL_GROUP. */
#include <stdbool.h>

#include "kernel/body/convert_body.h"
#include "kernel/gemm_panel.h"

bal_pack_x_fn ISA(bal_pack_x);
bal_pack_w_fn ISA(bal_pack_f32), ISA(bal_pack_bf16), ISA(bal_pack_f16);
bal_gemm_panel_fn ISA(bal_gemm_panel);

/* Steps whose weights of one lane, 16 KiB, stay in L1 while the tokens of a block pass. */
enum { STEP_BLOCK = 256, TOKENS = BAL_PANEL_TOKENS, GROUP = BAL_PANEL_GROUP };

/* 16 x 16 floats, dst[c][i] = src[i][c]; row strides in elements */
ALWAYS_INLINE void transpose16(const float *src, size_t ld, float *dst, size_t ldd)
{
    for (size_t c = 0; c < 16; c += 8)
        for (size_t i = 0; i < 16; i += 8) transpose8(src + i * ld + c, ld, dst + c * ldd + i, ldd);
}

void ISA(bal_pack_x)(size_t m, size_t k, const float *x, size_t ldx, float *out)
{
    float rows[16 * 16] = {0}, turned[16 * 16];
    for (size_t c = 0; c < k; c += 16, out += GROUP) {
        convert(F32, (const uint8_t *)(x + c), ldx * sizeof *x, m, k - c < 16 ? k - c : 16, rows,
                16);
        transpose16(rows, 16, turned, 16);
        for (size_t r = 0; r < 16; r++)
            memcpy(out + r * bal_panel_x_lane(k), turned + 16 * r, GROUP * sizeof *out);
    }
}

ALWAYS_INLINE void pack_w(const int type, size_t n, size_t k, const uint8_t *w, size_t w_stride,
                          float *out)
{
    float rows[16 * 16] = {0};
    for (size_t c = 0; c < k; c += 16, out += 16) {
        const uint8_t *from = w + c * element_size(type);
        if (type == F32 && n == 16 && k - c >= 16) {
            transpose16((const void *)from, w_stride / sizeof *rows, out, bal_panel_w_lane(k));
            continue;
        }
        convert(type, from, w_stride, n, k - c < 16 ? k - c : 16, rows, 16);
        transpose16(rows, 16, out, bal_panel_w_lane(k));
    }
}

#define PACK_W(name, type)                                                                         \
    void ISA(name)(size_t n, size_t k, const void *w, size_t ldw, float *out)                      \
    {                                                                                              \
        pack_w(type, n, k, w, ldw *element_size(type), out);                                       \
    }

PACK_W(bal_pack_f32, F32)
PACK_W(bal_pack_bf16, BF16)
PACK_W(bal_pack_f16, F16)

/* Starts (first) or continues one lane's sums [MR][16] of MR tokens and the panel's outputs. */
ALWAYS_INLINE void lane_sums(size_t steps, const float *x, const float *w, float *part, bool first)
{
    vec acc[MR][PARTS];
    for (int i = 0; i < MR; i++)
        for (int p = 0; p < PARTS; p++)
            acc[i][p] = first ? vec_zero() : vec_load(part + i * 16 + p * VEC);
    for (size_t s = 0; s < steps; s++, x += GROUP, w += 16) {
        vec b[PARTS];
        for (int p = 0; p < PARTS; p++) b[p] = vec_load(w + p * VEC);
        for (int i = 0; i < MR; i++) {
            const vec a = vec_splat(x + i);
            for (int p = 0; p < PARTS; p++) acc[i][p] = vec_fma(a, b[p], acc[i][p]);
        }
    }
    for (int i = 0; i < MR; i++)
        for (int p = 0; p < PARTS; p++) vec_store(part + i * 16 + p * VEC, acc[i][p]);
}

/* The tree over lanes, part [16][TOKENS][16] to y. */
static void add_lanes(size_t m, const float *part, float *y, size_t ldy)
{
    for (size_t i = 0; i < m; i++)
        for (int p = 0; p < PARTS; p++) {
            vec s[16];
            for (int r = 0; r < 16; r++)
                s[r] = vec_load(part + ((size_t)r * TOKENS + i) * 16 + p * VEC);
            for (int h = 8; h; h /= 2)
                for (int r = 0; r < h; r++) s[r] = vec_add(s[r], s[r + h]);
            vec_store(y + i * ldy + p * VEC, s[0]);
        }
}

/* Tokens from m to the end of their group are zeros, or left over in `part`: nobody reads them. */
static void block(size_t m, size_t k, const float *x, const float *w, float *y, size_t ldy)
{
    _Alignas(64) float part[16 * TOKENS * 16];
    const size_t steps = bal_panel_steps(k);
    for (size_t s = 0; s < steps; s += STEP_BLOCK) {
        const size_t count = steps - s < STEP_BLOCK ? steps - s : STEP_BLOCK;
        for (size_t r = 0; r < 16; r++)
            for (size_t i = 0; i < m; i += MR)
                lane_sums(count,
                          x + r * bal_panel_x_lane(k) + (i / GROUP * steps + s) * GROUP + i % GROUP,
                          w + r * bal_panel_w_lane(k) + 16 * s, part + (r * TOKENS + i) * 16,
                          s == 0);
    }
    add_lanes(m, part, y, ldy);
}

void ISA(bal_gemm_panel)(size_t m, size_t k, const float *x, const float *w, float *y, size_t ldy)
{
    for (size_t i = 0; i < m; i += TOKENS, x += 16 * bal_panel_x_lane(k))
        block(m - i < TOKENS ? m - i : TOKENS, k, x, w, y + i * ldy, ldy);
}
