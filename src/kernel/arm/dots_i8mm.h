/* SPDX-License-Identifier: MIT
 * Sums of products of codes and activations for the *_body.h files here, with SMMLA: a register of
 * two rows of eight signed bytes times one of two others gives four sums of eight products, twice
 * what SDOT does. Two rows of activations, of two tokens or the planes of one, meet two outputs. */
#ifndef BAL_KERNEL_DOTS_I8MM_H
#define BAL_KERNEL_DOTS_I8MM_H

#include "kernel/arm/codes_neon.h"

/* Tokens multiplied at once: 16 registers of sums. */
enum { MR_A16 = 2, MR_A8 = 4, LEAST_A8 = 2 };

/* The sums of 4 outputs of two rows: of outputs 0 and 1, and of 2 and 3, each row 0's first. */
typedef struct dots {
    int32x4_t sum[2];
} dots;

ALWAYS_INLINE dots dots_zero(void)
{
    return (dots){{vdupq_n_s32(0), vdupq_n_s32(0)}};
}

/* Lanes 0 and 1, or 2 and 3, of a and of b. */
ALWAYS_INLINE int32x4_t halves(int32x4_t a, int32x4_t b, const int high)
{
    const int64x2_t u = vreinterpretq_s64_s32(a), v = vreinterpretq_s64_s32(b);
    return vreinterpretq_s32_s64(high ? vzip2q_s64(u, v) : vzip1q_s64(u, v));
}

/* What a step multiplies, from the codes of its quads: all eight inputs of outputs 0 and 1, and of
 * 2 and 3. */
ALWAYS_INLINE int8x16x2_t step_of(int8x16_t first, int8x16_t second)
{
    const int32x4_t a = vreinterpretq_s32_s8(first), b = vreinterpretq_s32_s8(second);
    return (int8x16x2_t){
        {vreinterpretq_s8_s32(vzip1q_s32(a, b)), vreinterpretq_s8_s32(vzip2q_s32(a, b))}};
}

/* Adds step s of two rows, of which a unit is at x and y. */
ALWAYS_INLINE void dots_add(const int top, const int s, const int rows, dots *d, int8x16x2_t w,
                            const int8_t *x, const int8_t *y)
{
    (void)top, (void)rows; /* 32 bits hold any; there are always two */
    const int32x4_t a = vreinterpretq_s32_s8(vld1q_s8(x + 16 * (s / 2)));
    const int32x4_t b = vreinterpretq_s32_s8(vld1q_s8(y + 16 * (s / 2)));
    const int8x16_t both = vreinterpretq_s8_s32(halves(a, b, s % 2));
    d->sum[0] = vmmlaq_s32(d->sum[0], both, w.val[0]);
    d->sum[1] = vmmlaq_s32(d->sum[1], both, w.val[1]);
}

/* Of row 0 or 1. */
ALWAYS_INLINE int32x4_t dots_sum(const dots *d, const int row)
{
    return halves(d->sum[0], d->sum[1], row);
}

#endif
