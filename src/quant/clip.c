/* SPDX-License-Identifier: MIT
 * Clipping: a group's range is shrunk where that lowers its error more than the clipped weights
 * cost. Both searches clamp the folded weights in place; rounding comes after.
 *
 * awq: symmetric, |w| <= c max |w| for c = 1, 0.95 .. 0.55, judged by the squared error of the
 *      group's partial output on up to 512 tokens; not for q and k (as the original).
 * diag: min and max times c for c = 1, 0.975 .. 0.4, judged by sum h_k (w_k - w^_k)^2 with the
 *      balanced diag(H) of the folded input; all seven linears.
 * block: the same ranges, judged by d^T H d with d = w - w^ and H the block of the balanced second
 *      moments that belongs to the group, all tokens counted as the loss counts them; all seven.
 *
 * diag drops the cross terms of H. Where channels move together (a trained model's do) that is
 * wrong enough for every such clip to be undone; awq and block keep them. */
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
    BLOCK_ROWS = 8,   /* rows of W one lane searches together */
    BLOCK_COLS = 128, /* columns of a block of H; a longer group sums over its blocks */
};

/* Rows of linear i that this rank searches, in steps that the searches take. */
static bal_range own_rows(const bal_block_job *j, int i)
{
    return bal_rank_rows(j->samples->rank, (size_t)bal_layer_linear(&j->work.l, i)->n, BLOCK_ROWS);
}

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
    const bal_quantizer *z;
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
    const int size = bal_group_size(d->k, d->z->group);
    float *work = bal_wide_lane(&d->j->trial, lane);
    for (size_t r = begin; r < end; r++)
        for (int at = 0; at < d->k; at += size)
            diag_group(d->z, d->w + r * (size_t)d->k + at, d->h + at,
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
    const bal_range ours = own_rows(j, i);
    diag_job d = {j, &j->quantizer[i], h, j->work.w[i] + ours.begin * (size_t)l->k, l->k};
    bal_pool_run(j->e->pool, diag_rows, &d, ours.end - ours.begin, 4);
    free(h);
    return BAL_OK;
}

/* ---- awq --------------------------------------------------------------------------------------
 */

typedef struct awq_job {
    const bal_block_job *j;
    const bal_quantizer *z;
    int k, tokens;
    float *x;     /* [tokens][k]: sampled inputs at the folded scale */
    float *part;  /* [tokens][group]: columns of one group */
    float *w;     /* [n][k] */
    float *delta; /* [AWQ_ROWS][group]: rounding error of this step */
    float *d;     /* [AWQ_ROWS][tokens]: partial output error */
    double *best; /* [AWQ_ROWS] */
    float *keep;  /* [AWQ_ROWS] */
    int row0, at, size, step;
    bal_range ours; /* rows of w */
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
        bal_quantize_group(a->z, out, a->size, out);
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

static void awq_columns(awq_job *a)
{
    const int end = (int)a->ours.end;
    for (int t = 0; t < a->tokens; t++)
        memcpy(a->part + (size_t)t * (size_t)a->size, a->x + (size_t)t * (size_t)a->k + a->at,
               (size_t)a->size * sizeof *a->part);
    for (a->row0 = (int)a->ours.begin; a->row0 < end; a->row0 += AWQ_ROWS)
        awq_group(a, end - a->row0 < AWQ_ROWS ? end - a->row0 : AWQ_ROWS);
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
    const int widest = bal_group_size(l->k, j->quantizer[i].group);
    const size_t k = (size_t)l->k, size = (size_t)widest;
    awq_job a = {.j = j, .z = &j->quantizer[i], .k = l->k, .w = j->work.w[i]};
    a.ours = own_rows(j, i);
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
        awq_columns(&a);
    }
    free(a.x);
    free(a.part);
    free(a.delta);
    free(a.d);
    return st;
}

/* ---- block ------------------------------------------------------------------------------------
 */

typedef struct block_job {
    const bal_block_job *j;
    const bal_quantizer *z;
    int k, size; /* columns of W, of a group */
    int cols;    /* of a block of H; the last block of a group may have fewer */
    float *w;    /* [n][k] */
    float *h;    /* [k][cols]: row c holds its block's row, blocks one below the other */
    float *x;    /* [rows][k]: weighted inputs of a sample at the folded scale */
    float *t;    /* [k][rows]: transposed */
    int rows;
} block_job;

/* Columns [at, end) that share a block of H: they end with the group. */
static int block_end(const block_job *b, int at)
{
    const int group_end = (at / b->size + 1) * b->size, end = at + b->cols;
    const int inside = end < group_end ? end : group_end;
    return inside < b->k ? inside : b->k;
}

/* The first column of a block. */
static bool starts_block(const block_job *b, int c)
{
    return c % b->size % b->cols == 0;
}

/* H += X^T X, block by block. */
static void moments(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const block_job *b = ctx;
    const size_t rows = (size_t)b->rows, k = (size_t)b->k, cols = (size_t)b->cols;
    for (size_t c = begin; c < end; c++) {
        if (!starts_block(b, (int)c)) continue;
        const size_t n = (size_t)block_end(b, (int)c) - c;
        b->j->e->kernels->gemm_nn_f32(n, rows, n, b->t + c * rows, rows, b->x + c, k,
                                      b->h + c * cols, cols, true);
    }
}

/* Square roots of what a token of each modality weighs, so that X^T X carries the weights. */
static void token_weights(const bal_block_job *j, int group, double root[BAL_MODALITIES])
{
    bal_row_weights(&j->stats[group], j->recipe, j->ratio[bal_group_table[group].sub], root);
    for (int i = 0; i < BAL_MODALITIES; i++) root[i] = sqrt(root[i]);
}

/* x / s times the root of its weight, tokens without weight left out; returns the rows. */
static int weigh_rows(const block_job *b, const bal_sample *sample, const double *root,
                      const float *s)
{
    const size_t k = (size_t)b->k;
    int n = 0;
    for (int r = 0; r < sample->n; r++) {
        const double w = root[sample->modality[r]];
        const float *from = b->j->rows + (size_t)r * k;
        float *to = b->x + (size_t)n * k;
        if (w == 0.0) continue;
        for (size_t c = 0; c < k; c++) to[c] = (float)(w * (double)from[c] / (s ? s[c] : 1.0f));
        n++;
    }
    return n;
}

static bal_status block_moments(block_job *b, bal_block_job *j, int group, const float *s,
                                bal_error *err)
{
    double root[BAL_MODALITIES];
    token_weights(j, group, root);
    memset(b->h, 0, (size_t)b->k * (size_t)b->cols * sizeof *b->h);
    for (int i = 0; i < j->samples->n; i++) {
        BAL_TRY(bal_store_read(&j->x[group], i, j->rows, err));
        b->rows = weigh_rows(b, &j->samples->items[i], root, s);
        if (b->rows == 0) continue;
        bal_probe_transpose(j->e, b->x, (size_t)b->k, b->rows, b->k, b->t);
        bal_pool_run(j->e->pool, moments, b, (size_t)b->k, (size_t)b->cols);
    }
    return BAL_OK;
}

/* d^T H d of each row's rounding error d [rows][size] in the group that starts at column `at`.
 * work [rows][size]. */
static void block_errors(const block_job *b, int at, int size, int rows, const float *d,
                         float *work, double *error)
{
    for (int r = 0; r < rows; r++) error[r] = 0.0;
    for (int c = at; c < at + size; c = block_end(b, c)) {
        const size_t n = (size_t)(block_end(b, c) - c), from = (size_t)(c - at);
        b->j->e->kernels->gemm_nn_f32((size_t)rows, n, n, d + from, (size_t)size,
                                      b->h + (size_t)c * (size_t)b->cols, (size_t)b->cols, work, n,
                                      false);
        for (size_t r = 0; r < (size_t)rows; r++)
            for (size_t i = 0; i < n; i++)
                error[r] += (double)work[r * n + i] * (double)d[r * (size_t)size + from + i];
    }
}

/* One group of a few rows. The ends of a row's range are searched together, then min alone, then
 * max alone. */
typedef struct block_rows {
    const block_job *b;
    float *w; /* first row; stride k */
    int at, size, rows;
    float *d, *product; /* [rows][size] */
    double best[BLOCK_ROWS];
    range whole[BLOCK_ROWS], keep[BLOCK_ROWS];
} block_rows;

enum { BOTH, LOW, HIGH, PHASES };

static range shrunk(const block_rows *g, int r, int phase, float c)
{
    return (range){phase == HIGH ? g->keep[r].lo : g->whole[r].lo * c,
                   phase == LOW ? g->keep[r].hi : g->whole[r].hi * c};
}

static float *block_row(const block_rows *g, int r)
{
    return g->w + (size_t)r * (size_t)g->b->k + g->at;
}

static void try_shrink(block_rows *g, int phase, float c)
{
    double error[BLOCK_ROWS];
    for (int r = 0; r < g->rows; r++) {
        const float *row = block_row(g, r);
        const range to = shrunk(g, r, phase, c);
        float *d = g->d + (size_t)r * (size_t)g->size;
        clamp_all(row, g->size, to.lo, to.hi, d);
        bal_quantize_group(g->b->z, d, g->size, d);
        for (int i = 0; i < g->size; i++) d[i] -= row[i];
    }
    block_errors(g->b, g->at, g->size, g->rows, g->d, g->product, error);
    for (int r = 0; r < g->rows; r++)
        if (error[r] < g->best[r]) {
            g->best[r] = error[r];
            g->keep[r] = shrunk(g, r, phase, c);
        }
}

static void block_group(block_rows *g)
{
    const bool symmetric = g->b->z->grid == BAL_GRID_SYM;
    for (int r = 0; r < g->rows; r++) {
        g->best[r] = INFINITY;
        g->whole[r] = g->keep[r] = range_of(block_row(g, r), g->size, symmetric);
    }
    for (int phase = BOTH; phase < (symmetric ? LOW : PHASES); phase++)
        for (int i = 0; i < DIAG_STEPS; i++) try_shrink(g, phase, 1.0f - (float)i / DIAG_GRID);
    for (int r = 0; r < g->rows; r++)
        clamp_all(block_row(g, r), g->size, g->keep[r].lo, g->keep[r].hi, block_row(g, r));
}

static void block_panels(void *ctx, size_t begin, size_t end, int lane)
{
    const block_job *b = ctx;
    for (size_t r = begin; r < end; r += BLOCK_ROWS)
        for (int at = 0; at < b->k; at += b->size) {
            block_rows g = {.b = b, .w = b->w + r * (size_t)b->k, .at = at};
            g.size = b->k - at < b->size ? b->k - at : b->size;
            g.rows = (int)bal_min(BLOCK_ROWS, end - r);
            g.d = bal_wide_lane(&b->j->trial, lane);
            g.product = g.d + (size_t)g.rows * (size_t)g.size;
            block_group(&g);
        }
}

static bal_status clip_block(bal_block_job *j, int i, const float *s, bal_error *err)
{
    const bal_linear *l = bal_layer_linear(&j->work.l, i);
    const size_t k = (size_t)l->k, rows = (size_t)j->samples->max_len;
    const bal_quantizer *z = &j->quantizer[i];
    block_job b = {.j = j, .z = z, .k = l->k, .size = bal_group_size(l->k, z->group)};
    b.cols = b.size < BLOCK_COLS ? b.size : BLOCK_COLS;
    b.w = j->work.w[i];
    b.h = malloc(k * (size_t)b.cols * sizeof *b.h);
    b.x = malloc(rows * k * sizeof *b.x);
    b.t = malloc(rows * k * sizeof *b.t);
    bal_status st = b.h && b.x && b.t ? block_moments(&b, j, bal_group_of_linear(i), s, err)
                                      : bal_nomem(err, 2 * rows * k * sizeof *b.x, "blocks of H");
    const bal_range ours = own_rows(j, i);
    b.w += ours.begin * k;
    if (st >= 0) bal_pool_run(j->e->pool, block_panels, &b, ours.end - ours.begin, BLOCK_ROWS);
    free(b.h);
    free(b.x);
    free(b.t);
    return st;
}

static bal_status clip(bal_block_job *j, int i, const float *s, bal_error *err)
{
    if (j->recipe->clip == BAL_CLIP_DIAG) return clip_diag(j, i, s, err);
    if (j->recipe->clip == BAL_CLIP_BLOCK) return clip_block(j, i, s, err);
    return clip_awq(j, i, s, err);
}

bal_status bal_job_clip(bal_block_job *j, int i, const float *s, bal_error *err)
{
    const bal_linear *l = bal_layer_linear(&j->work.l, i);
    if (j->recipe->clip == BAL_CLIP_AWQ && (i == BAL_LINEAR_Q || i == BAL_LINEAR_K)) return BAL_OK;
    BAL_TRY(clip(j, i, s, err));
    return bal_rank_join_rows(j->samples->rank, j->work.w[i], (size_t)l->n, BLOCK_ROWS,
                              (size_t)l->k * sizeof *j->work.w[i], err);
}
