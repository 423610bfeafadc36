/* SPDX-License-Identifier: MIT
 * gemm_a8 (kernel/gemm_a8.h) around the tiles of tokens: few tokens take codes out of the words as
 * they go, more take them out once for all, some units at a time, into bytes that stay in the first
 * cache. bits is a literal at every call. Whoever includes this says first
 *   FEW      tokens up to which codes are taken out as they are needed
 *   BYTES8   whether 8-bit codes are multiplied as they stand in the words
 * and afterwards what the functions do that are only declared here. */
#ifndef BAL_KERNEL_GEMM_A8_BODY_H
#define BAL_KERNEL_GEMM_A8_BODY_H

#include "kernel/gemm_a8.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

enum { BLOCK = 32 /* units taken out at once: 16 KiB of bytes, half of the first cache */ };

typedef struct panel {
    const uint32_t *codes; /* words, or bytes that were taken out, of the first unit in work */
    const uint16_t *scales;
    const uint8_t *zeros;
} panel;

/* n units of codes to 512 bytes each. */
ALWAYS_INLINE void take_out(const int bits, const uint32_t *codes, size_t n, uint32_t *bytes);

/* Adds units u .. u1 - 1 to y for m tokens; p->codes, words or bytes, are those of unit u. Of a
 * segment that reaches beyond either end, the sum so far is in carry [m][16]. */
ALWAYS_INLINE void rows(const int bits, const bool bytes, int m, const panel *p, bal_a8_walk walk,
                        size_t u, size_t u1, size_t units, const bal_a8 *a, size_t a_stride,
                        int32_t (*carry)[16], float *y, size_t y_stride);

ALWAYS_INLINE void gemm(const int bits, int m, size_t units, size_t units_per_group,
                        size_t units_per_scale, const bal_a8 *a, size_t a_stride, panel p, float *y,
                        size_t y_stride)
{
    int32_t carry[BAL_GEMM_A8_ROWS][16];
    _Alignas(64) uint32_t bytes[BLOCK * 8 * 16];
    assert(1 <= m && m <= BAL_GEMM_A8_ROWS && units && units_per_group && units_per_scale);
    memset(carry, 0, (size_t)m * sizeof *carry);
    for (int i = 0; i < m; i++) memset(y + (size_t)i * y_stride, 0, 16 * sizeof *y);
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
