/* SPDX-License-Identifier: MIT
 * Definition of the transform. */
#include "kernel/hadamard.h"

#include <math.h>

bal_hadamard_fn bal_hadamard_ref;

void bal_hadamard_ref(float *x, size_t n, size_t block)
{
    const float scale = 1.0f / sqrtf((float)block);
    for (size_t half = 1; half < block; half *= 2)
        for (size_t at = 0; at < n; at += 2 * half)
            for (size_t i = at; i < at + half; i++) {
                const float a = x[i], b = x[i + half];
                x[i] = a + b;
                x[i + half] = a - b;
            }
    for (size_t i = 0; i < n; i++) x[i] = x[i] * scale;
}
