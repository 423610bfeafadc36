/* SPDX-License-Identifier: MIT
 * Limits and matrix kernels, timed. All cases read one buffer of at least 256 MiB (and two copies
 * of the largest matrix), wrapping around, so that no cache holds the weights between calls. Its
 * contents are small normal numbers in every float type, and valid codes by definition. */
#include "bench_kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "base/size.h"
#include "type/packed.h"

#if BAL_X86
#include <immintrin.h>
#endif

enum {
    READ_CHUNK = 1 << 20,
    MAX_REPEATS = 101,
    FMA_STEPS = 1 << 21,
    INT8_STEPS = 1 << 23,
    ROW_CHUNK = 64 /* tokens multiplied at a time, as op/linear.c does it */
};
#define MIN_BUFFER        ((size_t)256 << 20)
#define MIN_BUFFER_SCALAR ((size_t)16 << 20) /* code so slow that a cache makes no difference */

/* CASE_PACKED: 16-bit activations; CASE_BYTES: 8-bit ones */
typedef enum case_kind {
    CASE_READ,
    CASE_FMA,
    CASE_INT8,
    CASE_PACKED,
    CASE_BYTES,
    CASE_FLOAT
} case_kind;

typedef struct bench_case {
    case_kind kind;
    const char *name;
    int bits, rows, threads;
    bal_packed_layout layout; /* CASE_PACKED, CASE_BYTES */
    bal_gemm_w_fn *gemm_w;
    bal_gemm_a8_fn *gemm_a8;
    bal_gemm_nt_fn *gemm_nt;
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
    bench_case cases[BAL_BENCH_ROWS];
    int n_cases;
} bench;

/* One call of one case, as lanes see it. */
typedef struct job {
    const bench *b;
    const bench_case *c;
    const uint8_t *weights;
    size_t panels; /* of CASE_PACKED and CASE_BYTES */
} job;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Limits -------------------------------------------------------------------------------- */

#if BAL_X86
/* Four places at once: one stream alone does not fill the prefetchers (measured 1.3 times slower
 * on Zen 3). */
__attribute__((target("avx2"))) static uint64_t read_avx2(const uint8_t *p, size_t n_bytes)
{
    __m256i s[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
    const size_t quarter = n_bytes / 4;
    for (size_t i = 0; i < quarter; i += 32)
        for (size_t l = 0; l < 4; l++)
            s[l] = _mm256_xor_si256(s[l], _mm256_loadu_si256((const void *)(p + l * quarter + i)));
    s[0] = _mm256_xor_si256(_mm256_xor_si256(s[0], s[1]), _mm256_xor_si256(s[2], s[3]));
    return (uint64_t)_mm256_extract_epi64(s[0], 0) ^ (uint64_t)_mm256_extract_epi64(s[0], 3);
}
#endif

static uint64_t read_scalar(const uint8_t *p, size_t n_bytes)
{
    uint64_t s = 0, v[8];
    for (size_t i = 0; i < n_bytes; i += sizeof v) {
        memcpy(v, p + i, sizeof v);
        for (int l = 0; l < 8; l++) s ^= v[l];
    }
    return s;
}

typedef uint64_t read_fn(const uint8_t *p, size_t n_bytes);

/* 32-byte loads saturate memory on AVX-512 processors too. */
static read_fn *read_loop(const char *isa)
{
#if BAL_X86
    if (strcmp(isa, "scalar")) return read_avx2;
#endif
    (void)isa;
    return read_scalar;
}

static void read_lane(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    volatile uint64_t keep = 0; /* or the loop is dropped */
    keep ^= read_loop(j->b->plan->isa)(j->weights + begin * READ_CHUNK, (end - begin) * READ_CHUNK);
    (void)keep;
    (void)lane;
}

#if BAL_X86
/* Twelve independent chains: enough for two units of four cycles. */
#define FMA_LOOP(type, set1, fmadd, store, lanes)                                                  \
    type s[12];                                                                                    \
    const type x = set1(0.5f), y = set1(0.25f);                                                    \
    for (int i = 0; i < 12; i++) s[i] = set1((float)i);                                            \
    for (size_t t = 0; t < steps; t++)                                                             \
        for (int i = 0; i < 12; i++) s[i] = fmadd(s[i], x, y);                                     \
    float out[lanes];                                                                              \
    for (int i = 1; i < 12; i++) s[0] = fmadd(s[i], x, s[0]);                                      \
    store(out, s[0]);                                                                              \
    return out[0];

__attribute__((target("avx2,fma"))) static float fma_avx2(size_t steps)
{
    FMA_LOOP(__m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps, 8)
}

__attribute__((target("avx512f"))) static float fma_avx512(size_t steps)
{
    FMA_LOOP(__m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps, 16)
}
#endif

/* Plain multiply and add where no vector level is known. */
static float fma_scalar(size_t steps)
{
    float s[12];
    for (int i = 0; i < 12; i++) s[i] = (float)i;
    for (size_t t = 0; t < steps; t++)
        for (int i = 0; i < 12; i++) s[i] = s[i] * 0.5f + 0.25f;
    for (int i = 1; i < 12; i++) s[0] += s[i];
    return s[0];
}

typedef float fma_fn(size_t steps);

/* The loop of a level and how many multiply-adds one of its 12 chains does a step. */
static fma_fn *fma_loop(const char *isa, int *lanes)
{
#if BAL_X86
    if (!strcmp(isa, "avx512")) return *lanes = 16, fma_avx512;
    if (!strcmp(isa, "avx2")) return *lanes = 8, fma_avx2;
#endif
    (void)isa;
    return *lanes = 1, fma_scalar;
}

static void fma_lane(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    int lanes;
    fma_fn *fn = fma_loop(j->b->plan->isa, &lanes);
    volatile float keep = 0;
    for (size_t i = begin; i < end; i++) keep += fn(FMA_STEPS / (size_t)lanes);
    (void)keep;
    (void)lane;
}

#if BAL_X86
/* One product of bytes and its sum: vpmaddubsw, vpaddw; eight independent chains. KEEP holds the
 * compiler back from adding products of constants up beforehand. */
#define KEEP(v) __asm__ volatile("" : "+v"(v))
#define INT8_STEP(maddubs, add, s)                                                                 \
    {                                                                                              \
        KEEP(w);                                                                                   \
        s = add(s, maddubs(w, x));                                                                 \
    }
#define INT8_LOOP(type, set1, maddubs, add)                                                        \
    type w = set1(3), s0 = w, s1 = w, s2 = w, s3 = w, s4 = w, s5 = w, s6 = w, s7 = w;              \
    const type x = set1(-5);                                                                       \
    for (size_t t = 0; t < steps; t++) {                                                           \
        INT8_STEP(maddubs, add, s0)                                                                \
        INT8_STEP(maddubs, add, s1)                                                                \
        INT8_STEP(maddubs, add, s2)                                                                \
        INT8_STEP(maddubs, add, s3)                                                                \
        INT8_STEP(maddubs, add, s4)                                                                \
        INT8_STEP(maddubs, add, s5)                                                                \
        INT8_STEP(maddubs, add, s6)                                                                \
        INT8_STEP(maddubs, add, s7)                                                                \
    }                                                                                              \
    s0 = add(add(add(s0, s1), add(s2, s3)), add(add(s4, s5), add(s6, s7)));                        \
    KEEP(s0);

__attribute__((target("avx2"))) static void int8_avx2(size_t steps)
{
    INT8_LOOP(__m256i, _mm256_set1_epi8, _mm256_maddubs_epi16, _mm256_add_epi16)
}

__attribute__((target("avx512bw"))) static void int8_avx512(size_t steps)
{
    INT8_LOOP(__m512i, _mm512_set1_epi8, _mm512_maddubs_epi16, _mm512_add_epi16)
}
#undef KEEP
#endif

static void int8_scalar(size_t steps)
{
    int32_t s[8] = {0};
    volatile int8_t w = 3;
    const int8_t x = w;
    for (size_t t = 0; t < steps; t++)
        for (int i = 0; i < 8; i++) s[i] = (s[i] ^ i) + x * (int8_t)t;
    volatile int32_t keep = 0;
    for (int i = 0; i < 8; i++) keep += s[i];
}

typedef void int8_fn(size_t steps);

/* The loop of a level and how many multiply-adds one of its 8 chains does a step. */
static int8_fn *int8_loop(const char *isa, int *lanes)
{
#if BAL_X86
    if (!strcmp(isa, "avx512")) return *lanes = 64, int8_avx512;
    if (!strcmp(isa, "avx2")) return *lanes = 32, int8_avx2;
#endif
    (void)isa;
    return *lanes = 1, int8_scalar;
}

static void int8_lane(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    int lanes;
    int8_fn *fn = int8_loop(j->b->plan->isa, &lanes);
    for (size_t i = begin; i < end; i++) fn(INT8_STEPS / (size_t)lanes);
    (void)lane;
}

/* ---- Kernels ------------------------------------------------------------------------------- */

static void packed_lane(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    const bench_case *c = j->c;
    const bal_packed_layout *l = &c->layout;
    const size_t units = l->units, n_pad = l->panels * BAL_PANEL;
    const uint32_t *codes = (const void *)(j->weights + l->codes_offset);
    const uint16_t *scales = (const void *)(j->weights + l->scales_offset);
    const uint8_t *zeros = j->weights + l->zeros_offset;
    for (int i0 = 0; i0 < c->rows; i0 += ROW_CHUNK)
        for (size_t p = begin; p < end; p++)
            for (int i = i0; i < c->rows && i < i0 + ROW_CHUNK; i += BAL_GEMM_W_MR) {
                const int mr = c->rows - i < BAL_GEMM_W_MR ? c->rows - i : BAL_GEMM_W_MR;
                c->gemm_w(mr, units, l->units_per_group, j->b->a + (size_t)i * units, units,
                          codes + p * units * (size_t)l->bits * BAL_PANEL,
                          scales + p * l->groups * BAL_PANEL, zeros + p * l->groups * BAL_PANEL,
                          j->b->y + (size_t)i * n_pad + p * BAL_PANEL, n_pad);
            }
    (void)lane;
}

static void bytes_lane(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    const bench_case *c = j->c;
    const bal_packed_layout *l = &c->layout;
    const size_t units = l->units, n_pad = l->panels * BAL_PANEL, rows = (size_t)c->rows;
    const uint32_t *codes = (const void *)(j->weights + l->codes_offset);
    const uint16_t *scales = (const void *)(j->weights + l->scales_offset);
    const uint8_t *zeros = j->weights + l->zeros_offset;
    for (size_t i = 0; i < rows; i += ROW_CHUNK)
        for (size_t p = begin; p < end; p++)
            c->gemm_a8((int)bal_min(rows - i, ROW_CHUNK), units, l->units_per_group, units,
                       j->b->a8 + i * units, units, codes + p * units * (size_t)l->bits * BAL_PANEL,
                       scales + p * l->groups * BAL_PANEL, zeros + p * l->groups * BAL_PANEL,
                       j->b->y + i * n_pad + p * BAL_PANEL, n_pad);
    (void)lane;
}

static void float_lane(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    const bal_bench_plan *plan = j->b->plan;
    const size_t row_bytes = plan->k * (size_t)j->c->bits / 8;
    const size_t rows = (size_t)j->c->rows;
    for (size_t i = 0; i < rows; i += ROW_CHUNK)
        j->c->gemm_nt(bal_min(rows - i, ROW_CHUNK), end - begin, plan->k, j->b->x + i * plan->k,
                      plan->k, j->weights + begin * row_bytes, plan->k,
                      j->b->y + i * plan->n + begin, plan->n);
    (void)lane;
}

/* Pieces small enough to even out a busy core, large enough to amortise a claim. */
static size_t grain_of(size_t items, int threads)
{
    return bal_max(1, items / ((size_t)threads * 8));
}

static void call(const bench *b, const bench_case *c, bal_pool *pool, const uint8_t *weights)
{
    const bal_bench_plan *plan = b->plan;
    job j = {b, c, weights, c->layout.panels};
    switch (c->kind) {
    case CASE_READ: bal_pool_run(pool, read_lane, &j, b->buffer_bytes / READ_CHUNK, 1); return;
    case CASE_FMA: bal_pool_run(pool, fma_lane, &j, (size_t)c->threads * 4, 1); return;
    case CASE_INT8: bal_pool_run(pool, int8_lane, &j, (size_t)c->threads * 4, 1); return;
    case CASE_BYTES:
        for (int i = 0; i < c->rows; i++)
            plan->kernels->quant_a8(b->x + (size_t)i * plan->k, plan->k, 0,
                                    b->a8 + (size_t)i * c->layout.units);
        bal_pool_run(pool, bytes_lane, &j, j.panels, grain_of(j.panels, c->threads));
        return;
    case CASE_PACKED:
        for (int i = 0; i < c->rows; i++)
            plan->kernels->quant_a16(b->x + (size_t)i * plan->k, plan->k,
                                     b->a + (size_t)i * c->layout.units);
        bal_pool_run(pool, packed_lane, &j, j.panels, grain_of(j.panels, c->threads));
        return;
    case CASE_FLOAT:
        bal_pool_run(pool, float_lane, &j, plan->n,
                     bal_round_up(grain_of(plan->n, c->threads), 12));
    }
}

static bool is_matrix(const bench_case *c)
{
    return c->kind == CASE_PACKED || c->kind == CASE_BYTES || c->kind == CASE_FLOAT;
}

/* Seconds per call. One token: a pass over the whole buffer, else one call. */
static double sample(const bench *b, const bench_case *c, bal_pool *pool, int round)
{
    const bool matrix = is_matrix(c);
    const size_t copies = matrix ? b->buffer_bytes / c->n_bytes : 1;
    const size_t calls = matrix && c->rows == 1 ? copies : 1;
    const double start = now();
    for (size_t i = 0; i < calls; i++)
        call(b, c, pool, b->buffer + (i + (size_t)round) % copies * c->n_bytes);
    return (now() - start) / (double)calls;
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
    add_case(b, CASE_READ, "read", 0, 0, threads);
    add_case(b, CASE_FMA, "fma", 32, 0, threads);
    add_case(b, CASE_INT8, "int8", 8, 0, threads);
}

static bal_status add_matrices(bench *b, int rows, bal_error *err)
{
    const bal_bench_plan *plan = b->plan;
    const bal_kernels *t = plan->kernels;
    const int threads = bal_pool_size(plan->pool);
    const struct {
        const char *name;
        int bits;
        bal_gemm_nt_fn *fn;
    } floats[] = {{"gemm_nt_f32", 32, t->gemm_nt_f32},
                  {"gemm_nt_bf16", 16, t->gemm_nt_bf16},
                  {"gemm_nt_f16", 16, t->gemm_nt_f16}};
    static const char *const packed[] = {"gemm_w2", "gemm_w3", "gemm_w4", "gemm_w6", "gemm_w8"};
    static const char *const bytes[] = {"gemm_a8w2", "gemm_a8w3", "gemm_a8w4", "gemm_a8w6",
                                        "gemm_a8w8"};
    static const int bits[] = {2, 3, 4, 6, 8};
    for (int i = 0; i < 3; i++) {
        bench_case *c = add_case(b, CASE_FLOAT, floats[i].name, floats[i].bits, rows, threads);
        c->gemm_nt = floats[i].fn;
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

/* Memory for the largest case; k, n and rows are bounded by the command line. */
static bal_status allocate(bench *b, bal_error *err)
{
    const bal_bench_plan *plan = b->plan;
    const size_t rows = (size_t)bal_max((size_t)plan->rows, 1);
    const size_t n_pad = bal_round_up(plan->n, BAL_PANEL);
    size_t most = strcmp(plan->isa, "scalar") ? MIN_BUFFER / 2 : MIN_BUFFER_SCALAR / 2;
    for (int i = 0; i < b->n_cases; i++) most = bal_max(most, b->cases[i].n_bytes);
    b->buffer_bytes = bal_round_up(2 * most, READ_CHUNK);
    b->buffer = malloc(b->buffer_bytes);
    b->x = malloc(rows * plan->k * sizeof *b->x);
    b->y = malloc(rows * n_pad * sizeof *b->y);
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

static void report(const bench *b, bench_case *c, bal_bench_row *row)
{
    const bal_bench_plan *plan = b->plan;
    const bool matrix = is_matrix(c);
    *row = (bal_bench_row){.isa = plan->isa, .bits = c->bits, .rows = c->rows};
    row->threads = c->threads;
    snprintf(row->name, sizeof row->name, "%s", c->name);
    qsort(c->seconds, (size_t)plan->repeats, sizeof *c->seconds, ascending);
    const double median = c->seconds[plan->repeats / 2];
    row->slowest = median / c->seconds[plan->repeats - 1];
    row->fastest = median / c->seconds[0];
    int lanes, bytes_wide;
    fma_loop(plan->isa, &lanes);
    int8_loop(plan->isa, &bytes_wide);
    const size_t fma_steps = FMA_STEPS / (size_t)lanes * (size_t)lanes;
    const size_t int8_steps = INT8_STEPS / (size_t)bytes_wide * (size_t)bytes_wide;
    double weights = 0, bytes = 0;
    if (c->kind == CASE_READ) bytes = (double)b->buffer_bytes;
    if (c->kind == CASE_FMA) weights = 12.0 * (double)fma_steps * 4.0 * c->threads;
    if (c->kind == CASE_INT8) weights = 8.0 * (double)int8_steps * 4.0 * c->threads;
    if (matrix) {
        row->n = plan->n, row->k = plan->k;
        row->group = c->kind == CASE_FLOAT ? 0 : plan->group;
        weights = (double)plan->n * (double)plan->k, bytes = (double)c->n_bytes;
    }
    row->weights_per_s = weights / median;
    row->bytes_per_s = bytes / median;
}

/* One token is measured against reading, several against multiplying: floats against fused
 * multiply-adds, packed weights against products of bytes, of which a 16-bit activation takes two
 * for each weight. limits: the rows "read", "fma" and "int8". */
static void set_fraction(bal_bench_row *row, case_kind kind, const bal_bench_row *limits)
{
    if (!row->n) return;
    const bal_bench_row *l = &limits[row->rows == 1 ? 0 : kind == CASE_FLOAT ? 1 : 2];
    const double products = kind == CASE_PACKED ? 2.0 * row->rows : (double)row->rows;
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
    for (int t = 1; t <= most && b->n_cases + 6 <= BAL_BENCH_ROWS; t *= 2) add_limits(b, t);
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
