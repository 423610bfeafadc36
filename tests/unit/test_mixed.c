/* SPDX-License-Identifier: MIT
 * Widths of groups of columns: the best of all that there are, as many bits as one width takes,
 * codes within their widths, error feedback on them, and the whole run. */
#include "output_error.h"
#include "quantize_case.h"

#include "base/rng.h"
#include "format/safetensors_write.h"
#include "model/model.h"
#include "quant/ldlq.h"
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

/* Error feedback on inputs of which some groups are louder: codes use their group's width, and less
 * is left of the outputs than with one width. */
static void test_feedback(void **state)
{
    (void)state;
    enum { ROWS = 200 };
    static float x[ROWS * K], work[ROWS * K];
    const bal_quantizer z = {.bits = 3, .group = SIZE, .range = BAL_EXTENT_ZERO};
    bal_error err;
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec e;
    bal_moments moments;
    bal_factor f;
    float *h;
    double left[2];
    matrix m;
    bal_rng rng;
    fill(&m, 7);
    bal_rng_seed(&rng, 8);
    for (int i = 0; i < ROWS * K; i++)
        x[i] = (float)sqrt(m.d[i % K]) * (bal_rng_f32(&rng) - bal_rng_f32(&rng));
    ASSERT_OK(bal_pool_create(&pool, 2, &err));
    bal_kernels_init(&kernels, bal_cpu_isa());
    ASSERT_OK(bal_exec_create(&e, pool, &kernels, K, &err));
    ASSERT_OK(bal_moments_create(&moments, &e, K, false, 0, &err));
    bal_moments_add(&moments, &e, x, NULL, NULL, ROWS, work);
    ASSERT_OK(bal_factor_create(&f, &e, &moments, 0.01, 0, &err)); /* in the order of columns */
    ASSERT_OK(bal_damped_matrix(&h, &moments, 0.01, &err));
    for (int mixed = 0; mixed < 2; mixed++) {
        bal_quantized_linear q = linear_of(3, mixed);
        if (mixed) ASSERT_OK(bal_mixed_widths(pool, &z, m.w, f.pivot, &q, &err));
        bal_quantize_matrix(pool, &z, m.w, &q);
        ASSERT_OK(bal_ldlq(&e, &f, NULL, m.w, &q, &err));
        for (int g = 0; g <= GROUPS; g++) (void)cost_of(&q, &m, g);
        left[mixed] = output_error(&q, m.w, h);
        bal_quantized_linear_free(&q);
    }
    printf("widths by groups leave %.3f of the error\n", left[1] / left[0]);
    assert_true(left[1] < 0.8 * left[0]);
    free(h);
    bal_factor_destroy(&f);
    bal_moments_destroy(&moments);
    bal_exec_destroy(&e);
    bal_pool_destroy(pool);
}

enum { LOUD = 32, LOUD_K = 64 };

/* The tiny model with the first inputs of q, k and v 16 times as loud; it computes something else.
 */
static const char *loud_model(void)
{
    static const char *const names[] = {"chat_template.jinja",    "config.json",
                                        "generation_config.json", "preprocessor_config.json",
                                        "tokenizer.json",         "tokenizer_config.json"};
    static float gain[8][LOUD_K];
    const char *dir = scratch("loud");
    char from[1100], to[1100];
    bal_tensor_set set;
    bal_error err;
    uint8_t *text;
    size_t n;
    int norms = 0;
    mkdir(dir, 0777);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(from, sizeof from, "%s/%s", source_path(MODEL), names[i]);
        snprintf(to, sizeof to, "%s/%s", dir, names[i]);
        ASSERT_OK(bal_read_file(&text, &n, from, 1 << 20, &err));
        scratch_write(to, text, n);
        free(text);
    }
    snprintf(from, sizeof from, "%s/model.safetensors", source_path(MODEL));
    snprintf(to, sizeof to, "%s/model.safetensors", dir);
    ASSERT_OK(bal_tensor_set_open(&set, from, &err));
    bal_tensor_view *copy = calloc(set.n_tensors, sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, set.tensors, set.n_tensors * sizeof *copy);
    for (size_t i = 0; i < set.n_tensors; i++) {
        if (!strstr(copy[i].name, "input_layernorm")) continue;
        assert_true(norms < 8 && copy[i].n_bytes == sizeof gain[0]);
        memcpy(gain[norms], copy[i].data, sizeof gain[0]);
        for (int c = 0; c < LOUD; c++) gain[norms][c] *= 16.0f;
        copy[i].data = (const uint8_t *)gain[norms++];
    }
    assert_true(norms > 0);
    ASSERT_OK(bal_safetensors_write(to, copy, set.n_tensors, NULL, 0, &err));
    free(copy);
    bal_tensor_set_close(&set);
    return dir;
}

/* The most different values that a row has from column `at` on, LOUD columns of q of all blocks. */
static int most_values(const char *path, int at)
{
    float row[LOUD_K];
    int most = 0;
    bal_model m;
    bal_error err;
    ASSERT_OK(bal_model_load(&m, path, &err));
    for (int layer = 0; layer < m.config.text.layers; layer++) {
        const bal_linear *l = bal_decoder_linear(&m.layers[layer], 0);
        assert_int_equal(l->k, LOUD_K);
        for (int r = 0; r < l->n; r++) {
            int values = 0;
            bal_linear_row(l, r, row);
            for (int c = at; c < at + LOUD; c++) {
                int first = at;
                while (row[first] != row[c]) first++;
                values += first == c;
            }
            most = values > most ? values : most;
        }
    }
    bal_model_unload(&m);
    return most;
}

/* Into a file: loud inputs have three bits, quiet ones one; the same whatever the threads; a
 * storage would take two bits more for each of a row's groups. */
static void test_whole_run(void **state)
{
    (void)state;
    static const char *const set[] = {"bits=2", "group=32", "store=float", "group_bits=mixed"};
    bal_quant_opts o = case_options("gptq", set, 4);
    bal_quant_plan mixed, alike;
    bal_error err;
    const char *model = loud_model(), *one = scratch("one.safetensors");
    const char *two = scratch("two.safetensors");
    ASSERT_OK(bal_quantize(model, one, &o, &err));
    assert_int_equal(most_values(one, 0), 8);
    assert_int_equal(most_values(one, LOUD), 2);
    o.threads = 2;
    ASSERT_OK(bal_quantize(model, two, &o, &err));
    assert_same_file(one, two);
    ASSERT_OK(bal_quantize_plan(&mixed, model, NULL, &o, &err));
    o.n_set = 3;
    ASSERT_OK(bal_quantize_plan(&alike, model, NULL, &o, &err));
    const double more = mixed.format_bits_per_weight - alike.format_bits_per_weight;
    assert_true(more > 0.0 && more < 2.0 / 32.0 / 20.0);
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
        cmocka_unit_test(test_feedback),    cmocka_unit_test(test_whole_run),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
