/* SPDX-License-Identifier: MIT
 * Row-wise ops: norms, rotary positions, activations, residual adds. All are parallel over rows
 * and deterministic. */
#ifndef BAL_OP_POINTWISE_H
#define BAL_OP_POINTWISE_H

#include "op/exec.h"

/* y[m][n] = x / sqrt(mean(x^2) + eps) * w. y may be x. */
void bal_rms_norm(const bal_exec *e, const float *x, const float *w, float eps, int m, int n,
                  float *y);

/* y[m][n] = (x - mean) / sqrt(var + eps) * w + b. y may be x. */
void bal_layer_norm(const bal_exec *e, const float *x, const float *w, const float *b, float eps,
                    int m, int n, float *y);

/* Angles of one sequence: cos, sin [m][head_dim / 2] for positions pos[i], base theta (RoFormer,
 * in f32 as transformers computes them). */
void bal_rope_table(const int32_t *pos, int m, int head_dim, float theta, float *cos_out,
                    float *sin_out);
/* Rotates x [m][heads * head_dim] in place, halves paired as (i, i + head_dim / 2); sign -1
 * rotates back (the transpose, for gradients). */
void bal_rope_apply(const bal_exec *e, float *x, int m, int heads, int head_dim,
                    const float *cos_in, const float *sin_in, float sign);

/* g[m][n] = silu(g) * u */
void bal_silu_mul(const bal_exec *e, float *g, const float *u, int m, int n);
void bal_gelu_tanh(const bal_exec *e, float *x, int m, int n);
/* exact GELU through erff */
void bal_gelu_erf(const bal_exec *e, float *x, int m, int n);
/* x sigmoid(1.702 x), CLIP's approximation of GELU */
void bal_gelu_quick(const bal_exec *e, float *x, int m, int n);
/* x[m][n] in place through Hadamard's transform of runs of `block` (kernel/hadamard.h) */
void bal_hadamard(const bal_exec *e, float *x, int m, int n, int block);
/* y[m][n] += x * scale, scale [n] */
void bal_add_scaled(const bal_exec *e, float *y, const float *x, const float *scale, int m, int n);
/* y += x over n floats */
void bal_add(const bal_exec *e, float *y, const float *x, size_t n);

#endif
