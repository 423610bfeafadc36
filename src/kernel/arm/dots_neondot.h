/* SPDX-License-Identifier: MIT
 * Sums of products of codes and activations for the *_body.h files here, with SDOT: four products
 * of signed bytes added to a 32-bit lane, the activations of a quad taken by lane. */
#ifndef BAL_KERNEL_DOTS_NEONDOT_H
#define BAL_KERNEL_DOTS_NEONDOT_H

#include "kernel/arm/codes_neon.h"

/* Tokens multiplied at once: 16 registers of sums, 8 of activations. */
enum { MR_A16 = 2, MR_A8 = 4 };

/* The sum of 4 outputs. */
typedef struct dot {
    int32x4_t sum;
} dot;

ALWAYS_INLINE dot dot_zero(void)
{
    return (dot){vdupq_n_s32(0)};
}

/* Adds the products of codes q of quad j and activations x, of which the quad's are lane j % 4. */
ALWAYS_INLINE void dot_add(const int top, const int j, dot *d, int8x16_t q, int8x16_t x)
{
    (void)top; /* 32 bits hold any */
    switch (j % 4) {
    case 0: d->sum = vdotq_laneq_s32(d->sum, q, x, 0); break;
    case 1: d->sum = vdotq_laneq_s32(d->sum, q, x, 1); break;
    case 2: d->sum = vdotq_laneq_s32(d->sum, q, x, 2); break;
    default: d->sum = vdotq_laneq_s32(d->sum, q, x, 3);
    }
}

ALWAYS_INLINE int32x4_t dot_sum(const dot *d)
{
    return d->sum;
}

#include "kernel/arm/dots_by_row.h"

#endif
