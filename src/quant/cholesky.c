/* SPDX-License-Identifier: MIT
 * Left-looking: a column of tiles takes up all columns before it in one product per tile, then is
 * divided by its diagonal tile. Tiles of a column are independent, so lanes share nothing. Refuses
 * matrices that are not positive definite. */
#include "quant/cholesky.h"

#include "base/size.h"
#include "quant/blas.h"

#include <stdlib.h>
#include <string.h>

enum { TILE = BAL_LOWER_TILE };

static size_t tiles_of(const bal_lower *l)
{
    return bal_ceil_div((size_t)l->k, (size_t)TILE);
}

static size_t tile_size(const bal_lower *l, size_t p)
{
    return bal_min((size_t)TILE, (size_t)l->k - p * TILE);
}

bal_status bal_lower_create(bal_lower *l, int k, bal_error *err)
{
    size_t doubles, bytes = 0;
    *l = (bal_lower){.k = k};
    const size_t last = tiles_of(l) - 1;
    if (bal_size_mul((size_t)TILE * TILE, last * (last + 1) / 2, &doubles) &&
        bal_size_mul(doubles + tile_size(l, last) * (size_t)k, sizeof(double), &bytes))
        l->data = malloc(bytes);
    return l->data ? BAL_OK : bal_nomem(err, bytes, "a factor of second moments");
}

void bal_lower_destroy(bal_lower *l)
{
    free(l->data);
    *l = (bal_lower){0};
}

/* ---- Factor -----------------------------------------------------------------------------------
 */

typedef struct column_job {
    const bal_lower *l;
    size_t at; /* the column of tiles */
} column_job;

/* Tile (i, at) less what the columns before account for. */
static void take_up(const bal_lower *l, size_t i, size_t at)
{
    const size_t before = at * TILE;
    double *row = bal_lower_panel(l, i);
    if (before == 0) return;
    bal_blas_gemm(true, tile_size(l, i), tile_size(l, at), before, -1.0, row,
                  bal_lower_stride(l, i), bal_lower_panel(l, at), bal_lower_stride(l, at), 1.0,
                  row + before, bal_lower_stride(l, i));
}

static void column_tiles(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const column_job *j = ctx;
    const bal_lower *l = j->l;
    const size_t first = j->at * TILE;
    for (size_t i = j->at + 1 + begin; i < j->at + 1 + end; i++) {
        take_up(l, i, j->at);
        bal_blas_solve(BAL_BLAS_XLT, tile_size(l, i), tile_size(l, j->at),
                       bal_lower_panel(l, j->at) + first, bal_lower_stride(l, j->at),
                       bal_lower_panel(l, i) + first, bal_lower_stride(l, i));
    }
}

bool bal_lower_factor(bal_lower *l, bal_pool *pool)
{
    const size_t tiles = tiles_of(l);
    for (size_t at = 0; at < tiles; at++) {
        take_up(l, at, at);
        if (!bal_blas_factor(tile_size(l, at), bal_lower_panel(l, at) + at * TILE,
                             bal_lower_stride(l, at)))
            return false;
        column_job j = {l, at};
        if (at + 1 < tiles) bal_pool_run(pool, column_tiles, &j, tiles - at - 1, 1);
    }
    return true;
}

/* ---- Inverse ----------------------------------------------------------------------------------
 */

typedef struct inverse_job {
    const bal_lower *l;
    double *d;
    double *lanes; /* per lane [k][TILE] */
} inverse_job;

/* One column of tiles of L^-1 by forward substitution, top down: x [rows below first][n]. */
static void invert_column(const bal_lower *l, size_t at, double *x)
{
    const size_t n = tile_size(l, at), first = at * TILE;
    memset(x, 0, ((size_t)l->k - first) * n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i * n + i] = 1.0;
    for (size_t i = at; i < tiles_of(l); i++) {
        const double *row = bal_lower_panel(l, i);
        const size_t ld = bal_lower_stride(l, i), rows = tile_size(l, i);
        double *out = x + (i * TILE - first) * n;
        if (i > at)
            bal_blas_gemm(false, rows, n, i * TILE - first, -1.0, row + first, ld, x, n, 0.0, out,
                          n);
        bal_blas_solve(BAL_BLAS_LX, rows, n, row + i * TILE, ld, out, n);
    }
}

/* [A^-1]_jj is the squared length of column j of L^-1. */
static void inverse_columns(void *ctx, size_t begin, size_t end, int lane)
{
    const inverse_job *j = ctx;
    const size_t k = (size_t)j->l->k;
    double *x = j->lanes + (size_t)lane * k * TILE;
    for (size_t at = begin; at < end; at++) {
        const size_t n = tile_size(j->l, at), first = at * TILE;
        invert_column(j->l, at, x);
        memset(j->d + first, 0, n * sizeof *j->d);
        for (size_t i = 0; i < k - first; i++)
            for (size_t c = 0; c < n; c++) j->d[first + c] += x[i * n + c] * x[i * n + c];
    }
}

bal_status bal_lower_inverse_diagonal(const bal_lower *l, bal_pool *pool, double *d, bal_error *err)
{
    const size_t doubles = (size_t)bal_pool_size(pool) * (size_t)l->k * TILE;
    inverse_job j = {l, d, malloc(doubles * sizeof(double))};
    if (!j.lanes) return bal_nomem(err, doubles * sizeof(double), "columns of an inverse");
    bal_pool_run(pool, inverse_columns, &j, tiles_of(l), 1);
    free(j.lanes);
    return BAL_OK;
}

/* ---- Solve ------------------------------------------------------------------------------------
 */

void bal_lower_solve(const bal_lower *l, double *rows, size_t n)
{
    const size_t k = (size_t)l->k, tiles = tiles_of(l);
    for (size_t p = 0; p < tiles; p++) { /* y L^T = b */
        const size_t first = p * TILE, ld = bal_lower_stride(l, p), cols = tile_size(l, p);
        const double *row = bal_lower_panel(l, p);
        if (p > 0)
            bal_blas_gemm(true, n, cols, first, -1.0, rows, k, row, ld, 1.0, rows + first, k);
        bal_blas_solve(BAL_BLAS_XLT, n, cols, row + first, ld, rows + first, k);
    }
    for (size_t p = tiles; p-- > 0;) { /* x L = y */
        const size_t first = p * TILE, cols = tile_size(l, p);
        for (size_t q = p + 1; q < tiles; q++)
            bal_blas_gemm(false, n, cols, tile_size(l, q), -1.0, rows + q * TILE, k,
                          bal_lower_panel(l, q) + first, bal_lower_stride(l, q), 1.0, rows + first,
                          k);
        bal_blas_solve(BAL_BLAS_XL, n, cols, bal_lower_panel(l, p) + first, bal_lower_stride(l, p),
                       rows + first, k);
    }
}
