/* SPDX-License-Identifier: MIT
 * Single codes by the byte map of type/packed.h, for the definitions. */
#ifndef BAL_KERNEL_CODES_REF_H
#define BAL_KERNEL_CODES_REF_H

#include <stdint.h>

/* Code of input k (0..31) of output f (0..15); `unit` is [bits][16] words. */
static inline int code_at(int bits, const uint32_t *unit, int f, int k)
{
    const int j = k / 4, c = k % 4, per_byte = 8 / bits;
    if (bits == 3 && j >= 6) {
        const uint32_t low = unit[16 * (j - 6) + f] >> (8 * c + 6) & 3;
        return (int)(low | (unit[16 * 2 + f] >> (8 * c + j) & 1) << 2);
    }
    if (bits == 6 && j >= 6) {
        const uint32_t *spare = unit + 16 * 3 * (j - 6) + f;
        return (int)((spare[0] >> (8 * c + 6) & 3) | (spare[16] >> (8 * c + 6) & 3) << 2 |
                     (spare[32] >> (8 * c + 6) & 3) << 4);
    }
    return (int)(unit[16 * (j / per_byte) + f] >> (8 * c + bits * (j % per_byte)) &
                 ((1u << bits) - 1));
}

#endif
