/* SPDX-License-Identifier: MIT
 * Clipping: a group's range is shrunk where that lowers its error more than the clipped weights
 * cost. Both searches clamp the folded weights in place; rounding comes after.
 *
 * awq: symmetric, |w| <= c max |w| for c = 1, 0.95 .. 0.55, judged by the squared error of the
 *      group's partial output on up to 512 tokens; not for q and k (as the original).
 * diag: min and max times c for c = 1, 0.975 .. 0.4, judged by sum h_k (w_k - w^_k)^2 with the
 *      balanced diag(H) of the folded input; all seven linears. */
#include "quant/job.h"

#include "base/size.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    AWQ_TOKENS = 512,
    AWQ_STEPS = 10,
    AWQ_GRID = 20,   /* c = 1 - step / 20 */
    AWQ_ROWS = 128,  /* rows of W at a time */
    DIAG_STEPS = 25, /* c = 1 - step / 40 */
    DIAG_GRID = 40,
};

static inline float clamp(float x, float lo, float hi)
{
    x = x < lo ? lo : x;
    return x > hi ? hi : x;
}

static void clamp_all(const float *w, int n, float lo, float hi, float *out)
{
    for (int i = 0; i < n; i++) out[i] = clamp(w[i], lo, hi);
}

typedef struct range {
    float lo, hi;
} range;

static range range_of(const float *w, int n, bool symmetric)
{
    range r = {w[0], w[0]};
    for (int i = 1; i < n; i++) {
        r.lo = w[i] < r.lo ? w[i] : r.lo;
        r.hi = w[i] > r.hi ? w[i] : r.hi;
    }
    const float most = fmaxf(fabsf(r.lo), fabsf(r.hi));
    return symmetric ? (range){-most, most} : r;
}

/* ---- diag -------------------------------------------------------------------------------------
 */

typedef struct diag_job {
    const bal_block_job *j;
    const double *h; /* [k] at the folded input */
    float *w;        /* [n][k] */
    int k;
} diag_job;

static double weighed_error(const float *w, const float *q, const double *h, int n)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) {
        const double d = (double)w[i] - (double)q[i];
        sum += h[i] * d * d;
    }
    return sum;
}

static void diag_group(const bal_quantizer *z, float *w, const double *h, int n, float *work)
{
    const range r = range_of(w, n, z->grid == BAL_GRID_SYM);
    double best = INFINITY;
    float keep = 1.0f;
    for (int i = 0; i < DIAG_STEPS; i++) {
        const float c = 1.0f - (float)i / DIAG_GRID;
        clamp_all(w, n, r.lo * c, r.hi * c, work);
        bal_quantize_group(z, work, n, work);
        const double e = weighed_error(w, work, h, n);
        if (e < best) {
            best = e;
            keep = c;
        }
    }
    clamp_all(w, n, r.lo * keep, r.hi * keep, w);
}

static void diag_rows(void *ctx, size_t begin, size_t end, int lane)
{
    const diag_job *d = ctx;
    const int size = bal_group_size(d->k, d->j->quantizer.group);
    float *work = bal_wide_lane(&d->j->trial, lane);
    for (size_t r = begin; r < end; r++)
        for (int at = 0; at < d->k; at += size)
            diag_group(&d->j->quantizer, d->w + r * (size_t)d->k + at, d->h + at,
                       d->k - at < size ? d->k - at : size, work);
}

static bal_status clip_diag(bal_block_job *j, int i, const float *s, bal_error *err)
{
    const bal_linear *l = bal_layer_linear(&j->work.l, i);
    const int group = bal_group_of_linear(i);
    double *h = malloc((size_t)l->k * sizeof *h);
    if (!h) return bal_nomem(err, (size_t)l->k * sizeof *h, "diagonal of H");
    bal_stats_diag(&j->stats[group], j->recipe, j->ratio[bal_group_table[group].sub], h);
    for (int c = 0; s && c < l->k; c++) h[c] /= (double)s[c] * (double)s[c];
    diag_job d = {j, h, j->work.w[i], l->k};
    bal_pool_run(j->e->pool, diag_rows, &d, (size_t)l->n, 4);
    free(h);
    return BAL_OK;
}

/* ---- awq --------------------------------------------------------------------------------------
 */

typedef struct awq_job {
    const bal_block_job *j;
    int k, tokens;
    float *x;     /* [tokens][k]: sampled inputs at the folded scale */
    float *part;  /* [tokens][group]: columns of one group */
    float *w;     /* [n][k] */
    float *delta; /* [AWQ_ROWS][group]: rounding error of this step */
    float *d;     /* [AWQ_ROWS][tokens]: partial output error */
    double *best; /* [AWQ_ROWS] */
    float *keep;  /* [AWQ_ROWS] */
    int row0, at, size, step;
} awq_job;

static float *awq_weights(const awq_job *a, size_t r)
{
    return a->w + ((size_t)a->row0 + r) * (size_t)a->k + a->at;
}

static void awq_delta(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const awq_job *a = ctx;
    const float c = 1.0f - (float)a->step / AWQ_GRID;
    for (size_t r = begin; r < end; r++) {
        const float *w = awq_weights(a, r);
        float *out = a->delta + r * (size_t)a->size;
        const float most = range_of(w, a->size, true).hi * c;
        clamp_all(w, a->size, -most, most, out);
        bal_quantize_group(&a->j->quantizer, out, a->size, out);
        for (int i = 0; i < a->size; i++) out[i] -= w[i];
    }
}

static void awq_score(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const awq_job *a = ctx;
    for (size_t r = begin; r < end; r++) {
        const float *d = a->d + r * (size_t)a->tokens;
        double sum = 0.0;
        for (int t = 0; t < a->tokens; t++) sum += (double)d[t] * (double)d[t];
        if (sum < a->best[r]) {
            a->best[r] = sum;
            a->keep[r] = 1.0f - (float)a->step / AWQ_GRID;
        }
    }
}

/* One group of columns for some rows of W. The sampled tokens play the weights of a linear whose
 * input rows are the rounding errors, so one product gives every partial output error. */
static void awq_group(awq_job *a, int rows)
{
    const bal_linear by_x = {.type = BAL_TYPE_F32, .n = a->tokens, .k = a->size, .w = a->part};
    for (int r = 0; r < rows; r++) a->best[r] = INFINITY;
    for (a->step = 0; a->step < AWQ_STEPS; a->step++) {
        bal_pool_run(a->j->e->pool, awq_delta, a, (size_t)rows, 4);
        bal_linear_forward(a->j->e, &by_x, a->delta, (size_t)a->size, rows, a->d,
                           (size_t)a->tokens);
        bal_pool_run(a->j->e->pool, awq_score, a, (size_t)rows, 4);
    }
    for (int r = 0; r < rows; r++) {
        float *w = awq_weights(a, (size_t)r);
        const float most = range_of(w, a->size, true).hi * a->keep[r];
        clamp_all(w, a->size, -most, most, w);
    }
}

static void awq_columns(awq_job *a, int n)
{
    for (int t = 0; t < a->tokens; t++)
        memcpy(a->part + (size_t)t * (size_t)a->size, a->x + (size_t)t * (size_t)a->k + a->at,
               (size_t)a->size * sizeof *a->part);
    for (a->row0 = 0; a->row0 < n; a->row0 += AWQ_ROWS)
        awq_group(a, n - a->row0 < AWQ_ROWS ? n - a->row0 : AWQ_ROWS);
}

/* Every stride-th row of the calibration set, divided by s. */
static bal_status awq_tokens(bal_block_job *j, int group, const float *s, awq_job *a,
                             bal_error *err)
{
    const size_t all = j->x[group].row0[j->samples->n], k = (size_t)a->k;
    const size_t stride = bal_max(1, all / AWQ_TOKENS);
    size_t next = 0;
    for (int i = 0; i < j->samples->n && a->tokens < AWQ_TOKENS; i++) {
        const size_t first = j->x[group].row0[i], end = j->x[group].row0[i + 1];
        if (next >= end) continue;
        BAL_TRY(bal_store_read(&j->x[group], i, j->rows, err));
        for (; next < end && a->tokens < AWQ_TOKENS; next += stride, a->tokens++) {
            const float *from = j->rows + (next - first) * k;
            float *to = a->x + (size_t)a->tokens * k;
            for (size_t c = 0; c < k; c++) to[c] = s ? from[c] / s[c] : from[c];
        }
    }
    return BAL_OK;
}

static bal_status clip_awq(bal_block_job *j, int i, const float *s, bal_error *err)
{
    const bal_linear *l = bal_layer_linear(&j->work.l, i);
    const int widest = bal_group_size(l->k, j->quantizer.group);
    const size_t k = (size_t)l->k, size = (size_t)widest;
    awq_job a = {.j = j, .k = l->k, .w = j->work.w[i]};
    double best[AWQ_ROWS];
    float keep[AWQ_ROWS];
    a.best = best;
    a.keep = keep;
    a.x = malloc(AWQ_TOKENS * k * sizeof *a.x);
    a.part = malloc(AWQ_TOKENS * size * sizeof *a.part);
    a.delta = malloc(AWQ_ROWS * size * sizeof *a.delta);
    a.d = malloc(AWQ_ROWS * AWQ_TOKENS * sizeof *a.d);
    bal_status st = a.x && a.part && a.delta && a.d
                        ? awq_tokens(j, bal_group_of_linear(i), s, &a, err)
                        : bal_nomem(err, AWQ_TOKENS * k * sizeof *a.x, "tokens of the clip search");
    for (a.at = 0; st >= 0 && a.at < l->k; a.at += widest) {
        a.size = l->k - a.at < widest ? l->k - a.at : widest;
        awq_columns(&a, l->n);
    }
    free(a.x);
    free(a.part);
    free(a.delta);
    free(a.d);
    return st;
}

bal_status bal_job_clip(bal_block_job *j, int i, const float *s, bal_error *err)
{
    if (j->recipe->clip == BAL_CLIP_DIAG) return clip_diag(j, i, s, err);
    if (i == BAL_LINEAR_Q || i == BAL_LINEAR_K) return BAL_OK;
    return clip_awq(j, i, s, err);
}
