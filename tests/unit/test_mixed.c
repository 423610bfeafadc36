/* SPDX-License-Identifier: MIT
 * Widths of groups of columns: the best of all that there are, as many bits as one width takes,
 * codes within their widths, and the whole run with them. */
#include "quantize_case.h"

#include "base/rng.h"
#include "model/model.h"
#include "quant/mixed.h"

#include <math.h>

enum { N = 12, SIZE = 16, GROUPS = 6, REST = 5, K = GROUPS * SIZE + REST, WAYS = 729 };

typedef struct matrix {
    float w[N * K];
    double d[K];
} matrix;

/* Groups of columns that count for more or less. */
static void fill(matrix *m, uint64_t seed)
{
    bal_rng rng;
    bal_rng_seed(&rng, seed);
    for (int i = 0; i < N * K; i++) m->w[i] = bal_rng_f32(&rng) - bal_rng_f32(&rng);
    for (int g = 0; g <= GROUPS; g++) {
        const double loud = exp(4.0 * (double)bal_rng_f32(&rng));
        for (int c = g * SIZE; c < (g + 1) * SIZE && c < K; c++)
            m->d[c] = loud * (0.5 + (double)bal_rng_f32(&rng));
    }
}

static bal_quantized_linear linear_of(int bits, bool mixed)
{
    const bal_recipe r = {.bits = bits, .group = SIZE, .mixed = mixed};
    bal_quantized_linear q;
    bal_error err;
    ASSERT_OK(bal_quantized_linear_of(&q, &r, 0, N, K, &err));
    return q;
}

/* What group g of q costs; its codes are within its width and make use of it. */
static double cost_of(const bal_quantized_linear *q, const matrix *m, int g)
{
    float row[K];
    double sum = 0.0;
    int most = 0;
    for (int r = 0; r < N; r++) {
        bal_quantized_row(q, r, row);
        for (int c = g * SIZE; c < (g + 1) * SIZE && c < K; c++) {
            most = q->codes[r * K + c] > most ? q->codes[r * K + c] : most;
            sum += m->d[c] * pow((double)row[c] - (double)m->w[r * K + c], 2);
        }
    }
    assert_int_equal(most, (1 << bal_quantized_width(q, (size_t)g)) - 1);
    return sum;
}

static double whole_cost(const bal_quantized_linear *q, const matrix *m)
{
    double sum = 0.0;
    for (int g = 0; g <= GROUPS; g++) sum += cost_of(q, m, g);
    return sum;
}

/* Widths number `way` of all; false where they have another sum than one width for all. */
static bool widths_of(int way, int bits, uint8_t widths[GROUPS])
{
    int sum = 0;
    for (int g = 0; g < GROUPS; g++, way /= 3) {
        widths[g] = (uint8_t)(bits - 1 + way % 3);
        sum += widths[g];
    }
    return sum == GROUPS * bits;
}

/* By trying all of them, on one thread and on three. */
static void test_best_of_all(void **state)
{
    (void)state;
    for (int bits = 2; bits <= 6; bits += bits == 4 ? 2 : 1)
        for (int threads = 1; threads <= 3; threads += 2) {
            const bal_quantizer z = {.bits = bits, .group = SIZE, .range = BAL_EXTENT_ZERO};
            bal_quantized_linear q = linear_of(bits, true);
            bal_error err;
            bal_pool *pool;
            matrix m;
            fill(&m, (uint64_t)bits);
            ASSERT_OK(bal_pool_create(&pool, threads, &err));
            ASSERT_OK(bal_mixed_widths(pool, &z, m.w, m.d, &q, &err));
            assert_int_equal(q.widths[GROUPS], bits); /* the shorter one */
            bal_quantize_matrix(pool, &z, m.w, &q);
            const double chosen = whole_cost(&q, &m);
            double best = INFINITY, alike = 0.0;
            for (int way = 0; way < WAYS; way++) {
                if (!widths_of(way, bits, q.widths)) continue;
                bal_quantize_matrix(pool, &z, m.w, &q);
                const double cost = whole_cost(&q, &m);
                best = cost < best ? cost : best;
                if (way == WAYS / 2) alike = cost;
            }
            assert_true(fabs(chosen - best) <= 1e-9 * best);
            assert_true(best < 0.8 * alike);
            bal_quantized_linear_free(&q);
            bal_pool_destroy(pool);
        }
}

/* Groups that cost the same keep the width of all; without widths nothing is different. */
static void test_alike(void **state)
{
    (void)state;
    const bal_quantizer z = {.bits = 3, .group = SIZE, .range = BAL_EXTENT_ZERO};
    bal_quantized_linear q = linear_of(3, true), plain = linear_of(3, false);
    bal_error err;
    bal_pool *pool;
    matrix m;
    fill(&m, 1);
    for (int i = 0; i < N * K; i++) m.w[i] = m.w[i / K * K + i % K % SIZE];
    for (int c = 0; c < K; c++) m.d[c] = 1.0;
    ASSERT_OK(bal_pool_create(&pool, 1, &err));
    bal_quantize_matrix(pool, &z, m.w, &plain);
    ASSERT_OK(bal_mixed_widths(pool, &z, m.w, m.d, &q, &err));
    for (int g = 0; g <= GROUPS; g++) assert_int_equal(q.widths[g], 3);
    bal_quantize_matrix(pool, &z, m.w, &q);
    assert_memory_equal(q.codes, plain.codes, N * K);
    assert_memory_equal(q.scales, plain.scales, N * (GROUPS + 1) * sizeof *q.scales);
    assert_memory_equal(q.zeros, plain.zeros, N * (GROUPS + 1));
    assert_null(plain.widths);
    bal_quantized_linear_free(&q);
    bal_quantized_linear_free(&plain);
    bal_pool_destroy(pool);
}

/* How many different values group `at` of a row has. */
static int values_of(const float *row, int at, int end)
{
    int values = 0;
    for (int c = at; c < end; c++) {
        int b = at;
        while (row[b] != row[c]) b++;
        values += b == c;
    }
    return values;
}

/* The most that a group of 32 of a row has, over all linears of a file's blocks. */
static int most_values(const char *path)
{
    float row[1024];
    int most = 0;
    bal_model m;
    bal_error err;
    ASSERT_OK(bal_model_load(&m, path, &err));
    for (int i = 0; i < m.config.text.layers * BAL_DECODER_LINEARS; i++) {
        const bal_linear *l =
            bal_decoder_linear(&m.layers[i / BAL_DECODER_LINEARS], i % BAL_DECODER_LINEARS);
        assert_in_range(l->k, 1, 1024);
        for (int r = 0; r < l->n; r++) {
            bal_linear_row(l, r, row);
            for (int at = 0; at < l->k; at += 32) {
                const int values = values_of(row, at, at + 32 < l->k ? at + 32 : l->k);
                most = values > most ? values : most;
            }
        }
    }
    bal_model_unload(&m);
    return most;
}

static const char *const MIXED[] = {"bits=2", "group=32", "store=float", "group_bits=mixed"};

/* Of the demo's model, the largest number of values of a group; *bits: what a storage would take.
 */
static int make_demo(const char *out, size_t n_set, double *bits)
{
    const char *model = source_path("demo/model");
    bal_quant_opts o = case_options("gptq", MIXED, n_set);
    bal_quant_plan plan;
    bal_error err;
    o.calib = source_path("demo/data/calib.jsonl");
    o.samples = 1;
    ASSERT_OK(bal_quantize(model, out, &o, &err));
    ASSERT_OK(bal_quantize_plan(&plan, model, NULL, &o, &err));
    *bits = plan.format_bits_per_weight;
    return most_values(out);
}

/* Into a file: groups with eight values where the linear has two bits, at the bits of one width and
 * two for each of a row's groups. */
static void test_in_a_file(void **state)
{
    (void)state;
    double alike, mixed;
    assert_int_equal(make_demo(scratch("alike.safetensors"), 3, &alike), 4);
    assert_int_equal(make_demo(scratch("mixed.safetensors"), 4, &mixed), 8);
    assert_true(mixed > alike && mixed < alike + 2.0 / 32.0 / 64.0);
}

static void test_threads(void **state)
{
    (void)state;
    bal_quant_opts o = case_options("gptq", MIXED, 4);
    const char *one = scratch("one.safetensors"), *two = scratch("two.safetensors");
    make(one, &o);
    o.threads = 2;
    make(two, &o);
    assert_same_file(one, two);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"store=packed", "store=float", "group_bits=mixed needs store=float"},
        {"bits=8", "bits=6", "group_bits=mixed needs bits=2, 3, 4 or 6"},
        {"group=row", "group=16", "group_bits=mixed needs group=16, 32, 64 or 128"},
        {"grid=sym", "grid=asym", "group_bits=mixed needs grid=asym"},
        {"solver=descent", "solver=gptq", "group_bits=mixed needs solver=gptq"},
        {"clip=diag", "clip=none", "group_bits=mixed needs clip=none"},
    };
    bal_recipe r;
    bal_error err;
    ASSERT_OK(bal_recipe_load(&r, "gptq", &err));
    ASSERT_OK(bal_recipe_assign(&r, "store=float", &err));
    ASSERT_OK(bal_recipe_assign(&r, "group_bits=mixed", &err));
    ASSERT_OK(bal_recipe_check(&r, &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ASSERT_OK(bal_recipe_assign(&r, cases[i][0], &err));
        ASSERT_FAILS(BAL_E_ARG, cases[i][2], bal_recipe_check(&r, &err));
        ASSERT_OK(bal_recipe_assign(&r, cases[i][1], &err));
        ASSERT_OK(bal_recipe_check(&r, &err));
    }
    ASSERT_OK(bal_recipe_assign(&r, "hessian=grad2", &err));
    ASSERT_OK(bal_recipe_assign(&r, "row_groups=2", &err));
    ASSERT_FAILS(BAL_E_ARG, "group_bits=mixed needs row_groups=1", bal_recipe_check(&r, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_of_all), cmocka_unit_test(test_alike),
        cmocka_unit_test(test_in_a_file),   cmocka_unit_test(test_threads),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
