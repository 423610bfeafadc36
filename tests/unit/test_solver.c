/* SPDX-License-Identifier: MIT
 * The algebra of the solvers on small matrices: moments against plain sums, error feedback against
 * a textbook GPTQ's codes, descent that never climbs, searched ranges, shifted targets that solve
 * their normal equations; singular, dead, infinite and huge input. */
#include "output_error.h"

#include "base/half.h"
#include "base/rng.h"
#include "format/safetensors.h"
#include "quant/grid.h"
#include "quant/ldlq.h"

#include <math.h>

enum { K = 96, N = 24, ROWS = 160, GROUP = 32 };

typedef struct bench {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec e;
    bal_tensor_set set;
    float x[ROWS * K], w[N * K];
} bench;

static void bench_open(bench *b, int threads)
{
    bal_error err = {0};
    memset(b, 0, sizeof *b);
    ASSERT_OK(bal_pool_create(&b->pool, threads, &err));
    bal_kernels_init(&b->kernels, bal_cpu_isa());
    ASSERT_OK(bal_exec_create(&b->e, b->pool, &b->kernels, K, &err));
    ASSERT_OK(
        bal_tensor_set_open(&b->set, source_path("tests/golden/gptq/case.safetensors"), &err));
    memcpy(b->x, bal_tensor_find(&b->set, "x")->data, sizeof b->x);
    memcpy(b->w, bal_tensor_find(&b->set, "w")->data, sizeof b->w);
}

static void bench_close(bench *b)
{
    bal_tensor_set_close(&b->set);
    bal_exec_destroy(&b->e);
    bal_pool_destroy(b->pool);
}

/* H of rows of x, each weighing 1 / ROWS, in two pieces as samples come. */
static void moments_of(bench *b, bal_moments *m, const float *x)
{
    bal_error err = {0};
    static float u[ROWS * K], work[ROWS * K];
    ASSERT_OK(bal_moments_create(m, &b->e, K, false, 0, &err));
    for (int i = 0; i < ROWS * K; i++) u[i] = (float)(sqrt(1.0 / ROWS) * (double)x[i]);
    bal_moments_add(m, &b->e, u, NULL, NULL, 100, work);
    bal_moments_add(m, &b->e, u + 100 * K, NULL, NULL, ROWS - 100, work);
}

static void golden_grid(const bench *b, int bits, bal_quantized_linear *q)
{
    bal_error err = {0};
    char name[32];
    ASSERT_OK(bal_quantized_linear_create(q, N, K, bits, GROUP, &err));
    snprintf(name, sizeof name, "b%d.scales", bits);
    memcpy(q->scales, bal_tensor_find(&b->set, name)->data, N * K / GROUP * sizeof *q->scales);
    snprintf(name, sizeof name, "b%d.zeros", bits);
    memcpy(q->zeros, bal_tensor_find(&b->set, name)->data, N * K / GROUP);
}

/* ---- Moments ----------------------------------------------------------------------------------
 */

static void test_moments(void **state)
{
    (void)state;
    bal_error err = {0};
    enum { OUT = 40 };
    static float d[ROWS * K], r[ROWS * OUT], work[ROWS * K];
    bench b;
    bal_moments m;
    bal_rng rng;
    bench_open(&b, 2);
    bal_rng_seed(&rng, 1);
    for (int i = 0; i < ROWS * K; i++) d[i] = bal_rng_f32(&rng) - 0.5f;
    for (int i = 0; i < ROWS * OUT; i++) r[i] = bal_rng_f32(&rng) - 0.5f;
    ASSERT_OK(bal_moments_create(&m, &b.e, K, true, OUT, &err));
    bal_moments_add(&m, &b.e, b.x, d, r, ROWS, work);
    bal_moments_add(&m, &b.e, b.x, d, r, 0, work);
    for (int i = 0; i < K; i++)
        for (int c = 0; c < K; c++) {
            double h = 0.0, cross = 0.0, residual = 0.0;
            for (int t = 0; t < ROWS; t++) {
                const double u = b.x[t * K + c];
                h += (double)b.x[t * K + i] * u;
                cross += (double)d[t * K + i] * u;
                if (i < OUT) residual += (double)r[t * OUT + i] * u;
            }
            assert_true(fabs(bal_moments_at(&m, i, c) - h) < 1e-5 * (1.0 + fabs(h)));
            assert_true(fabs(m.cross[i * K + c] - cross) < 1e-4);
            if (i < OUT) assert_true(fabs(m.residual[i * K + c] - residual) < 1e-4);
        }
    bal_moments_destroy(&m);
    bench_close(&b);
}

/* ---- Error feedback ---------------------------------------------------------------------------
 */

static void check_codes(bench *b, int bits, bool by_size)
{
    bal_error err = {0};
    bal_moments m;
    bal_factor f;
    bal_quantized_linear q;
    char name[32];
    snprintf(name, sizeof name, "b%d.%s.codes", bits, by_size ? "diag" : "none");
    const uint8_t *want = bal_tensor_find(&b->set, name)->data;
    moments_of(b, &m, b->x);
    ASSERT_OK(bal_factor_create(&f, &b->e, &m, 0.01, by_size ? BAL_FACTOR_BY_SIZE : 0, &err));
    assert_true(f.damp == 0.01);
    golden_grid(b, bits, &q);
    ASSERT_OK(bal_ldlq(&b->e, &f, NULL, b->w, &q, &err));
    for (int i = 0; i < N * K; i++)
        if (q.codes[i] != want[i])
            fail_msg("%d bits, order %s, row %d column %d: code %d, GPTQ has %d", bits, name, i / K,
                     i % K, q.codes[i], want[i]);
    bal_quantized_linear_free(&q);
    bal_factor_destroy(&f);
    bal_moments_destroy(&m);
}

static void test_codes_are_gptq(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 3; threads += 2) {
        bench b;
        bench_open(&b, threads);
        for (int bits = 2; bits <= 4; bits++) {
            check_codes(&b, bits, false);
            check_codes(&b, bits, true);
        }
        bench_close(&b);
    }
}

/* The error that is left is sum over positions of pivot times squared feedback error; and
 * 1 / [H^-1]_jj of the last position in the order is its pivot. */
static void test_factor(void **state)
{
    (void)state;
    bal_error err = {0};
    bench b;
    bal_moments m;
    bal_factor f;
    float *h;
    bench_open(&b, 1);
    moments_of(&b, &m, b.x);
    ASSERT_OK(bal_factor_create(&f, &b.e, &m, 0.01, BAL_FACTOR_BY_SIZE | BAL_FACTOR_INVERSE, &err));
    ASSERT_OK(bal_damped_matrix(&h, &m, 0.01, &err));
    for (int i = 0; i < K; i++)
        for (int j = 0; j < K; j++) {
            double sum = 0.0; /* (M D M^T)_ij over positions */
            for (int t = 0; t < K; t++) {
                const double a = t == i ? 1.0
                                 : t > i
                                     ? (double)*bal_panels_element(&f.feed, (size_t)i, (size_t)t)
                                     : 0.0;
                const double c = t == j ? 1.0
                                 : t > j
                                     ? (double)*bal_panels_element(&f.feed, (size_t)j, (size_t)t)
                                     : 0.0;
                sum += a * f.pivot[t] * c;
            }
            const double want = (double)h[f.order[i] * K + f.order[j]];
            assert_true(fabs(sum - want) < 1e-5 * (double)h[f.order[0] * K + f.order[0]]);
        }
    assert_true(fabs(f.inverse[f.order[0]] / f.pivot[0] - 1.0) < 1e-9);
    for (int i = 0; i < K; i++) assert_true(f.inverse[i] <= (double)h[i * K + i] * (1.0 + 1e-6));
    free(h);
    bal_factor_destroy(&f);
    bal_moments_destroy(&m);
    bench_close(&b);
}

/* ---- Descent ----------------------------------------------------------------------------------
 */

static void check_descent(bench *b, int bits, bool refit, double least_gain)
{
    bal_error err = {0};
    bal_moments m;
    bal_factor f;
    bal_quantized_linear q;
    float *h;
    moments_of(b, &m, b->x);
    ASSERT_OK(
        bal_factor_create(&f, &b->e, &m, 0.01, BAL_FACTOR_BY_SIZE | BAL_FACTOR_INVERSE, &err));
    ASSERT_OK(bal_damped_matrix(&h, &m, 0.01, &err));
    golden_grid(b, bits, &q);
    ASSERT_OK(bal_ldlq(&b->e, &f, NULL, b->w, &q, &err));
    const double first = output_error(&q, b->w, h);
    double before = first;
    for (int i = 0; i < 6; i++) {
        ASSERT_OK(bal_polish(&b->e, h, b->w, 1, refit, &q, &err));
        const double after = output_error(&q, b->w, h);
        if (after > before * (1.0 + 1e-12))
            fail_msg("sweep %d: %.17g from %.17g", i, after, before);
        before = after;
    }
    if (before > first * (1.0 - least_gain))
        fail_msg("%d bits: descent from %g to %g only", bits, first, before);
    free(h);
    bal_quantized_linear_free(&q);
    bal_factor_destroy(&f);
    bal_moments_destroy(&m);
}

static void test_descent_never_climbs(void **state)
{
    (void)state;
    bench b;
    bench_open(&b, 2);
    for (int bits = 2; bits <= 4; bits++) {
        check_descent(&b, bits, false, 0.002);
        check_descent(&b, bits, true, 0.02);
    }
    bench_close(&b);
}

/* Behind narrow ranges rows fall short of their targets; with the gain they do not. */
static void test_gain(void **state)
{
    (void)state;
    bal_error err = {0};
    bench b;
    bal_moments m;
    bal_quantized_linear q;
    float *h;
    double d[K], short_of = 0.0;
    bal_panels form;
    bench_open(&b, 2);
    moments_of(&b, &m, b.x);
    ASSERT_OK(bal_form_create(&form, &b.e, &m, 0.01, &err));
    ASSERT_OK(bal_damped_matrix(&h, &m, 0.01, &err));
    ASSERT_OK(bal_quantized_linear_create(&q, N, K, 2, GROUP, &err));
    for (int i = 0; i < K; i++) d[i] = (double)h[i * K + i];
    bal_grid_search(b.pool, &(bal_quantizer){.bits = 2, .group = GROUP}, b.w, d, &q);
    memset(b.w, 0, K * sizeof *b.w); /* a row without output stays */
    const uint16_t kept = q.scales[0];
    for (int pass = 0; pass < 2; pass++) {
        for (int r = 1; r < N; r++) {
            float row[K];
            double got = 0.0, want = 0.0;
            bal_quantized_row(&q, r, row);
            for (int i = 0; i < K; i++)
                for (int c = 0; c < K; c++) {
                    got += (double)row[i] * (double)h[i * K + c] * (double)b.w[r * K + c];
                    want += (double)b.w[r * K + i] * (double)h[i * K + c] * (double)b.w[r * K + c];
                }
            if (pass == 0) short_of += 1.0 - got / want;
            if (pass == 1) assert_true(fabs(got / want - 1.0) < 1e-3);
        }
        ASSERT_OK(bal_unit_gain(&b.e, &form, b.w, &q, &err));
    }
    bal_panels_destroy(&form);
    assert_true(short_of / (N - 1) > 0.02);
    assert_int_equal(q.scales[0], kept);
    free(h);
    bal_quantized_linear_free(&q);
    bal_moments_destroy(&m);
    bench_close(&b);
}

/* ---- Ranges -----------------------------------------------------------------------------------
 */

static double weighed(const float *w, const double *d, const bal_quantized_linear *q)
{
    double sum = 0.0;
    for (int r = 0; r < q->n; r++) {
        float row[K];
        bal_quantized_row(q, r, row);
        for (int c = 0; c < K; c++)
            sum += d[c] * ((double)w[r * K + c] - (double)row[c]) *
                   ((double)w[r * K + c] - (double)row[c]);
    }
    return sum;
}

static void test_ranges(void **state)
{
    (void)state;
    bal_error err = {0};
    bench b;
    bal_quantized_linear q, plain;
    double d[K];
    bench_open(&b, 2);
    for (int i = 0; i < K; i++) d[i] = 0.1 + i % 7;
    for (int grid = BAL_GRID_ASYM; grid <= BAL_GRID_SYM; grid++)
        for (int bits = 2; bits <= 8; bits += bits < 4 ? 1 : 4) {
            const bal_quantizer z = {.bits = bits, .group = GROUP, .grid = (bal_grid)grid};
            ASSERT_OK(bal_quantized_linear_create(&q, N, K, bits, GROUP, &err));
            ASSERT_OK(bal_quantized_linear_create(&plain, N, K, bits, GROUP, &err));
            bal_quantize_matrix(b.pool, &z, b.w, &plain);
            bal_grid_search(b.pool, &z, b.w, d, &q);
            const double was = weighed(b.w, d, &plain), is = weighed(b.w, d, &q);
            if (is > was * (bits <= 3 ? 0.9 : 1.0)) fail_msg("%d bits: %g from %g", bits, is, was);
            for (int i = 0; grid == BAL_GRID_SYM && i < N * K / GROUP; i++)
                assert_int_equal(q.zeros[i], 1 << (bits - 1));
            bal_quantized_linear_free(&q);
            bal_quantized_linear_free(&plain);
        }
    bench_close(&b);
}

static void test_ranges_of_odd_groups(void **state)
{
    (void)state;
    bal_error err = {0};
    bench b;
    bal_quantized_linear q;
    const bal_quantizer z = {.bits = 2, .group = GROUP, .range = BAL_EXTENT_ZERO};
    double d[K];
    bench_open(&b, 1);
    for (int i = 0; i < K; i++)
        d[i] = i < 2 * GROUP ? 1.0 : 0.0; /* the last group weighs nothing */
    for (int i = 0; i < K; i++) {
        b.w[i] = 0.25f;    /* constant */
        b.w[K + i] = 0.0f; /* zero */
        b.w[2 * K + i] = i == 3 ? 1e6f : 0.01f * (float)(i % 5);
        b.w[3 * K + i] = 1.0f + 0.01f * (float)(i % 5); /* far from 0 */
    }
    ASSERT_OK(bal_quantized_linear_create(&q, N, K, 2, GROUP, &err));
    bal_grid_search(b.pool, &z, b.w, d, &q);
    for (int r = 0; r < N; r++) {
        float row[K];
        bal_quantized_row(&q, r, row);
        for (int c = 0; c < K; c++) {
            assert_true(isfinite(row[c]));
            assert_true(q.codes[r * K + c] < 4);
        }
        for (int c = 0; c < K; c++) {
            if (r == 0) assert_true(fabsf(row[c] - 0.25f) < 0.001f);
            if (r == 1) assert_true(row[c] == 0.0f);
            if (r == 3) assert_true(fabsf(row[c] - 1.02f) <= 0.025f);
        }
        /* a scale is at most 65504, and there are 3 steps */
        if (r == 2) assert_true(row[3] == 3 * 65504.0f && row[4] == 0.0f);
    }
    bal_quantized_linear_free(&q);
    bench_close(&b);
}

/* ---- Shift ------------------------------------------------------------------------------------
 */

/* T = W + W inputs + residual must satisfy (T - W) A = part (W C + E). */
static void test_shift(void **state)
{
    (void)state;
    bal_error err = {0};
    static float d[ROWS * K], r[ROWS * N], work[ROWS * K];
    bench b;
    bal_moments m;
    float *inputs, *residual;
    float *a;
    bal_rng rng;
    bench_open(&b, 2);
    bal_rng_seed(&rng, 2);
    for (int i = 0; i < ROWS * K; i++) d[i] = b.x[i] * 0.1f + bal_rng_f32(&rng) - 0.5f;
    for (int i = 0; i < ROWS * N; i++) r[i] = bal_rng_f32(&rng) - 0.5f;
    ASSERT_OK(bal_moments_create(&m, &b.e, K, true, N, &err));
    bal_moments_add(&m, &b.e, b.x, d, r, ROWS, work);
    static double cross[K * K], kept[N * K];
    memcpy(cross, m.cross, sizeof cross);
    memcpy(kept, m.residual, sizeof kept);
    ASSERT_OK(bal_shift_create(&inputs, &residual, &b.e, &m, 0.1, 0.25, &err));
    assert_true(!m.cross && !m.residual);
    ASSERT_OK(bal_damped_matrix(&a, &m, 0.1, &err));
    double worst = 0.0, size = 0.0;
    for (int o = 0; o < N; o++) {
        double t[K];
        for (int c = 0; c < K; c++) {
            t[c] = residual[o * K + c];
            for (int i = 0; i < K; i++) t[c] += (double)b.w[o * K + i] * (double)inputs[i * K + c];
        }
        for (int c = 0; c < K; c++) {
            double left = 0.0, right = 0.25 * kept[o * K + c];
            for (int i = 0; i < K; i++) {
                left += t[i] * (double)a[i * K + c];
                right += 0.25 * (double)b.w[o * K + i] * cross[i * K + c];
            }
            worst = fmax(worst, fabs(left - right));
            size = fmax(size, fabs(right));
        }
    }
    assert_true(size > 1.0 && worst < 1e-4 * size);
    free(inputs);
    free(residual);
    free(a);
    bal_moments_destroy(&m);
    bench_close(&b);
}

/* ---- Bad input --------------------------------------------------------------------------------
 */

static void test_singular_and_dead(void **state)
{
    (void)state;
    bal_error err = {0};
    static float x[ROWS * K];
    bench b;
    bal_moments m;
    bal_factor f;
    bal_quantized_linear q;
    bench_open(&b, 1);
    for (int i = 0; i < ROWS * K; i++) x[i] = b.x[i / K * K]; /* rank one */
    moments_of(&b, &m, x);
    ASSERT_OK(
        bal_factor_create(&f, &b.e, &m, 0.001, BAL_FACTOR_BY_SIZE | BAL_FACTOR_INVERSE, &err));
    golden_grid(&b, 3, &q);
    ASSERT_OK(bal_ldlq(&b.e, &f, NULL, b.w, &q, &err));
    for (int i = 0; i < K; i++) assert_true(isfinite(f.inverse[i]) && f.inverse[i] > 0.0);
    bal_factor_destroy(&f);
    bal_moments_destroy(&m);

    memset(x, 0, sizeof x); /* nothing ever came in: rounding */
    moments_of(&b, &m, x);
    ASSERT_OK(bal_factor_create(&f, &b.e, &m, 0.01, BAL_FACTOR_BY_SIZE | BAL_FACTOR_INVERSE, &err));
    ASSERT_OK(bal_ldlq(&b.e, &f, NULL, b.w, &q, &err));
    bal_quantized_linear plain;
    golden_grid(&b, 3, &plain);
    bal_grid_round(b.pool, b.w, &plain);
    assert_memory_equal(q.codes, plain.codes, N * K);
    bal_quantized_linear_free(&plain);
    bal_factor_destroy(&f);
    bal_moments_destroy(&m);
    bal_quantized_linear_free(&q);
    bench_close(&b);
}

static void test_not_finite(void **state)
{
    (void)state;
    bal_error err = {0};
    bench b;
    bal_moments m;
    bal_factor f;
    float *inputs, *residual;
    bench_open(&b, 1);
    moments_of(&b, &m, b.x);
    m.tri[0] = NAN;
    ASSERT_FAILS(
        BAL_E_NUMERIC, "not finite",
        bal_factor_create(&f, &b.e, &m, 0.01, BAL_FACTOR_BY_SIZE | BAL_FACTOR_INVERSE, &err));
    m.tri[0] = INFINITY;
    ASSERT_FAILS(
        BAL_E_NUMERIC, "not finite",
        bal_factor_create(&f, &b.e, &m, 0.01, BAL_FACTOR_BY_SIZE | BAL_FACTOR_INVERSE, &err));
    bal_factor_destroy(&f);
    m.tri[0] = 1.0;
    m.tri[2] = -50.0 * bal_moments_mean(&m); /* no second moment is negative */
    ASSERT_FAILS(
        BAL_E_NUMERIC, "positive definite",
        bal_factor_create(&f, &b.e, &m, 0.01, BAL_FACTOR_BY_SIZE | BAL_FACTOR_INVERSE, &err));
    ASSERT_FAILS(BAL_E_NUMERIC, "ridge of 0.1",
                 bal_shift_create(&inputs, &residual, &b.e, &m, 0.1, 1.0, &err));
    bal_moments_destroy(&m);
    bench_close(&b);
}

/* An input of 1e6 in one channel: the rest is still solved. */
static void test_outlier(void **state)
{
    (void)state;
    bal_error err = {0};
    static float x[ROWS * K];
    bench b;
    bal_moments m;
    bal_factor f;
    bal_quantized_linear q;
    bench_open(&b, 1);
    memcpy(x, b.x, sizeof x);
    x[5 * K + 11] = 1e6f;
    moments_of(&b, &m, x);
    ASSERT_OK(bal_factor_create(&f, &b.e, &m, 0.01, BAL_FACTOR_BY_SIZE | BAL_FACTOR_INVERSE, &err));
    assert_int_equal(f.order[0], 11);
    golden_grid(&b, 3, &q);
    ASSERT_OK(bal_ldlq(&b.e, &f, NULL, b.w, &q, &err));
    for (int i = 0; i < K; i++) assert_true(isfinite(f.inverse[i]) && f.inverse[i] > 0.0);
    /* what the damping, a part of the outlier's square, leaves to the other columns is rounding */
    for (int r = 0; r < N; r++) {
        float row[K];
        bal_quantized_row(&q, r, row);
        for (int c = 0; c < K; c++) {
            const float s = bal_f16_to_f32(q.scales[r * (K / GROUP) + c / GROUP]);
            const int top = q.codes[r * K + c] == 0 || q.codes[r * K + c] == 7;
            assert_true(fabsf(row[c] - b.w[r * K + c]) <= (top ? 1.0f : 0.51f) * s);
        }
    }
    bal_quantized_linear_free(&q);
    bal_factor_destroy(&f);
    bal_moments_destroy(&m);
    bench_close(&b);
}

/* ---- Column by column -------------------------------------------------------------------------
 */

enum { WIDE = 200, FEW = 20, SEEN = 300 }; /* more columns than a block of error feedback has */

/* (H + damp mean(diag H) I)^-1 in the order of columns, by Gauss and Jordan; h is used up. */
static void invert(double h[WIDE][WIDE], double inverse[WIDE][WIDE])
{
    for (int i = 0; i < WIDE; i++)
        for (int c = 0; c < WIDE; c++) inverse[i][c] = i == c;
    for (int p = 0; p < WIDE; p++) {
        const double pivot = h[p][p];
        for (int c = 0; c < WIDE; c++) h[p][c] /= pivot, inverse[p][c] /= pivot;
        for (int i = 0; i < WIDE; i++) {
            const double times = i == p ? 0.0 : h[i][p];
            for (int c = 0; c < WIDE; c++) {
                h[i][c] -= times * h[p][c];
                inverse[i][c] -= times * inverse[p][c];
            }
        }
    }
}

/* a becomes U, upper triangular, with U^T U = a. */
static void upper_root(double a[WIDE][WIDE])
{
    for (int i = 0; i < WIDE; i++) {
        for (int p = 0; p < i; p++) a[i][i] -= a[p][i] * a[p][i];
        a[i][i] = sqrt(a[i][i]);
        for (int c = i + 1; c < WIDE; c++) {
            for (int p = 0; p < i; p++) a[i][c] -= a[p][i] * a[p][c];
            a[i][c] /= a[i][i];
        }
        for (int c = 0; c < i; c++) a[i][c] = 0.0;
    }
}

/* P = part triu(C U^T, 1) U, as published. */
static void textbook_p(double c[WIDE][WIDE], double u[WIDE][WIDE], double part,
                       double p[WIDE][WIDE])
{
    for (int i = 0; i < WIDE; i++) {
        double y[WIDE] = {0};
        for (int k = i + 1; k < WIDE; k++)
            for (int x = k; x < WIDE; x++) y[k] += c[i][x] * u[k][x];
        for (int x = 0; x < WIDE; x++) {
            p[i][x] = 0.0;
            for (int k = 0; k <= x; k++) p[i][x] += part * y[k] * u[k][x];
        }
    }
}

/* One row as GPTAQ's program goes through it: w_j += -e U_ij + w_i P_ij. */
static void textbook_row(const bal_quantized_linear *q, int r, const int *order,
                         double u[WIDE][WIDE], double p[WIDE][WIDE], const float *target,
                         uint8_t *codes)
{
    double w[WIDE];
    for (int i = 0; i < WIDE; i++) w[i] = target[order[i]];
    for (int i = 0; i < WIDE; i++) {
        const bal_code_grid grid = bal_quantized_grid(q, (size_t)r, (size_t)(order[i] / GROUP));
        const double now = w[i];
        const int code = bal_code_nearest(&grid, (float)now);
        const double e = (now - (double)bal_code_value(&grid, code)) / u[i][i];
        codes[order[i]] = (uint8_t)code;
        for (int c = i + 1; c < WIDE; c++) w[c] += now * p[i][c] - e * u[i][c];
    }
}

typedef struct asymmetric {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec e;
    bal_moments m;
    bal_quantized_linear q;
    float u[SEEN * WIDE], d[SEEN * WIDE], w[FEW * WIDE], work[SEEN * WIDE];
} asymmetric;

/* Inputs of which half say much the same, and what they lack: a little of that and noise. */
static void asymmetric_open(asymmetric *a, int threads)
{
    bal_error err = {0};
    bal_rng rng;
    ASSERT_OK(bal_pool_create(&a->pool, threads, &err));
    bal_kernels_init(&a->kernels, bal_cpu_isa());
    ASSERT_OK(bal_exec_create(&a->e, a->pool, &a->kernels, WIDE, &err));
    bal_rng_seed(&rng, 7);
    for (int t = 0; t < SEEN; t++) {
        const float common = 2.0f * bal_rng_f32(&rng) - 1.0f;
        for (int c = 0; c < WIDE; c++) {
            const float own = bal_rng_f32(&rng) - 0.5f;
            a->u[t * WIDE + c] = (c % 2 ? common : 0.0f) + own;
            a->d[t * WIDE + c] = 0.2f * common + 0.1f * own + 0.2f * (bal_rng_f32(&rng) - 0.5f);
        }
    }
    for (int i = 0; i < FEW * WIDE; i++) a->w[i] = bal_rng_f32(&rng) - 0.5f;
    ASSERT_OK(bal_moments_create(&a->m, &a->e, WIDE, true, 0, &err));
    bal_moments_add(&a->m, &a->e, a->u, a->d, NULL, SEEN, a->work);
    ASSERT_OK(bal_quantized_linear_create(&a->q, FEW, WIDE, 3, GROUP, &err));
    const bal_quantizer z = {.bits = 3, .group = GROUP};
    bal_quantize_matrix(a->pool, &z, a->w, &a->q);
}

static void asymmetric_close(asymmetric *a)
{
    bal_quantized_linear_free(&a->q);
    bal_moments_destroy(&a->m);
    bal_exec_destroy(&a->e);
    bal_pool_destroy(a->pool);
}

static void check_columns(asymmetric *a, bool by_size, double part)
{
    static double h[WIDE][WIDE], u[WIDE][WIDE], c[WIDE][WIDE], p[WIDE][WIDE];
    bal_error err = {0};
    bal_factor f;
    bal_panels drift = {0};
    ASSERT_OK(bal_factor_create(&f, &a->e, &a->m, 0.01, by_size ? BAL_FACTOR_BY_SIZE : 0, &err));
    ASSERT_OK(bal_column_shift_create(&drift, &a->e, &f, &a->m, part, &err));
    ASSERT_OK(bal_ldlq(&a->e, &f, &drift, a->w, &a->q, &err));
    for (int i = 0; i < WIDE; i++)
        for (int k = 0; k < WIDE; k++) {
            h[i][k] = bal_moments_at(&a->m, f.order[i], f.order[k]) +
                      (i == k ? 0.01 * bal_moments_mean(&a->m) : 0.0);
            c[i][k] = a->m.cross[f.order[i] * WIDE + f.order[k]];
        }
    invert(h, u);
    upper_root(u);
    textbook_p(c, u, part, p);
    int differ = 0;
    for (int r = 0; r < FEW; r++) {
        uint8_t codes[WIDE];
        textbook_row(&a->q, r, f.order, u, p, a->w + r * WIDE, codes);
        for (int i = 0; i < WIDE; i++) differ += codes[i] != a->q.codes[r * WIDE + i];
    }
    assert_int_equal(differ, 0);
    bal_panels_destroy(&drift);
    bal_factor_destroy(&f);
}

/* Targets moved column by column give the codes of the published program; without what the inputs
 * lack, or with none of it taken, those of plain error feedback. */
static void test_column_shift(void **state)
{
    (void)state;
    bal_error err = {0};
    static asymmetric a;
    static uint8_t plain[FEW * WIDE];
    for (int threads = 1; threads <= 3; threads += 2) {
        asymmetric_open(&a, threads);
        bal_factor f;
        ASSERT_OK(bal_factor_create(&f, &a.e, &a.m, 0.01, 0, &err));
        ASSERT_OK(bal_ldlq(&a.e, &f, NULL, a.w, &a.q, &err));
        memcpy(plain, a.q.codes, sizeof plain);
        bal_factor_destroy(&f);
        check_columns(&a, false, 0.0);
        assert_memory_equal(plain, a.q.codes, sizeof plain);
        check_columns(&a, false, 0.25);
        check_columns(&a, false, 1.0);
        assert_true(memcmp(plain, a.q.codes, sizeof plain) != 0);
        check_columns(&a, true, 1.0);
        asymmetric_close(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_codes_are_gptq),
        cmocka_unit_test(test_factor),
        cmocka_unit_test(test_descent_never_climbs),
        cmocka_unit_test(test_gain),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_ranges_of_odd_groups),
        cmocka_unit_test(test_shift),
        cmocka_unit_test(test_column_shift),
        cmocka_unit_test(test_singular_and_dead),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_outlier),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
