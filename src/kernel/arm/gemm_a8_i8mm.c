/* SPDX-License-Identifier: MIT
 * gemm_a8w2, w3, w4, w6, w8 for NEON with SMMLA, which multiplies tokens by twos: one that is left
 * alone is SDOT's. Read a8_body.h and dots_i8mm.h. */
#include "kernel/arm/dots_i8mm.h"

#include "kernel/arm/a8_body.h"

#define PAIRS(op, bits)                                                                            \
    bal_##op##_fn bal_##op##_i8mm, bal_##op##_neondot;                                             \
    void bal_##op##_i8mm(int m, size_t units, size_t units_per_group, size_t units_per_scale,      \
                         const bal_a8 *a, size_t a_stride, const uint32_t *codes,                  \
                         const uint16_t *scales, const uint8_t *zeros, float *y, size_t y_stride)  \
    {                                                                                              \
        const panel p = {codes, scales, zeros};                                                    \
        const int even = m - m % 2;                                                                \
        if (even)                                                                                  \
            gemm(bits, even, units, units_per_group, units_per_scale, a, a_stride, p, y,           \
                 y_stride);                                                                        \
        if (m % 2)                                                                                 \
            bal_##op##_neondot(1, units, units_per_group, units_per_scale,                         \
                               a + (size_t)even * a_stride, a_stride, codes, scales, zeros,        \
                               y + (size_t)even * y_stride, y_stride);                             \
    }

PAIRS(gemm_a8w2, 2)
PAIRS(gemm_a8w3, 3)
PAIRS(gemm_a8w4, 4)
PAIRS(gemm_a8w6, 6)
PAIRS(gemm_a8w8, 8)
