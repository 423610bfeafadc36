/* SPDX-License-Identifier: MIT
 * Operations of each stage of a block, added up. The allowances (what a stage reaches of the speed
 * of a large product) were measured at a width of 18944; docs/scale.md has the figures. */
#include "quant/estimate.h"

#include "base/size.h"
#include "quant/blas.h"
#include "quant/block.h"
#include "quant/job.h"
#include "quant/price.h"
#include "quant/stats.h"
#include "quant/tokens.h"
#include "quant/trellis.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

enum { SPEED_ROWS = 64, SPEED_K = 512, SPEED_N = 1024, TILE = 256, SPEED_RUNS = 3 };

/* Part of a large product's speed that a stage reaches. */
#define PACKED_SPEED 0.6 /* row by row dot products, packed weights */
#define PANEL_SPEED  0.6 /* products with a triangle that no cache holds */
/* Operations that rounding and transposing a weight are worth. */
#define COPY_OPS  100.0
#define ROUND_OPS 12.0
/* And searching its columns for the stream of a trellis. */
#define TRELLIS_OPS 4e5

/* ---- Speed ------------------------------------------------------------------------------------
 */

typedef struct speed_job {
    const bal_exec *e;
    float *f32;  /* per lane: a, b, c */
    double *f64; /* per lane: three tiles */
} speed_job;

enum { F32_FLOATS = SPEED_ROWS * SPEED_K + SPEED_K * SPEED_N + SPEED_ROWS * SPEED_N };

static void multiply_f32(void *ctx, size_t begin, size_t end, int lane)
{
    const speed_job *j = ctx;
    float *a = j->f32 + (size_t)lane * F32_FLOATS, *b = a + SPEED_ROWS * SPEED_K;
    float *c = b + SPEED_K * SPEED_N;
    for (size_t i = begin; i < end; i++)
        j->e->kernels->gemm_nn_f32(SPEED_ROWS, SPEED_K, SPEED_N, a, SPEED_K, b, SPEED_N, c, SPEED_N,
                                   false);
}

static void multiply_f64(void *ctx, size_t begin, size_t end, int lane)
{
    const speed_job *j = ctx;
    double *a = j->f64 + (size_t)lane * 3 * TILE * TILE, *b = a + TILE * TILE, *c = b + TILE * TILE;
    for (size_t i = begin; i < end; i++)
        bal_blas_gemm(true, TILE, TILE, TILE, 1.0, a, TILE, b, TILE, 0.0, c, TILE);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double took(const bal_exec *e, bal_pool_fn *fn, void *ctx, size_t n)
{
    const double start = seconds();
    bal_pool_run(e->pool, fn, ctx, n, 1);
    return seconds() - start;
}

/* Items per second: ever more of them until they take a tenth of a second, then the best of three,
 * since whatever else runs only takes away. */
static double rate(const bal_exec *e, bal_pool_fn *fn, void *ctx)
{
    for (size_t n = (size_t)bal_pool_size(e->pool);; n *= 2) {
        double least = took(e, fn, ctx, n);
        if (least <= 0.1) continue;
        for (int i = 1; i < SPEED_RUNS; i++) least = fmin(least, took(e, fn, ctx, n));
        return (double)n / least;
    }
}

bal_status bal_speed_measure(bal_speed *s, const bal_exec *e, bal_error *err)
{
    const size_t lanes = (size_t)bal_pool_size(e->pool);
    speed_job j = {.e = e,
                   .f32 = calloc(lanes * F32_FLOATS, sizeof(float)),
                   .f64 = calloc(lanes * 3 * TILE * TILE, sizeof(double))};
    *s = (bal_speed){0};
    const bool room = j.f32 && j.f64;
    if (room) {
        s->f32 = 2.0 * SPEED_ROWS * SPEED_K * SPEED_N * rate(e, multiply_f32, &j);
        s->f64 = 2.0 * TILE * TILE * TILE * rate(e, multiply_f64, &j);
    }
    free(j.f32);
    free(j.f64);
    return room ? BAL_OK : bal_nomem(err, lanes * F32_FLOATS * sizeof(float), "a measurement");
}

/* ---- Time -------------------------------------------------------------------------------------
 */

/* A block: a scale group's outputs and inputs, operations of a token. */
typedef struct shape {
    double n[BAL_GROUPS], k[BAL_GROUPS];
    double attn, mlp, weights;
    double tokens, weighed, vision, samples;
} shape;

static shape shape_of(const bal_text_config *c, const bal_samples *s, const bal_recipe *r)
{
    const double h = c->hidden, i = c->intermediate, q = (double)c->heads * c->head_dim;
    const double kv = (double)c->kv_heads * c->head_dim;
    shape b = {.n = {q + 2.0 * kv, h, 2.0 * i, h}, .k = {h, q, h, i}, .samples = s->n};
    double weight[BAL_MODALITIES], squares = 0.0;
    bal_modality_weights(r, 1.0, weight);
    for (int m = 0; m < s->n; m++) {
        b.tokens += s->items[m].n;
        squares += (double)s->items[m].n * s->items[m].n;
        for (int t = 0; t < s->items[m].n; t++) {
            b.weighed += weight[s->items[m].modality[t]] > 0.0;
            b.vision += s->items[m].modality[t] == BAL_VISION;
        }
    }
    for (int g = 0; g < BAL_GROUPS; g++) b.weights += b.n[g] * b.k[g];
    b.attn = 2.0 * (b.n[0] * b.k[0] + b.n[1] * b.k[1]);
    if (b.tokens > 0.0) b.attn += 2.0 * q * squares / b.tokens; /* half of the scores is masked */
    b.mlp = 2.0 * (b.n[2] * b.k[2] + b.n[3] * b.k[3]);
    return b;
}

/* Of one group, 20 candidates. */
static double search_ops(const shape *b, const bal_recipe *r, int g)
{
    const double points = BAL_SCALE_POINTS, n = b->n[g], k = b->k[g];
    const double run[BAL_GROUPS] = {b->attn * b->tokens, 2.0 * n * k * b->weighed,
                                    b->mlp * b->weighed, 2.0 * n * k * b->weighed};
    if (r->objective == BAL_OBJECTIVE_OUTPUT)
        return points * (run[g] + (COPY_OPS / 4.0 + ROUND_OPS) * n * k);
    const double most = (double)BAL_PROXY_ROWS * bal_group_table[g].count;
    const double rows = n < most ? n : most;
    return b->weighed * k * k + points * rows * k * (k / PANEL_SPEED + ROUND_OPS);
}

/* Times that moments of a group are gathered and factored. */
static double parts_of(const bal_recipe *r, int g)
{
    return bal_tokens_apart(r, g) ? (double)bal_group_table[g].count * bal_row_groups(r) : 1.0;
}

/* Whether the group's shift is solved for at its outputs, which are fewer than its inputs. */
static bool through_weight(const shape *b, const bal_recipe *r, int g)
{
    return r->shift != BAL_SHIFT_COLUMN && !bal_tokens_apart(r, g) &&
           bal_group_table[g].count == 1 && b->n[g] < b->k[g];
}

/* Cross moments of one group, and what its targets are moved by. */
static double shift_ops(const shape *b, const bal_recipe *r, int g)
{
    const double n = b->n[g], k = b->k[g];
    return through_weight(b, r, g) ? 4.0 * n * k * b->weighed : 2.0 * k * k * (b->weighed + n);
}

/* In double: factors of one group, and its shift solved for. */
static double factor_ops(const shape *b, const bal_recipe *r, int g)
{
    const double k = b->k[g], rows = through_weight(b, r, g) ? b->n[g] : k;
    const double factors = (r->clip == BAL_CLIP_INVERSE ? 2.0 : 1.0) + (r->shift ? 1.0 : 0.0);
    return parts_of(r, g) * (factors * k * k * k / 3.0 + (r->shift ? 2.0 * k * k * rows : 0.0));
}

static bool patches(const bal_recipe *r)
{
    return r->rank > 0 && r->rank_rows == BAL_LOW_VISION;
}

/* A matrix of small rank: two fits and codes in between, or one fit with moments of its own. */
static double low_ops(const shape *b, const bal_recipe *r, int g)
{
    const double n = b->n[g], k = b->k[g], fit = 8.0 * r->rank * (4.0 * n * k + 2.0 * k * k);
    return patches(r) ? fit + b->vision * k * k + 4.0 * b->samples * k * k
                      : 2.0 * fit + n * k * k / PANEL_SPEED;
}

/* Moments, front passes, codes, gain and the two verdicts of one group. */
static double solve_ops(const shape *b, const bal_recipe *r, int g)
{
    const double n = b->n[g], k = b->k[g], front[BAL_GROUPS] = {0.0, b->attn, 0.0, b->mlp};
    const double half = g < BAL_GROUP_GATE_UP ? b->attn : b->mlp;
    const double judged = b->samples < 16 ? b->tokens : b->tokens / 8.0;
    const double once = b->tokens * front[g] + b->weighed * k * k +
                        4.0 * b->samples * k * k; /* adding a sample's products up in double */
    double ops = parts_of(r, g) * once + 2.0 * half * judged;
    ops += n * k * k / PANEL_SPEED * (r->gain ? 3.0 : 1.0);
    if (r->shift) ops += parts_of(r, g) * shift_ops(b, r, g);
    if (r->polish != BAL_POLISH_NONE) ops += 4.0 * n * k * k;
    if (r->rank) ops += low_ops(b, r, g);
    return ops + COPY_OPS * n * k;
}

static double block_ops(const shape *b, const bal_text_config *c, const bal_recipe *r)
{
    const double forward = (b->attn + b->mlp) * b->tokens;
    double ops = 3.0 * forward + 2.0 * forward / PACKED_SPEED + 3.0 * COPY_OPS * b->weights;
    if (r->grid == BAL_GRID_TRELLIS) ops += 3.0 * TRELLIS_OPS * b->weights;
    for (int g = 0; g < BAL_GROUPS; g++) {
        const bool searched = g != BAL_GROUP_O || c->heads == c->kv_heads;
        if (r->scale == BAL_SCALE_SEARCH && searched) ops += search_ops(b, r, g);
        if (bal_recipe_solves(r)) ops += solve_ops(b, r, g);
    }
    if (bal_recipe_solves(r)) ops += b->attn * b->tokens;
    if (r->hessian == BAL_HESSIAN_LOCAL) ops += 3.0 * b->attn * b->tokens;
    return ops;
}

/* One pass forward, one backward with what is computed again; weights are widened per sample. */
static double gradient_ops(const shape *b)
{
    return 3.0 * (b->attn + b->mlp) * b->tokens + 2.0 * b->samples * COPY_OPS * b->weights;
}

/* Every linear at every width: q, k, v by attention, gate and up by the MLP, the others alone. */
static double price_ops(const shape *b, const bal_recipe *r)
{
    const double part = b->samples > BAL_PRICE_SAMPLES ? BAL_PRICE_SAMPLES / b->samples : 1.0;
    const double alone = 2.0 * (b->n[1] * b->k[1] + b->n[3] * b->k[3]);
    const double widths = bal_width_count(r);
    return part * b->tokens *
               (2.0 * (b->attn + b->mlp) + widths * (3.0 * b->attn + 2.0 * b->mlp + alone)) +
           widths * (COPY_OPS / 4.0 + ROUND_OPS) * b->weights;
}

/* The float model and the plans, each with all linears rounded. */
static double verify_ops(const shape *b)
{
    const double part = b->samples > BAL_PRICE_SAMPLES ? BAL_PRICE_SAMPLES / b->samples : 1.0;
    return (BAL_WIDTHS_STEPS + 1) * part * b->tokens * (b->attn + b->mlp) +
           BAL_WIDTHS_STEPS * (COPY_OPS + ROUND_OPS) * b->weights;
}

/* Of all blocks, from their samples to their codes. */
static double blocks_time(const shape *b, const bal_text_config *c, const bal_recipe *r,
                          bal_speed speed)
{
    double f32 = COPY_OPS * b->weights, f64 = 0.0;
    if (b->samples > 0.0) f32 += block_ops(b, c, r);
    for (int g = 0; bal_recipe_solves(r) && g < BAL_GROUPS; g++) f64 += factor_ops(b, r, g);
    return c->layers * (f32 / speed.f32 + f64 / speed.f64);
}

/* Of what is measured in front of them. */
static double measuring_time(const shape *b, const bal_text_config *c, const bal_recipe *r,
                             bool gradients, bal_speed speed)
{
    double f32 = 0.0;
    if (gradients) f32 += gradient_ops(b);
    if (bal_recipe_prices_widths(r)) f32 += price_ops(b, r);
    if (bal_recipe_prices_widths(r) && r->allocate == BAL_ALLOCATE_VERIFIED) f32 += verify_ops(b);
    return c->layers * f32 / speed.f32;
}

/* ---- Space ------------------------------------------------------------------------------------
 */

static double widest(const shape *b)
{
    double k = 0.0;
    for (int g = 0; g < BAL_GROUPS; g++) k = b->k[g] > k ? b->k[g] : k;
    return k;
}

/* What every thread has for itself: rows of inputs and codes, and a panel of the inverse; a trellis
 * takes more rows at a time and room to search. */
static double lanes_bytes(const shape *b, const bal_recipe *r, int lanes)
{
    const double wide = widest(b);
    const double own = wide * (448.0 + (r->clip == BAL_CLIP_INVERSE ? 8.0 * TILE : 0.0));
    if (r->grid != BAL_GRID_TRELLIS) return lanes * own;
    return lanes * (own + 4.0 * BAL_TRELLIS_MOST * wide + (double)sizeof(bal_trellis_work));
}

/* Second moments of the widest input: packed in double, the factor beside them, and what is read of
 * both in f32; cross moments, and the square that descent reads; those of vision rows, packed, then
 * the square that the small rank reads. */
static double moments_bytes(const shape *b, const bal_recipe *r)
{
    const double k = widest(b);
    const bool fast = r->scale == BAL_SCALE_SEARCH && r->objective == BAL_OBJECTIVE_MOMENTS;
    if (!bal_recipe_solves(r)) return fast ? 6.0 * k * k : 0.0;
    const bool square =
        r->polish != BAL_POLISH_NONE || r->solver == BAL_SOLVER_DESCENT || (r->rank && !patches(r));
    const double apart = square ? 12.0 : 10.0, vision = patches(r) ? 4.0 * k * k : 0.0;
    if (r->shift == BAL_SHIFT_OFF) return apart * k * k + vision;
    if (!through_weight(b, r, BAL_GROUP_DOWN))
        return 20.0 * k * k + vision; /* cross moments in double */
    /* shifted targets of gate and up at the least; right sides of down and their solution */
    const double wide = b->n[BAL_GROUP_DOWN] * b->k[BAL_GROUP_DOWN];
    const double solving = 8.0 * k * k + 16.0 * wide;
    return (solving > apart * k * k ? solving : apart * k * k) + 8.0 * wide + vision;
}

static double solving_bytes(const shape *b, const bal_text_config *c, const bal_recipe *r,
                            double longest, bool ranks)
{
    const double wide = c->intermediate > c->hidden ? c->intermediate : c->hidden;
    const double vision = patches(r) ? 4.0 * longest * wide : 0.0;
    const double sent = ranks ? 12.0 * longest * wide + vision : 0.0;
    const double rows = (longest + 256.0) * 4.0 * (4.0 * wide + 8.0 * c->hidden) +
                        (bal_recipe_solves(r) ? longest * 16.0 * wide + vision + sent : 0.0);
    return 9.3 * b->weights + moments_bytes(b, r) + (b->samples > 0.0 ? rows : 0.0);
}

/* The block transposed, a batch's residual streams behind every block, gradients of a sample. */
static double gradient_bytes(const shape *b, const bal_text_config *c, double longest)
{
    const double states = 4.0 * longest * c->hidden * (2.0 * c->layers + 2.0);
    const double batch = states > 16777216.0 ? states : 16777216.0;
    return 4.0 * b->weights + batch + longest * 4.0 * (8.0 * c->intermediate + 12.0 * c->hidden);
}

bal_estimate bal_estimate_make(const bal_text_config *c, const bal_samples *samples,
                               const bal_recipe *r, bool gradients, bal_speed speed, int lanes)
{
    const shape b = shape_of(c, samples, r);
    const double longest = samples->max_len, q = (double)c->heads * c->head_dim;
    double ram =
        solving_bytes(&b, c, r, longest, samples->rank != NULL) + lanes_bytes(&b, r, lanes);
    const double first = gradients ? gradient_bytes(&b, c, longest) : 0.0;
    if (first > ram) ram = first;
    const double row = 4.0 * ((bal_recipe_solves(r) ? 8.0 : 6.0) * c->hidden + q + c->intermediate);
    const double blocks = blocks_time(&b, c, r, speed);
    return (bal_estimate){.ram_bytes = (uint64_t)ram,
                          .spill_bytes = (uint64_t)(b.tokens * row),
                          .seconds = blocks + measuring_time(&b, c, r, gradients, speed),
                          .block_seconds = blocks};
}
