/* SPDX-License-Identifier: MIT
 * How gemm_w and gemm_t multiply a panel where registers are scarce: a few tokens have codes pulled
 * out as they are needed, more have what is multiplied pulled out once for all, some units at a
 * time, into bytes that stay in the first cache. kind is a literal at every call. Whoever includes
 * this says first
 *   levels   the register that holds the levels of a table
 *   BYTES8   whether 8-bit codes are multiplied as they stand in the words
 * and afterwards what the functions do that are only declared here. */
#ifndef BAL_KERNEL_GEMM_A16_BLOCKS_H
#define BAL_KERNEL_GEMM_A16_BLOCKS_H

#include "kernel/body/gemm_a16_body.h"

#include <stdbool.h>

/* FEW: tokens up to which codes are pulled out as they are needed; BLOCK: units pulled out at once,
 * 16 KiB. */
enum { FEW = 4, BLOCK = 32 };

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

ALWAYS_INLINE void multiply(const int kind, size_t rows, size_t units, size_t units_per_group,
                            const bal_a16 *a, size_t a_stride, const uint32_t *codes,
                            const sides *p, float *y, size_t y_stride)
{
    if (rows > FEW)
        many(kind, rows, units, units_per_group, a, a_stride, codes, p, y, y_stride);
    else
        tiles(kind, false, rows, 0, units, units_per_group, a, a_stride, codes, p, y, y_stride);
}

#endif
