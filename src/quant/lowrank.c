/* SPDX-License-Identifier: MIT
 * All products go through the exact f32 kernel, split by rows; orthonormalization is serial and in
 * double. Nothing depends on the number of threads. */
#include "quant/lowrank.h"

#include "base/half.h"
#include "base/rng.h"
#include "base/size.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ITERATIONS = 8, ROWS = 8, COLUMNS = 64 };

int bal_lowrank_of(int rank, int n, int k)
{
    const int most = (n < k ? n : k) / 2;
    return rank < most ? rank : most;
}

typedef struct fit {
    const bal_exec *e;
    const float *d, *h;
    size_t n, k, rank;
    float *y, *yt; /* [n][rank], [rank][n] */
    float *z, *x;  /* [rank][k]: Y^T D; and that times H */
    float *xt;     /* [k][rank] */
} fit;

static void transpose(const float *from, size_t rows, size_t cols, float *to)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) to[c * rows + r] = from[r * cols + c];
}

/* Some columns of Z = Y^T D. */
static void left_columns(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const fit *f = ctx;
    const size_t c0 = begin * COLUMNS, cols = bal_min(end * COLUMNS, f->k) - c0;
    f->e->kernels->gemm_nn_f32(f->rank, f->n, cols, f->yt, f->n, f->d + c0, f->k, f->z + c0, f->k,
                               false);
}

/* Some columns of X = Z H. */
static void weigh_columns(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const fit *f = ctx;
    const size_t c0 = begin * COLUMNS, cols = bal_min(end * COLUMNS, f->k) - c0;
    f->e->kernels->gemm_nn_f32(f->rank, f->k, cols, f->z, f->k, f->h + c0, f->k, f->x + c0, f->k,
                               false);
}

/* Some rows of Y = D X^T. */
static void right_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const fit *f = ctx;
    const size_t r0 = begin * ROWS, rows = bal_min(end * ROWS, f->n) - r0;
    f->e->kernels->gemm_nn_f32(rows, f->k, f->rank, f->d + r0 * f->k, f->k, f->xt, f->rank,
                               f->y + r0 * f->rank, f->rank, false);
}

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Rows of q [rank][n] orthonormal, twice Gram and Schmidt; a row that is nothing beside the ones
 * before it becomes zeros. */
static void orthonormalize(float *q, size_t rank, size_t n)
{
    for (size_t i = 0; i < rank; i++) {
        float *v = q + i * n;
        const double before = sqrt(dot(v, v, n));
        for (int pass = 0; pass < 2; pass++)
            for (size_t j = 0; j < i; j++) {
                const double c = dot(v, q + j * n, n);
                for (size_t r = 0; r < n; r++)
                    v[r] = (float)((double)v[r] - c * (double)q[j * n + r]);
            }
        const double norm = sqrt(dot(v, v, n));
        const double inv = norm > 1e-6 * before && norm > 0.0 ? 1.0 / norm : 0.0;
        for (size_t r = 0; r < n; r++) v[r] = (float)((double)v[r] * inv);
    }
}

static void iterate(fit *f)
{
    const size_t column_items = bal_ceil_div(f->k, COLUMNS);
    for (int i = 0; i < ITERATIONS; i++) {
        bal_pool_run(f->e->pool, left_columns, f, column_items, 1);
        bal_pool_run(f->e->pool, weigh_columns, f, column_items, 1);
        transpose(f->x, f->rank, f->k, f->xt);
        bal_pool_run(f->e->pool, right_rows, f, bal_ceil_div(f->n, ROWS), 1);
        transpose(f->y, f->n, f->rank, f->yt);
        orthonormalize(f->yt, f->rank, f->n);
    }
    bal_pool_run(f->e->pool, left_columns, f, column_items, 1);
}

static float largest(const float *x, size_t n)
{
    float top = 0.0f;
    for (size_t i = 0; i < n; i++) top = fmaxf(top, fabsf(x[i]));
    return top;
}

/* Row r of A and column r of B, both with about the same largest element. */
static void store(const fit *f, size_t r, uint16_t *a, uint16_t *b)
{
    const float *row = f->z + r * f->k, *column = f->yt + r * f->n;
    const float ta = largest(row, f->k), tb = largest(column, f->n);
    const bool any = ta > 0.0f && tb > 0.0f;
    const int power = any ? (int)lrint(0.5 * log2((double)ta / (double)tb)) : 0;
    for (size_t c = 0; c < f->k; c++)
        a[r * f->k + c] = bal_f32_to_f16(any ? ldexpf(row[c], -power) : 0.0f);
    for (size_t i = 0; i < f->n; i++)
        b[i * f->rank + r] = bal_f32_to_f16(any ? ldexpf(column[i], power) : 0.0f);
}

bal_status bal_lowrank_fit(const bal_exec *e, const float *d, const float *h, int n, int k,
                           int rank, uint16_t *a, uint16_t *b, bal_error *err)
{
    fit f = {.e = e, .d = d, .h = h, .n = (size_t)n, .k = (size_t)k, .rank = (size_t)rank};
    const size_t side = f.rank * f.n, top = f.rank * f.k, floats = 2 * side + 3 * top;
    float *memory = malloc(floats * sizeof *memory);
    bal_rng rng;
    if (!memory) return bal_nomem(err, floats * sizeof *memory, "a matrix of small rank");
    f.y = memory;
    f.yt = f.y + side;
    f.z = f.yt + side;
    f.x = f.z + top;
    f.xt = f.x + top;
    bal_rng_seed(&rng, 1);
    for (size_t i = 0; i < side; i++) f.yt[i] = bal_rng_f32(&rng) - 0.5f;
    iterate(&f);
    for (size_t r = 0; r < f.rank; r++) store(&f, r, a, b);
    free(memory);
    return BAL_OK;
}
