/* SPDX-License-Identifier: MIT
 * Scalar conversions between f32 and the two 16-bit float formats; round half to even, subnormals
 * kept, NaN kept a NaN. These are the definition: vector code must agree bit for bit. */
#ifndef BAL_BASE_HALF_H
#define BAL_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t bal_f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float bal_f32_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float bal_bf16_to_f32(uint16_t h)
{
    return bal_f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t bal_f32_to_bf16(float x)
{
    const uint32_t u = bal_f32_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

static inline float bal_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, mag = h & 0x7fffu;
    if (mag >= 0x7c00u) return bal_f32_from_bits(sign | 0x7f800000u | (mag & 0x3ffu) << 13);
    if (mag >= 0x0400u) return bal_f32_from_bits(sign | ((mag << 13) + 0x38000000u));
    const float v = (float)mag * 0x1p-24f; /* zero and subnormals, exact */
    return sign ? -v : v;
}

static inline uint16_t bal_f32_to_f16(float x)
{
    const uint32_t u = bal_f32_bits(x), mag = u & 0x7fffffffu;
    const uint16_t sign = (uint16_t)(u >> 16 & 0x8000u);
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (mag >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds to 65536 or more */
    if (mag < 0x38800000u) { /* subnormal: let the FPU round at 2^-24 */
        const float v = bal_f32_from_bits(mag) + 0.5f;
        return (uint16_t)(sign | (bal_f32_bits(v) - 0x3f000000u));
    }
    const uint32_t r = mag - 0x38000000u;
    return (uint16_t)(sign | ((r + 0xfffu + (r >> 13 & 1u)) >> 13));
}

static inline float bal_round_f16(float x)
{
    return bal_f16_to_f32(bal_f32_to_f16(x));
}

static inline float bal_round_bf16(float x)
{
    return bal_bf16_to_f32(bal_f32_to_bf16(x));
}

#endif
