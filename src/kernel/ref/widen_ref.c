/* SPDX-License-Identifier: MIT
 * Definition of widen_f16 and widen_i8. */
#include "kernel/widen.h"

#include <string.h>

#include "base/half.h"

bal_widen_f16_fn bal_widen_f16_ref;
bal_widen_i8_fn bal_widen_i8_ref;

void bal_widen_f16_ref(float *y, const uint16_t *x, size_t n)
{
    const uint8_t *bytes = (const void *)x; /* weights may stand on odd ones */
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, bytes + 2 * i, sizeof h);
        y[i] = bal_f16_to_f32(h);
    }
}

void bal_widen_i8_ref(float *y, const int8_t *x, float scale, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = (float)x[i] * scale;
}
