/* SPDX-License-Identifier: MIT
 * gemm_w and gemm_t (kernel/gemm_w.h, gemm_t.h) around what multiplies a panel. kind is a literal
 * at every call. Whoever includes this says first
 *   levels   the register that holds the levels of a table
 * and afterwards what the functions do that are only declared here. */
#ifndef BAL_KERNEL_GEMM_A16_BODY_H
#define BAL_KERNEL_GEMM_A16_BODY_H

#include "kernel/gemm_t.h"
#include "kernel/gemm_w.h"

#include <assert.h>
#include <string.h>

/* kind: the number of bits, and a bit that is none where codes go through a table or have steps. */
enum { TABLE = 16, TWO_LEVEL = 32 };

/* What stands beside the codes. */
typedef struct sides {
    const uint16_t *scales;
    const uint8_t *steps, *zeros;
    levels level; /* of each code of a table */
} sides;

ALWAYS_INLINE int bits_of(const int kind)
{
    return kind & 15;
}

/* The 16 levels of a table, all bits but those of mask cleared, in every 16 bytes. */
ALWAYS_INLINE levels levels_of(const uint8_t *table, const int mask);

/* Adds all units to y for `rows` tokens. */
ALWAYS_INLINE void multiply(const int kind, size_t rows, size_t units, size_t units_per_group,
                            const bal_a16 *a, size_t a_stride, const uint32_t *codes,
                            const sides *p, float *y, size_t y_stride);

ALWAYS_INLINE void gemm(const int kind, int m, size_t units, size_t units_per_group,
                        const bal_a16 *a, size_t a_stride, const uint32_t *codes, sides p, float *y,
                        size_t y_stride)
{
    assert(1 <= m && m <= BAL_GEMM_W_MR && units && units_per_group);
    if (kind & TABLE) p.level = levels_of(p.zeros, (4 << bits_of(kind)) - 1);
    for (int i = 0; i < m; i++) memset(y + (size_t)i * y_stride, 0, 16 * sizeof *y);
    multiply(kind, (size_t)m, units, units_per_group, a, a_stride, codes, &p, y, y_stride);
}

#define GEMM_W(name, bits)                                                                         \
    bal_gemm_w_fn name;                                                                            \
    void name(int m, size_t units, size_t units_per_group, const bal_a16 *a, size_t a_stride,      \
              const uint32_t *codes, const uint16_t *scales, const uint8_t *zeros, float *y,       \
              size_t y_stride)                                                                     \
    {                                                                                              \
        const sides p = {.scales = scales, .zeros = zeros};                                        \
        gemm(bits, m, units, units_per_group, a, a_stride, codes, p, y, y_stride);                 \
    }

#define GEMM_T(name, kind)                                                                         \
    bal_gemm_t_fn name;                                                                            \
    void name(int m, size_t units, size_t units_per_group, const bal_a16 *a, size_t a_stride,      \
              const uint32_t *codes, const uint16_t *scales, const uint8_t *steps,                 \
              const uint8_t *zeros, float *y, size_t y_stride)                                     \
    {                                                                                              \
        const sides p = {.scales = scales, .steps = steps, .zeros = zeros};                        \
        gemm(kind, m, units, units_per_group, a, a_stride, codes, p, y, y_stride);                 \
    }

#endif
