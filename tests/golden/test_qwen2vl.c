/* SPDX-License-Identifier: MIT
 * Qwen2-VL and Qwen2.5-VL tap by tap against transformers, with rotary positions and 64 greedy
 * tokens: a small picture, one above the limit of pixels, a very long one, two pictures, text only;
 * published names with a flat config and own head, new names with a tied head in bf16. Gradients
 * against autograd's, and quantized files against their simulated twins. Cases come from
 * make/make_qwen2vl.py. */
#include "golden/taps.h"
#include "golden/unpack.h"
#include "unit/scratch.h"

#include "ballast_quant.h"
#include "format/json.h"
#include "quant/sensitivity.h"
#include "run/sequence.h"

enum { MAX_IMAGES = 4, GREEDY = 64, ANSWER = 12 };

typedef struct qwen_case {
    bal_json_doc doc;
    char dir[512];
    bal_engine engine;
    bal_image images[MAX_IMAGES];
    int sizes[MAX_IMAGES][2], n_images;
    tap_check check;
    bal_chat_tokens prompt;
    bal_sequence seq;
    bal_session session;
} qwen_case;

static int64_t golden_int(const tap_check *c, const char *name, size_t i)
{
    const bal_tensor_view *t = tap_tensor(c, name);
    int64_t v;
    assert_non_null(t);
    assert_true(8 * i < t->n_bytes);
    memcpy(&v, t->data + 8 * i, 8);
    return v;
}

static void open_images(qwen_case *q, const bal_json *root)
{
    bal_error err;
    char path[1024];
    const bal_json images = bal_json_get(root, "images");
    for (size_t i = 0; i < bal_json_len(&images); i++) {
        const bal_json item = bal_json_at(&images, i);
        const char *file;
        ASSERT_OK(bal_json_as_str(&item, &file, &err));
        snprintf(path, sizeof path, "%s/%s", q->dir, file);
        ASSERT_OK(bal_image_open(&q->images[i], path, NULL, &err));
        q->sizes[i][0] = q->images[i].width;
        q->sizes[i][1] = q->images[i].height;
        q->n_images++;
    }
}

/* The prompt as transformers tokenized it, each placeholder a slot. */
static void read_prompt(qwen_case *q)
{
    const bal_tensor_view *t = tap_tensor(&q->check, "prompt_ids");
    assert_non_null(t);
    const size_t n = (size_t)t->n_bytes / 8;
    q->prompt = (bal_chat_tokens){.ids = calloc(n, 4), .tags = calloc(n, 1), .n = n};
    assert_true(q->prompt.ids && q->prompt.tags);
    for (size_t i = 0; i < n; i++) {
        q->prompt.ids[i] = (int32_t)golden_int(&q->check, "prompt_ids", i);
        const bool slot = q->prompt.ids[i] == q->engine.model.config.image_token;
        q->prompt.tags[i] = slot ? BAL_TAG_IMAGE_SLOT : BAL_TAG_PROMPT;
    }
}

/* model NULL: the case's own */
static void open_case(qwen_case *q, const char *name, const char *model)
{
    bal_error err = {0};
    char path[1024];
    const char *own;
    memset(q, 0, sizeof *q);
    q->check.limit = 1e-3;
    snprintf(q->dir, sizeof q->dir, "%s/%s", source_path("tests/golden"), name);
    snprintf(path, sizeof path, "%s/taps.safetensors", q->dir);
    ASSERT_OK(bal_tensor_set_open(&q->check.golden, path, &err));
    snprintf(path, sizeof path, "%s/case.json", q->dir);
    ASSERT_OK(bal_json_load(&q->doc, path, 1 << 20, &err));
    const bal_json root = bal_json_root(&q->doc);
    ASSERT_OK(bal_json_str(&root, "model", &own, &err));
    snprintf(path, sizeof path, "%s/%s", q->dir, own);
    ASSERT_OK(bal_engine_open(&q->engine, model ? model : path, 2, NULL, &err));
    open_images(q, &root);
    read_prompt(q);
    ASSERT_OK(bal_sequence_build(&q->seq, &q->engine, &q->prompt, (const int(*)[2])q->sizes,
                                 q->n_images, BAL_VIEW_AUTO, 0, 0, &err));
    ASSERT_OK(bal_session_create(&q->session, &q->engine, 512, &err));
}

static void close_case(qwen_case *q)
{
    bal_session_destroy(&q->session);
    bal_sequence_free(&q->seq);
    bal_chat_tokens_deinit(&q->prompt);
    for (int i = 0; i < q->n_images; i++) bal_image_free(&q->images[i]);
    bal_engine_close(&q->engine);
    bal_json_close(&q->doc);
    bal_tensor_set_close(&q->check.golden);
}

static void check_tokens(const qwen_case *q)
{
    assert_int_equal(tap_tensor(&q->check, "input_ids")->n_bytes / 8, q->seq.n);
    for (int i = 0; i < q->seq.n; i++) {
        const bal_token_info *t = &q->seq.info[i];
        assert_int_equal(t->id, golden_int(&q->check, "input_ids", (size_t)i));
        assert_int_equal(t->modality == BAL_VISION, t->id == q->engine.model.config.image_token);
        for (int a = 0; a < 3; a++) {
            const int64_t want = golden_int(&q->check, "positions", (size_t)(3 * i + a));
            if (t->pos[a] != want)
                fail_msg("token %d, coordinate %d: position %d, wanted %d", i, a, t->pos[a],
                         (int)want);
        }
    }
}

static void check_pixels(qwen_case *q)
{
    const bal_config *c = &q->engine.model.config;
    const bal_vision_config *v = &c->vision;
    const bal_view_plan *p = &q->seq.plans[0];
    const int size = v->patch_size, merge = v->shuffle;
    const size_t row = 3 * (size_t)v->temporal * (size_t)(size * size);
    bal_error err;
    if (q->n_images == 0 || !tap_tensor(&q->check, "pixel_values")) return;
    float *pixels = malloc(p->n_floats * sizeof *pixels);
    assert_non_null(pixels);
    ASSERT_OK(bal_family_of(c)->pixels(c, p, &q->images[0], pixels, &err));
    const float *want = (const float *)(const void *)tap_tensor(&q->check, "pixel_values")->data;
    for (int i = 0; i < p->n_tokens * merge * merge; i++)
        for (size_t j = 0; j < row; j++) {
            const int token = i / (merge * merge), inner = i % (merge * merge);
            const int y = (token / p->w0 * merge + inner / merge) * size + (int)j / size % size;
            const int x = (token % p->w0 * merge + inner % merge) * size + (int)j % size;
            const int channel = (int)j / (size * size * v->temporal);
            float value;
            memcpy(&value, want + (size_t)i * row + j, sizeof value);
            if (pixels[(channel * p->resized_h + y) * p->resized_w + x] != value)
                fail_msg("patch %d, value %zu is not the original's", i, j);
        }
    free(pixels);
}

typedef struct logit_rows {
    tap_check *check;
    int vocab;
    float *all; /* [positions][vocab] */
} logit_rows;

static void see_logits(void *ctx, int row, const float *logits)
{
    logit_rows *l = ctx;
    tap_compare(l->check, "logits", (size_t)row * (size_t)l->vocab, logits, (size_t)l->vocab);
}

/* Greedily, whatever the tokens are. */
static void check_greedy(qwen_case *q)
{
    bal_error err;
    const int vocab = q->engine.model.config.text.vocab;
    for (size_t i = 0; i < GREEDY; i++) {
        int best = 0;
        for (int j = 1; j < vocab; j++)
            if (q->session.logits[j] > q->session.logits[best]) best = j;
        const int64_t want = golden_int(&q->check, "greedy", i);
        if (best != want) fail_msg("answer token %zu is %d, wanted %d", i, best, (int)want);
        ASSERT_OK(bal_session_push(&q->session, best, &err));
    }
}

static void run_case(const char *name)
{
    bal_error err = {0};
    static qwen_case q;
    open_case(&q, name, NULL);
    check_tokens(&q);
    check_pixels(&q);
    const bal_config *config = &q.engine.model.config;
    float *embeds = malloc((size_t)q.seq.n * (size_t)config->text.hidden * sizeof *embeds);
    assert_non_null(embeds);
    const bal_taps taps = {tap_seen, &q.check};
    ASSERT_OK(bal_sequence_embed(&q.seq, &q.engine, &q.session.exec, q.images, embeds, taps, &err));
    logit_rows rows = {.check = &q.check, .vocab = config->text.vocab};
    /* sequences longer than a chunk have no per-layer taps in their golden files */
    const bal_taps blocks = q.seq.n <= 128 ? taps : (bal_taps){0};
    ASSERT_OK(bal_session_append(&q.session, q.seq.info, embeds, q.seq.n, 0, see_logits, &rows,
                                 blocks, &err));
    printf("%s: %d positions, %d taps compared, worst %.2g of its deviation at %s\n", name, q.seq.n,
           q.check.compared, q.check.worst, q.check.worst_name);
    assert_true(q.check.compared > q.seq.n);
    if (q.check.first_bad[0]) fail_msg("%s: %s", name, q.check.first_bad);
    check_greedy(&q);
    free(embeds);
    close_case(&q);
}

/* ---- Gradients ---------------------------------------------------------------------------------
 */

/* One sample whose last ANSWER tokens are the answer: mean |g| over them and over picture tokens.
 */
static void check_gradients(const char *name)
{
    static qwen_case q;
    bal_error err = {0};
    open_case(&q, name, NULL);
    const bal_engine *e = &q.engine;
    const int n = q.seq.n, hidden = e->model.config.text.hidden;
    int32_t *ids = calloc((size_t)n, sizeof *ids);
    uint8_t *modality = calloc((size_t)n, 1);
    int32_t(*pos)[3] = calloc((size_t)n, sizeof *pos);
    float *rows = malloc((size_t)n * (size_t)hidden * sizeof *rows);
    assert_true(ids && modality && pos && rows);
    for (int i = 0; i < n; i++) {
        ids[i] = q.seq.info[i].id;
        modality[i] = i >= n - ANSWER ? BAL_ANSWER : q.seq.info[i].modality;
        memcpy(pos[i], q.seq.info[i].pos, sizeof pos[i]);
    }
    bal_sample sample = {.n = n, .ids = ids, .modality = modality, .pos = pos};
    const bal_samples samples = {.n = 1, .max_len = n, .items = &sample};
    bal_store embeds;
    bal_recipe recipe;
    bal_sensitivity out;
    ASSERT_OK(bal_recipe_load(&recipe, "mbq", &err));
    ASSERT_OK(bal_recipe_assign(&recipe, "gradient=f32", &err));
    ASSERT_OK(bal_store_create(&embeds, scratch_dir, &samples, hidden, &err));
    ASSERT_OK(bal_sequence_embed(&q.seq, e, &q.session.exec, q.images, rows, (bal_taps){0}, &err));
    ASSERT_OK(bal_store_write(&embeds, 0, rows, &err));
    ASSERT_OK(bal_sensitivity_run(&out, &q.session.exec, &e->model, &samples, &embeds, &recipe,
                                  NULL, NULL, &err));
    const bal_json root = bal_json_root(&q.doc), list = bal_json_get(&root, "gradients");
    assert_int_equal(bal_json_len(&list), BAL_SUBS * (size_t)out.layers);
    for (int i = 0; i < BAL_SUBS * out.layers; i++) {
        const bal_json pair = bal_json_at(&list, (size_t)i);
        static const bal_modality kinds[] = {BAL_ANSWER, BAL_VISION};
        for (size_t k = 0; k < 2; k++) {
            const bal_json item = bal_json_at(&pair, k);
            const double want = json_number_value(item.value);
            const double got = out.cell[i / BAL_SUBS][i % BAL_SUBS].g1[kinds[k]];
            /* nothing flows into pictures behind the last attention */
            if (!(k == 1 || want > 0) || !(fabs(got - want) <= 1e-4 * want))
                fail_msg("%s, half block %d, modality %d: %.9g, wanted %.9g", name, i,
                         (int)kinds[k], got, want);
        }
    }
    bal_sensitivity_free(&out);
    bal_store_destroy(&embeds);
    free(rows);
    free(pos);
    free(modality);
    free(ids);
    close_case(&q);
}

/* ---- Quantized ---------------------------------------------------------------------------------
 */

static void keep_logits(void *ctx, int row, const float *logits)
{
    const logit_rows *l = ctx;
    memcpy(l->all + (size_t)row * (size_t)l->vocab, logits, (size_t)l->vocab * sizeof *logits);
}

/* Logits of all positions of an open case, [n][vocab], malloc'ed. */
static float *logits_of(qwen_case *q, size_t *n)
{
    bal_error err = {0};
    const bal_text_config *c = &q->engine.model.config.text;
    float *embeds = malloc((size_t)q->seq.n * (size_t)c->hidden * sizeof *embeds);
    *n = (size_t)q->seq.n * (size_t)c->vocab;
    logit_rows rows = {.vocab = c->vocab, .all = malloc(*n * sizeof(float))};
    assert_true(embeds && rows.all);
    bal_session_truncate(&q->session, 0);
    ASSERT_OK(bal_sequence_embed(&q->seq, &q->engine, &q->session.exec, q->images, embeds,
                                 (bal_taps){0}, &err));
    ASSERT_OK(bal_session_append(&q->session, q->seq.info, embeds, q->seq.n, 0, keep_logits, &rows,
                                 (bal_taps){0}, &err));
    free(embeds);
    return rows.all;
}

static double distance(const float *want, const float *got, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)want[i] - (double)got[i]));
    return worst / tap_deviation(want, n);
}

/* Pictures and text are calibrated on, so positions of both kinds pass through the search. */
static void check_quantized(const char *name, const char *recipe, const char *bits,
                            const char *tower, double to_float)
{
    static qwen_case q;
    bal_error err = {0};
    char out[1100], model[1100];
    const char *set[] = {bits, "group=32", "template=legacy", tower, "projector=8"};
    const bal_quant_opts opts = {.size = sizeof opts,
                                 .threads = 2,
                                 .recipe = recipe,
                                 .set = set,
                                 .n_set = tower ? 5 : 3,
                                 .calib = source_path("tests/golden/calib/calib.jsonl"),
                                 .force = true};
    size_t n;
    open_case(&q, name, NULL);
    float *plain = logits_of(&q, &n);
    snprintf(model, sizeof model, "%s", q.engine.model.path);
    close_case(&q);
    snprintf(out, sizeof out, "%s", scratch("q.safetensors"));
    ASSERT_OK(bal_quantize(model, out, &opts, &err));
    open_case(&q, name, out);
    float *packed = logits_of(&q, &n);
    unpacked u;
    unpack_all(&u, &q.engine.model);
    const bal_config *c = &q.engine.model.config;
    assert_int_equal(u.decoder, c->text.layers * BAL_DECODER_LINEARS);
    assert_int_equal(u.tower, tower ? c->vision.layers * (c->vision.gated ? 7 : 6) : 0);
    assert_int_equal(u.projector, tower ? 2 : 0);
    float *twin = logits_of(&q, &n);
    const double error = distance(plain, twin, n), rounding = distance(twin, packed, n);
    printf("%s %s %s: packed differs from its twin by %.2g, both from float by %.2g\n", name,
           recipe, bits, rounding, error);
    assert_true(rounding > 0 && rounding < 8e-3);
    assert_true(error > 0 && error < to_float);
    unpacked_free(&u);
    free(plain);
    free(packed);
    free(twin);
    close_case(&q);
}

static void test_gradients(void **state)
{
    (void)state;
    check_gradients("qwen2_vl/small");
    check_gradients("qwen2_vl/two");
    check_gradients("qwen2_5_vl/small");
    check_gradients("qwen2_5_vl/two");
}

static void test_quantized(void **state)
{
    (void)state;
    static const char *const cases[] = {"qwen2_vl/small", "qwen2_vl/two", "qwen2_5_vl/small",
                                        "qwen2_5_vl/two"};
    for (size_t i = 0; i < 4; i++) {
        check_quantized(cases[i], i % 2 ? "rtn" : "awq", "bits=4", NULL, 4.0);
        check_quantized(cases[i], "mbq", "bits=4", NULL, 4.0);
        check_quantized(cases[i], "mbq+", "bits=8", i % 2 ? "vision=6" : "vision=8",
                        i % 2 ? 2.0 : 0.4);
    }
}

#define CASE(family, name)                                                                         \
    static void test_##family##_##name(void **state)                                               \
    {                                                                                              \
        (void)state;                                                                               \
        run_case(#family "/" #name);                                                               \
    }
CASE(qwen2_vl, small)
CASE(qwen2_vl, large)
CASE(qwen2_vl, long)
CASE(qwen2_vl, two)
CASE(qwen2_vl, text)
CASE(qwen2_5_vl, small)
CASE(qwen2_5_vl, large)
CASE(qwen2_5_vl, long)
CASE(qwen2_5_vl, two)
CASE(qwen2_5_vl, text)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qwen2_vl_small),   cmocka_unit_test(test_qwen2_vl_large),
        cmocka_unit_test(test_qwen2_vl_long),    cmocka_unit_test(test_qwen2_vl_two),
        cmocka_unit_test(test_qwen2_vl_text),    cmocka_unit_test(test_qwen2_5_vl_small),
        cmocka_unit_test(test_qwen2_5_vl_large), cmocka_unit_test(test_qwen2_5_vl_long),
        cmocka_unit_test(test_qwen2_5_vl_two),   cmocka_unit_test(test_qwen2_5_vl_text),
        cmocka_unit_test(test_gradients),        cmocka_unit_test(test_quantized),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
