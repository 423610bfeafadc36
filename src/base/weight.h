/* SPDX-License-Identifier: MIT
 * How likely a token is beside the likeliest one, as an integer: sums of integers are the same in
 * any order, so a device that adds them up in another one draws what the CPU draws. Every step is
 * one rounded f32 operation (no fused ones), which any IEEE machine repeats bit for bit. */
#ifndef BAL_BASE_WEIGHT_H
#define BAL_BASE_WEIGHT_H

#include <math.h>
#include <stdint.h>

enum { BAL_WEIGHT_BITS = 40 }; /* the likeliest token's weight is 2^40 */

/* The polynomial is Taylor's of 2^f, whose rest is below 2^-22 for |f| <= 1/2. */
#define BAL_WEIGHT_C1 0x1.62e43p-1f
#define BAL_WEIGHT_C2 0x1.ebfbep-3f
#define BAL_WEIGHT_C3 0x1.c6b08ep-5f
#define BAL_WEIGHT_C4 0x1.3b2ab6p-7f
#define BAL_WEIGHT_C5 0x1.5d87fep-10f
#define BAL_WEIGHT_C6 0x1.430912p-13f

/* log2(e) / temperature: what differences of logits are multiplied by. */
static inline float bal_weight_scale(float temperature)
{
    return (float)(1.4426950408889634 / (double)temperature);
}

/* 2^40 exp((logit - top) / temperature), rounded down; 0 for what is less likely than 2^-40 of the
 * likeliest. top is finite and the largest logit, logit finite or -inf. */
static inline uint64_t bal_weight_of(float logit, float top, float scale)
{
    if (logit == top) return (uint64_t)1 << BAL_WEIGHT_BITS;
    const float d = logit - top, x = d * scale;
    if (!(x >= -(float)BAL_WEIGHT_BITS)) return 0;
    const float n = rintf(x), f = x - n;
    float p = BAL_WEIGHT_C6;
    p = p * f + BAL_WEIGHT_C5;
    p = p * f + BAL_WEIGHT_C4;
    p = p * f + BAL_WEIGHT_C3;
    p = p * f + BAL_WEIGHT_C2;
    p = p * f + BAL_WEIGHT_C1;
    p = p * f + 1.0f;
    const uint32_t units = (uint32_t)(p * 0x1p23f);
    return (uint64_t)units << (BAL_WEIGHT_BITS - 23) >> (int)-n;
}

/* What the likeliest tokens must weigh together to be as much as the part top_p of all. */
static inline uint64_t bal_weight_enough(float top_p, uint64_t all)
{
    const uint64_t w = (uint64_t)((double)top_p * (double)all);
    return w ? w : 1;
}

/* A point of [0, mass) from 64 random bits: the high half of their product. */
static inline uint64_t bal_weight_point(uint64_t random, uint64_t mass)
{
    const uint64_t a = random >> 32, b = (uint32_t)random, c = mass >> 32, d = (uint32_t)mass;
    const uint64_t low = (b * d >> 32) + (uint32_t)(a * d) + (uint32_t)(b * c);
    return a * c + (a * d >> 32) + (b * c >> 32) + (low >> 32);
}

#endif
