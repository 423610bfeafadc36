/* SPDX-License-Identifier: MIT
 * Sums of outer products, in strips of rows of the result so that lanes share nothing. Refuses
 * sizes that do not fit into memory; values are the caller's to check. */
#include "quant/moments.h"

#include "base/size.h"
#include "quant/probe.h"

#include <stdlib.h>

enum { STRIP = 16 }; /* rows of the result of one work item */

static double *zeros(size_t a, size_t b)
{
    size_t n;
    return bal_size_mul(a, b, &n) ? calloc(n, sizeof(double)) : NULL;
}

bal_status bal_moments_create(bal_moments *m, const bal_exec *e, int k, bool cross, int n_out,
                              bal_error *err)
{
    const size_t n = (size_t)k, lanes = (size_t)bal_pool_size(e->pool);
    *m = (bal_moments){.k = k, .n_out = n_out, .lane_floats = STRIP * k};
    m->tri = zeros(n, (n + 1) / 2 + 1);
    if (cross) m->cross = zeros(n, n);
    if (n_out > 0) m->residual = zeros((size_t)n_out, n);
    m->lanes = malloc(lanes * (size_t)m->lane_floats * sizeof *m->lanes);
    if (m->tri && (!cross || m->cross) && (n_out == 0 || m->residual) && m->lanes) return BAL_OK;
    bal_moments_destroy(m);
    return bal_nomem(err, n * n * sizeof(double), "second moments of a linear input");
}

void bal_moments_destroy(bal_moments *m)
{
    free(m->tri);
    free(m->cross);
    free(m->residual);
    free(m->lanes);
    *m = (bal_moments){0};
}

typedef struct strip_job {
    const bal_moments *m;
    const bal_exec *e;
    const float *at; /* [rows of the result][rows]: the left factor, transposed */
    const float *u;  /* [rows][k] */
    size_t rows, n;  /* n rows of the result */
    size_t strip0;   /* the first that is ours */
    double *out;     /* triangle, or [n][k] */
    bool triangle;
} strip_job;

static void add_strips(void *ctx, size_t begin, size_t end, int lane)
{
    const strip_job *j = ctx;
    const size_t k = (size_t)j->m->k;
    float *product = j->m->lanes + (size_t)lane * (size_t)j->m->lane_floats;
    for (size_t s = j->strip0 + begin; s < j->strip0 + end; s++) {
        const size_t i0 = s * STRIP, i1 = bal_min(i0 + STRIP, j->n);
        const size_t cols = j->triangle ? i1 : k;
        j->e->kernels->gemm_nn_f32(i1 - i0, j->rows, cols, j->at + i0 * j->rows, j->rows, j->u, k,
                                   product, cols, false);
        for (size_t i = i0; i < i1; i++) {
            double *out = j->out + (j->triangle ? i * (i + 1) / 2 : i * k);
            const size_t width = j->triangle ? i + 1 : k;
            for (size_t c = 0; c < width; c++) out[c] += (double)product[(i - i0) * cols + c];
        }
    }
}

/* out += left^T u, left [rows][n] */
static void add(const bal_moments *m, const bal_exec *e, const float *left, size_t n,
                const float *u, int rows, float *work, double *out, bool triangle)
{
    const int index = m->rank ? m->rank->index : 0;
    const bal_range ours = triangle ? bal_rank_triangle_of(m->rank, index, n, STRIP)
                                    : bal_rank_rows_of(m->rank, index, n, STRIP);
    const size_t strip0 = ours.begin / STRIP;
    strip_job j = {m, e, work, u, (size_t)rows, n, strip0, out, triangle};
    bal_probe_transpose(e, left, n, rows, (int)n, work);
    bal_pool_run(e->pool, add_strips, &j, bal_ceil_div(ours.end, STRIP) - strip0, 1);
}

void bal_moments_add(bal_moments *m, const bal_exec *e, const float *u, const float *d,
                     const float *r, int rows, float *work)
{
    if (rows < 1) return;
    add(m, e, u, (size_t)m->k, u, rows, work, m->tri, true);
    if (m->cross) add(m, e, d, (size_t)m->k, u, rows, work, m->cross, false);
    if (m->residual) add(m, e, r, (size_t)m->n_out, u, rows, work, m->residual, false);
}

/* Elements in front of row i of the triangle. */
static size_t triangle_at(size_t i)
{
    return i * (i + 1) / 2;
}

bal_status bal_moments_join(bal_moments *m, bal_error *err)
{
    const size_t k = (size_t)m->k, row = k * sizeof(double);
    bal_rank *rank = m->rank;
    if (!rank) return BAL_OK;
    BAL_TRY(bal_rank_agree(rank, BAL_OK, err));
    for (int i = 0; i < rank->count; i++) {
        const bal_range at = bal_rank_triangle_of(rank, i, k, STRIP);
        const size_t n = triangle_at(at.end) - triangle_at(at.begin);
        if (n) rank->ops->share(rank->ctx, m->tri + triangle_at(at.begin), n * sizeof *m->tri, i);
    }
    if (m->cross) BAL_TRY(bal_rank_join_rows(rank, m->cross, k, STRIP, row, err));
    if (!m->residual) return BAL_OK;
    return bal_rank_join_rows(rank, m->residual, (size_t)m->n_out, STRIP, row, err);
}

double bal_moments_mean(const bal_moments *m)
{
    double sum = 0.0;
    for (int i = 0; i < m->k; i++) sum += bal_moments_at(m, i, i);
    return sum == 0.0 ? 1.0 : sum / m->k;
}
