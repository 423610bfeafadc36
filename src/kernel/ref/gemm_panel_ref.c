/* SPDX-License-Identifier: MIT
 * Definition of gemm_panel and of the order of its operands. */
#include "kernel/gemm_panel.h"

#include <math.h>
#include <string.h>

#include "base/half.h"

bal_pack_x_fn bal_pack_x_ref;
bal_pack_w_fn bal_pack_f32_ref, bal_pack_bf16_ref, bal_pack_f16_ref;
bal_gemm_panel_fn bal_gemm_panel_ref;

void bal_pack_x_ref(size_t m, size_t k, const float *x, size_t ldx, float *out)
{
    for (size_t c = 0; c < 16 * bal_panel_steps(k); c++)
        for (size_t i = 0; i < BAL_PANEL_GROUP; i++)
            out[c % 16 * bal_panel_x_lane(k) + c / 16 * BAL_PANEL_GROUP + i] =
                i < m && c < k ? x[i * ldx + c] : 0.0f;
}

static float element(int bits, float (*half)(uint16_t), const void *w, size_t at)
{
    float wide;
    uint16_t narrow;
    if (bits == 32) {
        memcpy(&wide, (const char *)w + at * sizeof wide, sizeof wide);
        return wide;
    }
    memcpy(&narrow, (const char *)w + at * sizeof narrow, sizeof narrow);
    return half(narrow);
}

static void pack(int bits, float (*half)(uint16_t), size_t n, size_t k, const void *w, size_t ldw,
                 float *out)
{
    for (size_t c = 0; c < 16 * bal_panel_steps(k); c++)
        for (size_t j = 0; j < BAL_PANEL_OUTPUTS; j++)
            out[c % 16 * bal_panel_w_lane(k) + c / 16 * BAL_PANEL_OUTPUTS + j] =
                j < n && c < k ? element(bits, half, w, j * ldw + c) : 0.0f;
}

void bal_pack_f32_ref(size_t n, size_t k, const void *w, size_t ldw, float *out)
{
    pack(32, NULL, n, k, w, ldw, out);
}

void bal_pack_bf16_ref(size_t n, size_t k, const void *w, size_t ldw, float *out)
{
    pack(16, bal_bf16_to_f32, n, k, w, ldw, out);
}

void bal_pack_f16_ref(size_t n, size_t k, const void *w, size_t ldw, float *out)
{
    pack(16, bal_f16_to_f32, n, k, w, ldw, out);
}

static float dot(size_t k, const float *x, const float *w)
{
    float s[16] = {0};
    for (size_t r = 0; r < 16; r++)
        for (size_t i = 0; i < bal_panel_steps(k); i++)
            s[r] = fmaf(x[r * bal_panel_x_lane(k) + i * BAL_PANEL_GROUP],
                        w[r * bal_panel_w_lane(k) + i * BAL_PANEL_OUTPUTS], s[r]);
    for (int h = 8; h; h /= 2)
        for (int l = 0; l < h; l++) s[l] = s[l] + s[l + h];
    return s[0];
}

void bal_gemm_panel_ref(size_t m, size_t k, const float *x, const float *w, float *y, size_t ldy)
{
    const size_t group = bal_panel_steps(k) * BAL_PANEL_GROUP;
    for (size_t i = 0; i < m; i++) {
        const size_t block = i / BAL_PANEL_TOKENS, at = i % BAL_PANEL_TOKENS;
        const float *token = x + block * 16 * bal_panel_x_lane(k) + at / BAL_PANEL_GROUP * group +
                             at % BAL_PANEL_GROUP;
        for (size_t j = 0; j < BAL_PANEL_OUTPUTS; j++) y[i * ldy + j] = dot(k, token, w + j);
    }
}
