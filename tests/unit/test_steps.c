/* SPDX-License-Identifier: MIT
 * Grids with steps: the levels themselves, two levels that never leave an int8 (over all ranges and
 * all codes), searches that lower what they measure, error feedback and descent on them, odd rows.
 */
#include "output_error.h"

#include "base/half.h"
#include "base/rng.h"
#include "format/safetensors.h"
#include "quant/grid.h"
#include "quant/ldlq.h"
#include "quant/steps.h"

#include <math.h>

enum { K = 96, N = 24, ROWS = 160 };

typedef struct bench {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec e;
    float x[ROWS * K], w[N * K];
    bal_moments m;
    bal_factor f;
    float *h;
    double d[K];
} bench;

/* The matrix and inputs that the solvers are held against a textbook with. */
static void bench_open(bench *b)
{
    bal_error err = {0};
    bal_tensor_set set;
    static float work[ROWS * K];
    memset(b, 0, sizeof *b);
    ASSERT_OK(bal_pool_create(&b->pool, 2, &err));
    bal_kernels_init(&b->kernels, bal_cpu_isa());
    ASSERT_OK(bal_exec_create(&b->e, b->pool, &b->kernels, K, &err));
    ASSERT_OK(bal_tensor_set_open(&set, source_path("tests/golden/gptq/case.safetensors"), &err));
    memcpy(b->x, bal_tensor_find(&set, "x")->data, sizeof b->x);
    memcpy(b->w, bal_tensor_find(&set, "w")->data, sizeof b->w);
    bal_tensor_set_close(&set);
    ASSERT_OK(bal_moments_create(&b->m, &b->e, K, false, 0, &err));
    bal_moments_add(&b->m, &b->e, b->x, NULL, NULL, ROWS, work);
    ASSERT_OK(bal_factor_create(&b->f, &b->e, &b->m, 0.01, BAL_FACTOR_BY_SIZE | BAL_FACTOR_INVERSE,
                                &err));
    ASSERT_OK(bal_damped_matrix(&b->h, &b->m, 0.01, &err));
    memcpy(b->d, b->f.inverse, sizeof b->d);
}

static void bench_close(bench *b)
{
    free(b->h);
    bal_factor_destroy(&b->f);
    bal_moments_destroy(&b->m);
    bal_exec_destroy(&b->e);
    bal_pool_destroy(b->pool);
}

static const bal_quantizer grids[] = {
    {.bits = 2, .group = 32, .grid = BAL_GRID_TABLE},
    {.bits = 3, .group = 32, .grid = BAL_GRID_TABLE},
    {.bits = 4, .group = 32, .grid = BAL_GRID_TABLE},
    {.bits = 3, .group = 64, .grid = BAL_GRID_TABLE},
    {.bits = 2, .group = 32, .grid = BAL_GRID_TABLE, .second = true},
    {.bits = 4, .group = 16, .grid = BAL_GRID_TABLE, .second = true},
    {.bits = 4, .group = 32, .grid = BAL_GRID_TWO_LEVEL},
    {.bits = 4, .group = 0, .grid = BAL_GRID_TWO_LEVEL}};
enum { N_GRIDS = sizeof grids / sizeof *grids };

static void make(bal_quantized_linear *q, const bal_quantizer *z)
{
    bal_error err = {0};
    const bal_recipe r = {.bits = z->bits, .group = z->group, .grid = z->grid};
    ASSERT_OK(bal_quantized_linear_make(q, bal_recipe_format(&r, 0), N, K, &err));
}

static void test_levels(void **state)
{
    (void)state;
    for (int i = 0; i < 6; i++) {
        const int bits = 2 + i % 3, table = i / 3, n = 1 << bits;
        const bal_levels *l = bal_levels_at(bits, table);
        for (int c = 0; c + 1 < n; c++) {
            assert_true(l->table.level[c] < l->table.level[c + 1]);
            assert_true(l->middle[c] == 0.5f * (float)(l->table.level[c] + l->table.level[c + 1]));
        }
        assert_true(l->table.level[n - 1] < bal_table_levels(bits));
        assert_true(l->table.zero < l->table.level[n - 1]);
        const uint8_t step = (uint8_t)(16 * table + 15); /* the fifth bit is the table */
        const bal_code_grid g = bal_steps_grid(BAL_PACKED_TABLE, bits, 0.5f, step, 0);
        for (int c = 0; c < n; c++) {
            const float w = bal_code_value(&g, c);
            assert_true(w == -8 * 0.5f * (float)(l->table.level[c] - l->table.zero));
            assert_int_equal(bal_code_nearest(&g, w), c);
        }
    }
    for (int m = -8; m <= 8; m++)
        if (m) assert_int_equal(bal_table_step(bal_table_step_code(m)), m);
}

/* Every step, zero point and code that may stand there; one code more would not. */
static void test_expanded_codes_are_int8(void **state)
{
    (void)state;
    for (int m = 1; m <= INT8_MAX; m++)
        for (int z = 0; z < 16; z++) {
            const bal_code_grid g =
                bal_steps_grid(BAL_PACKED_TWO_LEVEL, 4, 1.0f, (uint8_t)m, (uint8_t)z);
            assert_true(g.least <= z && z <= g.most);
            for (int code = 0; code < 16; code++) {
                const int v = (code - z) * m;
                const bool fits = v >= INT8_MIN && v <= INT8_MAX;
                assert_int_equal(fits, code >= g.least && code <= g.most);
            }
        }
}

/* All ranges of whole numbers within the +-119 that a row is scaled to: no bound is needed for what
 * rounding to nearest gives. */
static void test_protective_range(void **state)
{
    (void)state;
    bal_quantized_linear q;
    bal_error err = {0};
    const bal_quantizer z = {.bits = 4, .group = 32, .grid = BAL_GRID_TWO_LEVEL};
    const bal_packed_format f = {BAL_PACKED_TWO_LEVEL, 4, 32};
    float w[64] = {119.0f}; /* group 0 keeps the scale at 1 */
    int most = 0, codes = 0;
    ASSERT_OK(bal_quantized_linear_make(&q, f, 1, 64, &err));
    for (int lo = -119; lo <= 119; lo++)
        for (int hi = lo; hi <= 119; hi++) {
            for (int i = 0; i < 32; i++) w[32 + i] = (float)(i % 2 ? hi : lo);
            bal_steps_quantize(&z, w, &q, 0);
            assert_true(bal_f16_to_f32(q.scales[0]) == 1.0f);
            for (int v = lo; v <= hi; v++) {
                const int code = (int)fmin(fmax(rint((double)v / q.steps[1]) + q.zeros[1], 0), 15);
                const int expanded = (code - q.zeros[1]) * q.steps[1];
                assert_in_range(expanded + 128, 0, 255);
                most = abs(expanded) > most ? abs(expanded) : most;
                codes++;
            }
        }
    printf("%d codes, the largest expands to %d\n", codes, most);
    assert_true(most > 119); /* rounding does leave the range */
    bal_quantized_linear_free(&q);
}

static double weighed(const bench *b, const bal_quantized_linear *q)
{
    double sum = 0.0;
    for (int r = 0; r < N; r++) {
        float row[K];
        bal_quantized_row(q, r, row);
        for (int c = 0; c < K; c++)
            sum += b->d[c] * pow((double)b->w[r * K + c] - (double)row[c], 2);
    }
    return sum;
}

/* Simulated rounding is what stored rounding gives. */
static void test_simulated_is_stored(void **state)
{
    (void)state;
    bench b;
    bench_open(&b);
    for (int i = 0; i < N_GRIDS; i++) {
        bal_quantized_linear q;
        float row[K], work[K], one[K], out[K];
        make(&q, &grids[i]);
        bal_quantize_matrix(b.pool, &grids[i], b.w, &q);
        for (int c = 0; c < K; c++) one[c] = 1.0f;
        for (int r = 0; r < N; r++) {
            bal_quantized_row(&q, r, row);
            bal_quantize_simulate(&grids[i], b.w + r * K, one, K, work, out);
            assert_memory_equal(row, out, sizeof row);
        }
        bal_quantized_linear_free(&q);
    }
    bench_close(&b);
}

/* Search, error feedback and descent each lower what they say they lower. */
static void test_solving(void **state)
{
    (void)state;
    bal_error err = {0};
    bench b;
    bench_open(&b);
    for (int i = 0; i < N_GRIDS; i++) {
        bal_quantized_linear q;
        make(&q, &grids[i]);
        bal_quantize_matrix(b.pool, &grids[i], b.w, &q);
        const double plain = weighed(&b, &q);
        bal_grid_search(b.pool, &grids[i], b.w, b.d, &q);
        const double searched = weighed(&b, &q), rounded = output_error(&q, b.w, b.h);
        if (!(searched < 0.99 * plain))
            fail_msg("grid %d: search from %g to %g only", i, plain, searched);
        ASSERT_OK(bal_ldlq(&b.e, &b.f, NULL, b.w, &q, &err));
        const double fed = output_error(&q, b.w, b.h);
        if (!(fed < 0.8 * rounded)) fail_msg("grid %d: feedback from %g to %g", i, rounded, fed);
        double before = fed;
        for (int s = 0; s < 4; s++) {
            ASSERT_OK(bal_polish(&b.e, b.h, b.w, 1, s % 2, &q, &err));
            const double after = output_error(&q, b.w, b.h);
            if (after > before * (1.0 + 1e-9)) fail_msg("grid %d: %g from %g", i, after, before);
            before = after;
        }
        if (!(before < 0.999 * fed)) fail_msg("grid %d: descent from %g to %g", i, fed, before);
        for (int g = 0; g < N * K; g++) {
            const bal_code_grid grid = bal_quantized_grid(
                &q, (size_t)(g / K), (size_t)(g % K / bal_group_size(K, grids[i].group)));
            assert_true(q.codes[g] >= grid.least && q.codes[g] <= grid.most);
        }
        bal_quantized_linear_free(&q);
    }
    bench_close(&b);
}

/* Tables beat the grid from minimum to maximum that takes as many bits: 3 bits with one step of 4
 * bits for 32 against 24 for 128, where the row's scale is not counted. */
static void test_tables_beat_ranges(void **state)
{
    (void)state;
    bench b;
    bal_error err = {0};
    bench_open(&b);
    for (int bits = 2; bits <= 3; bits++) {
        const bal_quantizer asym = {.bits = bits, .group = 128, .grid = BAL_GRID_ASYM};
        const bal_quantizer *table = &grids[bits - 2];
        bal_quantized_linear q;
        double error[2];
        make(&q, &asym);
        bal_quantize_matrix(b.pool, &asym, b.w, &q);
        ASSERT_OK(bal_ldlq(&b.e, &b.f, NULL, b.w, &q, &err));
        error[0] = output_error(&q, b.w, b.h);
        bal_quantized_linear_free(&q);
        make(&q, table);
        bal_quantize_matrix(b.pool, table, b.w, &q);
        ASSERT_OK(bal_ldlq(&b.e, &b.f, NULL, b.w, &q, &err));
        error[1] = output_error(&q, b.w, b.h);
        bal_quantized_linear_free(&q);
        printf("%d bits: %.4g with a range for 128, %.4g with a table for 32\n", bits, error[0],
               error[1]);
        assert_true(error[1] < 0.7 * error[0]);
    }
    bench_close(&b);
}

static double normal(bal_rng *rng)
{
    const double u = 1.0 - (double)bal_rng_f32(rng), v = (double)bal_rng_f32(rng);
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

/* Normal, or with the tail of Student's t of 6 degrees. */
static void fill(float *w, int n, bool tail)
{
    bal_rng rng;
    bal_rng_seed(&rng, 12);
    for (int i = 0; i < n; i++) {
        double squares = 0.0;
        const double x = normal(&rng);
        for (int c = 0; tail && c < 6; c++) squares += pow(normal(&rng), 2);
        w[i] = (float)(tail ? x / sqrt(squares / 6.0) : x);
    }
}

enum { LONG = 512, LONG_ROWS = 24 };

static double searched_error(bal_pool *pool, const bal_quantizer *z, const float *w)
{
    const bal_packed_format f = {BAL_PACKED_TABLE, z->bits, (size_t)z->group};
    double sum = 0.0, d[LONG];
    bal_quantized_linear q;
    bal_error err = {0};
    for (int i = 0; i < LONG; i++) d[i] = 1.0;
    ASSERT_OK(bal_quantized_linear_make(&q, f, LONG_ROWS, LONG, &err));
    bal_grid_search(pool, z, w, d, &q);
    for (int r = 0; r < LONG_ROWS; r++) {
        float row[LONG];
        bal_quantized_row(&q, r, row);
        for (int c = 0; c < LONG; c++) sum += pow((double)w[r * LONG + c] - (double)row[c], 2);
    }
    bal_quantized_linear_free(&q);
    return sum;
}

/* What a bit for the second table buys, in squared error where the search has had its way. */
static void test_second_table(void **state)
{
    (void)state;
    static float w[LONG * LONG_ROWS];
    bal_pool *pool;
    bal_error err = {0};
    ASSERT_OK(bal_pool_create(&pool, 2, &err));
    for (int bits = 2; bits <= 4; bits++)
        for (int tail = 0; tail < 2; tail++) {
            bal_quantizer z = {.bits = bits, .group = 32, .grid = BAL_GRID_TABLE};
            fill(w, LONG * LONG_ROWS, tail);
            const double one = searched_error(pool, &z, w);
            z.second = true;
            const double part = searched_error(pool, &z, w) / one;
            printf("%d bits, %s: %.3f of one table's error\n", bits, tail ? "t(6)" : "normal",
                   part);
            assert_true(part < (bits == 2 && !tail ? 0.99 : 0.94));
        }
    bal_pool_destroy(pool);
}

/* No file has it. */
static void test_second_table_has_no_storage(void **state)
{
    (void)state;
    static uint8_t out[1 << 16];
    bench b;
    bal_error err = {0};
    bal_packed_layout l;
    bal_quantized_linear q;
    const bal_quantizer z = {.bits = 2, .group = 32, .grid = BAL_GRID_TABLE, .second = true};
    bench_open(&b);
    make(&q, &z);
    bal_quantize_matrix(b.pool, &z, b.w, &q);
    ASSERT_OK(bal_packed_layout_of(&l, (bal_packed_format){BAL_PACKED_TABLE, 2, 32}, N, K, &err));
    assert_true(l.n_bytes <= sizeof out);
    const bal_packed_parts parts = bal_quantized_parts(&q);
    ASSERT_FAILS(BAL_E_ARG, "step", bal_pack_parts(&l, &parts, out, &err));
    bal_quantized_linear_free(&q);
    bench_close(&b);
}

static void test_gain_moves_the_rows_scale(void **state)
{
    (void)state;
    bal_error err = {0};
    bench b;
    bal_panels form;
    bal_quantized_linear q;
    bench_open(&b);
    ASSERT_OK(bal_form_create(&form, &b.e, &b.m, 0.01, &err));
    make(&q, &grids[0]);
    bal_grid_search(b.pool, &grids[0], b.w, b.d, &q);
    ASSERT_OK(bal_unit_gain(&b.e, &form, b.w, &q, &err));
    for (int r = 0; r < N; r++) {
        float row[K];
        double got = 0.0, want = 0.0;
        bal_quantized_row(&q, r, row);
        for (int i = 0; i < K; i++)
            for (int c = 0; c < K; c++) {
                const double h = (double)b.h[i * K + c] * (double)b.w[r * K + c];
                got += (double)row[i] * h;
                want += (double)b.w[r * K + i] * h;
            }
        assert_true(fabs(got / want - 1.0) < 1e-3);
    }
    bal_quantized_linear_free(&q);
    bal_panels_destroy(&form);
    bench_close(&b);
}

static void test_odd_rows(void **state)
{
    (void)state;
    bench b;
    bench_open(&b);
    for (int i = 0; i < K; i++) {
        b.w[i] = 0.25f;
        b.w[K + i] = 0.0f;
        b.w[2 * K + i] = i == 3 ? 1e6f : 0.01f * (float)(i % 5);
        b.w[3 * K + i] = 1.0f + 0.01f * (float)(i % 5); /* far from 0 */
        b.w[4 * K + i] = 1e-9f * (float)(i % 5 - 2);    /* below the smallest f16 */
        b.d[i] = i < 64 ? 1.0 : 0.0;
    }
    for (int i = 0; i < N_GRIDS; i++)
        for (int search = 0; search < 2; search++) {
            bal_quantized_linear q;
            make(&q, &grids[i]);
            bal_quantize_matrix(b.pool, &grids[i], b.w, &q);
            if (search) bal_grid_search(b.pool, &grids[i], b.w, b.d, &q);
            for (int r = 0; r < 5; r++) {
                float row[K];
                bal_quantized_row(&q, r, row);
                for (int c = 0; c < K; c++) {
                    assert_true(isfinite(row[c]));
                    assert_true(q.codes[r * K + c] < 1 << grids[i].bits);
                    if (r == 0 && c < 64) assert_true(fabsf(row[c] - 0.25f) < 0.03f);
                    if (r == 1) assert_true(fabsf(row[c]) < 1e-4f);
                    if (r == 3 && c < 64) assert_true(fabsf(row[c] - 1.0f) < 0.3f);
                    if (r == 4) assert_true(fabsf(row[c]) < 1e-4f);
                }
            }
            bal_quantized_linear_free(&q);
        }
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_expanded_codes_are_int8),
        cmocka_unit_test(test_protective_range),
        cmocka_unit_test(test_simulated_is_stored),
        cmocka_unit_test(test_solving),
        cmocka_unit_test(test_tables_beat_ranges),
        cmocka_unit_test(test_second_table),
        cmocka_unit_test(test_second_table_has_no_storage),
        cmocka_unit_test(test_gain_moves_the_rows_scale),
        cmocka_unit_test(test_odd_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
