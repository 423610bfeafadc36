/* SPDX-License-Identifier: MIT
 * Definition of softmax and the gated activations. */
#include "kernel/activation.h"

#include "kernel/ref/exp_ref.h"

bal_softmax_exp_fn bal_softmax_exp_ref;
bal_softmax_row_fn bal_softmax_row_ref;
bal_silu_mul_fn bal_silu_mul_ref;
bal_gelu_tanh_fn bal_gelu_tanh_ref;

static float lane_max(const float *x, size_t n)
{
    float m[16];
    for (int l = 0; l < 16; l++) m[l] = -INFINITY;
    for (size_t i = 0; i < n; i++) m[i % 16] = x[i] > m[i % 16] ? x[i] : m[i % 16];
    for (int h = 8; h; h /= 2)
        for (int l = 0; l < h; l++) m[l] = m[l + h] > m[l] ? m[l + h] : m[l];
    return m[0];
}

void bal_softmax_exp_ref(float *x, size_t n, float *max_out, float *sum_out)
{
    const float max = lane_max(x, n), shift = max == -INFINITY ? 0.0f : max;
    float s[16] = {0};
    for (size_t i = 0; i < n; i++) {
        x[i] = bal_exp_ref(x[i] - shift);
        s[i % 16] = s[i % 16] + x[i];
    }
    for (int h = 8; h; h /= 2)
        for (int l = 0; l < h; l++) s[l] = s[l] + s[l + h];
    *max_out = max;
    *sum_out = s[0];
}

void bal_softmax_row_ref(float *x, size_t n)
{
    float max, sum;
    bal_softmax_exp_ref(x, n, &max, &sum);
    const float inv = sum == 0.0f ? 0.0f : 1.0f / sum;
    for (size_t i = 0; i < n; i++) x[i] = x[i] * inv;
}

void bal_silu_mul_ref(float *y, const float *g, const float *u, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = g[i] / (1.0f + bal_exp_ref(-g[i])) * u[i];
}

void bal_gelu_tanh_ref(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float z2 = x[i] * fmaf(BAL_GELU_C3, x[i] * x[i], BAL_GELU_C1);
        y[i] = x[i] / (1.0f + bal_exp_ref(-z2));
    }
}
