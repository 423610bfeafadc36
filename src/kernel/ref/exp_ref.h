/* SPDX-License-Identifier: MIT
 * The one exponential of Ballast, scalar. Vector code repeats these operations in this order.
 * exp(x) = 2^n * p(r): n = rint(x / ln 2), r = x - n ln 2 in two steps (Cody and Waite), p the
 * degree 6 polynomial below (interpolated at Chebyshev nodes, relative error under 2^-26.5 on
 * |r| <= ln 2 / 2); 2^n is applied
 * as two factors, so that subnormal results are rounded once and overflow becomes infinity. */
#ifndef BAL_KERNEL_REF_EXP_REF_H
#define BAL_KERNEL_REF_EXP_REF_H

#include <math.h>

#include "base/half.h"

#define BAL_EXP_MIN    -104.0f /* exp of it and of all below rounds to 0 */
#define BAL_EXP_MAX    89.0f   /* exp of it and of all above is infinity */
#define BAL_EXP_LOG2E  0x1.715476p+0f
#define BAL_EXP_LN2_HI 0x1.62e4p-1f    /* 15 bits: n * hi is exact */
#define BAL_EXP_LN2_LO 0x1.7f7d1cp-20f /* ln 2 - hi */
#define BAL_EXP_C2     0.5f
#define BAL_EXP_C3     0x1.5554dcp-3f
#define BAL_EXP_C4     0x1.555518p-5f
#define BAL_EXP_C5     0x1.120ce4p-7f
#define BAL_EXP_C6     0x1.6d127ep-10f

/* Constants of the activations: 2 sqrt(2 / pi), that times 0.044715, and 1.702. */
#define BAL_GELU_C1    0x1.988454p+0f
#define BAL_GELU_C3    0x1.2444f2p-4f
#define BAL_GELU_QUICK 0x1.b3b646p+0f

static inline float bal_exp_ref(float x)
{
    if (x != x) return x;
    if (BAL_EXP_MIN > x) x = BAL_EXP_MIN;
    if (BAL_EXP_MAX < x) x = BAL_EXP_MAX;
    const float n = rintf(x * BAL_EXP_LOG2E);
    float r = fmaf(n, -BAL_EXP_LN2_HI, x);
    r = fmaf(n, -BAL_EXP_LN2_LO, r);
    float p = fmaf(BAL_EXP_C6, r, BAL_EXP_C5);
    p = fmaf(p, r, BAL_EXP_C4);
    p = fmaf(p, r, BAL_EXP_C3);
    p = fmaf(p, r, BAL_EXP_C2);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    const int e = (int)n, half = e >> 1;
    p *= bal_f32_from_bits((uint32_t)(half + 127) << 23);
    return p * bal_f32_from_bits((uint32_t)(e - half + 127) << 23);
}

#endif
