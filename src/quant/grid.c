/* SPDX-License-Identifier: MIT
 * The search over stored values: what is tried is what a file can hold, an f16 scale and an
 * integer zero point, so nothing is rounded behind the search's back. */
#include "quant/grid.h"

#include "base/half.h"
#include "quant/steps.h"

#include <math.h>

enum {
    SHRINKS = 31, /* c = 1 - step / 40 */
    SHRINK_GRID = 40,
    NEAR = 2,   /* zero points on either side of the natural one */
    REFITS = 4, /* at most */
    ROWS = 4,   /* of one work item */
};

static inline float clampf(float x, float lo, float hi)
{
    x = x > lo ? x : lo;
    return x < hi ? x : hi;
}

/* To nearest, ties to even, for the sizes that matter (quantizer.c says why). */
static inline float round_even(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

typedef struct params {
    float s, z;
    uint16_t s16;
} params;

typedef struct group_search {
    const float *w;
    const double *d;
    int n;
    float top;
    double error; /* of best */
    params best;
} group_search;

static params with_scale(float s, float z)
{
    uint16_t h = bal_f32_to_f16(s);
    if (h == 0) h = 1;
    if (h >= 0x7c00) h = 0x7bff;
    return (params){bal_f16_to_f32(h), z, h};
}

static double grid_error(const group_search *g, params p)
{
    const float inv = 1.0f / p.s;
    double sum = 0.0;
    for (int i = 0; i < g->n; i++) {
        const float q = clampf(round_even(g->w[i] * inv) + p.z, 0.0f, g->top);
        const double e = (double)(g->w[i] - (q - p.z) * p.s);
        sum += g->d[i] * e * e;
    }
    return sum;
}

static void try_params(group_search *g, params p)
{
    const double error = grid_error(g, p);
    if (!(error < g->error)) return;
    g->error = error;
    g->best = p;
}

/* The scale that fits the codes of the best grid so far. */
static float fitted(const group_search *g)
{
    const params p = g->best;
    double wc = 0.0, cc = 0.0;
    for (int i = 0; i < g->n; i++) {
        const float c = clampf(round_even(g->w[i] / p.s) + p.z, 0.0f, g->top) - p.z;
        wc += g->d[i] * (double)g->w[i] * (double)c;
        cc += g->d[i] * (double)c * (double)c;
    }
    return cc > 0.0 && wc > 0.0 ? (float)(wc / cc) : p.s;
}

static void refit(group_search *g)
{
    for (int i = 0; i < REFITS; i++) {
        const double before = g->error;
        try_params(g, with_scale(fitted(g), g->best.z));
        if (g->error == before) return;
    }
}

static void search(group_search *g, const bal_quantizer *z)
{
    const bool sym = z->grid == BAL_GRID_SYM, few = z->bits <= 3;
    const float half = (float)(1 << (z->bits - 1));
    float lo = z->range == BAL_EXTENT_ZERO ? 0.0f : g->w[0], hi = lo;
    for (int i = 0; i < g->n; i++) {
        lo = fminf(lo, g->w[i]);
        hi = fmaxf(hi, g->w[i]);
    }
    const float span = sym ? fmaxf(fabsf(lo), fabsf(hi)) / (half - 1.0f) : (hi - lo) / g->top;
    const float whole = fmaxf(span, 1e-5f / g->top);
    for (int i = 0; i < SHRINKS; i++) {
        const float s = whole * (1.0f - (float)i / SHRINK_GRID);
        const float natural = sym ? half : clampf(-round_even(lo / s), 0.0f, g->top);
        const float first = sym ? half : few ? 0.0f : clampf(natural - NEAR, 0.0f, g->top);
        const float last = sym ? half : few ? g->top : clampf(natural + NEAR, 0.0f, g->top);
        for (float zero = first; zero <= last; zero += 1.0f) try_params(g, with_scale(s, zero));
    }
    refit(g);
}

typedef struct grid_job {
    const bal_quantizer *z;
    const float *w;
    const double *d;
    bal_quantized_linear *q;
} grid_job;

static void search_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const grid_job *j = ctx;
    const int k = j->q->k, size = bal_group_size(k, j->q->group);
    const size_t groups = (size_t)bal_group_count(k, j->q->group);
    for (size_t r = begin; r < end; r++)
        for (int at = 0, g = 0; at < k; at += size, g++) {
            const int n = k - at < size ? k - at : size;
            group_search s = {.w = j->w + r * (size_t)k + at,
                              .d = j->d + at,
                              .n = n,
                              .top = (float)((1 << j->z->bits) - 1),
                              .error = INFINITY};
            search(&s, j->z);
            j->q->scales[r * groups + (size_t)g] = s.best.s16;
            j->q->zeros[r * groups + (size_t)g] = (uint8_t)s.best.z;
        }
}

static void search_steps(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const grid_job *j = ctx;
    for (size_t r = begin; r < end; r++)
        bal_steps_search(j->z, j->w + r * (size_t)j->q->k, j->d, j->q, r);
}

void bal_grid_search(bal_pool *pool, const bal_quantizer *z, const float *w, const double *d,
                     bal_quantized_linear *q)
{
    grid_job j = {z, w, d, q};
    bal_pool_run(pool, bal_has_steps(z->grid) ? search_steps : search_rows, &j, (size_t)q->n, ROWS);
    bal_grid_round(pool, w, q);
}

static void round_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const grid_job *j = ctx;
    const size_t k = (size_t)j->q->k, size = (size_t)bal_group_size(j->q->k, j->q->group);
    for (size_t r = begin; r < end; r++)
        for (size_t at = 0, g = 0; at < k; at += size, g++) {
            const bal_code_grid grid = bal_quantized_grid(j->q, r, g);
            for (size_t i = r * k + at; i < r * k + (at + size < k ? at + size : k); i++)
                j->q->codes[i] = (uint8_t)bal_code_nearest(&grid, j->w[i]);
        }
}

void bal_grid_round(bal_pool *pool, const float *w, bal_quantized_linear *q)
{
    grid_job j = {.w = w, .q = q};
    bal_pool_run(pool, round_rows, &j, (size_t)q->n, ROWS);
}
