/* SPDX-License-Identifier: MIT
 * Limits and matrix kernels, timed. All cases read one buffer of at least 256 MiB (and two copies
 * of the largest matrix), wrapping around, so that no cache holds the weights between calls. Its
 * contents are small normal numbers in every float type, and valid codes by definition. */
#include "bench_kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/size.h"
#include "bench_limits.h"
#include "op/linear.h"
#include "type/packed.h"

enum {
    MAX_REPEATS = 101,
    ROW_CHUNK = 64 /* tokens multiplied at a time, as op/linear.c does it */
};
#define MIN_BUFFER        ((size_t)256 << 20)
#define MIN_BUFFER_SCALAR ((size_t)16 << 20) /* code so slow that a cache makes no difference */

/* CASE_PACKED: 16-bit activations; CASE_BYTES: 8-bit ones. Kernels that read steps have cases of
 * their own of both. */
typedef enum case_kind {
    CASE_LIMIT,
    CASE_PACKED,
    CASE_PACKED_STEPS,
    CASE_BYTES,
    CASE_BYTES_STEPS,
    CASE_FLOAT
} case_kind;

typedef struct bench_case {
    case_kind kind;
    bal_limit limit; /* CASE_LIMIT */
    double work;     /* bytes or multiply-adds of a call */
    const char *name;
    int bits, rows, threads;
    bal_packed_layout layout; /* of packed weights */
    bal_gemm_w_fn *gemm_w;
    bal_gemm_t_fn *gemm_t;
    bal_gemm_a8_fn *gemm_a8;
    bal_gemm_a8d_fn *gemm_a8d;
    bal_type type;  /* CASE_FLOAT */
    size_t n_bytes; /* of weights per call */
    double seconds[MAX_REPEATS];
} bench_case;

typedef struct bench {
    const bal_bench_plan *plan;
    uint8_t *buffer;
    size_t buffer_bytes;
    float *x, *y;
    bal_a16 *a;
    bal_a8 *a8;
    bal_exec exec; /* of float weights, on the plan's threads */
    bench_case cases[BAL_BENCH_ROWS];
    int n_cases;
} bench;

/* One call of one case, as lanes see it. */
typedef struct job {
    const bench *b;
    const bench_case *c;
    const uint8_t *weights;
    size_t panels; /* of packed weights */
} job;

/* ---- Kernels ------------------------------------------------------------------------------- */

/* One panel and up to ROW_CHUNK tokens. */
static void panel(const job *j, size_t p, size_t i, int rows)
{
    const bench_case *c = j->c;
    const bal_packed_layout *l = &c->layout;
    const size_t units = l->units, upg = l->units_per_group, n_pad = l->panels * BAL_PANEL;
    const uint8_t *at = j->weights;
    const bal_packed_view v = {.layout = *l,
                               .codes = (const void *)(at + l->codes_offset),
                               .scales = (const void *)(at + l->scales_offset),
                               .steps = at + l->steps_offset,
                               .zeros = at + l->zeros_offset};
    const uint32_t *codes = bal_packed_codes(&v, p);
    const uint16_t *scales = bal_packed_scales(&v, p);
    const bool table = l->kind == BAL_PACKED_TABLE;
    const uint8_t *steps = bal_packed_steps(&v, p);
    const uint8_t *zeros = table ? at + l->table_offset : bal_packed_zeros(&v, p);
    const bal_a16 *a = j->b->a + i * units;
    const bal_a8 *a8 = j->b->a8 + i * units;
    float *y = j->b->y + i * n_pad + p * BAL_PANEL;
    if (c->gemm_w) c->gemm_w(rows, units, upg, a, units, codes, scales, zeros, y, n_pad);
    if (c->gemm_t) c->gemm_t(rows, units, upg, a, units, codes, scales, steps, zeros, y, n_pad);
    if (c->gemm_a8) c->gemm_a8(rows, units, upg, units, a8, units, codes, scales, zeros, y, n_pad);
    if (c->gemm_a8d)
        c->gemm_a8d(rows, units, upg, units, a8, units, codes, scales, steps, zeros, y, n_pad);
}

static void packed_lane(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    const size_t rows = (size_t)j->c->rows;
    for (size_t i = 0; i < rows; i += ROW_CHUNK)
        for (size_t p = begin; p < end; p++) panel(j, p, i, (int)bal_min(rows - i, ROW_CHUNK));
    (void)lane;
}

/* Through the op: it decides by the number of rows which kernels multiply floats, and packs. */
static void float_linear(const bench *b, const bench_case *c, const uint8_t *weights)
{
    const bal_bench_plan *plan = b->plan;
    const bal_linear w = {.type = c->type, .n = (int)plan->n, .k = (int)plan->k, .w = weights};
    bal_linear_forward(&b->exec, &w, b->x, plan->k, c->rows, b->y, plan->n);
}

/* Pieces small enough to even out a busy core, large enough to amortise a claim. */
static size_t grain_of(size_t items, int threads)
{
    return bal_max(1, items / ((size_t)threads * 8));
}

static void call(const bench *b, bench_case *c, bal_pool *pool, const uint8_t *weights)
{
    const bal_bench_plan *plan = b->plan;
    job j = {b, c, weights, c->layout.panels};
    switch (c->kind) {
    case CASE_LIMIT:
        c->work = bal_limit_run(c->limit, plan->isa, pool,
                                (bal_limit_buffer){b->buffer, b->buffer_bytes});
        return;
    case CASE_BYTES:
    case CASE_BYTES_STEPS:
        for (int i = 0; i < c->rows; i++)
            plan->kernels->quant_a8(b->x + (size_t)i * plan->k, plan->k, 0,
                                    b->a8 + (size_t)i * c->layout.units);
        bal_pool_run(pool, packed_lane, &j, j.panels, grain_of(j.panels, c->threads));
        return;
    case CASE_PACKED:
    case CASE_PACKED_STEPS:
        for (int i = 0; i < c->rows; i++)
            plan->kernels->quant_a16(b->x + (size_t)i * plan->k, plan->k,
                                     b->a + (size_t)i * c->layout.units);
        bal_pool_run(pool, packed_lane, &j, j.panels, grain_of(j.panels, c->threads));
        return;
    case CASE_FLOAT: float_linear(b, c, weights);
    }
}

static bool is_matrix(const bench_case *c)
{
    return c->kind != CASE_LIMIT;
}

/* Seconds per call. One token: a pass over the whole buffer, else one call. */
static double sample(const bench *b, bench_case *c, bal_pool *pool, int round)
{
    const bool matrix = is_matrix(c);
    const size_t copies = matrix ? b->buffer_bytes / c->n_bytes : 1;
    const size_t calls = matrix && c->rows == 1 ? copies : 1;
    const double start = bal_bench_now();
    for (size_t i = 0; i < calls; i++)
        call(b, c, pool, b->buffer + (i + (size_t)round) % copies * c->n_bytes);
    return (bal_bench_now() - start) / (double)calls;
}

/* ---- Set-up and report --------------------------------------------------------------------- */

static bench_case *add_case(bench *b, case_kind kind, const char *name, int bits, int rows,
                            int threads)
{
    bench_case *c = &b->cases[b->n_cases++];
    *c = (bench_case){.kind = kind, .name = name, .bits = bits, .rows = rows, .threads = threads};
    return c;
}

static void add_limits(bench *b, int threads)
{
    static const int bits[BAL_LIMITS] = {0, 32, 8};
    for (int i = 0; i < BAL_LIMITS; i++) {
        const bal_limit limit = (bal_limit)i;
        add_case(b, CASE_LIMIT, bal_limit_name(limit), bits[i], 0, threads)->limit = limit;
    }
}

/* Kinds with steps: tables in groups of 32, for which they are made, whatever the plan's; two
 * levels in the plan's, for both activations. */
static bal_status add_stepped(bench *b, int rows, bal_error *err)
{
    static const struct {
        const char *name;
        bal_packed_kind kind;
        int bits;
        bool bytes;
    } cases[] = {{"gemm_t2", BAL_PACKED_TABLE, 2, false},
                 {"gemm_t3", BAL_PACKED_TABLE, 3, false},
                 {"gemm_t4", BAL_PACKED_TABLE, 4, false},
                 {"gemm_d4", BAL_PACKED_TWO_LEVEL, 4, false},
                 {"gemm_a8d4", BAL_PACKED_TWO_LEVEL, 4, true}};
    const bal_bench_plan *plan = b->plan;
    const bal_kernels *t = plan->kernels;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const bool table = cases[i].kind == BAL_PACKED_TABLE;
        const bal_packed_format f = {cases[i].kind, cases[i].bits, table ? 32 : plan->group};
        bench_case *c = add_case(b, cases[i].bytes ? CASE_BYTES_STEPS : CASE_PACKED_STEPS,
                                 cases[i].name, f.bits, rows, bal_pool_size(plan->pool));
        BAL_TRY(bal_packed_layout_of(&c->layout, f, plan->n, plan->k, err));
        if (cases[i].bytes)
            c->gemm_a8d = t->gemm_a8d4;
        else
            c->gemm_t = table ? bal_kernels_gemm_t(t, f.bits) : t->gemm_d4;
        c->n_bytes = c->layout.n_bytes;
    }
    return BAL_OK;
}

static bal_status add_matrices(bench *b, int rows, bal_error *err)
{
    const bal_bench_plan *plan = b->plan;
    const bal_kernels *t = plan->kernels;
    const int threads = bal_pool_size(plan->pool);
    const struct {
        const char *name;
        int bits;
        bal_type type;
    } floats[] = {{"linear_f32", 32, BAL_TYPE_F32},
                  {"linear_bf16", 16, BAL_TYPE_BF16},
                  {"linear_f16", 16, BAL_TYPE_F16}};
    static const char *const packed[] = {"gemm_w2", "gemm_w3", "gemm_w4", "gemm_w6", "gemm_w8"};
    static const char *const bytes[] = {"gemm_a8w2", "gemm_a8w3", "gemm_a8w4", "gemm_a8w6",
                                        "gemm_a8w8"};
    static const int bits[] = {2, 3, 4, 6, 8};
    for (int i = 0; i < 3; i++) {
        bench_case *c = add_case(b, CASE_FLOAT, floats[i].name, floats[i].bits, rows, threads);
        c->type = floats[i].type;
        c->n_bytes = plan->n * plan->k * (size_t)floats[i].bits / 8;
    }
    for (int i = 0; i < 5; i++) {
        bench_case *c = add_case(b, CASE_PACKED, packed[i], bits[i], rows, threads);
        BAL_TRY(bal_packed_layout_init(&c->layout, bits[i], plan->n, plan->k, plan->group, err));
        c->gemm_w = bal_kernels_gemm_w(t, bits[i]);
        c->n_bytes = c->layout.n_bytes;
        bench_case *d = add_case(b, CASE_BYTES, bytes[i], bits[i], rows, threads);
        d->layout = c->layout;
        d->gemm_a8 = bal_kernels_gemm_a8(t, bits[i]);
        d->n_bytes = c->layout.n_bytes;
    }
    return add_stepped(b, rows, err);
}

/* Random halves 0x3c00..0x3fff: 1..2 as f16, 2^-7..2 as bf16 and f32. */
static void fill_buffer(bench *b)
{
    bal_rng rng;
    bal_rng_seed(&rng, 1);
    for (size_t i = 0; i < b->buffer_bytes; i += 8) {
        const uint64_t v = (bal_rng_u64(&rng) & 0x03ff03ff03ff03ffu) | 0x3c003c003c003c00u;
        memcpy(b->buffer + i, &v, sizeof v);
    }
}

/* Memory for the largest case; k, n and rows are bounded by the command line. */
static bal_status allocate(bench *b, bal_error *err)
{
    const bal_bench_plan *plan = b->plan;
    const size_t rows = (size_t)bal_max((size_t)plan->rows, 1);
    const size_t n_pad = bal_round_up(plan->n, BAL_PANEL);
    size_t most = strcmp(plan->isa, "scalar") ? MIN_BUFFER / 2 : MIN_BUFFER_SCALAR / 2;
    for (int i = 0; i < b->n_cases; i++) most = bal_max(most, b->cases[i].n_bytes);
    b->buffer_bytes = bal_round_up(2 * most, 1 << 20);
    b->buffer = malloc(b->buffer_bytes);
    b->x = malloc(rows * plan->k * sizeof *b->x);
    b->y = malloc(rows * n_pad * sizeof *b->y);
    BAL_TRY(bal_exec_create(&b->exec, plan->pool, plan->kernels, (int)plan->k, err));
    b->a = malloc(rows * bal_ceil_div(plan->k, BAL_UNIT) * sizeof *b->a);
    b->a8 = malloc(rows * bal_ceil_div(plan->k, BAL_UNIT) * sizeof *b->a8);
    if (!b->buffer || !b->x || !b->y || !b->a || !b->a8)
        return bal_nomem(err, b->buffer_bytes, "the benchmark's weights");
    fill_buffer(b);
    bal_rng rng;
    bal_rng_seed(&rng, 2);
    for (size_t i = 0; i < rows * plan->k; i++) b->x[i] = bal_rng_f32(&rng) - 0.5f;
    return BAL_OK;
}

static void release(bench *b)
{
    free(b->buffer);
    free(b->x);
    free(b->y);
    free(b->a);
    free(b->a8);
    bal_exec_destroy(&b->exec);
    free(b);
}

/* All rounds. Cases with fewer threads than the plan's pool get a pool of their own. */
static bal_status run_rounds(bench *b, bal_error *err)
{
    for (int r = -1; r < b->plan->repeats; r++) /* round -1 warms up */
        for (int i = 0; i < b->n_cases; i++) {
            bench_case *c = &b->cases[i];
            bal_pool *own = NULL;
            if (c->threads != bal_pool_size(b->plan->pool))
                BAL_TRY(bal_pool_create(&own, c->threads, err));
            const double s = sample(b, c, own ? own : b->plan->pool, r + 1);
            bal_pool_destroy(own);
            if (r >= 0) c->seconds[r] = s;
        }
    return BAL_OK;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void bal_bench_set_seconds(bal_bench_row *row, double *seconds, int n)
{
    qsort(seconds, (size_t)n, sizeof *seconds, ascending);
    row->seconds = seconds[n / 2];
    row->slowest = row->seconds / seconds[n - 1];
    row->fastest = row->seconds / seconds[0];
}

static void report(const bench *b, bench_case *c, bal_bench_row *row)
{
    const bal_bench_plan *plan = b->plan;
    const bool matrix = is_matrix(c);
    *row = (bal_bench_row){.isa = plan->isa, .bits = c->bits, .rows = c->rows};
    row->threads = c->threads;
    snprintf(row->name, sizeof row->name, "%s", c->name);
    bal_bench_set_seconds(row, c->seconds, plan->repeats);
    const bool reads = c->kind == CASE_LIMIT && c->limit == BAL_LIMIT_READ;
    double weights = reads ? 0 : c->work, bytes = reads ? c->work : 0;
    if (matrix) {
        row->n = plan->n, row->k = plan->k;
        row->group = c->kind == CASE_FLOAT ? 0 : c->layout.group;
        weights = (double)plan->n * (double)plan->k, bytes = (double)c->n_bytes;
    }
    row->weights_per_s = weights / row->seconds;
    row->bytes_per_s = bytes / row->seconds;
}

/* One token is measured against reading, several against multiplying: floats against fused
 * multiply-adds, packed weights against products of bytes, of which a 16-bit activation takes two
 * for each weight. limits: the rows "read", "fma" and "int8". */
static void set_fraction(bal_bench_row *row, case_kind kind, const bal_bench_row *limits)
{
    if (!row->n) return;
    const bal_bench_row *l = &limits[row->rows == 1       ? BAL_LIMIT_READ
                                     : kind == CASE_FLOAT ? BAL_LIMIT_FMA
                                                          : BAL_LIMIT_INT8];
    const bool words = kind == CASE_PACKED || kind == CASE_PACKED_STEPS;
    const double products = words ? 2.0 * row->rows : (double)row->rows;
    row->limit = l->name;
    row->limit_per_s = row->rows == 1 ? l->bytes_per_s : l->weights_per_s;
    row->fraction =
        (row->rows == 1 ? row->bytes_per_s : row->weights_per_s * products) / row->limit_per_s;
}

static bal_status measure(bench *b, bal_bench_row *rows, int *n_rows, bal_error *err)
{
    BAL_TRY(allocate(b, err));
    BAL_TRY(run_rounds(b, err));
    for (int i = 0; i < b->n_cases; i++) report(b, &b->cases[i], &rows[i]);
    for (int i = 0; i < b->n_cases; i++) set_fraction(&rows[i], b->cases[i].kind, rows);
    *n_rows = b->n_cases;
    return BAL_OK;
}

static bal_status bench_new(bench **out, const bal_bench_plan *plan, bal_error *err)
{
    *out = NULL;
    if (plan->repeats < 1 || plan->repeats > MAX_REPEATS)
        return bal_fail(err, BAL_E_ARG, "%d rounds; expected 1 to %d", plan->repeats, MAX_REPEATS);
    *out = calloc(1, sizeof **out);
    if (!*out) return bal_nomem(err, sizeof **out, "the benchmark");
    (*out)->plan = plan;
    return BAL_OK;
}

bal_status bal_bench_limits(const bal_bench_plan *plan, bal_bench_row *rows, int *n_rows,
                            bal_error *err)
{
    bench *b;
    *n_rows = 0;
    BAL_TRY(bench_new(&b, plan, err));
    const int most = bal_pool_size(plan->pool);
    for (int t = 1; t <= most && b->n_cases + 2 * BAL_LIMITS <= BAL_BENCH_ROWS; t *= 2)
        add_limits(b, t);
    if (b->cases[b->n_cases - 1].threads != most) add_limits(b, most);
    const bal_status st = measure(b, rows, n_rows, err);
    release(b);
    return st;
}

bal_status bal_bench_kernels(const bal_bench_plan *plan, bal_bench_row *rows, int *n_rows,
                             bal_error *err)
{
    bench *b;
    *n_rows = 0;
    BAL_TRY(bench_new(&b, plan, err));
    add_limits(b, bal_pool_size(plan->pool));
    bal_status st = add_matrices(b, 1, err);
    if (st == BAL_OK && plan->rows > 1) st = add_matrices(b, plan->rows, err);
    if (st == BAL_OK) st = measure(b, rows, n_rows, err);
    release(b);
    return st;
}
