/* SPDX-License-Identifier: MIT */
#include "op/pointwise.h"

#include <math.h>

enum { ROW_GRAIN = 16, FLAT_GRAIN = 8192 };

typedef struct rows_job {
    const bal_exec *e;
    const float *x, *w, *b;
    float *y;
    float eps, sign;
    size_t n;
    const float *cos, *sin;
    int heads, head_dim, block;
} rows_job;

static void rms_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    for (size_t i = begin; i < end; i++) {
        const float *x = j->x + i * j->n;
        float *y = j->y + i * j->n;
        double sum = 0.0;
        for (size_t c = 0; c < j->n; c++) sum += (double)x[c] * (double)x[c];
        const float scale = 1.0f / sqrtf((float)(sum / (double)j->n) + j->eps);
        for (size_t c = 0; c < j->n; c++) y[c] = x[c] * scale * j->w[c];
    }
}

void bal_rms_norm(const bal_exec *e, const float *x, const float *w, float eps, int m, int n,
                  float *y)
{
    rows_job j = {.x = x, .w = w, .y = y, .eps = eps, .n = (size_t)n};
    bal_pool_run(e->pool, rms_rows, &j, (size_t)m, ROW_GRAIN);
}

static void layer_norm_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    for (size_t i = begin; i < end; i++) {
        const float *x = j->x + i * j->n;
        float *y = j->y + i * j->n;
        double sum = 0.0, square = 0.0;
        for (size_t c = 0; c < j->n; c++) sum += (double)x[c];
        const double mean = sum / (double)j->n;
        for (size_t c = 0; c < j->n; c++) square += ((double)x[c] - mean) * ((double)x[c] - mean);
        const float scale = (float)(1.0 / sqrt(square / (double)j->n + (double)j->eps));
        const float shift = (float)mean;
        for (size_t c = 0; c < j->n; c++) y[c] = (x[c] - shift) * scale * j->w[c] + j->b[c];
    }
}

void bal_layer_norm(const bal_exec *e, const float *x, const float *w, const float *b, float eps,
                    int m, int n, float *y)
{
    rows_job j = {.x = x, .w = w, .b = b, .y = y, .eps = eps, .n = (size_t)n};
    bal_pool_run(e->pool, layer_norm_rows, &j, (size_t)m, ROW_GRAIN);
}

void bal_rope_table(const int32_t *pos, int m, int head_dim, float theta, float *cos_out,
                    float *sin_out)
{
    const int half = head_dim / 2;
    for (int i = 0; i < half; i++) {
        const float inv = (float)(1.0 / pow((double)theta, 2.0 * i / head_dim));
        for (int r = 0; r < m; r++) {
            const float angle = (float)pos[r] * inv;
            cos_out[(size_t)r * (size_t)half + (size_t)i] = cosf(angle);
            sin_out[(size_t)r * (size_t)half + (size_t)i] = sinf(angle);
        }
    }
}

static void rope_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    const size_t dim = (size_t)j->head_dim, half = dim / 2;
    for (size_t i = begin; i < end; i++) {
        const float *cosine = j->cos + i * half, *sine = j->sin + i * half;
        for (size_t h = 0; h < (size_t)j->heads; h++) {
            float *a = j->y + (i * (size_t)j->heads + h) * dim, *b = a + half;
            for (size_t c = 0; c < half; c++) {
                const float s = sine[c] * j->sign, u = a[c], v = b[c];
                a[c] = u * cosine[c] - v * s;
                b[c] = v * cosine[c] + u * s;
            }
        }
    }
}

void bal_rope_apply(const bal_exec *e, float *x, int m, int heads, int head_dim,
                    const float *cos_in, const float *sin_in, float sign)
{
    rows_job j = {
        .y = x, .cos = cos_in, .sin = sin_in, .sign = sign, .heads = heads, .head_dim = head_dim};
    bal_pool_run(e->pool, rope_rows, &j, (size_t)m, ROW_GRAIN);
}

static void silu_flat(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    j->e->kernels->silu_mul(j->y + begin, j->y + begin, j->x + begin, end - begin);
}

void bal_silu_mul(const bal_exec *e, float *g, const float *u, int m, int n)
{
    rows_job j = {.e = e, .x = u, .y = g};
    bal_pool_run(e->pool, silu_flat, &j, (size_t)m * (size_t)n, FLAT_GRAIN);
}

static void hadamard_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    j->e->kernels->hadamard(j->y + begin * j->n, (end - begin) * j->n, (size_t)j->block);
}

void bal_hadamard(const bal_exec *e, float *x, int m, int n, int block)
{
    rows_job j = {.e = e, .y = x, .n = (size_t)n, .block = block};
    bal_pool_run(e->pool, hadamard_rows, &j, (size_t)m, 1);
}

static void gelu_tanh_flat(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    j->e->kernels->gelu_tanh(j->y + begin, j->y + begin, end - begin);
}

void bal_gelu_tanh(const bal_exec *e, float *x, int m, int n)
{
    rows_job j = {.e = e, .y = x};
    bal_pool_run(e->pool, gelu_tanh_flat, &j, (size_t)m * (size_t)n, FLAT_GRAIN);
}

static void gelu_erf_flat(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    for (size_t i = begin; i < end; i++)
        j->y[i] = 0.5f * j->y[i] * (1.0f + erff(j->y[i] * (float)M_SQRT1_2));
}

void bal_gelu_erf(const bal_exec *e, float *x, int m, int n)
{
    rows_job j = {.y = x};
    bal_pool_run(e->pool, gelu_erf_flat, &j, (size_t)m * (size_t)n, FLAT_GRAIN);
}

static void gelu_quick_flat(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    for (size_t i = begin; i < end; i++) j->y[i] = j->y[i] / (1.0f + expf(-1.702f * j->y[i]));
}

void bal_gelu_quick(const bal_exec *e, float *x, int m, int n)
{
    rows_job j = {.y = x};
    bal_pool_run(e->pool, gelu_quick_flat, &j, (size_t)m * (size_t)n, FLAT_GRAIN);
}

static void add_scaled_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    for (size_t i = begin; i < end; i++)
        for (size_t c = 0; c < j->n; c++) j->y[i * j->n + c] += j->x[i * j->n + c] * j->w[c];
}

void bal_add_scaled(const bal_exec *e, float *y, const float *x, const float *scale, int m, int n)
{
    rows_job j = {.x = x, .w = scale, .y = y, .n = (size_t)n};
    bal_pool_run(e->pool, add_scaled_rows, &j, (size_t)m, ROW_GRAIN);
}

static void add_flat(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    for (size_t i = begin; i < end; i++) j->y[i] += j->x[i];
}

void bal_add(const bal_exec *e, float *y, const float *x, size_t n)
{
    rows_job j = {.x = x, .y = y};
    bal_pool_run(e->pool, add_flat, &j, n, FLAT_GRAIN);
}
