/* SPDX-License-Identifier: MIT
 * The forward pass of calibration against the decoder's, block by block on the tiny golden model,
 * and what each position is attended to against the definition in double; what tokens keep. */
#include "scratch.h"

#include "quant/block.h"
#include "quant/gather.h"
#include "quant/probe.h"

#include <math.h>

typedef struct bench {
    bal_engine engine;
    bal_exec exec;
    bal_calib calib;
    bal_gathered data;
    const bal_text_config *c;
    bal_pass pass;
    bal_probe probe;
    bal_wide_layer wide;
    float *h, *want, *mid; /* [max_len][hidden] */
} bench;

static void bench_open(bench *b, int threads)
{
    static const size_t order[] = {0, 1, 2};
    bal_recipe recipe;
    bal_error err;
    *b = (bench){0};
    ASSERT_OK(bal_recipe_load(&recipe, "rtn", &err));
    ASSERT_OK(
        bal_engine_open(&b->engine, source_path("tests/golden/tiled/model"), threads, NULL, &err));
    ASSERT_OK(bal_exec_create(&b->exec, b->engine.pool, &b->engine.kernels,
                              bal_model_max_k(&b->engine.model), &err));
    ASSERT_OK(bal_calib_open(&b->calib, source_path("tests/golden/calib/calib.jsonl"), &err));
    ASSERT_OK(bal_gather_layout(&b->data, &b->calib, order, 3, &b->engine, &recipe, &err));
    ASSERT_OK(bal_gather_encode(&b->data, &b->calib, order, &b->engine, &b->exec, &recipe,
                                scratch_dir, NULL, NULL, &err));
    b->c = &b->engine.model.config.text;
    const int max_len = b->data.samples.max_len;
    const size_t floats = (size_t)max_len * (size_t)b->c->hidden;
    ASSERT_OK(bal_pass_create(&b->pass, b->c, max_len, &err));
    ASSERT_OK(bal_probe_create(&b->probe, &b->exec, b->c, max_len, &err));
    ASSERT_OK(bal_wide_layer_create(&b->wide, &b->exec, &b->engine.model.layers[0], &err));
    b->h = malloc(3 * floats * sizeof *b->h);
    assert_non_null(b->h);
    b->want = b->h + floats;
    b->mid = b->want + floats;
}

static void bench_close(bench *b)
{
    free(b->h);
    bal_wide_layer_destroy(&b->wide);
    bal_probe_destroy(&b->probe);
    bal_pass_destroy(&b->pass);
    bal_gathered_free(&b->data);
    bal_calib_close(&b->calib);
    bal_exec_destroy(&b->exec);
    bal_engine_close(&b->engine);
}

/* Both from the same input, which goes on as the decoder says. */
static void test_block(void **state)
{
    (void)state;
    bench b;
    bal_error err;
    bench_open(&b, 2);
    for (int i = 0; i < 3; i++) {
        const bal_sample *s = &b.data.samples.items[i];
        const size_t floats = (size_t)s->n * (size_t)b.c->hidden;
        ASSERT_OK(bal_store_read(&b.data.embeds, i, b.h, &err));
        for (int layer = 0; layer < b.c->layers; layer++) {
            const bal_decoder_layer *l = &b.engine.model.layers[layer];
            double sq = 0.0, size = 0.0;
            memcpy(b.want, b.h, floats * sizeof *b.h);
            bal_wide_copy_all(&b.wide, &b.exec, l);
            bal_pass_place(&b.pass, s);
            bal_probe_block(&b.exec, b.c, &b.wide, s->n, b.h, &b.probe, &b.pass, b.mid, b.h);
            const bal_rows rows = bal_pass_rows(&b.pass, s->n);
            bal_decoder_block(&b.exec, b.c, l, &rows, b.want, &b.pass.buf, layer, (bal_taps){0});
            for (size_t k = 0; k < floats; k++) {
                sq += ((double)b.h[k] - (double)b.want[k]) * ((double)b.h[k] - (double)b.want[k]);
                size += (double)b.want[k] * (double)b.want[k];
            }
            assert_true(size > 0.0 && sq < 1e-10 * size);
            memcpy(b.h, b.want, floats * sizeof *b.h);
        }
    }
    bench_close(&b);
}

/* Sum over queries and mean over heads of softmax(q k / sqrt(d)), from rotated q and k. */
static void attended(const bench *b, int n, double *out)
{
    const int heads = b->c->heads, dim = b->c->head_dim, per = heads / b->c->kv_heads;
    const float *q = b->pass.buf.q, *k = b->pass.buf.k;
    double *p = malloc((size_t)n * sizeof *p);
    assert_non_null(p);
    for (int t = 0; t < n; t++) out[t] = 0.0;
    for (int head = 0; head < heads; head++)
        for (int r = 0; r < n; r++) {
            double sum = 0.0;
            for (int t = 0; t <= r; t++) {
                double dot = 0.0;
                for (int d = 0; d < dim; d++)
                    dot += (double)q[(r * heads + head) * dim + d] *
                           (double)k[(t * b->c->kv_heads + head / per) * dim + d];
                p[t] = exp(dot / sqrt(dim));
                sum += p[t];
            }
            for (int t = 0; t <= r; t++) out[t] += p[t] / sum / heads;
        }
    free(p);
}

static void check_attended(int threads, float *got, int room, int *n)
{
    bench b;
    bal_error err;
    bench_open(&b, threads);
    const bal_sample *s = &b.data.samples.items[0];
    double *want = malloc((size_t)s->n * sizeof *want);
    double *sums = malloc((size_t)s->n * (size_t)b.c->heads * sizeof *sums);
    assert_true(want && sums && s->n > BAL_PROBE_ROWS && s->n <= room);
    ASSERT_OK(bal_store_read(&b.data.embeds, 0, b.h, &err));
    bal_wide_copy_all(&b.wide, &b.exec, &b.engine.model.layers[0]);
    bal_pass_place(&b.pass, s);
    bal_probe_block(&b.exec, b.c, &b.wide, s->n, b.h, &b.probe, &b.pass, b.mid, b.h);
    bal_probe_attended(&b.exec, b.c, s->n, &b.probe, &b.pass, sums, got);
    attended(&b, s->n, want);
    double all = 0.0;
    for (int t = 0; t < s->n; t++) {
        assert_true(fabs((double)got[t] - want[t]) < 1e-5 * want[t]);
        all += (double)got[t];
    }
    assert_true(fabs(all - s->n) < 1e-4 * s->n);
    *n = s->n;
    free(want);
    free(sums);
    bench_close(&b);
}

static void test_attended(void **state)
{
    (void)state;
    enum { ROOM = 4096 };
    static float one[ROOM], three[ROOM];
    int n;
    check_attended(1, one, ROOM, &n);
    check_attended(3, three, ROOM, &n);
    assert_memory_equal(one, three, (size_t)n * sizeof *one); /* whatever the threads */
}

/* With hessian=attention that is what tokens weigh in every input of a block. */
static void test_token_weights(void **state)
{
    (void)state;
    enum { ROOM = 4096 };
    static float want[ROOM];
    int n;
    bench b;
    bal_error err;
    bal_store weights;
    bal_sensitivity sensitivity;
    bal_recipe recipe;
    check_attended(1, want, ROOM, &n);
    bench_open(&b, 2);
    const int cols = BAL_GROUPS * b.c->layers;
    float *rows = malloc((size_t)b.data.samples.max_len * (size_t)cols * sizeof *rows);
    assert_non_null(rows);
    ASSERT_OK(bal_recipe_load(&recipe, "gptq", &err));
    recipe.hessian = BAL_HESSIAN_ATTENTION;
    ASSERT_OK(bal_store_create(&weights, scratch_dir, &b.data.samples, cols, &err));
    b.data.samples.gradients = &weights;
    ASSERT_OK(bal_sensitivity_run(&sensitivity, &b.exec, &b.engine.model, &b.data.samples,
                                  &b.data.embeds, &recipe, NULL, NULL, &err));
    ASSERT_OK(bal_store_read(&weights, 0, rows, &err));
    for (int t = 0; t < n; t++)
        for (int g = 0; g < BAL_GROUPS; g++)
            assert_true(fabsf(rows[t * cols + g] - want[t]) <= 1e-6f * want[t]);
    bal_sensitivity_free(&sensitivity);
    bal_store_destroy(&weights);
    free(rows);
    bench_close(&b);
}

/* Gradients of tokens as bal_sensitivity_run keeps them for the recipe: rows of the first sample,
 * malloc'ed. */
static float *gradients_of(bench *b, int row_groups, int *cols)
{
    bal_error err;
    bal_store store;
    bal_sensitivity sensitivity;
    bal_recipe recipe;
    ASSERT_OK(bal_recipe_load(&recipe, "gptq", &err));
    recipe.hessian = BAL_HESSIAN_GRAD2;
    recipe.row_groups = row_groups;
    *cols = bal_recipe_token_columns(&recipe) * b->c->layers;
    float *rows = malloc((size_t)b->data.samples.max_len * (size_t)*cols * sizeof *rows);
    assert_non_null(rows);
    ASSERT_OK(bal_store_create(&store, scratch_dir, &b->data.samples, *cols, &err));
    b->data.samples.gradients = &store;
    ASSERT_OK(bal_sensitivity_run(&sensitivity, &b->exec, &b->engine.model, &b->data.samples,
                                  &b->data.embeds, &recipe, NULL, NULL, &err));
    ASSERT_OK(bal_store_read(&store, 0, rows, &err));
    b->data.samples.gradients = NULL;
    bal_sensitivity_free(&sensitivity);
    bal_store_destroy(&store);
    return rows;
}

/* With row groups every part of a linear's outputs has a mean square of its own: over the parts of
 * the linears that read one input they have the mean that stands there without, and they differ. */
static void test_row_groups(void **state)
{
    (void)state;
    enum { PARTS = 4 };
    static const int first[BAL_GROUPS + 1] = {0, 3, 4, 6, 7};
    bench b;
    bench_open(&b, 2);
    int cols, fine_cols, alike = 0;
    float *whole = gradients_of(&b, 1, &cols), *fine = gradients_of(&b, PARTS, &fine_cols);
    assert_int_equal(fine_cols, PARTS * BAL_DECODER_LINEARS * b.c->layers);
    for (int i = 0; i < b.data.samples.items[0].n * cols; i++) {
        const int group = i % BAL_GROUPS, block = i / BAL_GROUPS; /* of all tokens */
        const float *parts = fine + block * PARTS * BAL_DECODER_LINEARS;
        const bal_decoder_layer *l = &b.engine.model.layers[block % b.c->layers];
        double sum = 0.0, n = 0.0;
        for (int linear = first[group]; linear < first[group + 1]; linear++)
            for (int p = 0; p < PARTS; p++) {
                const double size =
                    bal_decoder_linear((bal_decoder_layer *)(uintptr_t)l, linear)->n;
                sum += size * (double)parts[linear * PARTS + p];
                n += size;
            }
        assert_true(fabs(sum / n - (double)whole[i]) <= 1e-5 * (double)whole[i]);
        alike += parts[first[group] * PARTS] == parts[first[group] * PARTS + 1];
    }
    assert_true(alike <
                b.data.samples.items[0].n * cols / 2); /* zeros, of which the last layer has many */
    free(whole);
    free(fine);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_block),
        cmocka_unit_test(test_attended),
        cmocka_unit_test(test_token_weights),
        cmocka_unit_test(test_row_groups),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
