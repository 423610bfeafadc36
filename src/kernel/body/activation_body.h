/* SPDX-License-Identifier: MIT
 * Softmax and gated activations on 16 lanes; included after a lanes_*.h by activation_<isa>.c,
 * which names the functions through ISA(). Tails go through a buffer of 16. */
#include "kernel/activation.h"
#include "kernel/ref/exp_ref.h"

bal_softmax_exp_fn ISA(bal_softmax_exp);
bal_softmax_row_fn ISA(bal_softmax_row);
bal_silu_mul_fn ISA(bal_silu_mul);
bal_gelu_tanh_fn ISA(bal_gelu_tanh);

ALWAYS_INLINE v16 v16_exp(v16 x)
{
    x = v16_max(v16_set1(BAL_EXP_MIN), x);
    x = v16_min(v16_set1(BAL_EXP_MAX), x);
    const v16 n = v16_round(v16_mul(x, v16_set1(BAL_EXP_LOG2E)));
    v16 r = v16_fma(n, v16_set1(-BAL_EXP_LN2_HI), x);
    r = v16_fma(n, v16_set1(-BAL_EXP_LN2_LO), r);
    v16 p = v16_fma(v16_set1(BAL_EXP_C6), r, v16_set1(BAL_EXP_C5));
    p = v16_fma(p, r, v16_set1(BAL_EXP_C4));
    p = v16_fma(p, r, v16_set1(BAL_EXP_C3));
    p = v16_fma(p, r, v16_set1(BAL_EXP_C2));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    return v16_ldexp(p, n);
}

ALWAYS_INLINE v16 load_tail(const float *x, size_t n, float fill)
{
    float t[16];
    for (int i = 0; i < 16; i++) t[i] = fill;
    memcpy(t, x, n * sizeof *x);
    return v16_load(t);
}

ALWAYS_INLINE void store_tail(float *y, size_t n, v16 v)
{
    float t[16];
    v16_store(t, v);
    memcpy(y, t, n * sizeof *y);
}

ALWAYS_INLINE float row_max(const float *x, size_t n)
{
    v16 m = v16_set1(-INFINITY);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) m = v16_max(v16_load(x + i), m);
    if (i < n) m = v16_max(load_tail(x + i, n - i, -INFINITY), m);
    return v16_max_across(m);
}

void ISA(bal_softmax_exp)(float *x, size_t n, float *max_out, float *sum_out)
{
    const float max = row_max(x, n);
    const v16 shift = v16_set1(max == -INFINITY ? 0.0f : max);
    v16 s = v16_set1(0.0f);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const v16 e = v16_exp(v16_sub(v16_load(x + i), shift));
        v16_store(x + i, e);
        s = v16_add(s, e);
    }
    if (i < n) {
        const v16 e = v16_exp(v16_sub(load_tail(x + i, n - i, -INFINITY), shift));
        store_tail(x + i, n - i, e);
        s = v16_add(s, e); /* exp(-inf) = 0 in the absent lanes */
    }
    *max_out = max;
    *sum_out = v16_sum(s);
}

void ISA(bal_softmax_row)(float *x, size_t n)
{
    float max, sum;
    ISA(bal_softmax_exp)(x, n, &max, &sum);
    const v16 inv = v16_set1(sum == 0.0f ? 0.0f : 1.0f / sum);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v16_store(x + i, v16_mul(v16_load(x + i), inv));
    if (i < n) store_tail(x + i, n - i, v16_mul(load_tail(x + i, n - i, 0.0f), inv));
}

/* x / (1 + exp(-z)) */
ALWAYS_INLINE v16 gate(v16 x, v16 z)
{
    return v16_div(x, v16_add(v16_set1(1.0f), v16_exp(v16_negate(z))));
}

void ISA(bal_silu_mul)(float *y, const float *g, const float *u, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const v16 v = v16_load(g + i);
        v16_store(y + i, v16_mul(gate(v, v), v16_load(u + i)));
    }
    if (i < n) {
        const v16 v = load_tail(g + i, n - i, 0.0f);
        store_tail(y + i, n - i, v16_mul(gate(v, v), load_tail(u + i, n - i, 0.0f)));
    }
}

ALWAYS_INLINE v16 gelu_tanh(v16 x)
{
    const v16 c = v16_fma(v16_set1(BAL_GELU_C3), v16_mul(x, x), v16_set1(BAL_GELU_C1));
    return gate(x, v16_mul(x, c));
}

void ISA(bal_gelu_tanh)(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) v16_store(y + i, gelu_tanh(v16_load(x + i)));
    if (i < n) store_tail(y + i, n - i, gelu_tanh(load_tail(x + i, n - i, 0.0f)));
}
