/* SPDX-License-Identifier: MIT
 * Definition of gemm_w2, w3, w4, w6, w8: reads single codes by the byte map of type/packed.h. */
#include "kernel/gemm_w.h"

#include <math.h>

#include "base/half.h"
#include "kernel/ref/codes_ref.h"
#include "type/packed.h"

bal_gemm_w2_fn bal_gemm_w2_ref;
bal_gemm_w3_fn bal_gemm_w3_ref;
bal_gemm_w4_fn bal_gemm_w4_ref;
bal_gemm_w6_fn bal_gemm_w6_ref;
bal_gemm_w8_fn bal_gemm_w8_ref;

static float gemm_one(int bits, size_t units, size_t units_per_group, const bal_a16 *a,
                      const uint32_t *codes, const uint16_t *scales, const uint8_t *zeros, int f)
{
    float acc = 0.0f;
    for (size_t u = 0; u < units; u++) {
        const size_t at = u / units_per_group * 16 + (size_t)f;
        int32_t dot = 0;
        for (int k = 0; k < 32; k++)
            dot += code_at(bits, codes + u * (size_t)bits * 16, f, k) *
                   (256 * a[u].hi[k] + a[u].lo[k]);
        dot -= zeros[at] * a[u].sum;
        acc = fmaf((float)dot, bal_f16_to_f32(scales[at]) * a[u].scale, acc);
    }
    return acc;
}

#define GEMM_W_REF(bits)                                                                           \
    void bal_gemm_w##bits##_ref(int m, size_t units, size_t units_per_group, const bal_a16 *a,     \
                                size_t a_stride, const uint32_t *codes, const uint16_t *scales,    \
                                const uint8_t *zeros, float *y, size_t y_stride)                   \
    {                                                                                              \
        for (int i = 0; i < m; i++)                                                                \
            for (int f = 0; f < BAL_GEMM_W_NR; f++)                                                \
                y[(size_t)i * y_stride + (size_t)f] =                                              \
                    gemm_one(bits, units, units_per_group, a + (size_t)i * a_stride, codes,        \
                             scales, zeros, f);                                                    \
    }

GEMM_W_REF(2)
GEMM_W_REF(3)
GEMM_W_REF(4)
GEMM_W_REF(6)
GEMM_W_REF(8)
