/* SPDX-License-Identifier: MIT
 * Definition of gemm_nn_f32: one chain of fused multiply-adds per output. */
#include "kernel/gemm_nn.h"

#include <math.h>

bal_gemm_nn_f32_fn bal_gemm_nn_f32_ref;

void bal_gemm_nn_f32_ref(size_t m, size_t n_t, size_t n_d, const float *p, size_t ldp,
                         const float *v, size_t ldv, float *y, size_t ldy, bool accumulate)
{
    for (size_t i = 0; i < m; i++)
        for (size_t d = 0; d < n_d; d++) {
            float acc = accumulate ? y[i * ldy + d] : 0.0f;
            for (size_t t = 0; t < n_t; t++) acc = fmaf(p[i * ldp + t], v[t * ldv + d], acc);
            y[i * ldy + d] = acc;
        }
}
