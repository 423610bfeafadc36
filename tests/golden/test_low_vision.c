/* SPDX-License-Identifier: MIT
 * A matrix of small rank for rows of vision alone, from the recipe to the logits: codes and text
 * stay what they are without it, vision comes nearer to the float model, calibration runs what the
 * packed model computes, and what cannot be is refused. */
#include "quant_case.h"
#include "unit/quantize_case.h"

#include "base/half.h"
#include "op/pointwise.h"
#include "quant/gather.h"
#include "quant/lowrank.h"
#include "run/session.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

enum {
    RANK = 8,
    N = 90,
    FIRST = 30,
    END = 60,
    VOCAB = 400
}; /* of a prompt, positions that are vision */

/* The file has the size that was promised. */
static void check_plan(const char *out, const bal_quant_opts *o)
{
    bal_quant_plan plan;
    bal_mapping m;
    bal_error err;
    ASSERT_OK(bal_quantize_plan(&plan, source_path(MODEL), out, o, &err));
    ASSERT_OK(bal_map_open(&m, out, &err));
    assert_int_equal(plan.file_bytes, m.n_bytes);
    bal_map_close(&m);
}

/* NULL ends `set`; two more keys besides, or none. */
static void quantize(const char *out, const char *recipe, const char *const set[], bool patch,
                     const char *report)
{
    const char *all[12] = {"template=legacy"};
    size_t n = 1;
    for (; set[n - 1]; n++) all[n] = set[n - 1];
    if (patch) all[n++] = "rank=8", all[n++] = "rank_rows=vision";
    bal_quant_opts o = case_options(recipe, all, n);
    o.report = report;
    o.force = true;
    make(out, &o);
    if (patch && !report) check_plan(out, &o);
}

/* ---- Against the file without it ---------------------------------------------------------------
 */

static void see(void *ctx, int row, const float *logits)
{
    float **to = ctx;
    (void)row;
    memcpy(*to, logits, VOCAB * sizeof *logits);
    *to += VOCAB;
}

/* Logits [N][VOCAB] of a prompt, some of its positions vision or none. */
static float *logits_of(const char *path, bool vision)
{
    bal_engine e;
    bal_error err;
    bal_session s;
    bal_token_info info[N];
    ASSERT_OK(bal_engine_open(&e, path, 2, NULL, &err));
    const size_t hidden = (size_t)e.model.config.text.hidden;
    assert_int_equal(e.model.config.text.vocab, VOCAB);
    float *embeds = malloc(N * hidden * sizeof *embeds), *out = malloc(N * VOCAB * sizeof *out);
    float *to = out;
    for (int i = 0; i < N; i++) {
        const bool sees = vision && i >= FIRST && i < END;
        info[i] = (bal_token_info){.id = (i * 131 + 7) % 300,
                                   .pos = {i, i, i},
                                   .image = sees ? 0 : -1,
                                   .modality = sees ? BAL_VISION : BAL_PROMPT};
        bal_linear_row(&e.model.embed, info[i].id, embeds + (size_t)i * hidden);
    }
    ASSERT_OK(bal_session_create(&s, &e, 128, &err));
    ASSERT_OK(bal_session_append(&s, info, embeds, N, 0, see, &to, (bal_taps){0}, &err));
    bal_session_destroy(&s);
    bal_engine_close(&e);
    free(embeds);
    return out;
}

static void assert_same_text(const char *plain, const char *patched)
{
    for (int vision = 0; vision < 2; vision++) {
        float *a = logits_of(plain, vision != 0), *b = logits_of(patched, vision != 0);
        const size_t same = vision ? FIRST : N; /* what sees no vision before it */
        assert_memory_equal(a, b, same * VOCAB * sizeof *a);
        for (int i = FIRST; vision && i < N; i++)
            assert_memory_not_equal(a + i * VOCAB, b + i * VOCAB, VOCAB * sizeof *a);
        free(a);
        free(b);
    }
}

/* All packed linears, and what stands beside those of the second. */
static void assert_same_codes(const char *plain, const char *patched)
{
    bal_model a, b;
    bal_error err;
    ASSERT_OK(bal_model_load(&a, plain, &err));
    ASSERT_OK(bal_model_load(&b, patched, &err));
    assert_string_equal(bal_tensor_meta(&b.tensors, "ballast_format"), "2.2");
    for (int layer = 0; layer < a.config.text.layers; layer++)
        for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
            const bal_linear *x = bal_decoder_linear(&a.layers[layer], i);
            const bal_linear *y = bal_decoder_linear(&b.layers[layer], i);
            assert_int_equal(x->packed.layout.n_bytes, y->packed.layout.n_bytes);
            assert_memory_equal(x->packed.codes, y->packed.codes, x->packed.layout.n_bytes);
            assert_int_equal(x->rank, 0);
            assert_int_equal(y->rank, y->n < 2 * RANK ? y->n / 2 : RANK);
            assert_true(y->low_vision);
        }
    bal_model_unload(&a);
    bal_model_unload(&b);
}

/* Sums over blocks: squared errors of the two sub-blocks as calibration runs them, and of the
 * stream through the packed blocks, at rows of that modality. */
typedef struct block_errors {
    double sub, drift;
} block_errors;

static block_errors errors_of(const char *report, const char *modality)
{
    block_errors sum = {0};
    size_t i;
    json_t *block;
    json_error_t why;
    json_t *doc = json_load_file(report, 0, &why);
    assert_non_null(doc);
    json_array_foreach(json_object_get(doc, "blocks"), i, block)
    {
        const json_t *of[] = {json_object_get(json_object_get(block, "final"), "attn"),
                              json_object_get(json_object_get(block, "final"), "mlp"),
                              json_object_get(block, "drift")};
        double x[3];
        for (int k = 0; k < 3; k++) {
            x[k] = json_number_value(json_object_get(json_object_get(of[k], "mse"), modality));
            assert_true(x[k] > 0.0);
        }
        sum.sub += x[0] + x[1];
        sum.drift += x[2];
    }
    json_decref(doc);
    return sum;
}

/* Recipes whose codes do not depend on what blocks before have become. */
static void test_beside(void **state)
{
    (void)state;
    static const struct {
        const char *recipe, *set[4];
    } cases[] = {
        {"rtn", {"bits=2", "group=32", "inputs=quantized"}},
        {"rtn", {"bits=2", "grid=table", "group=32"}},
        {"gptq", {"bits=2", "group=32", "inputs=float"}},
        {"w4a8", {"bits=4", "inputs=quantized", "arithmetic=bf16"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *plain = scratch("p.safetensors"), *patched = scratch("v.safetensors");
        quantize(plain, cases[i].recipe, cases[i].set, false, scratch("p.html"));
        quantize(patched, cases[i].recipe, cases[i].set, true, scratch("v.html"));
        assert_same_codes(plain, patched);
        assert_same_text(plain, patched);
        const block_errors was = errors_of(scratch("p.json"), "vision");
        const block_errors is = errors_of(scratch("v.json"), "vision");
        printf(
            "%s %s: errors of vision %.3g of sub-blocks, %.3g of the stream; without %.3g, %.3g\n",
            cases[i].recipe, cases[i].set[1], is.sub, is.drift, was.sub, was.drift);
        assert_true(is.sub < 0.9 * was.sub);
        assert_true(is.drift < 0.9 * was.drift);
    }
}

/* ---- The metric --------------------------------------------------------------------------------
 */

typedef struct metric {
    int n, k, rank;
    float *d;                  /* [n][k] what codes of q_proj of the first block leave */
    float *vision, *others;    /* [k][k] sums of x x^T over the rows that it reads */
    uint16_t *a, *b, *fa, *fb; /* of the file; room for a fit */
} metric;

/* tr((D - B A) H (D - B A)^T) */
static double loss(const metric *t, const float *h, const uint16_t *a, const uint16_t *b)
{
    const size_t k = (size_t)t->k;
    double sum = 0.0, *rest = malloc(k * sizeof *rest);
    for (size_t r = 0; r < (size_t)t->n; r++) {
        for (size_t c = 0; c < k; c++) {
            rest[c] = (double)t->d[r * k + c];
            for (size_t j = 0; j < (size_t)t->rank; j++)
                rest[c] -= (double)bal_f16_to_f32(b[r * (size_t)t->rank + j]) *
                           (double)bal_f16_to_f32(a[j * k + c]);
        }
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < k; j++) sum += rest[i] * rest[j] * (double)h[i * k + j];
    }
    free(rest);
    return sum;
}

/* Loss on vision rows of what is fitted to h. */
static double fitted(const metric *t, const bal_exec *e, const float *h)
{
    bal_error err;
    ASSERT_OK(bal_lowrank_fit(e, t->d, h, t->n, t->k, t->rank, t->fa, t->fb, &err));
    return loss(t, t->vision, t->fa, t->fb);
}

/* Rows that the first block's q, k and v read, from the conversations as the recipe reads them. */
static void add_inputs(metric *t, bal_engine *e, const bal_exec *exec)
{
    static const size_t order[] = {0, 1, 2};
    bal_recipe recipe;
    bal_calib calib;
    bal_gathered data = {0};
    bal_error err;
    const size_t k = (size_t)t->k;
    ASSERT_OK(bal_recipe_load(&recipe, "rtn", &err));
    ASSERT_OK(bal_recipe_assign(&recipe, "template=legacy", &err));
    ASSERT_OK(bal_calib_open(&calib, source_path(DATA), &err));
    ASSERT_OK(bal_gather_layout(&data, &calib, order, 3, e, &recipe, &err));
    ASSERT_OK(
        bal_gather_encode(&data, &calib, order, e, exec, &recipe, scratch_dir, NULL, NULL, &err));
    float *x = malloc((size_t)data.samples.max_len * k * sizeof *x);
    for (int i = 0; i < 3; i++) {
        const bal_sample *s = &data.samples.items[i];
        ASSERT_OK(bal_store_read(&data.embeds, i, x, &err));
        bal_rms_norm(exec, x, e->model.layers[0].attn_norm, e->model.config.text.rms_eps, s->n,
                     t->k, x);
        for (int r = 0; r < s->n; r++) {
            const float *row = x + (size_t)r * k;
            float *h = s->modality[r] == BAL_VISION ? t->vision : t->others;
            for (size_t c = 0; c < k * k; c++) h[c] += row[c / k] * row[c % k];
        }
    }
    free(x);
    bal_gathered_free(&data);
    bal_calib_close(&calib);
}

/* Of the linear q, which packs w. */
static metric open_metric(const bal_linear *q, const bal_linear *w)
{
    const size_t n = (size_t)q->n, k = (size_t)q->k, rank = (size_t)q->rank;
    metric t = {.n = q->n, .k = q->k, .rank = q->rank};
    t.d = malloc((n + 1) * k * sizeof *t.d);
    t.vision = calloc(2 * k * k, sizeof *t.vision);
    t.a = malloc(2 * rank * (n + k) * sizeof *t.a);
    assert_true(t.d && t.vision && t.a);
    t.others = t.vision + k * k;
    t.b = t.a + rank * k, t.fa = t.b + rank * n, t.fb = t.fa + rank * k;
    memcpy(t.a, q->low_a, rank * k * sizeof *t.a);
    memcpy(t.b, q->low_b, rank * n * sizeof *t.b);
    for (size_t r = 0; r < n; r++) {
        bal_linear_row(w, (int)r, t.d + r * k);
        bal_linear_row(q, (int)r, t.d + n * k);
        for (size_t c = 0; c < k; c++) t.d[r * k + c] -= t.d[n * k + c];
    }
    return t;
}

/* The file has what is fitted to second moments of vision rows, but for their damping. */
static void test_metric(void **state)
{
    (void)state;
    static const char *const set[] = {"bits=2", "group=32", NULL};
    bal_engine e;
    bal_exec exec;
    bal_model m;
    bal_error err;
    quantize(scratch("m.safetensors"), "rtn", set, true, NULL);
    ASSERT_OK(bal_model_load(&m, scratch("m.safetensors"), &err));
    ASSERT_OK(bal_engine_open(&e, source_path(MODEL), 2, NULL, &err));
    ASSERT_OK(bal_exec_create(&exec, e.pool, &e.kernels, bal_model_max_k(&e.model), &err));
    metric t = open_metric(&m.layers[0].q, &e.model.layers[0].q);
    add_inputs(&t, &e, &exec);
    const double file = loss(&t, t.vision, t.a, t.b), best = fitted(&t, &exec, t.vision);
    const double other = fitted(&t, &exec, t.others);
    printf("loss on vision rows: %.4g, the least %.4g, by the others' moments %.4g\n", file, best,
           other);
    assert_true(file < 1.05 * best && other > 1.2 * best);
    free(t.a);
    free(t.d);
    free(t.vision);
    bal_exec_destroy(&exec);
    bal_engine_close(&e);
    bal_model_unload(&m);
}

/* ---- As calibration runs it --------------------------------------------------------------------
 */

/* The packed layer's weights, and beside them what rows of vision get or nothing. */
static void fill_wide(bal_wide_layer *wide, const bal_exec *e, const bal_decoder_layer *l, bool low)
{
    bal_wide_copy_all(wide, e, l);
    for (int i = 0; low && i < BAL_DECODER_LINEARS; i++) {
        const bal_linear *w = bal_decoder_linear((bal_decoder_layer *)(uintptr_t)l, i);
        wide->w[i].rank = w->rank;
        wide->w[i].low_a = w->low_a;
        wide->w[i].low_b = w->low_b;
    }
}

static double distance(const float *a, const float *b, size_t n)
{
    double sq = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        sq += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sq / size;
}

/* The forward pass of calibration on every sample and block of the file, against the decoder's. */
static void test_probe(void **state)
{
    (void)state;
    static const char *const set[] = {"bits=2", "group=32", NULL};
    quant_case q;
    bal_model m;
    bal_pass pass;
    bal_probe probe;
    bal_wide_layer wide;
    bal_error err;
    quantize(scratch("b.safetensors"), "gptq", set, true, NULL);
    case_open(&q, "tiled", 2);
    ASSERT_OK(bal_model_load(&m, scratch("b.safetensors"), &err));
    const bal_text_config *c = &m.config.text;
    const size_t most = (size_t)q.samples.max_len * (size_t)c->hidden;
    float *in = malloc(most * 4 * sizeof *in), *out = in + most, *want = out + most;
    assert_non_null(in);
    ASSERT_OK(bal_pass_create(&pass, c, q.samples.max_len, &err));
    ASSERT_OK(bal_probe_create(&probe, &q.exec, c, q.samples.max_len, &err));
    ASSERT_OK(bal_wide_layer_create(&wide, &q.exec, &m.layers[0], &err));
    for (int i = 0; i < q.samples.n; i++)
        for (int layer = 0; layer < c->layers; layer++) {
            const bal_sample *s = &q.items[i];
            const size_t floats = (size_t)s->n * (size_t)c->hidden;
            ASSERT_OK(bal_store_read(&q.embeds, i, in, &err));
            bal_pass_place(&pass, s);
            memcpy(want, in, floats * sizeof *in);
            const bal_rows rows = bal_pass_rows(&pass, s->n);
            bal_decoder_block(&q.exec, c, &m.layers[layer], &rows, want, &pass.buf, layer,
                              (bal_taps){0});
            double apart[2];
            for (int low = 0; low < 2; low++) {
                fill_wide(&wide, &q.exec, &m.layers[layer], low != 0);
                bal_probe_block(&q.exec, c, &wide, s->n, in, &probe, &pass, want + most, out);
                apart[low] = distance(out, want, floats);
            }
            assert_true(apart[1] < 1e-7 && apart[0] > 1e-4);
        }
    bal_wide_layer_destroy(&wide);
    bal_probe_destroy(&probe);
    bal_pass_destroy(&pass);
    bal_model_unload(&m);
    case_close(&q);
    free(in);
}

/* With undo=on it is the last step, and one that lowers the error. */
static void test_undo(void **state)
{
    (void)state;
    static const char *const set[] = {"bits=2", "group=32", "undo=on", "polish=sweep", NULL};
    size_t i, g, kept = 0;
    json_t *block, *group;
    json_error_t why;
    quantize(scratch("u.safetensors"), "gptq", set, true, scratch("u.html"));
    json_t *doc = json_load_file(scratch("u.json"), 0, &why);
    assert_non_null(doc);
    json_array_foreach(json_object_get(doc, "blocks"), i, block)
        json_array_foreach(json_object_get(block, "groups"), g, group)
    {
        const json_t *steps = json_object_get(group, "steps");
        const json_t *last = json_array_get(steps, json_array_size(steps) - 1);
        assert_string_equal(json_string_value(json_object_get(last, "name")), "rank");
        kept += json_is_true(json_object_get(last, "kept"));
    }
    json_decref(doc);
    assert_true(kept >= 4);
}

/* ---- Refused -----------------------------------------------------------------------------------
 */

static void test_damaged(void **state)
{
    (void)state;
    static const char *const set[] = {"group=32", NULL};
    bal_model m;
    bal_error err;
    const char *out = scratch("r.safetensors");
    quantize(out, "rtn", set, true, NULL);
    scratch_patch(out, "mlp.up_proj.weight.vision.low_b", "mlp.up_proj.weight.vision.low_c");
    ASSERT_FAILS(BAL_E_FORMAT, "up_proj.weight.vision.low_b is missing",
                 bal_model_load(&m, out, &err));
    scratch_patch(out, "mlp.up_proj.weight.vision.low_c", "mlp.up_proj.weight.vision.low_b");
    scratch_patch(out, "mlp.up_proj.weight.vision.low_a", "mlp.up_proj.weight.vision.low_d");
    ASSERT_FAILS(BAL_E_FORMAT, "belongs to no part", bal_model_load(&m, out, &err));
    scratch_patch(out, "mlp.up_proj.weight.vision.low_d", "mlp.up_proj.weight.vision.low_a");
    ASSERT_OK(bal_model_load(&m, out, &err));
    bal_model_unload(&m);
    scratch_patch(out, "[8,152]", "[152,8]");
    ASSERT_FAILS(BAL_E_FORMAT, "vision.low_", bal_model_load(&m, out, &err));
}

static void test_no_vision(void **state)
{
    (void)state;
    static const char *const set[] = {"rank=8", "rank_rows=vision", "absent=allow"};
    bal_error err;
    bal_quant_opts o = case_options("gptq", set, 3);
    o.calib = scratch("text.jsonl");
    scratch_text(o.calib, "{\"conversations\": [{\"from\": \"human\", \"value\": \"Yes?\"}, "
                          "{\"from\": \"gpt\", \"value\": \"No.\"}]}\n");
    ASSERT_FAILS(BAL_E_ARG, "rank_rows=vision fits a matrix to these",
                 bal_quantize(source_path(MODEL), scratch("n.safetensors"), &o, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_beside),  cmocka_unit_test(test_metric),
        cmocka_unit_test(test_probe),   cmocka_unit_test(test_undo),
        cmocka_unit_test(test_damaged), cmocka_unit_test(test_no_vision),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
