/* SPDX-License-Identifier: MIT
 * gemm_w and gemm_t (kernel/gemm_w.h, gemm_t.h) around the tiles of tokens: a few tokens have codes
 * pulled out as they are needed, more have what is multiplied pulled out once for all, some units
 * at a time, into bytes that stay in the first cache. kind is a literal at every call. Whoever
 * includes this says first
 *   levels   the register that holds the levels of a table
 *   BYTES8   whether 8-bit codes are multiplied as they stand in the words
 * and afterwards what the functions do that are only declared here. */
#ifndef BAL_KERNEL_GEMM_A16_BODY_H
#define BAL_KERNEL_GEMM_A16_BODY_H

#include "kernel/gemm_t.h"
#include "kernel/gemm_w.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

/* FEW: tokens up to which codes are pulled out as they are needed; BLOCK: units pulled out at once,
 * 16 KiB. */
enum { FEW = 4, BLOCK = 32 };

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

/* What n units multiply, to 512 bytes each. */
ALWAYS_INLINE void pull(const int kind, const uint32_t *codes, size_t n, const sides *p,
                        uint32_t *out);

/* Adds n units, of which the first is unit u, to y; codes are words or, if pulled, bytes. */
ALWAYS_INLINE void tiles(const int kind, const bool pulled, size_t rows, size_t u, size_t n,
                         size_t units_per_group, const bal_a16 *a, size_t a_stride,
                         const uint32_t *codes, const sides *p, float *y, size_t y_stride);

ALWAYS_INLINE void many(const int kind, size_t rows, size_t units, size_t units_per_group,
                        const bal_a16 *a, size_t a_stride, const uint32_t *codes, const sides *p,
                        float *y, size_t y_stride)
{
    _Alignas(64) uint32_t pulled[BLOCK * 8 * 16];
    const bool as_is = kind == 8 && BYTES8;
    const size_t words = BLOCK * 16 * (size_t)bits_of(kind);
    for (size_t u = 0; u < units; u += BLOCK, codes += words, a += BLOCK) {
        const size_t n = units - u < BLOCK ? units - u : BLOCK;
        if (!as_is) pull(kind, codes, n, p, pulled);
        tiles(kind, true, rows, u, n, units_per_group, a, a_stride, as_is ? codes : pulled, p, y,
              y_stride);
    }
}

ALWAYS_INLINE void gemm(const int kind, int m, size_t units, size_t units_per_group,
                        const bal_a16 *a, size_t a_stride, const uint32_t *codes, sides p, float *y,
                        size_t y_stride)
{
    assert(1 <= m && m <= BAL_GEMM_W_MR && units && units_per_group);
    if (kind & TABLE) p.level = levels_of(p.zeros, (4 << bits_of(kind)) - 1);
    for (int i = 0; i < m; i++) memset(y + (size_t)i * y_stride, 0, 16 * sizeof *y);
    if (m > FEW)
        many(kind, (size_t)m, units, units_per_group, a, a_stride, codes, &p, y, y_stride);
    else
        tiles(kind, false, (size_t)m, 0, units, units_per_group, a, a_stride, codes, &p, y,
              y_stride);
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
