/* SPDX-License-Identifier: MIT
 * Contract: 8-bit activations times one panel of packed weights (type/packed.h), for 2, 3, 4, 6
 * and 8 bits. Class EXACT: integer sums are exact and the float order is fixed, so all variants
 * agree bit for bit, and a token's result does not depend on how many tokens are multiplied
 * together. */
#ifndef BAL_KERNEL_GEMM_A8_H
#define BAL_KERNEL_GEMM_A8_H

#include "kernel/quant_a8.h"

enum {
    BAL_GEMM_A8_ROWS = 64,   /* most tokens of a call */
    BAL_A8_SEGMENT = 1024,   /* most units of a segment: 32768 * 255 * 127 fits an int32 */
    BAL_GEMM_A8_OUTPUTS = 16 /* of a panel */
};

/* y[i][f] = sum over k of x[i][k] * w[f][k] for 1 <= m <= 64 tokens i and the 16 outputs f of one
 * panel. All 16 are written: a caller with fewer real outputs gives room for 16.
 *   a       units of token i at a + i * a_stride (in units), `units` of them, at least 1
 *   codes   of the panel, [units][bits][16]; scales, zeros of the panel, [groups][16]
 *   unit u has the weight group u / units_per_group and the activation scale of group
 *   u / units_per_scale; both counts >= 1
 *   y       token i at y + i * y_stride (in floats); overwritten
 * Units fall into segments: a segment ends behind unit u when u + 1 is a multiple of
 * units_per_group, of units_per_scale or of 1024, or is `units`. For each segment ascending, acc
 * starting at +0:
 *   dot = sum over its k of (q_w - z) * q_x                exact in int32
 *   acc = fmaf((float)dot, s * scale_x, acc)               (float)dot and s * scale_x rounded */
typedef void bal_gemm_a8_fn(int m, size_t units, size_t units_per_group, size_t units_per_scale,
                            const bal_a8 *a, size_t a_stride, const uint32_t *codes,
                            const uint16_t *scales, const uint8_t *zeros, float *y,
                            size_t y_stride);

typedef bal_gemm_a8_fn bal_gemm_a8w2_fn, bal_gemm_a8w3_fn, bal_gemm_a8w4_fn, bal_gemm_a8w6_fn,
    bal_gemm_a8w8_fn;

/* Where a walk over the units of a panel stands: how many units are left of the weight group, of
 * the activation group and of the longest segment. */
typedef struct bal_a8_walk {
    size_t units_per_group, units_per_scale;
    size_t group, of_group, of_scale, of_most;
    size_t begin; /* unit at which the segment began */
} bal_a8_walk;

static inline bal_a8_walk bal_a8_walk_at(size_t u, size_t units_per_group, size_t units_per_scale)
{
    const size_t g = u % units_per_group, s = u % units_per_scale, t = u % BAL_A8_SEGMENT;
    const size_t back = g < s ? (g < t ? g : t) : (s < t ? s : t);
    return (bal_a8_walk){units_per_group,
                         units_per_scale,
                         u / units_per_group,
                         units_per_group - g,
                         units_per_scale - s,
                         BAL_A8_SEGMENT - t,
                         u - back};
}

/* Units to the end of the segment. */
static inline size_t bal_a8_walk_left(const bal_a8_walk *w)
{
    const size_t n = w->of_group < w->of_scale ? w->of_group : w->of_scale;
    return n < w->of_most ? n : w->of_most;
}

/* Moves on by n units, at most those left, to unit u; true at the end of a segment. */
static inline int bal_a8_walk_on(bal_a8_walk *w, size_t n, size_t u)
{
    w->of_group -= n, w->of_scale -= n, w->of_most -= n;
    const int end = !w->of_group || !w->of_scale || !w->of_most;
    if (!w->of_group) w->of_group = w->units_per_group, w->group++;
    if (!w->of_scale) w->of_scale = w->units_per_scale;
    if (!w->of_most) w->of_most = BAL_A8_SEGMENT;
    if (end) w->begin = u;
    return end;
}

#endif
