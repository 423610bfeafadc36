/* SPDX-License-Identifier: MIT
 * The transform for NEON: the first two stages meet inside a register, the others between two. */
#include "kernel/hadamard.h"

#include <arm_neon.h>
#include <math.h>

bal_hadamard_fn bal_hadamard_neon;

enum { VECTORS = BAL_HADAMARD_MOST / 4 };

/* Stages 1 and 2. The upper of two that meet is (lower) - (upper): its partner minus itself. */
static inline float32x4_t inside(float32x4_t x)
{
    const uint32x4_t odd = {0, ~0u, 0, ~0u}, high = {0, 0, ~0u, ~0u};
    float32x4_t other = vrev64q_f32(x);
    x = vbslq_f32(odd, vsubq_f32(other, x), vaddq_f32(x, other));
    other = vextq_f32(x, x, 2);
    return vbslq_f32(high, vsubq_f32(other, x), vaddq_f32(x, other));
}

void bal_hadamard_neon(float *x, size_t n, size_t block)
{
    const float scale = 1.0f / sqrtf((float)block);
    const size_t vectors = block / 4;
    float32x4_t v[VECTORS];
    for (size_t at = 0; at < n; at += block) {
        for (size_t i = 0; i < vectors; i++) v[i] = inside(vld1q_f32(x + at + 4 * i));
        for (size_t half = 1; half < vectors; half *= 2)
            for (size_t i = 0; i < vectors; i++) {
                if (i & half) continue;
                const float32x4_t a = v[i], b = v[i + half];
                v[i] = vaddq_f32(a, b);
                v[i + half] = vsubq_f32(a, b);
            }
        for (size_t i = 0; i < vectors; i++) vst1q_f32(x + at + 4 * i, vmulq_n_f32(v[i], scale));
    }
}
