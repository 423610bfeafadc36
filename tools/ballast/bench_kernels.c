/* SPDX-License-Identifier: MIT
 * Limits and matrix kernels, timed. All cases read one buffer of at least 256 MiB (and two copies
 * of the largest matrix), wrapping around, so that no cache holds the weights between calls, unless
 * a plan asks for just that. Its contents are small normal numbers in every float type, and valid
 * codes by definition. */
#include "bench_kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "base/size.h"
#include "bench_limits.h"
#include "op/linear.h"
#include "quant/blas.h"
#include "type/packed.h"

enum { MAX_REPEATS = 101, FEW_ROWS = 16 };
#define MIN_BUFFER        ((size_t)256 << 20)
#define RESIDENT_BYTES    ((size_t)64 << 20) /* read of a resident matrix in one sample */
#define MIN_BUFFER_SCALAR ((size_t)16 << 20) /* code so slow that a cache makes no difference */

typedef struct bench_case {
    bool is_limit, is_blas;
    bool few;        /* tokens that either of reading and multiplying may bound */
    bal_limit limit; /* that a limit's case measures, or that a matrix is compared to */
    const char *name;
    int bits, rows, threads;
    size_t group;
    bal_type type;            /* of a matrix */
    bal_act act;              /* of packed weights */
    bal_packed_layout layout; /* of packed weights */
    double work;              /* of a call: bytes or multiply-adds, counted as the limit does */
    size_t n_bytes;           /* of weights per call */
    double seconds[MAX_REPEATS];
    double fraction[MAX_REPEATS]; /* of the limit as probed before and behind the sample */
    double of_read[MAX_REPEATS];  /* of a few tokens: of reading as well */
} bench_case;

typedef struct bench {
    const bal_bench_plan *plan;
    uint8_t *buffer;
    size_t buffer_bytes;
    float *x, *y;
    bal_exec exec;
    bench_case cases[BAL_BENCH_ROWS];
    int n_cases;
} bench;

/* Weights of one call of OpenBLAS. */
typedef struct blas_job {
    const bench *b;
    const bench_case *c;
    const float *w;
} blas_job;

/* ---- Kernels ------------------------------------------------------------------------------- */

/* OpenBLAS, each lane some outputs: it then has as many threads as we, on the same cores. */
static void blas_lane(void *ctx, size_t begin, size_t end, int lane)
{
    const blas_job *j = ctx;
    const bal_bench_plan *plan = j->b->plan;
    bal_blas_gemm_f32((size_t)j->c->rows, end - begin, plan->k, j->b->x, plan->k,
                      j->w + begin * plan->k, plan->k, j->b->y + begin, plan->n);
    (void)lane;
}

/* Through the op, which decides by the number of rows what multiplies, and packs. */
static void call(const bench *b, const bench_case *c, const uint8_t *weights)
{
    const bal_bench_plan *plan = b->plan;
    if (c->is_blas) {
        blas_job j = {b, c, (const void *)weights};
        bal_pool_run(plan->pool, blas_lane, &j, plan->n,
                     bal_ceil_div(plan->n, (size_t)bal_pool_size(plan->pool)));
        return;
    }
    bal_linear w = {.type = c->type, .n = (int)plan->n, .k = (int)plan->k, .w = weights};
    w.act = c->act;
    if (bal_type_get(c->type)->packed)
        w.packed = (bal_packed_view){.layout = c->layout,
                                     .codes = (const void *)(weights + c->layout.codes_offset),
                                     .scales = (const void *)(weights + c->layout.scales_offset),
                                     .steps = weights + c->layout.steps_offset,
                                     .zeros = weights + c->layout.zeros_offset,
                                     .table = weights + c->layout.table_offset};
    bal_linear_forward(&b->exec, &w, b->x, plan->k, c->rows, b->y, plan->n);
}

/* Calls of a sample: of one token and of a few, a pass over the whole buffer or, of a resident
 * matrix, as many bytes; a single call of theirs would find what the case before left in a cache.
 */
static size_t calls_of(const bench *b, const bench_case *c)
{
    if (c->rows > 1 && !c->few) return 1;
    return bal_max((b->plan->resident ? RESIDENT_BYTES : b->buffer_bytes) / c->n_bytes, 1);
}

/* Bytes or multiply-adds per second of one run of a limit. */
static double probe(const bench *b, bal_limit limit, bal_pool *pool)
{
    const double start = bal_bench_now();
    const double work =
        bal_limit_run(limit, b->plan->isa, pool, (bal_limit_buffer){b->buffer, b->buffer_bytes});
    return work / (bal_bench_now() - start);
}

/* One sample of a matrix, between two of its limit: what neighbours take, they take from all. */
static void sample(const bench *b, bench_case *c, int round)
{
    bal_pool *pool = b->plan->pool;
    const size_t copies = b->plan->resident ? 1 : b->buffer_bytes / c->n_bytes;
    const size_t calls = calls_of(b, c);
    const double before = probe(b, c->limit, pool);
    double read = c->few ? probe(b, BAL_LIMIT_READ, pool) : 0;
    const double start = bal_bench_now();
    for (size_t i = 0; i < calls; i++)
        call(b, c, b->buffer + (i + (size_t)round) % copies * c->n_bytes);
    const double seconds = (bal_bench_now() - start) / (double)calls;
    if (c->few) read += probe(b, BAL_LIMIT_READ, pool);
    const double after = probe(b, c->limit, pool);
    c->seconds[round] = seconds;
    c->fraction[round] = c->work / seconds / (0.5 * (before + after));
    if (c->few) c->of_read[round] = (double)c->n_bytes / seconds / (0.5 * read);
}

/* ---- Set-up and report --------------------------------------------------------------------- */

static bench_case *add_case(bench *b, const char *name, int bits, int rows, int threads)
{
    bench_case *c = &b->cases[b->n_cases++];
    *c = (bench_case){.name = name, .bits = bits, .rows = rows, .threads = threads};
    return c;
}

static void add_limit(bench *b, bal_limit limit, int threads)
{
    bench_case *c = add_case(b, bal_limit_name(limit), bal_limit_bits(limit), 0, threads);
    c->is_limit = true, c->limit = limit;
}

/* One token is measured against reading, or against multiplying where the matrix is resident, and
 * several tokens against multiplying, a few against reading as well: floats against fused
 * multiply-adds, packed weights against products of bytes, of which a 16-bit activation takes two
 * for each weight. */
static void set_work(const bench *b, bench_case *c)
{
    const double weights = (double)b->plan->n * (double)b->plan->k;
    const bool packed = bal_type_get(c->type)->packed, bytes = c->act.kind == BAL_ACT_A8;
    c->few =
        c->rows > 1 && c->rows <= FEW_ROWS && !b->plan->resident && strcmp(b->plan->isa, "scalar");
    if (c->rows == 1 && !b->plan->resident) {
        c->limit = BAL_LIMIT_READ, c->work = (double)c->n_bytes;
        return;
    }
    c->limit = packed ? BAL_LIMIT_INT8 : BAL_LIMIT_FMA;
    c->work = weights * c->rows * (packed && !bytes ? 2 : 1);
}

static void add_floats(bench *b, int rows)
{
    static const struct {
        const char *name;
        int bits;
        bal_type type;
    } floats[] = {{"linear_f32", 32, BAL_TYPE_F32},
                  {"linear_bf16", 16, BAL_TYPE_BF16},
                  {"linear_f16", 16, BAL_TYPE_F16}};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) {
        bench_case *c =
            add_case(b, floats[i].name, floats[i].bits, rows, bal_pool_size(b->plan->pool));
        c->type = floats[i].type;
        c->n_bytes = b->plan->n * b->plan->k * (size_t)floats[i].bits / 8;
        set_work(b, c);
    }
    if (rows == 1) return;
    bench_case *c = add_case(b, "openblas_f32", 32, rows, bal_pool_size(b->plan->pool));
    c->is_blas = true, c->type = BAL_TYPE_F32;
    c->n_bytes = b->plan->n * b->plan->k * sizeof(float);
    set_work(b, c);
}

/* Tables in groups of 32, for which they are made, whatever the plan's. */
static bal_status add_packed(bench *b, const char *name, bal_packed_kind kind, bal_type type,
                             bool bytes, int rows, bal_error *err)
{
    const bal_bench_plan *plan = b->plan;
    const int bits = bal_type_get(type)->bits;
    bench_case *c = add_case(b, name, bits, rows, bal_pool_size(plan->pool));
    c->type = type;
    c->group = kind == BAL_PACKED_TABLE ? 32 : plan->group;
    if (bytes) c->act = (bal_act){.kind = BAL_ACT_A8, .scale = BAL_ACT_DYNAMIC};
    BAL_TRY(bal_packed_layout_of(&c->layout, (bal_packed_format){kind, bits, c->group}, plan->n,
                                 plan->k, err));
    c->n_bytes = c->layout.n_bytes;
    set_work(b, c);
    return BAL_OK;
}

static bal_status add_matrices(bench *b, int rows, bal_error *err)
{
    static const struct {
        const char *name;
        bal_packed_kind kind;
        bal_type type;
        bool bytes;
    } packed[] = {{"gemm_w2", BAL_PACKED_GROUPS, BAL_TYPE_W2, false},
                  {"gemm_a8w2", BAL_PACKED_GROUPS, BAL_TYPE_W2, true},
                  {"gemm_w3", BAL_PACKED_GROUPS, BAL_TYPE_W3, false},
                  {"gemm_a8w3", BAL_PACKED_GROUPS, BAL_TYPE_W3, true},
                  {"gemm_w4", BAL_PACKED_GROUPS, BAL_TYPE_W4, false},
                  {"gemm_a8w4", BAL_PACKED_GROUPS, BAL_TYPE_W4, true},
                  {"gemm_w6", BAL_PACKED_GROUPS, BAL_TYPE_W6, false},
                  {"gemm_a8w6", BAL_PACKED_GROUPS, BAL_TYPE_W6, true},
                  {"gemm_w8", BAL_PACKED_GROUPS, BAL_TYPE_W8, false},
                  {"gemm_a8w8", BAL_PACKED_GROUPS, BAL_TYPE_W8, true},
                  {"gemm_t2", BAL_PACKED_TABLE, BAL_TYPE_W2, false},
                  {"gemm_t3", BAL_PACKED_TABLE, BAL_TYPE_W3, false},
                  {"gemm_t4", BAL_PACKED_TABLE, BAL_TYPE_W4, false},
                  {"gemm_d4", BAL_PACKED_TWO_LEVEL, BAL_TYPE_W4, false},
                  {"gemm_a8d4", BAL_PACKED_TWO_LEVEL, BAL_TYPE_W4, true}};
    add_floats(b, rows);
    for (size_t i = 0; i < sizeof packed / sizeof *packed; i++)
        BAL_TRY(add_packed(b, packed[i].name, packed[i].kind, packed[i].type, packed[i].bytes, rows,
                           err));
    return BAL_OK;
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

/* Memory for the largest case; k, n and rows are bounded by the command line. A resident matrix is
 * the only one that is read, so the rest of the buffer is there for the probes alone. */
static bal_status allocate(bench *b, bal_error *err)
{
    const bal_bench_plan *plan = b->plan;
    const size_t rows = (size_t)bal_max((size_t)plan->rows, 1);
    size_t most = strcmp(plan->isa, "scalar") ? MIN_BUFFER / 2 : MIN_BUFFER_SCALAR / 2;
    for (int i = 0; i < b->n_cases; i++) most = bal_max(most, b->cases[i].n_bytes);
    b->buffer_bytes = bal_round_up(2 * most, 1 << 20);
    b->buffer = aligned_alloc(BAL_PACKED_ALIGN, b->buffer_bytes);
    b->x = malloc(rows * plan->k * sizeof *b->x);
    b->y = malloc(rows * plan->n * sizeof *b->y);
    BAL_TRY(bal_exec_create(&b->exec, plan->pool, plan->kernels, (int)plan->k, err));
    b->exec.shapes = plan->shapes;
    if (!b->buffer || !b->x || !b->y)
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
    bal_exec_destroy(&b->exec);
    free(b);
}

/* One round of a limit, on a pool of its own where it has fewer threads than the plan's. */
static bal_status sample_limit(const bench *b, bench_case *c, int round, bal_error *err)
{
    bal_pool *own = NULL;
    if (c->threads != bal_pool_size(b->plan->pool)) BAL_TRY(bal_pool_create(&own, c->threads, err));
    const double start = bal_bench_now();
    c->work = bal_limit_run(c->limit, b->plan->isa, own ? own : b->plan->pool,
                            (bal_limit_buffer){b->buffer, b->buffer_bytes});
    c->seconds[round] = bal_bench_now() - start;
    bal_pool_destroy(own);
    return BAL_OK;
}

/* All rounds; the first is done twice, since it warms up. */
static bal_status run_rounds(bench *b, bal_error *err)
{
    for (int r = -1; r < b->plan->repeats; r++)
        for (int i = 0; i < b->n_cases; i++) {
            bench_case *c = &b->cases[i];
            const int round = r < 0 ? 0 : r;
            if (c->is_limit)
                BAL_TRY(sample_limit(b, c, round, err));
            else
                sample(b, c, round);
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

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, ascending);
    return v[n / 2];
}

/* Of reading and multiplying, a few tokens are bounded by what takes longer, which is what they
 * spend the larger part on. */
static double settled_fraction(const bench *b, bench_case *c)
{
    const double fraction = median(c->fraction, b->plan->repeats);
    const double of_read = c->few ? median(c->of_read, b->plan->repeats) : 0;
    if (of_read <= fraction) return fraction;
    c->limit = BAL_LIMIT_READ;
    return of_read;
}

static void report_matrix(const bench *b, bench_case *c, bal_bench_row *row)
{
    const double products = c->work / c->rows / ((double)b->plan->n * (double)b->plan->k);
    row->n = b->plan->n, row->k = b->plan->k, row->group = c->group;
    row->weights_per_s = (double)row->n * (double)row->k / row->seconds;
    row->bytes_per_s = (double)c->n_bytes / row->seconds;
    row->fraction = settled_fraction(b, c);
    row->limit = bal_limit_name(c->limit);
    row->limit_per_s =
        (c->limit == BAL_LIMIT_READ ? row->bytes_per_s : row->weights_per_s * products * c->rows) /
        row->fraction;
}

static void report(const bench *b, bench_case *c, bal_bench_row *row)
{
    *row = (bal_bench_row){.isa = b->plan->isa, .bits = c->bits, .rows = c->rows};
    row->threads = c->threads;
    snprintf(row->name, sizeof row->name, "%s", c->name);
    bal_bench_set_seconds(row, c->seconds, b->plan->repeats);
    if (!c->is_limit)
        report_matrix(b, c, row);
    else
        *(bal_limit_reads(c->limit) ? &row->bytes_per_s : &row->weights_per_s) =
            c->work / row->seconds;
}

static bal_status measure(bench *b, bal_bench_row *rows, int *n_rows, bal_error *err)
{
    BAL_TRY(allocate(b, err));
    BAL_TRY(run_rounds(b, err));
    for (int i = 0; i < b->n_cases; i++) report(b, &b->cases[i], &rows[i]);
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
    for (int t = 1; t <= most; t = t < most && 2 * t > most ? most : 2 * t)
        for (int i = 0; i < BAL_LIMITS && b->n_cases < BAL_BENCH_ROWS; i++)
            if (bal_limit_exists((bal_limit)i, b->plan->isa)) add_limit(b, (bal_limit)i, t);
    const bal_status st = measure(b, rows, n_rows, err);
    release(b);
    return st;
}

bal_status bal_bench_kernels(const bal_bench_plan *plan, bal_bench_row *rows, int *n_rows,
                             bal_error *err)
{
    static const bal_limit beside[] = {BAL_LIMIT_READ, BAL_LIMIT_FMA, BAL_LIMIT_INT8,
                                       BAL_LIMIT_CLOCK};
    bench *b;
    *n_rows = 0;
    BAL_TRY(bench_new(&b, plan, err));
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++)
        add_limit(b, beside[i], bal_pool_size(plan->pool));
    bal_status st = add_matrices(b, 1, err);
    if (st == BAL_OK && plan->rows > 1) st = add_matrices(b, plan->rows, err);
    if (st == BAL_OK) st = measure(b, rows, n_rows, err);
    release(b);
    return st;
}
