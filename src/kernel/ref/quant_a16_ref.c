/* SPDX-License-Identifier: MIT
 * Definition of quant_a16. Nothing may be made faster here. */
#include "kernel/quant_a16.h"

#include <math.h>
#include <stdbool.h>

#include "base/half.h"

bal_quant_a16_fn bal_quant_a16_ref;

static void quant_unit(const float x[32], bal_a16 *out)
{
    uint32_t top = 0; /* bits of max |x|; those of NaN and infinity compare above all numbers */
    for (int i = 0; i < 32; i++) {
        const uint32_t mag = bal_f32_bits(x[i]) & 0x7fffffffu;
        if (mag > top) top = mag;
    }
    const float absmax = bal_f32_from_bits(top);
    const bool finite = top < 0x7f800000u, zero = finite && absmax < 0x1p-100f;
    const float inv = BAL_A16_MAX / absmax;
    *out = (bal_a16){.scale = !finite ? NAN : zero ? 0.0f : absmax / BAL_A16_MAX};
    for (int i = 0; i < 32 && finite && !zero; i++) {
        const int q = (int)rintf(x[i] * inv);
        out->sum += q;
        out->hi[i] = (int8_t)((q + 128) >> 8);
        out->lo[i] = (int8_t)(q - 256 * out->hi[i]);
    }
}

void bal_quant_a16_ref(const float *x, size_t k, bal_a16 *out)
{
    for (size_t at = 0; at < k; at += 32) {
        float unit[32] = {0};
        for (size_t i = 0; i < 32 && at + i < k; i++) unit[i] = x[at + i];
        quant_unit(unit, &out[at / 32]);
    }
}
