/* SPDX-License-Identifier: MIT
 * gemm_w2, w3, w4, w6, w8 for NEON with SMMLA, whose two rows are the planes of a token. One token
 * is SDOT's: putting its codes in order would take what is saved. Read a16_body.h and dots_i8mm.h.
 */
#include "kernel/arm/dots_i8mm.h"

#include "kernel/arm/a16_body.h"

#define SOME_TOKENS(op, bits)                                                                      \
    bal_##op##_fn bal_##op##_i8mm, bal_##op##_neondot;                                             \
    void bal_##op##_i8mm(int m, size_t units, size_t units_per_group, const bal_a16 *a,            \
                         size_t a_stride, const uint32_t *codes, const uint16_t *scales,           \
                         const uint8_t *zeros, float *y, size_t y_stride)                          \
    {                                                                                              \
        const sides p = {.scales = scales, .zeros = zeros};                                        \
        if (m == 1)                                                                                \
            bal_##op##_neondot(m, units, units_per_group, a, a_stride, codes, scales, zeros, y,    \
                               y_stride);                                                          \
        else                                                                                       \
            gemm(bits, m, units, units_per_group, a, a_stride, codes, p, y, y_stride);             \
    }

SOME_TOKENS(gemm_w2, 2)
SOME_TOKENS(gemm_w3, 3)
SOME_TOKENS(gemm_w4, 4)
SOME_TOKENS(gemm_w6, 6)
SOME_TOKENS(gemm_w8, 8)
