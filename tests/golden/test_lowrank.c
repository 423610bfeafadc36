/* SPDX-License-Identifier: MIT
 * A matrix of small rank beside packed weights: the fit takes what is of small rank whole and beats
 * one that ignores H, the op computes what its rows say, files with it answer better than without,
 * and damaged ones are refused. */
#include "unit/scratch.h"

#include "ballast_quant.h"
#include "base/half.h"
#include "base/rng.h"
#include "quant/lowrank.h"
#include "run/engine.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#define MODEL "tests/golden/tiled/model"

static const bal_engine *engine(void)
{
    static bal_engine e;
    bal_error err;
    if (!e.pool) ASSERT_OK(bal_engine_open(&e, source_path(MODEL), 2, NULL, &err));
    return &e;
}

static bal_exec exec_of(void)
{
    bal_exec e;
    bal_error err;
    ASSERT_OK(bal_exec_create(&e, engine()->pool, &engine()->kernels, 512, &err));
    return e;
}

static float *random_floats(size_t n, uint64_t seed)
{
    bal_rng rng;
    float *x = malloc(n * sizeof *x);
    bal_rng_seed(&rng, seed);
    for (size_t i = 0; i < n; i++) x[i] = bal_rng_f32(&rng) + bal_rng_f32(&rng) - 1.0f;
    return x;
}

/* ---- The fit -----------------------------------------------------------------------------------
 */

enum { N = 40, K = 56, T = 90 };

/* Sum over t of x_t x_t^T, [K][K], of channels of very different size. */
static float *moments(void)
{
    float *x = random_floats((size_t)T * K, 7), *h = calloc((size_t)K * K, sizeof *h);
    for (int t = 0; t < T; t++)
        for (int c = 0; c < K; c++) x[t * K + c] *= c % 7 == 0 ? 4.0f : 0.3f;
    for (int t = 0; t < T; t++)
        for (int i = 0; i < K; i++)
            for (int j = 0; j < K; j++) h[i * K + j] += x[t * K + i] * x[t * K + j];
    free(x);
    return h;
}

/* tr((D - B A) H (D - B A)^T) */
static double loss(const float *d, const float *h, const uint16_t *a, const uint16_t *b, int rank)
{
    double sum = 0.0;
    for (int r = 0; r < N; r++) {
        double rest[K];
        for (int c = 0; c < K; c++) {
            rest[c] = (double)d[r * K + c];
            for (int j = 0; j < rank; j++)
                rest[c] -=
                    (double)bal_f16_to_f32(b[r * rank + j]) * (double)bal_f16_to_f32(a[j * K + c]);
        }
        for (int i = 0; i < K; i++)
            for (int j = 0; j < K; j++) sum += rest[i] * rest[j] * (double)h[i * K + j];
    }
    return sum;
}

static double fitted(const float *d, const float *weights, const float *h, int rank)
{
    bal_exec e = exec_of();
    bal_error err;
    uint16_t a[20 * K], b[N * 20];
    ASSERT_OK(bal_lowrank_fit(&e, d, weights, N, K, rank, a, b, &err));
    bal_exec_destroy(&e);
    return loss(d, h, a, b, rank);
}

/* Eigenvalues of the symmetric g [N][N], which is destroyed, by Jacobi's rotations; into value. */
static void eigenvalues(double *g, double value[N])
{
    for (int sweep = 0; sweep < 30; sweep++)
        for (int p = 0; p < N; p++)
            for (int q = p + 1; q < N; q++) {
                if (g[p * N + q] == 0.0) continue;
                const double theta = (g[q * N + q] - g[p * N + p]) / (2.0 * g[p * N + q]);
                const double t = copysign(1.0, theta) / (fabs(theta) + sqrt(theta * theta + 1.0));
                const double c = 1.0 / sqrt(t * t + 1.0), s = t * c;
                for (int k = 0; k < N; k++) {
                    const double x = g[k * N + p], y = g[k * N + q];
                    g[k * N + p] = c * x - s * y;
                    g[k * N + q] = s * x + c * y;
                }
                for (int k = 0; k < N; k++) {
                    const double x = g[p * N + k], y = g[q * N + k];
                    g[p * N + k] = c * x - s * y;
                    g[q * N + k] = s * x + c * y;
                }
            }
    for (int i = 0; i < N; i++) value[i] = g[i * N + i];
}

static int falling(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* What no matrix of that rank gets below: the sum of all but the largest eigenvalues of D H D^T. */
static double least_loss(const float *d, const float *h, int rank)
{
    static double dh[N * K], g[N * N];
    double value[N], sum = 0.0;
    for (int r = 0; r < N; r++)
        for (int j = 0; j < K; j++) {
            dh[r * K + j] = 0.0;
            for (int i = 0; i < K; i++)
                dh[r * K + j] += (double)d[r * K + i] * (double)h[i * K + j];
        }
    for (int r = 0; r < N; r++)
        for (int c = 0; c < N; c++) {
            g[r * N + c] = 0.0;
            for (int j = 0; j < K; j++) g[r * N + c] += dh[r * K + j] * (double)d[c * K + j];
        }
    eigenvalues(g, value);
    qsort(value, N, sizeof value[0], falling);
    for (int i = rank; i < N; i++) sum += value[i];
    return sum;
}

static void test_fit(void **state)
{
    (void)state;
    float *d = random_floats((size_t)N * K, 1), *h = moments(), *one = calloc((size_t)K * K, 4);
    for (int i = 0; i < K; i++) one[i * K + i] = 1.0f;
    double before = loss(d, h, NULL, NULL, 0);
    for (int rank = 1; rank <= 16; rank *= 2) {
        const double with = fitted(d, h, h, rank), without = fitted(d, one, h, rank);
        const double least = least_loss(d, h, rank);
        assert_true(with < before);
        assert_true(with < without);
        if (!(with >= 0.999 * least && with <= 1.02 * least))
            fail_msg("rank %d: loss %.9g, the least possible is %.9g", rank, with, least);
        before = with;
    }
    free(d);
    free(h);
    free(one);
}

static void test_fit_is_exact(void **state)
{
    (void)state;
    float *u = random_floats((size_t)N * 3, 2), *v = random_floats((size_t)3 * K, 3),
          *h = moments();
    float *d = calloc((size_t)N * K, sizeof *d);
    for (int r = 0; r < N; r++)
        for (int j = 0; j < 3; j++)
            for (int c = 0; c < K; c++) d[r * K + c] += u[r * 3 + j] * v[j * K + c];
    const double all = loss(d, h, NULL, NULL, 0);
    assert_true(fitted(d, h, h, 3) < 1e-6 * all);
    assert_true(fitted(d, h, h, 5) < 1e-6 * all); /* more than there is */
    assert_true(fitted(d, h, h, 2) > 1e-3 * all);
    memset(d, 0, (size_t)N * K * sizeof *d);
    assert_true(fitted(d, h, h, 2) == 0.0);
    free(u);
    free(v);
    free(h);
    free(d);
}

/* ---- Files -------------------------------------------------------------------------------------
 */

/* The file has the size that was promised; of the first file only, since a plan measures speed. */
static void check_plan(const char *model, const char *out, const bal_quant_opts *opts)
{
    static bool done;
    bal_quant_plan plan;
    bal_mapping m;
    bal_error err;
    if (done) return;
    done = true;
    ASSERT_OK(bal_quantize_plan(&plan, model, out, opts, &err));
    ASSERT_OK(bal_map_open(&m, out, &err));
    assert_int_equal(plan.file_bytes, m.n_bytes);
    bal_map_close(&m);
}

static void quantize(const char *out, const char *recipe, const char *rank, const char *more,
                     const char *report)
{
    bal_error err;
    const char *const set[] = {"bits=2", "group=32", "template=legacy", rank, more};
    const bal_quant_opts opts = {.size = sizeof opts,
                                 .threads = 2,
                                 .recipe = recipe,
                                 .set = set,
                                 .n_set = 5,
                                 .calib = source_path("tests/golden/calib/calib.jsonl"),
                                 .report = report,
                                 .force = true};
    ASSERT_OK(bal_quantize(source_path(MODEL), out, &opts, &err));
    check_plan(source_path(MODEL), out, &opts);
}

/* Mean squared difference of all decoder weights from the checkpoint's. */
static double weight_error(const bal_model *m)
{
    double sum = 0.0, n = 0.0;
    float a[512], b[512];
    for (int i = 0; i < m->config.text.layers; i++)
        for (int l = 0; l < BAL_DECODER_LINEARS; l++) {
            const bal_linear *got = bal_decoder_linear(&m->layers[i], l);
            const bal_linear *want = bal_decoder_linear(&engine()->model.layers[i], l);
            for (int r = 0; r < got->n; r++) {
                bal_linear_row(got, r, a);
                bal_linear_row(want, r, b);
                for (int c = 0; c < got->k; c++)
                    sum += ((double)a[c] - (double)b[c]) * ((double)a[c] - (double)b[c]);
                n += got->k;
            }
        }
    return sum / n;
}

static double error_of(const char *recipe, const char *rank, const char *more)
{
    bal_model m;
    bal_error err;
    const char *out = scratch("e.safetensors");
    quantize(out, recipe, rank, more, NULL);
    ASSERT_OK(bal_model_load(&m, out, &err));
    const double error = weight_error(&m);
    bal_model_unload(&m);
    return error;
}

static void test_file(void **state)
{
    (void)state;
    const double plain = error_of("rtn", "rank=0", "act=a16");
    const double low = error_of("rtn", "rank=8", "act=a16");
    printf("mean squared errors of weights: %.3g, with rank 8 %.3g\n", plain, low);
    assert_true(low < 0.9 * plain);
}

/* Errors behind all groups as solved, on the samples that judge, summed up. */
static double solved_error(const char *rank, const char *undo)
{
    double sum = 0.0;
    size_t i, g;
    json_t *block, *group;
    json_error_t why;
    quantize(scratch("s.safetensors"), "gptq", rank, undo, scratch("s.html"));
    json_t *doc = json_load_file(scratch("s.json"), 0, &why);
    assert_non_null(doc);
    json_array_foreach(json_object_get(doc, "blocks"), i, block)
        json_array_foreach(json_object_get(block, "groups"), g, group)
    {
        const json_t *steps = json_object_get(group, "steps");
        assert_true(json_array_size(steps) >= 2);
        const json_t *last = json_array_get(steps, json_array_size(steps) - 1);
        sum += json_real_value(json_object_get(last, "error"));
    }
    json_decref(doc);
    return sum;
}

static void test_solved(void **state)
{
    (void)state;
    const double plain = solved_error("rank=0", "undo=off");
    const double low = solved_error("rank=8", "undo=off");
    const double tried = solved_error("rank=8", "undo=on");
    printf("errors behind sub-blocks: %.4g, with rank 8 %.4g, step by step %.4g\n", plain, low,
           tried);
    assert_true(low < 0.9 * plain);
    assert_true(tried < 0.9 * plain);
}

/* y against rows in double, and its bits for one token at a time. */
static void check_forward(const bal_exec *e, const bal_linear *w)
{
    enum { TOKENS = 70 };
    const size_t n = (size_t)w->n, k = (size_t)w->k;
    float *x = random_floats(TOKENS * k, 11), *y = malloc(TOKENS * n * sizeof *y);
    float *one = malloc(n * sizeof *one), *row = malloc(k * sizeof *row);
    double worst = 0.0, top = 0.0;
    bal_linear_forward(e, w, x, k, TOKENS, y, n);
    for (int t = 0; t < TOKENS; t += 23) {
        bal_linear_forward(e, w, x + (size_t)t * k, k, 1, one, n);
        assert_memory_equal(one, y + (size_t)t * n, n * sizeof *one);
        for (size_t r = 0; r < n; r++) {
            double sum = w->bias ? (double)w->bias[r] : 0.0;
            bal_linear_row(w, (int)r, row);
            for (size_t c = 0; c < k; c++) sum += (double)row[c] * (double)x[(size_t)t * k + c];
            worst = fmax(worst, fabs(sum - (double)one[r]));
            top = fmax(top, fabs(sum));
        }
    }
    assert_true(worst < 3e-5 * top);
    free(x);
    free(y);
    free(one);
    free(row);
}

static void test_forward(void **state)
{
    (void)state;
    bal_model m;
    bal_error err;
    bal_exec e = exec_of();
    const char *out = scratch("f.safetensors");
    quantize(out, "gptq", "rank=16", "act=a16", NULL);
    ASSERT_OK(bal_model_load(&m, out, &err));
    assert_string_equal(bal_tensor_meta(&m.tensors, "ballast_format"), "2.0");
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        const bal_linear *l = bal_decoder_linear(&m.layers[1], i);
        assert_int_equal(l->rank, l->n < 32 ? l->n / 2 : 16);
        check_forward(&e, l);
    }
    bal_model_unload(&m);
    bal_exec_destroy(&e);
}

static void test_refused(void **state)
{
    (void)state;
    bal_model m;
    bal_error err;
    const char *out = scratch("r.safetensors");
    quantize(out, "rtn", "rank=4", "act=a16", NULL);
    scratch_patch(out, "mlp.up_proj.weight.low_b", "mlp.up_proj.weight.low_c");
    ASSERT_FAILS(BAL_E_FORMAT, "low_b is missing", bal_model_load(&m, out, &err));
    scratch_patch(out, "mlp.up_proj.weight.low_c", "mlp.up_proj.weight.low_b");
    scratch_patch(out, "mlp.up_proj.weight.low_a", "mlp.up_proj.weight.low_d");
    ASSERT_FAILS(BAL_E_FORMAT, "belongs to no part", bal_model_load(&m, out, &err));
    scratch_patch(out, "mlp.up_proj.weight.low_d", "mlp.up_proj.weight.low_a");
    scratch_patch(out, "[4,152]", "[152,4]");
    ASSERT_FAILS(BAL_E_FORMAT, "low_", bal_model_load(&m, out, &err));
}

static int teardown(void **state)
{
    bal_engine_close((bal_engine *)(uintptr_t)engine());
    return scratch_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fit),     cmocka_unit_test(test_fit_is_exact),
        cmocka_unit_test(test_file),    cmocka_unit_test(test_solved),
        cmocka_unit_test(test_forward), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, scratch_setup, teardown);
}
