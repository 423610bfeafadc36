/* SPDX-License-Identifier: MIT
 * gemm_t2, t3, t4 and d4 for NEON with SMMLA, as gemm_w_i8mm.c; read a16_body.h and dots_i8mm.h. */
#include "kernel/arm/dots_i8mm.h"

#include "kernel/arm/a16_body.h"

#define SOME_TOKENS(op, kind)                                                                      \
    bal_##op##_fn bal_##op##_i8mm, bal_##op##_neondot;                                             \
    void bal_##op##_i8mm(int m, size_t units, size_t units_per_group, const bal_a16 *a,            \
                         size_t a_stride, const uint32_t *codes, const uint16_t *scales,           \
                         const uint8_t *steps, const uint8_t *zeros, float *y, size_t y_stride)    \
    {                                                                                              \
        const sides p = {.scales = scales, .steps = steps, .zeros = zeros};                        \
        if (m == 1)                                                                                \
            bal_##op##_neondot(m, units, units_per_group, a, a_stride, codes, scales, steps,       \
                               zeros, y, y_stride);                                                \
        else                                                                                       \
            gemm(kind, m, units, units_per_group, a, a_stride, codes, p, y, y_stride);             \
    }

SOME_TOKENS(gemm_t2, TABLE | 2)
SOME_TOKENS(gemm_t3, TABLE | 3)
SOME_TOKENS(gemm_t4, TABLE | 4)
SOME_TOKENS(gemm_d4, TWO_LEVEL | 4)
