/* SPDX-License-Identifier: MIT
 * Trellis codes: the levels, the search against all streams of a tiny trellis, distortion on normal
 * numbers against the known figures of scalar quantizers and of the best there can be, runs, error
 * feedback. */
#include "output_error.h"

#include "base/half.h"
#include "base/rng.h"
#include "quant/ldlq.h"
#include "quant/trellis.h"

#include <math.h>

static double normal(bal_rng *rng)
{
    const double u = 1.0 - (double)bal_rng_f32(rng), v = (double)bal_rng_f32(rng);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

static bal_trellis_work *work_create(void)
{
    bal_trellis_work *w = malloc(sizeof *w);
    assert_non_null(w);
    return w;
}

static int rising(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* A normal distribution that fits a byte, whatever the bits; each state's successors stand in
 * different parts of it. */
static void test_levels(void **state)
{
    (void)state;
    float first[BAL_TRELLIS_STATES], sorted[BAL_TRELLIS_STATES];
    for (int bits = 2; bits <= 4; bits++) {
        const bal_trellis t = bal_trellis_of(bits);
        const int codes = 1 << bits;
        double sum = 0.0, squares = 0.0;
        memcpy(sorted, t.level, sizeof sorted);
        qsort(sorted, BAL_TRELLIS_STATES, sizeof *sorted, rising);
        if (bits == 2) memcpy(first, sorted, sizeof first);
        assert_memory_equal(first, sorted, sizeof sorted);
        for (int i = 0; i < BAL_TRELLIS_STATES; i++) {
            const float steps = 32.0f * t.level[i];
            assert_true(steps == rintf(steps) && fabsf(steps) < 127.0f);
            sum += (double)t.level[i];
            squares += (double)t.level[i] * (double)t.level[i];
        }
        assert_true(fabs(sum / BAL_TRELLIS_STATES) < 1e-3);
        assert_true(fabs(squares / BAL_TRELLIS_STATES - 1.0) < 5e-3);
        for (int from = 0; from < BAL_TRELLIS_STATES / codes; from++) {
            float next[16];
            memcpy(next, t.level + from * codes, (size_t)codes * sizeof *next);
            qsort(next, (size_t)codes, sizeof *next, rising);
            for (int c = 0; c < codes; c++) {
                const float *part = sorted + c * (BAL_TRELLIS_STATES / codes);
                assert_true(next[c] >= part[0] && next[c] <= part[BAL_TRELLIS_STATES / codes - 1]);
            }
        }
    }
}

/* ---- All streams of a tiny trellis ------------------------------------------------------------
 */

enum { TINY = 6, TINY_STREAMS = 1 << 2 * TINY };

/* Of the stream with these codes, biting its tail. */
static double stream_error(const bal_trellis *t, const float *x, const float *s,
                           const uint8_t *codes)
{
    double sum = 0.0;
    for (int i = 0; i < TINY; i++)
        sum += pow((double)x[i] - (double)(s[i] * bal_trellis_level(t, codes, 1, TINY, i)), 2);
    return sum;
}

static void tiny_stream(int number, uint8_t codes[TINY])
{
    for (int i = 0; i < TINY; i++) codes[i] = (uint8_t)(number >> 2 * i & 3);
}

/* The least error of all streams, and of those that end with each tail. */
static double exhaust(const bal_trellis *t, const float *x, const float *s, double of_tail[4])
{
    double least = INFINITY;
    for (int i = 0; i < 4; i++) of_tail[i] = INFINITY;
    for (int i = 0; i < TINY_STREAMS; i++) {
        uint8_t codes[TINY];
        tiny_stream(i, codes);
        const double error = stream_error(t, x, s, codes);
        of_tail[codes[TINY - 1]] = fmin(of_tail[codes[TINY - 1]], error);
        least = fmin(least, error);
    }
    return least;
}

/* A state of 4 bits, 2 bits a weight: each search finds the best of the streams it is held to, and
 * a run that bites its tail nearly always the best of all. */
static void test_search_is_exhaustive(void **state)
{
    (void)state;
    float level[16];
    const bal_trellis t = {.state = 4, .bits = 2, .level = level};
    bal_trellis_work *work = work_create();
    bal_rng rng;
    int best = 0;
    double found = 0.0, least = 0.0;
    bal_rng_seed(&rng, 31);
    enum { TURNS = 300 };
    for (int turn = 0; turn < TURNS; turn++) {
        float x[TINY], s[TINY];
        double of_tail[4];
        uint8_t codes[TINY];
        for (int i = 0; i < 16; i++) level[i] = (float)normal(&rng);
        for (int i = 0; i < TINY; i++) {
            x[i] = (float)normal(&rng);
            s[i] = 0.5f + bal_rng_f32(&rng);
        }
        const double all = exhaust(&t, x, s, of_tail);
        for (int tail = 0; tail < 4; tail++) {
            bal_trellis_search(work, &t, x, s, TINY, tail, codes);
            assert_int_equal(codes[TINY - 1], tail);
            const double error = stream_error(&t, x, s, codes);
            if (!(error <= of_tail[tail] * (1.0 + 1e-5)))
                fail_msg("turn %d, tail %d: %g, the least is %g", turn, tail, error, of_tail[tail]);
        }
        bal_trellis_encode(work, &t, x, s, TINY, codes);
        const double error = stream_error(&t, x, s, codes);
        best += error <= all * (1.0 + 1e-5);
        found += error;
        least += all;
    }
    printf("%d of %d runs as good as can be, %.3f of the least error\n", best, TURNS,
           found / least);
    assert_true(best > 0.6 * TURNS && found < 1.15 * least);
    free(work);
}

/* ---- Distortion -------------------------------------------------------------------------------
 */

/* Squared error of normal numbers of one variance. Scalar quantizers of as many levels leave
 * 0.1175, 0.0345 and 0.0095 (Lloyd-Max); no code of so many bits can leave less than 4^-bits
 * (Shannon). */
static void test_distortion(void **state)
{
    (void)state;
    static const double most[] = {0.0755, 0.0200, 0.0055};
    enum { RUNS = 60 };
    bal_trellis_work *work = work_create();
    bal_rng rng;
    bal_rng_seed(&rng, 32);
    for (int bits = 2; bits <= 4; bits++) {
        const bal_trellis t = bal_trellis_of(bits);
        double sum = 0.0, power = 0.0;
        for (int run = 0; run < RUNS; run++) {
            float x[BAL_TRELLIS_RUN], s[BAL_TRELLIS_RUN];
            uint8_t codes[BAL_TRELLIS_RUN];
            for (int i = 0; i < BAL_TRELLIS_RUN; i++) {
                s[i] = 1.0f;
                x[i] = (float)normal(&rng);
            }
            bal_trellis_encode(work, &t, x, s, BAL_TRELLIS_RUN, codes);
            for (int i = 0; i < BAL_TRELLIS_RUN; i++) {
                assert_true(codes[i] < 1 << bits);
                const float got = bal_trellis_level(&t, codes, 1, BAL_TRELLIS_RUN, i);
                sum += pow((double)x[i] - (double)got, 2);
                power += (double)x[i] * (double)x[i];
            }
        }
        printf("%d bits: %.4f\n", bits, sum / power);
        assert_true(sum / power < most[bits - 2]);
        assert_true(sum / power > pow(4.0, -bits));
    }
    free(work);
}

/* ---- Matrices ---------------------------------------------------------------------------------
 */

static void test_runs(void **state)
{
    (void)state;
    for (size_t n = 6; n < 1200; n++) {
        const size_t runs = bal_trellis_runs(n);
        size_t at = 0;
        for (size_t i = 0; i < runs; i++) {
            const bal_range r = bal_trellis_run(n, i);
            assert_int_equal(r.begin, at);
            assert_true(r.end - r.begin <= BAL_TRELLIS_MOST);
            assert_true(runs == 1 || r.end - r.begin >= BAL_TRELLIS_RUN);
            at = r.end;
        }
        assert_int_equal(at, n);
    }
}

enum { N = 385, K = 40, GROUP = 16 }; /* runs of 128, 128 and 129 */

static void make(bal_quantized_linear *q, int bits, int n, int k, int group)
{
    bal_error err = {0};
    const bal_recipe r = {.bits = bits, .group = group, .grid = BAL_GRID_TRELLIS};
    ASSERT_OK(bal_quantized_linear_of(q, &r, 0, n, k, &err));
}

/* Rows, read one by one, are what each column was encoded to; any number of threads gives the same;
 * a group of zeros stays nearly that. */
static void test_round(void **state)
{
    (void)state;
    static float w[N * K];
    bal_trellis_work *work = work_create();
    bal_quantized_linear q[2];
    bal_error err = {0};
    bal_rng rng;
    bal_rng_seed(&rng, 33);
    for (int i = 0; i < N * K; i++) w[i] = (float)normal(&rng) * (float)(1 + i % 7);
    for (int c = 0; c < GROUP; c++) w[5 * K + c] = 0.0f;
    for (int i = 0; i < 2; i++) {
        bal_pool *pool;
        ASSERT_OK(bal_pool_create(&pool, i + 1, &err));
        make(&q[i], 3, N, K, GROUP);
        bal_trellis_scales(pool, w, &q[i]);
        ASSERT_OK(bal_trellis_round(pool, w, &q[i], &err));
        bal_pool_destroy(pool);
    }
    assert_memory_equal(q[0].codes, q[1].codes, N * K);
    assert_memory_equal(q[0].scales, q[1].scales, N * 3 * sizeof *q[0].scales);
    double sum = 0.0, power = 0.0;
    for (size_t i = 0; i < bal_trellis_runs(N); i++) {
        const bal_range run = bal_trellis_run(N, i);
        float x[BAL_TRELLIS_MOST], value[BAL_TRELLIS_MOST], row[K];
        for (size_t r = run.begin; r < run.end; r++) x[r - run.begin] = w[r * K + 7];
        bal_trellis_column(work, &q[1], run, 7, x, value);
        for (size_t r = run.begin; r < run.end; r++) {
            bal_quantized_row(&q[0], (int)r, row);
            assert_true(row[7] == value[r - run.begin]);
            for (int c = 0; c < K; c++)
                sum += pow((double)row[c] - (double)w[r * K + (size_t)c], 2);
            for (int c = 0; c < K; c++) power += pow((double)w[r * K + (size_t)c], 2);
            for (int c = 0; r == 5 && c < GROUP; c++) assert_true(fabsf(row[c]) < 1e-6f);
        }
    }
    printf("3 bits, groups of 16, rows of several sizes: %.4f\n", sum / power);
    assert_true(sum / power < 0.025);
    for (int i = 0; i < 2; i++) bal_quantized_linear_free(&q[i]);
    free(work);
}

/* Numbers beyond what an f16 scale can say saturate and stay finite; too few outputs are refused.
 */
static void test_extremes(void **state)
{
    (void)state;
    float w[8 * 4], row[4];
    bal_pool *pool;
    bal_error err = {0};
    bal_quantized_linear q;
    ASSERT_OK(bal_pool_create(&pool, 1, &err));
    for (int i = 0; i < 32; i++) w[i] = i == 9 ? 3e38f : i == 10 ? -3e38f : 0.01f * (float)i;
    make(&q, 2, 8, 4, 0);
    bal_trellis_scales(pool, w, &q);
    ASSERT_OK(bal_trellis_round(pool, w, &q, &err));
    for (int r = 0; r < 8; r++) {
        bal_quantized_row(&q, r, row);
        for (int c = 0; c < 4; c++) assert_true(isfinite(row[c]));
    }
    bal_quantized_linear_free(&q);
    const bal_recipe r = {.bits = 2, .grid = BAL_GRID_TRELLIS};
    ASSERT_FAILS(BAL_E_ARG, "grid=trellis needs 12 bits",
                 bal_quantized_linear_of(&q, &r, 0, 5, 4, &err));
    bal_pool_destroy(pool);
}

/* ---- Error feedback ---------------------------------------------------------------------------
 */

enum { FED_N = 24, FED_K = 160, ROWS = 320 }; /* more columns than a block of feedback */

typedef struct bench {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec e;
    float x[ROWS * FED_K], w[FED_N * FED_K];
    bal_moments m;
    bal_factor f;
    float *h;
} bench;

/* Inputs of which each looks like the one before it. */
static void bench_open(bench *b, unsigned what)
{
    bal_error err = {0};
    bal_rng rng;
    static float work[ROWS * FED_K];
    memset(b, 0, sizeof *b);
    bal_rng_seed(&rng, 34);
    for (int i = 0; i < ROWS * FED_K; i++)
        b->x[i] = (float)normal(&rng) + (i % FED_K ? 0.8f * b->x[i - 1] : 0.0f);
    for (int i = 0; i < FED_N * FED_K; i++) b->w[i] = (float)normal(&rng);
    ASSERT_OK(bal_pool_create(&b->pool, 2, &err));
    bal_kernels_init(&b->kernels, bal_cpu_isa());
    ASSERT_OK(bal_exec_create(&b->e, b->pool, &b->kernels, FED_K, &err));
    ASSERT_OK(bal_moments_create(&b->m, &b->e, FED_K, false, 0, &err));
    bal_moments_add(&b->m, &b->e, b->x, NULL, NULL, ROWS, work);
    ASSERT_OK(bal_factor_create(&b->f, &b->e, &b->m, 0.01, what, &err));
    ASSERT_OK(bal_damped_matrix(&b->h, &b->m, 0.01, &err));
}

static void bench_close(bench *b)
{
    free(b->h);
    bal_factor_destroy(&b->f);
    bal_moments_destroy(&b->m);
    bal_exec_destroy(&b->e);
    bal_pool_destroy(b->pool);
}

/* The codes are those of the recurrence written down column by column in double. */
static void assert_recurrence(const bench *b, bal_quantized_linear *q)
{
    static double left[FED_N][FED_K];
    bal_trellis_work *work = work_create();
    bal_quantized_linear again = *q;
    again.codes = malloc(FED_N * FED_K);
    int same = 0;
    for (int i = 0; i < FED_K; i++) {
        const int c = b->f.order[i];
        float x[FED_N], value[FED_N];
        for (int r = 0; r < FED_N; r++) {
            double t = (double)b->w[r * FED_K + c];
            for (int e = 0; e < i; e++)
                t += left[r][e] * (double)*bal_panels_element(&b->f.feed, (size_t)e, (size_t)i);
            x[r] = (float)t;
        }
        bal_trellis_column(work, &again, (bal_range){0, FED_N}, (size_t)c, x, value);
        for (int r = 0; r < FED_N; r++) {
            left[r][i] = (double)b->w[r * FED_K + c] - (double)value[r];
            same += again.codes[r * FED_K + c] == q->codes[r * FED_K + c];
        }
    }
    printf("%d of %d codes\n", same, FED_N * FED_K);
    assert_true(same > 0.97 * FED_N * FED_K);
    free(again.codes);
    free(work);
}

/* In any order it lowers the output's error, below what ranges and tables of as many bits leave. */
static void test_feedback(void **state)
{
    (void)state;
    for (int order = 0; order < 2; order++) {
        bench b;
        bal_error err = {0};
        bench_open(&b, order ? BAL_FACTOR_BY_SIZE : 0);
        for (int bits = 2; bits <= 3; bits++) {
            bal_quantized_linear q;
            make(&q, bits, FED_N, FED_K, 0);
            bal_trellis_scales(b.pool, b.w, &q);
            ASSERT_OK(bal_trellis_round(b.pool, b.w, &q, &err));
            const double rounded = output_error(&q, b.w, b.h);
            ASSERT_OK(bal_ldlq(&b.e, &b.f, NULL, b.w, &q, &err));
            const double fed = output_error(&q, b.w, b.h);
            assert_recurrence(&b, &q);
            bal_quantized_linear_free(&q);
            const bal_quantizer z = {.bits = bits, .group = 32, .grid = BAL_GRID_TABLE};
            const bal_packed_format f = {BAL_PACKED_TABLE, bits, 32};
            ASSERT_OK(bal_quantized_linear_make(&q, f, FED_N, FED_K, &err));
            bal_quantize_matrix(b.pool, &z, b.w, &q);
            ASSERT_OK(bal_ldlq(&b.e, &b.f, NULL, b.w, &q, &err));
            const double table = output_error(&q, b.w, b.h);
            bal_quantized_linear_free(&q);
            printf("%d bits: %.4g rounded, %.4g with feedback, tables %.4g\n", bits, rounded, fed,
                   table);
            assert_true(fed < 0.6 * rounded && fed < 0.9 * table);
        }
        bench_close(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),     cmocka_unit_test(test_search_is_exhaustive),
        cmocka_unit_test(test_distortion), cmocka_unit_test(test_runs),
        cmocka_unit_test(test_round),      cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_feedback),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
