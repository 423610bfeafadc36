/* SPDX-License-Identifier: MIT
 * Cholesky, inverse and solves by LAPACK on square copies of the packed triangle; the serial
 * OpenBLAS, so that results do not depend on threads. Refuses what is not finite or cannot be
 * damped into shape. */
#include "quant/factor.h"

#include "base/size.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>

enum { SOLVE_ROWS = 64 }; /* right sides of one work item */
#define MOST_DAMPING 1.0

const char *bal_blas_name(void)
{
    return openblas_get_config();
}

/* The serial build has one thread anyway; where a system puts another build in its place, this
 * keeps the order of sums what it is. */
static void one_thread(void)
{
    openblas_set_num_threads(1);
}

static double *square(int k)
{
    size_t n;
    return bal_size_mul((size_t)k * (size_t)k, sizeof(double), &n) ? malloc(n) : NULL;
}

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

/* The lower triangle, column by column, of H with columns in the reverse of the order: its Cholesky
 * factor L is then the upper triangular factor of H, last position first. */
static void fill_reversed(const bal_factor *f, const bal_moments *m, double add, double *a)
{
    const size_t k = (size_t)f->k;
    for (size_t c = 0; c < k; c++) {
        const int from = f->order[k - 1 - c];
        for (size_t r = c; r < k; r++) a[c * k + r] = bal_moments_at(m, f->order[k - 1 - r], from);
        a[c * k + c] += add;
    }
}

static bal_status decompose(bal_factor *f, const bal_moments *m, double damp, double *a,
                            bal_error *err)
{
    const double mean = bal_moments_mean(m);
    if (!isfinite(mean))
        return bal_fail(err, BAL_E_NUMERIC, "second moments of %d inputs are not finite", f->k);
    for (f->damp = damp; f->damp <= MOST_DAMPING; f->damp *= 10.0) {
        fill_reversed(f, m, f->damp * mean, a);
        const lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'L', f->k, a, f->k);
        if (info == 0) return BAL_OK;
        if (info < 0) break;
    }
    return bal_fail(err, BAL_E_NUMERIC,
                    "second moments of %d inputs are not positive definite, whatever is added to "
                    "their diagonal",
                    f->k);
}

/* Position i has column k - 1 - i of a: M_ij with j > i is L[k-1-i][k-1-j] / L[k-1-j][k-1-j]. */
static void take_factor(bal_factor *f, const double *a)
{
    const size_t k = (size_t)f->k;
    for (size_t j = 0; j < k; j++) {
        const double *col = a + (k - 1 - j) * k, root = col[k - 1 - j];
        f->pivot[j] = root * root;
        for (size_t i = 0; i < j; i++) f->feed[i * k + j] = (float)(col[k - 1 - i] / root);
    }
}

static bal_status take_inverse(bal_factor *f, double *a, bal_error *err)
{
    const size_t k = (size_t)f->k;
    if (LAPACKE_dpotri_work(LAPACK_COL_MAJOR, 'L', f->k, a, f->k) != 0)
        return bal_fail(err, BAL_E_NUMERIC, "second moments of %d inputs have no inverse", f->k);
    for (size_t j = 0; j < k; j++) f->inverse[f->order[j]] = 1.0 / a[(k - 1 - j) * k + (k - 1 - j)];
    return BAL_OK;
}

static bal_status create(bal_factor *f, const bal_moments *m, double damp, bool by_size,
                         bal_error *err)
{
    const size_t k = (size_t)f->k;
    f->order = malloc(k * sizeof *f->order);
    f->feed = calloc(k * k, sizeof *f->feed);
    f->pivot = malloc(k * sizeof *f->pivot);
    f->inverse = malloc(k * sizeof *f->inverse);
    double *a = square(f->k);
    bal_status st = f->order && f->feed && f->pivot && f->inverse && a
                        ? make_order(f, m, by_size, err)
                        : bal_nomem(err, k * k * sizeof *a, "a factor of second moments");
    if (st >= 0) st = decompose(f, m, damp, a, err);
    if (st >= 0) {
        take_factor(f, a);
        st = take_inverse(f, a, err);
    }
    free(a);
    return st;
}

bal_status bal_factor_create(bal_factor *f, const bal_moments *m, double damp, bool by_size,
                             bal_error *err)
{
    one_thread();
    *f = (bal_factor){.k = m->k};
    const bal_status st = create(f, m, damp, by_size, err);
    if (st < 0) bal_factor_destroy(f);
    return st;
}

void bal_factor_destroy(bal_factor *f)
{
    free(f->order);
    free(f->feed);
    free(f->pivot);
    free(f->inverse);
    *f = (bal_factor){0};
}

/* ---- Shift ------------------------------------------------------------------------------------
 */

typedef struct solve_job {
    const double *a; /* Cholesky factor, by columns */
    double *rows;    /* [n][k]: right sides in, solutions out */
    float *out;
    size_t n, k;
} solve_job;

static void solve_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const solve_job *j = ctx;
    for (size_t i = begin; i < end; i++) {
        const size_t r0 = i * SOLVE_ROWS, n = bal_min(SOLVE_ROWS, j->n - r0);
        double *rows = j->rows + r0 * j->k;
        LAPACKE_dpotrs_work(LAPACK_COL_MAJOR, 'L', (lapack_int)j->k, (lapack_int)n, j->a,
                            (lapack_int)j->k, rows, (lapack_int)j->k);
        for (size_t c = 0; c < n * j->k; c++) j->out[r0 * j->k + c] = (float)rows[c];
    }
}

/* *out [n][k] = rows A^-1, a symmetric matrix being its own transpose; *rows is used up. */
static bal_status solve(float **out, const bal_exec *e, const double *a, double **rows, size_t n,
                        size_t k, bal_error *err)
{
    *out = malloc(n * k * sizeof **out);
    if (!*out) return bal_nomem(err, n * k * sizeof **out, "shifts of targets");
    solve_job j = {a, *rows, *out, n, k};
    bal_pool_run(e->pool, solve_rows, &j, bal_ceil_div(n, SOLVE_ROWS), 1);
    free(*rows);
    *rows = NULL;
    return BAL_OK;
}

/* Cholesky factor of H + ridge mean(diag H) I in the lower triangle of *out, by columns. */
static bal_status ridge_factor(double **out, const bal_moments *m, double ridge, bal_error *err)
{
    const size_t k = (size_t)m->k;
    const double add = ridge * bal_moments_mean(m);
    double *a = *out = square(m->k);
    if (!a) return bal_nomem(err, k * k * sizeof *a, "second moments");
    for (size_t i = 0; i < k; i++) {
        for (size_t j = 0; j <= i; j++) a[j * k + i] = m->tri[i * (i + 1) / 2 + j];
        a[i * k + i] += add;
    }
    if (LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'L', m->k, a, m->k) == 0) return BAL_OK;
    return bal_fail(err, BAL_E_NUMERIC,
                    "second moments of %d inputs with a ridge of %g are not positive definite",
                    m->k, ridge);
}

bal_status bal_shift_create(float **inputs, float **residual, const bal_exec *e, bal_moments *m,
                            double ridge, bal_error *err)
{
    const size_t k = (size_t)m->k;
    double *a = NULL;
    one_thread();
    *inputs = *residual = NULL;
    bal_status st = ridge_factor(&a, m, ridge, err);
    if (st >= 0) st = solve(inputs, e, a, &m->cross, k, k, err);
    if (st >= 0 && m->residual) st = solve(residual, e, a, &m->residual, (size_t)m->n_out, k, err);
    free(a);
    return st;
}
