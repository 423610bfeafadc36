/* SPDX-License-Identifier: MIT
 * How gemm_a8 multiplies a panel where registers are scarce: few tokens take codes out of the words
 * as they go, more take them out once for all, some units at a time, into bytes that stay in the
 * first cache. bits is a literal at every call. Whoever includes this says first
 *   FEW      tokens up to which codes are taken out as they are needed
 *   BYTES8   whether 8-bit codes are multiplied as they stand in the words
 * and afterwards what the functions do that are only declared here. */
#ifndef BAL_KERNEL_GEMM_A8_BLOCKS_H
#define BAL_KERNEL_GEMM_A8_BLOCKS_H

#include "kernel/body/gemm_a8_body.h"

#include <stdbool.h>

enum { BLOCK = 32 /* units taken out at once: 16 KiB of bytes, half of the first cache */ };

/* n units of codes to 512 bytes each. */
ALWAYS_INLINE void take_out(const int bits, const uint32_t *codes, size_t n, uint32_t *bytes);

/* Adds units u .. u1 - 1 to y for m tokens; p->codes, words or bytes, are those of unit u. Of a
 * segment that reaches beyond either end, the sum so far is in carry [m][16]. */
ALWAYS_INLINE void rows(const int bits, const bool bytes, int m, const panel *p, bal_a8_walk walk,
                        size_t u, size_t u1, size_t units, const bal_a8 *a, size_t a_stride,
                        int32_t (*carry)[16], float *y, size_t y_stride);

ALWAYS_INLINE void multiply(const int bits, int m, size_t units, size_t units_per_group,
                            size_t units_per_scale, const bal_a8 *a, size_t a_stride, panel p,
                            float *y, size_t y_stride)
{
    int32_t carry[BAL_GEMM_A8_ROWS][16];
    _Alignas(64) uint32_t bytes[BLOCK * 8 * 16];
    memset(carry, 0, (size_t)m * sizeof *carry);
    if (m <= FEW) {
        const bal_a8_walk walk = bal_a8_walk_at(0, units_per_group, units_per_scale);
        rows(bits, false, m, &p, walk, 0, units, units, a, a_stride, carry, y, y_stride);
        return;
    }
    const uint32_t *codes = p.codes;
    for (size_t u = 0; u < units; u += BLOCK) {
        const size_t n = units - u < BLOCK ? units - u : BLOCK;
        const bal_a8_walk walk = bal_a8_walk_at(u, units_per_group, units_per_scale);
        p.codes = codes + u * 16 * (size_t)bits;
        if (bits < 8 || !BYTES8) {
            take_out(bits, p.codes, n, bytes);
            p.codes = bytes;
        }
        rows(bits, true, m, &p, walk, u, u + n, units, a, a_stride, carry, y, y_stride);
    }
}

#endif
