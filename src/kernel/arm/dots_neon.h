/* SPDX-License-Identifier: MIT
 * Sums of products of codes and activations for the *_body.h files here, on plain NEON. Products of
 * two bytes are summed in 16 bits for as long as those hold, then pairs of them in 32: a code of
 * magnitude `top` times an activation of magnitude 128, four lanes to an output, so 32767 / (128
 * top) quads of a unit. */
#ifndef BAL_KERNEL_DOTS_NEON_H
#define BAL_KERNEL_DOTS_NEON_H

#include "kernel/arm/codes_neon.h"

/* Tokens multiplied at once: of 16-bit activations 16 registers of sums of 16 bits, of bytes 8 and
 * 8 of 32 bits. */
enum { MR_A16 = 1, MR_A8 = 1 };

/* The sum of 4 outputs. */
typedef struct dot {
    int16x8_t part[2];
    int32x4_t wide[2];
} dot;

ALWAYS_INLINE dot dot_zero(void)
{
    const int32x4_t zero = vdupq_n_s32(0);
    return (dot){{vreinterpretq_s16_s32(zero), vreinterpretq_s16_s32(zero)}, {zero, zero}};
}

/* Quads of a unit that 16-bit sums hold, a power of two. */
ALWAYS_INLINE int quads_held(const int top)
{
    return top <= 31 ? 8 : top <= 63 ? 4 : 1;
}

/* Lane l of x, which holds 16 activations, in every lane. */
ALWAYS_INLINE int8x16_t lane_of(int8x16_t x, const int l)
{
    const int32x4_t v = vreinterpretq_s32_s8(x);
    switch (l) {
    case 0: return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 0));
    case 1: return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 1));
    case 2: return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 2));
    default: return vreinterpretq_s8_s32(vdupq_laneq_s32(v, 3));
    }
}

/* Adds the products of codes q of quad j, at most top in magnitude, and activations x, of which the
 * quad's are lane j % 4. */
ALWAYS_INLINE void dot_add(const int top, const int j, dot *d, int8x16_t q, int8x16_t x)
{
    const int8x16_t v = lane_of(x, j % 4);
    const int held = quads_held(top);
    if (j % held == 0) {
        d->part[0] = vmull_s8(vget_low_s8(q), vget_low_s8(v));
        d->part[1] = vmull_high_s8(q, v);
    } else {
        d->part[0] = vmlal_s8(d->part[0], vget_low_s8(q), vget_low_s8(v));
        d->part[1] = vmlal_high_s8(d->part[1], q, v);
    }
    if ((j + 1) % held == 0)
        for (int i = 0; i < 2; i++) d->wide[i] = vpadalq_s16(d->wide[i], d->part[i]);
}

/* After all quads of a unit. */
ALWAYS_INLINE int32x4_t dot_sum(const dot *d)
{
    return vpaddq_s32(d->wide[0], d->wide[1]);
}

#include "kernel/arm/dots_by_row.h"

#endif
