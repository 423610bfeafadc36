/* SPDX-License-Identifier: MIT
 * Definition of gemm_a8w2, w3, w4, w6, w8: reads single codes by the byte map of type/packed.h. */
#include "kernel/gemm_a8.h"

#include <math.h>

#include "base/half.h"
#include "kernel/ref/codes_ref.h"
#include "type/packed.h"

bal_gemm_a8w2_fn bal_gemm_a8w2_ref;
bal_gemm_a8w3_fn bal_gemm_a8w3_ref;
bal_gemm_a8w4_fn bal_gemm_a8w4_ref;
bal_gemm_a8w6_fn bal_gemm_a8w6_ref;
bal_gemm_a8w8_fn bal_gemm_a8w8_ref;

static float gemm_one(int bits, size_t units, size_t units_per_group, size_t units_per_scale,
                      const bal_a8 *a, const uint32_t *codes, const uint16_t *scales,
                      const uint8_t *zeros, int f)
{
    float acc = 0.0f;
    int32_t dot = 0;
    for (size_t u = 0; u < units; u++) {
        const size_t at = u / units_per_group * 16 + (size_t)f, next = u + 1;
        for (int k = 0; k < 32; k++)
            dot += (code_at(bits, codes + u * (size_t)bits * 16, f, k) - zeros[at]) * a[u].q[k];
        if (next % units_per_group && next % units_per_scale && next % BAL_A8_SEGMENT &&
            next < units)
            continue;
        acc = fmaf((float)dot, bal_f16_to_f32(scales[at]) * a[u].scale, acc);
        dot = 0;
    }
    return acc;
}

#define GEMM_A8_REF(bits)                                                                          \
    void bal_gemm_a8w##bits##_ref(int m, size_t units, size_t units_per_group,                     \
                                  size_t units_per_scale, const bal_a8 *a, size_t a_stride,        \
                                  const uint32_t *codes, const uint16_t *scales,                   \
                                  const uint8_t *zeros, float *y, size_t y_stride)                 \
    {                                                                                              \
        for (int i = 0; i < m; i++)                                                                \
            for (int f = 0; f < BAL_GEMM_A8_OUTPUTS; f++)                                          \
                y[(size_t)i * y_stride + (size_t)f] =                                              \
                    gemm_one(bits, units, units_per_group, units_per_scale,                        \
                             a + (size_t)i * a_stride, codes, scales, zeros, f);                   \
    }

GEMM_A8_REF(2)
GEMM_A8_REF(3)
GEMM_A8_REF(4)
GEMM_A8_REF(6)
GEMM_A8_REF(8)
