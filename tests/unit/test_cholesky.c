/* SPDX-License-Identifier: MIT
 * Factors and forms of second moments that span several tiles and panels, against plain loops in
 * double, for sizes that fill the last tile and sizes that do not; the same bits on any number of
 * threads; what is not positive definite. */
#include "check.h"

#include "base/half.h"
#include "base/rng.h"
#include "quant/blas.h"
#include "quant/cholesky.h"
#include "quant/factor.h"
#include "quant/ldlq.h"

#include <math.h>

enum { MOST = 700, ROWS = 900 };

static const int sizes[] = {1, 96, 128, 129, 256, 300, 512, 700};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

typedef struct bench {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec e;
} bench;

static void bench_open(bench *b, int threads)
{
    bal_error err = {0};
    memset(b, 0, sizeof *b);
    ASSERT_OK(bal_pool_create(&b->pool, threads, &err));
    bal_kernels_init(&b->kernels, bal_cpu_isa());
    ASSERT_OK(bal_exec_create(&b->e, b->pool, &b->kernels, MOST, &err));
}

static void bench_close(bench *b)
{
    bal_exec_destroy(&b->e);
    bal_pool_destroy(b->pool);
}

/* A triangle that is positive definite: x x^T of rows that share a little, plus a diagonal. */
static void make_moments(bal_moments *m, const bal_exec *e, int k)
{
    bal_error err = {0};
    bal_rng rng;
    bal_rng_seed(&rng, (uint64_t)k);
    ASSERT_OK(bal_moments_create(m, e, k, false, 0, &err));
    double v[MOST];
    for (int i = 0; i < k; i++) v[i] = (double)bal_rng_f32(&rng) - 0.5;
    for (int i = 0; i < k; i++)
        for (int j = 0; j <= i; j++)
            m->tri[(size_t)i * ((size_t)i + 1) / 2 + (size_t)j] =
                v[i] * v[j] + 0.02 * ((double)bal_rng_f32(&rng) - 0.5) / (1 + i - j) +
                (i == j ? 0.5 + (double)bal_rng_f32(&rng) : 0.0);
}

static void fill(bal_lower *l, const bal_moments *m)
{
    bal_error err = {0};
    ASSERT_OK(bal_lower_create(l, m->k, &err));
    for (size_t i = 0; i < (size_t)m->k; i++)
        memcpy(bal_lower_row(l, i), m->tri + i * (i + 1) / 2, (i + 1) * sizeof(double));
}

/* L L^T is the matrix again, x solves A x = b, and the diagonal of the inverse is its columns'. */
static void test_factor(void **state)
{
    (void)state;
    bench b;
    bench_open(&b, 2);
    for (int s = 0; s < SIZES; s++) {
        const size_t k = (size_t)sizes[s];
        bal_error err = {0};
        bal_moments m;
        bal_lower l;
        make_moments(&m, &b.e, (int)k);
        fill(&l, &m);
        assert_true(bal_lower_factor(&l, b.pool));
        for (size_t i = 0; i < k; i += 7)
            for (size_t j = 0; j <= i; j += 5) {
                double sum = 0.0;
                for (size_t t = 0; t <= j; t++)
                    sum += bal_lower_row(&l, i)[t] * bal_lower_row(&l, j)[t];
                assert_true(fabs(sum - bal_moments_at(&m, (int)i, (int)j)) < 1e-12);
            }
        double d[MOST];
        double *x = calloc(3 * k, sizeof *x);
        const size_t unit[3] = {0, k / 2, k - 1};
        for (size_t i = 0; i < 3; i++) x[i * k + unit[i]] = 1.0;
        ASSERT_OK(bal_lower_inverse_diagonal(&l, b.pool, d, &err));
        bal_lower_solve(&l, x, 3);
        for (size_t i = 0; i < 3; i++) {
            assert_true(fabs(x[i * k + unit[i]] / d[unit[i]] - 1.0) < 1e-11);
            for (size_t r = 0; r < k; r += 3) {
                double sum = 0.0;
                for (size_t t = 0; t < k; t++)
                    sum += bal_moments_at(&m, (int)r, (int)t) * x[i * k + t];
                assert_true(fabs(sum - (r == unit[i] ? 1.0 : 0.0)) < 1e-11);
            }
        }
        free(x);
        bal_lower_destroy(&l);
        bal_moments_destroy(&m);
    }
    bench_close(&b);
}

/* H = M D M^T with M and D as error feedback reads them, in the order of columns. */
static void test_feed(void **state)
{
    (void)state;
    bench b;
    bench_open(&b, 2);
    for (int s = 0; s < SIZES; s++) {
        const size_t k = (size_t)sizes[s];
        bal_error err = {0};
        bal_moments m;
        bal_factor f;
        make_moments(&m, &b.e, (int)k);
        ASSERT_OK(
            bal_factor_create(&f, &b.e, &m, 0.01, BAL_FACTOR_BY_SIZE | BAL_FACTOR_INVERSE, &err));
        const double add = 0.01 * bal_moments_mean(&m);
        for (size_t i = 0; i < k; i += 11)
            for (size_t j = i; j < k; j += 13) {
                double sum = 0.0;
                for (size_t t = j; t < k; t++) {
                    const double a = t == i ? 1.0 : (double)*bal_panels_element(&f.feed, i, t);
                    const double c = t == j ? 1.0 : (double)*bal_panels_element(&f.feed, j, t);
                    sum += f.pivot[t] * a * c;
                }
                const double want =
                    bal_moments_at(&m, f.order[i], f.order[j]) + (i == j ? add : 0.0);
                assert_true(fabs(sum - want) < 1e-6);
            }
        assert_true(fabs(f.inverse[f.order[0]] / f.pivot[0] - 1.0) < 1e-9);
        bal_factor_destroy(&f);
        bal_moments_destroy(&m);
    }
    bench_close(&b);
}

/* a H b^T by the form against the double loop. */
static void test_form(void **state)
{
    (void)state;
    bench b;
    bench_open(&b, 2);
    for (int s = 0; s < SIZES; s++) {
        const size_t k = (size_t)sizes[s];
        bal_error err = {0};
        bal_moments m;
        bal_panels p;
        bal_rng rng;
        static float v[2 * MOST], y[2 * MOST];
        bal_rng_seed(&rng, 3);
        make_moments(&m, &b.e, (int)k);
        ASSERT_OK(bal_form_create(&p, &b.e, &m, 0.0, &err));
        for (size_t i = 0; i < 2 * k; i++) v[i] = bal_rng_f32(&rng) - 0.5f;
        bal_panels_times(&b.e, &p, 2, v, y);
        double aa = 0, ab = 0, want_aa = 0, want_ab = 0, size = 0;
        for (size_t i = 0; i < k; i++) {
            aa += (double)y[i] * (double)v[i];
            ab += 0.5 * ((double)y[i] * (double)v[k + i] + (double)y[k + i] * (double)v[i]);
            for (size_t j = 0; j < k; j++) {
                const double h = bal_moments_at(&m, (int)i, (int)j) * (double)v[i];
                want_aa += h * (double)v[j];
                want_ab += h * (double)v[k + j];
                size += fabs(h * (double)v[j]);
            }
        }
        assert_true(fabs(aa - want_aa) < 1e-5 * size && fabs(ab - want_ab) < 1e-5 * size);
        bal_panels_destroy(&p);
        bal_moments_destroy(&m);
    }
    bench_close(&b);
}

/* Codes over several panels: one and three threads, and a textbook loop without blocks. */
static void test_codes(void **state)
{
    (void)state;
    enum { N = 40, K = 300 };
    static uint8_t want[N * K];
    bal_error err = {0};
    for (int threads = 1; threads <= 3; threads += 2) {
        bench b;
        bal_moments m;
        bal_factor f;
        bal_quantized_linear q;
        bal_rng rng;
        static float w[N * K];
        bal_rng_seed(&rng, 4);
        for (int i = 0; i < N * K; i++) w[i] = bal_rng_f32(&rng) - 0.5f;
        bench_open(&b, threads);
        make_moments(&m, &b.e, K);
        ASSERT_OK(bal_factor_create(&f, &b.e, &m, 0.01, BAL_FACTOR_BY_SIZE, &err));
        assert_null(f.inverse);
        ASSERT_OK(bal_quantized_linear_create(&q, N, K, 3, 64, &err));
        bal_quantize_matrix(b.pool, &(bal_quantizer){.bits = 3, .group = 64}, w, &q);
        ASSERT_OK(bal_ldlq(&b.e, &f, NULL, w, &q, &err));
        if (threads > 1) assert_memory_equal(want, q.codes, sizeof want);
        memcpy(want, q.codes, sizeof want);
        int differ = 0;
        for (size_t r = 0; r < N; r++) {
            double off[K];
            for (size_t i = 0; i < K; i++) {
                const size_t c = (size_t)f.order[i], at = r * 5 + c / 64;
                double t = (double)w[r * K + c];
                for (size_t j = 0; j < i; j++)
                    t += off[j] * (double)*bal_panels_element(&f.feed, j, i);
                const double scale = (double)bal_f16_to_f32(q.scales[at]), z = q.zeros[at];
                const double code = fmin(fmax(rint(t / scale) + z, 0.0), 7.0);
                differ += code != q.codes[r * K + c];
                off[i] = (double)w[r * K + c] - ((double)q.codes[r * K + c] - z) * scale;
            }
        }
        assert_true(differ <= 2); /* ties */
        bal_quantized_linear_free(&q);
        bal_factor_destroy(&f);
        bal_moments_destroy(&m);
        bench_close(&b);
    }
}

static void test_not_definite(void **state)
{
    (void)state;
    bench b;
    bal_moments m;
    bal_lower l;
    bench_open(&b, 2);
    make_moments(&m, &b.e, 600);
    m.tri[580u * 581 / 2 + 3] = 50.0; /* in the last tile's rows, the first tile's columns */
    fill(&l, &m);
    assert_false(bal_lower_factor(&l, b.pool));
    bal_lower_destroy(&l);
    bal_moments_destroy(&m);
    bench_close(&b);
}

/* ---- BLAS from many threads -------------------------------------------------------------------
 */

enum { SIDE = 128, CALLS = 4000, CALLERS = 4 };

typedef struct crowd {
    const double *a, *l, *b;
    const double *product, *solved;       /* what one thread alone gets */
    double got[CALLERS][2 * SIDE * SIDE]; /* by lane */
    int wrong[CALLERS];
} crowd;

static void call_blas(const crowd *c, double *product, double *solved)
{
    memcpy(product, c->b, SIDE * SIDE * sizeof *product);
    memcpy(solved, c->b, SIDE * SIDE * sizeof *solved);
    bal_blas_gemm(true, SIDE, SIDE, SIDE, -1.0, c->a, SIDE, c->a, SIDE, 1.0, product, SIDE);
    bal_blas_solve(BAL_BLAS_XLT, SIDE, SIDE, c->l, SIDE, solved, SIDE);
}

static void call_many(void *ctx, size_t begin, size_t end, int lane)
{
    crowd *c = ctx;
    double *product = c->got[lane], *solved = product + SIDE * SIDE;
    for (size_t i = begin; i < end; i++) {
        call_blas(c, product, solved);
        c->wrong[lane] += memcmp(product, c->product, SIDE * SIDE * sizeof *product) != 0 ||
                          memcmp(solved, c->solved, SIDE * SIDE * sizeof *solved) != 0;
    }
}

/* Without the lock, of OpenBLAS built without threads one call in a thousand comes out wrong. */
static void test_callers(void **state)
{
    (void)state;
    enum { N = SIDE * SIDE };
    bal_rng r;
    bal_error err;
    bal_pool *pool;
    bal_rng_seed(&r, 3);
    double *m = calloc(5 * N, sizeof *m), *a = m, *l = m + N, *b = m + 2 * N;
    crowd *c = calloc(1, sizeof *c);
    assert_true(m && c);
    for (int i = 0; i < N; i++) {
        a[i] = (double)bal_rng_f32(&r) - 0.5;
        b[i] = (double)bal_rng_f32(&r) - 0.5;
        l[i] = i % SIDE < i / SIDE ? a[i] / SIDE : i % SIDE == i / SIDE;
    }
    *c = (crowd){.a = a, .l = l, .b = b, .product = m + 3 * N, .solved = m + 4 * N};
    call_blas(c, m + 3 * N, m + 4 * N);
    ASSERT_OK(bal_pool_create(&pool, CALLERS, &err));
    bal_pool_run(pool, call_many, c, CALLS, 8);
    for (int lane = 0; lane < CALLERS; lane++) assert_int_equal(c->wrong[lane], 0);
    bal_pool_destroy(pool);
    free(c);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_factor),       cmocka_unit_test(test_feed),
        cmocka_unit_test(test_form),         cmocka_unit_test(test_codes),
        cmocka_unit_test(test_not_definite), cmocka_unit_test(test_callers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
