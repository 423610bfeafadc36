/* SPDX-License-Identifier: MIT
 * Calibration samples against what transformers makes of the same file: token ids, modality of each
 * position, embeddings. And the options that change them. */
#include "check.h"

#include "quant/gather.h"

#include <math.h>

typedef struct bench {
    bal_engine engine;
    bal_exec exec;
    bal_calib calib;
    size_t *order, n;
    bal_recipe recipe;
} bench;

static void bench_open(bench *b, const char *model)
{
    bal_error err;
    *b = (bench){0};
    ASSERT_OK(bal_engine_open(&b->engine, source_path(model), 2, NULL, &err));
    ASSERT_OK(bal_exec_create(&b->exec, b->engine.pool, &b->engine.kernels,
                              bal_model_max_k(&b->engine.model), &err));
    ASSERT_OK(bal_calib_open(&b->calib, source_path("tests/golden/calib/calib.jsonl"), &err));
    ASSERT_OK(bal_calib_choose(&b->calib, 0, 0, &b->order, &b->n, &err));
    ASSERT_OK(bal_recipe_load(&b->recipe, "mbq", &err));
}

static void bench_close(bench *b)
{
    free(b->order);
    bal_calib_close(&b->calib);
    bal_exec_destroy(&b->exec);
    bal_engine_close(&b->engine);
}

static void gather(bench *b, bal_gathered *g)
{
    bal_error err;
    ASSERT_OK(bal_gather_layout(g, &b->calib, b->order, b->n, &b->engine, &b->recipe, &err));
    ASSERT_OK(bal_gather_encode(g, &b->calib, b->order, &b->engine, &b->exec, &b->recipe, "/tmp",
                                NULL, NULL, &err));
}

static const bal_tensor_view *golden(const bal_tensor_set *set, int sample, const char *what)
{
    char name[64];
    snprintf(name, sizeof name, "sample%d.%s", sample, what);
    const bal_tensor_view *t = bal_tensor_find(set, name);
    assert_non_null(t);
    return t;
}

static void compare_embeds(const bal_gathered *g, int i, const bal_tensor_view *want)
{
    bal_error err;
    const size_t n = (size_t)want->n_bytes / sizeof(float);
    float *rows = malloc(want->n_bytes), biggest = 0;
    ASSERT_OK(bal_store_read(&g->embeds, i, rows, &err));
    for (size_t k = 0; k < n; k++) {
        float w;
        memcpy(&w, want->data + 4 * k, 4);
        biggest = fmaxf(biggest, fabsf(rows[k] - w));
    }
    free(rows);
    assert_true(biggest < 2e-4f);
}

static void compare(const char *model, const char *file)
{
    bench b;
    bal_gathered g;
    bal_tensor_set set;
    bal_error err;
    bench_open(&b, model);
    gather(&b, &g);
    ASSERT_OK(bal_tensor_set_open(&set, source_path(file), &err));
    assert_int_equal(g.samples.n, 3);
    assert_int_equal(g.n_images, 3);
    int64_t vision = 0;
    for (int i = 0; i < 3; i++) {
        const bal_sample *s = &g.samples.items[i];
        const bal_tensor_view *ids = golden(&set, i, "input_ids");
        const bal_tensor_view *modality = golden(&set, i, "modality");
        assert_int_equal(s->n, ids->shape[0]);
        for (int k = 0; k < s->n; k++) {
            int64_t id;
            memcpy(&id, ids->data + 8 * (size_t)k, 8);
            assert_int_equal(s->ids[k], id);
            assert_int_equal(s->modality[k], modality->data[k]);
            vision += s->modality[k] == BAL_VISION;
        }
        compare_embeds(&g, i, golden(&set, i, "inputs_embeds"));
    }
    assert_int_equal(g.tokens[BAL_VISION], vision);
    bal_tensor_set_close(&set);
    bal_gathered_free(&g);
    bench_close(&b);
}

static void test_tiled(void **state)
{
    (void)state;
    compare("tests/golden/tiled/model", "tests/golden/tiled/calib.safetensors");
}

static void test_mha(void **state)
{
    (void)state;
    compare("tests/golden/mha/model", "tests/golden/mha/calib.safetensors");
}

static int runs_of(const bal_sample *s, bal_modality m)
{
    int runs = 0;
    for (int i = 0; i < s->n; i++)
        runs += s->modality[i] == m && (i == 0 || s->modality[i - 1] != m);
    return runs;
}

/* turns last keeps one run of answer tokens of two, views single makes 16 + 1 tokens a picture. */
static void test_options(void **state)
{
    (void)state;
    bench b;
    bal_gathered all, last, single;
    bench_open(&b, "tests/golden/tiled/model");
    gather(&b, &all);
    b.recipe.turns = BAL_TURNS_LAST;
    gather(&b, &last);
    assert_int_equal(runs_of(&all.samples.items[2], BAL_ANSWER), 2);
    assert_int_equal(runs_of(&last.samples.items[2], BAL_ANSWER), 1);
    assert_int_equal(last.samples.items[2].n, all.samples.items[2].n);
    assert_string_equal(last.sha256, all.sha256);
    b.recipe.views = BAL_VIEWS_SINGLE;
    gather(&b, &single);
    assert_int_equal(single.tokens[BAL_VISION], 3 * 17);
    bal_gathered_free(&all);
    bal_gathered_free(&last);
    bal_gathered_free(&single);
    bench_close(&b);
}

/* The fallback form: "### Human: " and "### Assistant: ", no token of ChatML, and the mask that it
 * had: in the first sample the header of the answer, two tokens of the human turn, the end. */
static void test_legacy_template(void **state)
{
    (void)state;
    bench b;
    bal_gathered g;
    bench_open(&b, "tests/golden/tiled/model");
    b.recipe.chat_template = BAL_TEMPLATE_LEGACY;
    gather(&b, &g);
    const bal_sample *s = &g.samples.items[0];
    char text[4096] = "", answer[4096] = "";
    for (int i = 0; i < s->n; i++) {
        assert_false(bal_tokenizer_is_special(b.engine.tokenizer, s->ids[i]) &&
                     s->modality[i] != BAL_VISION);
        const bal_token_view v = bal_tokenizer_decode(b.engine.tokenizer, s->ids[i], false);
        strncat(text, v.bytes, v.n);
        if (s->modality[i] == BAL_ANSWER) strncat(answer, v.bytes, v.n);
    }
    assert_non_null(
        strstr(text, "questions.\n\n### Human: \nWhat is shown in this image?\n### Ass"));
    assert_non_null(strstr(answer, "### Assistant: There is a red circle"));
    assert_null(strstr(answer, "What"));
    assert_int_equal(strncmp(answer, "##", 2), 0);
    assert_string_equal(answer + strlen(answer) - 5, "\n### ");
    bal_gathered_free(&g);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiled),
        cmocka_unit_test(test_mha),
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_legacy_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
