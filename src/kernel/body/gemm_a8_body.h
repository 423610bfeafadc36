/* SPDX-License-Identifier: MIT
 * gemm_a8 (kernel/gemm_a8.h) around what multiplies a panel, which is only declared here. bits is a
 * literal at every call. */
#ifndef BAL_KERNEL_GEMM_A8_BODY_H
#define BAL_KERNEL_GEMM_A8_BODY_H

#include "kernel/gemm_a8.h"

#include <assert.h>
#include <string.h>

typedef struct panel {
    const uint32_t *codes; /* words, or bytes that were taken out, of the first unit in work */
    const uint16_t *scales;
    const uint8_t *zeros;
} panel;

/* Adds all units to y for m tokens. */
ALWAYS_INLINE void multiply(const int bits, int m, size_t units, size_t units_per_group,
                            size_t units_per_scale, const bal_a8 *a, size_t a_stride, panel p,
                            float *y, size_t y_stride);

ALWAYS_INLINE void gemm(const int bits, int m, size_t units, size_t units_per_group,
                        size_t units_per_scale, const bal_a8 *a, size_t a_stride, panel p, float *y,
                        size_t y_stride)
{
    assert(1 <= m && m <= BAL_GEMM_A8_ROWS && units && units_per_group && units_per_scale);
    for (int i = 0; i < m; i++) memset(y + (size_t)i * y_stride, 0, 16 * sizeof *y);
    multiply(bits, m, units, units_per_group, units_per_scale, a, a_stride, p, y, y_stride);
}

#define GEMM_A8(name, bits)                                                                        \
    bal_gemm_a8_fn name;                                                                           \
    void name(int m, size_t units, size_t units_per_group, size_t units_per_scale,                 \
              const bal_a8 *a, size_t a_stride, const uint32_t *codes, const uint16_t *scales,     \
              const uint8_t *zeros, float *y, size_t y_stride)                                     \
    {                                                                                              \
        const panel p = {codes, scales, zeros};                                                    \
        gemm(bits, m, units, units_per_group, units_per_scale, a, a_stride, p, y, y_stride);       \
    }

#endif
