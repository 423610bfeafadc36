/* SPDX-License-Identifier: MIT */
#include "bench_choices.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/size.h"
#include "bench_limits.h"
#include "run/shapes_file.h"

enum {
    SUBJECTS = 64, /* linears that differ in shape or format */
    COPIES = 64,   /* matrices of one of them */
    ROWS_OF_SAMPLE = 64,
    CANDIDATES = 1 + 4 * BAL_SHAPES_KERNELS,
    FEW = 4, /* rows for which nothing is packed or widened first */
    HEAD_ROWS = 16,
    VISION_ROWS = 128,
};

/* Matrices of one shape and format; `first` and `last` are the buckets of rows they meet. */
typedef struct subject {
    const bal_linear *w[COPIES];
    int n, first, last;
} subject;

typedef struct bench {
    const bal_choices_plan *plan;
    bal_exec exec;
    float *x, *y, *want; /* [most rows][widest k], [most rows][widest n] */
    subject subjects[SUBJECTS];
    int n_subjects;
    bal_choices_row *rows;
    size_t n_rows, n_keys;
} bench;

/* The choices for one key: the rule, then the others; seconds of each round. */
typedef struct trial {
    const subject *s;
    size_t m;
    bal_shapes_choice choices[CANDIDATES];
    int n;
    double seconds[CANDIDATES][BAL_CHOICES_MOST_ROUNDS];
} trial;

/* ---- Linears of a model ---------------------------------------------------------------------- */

static bool same_key(const bal_linear *a, const bal_linear *b)
{
    const bal_shapes_key x = bal_linear_key(a, 1), y = bal_linear_key(b, 1);
    return memcmp(&x, &y, sizeof x) == 0;
}

/* Of a family's linear that is absent nothing is added; shapes beyond the last keep the rule. */
static void add(bench *b, const bal_linear *w, int first, int last)
{
    if (!w->k) return;
    int i = 0;
    while (i < b->n_subjects && !same_key(b->subjects[i].w[0], w)) i++;
    if (i == SUBJECTS) return;
    subject *s = &b->subjects[i];
    if (i == b->n_subjects) {
        *s = (subject){.first = first, .last = last};
        b->n_subjects++;
    }
    if (s->n < COPIES) s->w[s->n++] = w;
    if (first < s->first) s->first = first;
    if (last > s->last) s->last = last;
}

/* A prompt passes the decoder in chunks of a session's or a scheduler's step; the head reads a row
 * for each token to be drawn; a picture has as many rows as patches. */
static void add_all(bench *b, const bal_model *m)
{
    const int chunk = bal_shapes_bucket(BAL_TILE_CHUNK), last = BAL_SHAPES_BUCKETS - 1;
    const int picture = bal_shapes_bucket(VISION_ROWS);
    for (int i = 0; i < m->config.text.layers; i++)
        for (int j = 0; j < BAL_DECODER_LINEARS; j++)
            add(b, bal_decoder_linear(&m->layers[i], j), 0, chunk);
    add(b, &m->head, 0, bal_shapes_bucket(HEAD_ROWS));
    for (int i = 0; m->config.has_vision && i < m->config.vision.layers; i++)
        for (int j = 0; j < BAL_VISION_LINEARS; j++)
            add(b, bal_vision_linear(&m->vision_layers[i], j), picture, last);
    for (int i = 0; m->config.has_vision && i < 2; i++) add(b, &m->projector[i], picture, last);
}

/* ---- Choices --------------------------------------------------------------------------------- */

static void consider(trial *t, bal_shapes_choice c)
{
    for (int i = 0; i < t->n; i++)
        if (memcmp(&t->choices[i], &c, sizeof c) == 0) return;
    t->choices[t->n++] = c;
}

/* A kernel cut as the rules do, in chunks of half as many rows, and in finer and coarser grains. */
static void consider_kernel(trial *t, const bal_exec *e, bal_shapes_kernel kernel)
{
    const bal_shapes_choice base = bal_linear_rule(e, t->s->w[0], kernel);
    bal_shapes_choice half = base, fine = base, coarse = base;
    half.chunk = (uint16_t)(base.chunk / 2);
    fine.grain = (uint16_t)bal_max(1, base.grain / 4);
    coarse.grain = (uint16_t)bal_min(4 * (size_t)base.grain, UINT16_MAX);
    consider(t, base);
    if (t->m > half.chunk) consider(t, half);
    if (bal_pool_size(e->pool) == 1) return;
    consider(t, fine);
    consider(t, coarse);
}

static void consider_all(trial *t, const bal_exec *e)
{
    const bal_linear *w = t->s->w[0];
    t->n = 0;
    consider(t, bal_linear_choice(e, w, t->m));
    for (int k = 0; k < BAL_SHAPES_KERNELS; k++)
        if (bal_linear_takes(e, w, (bal_shapes_kernel)k) && (k == BAL_SHAPES_ROWS || t->m >= FEW))
            consider_kernel(t, e, (bal_shapes_kernel)k);
}

/* ---- Samples --------------------------------------------------------------------------------- */

static void call(bench *b, const trial *t, int choice, const bal_linear *w, float *y)
{
    bal_shapes_entry only = {bal_linear_key(w, t->m), t->choices[choice]};
    const bal_shapes table = {&only, 1};
    b->exec.shapes = &table;
    bal_linear_forward(&b->exec, w, b->x, (size_t)w->k, (int)t->m, y, (size_t)w->n);
    b->exec.shapes = NULL;
}

/* One token passes all matrices, so that they come from where they come from in a model; of many
 * rows a few of them are enough. All choices of a round read the same. */
static double sample(bench *b, const trial *t, int choice, int round)
{
    const size_t n = (size_t)t->s->n;
    const size_t calls = t->m == 1 ? n : bal_max(1, bal_min(n, ROWS_OF_SAMPLE / t->m));
    const double start = bal_bench_now();
    for (size_t i = 0; i < calls; i++)
        call(b, t, choice, t->s->w[((size_t)round * calls + i) % n], b->y);
    return (bal_bench_now() - start) / (double)calls;
}

/* The first calls, which warm up: of all choices, with the same bits. */
static bal_status compare(bench *b, const trial *t, bal_error *err)
{
    const bal_linear *w = t->s->w[0];
    const size_t n_bytes = t->m * (size_t)w->n * sizeof *b->y;
    call(b, t, 0, w, b->want);
    for (int c = 1; c < t->n; c++) {
        memset(b->y, 0xff, n_bytes);
        call(b, t, c, w, b->y);
        if (memcmp(b->y, b->want, n_bytes) != 0)
            return bal_fail(err, BAL_E_NUMERIC,
                            "%d x %d, %zu rows: kernel '%s', chunk %d, grain %d gives other bits "
                            "than the rule",
                            w->n, w->k, t->m, bal_shapes_kernel_name(t->choices[c].kernel),
                            t->choices[c].chunk, t->choices[c].grain);
    }
    return BAL_OK;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, ascending);
    return v[n / 2];
}

/* The choice with the lowest median ratio to the rule, which is choice 0. */
static void judge(bench *b, const trial *t)
{
    const int n = b->plan->repeats;
    bal_choices_row row = {.rule = t->choices[0], .ratio = 1};
    double v[BAL_CHOICES_MOST_ROUNDS];
    row.best = (bal_shapes_entry){bal_linear_key(t->s->w[0], t->m), t->choices[0]};
    for (int c = 1; c < t->n; c++) {
        for (int r = 0; r < n; r++) v[r] = t->seconds[c][r] / t->seconds[0][r];
        const double ratio = median(v, n);
        if (c > 1 && ratio >= row.ratio) continue;
        row.ratio = ratio;
        row.spread = v[n - 1 - n / 4] - v[n / 4];
        row.best.choice = t->choices[c];
    }
    row.taken = n >= BAL_CHOICES_LEAST_ROUNDS && 1 - row.ratio > row.spread;
    memcpy(v, t->seconds[0], (size_t)n * sizeof *v);
    row.seconds = median(v, n);
    b->rows[b->n_rows++] = row;
}

/* Rounds begin with another choice each, so that none always follows the same one. */
static bal_status measure_key(bench *b, trial *t, bal_error *err)
{
    consider_all(t, &b->exec);
    BAL_TRY(compare(b, t, err));
    for (int r = 0; r < b->plan->repeats && t->n > 1; r++)
        for (int i = 0; i < t->n; i++) {
            const int c = (r + i) % t->n;
            t->seconds[c][r] = sample(b, t, c, r);
        }
    if (t->n > 1) judge(b, t);
    return BAL_OK;
}

/* ---- All of it ------------------------------------------------------------------------------- */

static bal_status step(const bench *b, size_t done, bal_error *err)
{
    const bal_progress p = {"measuring", done, b->n_keys};
    if (!b->plan->progress || b->plan->progress(b->plan->ctx, &p)) return BAL_OK;
    return bal_fail(err, BAL_E_CANCELLED, "interrupted");
}

static bal_status measure_all(bench *b, bal_error *err)
{
    size_t done = 0;
    trial *t = calloc(1, sizeof *t);
    if (!t) return bal_nomem(err, sizeof *t, "samples");
    bal_status st = BAL_OK;
    for (int i = 0; i < b->n_subjects && st == BAL_OK; i++)
        for (int k = b->subjects[i].first; k <= b->subjects[i].last && st == BAL_OK; k++) {
            t->s = &b->subjects[i];
            t->m = (size_t)bal_shapes_edge(k);
            st = measure_key(b, t, err);
            if (st == BAL_OK) st = step(b, ++done, err);
        }
    free(t);
    return st;
}

static bal_status allocate(bench *b, bal_error *err)
{
    const bal_engine *e = b->plan->engine;
    size_t n_x = 0, n_y = 0;
    for (int i = 0; i < b->n_subjects; i++) {
        const subject *s = &b->subjects[i];
        const size_t m = (size_t)bal_shapes_edge(s->last);
        n_x = bal_max(n_x, m * (size_t)s->w[0]->k);
        n_y = bal_max(n_y, m * (size_t)s->w[0]->n);
        b->n_keys += (size_t)(s->last - s->first + 1);
    }
    b->x = malloc(n_x * sizeof *b->x);
    b->y = malloc(n_y * sizeof *b->y);
    b->want = malloc(n_y * sizeof *b->want);
    b->rows = calloc(b->n_keys, sizeof *b->rows);
    if (!b->x || !b->y || !b->want || !b->rows)
        return bal_nomem(err, (n_x + 2 * n_y) * sizeof *b->x, "inputs and outputs");
    bal_rng rng;
    bal_rng_seed(&rng, 4);
    for (size_t i = 0; i < n_x; i++) b->x[i] = bal_rng_f32(&rng) - 0.5f;
    return bal_exec_create(&b->exec, e->pool, &e->kernels, bal_model_max_k(&e->model), err);
}

static void release(bench *b)
{
    bal_exec_destroy(&b->exec);
    free(b->x);
    free(b->y);
    free(b->want);
    free(b->rows);
    free(b);
}

bal_status bal_choices_measure(const bal_choices_plan *plan, bal_choices_row **rows, size_t *n,
                               bal_error *err)
{
    *rows = NULL;
    *n = 0;
    if (plan->repeats < 1 || plan->repeats > BAL_CHOICES_MOST_ROUNDS)
        return bal_fail(err, BAL_E_ARG, "%d rounds; expected 1 to %d", plan->repeats,
                        BAL_CHOICES_MOST_ROUNDS);
    bench *b = calloc(1, sizeof *b);
    if (!b) return bal_nomem(err, sizeof *b, "the benchmark");
    b->plan = plan;
    add_all(b, &plan->engine->model);
    bal_status st = allocate(b, err);
    if (st == BAL_OK) st = measure_all(b, err);
    if (st == BAL_OK) {
        *rows = b->rows;
        *n = b->n_rows;
        b->rows = NULL;
    }
    release(b);
    return st;
}

/* ---- The table ------------------------------------------------------------------------------- */

static bool measured(const bal_shapes_entry *e, const bal_choices_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bal_shapes_order(e, &rows[i].best) == 0) return true;
    return false;
}

bal_status bal_choices_merge(bal_shapes *out, const bal_shapes *old, const bal_choices_row *rows,
                             size_t n, bal_error *err)
{
    *out = (bal_shapes){.entries = calloc(old->n + n + 1, sizeof *out->entries)};
    if (!out->entries) return bal_nomem(err, (old->n + n) * sizeof *out->entries, "a table");
    for (size_t i = 0; i < old->n; i++)
        if (!measured(&old->entries[i], rows, n)) out->entries[out->n++] = old->entries[i];
    for (size_t i = 0; i < n; i++)
        if (rows[i].taken) out->entries[out->n++] = rows[i].best;
    qsort(out->entries, out->n, sizeof *out->entries, bal_shapes_order);
    return BAL_OK;
}
