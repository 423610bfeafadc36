/* SPDX-License-Identifier: MIT
 * The backward pass against PyTorch's autograd on two tiny models: mean |g| and mean g^2 per layer,
 * sub-block and modality, one gradient tensor element by element, the losses, and the f16
 * emulation against an fp16 backward. */
#include "quant_case.h"

#include "quant/backward.h"

#include <math.h>

static const char *const modality_name[BAL_MODALITIES] = {"prompt", "answer", "vision"};
static const char *const sub_name[BAL_SUBS] = {"attn", "mlp"};

static double golden(json_t *root, int layer, int sub, int modality, const char *key)
{
    json_t *cell = json_object_get(json_array_get(json_object_get(root, "layers"), (size_t)layer),
                                   sub_name[sub]);
    json_t *v = json_object_get(json_object_get(cell, modality_name[modality]), key);
    assert_non_null(v);
    return json_number_value(v);
}

static double mean_loss(json_t *root)
{
    json_t *samples = json_object_get(root, "samples");
    double sum = 0.0;
    for (size_t i = 0; i < CASE_SAMPLES; i++)
        sum += json_number_value(json_object_get(json_array_get(samples, i), "loss"));
    return sum / CASE_SAMPLES;
}

static void check_near(double got, double want, double relative, const char *what, int layer,
                       int sub, int modality)
{
    if (!(fabs(got - want) <= relative * fabs(want) + 1e-30))
        fail_msg("layer %d %s %s, %s: %.9g, golden %.9g", layer, sub_name[sub],
                 modality_name[modality], what, got, want);
}

static void check_all(const bal_sensitivity *s, json_t *root, const char *g1, const char *g2,
                      double scale, double relative)
{
    for (int i = 0; i < s->layers; i++)
        for (int sub = 0; sub < BAL_SUBS; sub++)
            for (int m = 0; m < BAL_MODALITIES; m++) {
                const bal_sensitivity_cell *c = &s->cell[i][sub];
                check_near(c->g1[m], golden(root, i, sub, m, g1) * scale, relative, g1, i, sub, m);
                check_near(c->g2[m], golden(root, i, sub, m, g2) * scale * scale, 2 * relative, g2,
                           i, sub, m);
            }
}

static void f32_gradients(const char *name)
{
    bal_error err = {0};
    quant_case q;
    bal_sensitivity s;
    case_open(&q, name, 1);
    json_t *root = case_json(name, "gradients.json");
    bal_recipe r = case_recipe();
    ASSERT_OK(
        bal_sensitivity_run(&s, &q.exec, &q.model, &q.samples, &q.embeds, &r, NULL, NULL, &err));
    check_all(&s, root, "abs_mean", "sq_mean", 1.0, 1e-4);
    assert_true(fabs(s.loss - mean_loss(root)) < 1e-5 * s.loss);
    bal_sensitivity_free(&s);
    r.average = BAL_AVERAGE_TOKEN;
    ASSERT_OK(
        bal_sensitivity_run(&s, &q.exec, &q.model, &q.samples, &q.embeds, &r, NULL, NULL, &err));
    check_all(&s, root, "abs_pooled", "sq_pooled", 1.0, 1e-4);
    bal_sensitivity_free(&s);
    json_decref(root);
    case_close(&q);
}

static void test_f32_gqa(void **state)
{
    (void)state;
    f32_gradients("tiled");
}

static void test_f32_mha(void **state)
{
    (void)state;
    f32_gradients("mha");
}

/* Everything of a walk over one sample that a test wants to see. */
typedef struct walk {
    float *h, *mid; /* [layers][n][hidden] */
    float *dh, *dmid;
    double loss;
} walk;

static void walk_forward(const quant_case *q, const bal_sample *s, bal_pass *pass, walk *w)
{
    const bal_text_config *c = &q->model.config.text;
    const size_t floats = (size_t)s->n * (size_t)c->hidden;
    const bal_rows rows = bal_pass_rows(pass, s->n);
    for (int i = 0; i < c->layers; i++) {
        float *h = w->h + (size_t)i * floats;
        memcpy(h + floats, h, floats * sizeof *h);
        bal_decoder_block(&q->exec, c, &q->model.layers[i], &rows, h + floats, &pass->buf, i,
                          (bal_taps){0});
        memcpy(w->mid + (size_t)i * floats, pass->buf.out, floats * sizeof *h); /* MLP output */
        for (size_t k = 0; k < floats; k++)
            w->mid[(size_t)i * floats + k] = h[floats + k] - w->mid[(size_t)i * floats + k];
    }
}

/* Gradients of sample 0 at both sub-blocks of `layer`. */
static void walk_to(const quant_case *q, int layer, bal_backward_mode mode, walk *w)
{
    bal_error err = {0};
    const bal_text_config *c = &q->model.config.text;
    const bal_sample *s = &q->items[0];
    const size_t floats = (size_t)s->n * (size_t)c->hidden, layers = (size_t)c->layers;
    bal_pass pass;
    bal_backward b;
    bal_wide_layer wide;
    w->h = malloc((layers + 1) * floats * sizeof *w->h);
    w->mid = malloc(layers * floats * sizeof *w->mid);
    w->dh = malloc(floats * sizeof *w->dh);
    w->dmid = malloc(floats * sizeof *w->dmid);
    ASSERT_OK(bal_pass_create(&pass, c, s->n, &err));
    ASSERT_OK(bal_backward_create(&b, c, s->n, &err));
    ASSERT_OK(bal_store_read(&q->embeds, 0, w->h, &err));
    walk_forward(q, s, &pass, w);
    ASSERT_OK(bal_backward_loss(&q->exec, &q->model, s, mode, w->h + layers * floats, &w->loss,
                                w->dh, &pass.buf, &err));
    const bal_rows rows = bal_pass_rows(&pass, s->n);
    ASSERT_OK(bal_wide_layer_create(&wide, &q->exec, &q->model.layers[0], &err));
    for (int i = c->layers - 1; i >= layer; i--) {
        bal_wide_copy_all(&wide, &q->exec, &q->model.layers[i]);
        bal_backward_block(&q->exec, c, &q->model.layers[i], &wide, &rows, mode,
                           w->h + (size_t)i * floats, w->mid + (size_t)i * floats, w->dh, w->dmid,
                           &b);
    }
    bal_wide_layer_destroy(&wide);
    bal_backward_destroy(&b);
    bal_pass_destroy(&pass);
}

static void walk_free(walk *w)
{
    free(w->h);
    free(w->mid);
    free(w->dh);
    free(w->dmid);
}

static void test_one_tensor(void **state)
{
    (void)state;
    quant_case q;
    walk w;
    case_open(&q, "tiled", 1);
    const bal_tensor_view *v = case_tensor(&q.calib, "sample0.layer0.attn.grad");
    float *want = case_floats(v);
    walk_to(&q, 0, (bal_backward_mode){1.0, BAL_GRADIENT_F32}, &w);
    double worst = 0.0, largest = 0.0;
    for (size_t i = 0; i < v->n_bytes / sizeof *want; i++) {
        worst = fmax(worst, fabs((double)w.dmid[i] - (double)want[i]));
        largest = fmax(largest, fabs((double)want[i]));
    }
    if (worst > 1e-5 * largest) fail_msg("largest error %g of %g", worst, largest);
    walk_free(&w);
    free(want);
    case_close(&q);
}

/* The loss as a function of the embeddings moves as the gradient says, along a fixed direction. */
static void test_finite_difference(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    walk at, plus, minus;
    const bal_backward_mode mode = {1.0, BAL_GRADIENT_F32};
    case_open(&q, "mha", 1);
    const size_t floats = (size_t)q.items[0].n * (size_t)q.model.config.text.hidden;
    walk_to(&q, 0, mode, &at);
    const double step = 1e-3;
    float *x = malloc(floats * sizeof *x);
    double slope = 0.0;
    for (int sign = 1; sign >= -1; sign -= 2) {
        for (size_t i = 0; i < floats; i++)
            x[i] = at.h[i] + (float)(sign * step * ((int)(i * 7 % 5) - 2));
        ASSERT_OK(bal_store_write(&q.embeds, 0, x, &err));
        walk_to(&q, q.model.config.text.layers, mode, sign > 0 ? &plus : &minus);
    }
    for (size_t i = 0; i < floats; i++) slope += (double)at.dh[i] * ((int)(i * 7 % 5) - 2);
    const double measured = (plus.loss - minus.loss) / (2 * step);
    if (fabs(measured - slope) > 0.01 * fabs(slope))
        fail_msg("slope %g, measured %g", slope, measured);
    walk_free(&at);
    walk_free(&plus);
    walk_free(&minus);
    free(x);
    case_close(&q);
}

/* Sample 0 through the emulation with the loss / 128 of the published environment. */
static void check_f16(const quant_case *q, json_t *root, int layer)
{
    const int hidden = q->model.config.text.hidden;
    const bal_sample *s = &q->items[0];
    double sum[BAL_MODALITIES] = {0}, count[BAL_MODALITIES] = {0};
    walk w;
    walk_to(q, layer, (bal_backward_mode){1.0 / 128, BAL_GRADIENT_F16}, &w);
    for (int t = 0; t < s->n; t++)
        for (int c = 0; c < hidden; c++) {
            const double g = (double)w.dmid[(size_t)t * (size_t)hidden + (size_t)c];
            sum[s->modality[t]] += fabs(g);
            count[s->modality[t]] += 1.0;
            assert_true(g == rint(g * 0x1p24) * 0x1p-24 || fabs(g) > 0x1p-14);
        }
    json_t *cell =
        json_object_get(json_array_get(json_object_get(root, "layers"), (size_t)layer), "attn");
    for (int m = 0; m < BAL_MODALITIES; m++) {
        json_t *v = json_object_get(json_object_get(cell, modality_name[m]), "abs");
        const double want = json_number_value(json_array_get(v, 0));
        check_near(sum[m] / count[m], want, 0.02, "f16 mean |g|", layer, BAL_SUB_ATTN, m);
    }
    walk_free(&w);
}

static void test_f16(void **state)
{
    (void)state;
    static const char *const names[] = {"tiled", "mha"};
    for (int i = 0; i < 2; i++) {
        quant_case q;
        case_open(&q, names[i], 1);
        json_t *root = case_json(names[i], "gradients_f16.json");
        for (int l = 0; l < q.model.config.text.layers; l++) check_f16(&q, root, l);
        json_decref(root);
        case_close(&q);
    }
}

/* So small a loss that nothing survives in f16. */
static void test_f16_underflow(void **state)
{
    (void)state;
    quant_case q;
    walk w;
    case_open(&q, "tiled", 1);
    walk_to(&q, 2, (bal_backward_mode){0x1p-30, BAL_GRADIENT_F16}, &w);
    for (int i = 0; i < q.items[0].n * q.model.config.text.hidden; i++)
        assert_true(w.dmid[i] == 0.0f);
    walk_free(&w);
    case_close(&q);
}

/* A final norm near zero makes every gradient that small; the sentence names the way out. */
static void test_f16_underflow_is_an_error(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    bal_sensitivity s;
    case_open(&q, "tiled", 1);
    bal_recipe r = case_recipe();
    float *tiny = malloc((size_t)q.model.config.text.hidden * sizeof *tiny);
    for (int i = 0; i < q.model.config.text.hidden; i++) tiny[i] = 1e-9f;
    q.model.final_norm = tiny;
    r.gradient = BAL_GRADIENT_F16;
    ASSERT_FAILS(
        BAL_E_NUMERIC,
        "layer 0, attention: every answer gradient is zero in f16 "
        "arithmetic; set gradient=f32",
        bal_sensitivity_run(&s, &q.exec, &q.model, &q.samples, &q.embeds, &r, NULL, NULL, &err));
    r.gradient = BAL_GRADIENT_F32;
    ASSERT_OK(
        bal_sensitivity_run(&s, &q.exec, &q.model, &q.samples, &q.embeds, &r, NULL, NULL, &err));
    bal_sensitivity_free(&s);
    case_close(&q);
    free(tiny);
}

static void test_ratio_and_floor(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    bal_sensitivity s;
    case_open(&q, "tiled", 1);
    bal_recipe r = case_recipe();
    json_t *root = case_json("tiled", "mbq_w3_mae.json");
    ASSERT_OK(
        bal_sensitivity_run(&s, &q.exec, &q.model, &q.samples, &q.embeds, &r, NULL, NULL, &err));
    for (int i = 0; i < s.layers; i++)
        for (int sub = 0; sub < BAL_SUBS; sub++) {
            json_t *cell = json_object_get(
                json_array_get(json_object_get(root, "ratios"), (size_t)i), sub_name[sub]);
            const double raw = json_number_value(json_object_get(cell, "r_raw"));
            check_near(s.cell[i][sub].ratio, raw, 1e-4, "ratio", i, sub, BAL_VISION);
            check_near(s.cell[i][sub].weight, json_number_value(json_object_get(cell, "r")), 1e-4,
                       "floored ratio", i, sub, BAL_VISION);
        }
    bal_sensitivity_free(&s);
    r.floor = BAL_FLOOR_NONE;
    r.language = BAL_LANGUAGE_TEXT;
    ASSERT_OK(
        bal_sensitivity_run(&s, &q.exec, &q.model, &q.samples, &q.embeds, &r, NULL, NULL, &err));
    const bal_sensitivity_cell *c = &s.cell[0][BAL_SUB_MLP];
    /* vision over text: the mean over both kinds of text lies between theirs */
    const double text = c->g1[BAL_VISION] / c->ratio;
    assert_true(text > c->g1[BAL_PROMPT] && text < c->g1[BAL_ANSWER]);
    assert_true(c->weight == c->ratio);
    bal_sensitivity_free(&s);
    json_decref(root);
    case_close(&q);
}

static bal_status run(quant_case *q, const bal_recipe *r, bal_error *err)
{
    bal_sensitivity s;
    const bal_status st =
        bal_sensitivity_run(&s, &q->exec, &q->model, &q->samples, &q->embeds, r, NULL, NULL, err);
    bal_sensitivity_free(&s);
    return st;
}

static void test_refusals(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    case_open(&q, "tiled", 1);
    const bal_recipe r = case_recipe();
    bal_sample *s = &q.items[1];
    uint8_t *tags = malloc((size_t)s->n), *kept = s->modality;
    memset(tags, BAL_VISION, (size_t)s->n);
    s->modality = tags;
    ASSERT_FAILS(BAL_E_ARG, "sample 1: no answer token", run(&q, &r, &err));
    s->modality = kept;
    free(tags);
    for (int i = 0; i < CASE_SAMPLES; i++)
        for (int t = 0; t < q.items[i].n; t++)
            if (q.items[i].modality[t] == BAL_VISION) q.items[i].modality[t] = BAL_PROMPT;
    ASSERT_FAILS(BAL_E_ARG, "none of the 3 calibration samples has vision", run(&q, &r, &err));
    q.model.config.has_vision = 0; /* without a tower it is no error, and the ratio is 1 */
    bal_sensitivity out;
    ASSERT_OK(
        bal_sensitivity_run(&out, &q.exec, &q.model, &q.samples, &q.embeds, &r, NULL, NULL, &err));
    assert_true(out.cell[1][BAL_SUB_ATTN].ratio == 1.0 && out.cell[1][BAL_SUB_ATTN].weight == 1.0);
    bal_sensitivity_free(&out);
    float *x = malloc((size_t)s->n * (size_t)q.embeds.cols * sizeof *x);
    ASSERT_OK(bal_store_read(&q.embeds, 1, x, &err));
    x[5 * q.embeds.cols + 7] = NAN;
    ASSERT_OK(bal_store_write(&q.embeds, 1, x, &err));
    ASSERT_FAILS(BAL_E_NUMERIC,
                 "sample 1, layer -1: the input embedding is NaN or Inf at position 5, "
                 "channel 7",
                 run(&q, &r, &err));
    free(x);
    case_close(&q);
}

/* The golden samples 23 times over are more than one batch; means stay what they were. */
static void test_many_batches(void **state)
{
    (void)state;
    enum { COPIES = 23, MANY = COPIES * CASE_SAMPLES };
    bal_error err = {0};
    quant_case q;
    bal_sample items[MANY];
    bal_store embeds;
    bal_sensitivity s;
    case_open(&q, "tiled", 1);
    const bal_recipe r = case_recipe();
    for (int i = 0; i < MANY; i++) items[i] = q.items[i % CASE_SAMPLES];
    const bal_samples many = {.n = MANY, .max_len = q.samples.max_len, .items = items};
    float *x = malloc((size_t)many.max_len * (size_t)q.embeds.cols * sizeof *x);
    ASSERT_OK(bal_store_create(&embeds, "/tmp", &many, q.embeds.cols, &err));
    for (int i = 0; i < MANY; i++) {
        ASSERT_OK(bal_store_read(&q.embeds, i % CASE_SAMPLES, x, &err));
        ASSERT_OK(bal_store_write(&embeds, i, x, &err));
    }
    ASSERT_OK(bal_sensitivity_run(&s, &q.exec, &q.model, &many, &embeds, &r, NULL, NULL, &err));
    json_t *root = case_json("tiled", "gradients.json");
    check_all(&s, root, "abs_mean", "sq_mean", 1.0, 1e-4);
    assert_true(fabs(s.loss - mean_loss(root)) < 1e-5 * s.loss);
    json_decref(root);
    bal_sensitivity_free(&s);
    bal_store_destroy(&embeds);
    free(x);
    case_close(&q);
}

static int stop_at_two(void *ctx, const char *stage, long done, long total)
{
    (void)ctx;
    assert_string_equal(stage, "sensitivity");
    assert_int_equal(total, CASE_SAMPLES);
    return done >= 2;
}

static void test_cancel(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    bal_sensitivity s;
    case_open(&q, "mha", 1);
    const bal_recipe r = case_recipe();
    ASSERT_FAILS(BAL_E_CANCELLED, "cancelled",
                 bal_sensitivity_run(&s, &q.exec, &q.model, &q.samples, &q.embeds, &r, stop_at_two,
                                     NULL, &err));
    case_close(&q);
}

static void test_threads(void **state)
{
    (void)state;
    bal_error err = {0};
    static const int threads[] = {1, 2, 7};
    bal_sensitivity s[3];
    for (int i = 0; i < 3; i++) {
        quant_case q;
        case_open(&q, "tiled", threads[i]);
        const bal_recipe r = case_recipe();
        ASSERT_OK(bal_sensitivity_run(&s[i], &q.exec, &q.model, &q.samples, &q.embeds, &r, NULL,
                                      NULL, &err));
        assert_memory_equal(s[i].cell, s[0].cell, (size_t)s[0].layers * sizeof *s[0].cell);
        case_close(&q);
    }
    for (int i = 0; i < 3; i++) bal_sensitivity_free(&s[i]);
}

/* Mean of one column of the tokens' gradients over a modality. */
static double token_mean(const quant_case *q, const bal_store *g, int column, int modality)
{
    bal_error err = {0};
    double sum = 0.0;
    long n = 0;
    for (int i = 0; i < CASE_SAMPLES; i++) {
        const bal_sample *s = &q->items[i];
        float *rows = malloc((size_t)s->n * (size_t)g->cols * sizeof *rows);
        ASSERT_OK(bal_store_read(g, i, rows, &err));
        for (int t = 0; t < s->n; t++) {
            const double v = (double)rows[t * g->cols + column];
            assert_true(v >= 0.0);
            if (s->modality[t] != modality) continue;
            sum += v;
            n++;
        }
        free(rows);
    }
    return sum / (double)n;
}

/* Squared gradients of single tokens: those at the outputs of o and down average to the cells. In
 * the last block a vision token's own output reaches no answer, its keys and values do. */
static void test_tokens(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    bal_sensitivity s;
    bal_store g;
    case_open(&q, "tiled", 2);
    bal_recipe r = case_recipe();
    r.average = BAL_AVERAGE_TOKEN;
    const int layers = q.model.config.text.layers;
    ASSERT_OK(bal_store_create(&g, "/tmp", &q.samples, BAL_GROUPS * layers, &err));
    q.samples.gradients = &g;
    ASSERT_OK(
        bal_sensitivity_run(&s, &q.exec, &q.model, &q.samples, &q.embeds, &r, NULL, NULL, &err));
    for (int i = 0; i < layers; i++)
        for (int m = 0; m < BAL_MODALITIES; m++) {
            const int at = BAL_GROUPS * i;
            check_near(token_mean(&q, &g, at + BAL_GROUP_O, m), s.cell[i][BAL_SUB_ATTN].g2[m], 1e-5,
                       "o", i, BAL_SUB_ATTN, m);
            check_near(token_mean(&q, &g, at + BAL_GROUP_DOWN, m), s.cell[i][BAL_SUB_MLP].g2[m],
                       1e-5, "down", i, BAL_SUB_MLP, m);
        }
    const int last = BAL_GROUPS * (layers - 1);
    assert_true(token_mean(&q, &g, last + BAL_GROUP_O, BAL_VISION) == 0.0);
    assert_true(token_mean(&q, &g, last + BAL_GROUP_GATE_UP, BAL_VISION) == 0.0);
    assert_true(token_mean(&q, &g, last + BAL_GROUP_QKV, BAL_VISION) > 0.0);
    assert_true(token_mean(&q, &g, BAL_GROUP_GATE_UP, BAL_VISION) > 0.0);
    bal_sensitivity_free(&s);
    bal_store_destroy(&g);
    case_close(&q);
}

/* The controls of the floor: one ratio for all, and every other layer's. */
static void test_floor_controls(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    bal_sensitivity flat, reversed;
    case_open(&q, "tiled", 2);
    bal_recipe r = case_recipe();
    r.floor = BAL_FLOOR_FLAT;
    ASSERT_OK(
        bal_sensitivity_run(&flat, &q.exec, &q.model, &q.samples, &q.embeds, &r, NULL, NULL, &err));
    r.floor = BAL_FLOOR_REVERSED;
    ASSERT_OK(bal_sensitivity_run(&reversed, &q.exec, &q.model, &q.samples, &q.embeds, &r, NULL,
                                  NULL, &err));
    const int last = flat.layers - 1;
    for (int i = 0; i <= last; i++) {
        assert_true(flat.cell[i][0].weight == flat.cell[0][0].weight);
        assert_true(reversed.cell[i][1].weight == flat.cell[last - i][1].ratio);
    }
    assert_true(flat.cell[0][0].weight == (flat.cell[0][0].ratio + flat.cell[last][0].ratio) / 2 ||
                last != 1);
    bal_sensitivity_free(&flat);
    bal_sensitivity_free(&reversed);
    case_close(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_floor_controls),
        cmocka_unit_test(test_f32_gqa),
        cmocka_unit_test(test_f32_mha),
        cmocka_unit_test(test_one_tensor),
        cmocka_unit_test(test_finite_difference),
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_f16_underflow),
        cmocka_unit_test(test_f16_underflow_is_an_error),
        cmocka_unit_test(test_ratio_and_floor),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_many_batches),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
