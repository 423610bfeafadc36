/* SPDX-License-Identifier: MIT
 * Floats as keys in their order, so that the larger is found by comparing integers. */
#ifndef BAL_CUDA_ORDER_CUH
#define BAL_CUDA_ORDER_CUH

#include "cuda/port.cuh"

enum : uint32_t { BAL_KEY_NOT_FINITE = 0xffffffffu }; /* above the key of any finite value */

/* Both zeros are one. v is finite. */
BAL_DEVICE uint32_t bal_key_of(float v)
{
    const uint32_t bits = __float_as_uint(__fadd_rn(v, 0.0f));
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

BAL_DEVICE float bal_key_value(uint32_t key)
{
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

BAL_DEVICE bool bal_is_finite(float v)
{
    return fabsf(v) <= 3.402823466e38f; /* false for NaN */
}

#endif
