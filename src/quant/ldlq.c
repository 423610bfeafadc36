/* SPDX-License-Identifier: MIT
 * Error feedback in blocks of columns: within a block column by column, to the columns behind it
 * by one product. Coordinate descent keeps each row's gradient, so that a column costs nothing
 * unless its code changes. */
#include "quant/ldlq.h"

#include "base/half.h"
#include "base/size.h"
#include "quant/trellis.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROWS = 32,             /* of one work item */
    BLOCK = BAL_TRI_PANEL, /* columns between products */
};

/* ---- Error feedback ---------------------------------------------------------------------------
 */

typedef struct feed_job {
    const bal_exec *e;
    const bal_factor *f;
    const bal_panels *drift; /* or NULL */
    const float *target;
    bal_quantized_linear *q;
    size_t rows; /* of one work item, at the most */
    float *lanes;
    size_t lane_floats;
    bal_trellis_work *work; /* [lanes], or NULL: no trellis */
} feed_job;

/* Rows in work, in the order of columns. */
typedef struct feed_lane {
    float *w, *move;        /* [rows][k]: targets and what was fed back; what drifts to them */
    float *errors, *values; /* [rows][BLOCK]: of the block's columns, what is left and v */
} feed_lane;

static size_t lane_floats_of(const feed_job *j)
{
    return j->rows * ((size_t)j->f->k + BLOCK) * (j->drift ? 2 : 1);
}

static feed_lane lane_of(const feed_job *j, int lane)
{
    const size_t k = (size_t)j->f->k;
    float *at = j->lanes + (size_t)lane * j->lane_floats;
    feed_lane l = {.w = at, .errors = at + j->rows * k};
    if (j->drift) l.move = l.errors + j->rows * BLOCK, l.values = l.move + j->rows * k;
    return l;
}

/* What x at position i adds by row i of p to the positions behind it within its block. */
static void spread(const bal_panels *p, size_t i, size_t first, size_t end, float x, float *to)
{
    const float *row = bal_panels_element(p, i, first);
    for (size_t b = i + 1; b < end; b++) to[b] += x * row[b - first];
}

/* Row r of a lane, which is row `row` of q, from position `first` to `end`. */
static void feed_block(const feed_job *j, size_t row, size_t r, size_t first, size_t end,
                       const feed_lane *l)
{
    const size_t k = (size_t)j->f->k;
    const size_t size = (size_t)bal_group_size(j->q->k, j->q->group);
    float *w = l->w + r * k, *move = j->drift ? l->move + r * k : NULL;
    for (size_t i = first; i < end; i++) {
        const size_t c = (size_t)j->f->order[i];
        const bal_code_grid grid = bal_quantized_grid(j->q, row, c / size);
        const float moved = move ? move[i] : 0.0f, v = w[i] + moved;
        const int code = bal_code_nearest(&grid, v);
        j->q->codes[row * k + c] = (uint8_t)code;
        const float off = j->target[row * k + c] + moved - bal_code_value(&grid, code);
        l->errors[r * BLOCK + i - first] = off;
        spread(&j->f->feed, i, first, end, off, w);
        if (!move) continue;
        l->values[r * BLOCK + i - first] = v;
        spread(j->drift, i, first, end, v, move);
    }
}

/* All rows of a run likewise, position by position, since its codes are chosen together. */
static void feed_run(const feed_job *j, bal_range rows, size_t first, size_t end,
                     const feed_lane *l, bal_trellis_work *work)
{
    const size_t k = (size_t)j->f->k, n = rows.end - rows.begin;
    float x[BAL_TRELLIS_MOST], value[BAL_TRELLIS_MOST];
    for (size_t i = first; i < end; i++) {
        const size_t c = (size_t)j->f->order[i];
        for (size_t r = 0; r < n; r++) x[r] = l->w[r * k + i];
        bal_trellis_column(work, j->q, rows, c, x, value);
        for (size_t r = 0; r < n; r++) {
            const float off = j->target[(rows.begin + r) * k + c] - value[r];
            l->errors[r * BLOCK + i - first] = off;
            spread(&j->f->feed, i, first, end, off, l->w + r * k);
        }
    }
}

/* What a block's columns mean for those behind it. */
static void feed_behind(const feed_job *j, size_t rows, size_t at, size_t stop, const feed_lane *l)
{
    const size_t k = (size_t)j->f->k;
    if (stop == k) return;
    j->e->kernels->gemm_nn_f32(rows, stop - at, k - stop, l->errors, BLOCK,
                               bal_panels_element(&j->f->feed, at, stop), k - at, l->w + stop, k,
                               true);
    if (j->drift)
        j->e->kernels->gemm_nn_f32(rows, stop - at, k - stop, l->values, BLOCK,
                                   bal_panels_element(j->drift, at, stop), k - at, l->move + stop,
                                   k, true);
}

static bal_range rows_of_item(const feed_job *j, size_t item)
{
    const size_t n = (size_t)j->q->n;
    if (j->work) return bal_trellis_run(n, item);
    return (bal_range){item * ROWS, bal_min((item + 1) * ROWS, n)};
}

static void feed_item(const feed_job *j, bal_range part, int lane)
{
    const size_t k = (size_t)j->f->k, rows = part.end - part.begin;
    const feed_lane l = lane_of(j, lane);
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < k; i++)
            l.w[r * k + i] = j->target[(part.begin + r) * k + (size_t)j->f->order[i]];
    if (j->drift) memset(l.move, 0, rows * k * sizeof *l.move);
    for (size_t at = 0; at < k; at += BLOCK) {
        const size_t stop = bal_min(at + BLOCK, k);
        if (j->work) feed_run(j, part, at, stop, &l, &j->work[lane]);
        for (size_t r = 0; !j->work && r < rows; r++)
            feed_block(j, part.begin + r, r, at, stop, &l);
        feed_behind(j, rows, at, stop, &l);
    }
}

static void feed_rows(void *ctx, size_t begin, size_t end, int lane)
{
    for (size_t item = begin; item < end; item++) feed_item(ctx, rows_of_item(ctx, item), lane);
}

bal_status bal_ldlq(const bal_exec *e, const bal_factor *f, const bal_panels *drift,
                    const float *target, bal_quantized_linear *q, bal_error *err)
{
    const size_t lanes = (size_t)bal_pool_size(e->pool), n = (size_t)q->n;
    feed_job j = {.e = e,
                  .f = f,
                  .drift = drift,
                  .target = target,
                  .q = q,
                  .rows = q->trellis ? BAL_TRELLIS_MOST : ROWS};
    j.lane_floats = lane_floats_of(&j);
    const size_t floats = lanes * j.lane_floats;
    j.lanes = malloc(floats * sizeof *j.lanes);
    if (q->trellis) j.work = malloc(lanes * sizeof *j.work);
    const bool room = j.lanes && (j.work || !q->trellis);
    if (room)
        bal_pool_run(e->pool, feed_rows, &j,
                     q->trellis ? bal_trellis_runs(n) : bal_ceil_div(n, ROWS), 1);
    free(j.lanes);
    free(j.work);
    return room ? BAL_OK : bal_nomem(err, floats * sizeof *j.lanes, "rows of error feedback");
}

/* ---- Coordinate descent -----------------------------------------------------------------------
 */

typedef struct polish_job {
    const float *h;
    const float *target;
    bal_quantized_linear *q;
    int sweeps;
    bool refit;
    double *gradients; /* [lanes][k] */
} polish_job;

/* A row in work: d = w^ - t, gradient = H d. */
typedef struct row {
    const float *h;
    const float *target;
    bal_quantized_linear *q;
    size_t at; /* its number in q */
    uint8_t *codes;
    double *gradient;
    size_t k, size;
} row;

static void add_column(row *r, size_t c, double step)
{
    const float *h = r->h + c * r->k;
    for (size_t i = 0; i < r->k; i++) r->gradient[i] += step * (double)h[i];
}

static void start_row(row *r)
{
    memset(r->gradient, 0, r->k * sizeof *r->gradient);
    for (size_t c = 0; c < r->k; c++) {
        const bal_code_grid g = bal_quantized_grid(r->q, r->at, c / r->size);
        const double w = (double)(bal_code_level(&g, r->codes[c]) - g.z) * (double)g.s;
        add_column(r, c, w - (double)r->target[c]);
    }
}

/* The code whose level is nearest to x. */
static int code_at_level(const bal_code_grid *g, double x)
{
    if (g->levels) return bal_level_code(g, (float)x);
    return (int)fmin(fmax(rint(x), (double)g->least), (double)g->most);
}

static void sweep(row *r)
{
    for (size_t c = 0; c < r->k; c++) {
        const bal_code_grid g = bal_quantized_grid(r->q, r->at, c / r->size);
        const double s = (double)g.s, curve = (double)r->h[c * r->k + c];
        if (!(curve > 0.0)) continue;
        const double level = (double)bal_code_level(&g, r->codes[c]);
        const int code = code_at_level(&g, level - r->gradient[c] / (curve * s));
        const double step = ((double)bal_code_level(&g, code) - level) * s;
        if (step == 0.0 || 2.0 * step * r->gradient[c] + step * step * curve >= 0.0) continue;
        r->codes[c] = (uint8_t)code;
        add_column(r, c, step);
    }
}

/* The scale of a group that fits its codes best, all else held: values move by x (level - Z). */
static void refit_group(row *r, size_t g)
{
    const size_t first = g * r->size, end = bal_min(first + r->size, r->k);
    const bal_code_grid grid = bal_quantized_grid(r->q, r->at, g);
    double slope = 0.0, curve = 0.0;
    for (size_t i = first; i < end; i++) {
        const float *h = r->h + i * r->k;
        const double c = (double)(bal_code_level(&grid, r->codes[i]) - grid.z);
        double to_codes = 0.0;
        for (size_t j = first; j < end; j++)
            to_codes += (double)h[j] * (double)(bal_code_level(&grid, r->codes[j]) - grid.z);
        slope += c * r->gradient[i];
        curve += c * to_codes;
    }
    if (!(curve > 0.0)) return;
    const bal_group_side was = bal_quantized_side(r->q, r->at, g);
    if (!bal_quantized_rescale(r->q, r->at, g, (float)((double)grid.s - slope / curve))) return;
    const double x = (double)bal_quantized_grid(r->q, r->at, g).s - (double)grid.s;
    if (2.0 * x * slope + x * x * curve >= 0.0) {
        bal_quantized_set_side(r->q, r->at, g, was);
        return;
    }
    for (size_t c = first; c < end; c++)
        add_column(r, c, x * (double)(bal_code_level(&grid, r->codes[c]) - grid.z));
}

static void polish_row(const polish_job *j, size_t at, double *work)
{
    bal_quantized_linear *q = j->q;
    const size_t k = (size_t)q->k, groups = (size_t)bal_group_count(q->k, q->group);
    row r = {.h = j->h,
             .target = j->target + at * k,
             .q = q,
             .at = at,
             .codes = q->codes + at * k,
             .gradient = work,
             .k = k,
             .size = (size_t)bal_group_size(q->k, q->group)};
    start_row(&r);
    for (int i = 0; i < j->sweeps; i++) {
        for (size_t g = 0; j->refit && g < groups; g++) refit_group(&r, g);
        sweep(&r);
    }
}

static void polish_rows(void *ctx, size_t begin, size_t end, int lane)
{
    const polish_job *j = ctx;
    for (size_t r = begin; r < end; r++)
        polish_row(j, r, j->gradients + (size_t)lane * (size_t)j->q->k);
}

bal_status bal_polish(const bal_exec *e, const float *h, const float *target, int sweeps,
                      bool refit, bal_quantized_linear *q, bal_error *err)
{
    const size_t n = (size_t)bal_pool_size(e->pool) * (size_t)q->k;
    polish_job j = {h, target, q, sweeps, refit, malloc(n * sizeof(double))};
    if (!j.gradients) return bal_nomem(err, n * sizeof(double), "gradients of rows");
    bal_pool_run(e->pool, polish_rows, &j, (size_t)q->n, 4);
    free(j.gradients);
    return BAL_OK;
}

/* ---- Gain -------------------------------------------------------------------------------------
 */

typedef struct gain_job {
    const bal_exec *e;
    const bal_panels *form;
    const float *target;
    bal_quantized_linear *q;
    float *lanes; /* per lane: w^, t P, w^ P, each [ROWS][k] */
} gain_job;

/* want = t H t^T, got = t H w^^T */
static void scale_row(const gain_job *j, size_t at, const float *w, const float *tp,
                      const float *wp)
{
    const size_t k = (size_t)j->q->k, n_scales = (size_t)bal_quantized_scales(j->q);
    const float *t = j->target + at * k;
    uint16_t *scales = j->q->scales + at * n_scales;
    double want = 0.0, got = 0.0;
    for (size_t c = 0; c < k; c++) {
        want += (double)tp[c] * (double)t[c];
        got += 0.5 * ((double)tp[c] * (double)w[c] + (double)wp[c] * (double)t[c]);
    }
    const double gain = got / want;
    if (!(want > 0.0 && gain > 0.5 && gain < 2.0)) return;
    for (size_t g = 0; g < n_scales; g++) {
        const uint16_t s = bal_f32_to_f16((float)((double)bal_f16_to_f32(scales[g]) / gain));
        if (s > 0 && s < 0x7c00) scales[g] = s;
    }
}

static void gain_rows(void *ctx, size_t begin, size_t end, int lane)
{
    const gain_job *j = ctx;
    const size_t k = (size_t)j->q->k;
    float *w = j->lanes + (size_t)lane * 3 * ROWS * k, *tp = w + ROWS * k, *wp = tp + ROWS * k;
    for (size_t item = begin; item < end; item++) {
        const size_t r0 = item * ROWS, rows = bal_min(ROWS, (size_t)j->q->n - r0);
        for (size_t r = 0; r < rows; r++) bal_quantized_row(j->q, (int)(r0 + r), w + r * k);
        bal_panels_times(j->e, j->form, rows, j->target + r0 * k, tp);
        bal_panels_times(j->e, j->form, rows, w, wp);
        for (size_t r = 0; r < rows; r++) scale_row(j, r0 + r, w + r * k, tp + r * k, wp + r * k);
    }
}

bal_status bal_unit_gain(const bal_exec *e, const bal_panels *form, const float *target,
                         bal_quantized_linear *q, bal_error *err)
{
    const size_t n = (size_t)bal_pool_size(e->pool) * 3 * ROWS * (size_t)q->k;
    gain_job j = {e, form, target, q, malloc(n * sizeof(float))};
    if (!j.lanes) return bal_nomem(err, n * sizeof(float), "rows of a gain");
    bal_pool_run(e->pool, gain_rows, &j, bal_ceil_div((size_t)q->n, ROWS), 1);
    free(j.lanes);
    return BAL_OK;
}
