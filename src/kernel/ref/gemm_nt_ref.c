/* SPDX-License-Identifier: MIT
 * Definition of gemm_nt_f32, bf16, f16: 16 lanes over k, then a tree. */
#include "kernel/gemm_nt.h"

#include <math.h>

#include "base/half.h"

bal_gemm_nt_f32_fn bal_gemm_nt_f32_ref;
bal_gemm_nt_bf16_fn bal_gemm_nt_bf16_ref;
bal_gemm_nt_f16_fn bal_gemm_nt_f16_ref;

/* Element i of an array that may stand on any byte. */
static float load_f32(const void *p, size_t i)
{
    float v;
    memcpy(&v, (const char *)p + i * sizeof v, sizeof v);
    return v;
}

static float load_bf16(const void *p, size_t i)
{
    uint16_t v;
    memcpy(&v, (const char *)p + i * sizeof v, sizeof v);
    return bal_bf16_to_f32(v);
}

static float load_f16(const void *p, size_t i)
{
    uint16_t v;
    memcpy(&v, (const char *)p + i * sizeof v, sizeof v);
    return bal_f16_to_f32(v);
}

static float dot_lanes(const float *x, const void *w, size_t w_at, size_t k,
                       float (*load)(const void *, size_t))
{
    float s[16] = {0};
    for (size_t c = 0; c < (k + 15) / 16 * 16; c++) {
        const float xc = c < k ? x[c] : 0.0f, wc = c < k ? load(w, w_at + c) : 0.0f;
        s[c % 16] = fmaf(xc, wc, s[c % 16]);
    }
    for (int h = 8; h; h /= 2)
        for (int l = 0; l < h; l++) s[l] = s[l] + s[l + h];
    return s[0];
}

#define GEMM_NT_REF(type)                                                                          \
    void bal_gemm_nt_##type##_ref(size_t m, size_t n, size_t k, const float *x, size_t ldx,        \
                                  const void *w, size_t ldw, float *y, size_t ldy)                 \
    {                                                                                              \
        for (size_t i = 0; i < m; i++)                                                             \
            for (size_t j = 0; j < n; j++)                                                         \
                y[i * ldy + j] = dot_lanes(x + i * ldx, w, j * ldw, k, load_##type);               \
    }

GEMM_NT_REF(f32)
GEMM_NT_REF(bf16)
GEMM_NT_REF(f16)
