/* SPDX-License-Identifier: MIT
 * gemm_a8d4 for NEON with SMMLA, as gemm_a8_i8mm.c; read a8_body.h and dots_i8mm.h. */
#include "kernel/arm/dots_i8mm.h"

#include "kernel/arm/a8_body.h"

bal_gemm_a8d_fn bal_gemm_a8d4_i8mm, bal_gemm_a8d4_neondot;

void bal_gemm_a8d4_i8mm(int m, size_t units, size_t units_per_group, size_t units_per_scale,
                        const bal_a8 *a, size_t a_stride, const uint32_t *codes,
                        const uint16_t *scales, const uint8_t *steps, const uint8_t *zeros,
                        float *y, size_t y_stride)
{
    const int even = m - m % 2;
    if (even)
        gemm_d(even, units, units_per_group, units_per_scale, a, a_stride, codes, scales, steps,
               zeros, y, y_stride);
    if (m % 2)
        bal_gemm_a8d4_neondot(1, units, units_per_group, units_per_scale,
                              a + (size_t)even * a_stride, a_stride, codes, scales, steps, zeros,
                              y + (size_t)even * y_stride, y_stride);
}
