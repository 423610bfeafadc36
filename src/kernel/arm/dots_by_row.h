/* SPDX-License-Identifier: MIT
 * Sums of two rows of activations that have registers of their own: the end of dots_neon.h and
 * dots_neondot.h, which say before what dot, dot_zero, dot_add and dot_sum are. */
#ifndef BAL_KERNEL_DOTS_BY_ROW_H
#define BAL_KERNEL_DOTS_BY_ROW_H

enum { LEAST_A8 = 1 };

/* The sums of 4 outputs of two rows; where there is one row, the other's are not used. */
typedef struct dots {
    dot row[2];
} dots;

ALWAYS_INLINE dots dots_zero(void)
{
    return (dots){{dot_zero(), dot_zero()}};
}

/* What a step multiplies, from the codes of its quads. */
ALWAYS_INLINE int8x16x2_t step_of(int8x16_t first, int8x16_t second)
{
    return (int8x16x2_t){{first, second}};
}

/* Adds step s of one or two rows, of which a unit is at x and y; codes are at most top in
 * magnitude. */
ALWAYS_INLINE void dots_add(const int top, const int s, const int rows, dots *d, int8x16x2_t w,
                            const int8_t *x, const int8_t *y)
{
    const int j = 2 * s, at = 16 * (s / 2);
    dot_add(top, j, &d->row[0], w.val[0], vld1q_s8(x + at));
    if (rows == 2) dot_add(top, j, &d->row[1], w.val[0], vld1q_s8(y + at));
    dot_add(top, j + 1, &d->row[0], w.val[1], vld1q_s8(x + at));
    if (rows == 2) dot_add(top, j + 1, &d->row[1], w.val[1], vld1q_s8(y + at));
}

/* Of row 0 or 1, after all steps of a unit. */
ALWAYS_INLINE int32x4_t dots_sum(const dots *d, const int row)
{
    return dot_sum(&d->row[row]);
}

#endif
