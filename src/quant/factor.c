/* SPDX-License-Identifier: MIT
 * Order, factor and shift on packed triangles (cholesky.h), read back as f32 panels. Refuses what
 * is not finite or cannot be damped into shape. */
#include "quant/factor.h"

#include "base/size.h"
#include "quant/cholesky.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SOLVE_ROWS = 64 }; /* right sides of one work item */
#define MOST_DAMPING 1.0

bal_status bal_damped_matrix(float **out, const bal_moments *m, double damp, bal_error *err)
{
    const size_t k = (size_t)m->k;
    const double add = damp * bal_moments_mean(m);
    *out = malloc(k * k * sizeof **out);
    if (!*out) return bal_nomem(err, k * k * sizeof **out, "second moments");
    for (size_t i = 0; i < k; i++) {
        const double *row = m->tri + i * (i + 1) / 2;
        for (size_t j = 0; j < i; j++) (*out)[i * k + j] = (*out)[j * k + i] = (float)row[j];
        (*out)[i * k + i] = (float)(row[i] + add);
    }
    return BAL_OK;
}

/* ---- Order ------------------------------------------------------------------------------------
 */

typedef struct column {
    double size;
    int index;
} column;

static int falling(const void *a, const void *b)
{
    const column *x = a, *y = b;
    if (x->size != y->size) return x->size > y->size ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static bal_status make_order(bal_factor *f, const bal_moments *m, bool by_size, bal_error *err)
{
    column *c = malloc((size_t)f->k * sizeof *c);
    if (!c) return bal_nomem(err, (size_t)f->k * sizeof *c, "order of columns");
    for (int i = 0; i < f->k; i++) c[i] = (column){bal_moments_at(m, i, i), i};
    if (by_size) qsort(c, (size_t)f->k, sizeof *c, falling);
    for (int i = 0; i < f->k; i++) f->order[i] = c[i].index;
    free(c);
    return BAL_OK;
}

/* ---- Factor -----------------------------------------------------------------------------------
 */

/* The lower triangle of H with rows and columns in the reverse of the order: its Cholesky factor L
 * is then the upper triangular factor of H, last position first. */
typedef struct reversed_job {
    const bal_factor *f;
    const bal_moments *m;
    bal_lower *a;
    double add;
} reversed_job;

enum { FILL_ROWS = 64 };

static void reversed_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const reversed_job *j = ctx;
    const size_t k = (size_t)j->f->k;
    for (size_t r = begin * FILL_ROWS; r < bal_min(end * FILL_ROWS, k); r++) {
        const int *order = j->f->order + (k - 1), from = order[-(ptrdiff_t)r];
        double *row = bal_lower_row(j->a, r);
        for (size_t c = 0; c <= r; c++) row[c] = bal_moments_at(j->m, from, order[-(ptrdiff_t)c]);
        row[r] += j->add;
    }
}

static bal_status decompose(bal_factor *f, const bal_exec *e, const bal_moments *m, double damp,
                            bal_lower *a, bal_error *err)
{
    const double mean = bal_moments_mean(m);
    if (!isfinite(mean))
        return bal_fail(err, BAL_E_NUMERIC, "second moments of %d inputs are not finite", f->k);
    for (f->damp = damp; f->damp <= MOST_DAMPING; f->damp *= 10.0) {
        reversed_job j = {f, m, a, f->damp * mean};
        bal_pool_run(e->pool, reversed_rows, &j, bal_ceil_div((size_t)f->k, FILL_ROWS), 1);
        if (bal_lower_factor(a, e->pool)) return BAL_OK;
    }
    return bal_fail(err, BAL_E_NUMERIC,
                    "second moments of %d inputs are not positive definite, whatever is added to "
                    "their diagonal",
                    f->k);
}

typedef struct feed_job {
    bal_factor *f;
    const bal_lower *a;
    const double *root; /* [k] by position */
} feed_job;

/* M_ij with j > i is L[k-1-i][k-1-j] / L[k-1-j][k-1-j]. */
static void feed_panels(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const feed_job *j = ctx;
    const size_t k = (size_t)j->f->k;
    for (size_t at = begin; at < end; at++) {
        const size_t first = at * BAL_TRI_PANEL, stop = bal_min(first + BAL_TRI_PANEL, k);
        for (size_t i = first; i < stop; i++) {
            const double *row = bal_lower_row(j->a, k - 1 - i);
            float *to = bal_panels_element(&j->f->feed, i, first);
            for (size_t c = first; c <= i; c++) to[c - first] = 0.0f;
            for (size_t c = i + 1; c < k; c++) to[c - first] = (float)(row[k - 1 - c] / j->root[c]);
        }
    }
}

static bal_status take_factor(bal_factor *f, const bal_exec *e, const bal_lower *a, bal_error *err)
{
    const size_t k = (size_t)f->k;
    double *root = malloc(k * sizeof *root);
    if (!root) return bal_nomem(err, k * sizeof *root, "pivots");
    bal_status st = bal_panels_create(&f->feed, f->k, err);
    for (size_t i = 0; i < k; i++) {
        root[i] = bal_lower_row(a, k - 1 - i)[k - 1 - i];
        f->pivot[i] = root[i] * root[i];
    }
    feed_job j = {f, a, root};
    if (st >= 0) bal_pool_run(e->pool, feed_panels, &j, bal_ceil_div(k, BAL_TRI_PANEL), 1);
    free(root);
    return st;
}

static bal_status take_inverse(bal_factor *f, const bal_exec *e, const bal_lower *a, bal_error *err)
{
    const size_t k = (size_t)f->k;
    double *d = malloc(k * sizeof *d);
    f->inverse = malloc(k * sizeof *f->inverse);
    bal_status st = d && f->inverse ? bal_lower_inverse_diagonal(a, e->pool, d, err)
                                    : bal_nomem(err, k * sizeof *d, "an inverse");
    for (size_t i = 0; st >= 0 && i < k; i++) f->inverse[f->order[k - 1 - i]] = 1.0 / d[i];
    free(d);
    return st;
}

static bal_status create(bal_factor *f, const bal_exec *e, const bal_moments *m, double damp,
                         unsigned what, bal_lower *a, bal_error *err)
{
    const size_t k = (size_t)f->k;
    f->order = malloc(k * sizeof *f->order);
    f->pivot = malloc(k * sizeof *f->pivot);
    if (!f->order || !f->pivot) return bal_nomem(err, k * sizeof *f->pivot, "order of columns");
    BAL_TRY(make_order(f, m, (what & BAL_FACTOR_BY_SIZE) != 0, err));
    BAL_TRY(bal_lower_create(a, f->k, err));
    BAL_TRY(decompose(f, e, m, damp, a, err));
    if (what & BAL_FACTOR_INVERSE) BAL_TRY(take_inverse(f, e, a, err));
    return take_factor(f, e, a, err);
}

bal_status bal_factor_create(bal_factor *f, const bal_exec *e, const bal_moments *m, double damp,
                             unsigned what, bal_error *err)
{
    bal_lower a = {0};
    *f = (bal_factor){.k = m->k};
    const bal_status st = create(f, e, m, damp, what, &a, err);
    bal_lower_destroy(&a);
    if (st < 0) bal_factor_destroy(f);
    return st;
}

void bal_factor_destroy(bal_factor *f)
{
    free(f->order);
    bal_panels_destroy(&f->feed);
    free(f->pivot);
    free(f->inverse);
    *f = (bal_factor){0};
}

/* ---- Shift ------------------------------------------------------------------------------------
 */

typedef struct solve_job {
    const bal_lower *a; /* Cholesky factor */
    double *rows;       /* [n][k]: right sides in, solutions out */
    float *out;
    size_t n, k;
    double part;
} solve_job;

static void solve_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const solve_job *j = ctx;
    for (size_t i = begin; i < end; i++) {
        const size_t r0 = i * SOLVE_ROWS, n = bal_min(SOLVE_ROWS, j->n - r0);
        double *rows = j->rows + r0 * j->k;
        bal_lower_solve(j->a, rows, n);
        for (size_t c = 0; c < n * j->k; c++) j->out[r0 * j->k + c] = (float)(j->part * rows[c]);
    }
}

/* *out [n][k] = part rows A^-1, a symmetric matrix being its own transpose; *rows is used up. */
static bal_status solve(float **out, const bal_exec *e, const bal_lower *a, double **rows, size_t n,
                        size_t k, double part, bal_error *err)
{
    *out = malloc(n * k * sizeof **out);
    if (!*out) return bal_nomem(err, n * k * sizeof **out, "shifts of targets");
    solve_job j = {a, *rows, *out, n, k, part};
    bal_pool_run(e->pool, solve_rows, &j, bal_ceil_div(n, SOLVE_ROWS), 1);
    free(*rows);
    *rows = NULL;
    return BAL_OK;
}

/* Cholesky factor of H + ridge mean(diag H) I. */
static bal_status ridge_factor(bal_lower *a, const bal_exec *e, const bal_moments *m, double ridge,
                               bal_error *err)
{
    const double add = ridge * bal_moments_mean(m);
    BAL_TRY(bal_lower_create(a, m->k, err));
    for (size_t i = 0; i < (size_t)m->k; i++) {
        double *row = bal_lower_row(a, i);
        memcpy(row, m->tri + i * (i + 1) / 2, (i + 1) * sizeof *row);
        row[i] += add;
    }
    if (bal_lower_factor(a, e->pool)) return BAL_OK;
    return bal_fail(err, BAL_E_NUMERIC,
                    "second moments of %d inputs with a ridge of %g are not positive definite",
                    m->k, ridge);
}

bal_status bal_shift_create(float **inputs, float **residual, const bal_exec *e, bal_moments *m,
                            double ridge, double part, bal_error *err)
{
    const size_t k = (size_t)m->k;
    bal_lower a = {0};
    *inputs = *residual = NULL;
    bal_status st = ridge_factor(&a, e, m, ridge, err);
    if (st >= 0 && m->cross) st = solve(inputs, e, &a, &m->cross, k, k, part, err);
    if (st >= 0 && m->residual)
        st = solve(residual, e, &a, &m->residual, (size_t)m->n_out, k, part, err);
    bal_lower_destroy(&a);
    return st;
}

/* ---- Column by column -------------------------------------------------------------------------
 */

typedef struct column_job {
    const bal_factor *f;
    const bal_moments *m;
    bal_panels *out;
    double part;
    double *lanes; /* [lanes][k] */
} column_job;

/* Row i of triu(C M^-T, 1) D^-1: z with M z = c from the last position to i + 1. */
static void above_diagonal(const column_job *j, size_t i, double *z)
{
    const bal_factor *f = j->f;
    const size_t k = (size_t)f->k;
    const double *c = j->m->cross + (size_t)f->order[i] * k;
    for (size_t a = k; a-- > i + 1;) {
        const float *row = bal_panels_element(&f->feed, a, a);
        double sum = c[f->order[a]];
        for (size_t b = a + 1; b < k; b++) sum -= (double)row[b - a] * z[b];
        z[a] = sum;
    }
    for (size_t a = i + 1; a < k; a++) z[a] /= f->pivot[a];
}

/* Row i of P: p with p M = z. */
static void column_rows(void *ctx, size_t begin, size_t end, int lane)
{
    const column_job *j = ctx;
    const size_t k = (size_t)j->f->k;
    double *z = j->lanes + (size_t)lane * k;
    for (size_t i = begin; i < end; i++) {
        const size_t first = i / BAL_TRI_PANEL * BAL_TRI_PANEL;
        float *to = bal_panels_element(j->out, i, first);
        above_diagonal(j, i, z);
        for (size_t a = first; a <= i; a++) to[a - first] = 0.0f;
        for (size_t a = i + 1; a < k; a++) {
            const float *row = bal_panels_element(&j->f->feed, a, a);
            for (size_t b = a + 1; b < k; b++) z[b] -= z[a] * (double)row[b - a];
            to[a - first] = (float)(j->part * z[a]);
        }
    }
}

bal_status bal_column_shift_create(bal_panels *p, const bal_exec *e, const bal_factor *f,
                                   const bal_moments *m, double part, bal_error *err)
{
    const size_t n = (size_t)bal_pool_size(e->pool) * (size_t)f->k;
    column_job j = {f, m, p, part, malloc(n * sizeof(double))};
    if (!j.lanes) return bal_nomem(err, n * sizeof(double), "a column-wise shift");
    const bal_status st = bal_panels_create(p, f->k, err);
    if (st >= 0) bal_pool_run(e->pool, column_rows, &j, (size_t)f->k, 1);
    free(j.lanes);
    return st;
}
