/* SPDX-License-Identifier: MIT
 * The fast objective of the scale search: what a candidate costs at the outputs of the group's own
 * linears, tr(dW H dW^T), from second moments that are gathered once. The exact one
 * (search.c) runs every candidate on every token; this one does not look at tokens again, and of
 * a linear with many outputs at every so many-th only: rows are alike in what scales do to them. */
#include "quant/job.h"

#include "base/size.h"
#include "quant/panels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 32 }; /* of a weight, one work item */

/* ---- Moments ----------------------------------------------------------------------------------
 */

/* Rows of a sample that weigh something, times the root of their weight; returns their number. */
static int weighed(const bal_sample *s, const double weight[BAL_MODALITIES], size_t k, float *rows)
{
    size_t n = 0;
    for (int t = 0; t < s->n; t++) {
        const double root = sqrt(weight[s->modality[t]]);
        if (root == 0.0) continue;
        for (size_t c = 0; c < k; c++)
            rows[n * k + c] = (float)(root * (double)rows[(size_t)t * k + c]);
        n++;
    }
    return (int)n;
}

static bal_status gather(bal_block_job *j, int group, bal_moments *m, float *work, bal_error *err)
{
    const size_t k = (size_t)bal_job_group_width(j, group);
    double weight[BAL_MODALITIES];
    bal_row_weights(&j->stats[group], j->recipe, j->ratio[bal_group_table[group].sub], weight);
    for (int i = 0; i < j->samples->n; i++) {
        BAL_TRY(bal_store_read(&j->x[group], i, j->rows, err));
        const int n = weighed(&j->samples->items[i], weight, k, j->rows);
        bal_moments_add(m, j->e, j->rows, NULL, NULL, n, work);
    }
    return bal_moments_join(m, err);
}

bal_status bal_job_form(bal_block_job *j, int group, bal_panels *form, bal_error *err)
{
    const size_t k = (size_t)bal_job_group_width(j, group);
    const size_t floats = (size_t)j->samples->max_len * k;
    bal_moments m;
    *form = (bal_panels){0};
    BAL_TRY(bal_moments_create(&m, j->e, (int)k, false, 0, err));
    m.rank = j->samples->rank;
    float *work = malloc(floats * sizeof *work);
    bal_status st = work ? gather(j, group, &m, work, err)
                         : bal_nomem(err, floats * sizeof *work, "rows of a sample");
    free(work);
    if (st >= 0) st = bal_form_create(form, j->e, &m, 0.0, err);
    bal_moments_destroy(&m);
    return st;
}

/* ---- Candidates -------------------------------------------------------------------------------
 */

typedef struct proxy_job {
    const bal_exec *e;
    const bal_quantizer *z;
    const bal_linear *from;
    const bal_panels *form;
    const float *s;
    float *lanes; /* per lane: errors [ROWS][k], their product [ROWS][k], a row and scratch */
    size_t lane_floats;
    double *sums;     /* per work item */
    size_t stride, n; /* n rows, so far apart */
    size_t item0;     /* the first item of this rank */
} proxy_job;

static void proxy_rows(void *ctx, size_t begin, size_t end, int lane)
{
    const proxy_job *j = ctx;
    const size_t k = (size_t)j->from->k;
    float *d = j->lanes + (size_t)lane * j->lane_floats, *y = d + ROWS * k, *row = y + ROWS * k;
    for (size_t item = j->item0 + begin; item < j->item0 + end; item++) {
        const size_t r0 = item * ROWS, rows = bal_min(ROWS, j->n - r0);
        for (size_t r = 0; r < rows; r++) {
            float *out = d + r * k;
            bal_linear_row(j->from, (int)((r0 + r) * j->stride), row);
            bal_quantize_simulate(j->z, row, j->s, j->from->k, row + k, out);
            for (size_t c = 0; c < k; c++) out[c] -= row[c];
        }
        bal_panels_times(j->e, j->form, rows, d, y);
        j->sums[item] = 0.0;
        for (size_t i = 0; i < rows * k; i++) j->sums[item] += (double)d[i] * (double)y[i];
    }
}

static bal_status proxy_linear(proxy_job *j, bal_rank *rank, double *loss, bal_error *err)
{
    const size_t all = (size_t)j->from->n;
    j->stride = bal_max(all / BAL_PROXY_ROWS, 1);
    j->n = bal_ceil_div(all, j->stride);
    const size_t items = bal_ceil_div(j->n, ROWS);
    const bal_range ours = bal_rank_rows(rank, items, 1);
    double sum = 0.0;
    j->item0 = ours.begin;
    bal_pool_run(j->e->pool, proxy_rows, j, ours.end - ours.begin, 1);
    BAL_TRY(bal_rank_join_rows(rank, j->sums, items, 1, sizeof *j->sums, err));
    for (size_t i = 0; i < items; i++) sum += j->sums[i];
    *loss += sum * (double)all / (double)j->n;
    return BAL_OK;
}

bal_status bal_job_proxy_loss(bal_block_job *j, int group, const bal_panels *form, const float *s,
                              double *loss, bal_error *err)
{
    const bal_group_info *g = &bal_group_table[group];
    const size_t k = (size_t)bal_job_group_width(j, group);
    size_t most = 0;
    for (int i = g->first; i < g->first + g->count; i++)
        most = bal_max(most, (size_t)bal_layer_linear(j->layer, i)->n);
    proxy_job p = {.e = j->e, .form = form, .s = s, .lane_floats = (2 * ROWS + 2) * k};
    const size_t floats = (size_t)bal_pool_size(j->e->pool) * p.lane_floats;
    p.lanes = malloc(floats * sizeof *p.lanes);
    p.sums = malloc(bal_ceil_div(most, ROWS) * sizeof *p.sums);
    *loss = 0.0;
    bal_status st =
        p.lanes && p.sums ? BAL_OK : bal_nomem(err, floats * sizeof *p.lanes, "rows of candidates");
    for (int i = g->first; st >= 0 && i < g->first + g->count; i++) {
        p.z = &j->quantizer[i];
        p.from = bal_layer_linear(j->layer, i);
        st = proxy_linear(&p, j->samples->rank, loss, err);
    }
    free(p.lanes);
    free(p.sums);
    return st;
}
