/* SPDX-License-Identifier: MIT
 * Qwen2-VL and Qwen2.5-VL checkpoints that are not right: each case copies a tiny one with one
 * thing changed and reads the sentence. And the user's limit of a picture's tokens, in all families
 * that have one. */
#include "check.h"
#include "unit/scratch.h"

#include "ballast.h"
#include "format/safetensors_write.h"
#include "run/sequence.h"

#define QWEN2   "tests/golden/qwen2_vl/small/model"
#define QWEN2_5 "tests/golden/qwen2_5_vl/small/model"

typedef struct change {
    const char *model, *file, *from, *to;
    bal_status status;
    const char *part; /* of the sentence */
} change;

static void copy_file(const char *model, const char *name, const char *from, const char *to)
{
    bal_error err;
    uint8_t *text;
    size_t n;
    char path[1100];
    snprintf(path, sizeof path, "%s/%s", source_path(model), name);
    ASSERT_OK(bal_read_file(&text, &n, path, 1 << 22, &err));
    snprintf(path, sizeof path, "%s/%s", scratch("model"), name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    char *hit = from ? strstr((char *)text, from) : NULL;
    if (from && !hit) fail_msg("%s of %s does not contain %s", name, model, from);
    const size_t before = hit ? (size_t)(hit - (char *)text) : n;
    fwrite(text, 1, before, f);
    if (hit) fprintf(f, "%s%s", to, hit + strlen(from));
    fclose(f);
    free(text);
}

static void copy_model(const char *model, const change *c)
{
    static const char *const files[] = {"config.json", "preprocessor_config.json",
                                        "generation_config.json", "model.safetensors"};
    mkdir(scratch("model"), 0777);
    for (size_t i = 0; i < 4; i++) {
        const bool here = c && strcmp(c->file, files[i]) == 0;
        copy_file(model, files[i], here ? c->from : NULL, here ? c->to : NULL);
    }
}

static const change changes[] = {
    {QWEN2, "config.json", "[2, 3, 3]", "[2, 3, 4]", BAL_E_FORMAT,
     "rope_scaling.mrope_section: 2, 3, 4"},
    {QWEN2, "config.json", "\"mrope_section\"", "\"other\"", BAL_E_FORMAT,
     "mrope_section: 0, 0, 0"},
    {QWEN2, "config.json", "\"hidden_size\": 64, \"in_ch", "\"hidden_size\": 60, \"in_ch",
     BAL_E_FORMAT, "vision_config.hidden_size: the tower gives features of width 60"},
    {QWEN2, "config.json", "\"num_heads\": 2", "\"num_heads\": 3", BAL_E_FORMAT,
     "vision_config.num_heads: does not divide"},
    {QWEN2, "config.json", "\"num_heads\": 2", "\"num_heads\": 16", BAL_E_FORMAT,
     "vision_config.num_heads: leaves heads that are no multiple of 4"},
    {QWEN2, "config.json", "\"mlp_ratio\": 3", "\"mlp_ratio\": 4", BAL_E_FORMAT,
     "mlp.fc1.weight: expected F32, F16 or BF16 [128, 32]"},
    {QWEN2, "config.json", "\"depth\": 3", "\"depth\": 4", BAL_E_FORMAT,
     "blocks.3.norm1.weight is missing"},
    {QWEN2, "config.json", "\"depth\": 3", "\"depth\": 2", BAL_E_FORMAT, "visual.blocks.2"},
    {QWEN2, "config.json", "\"embed_dim\": 32", "\"embed_dim\": 0", BAL_E_FORMAT, "embed_dim"},
    {QWEN2, "config.json", "\"vision_config\"", "\"no_config\"", BAL_E_FORMAT, "vision_config"},
    {QWEN2, "config.json", "\"image_token_id\": 386", "\"image_token_id\": 400", BAL_E_FORMAT,
     "image_token_id"},
    {QWEN2, "config.json", "\"hidden_size\": 64,\n", "\n", BAL_E_FORMAT, "hidden_size"},
    {QWEN2, "config.json", "\"model_type\": \"qwen2_vl\"", "\"model_type\": \"qwen3_vl\"",
     BAL_E_UNSUP, "this build knows"},
    {QWEN2_5, "config.json", "\"out_hidden_size\": 64", "\"out_hidden_size\": 65", BAL_E_FORMAT,
     "vision_config.out_hidden_size: the tower gives features of width 65"},
    {QWEN2_5, "config.json", "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", BAL_E_UNSUP,
     "hidden_act: \"gelu\" is not supported"},
    {QWEN2_5, "config.json", "\"window_size\": 112", "\"window_size\": 27", BAL_E_FORMAT,
     "window_size: is smaller than a token"},
    {QWEN2_5, "config.json", "\"fullatt_block_indexes\": [1]", "\"fullatt_block_indexes\": [3]",
     BAL_E_FORMAT, "fullatt_block_indexes"},
    {QWEN2_5, "config.json", "\"intermediate_size\": 68", "\"intermediate_size\": 72", BAL_E_FORMAT,
     "mlp.gate_proj.weight: expected F32, F16 or BF16 [72, 32]"},
    {QWEN2, "preprocessor_config.json", "\"patch_size\": 14", "\"patch_size\": 16", BAL_E_FORMAT,
     "patch_size: 16, config.json's vision_config says 14"},
    {QWEN2, "preprocessor_config.json", "\"merge_size\": 2", "\"merge_size\": 4", BAL_E_FORMAT,
     "merge_size: 4"},
    {QWEN2, "preprocessor_config.json", "\"min_pixels\": 3136", "\"min_pixels\": 200000",
     BAL_E_FORMAT, "min_pixels: is above max_pixels"},
    {QWEN2, "preprocessor_config.json", "\"min_pixels\": 3136", "\"min_pixels\": 0", BAL_E_FORMAT,
     "min_pixels"},
};

static void test_changes(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_model m;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const change *c = &changes[i];
        copy_model(c->model, NULL);
        ASSERT_OK(bal_model_load(&m, scratch("model"), &err));
        bal_model_unload(&m);
        copy_model(c->model, c);
        ASSERT_FAILS(c->status, c->part, bal_model_load(&m, scratch("model"), &err));
        assert_null(m.layers);
    }
}

/* A tensor gone, and one of another shape. */
static void test_tensors(void **state)
{
    (void)state;
    static const char *const names[] = {"visual.merger.mlp.2.weight", "visual.merger.ln_q.weight",
                                        "visual.blocks.1.attn.qkv.bias",
                                        "visual.patch_embed.proj.weight"};
    bal_error err = {0};
    bal_model m;
    char path[1100];
    for (size_t i = 0; i < 8; i++) {
        bal_tensor_set set;
        copy_model(QWEN2_5, NULL);
        ASSERT_OK(bal_tensor_set_open(&set, source_path(QWEN2_5), &err));
        bal_tensor_view *copy = calloc(set.n_tensors, sizeof *copy);
        assert_non_null(copy);
        memcpy(copy, set.tensors, set.n_tensors * sizeof *copy);
        size_t n = set.n_tensors, at = 0;
        while (strcmp(copy[at].name, names[i / 2]) != 0) at++;
        if (i % 2 == 0)
            copy[at] = copy[--n];
        else {
            copy[at].shape[0] /= 2;
            copy[at].n_bytes /= 2;
        }
        snprintf(path, sizeof path, "%s/model.safetensors", scratch("model"));
        ASSERT_OK(bal_safetensors_write(path, copy, n, NULL, 0, &err));
        const char *part = strchr(names[i / 2], '.'); /* behind "visual" in both name forms */
        ASSERT_FAILS(BAL_E_FORMAT, part, bal_model_load(&m, scratch("model"), &err));
        ASSERT_FAILS(BAL_E_FORMAT, i % 2 ? "expected" : "missing",
                     bal_model_load(&m, scratch("model"), &err));
        free(copy);
        bal_tensor_set_close(&set);
    }
}

/* Whatever the number and the picture's shape: never more tokens than that, and none that were not
 * there without a limit. Where one view is too many, a sentence. */
static void check_tiled_limit(const char *model, int per_view)
{
    static const int sizes[][2] = {{400, 300}, {300, 400}, {64, 64}, {1000, 40}, {30, 500}, {9, 9}};
    bal_error err = {0};
    bal_engine e;
    ASSERT_OK(bal_engine_open(&e, source_path(model), 1, NULL, &err));
    const bal_config config = e.model.config;
    ASSERT_FAILS(BAL_E_ARG, "pictures take at least",
                 bal_engine_limit_images(&e, per_view - 1, &err));
    ASSERT_OK(bal_engine_limit_images(&e, 1 << 20, &err));
    assert_memory_equal(&config, &e.model.config, sizeof config);
    for (int n = per_view; n < 24 * per_view; n++) {
        bal_view_plan p, free_plan;
        e.model.config = config;
        ASSERT_OK(bal_engine_limit_images(&e, n, &err));
        const bal_config limited = e.model.config;
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const int w = sizes[i][0], h = sizes[i][1];
            e.model.config = config;
            ASSERT_OK(bal_sequence_plan(&e, w, h, BAL_VIEW_ONE, &free_plan, &err));
            e.model.config = limited;
            ASSERT_OK(bal_sequence_plan(&e, w, h, BAL_VIEW_ONE, &p, &err));
            assert_true(p.n_tokens <= n && p.n_tokens >= per_view);
            assert_true(p.n_tokens <= free_plan.n_tokens);
        }
    }
    bal_engine_close(&e);
}

static void test_limit(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    bal_view_plan p;
    ASSERT_OK(bal_engine_open(&e, source_path(QWEN2), 1, NULL, &err));
    ASSERT_OK(bal_sequence_plan(&e, 4000, 3000, BAL_VIEW_ONE, &p, &err));
    assert_int_equal(p.n_tokens, 117); /* 130 in the file */
    ASSERT_OK(bal_engine_limit_images(&e, 0, &err));
    ASSERT_OK(bal_engine_limit_images(&e, 1000, &err)); /* more than the file says: no change */
    ASSERT_OK(bal_sequence_plan(&e, 4000, 3000, BAL_VIEW_ONE, &p, &err));
    assert_int_equal(p.n_tokens, 117);
    ASSERT_OK(bal_engine_limit_images(&e, 20, &err));
    ASSERT_OK(bal_sequence_plan(&e, 4000, 3000, BAL_VIEW_ONE, &p, &err));
    assert_int_equal(p.n_tokens, 15);
    ASSERT_FAILS(BAL_E_ARG, "limit cannot be below 4", bal_engine_limit_images(&e, 3, &err));
    ASSERT_FAILS(BAL_E_ARG, "at most -1", bal_engine_limit_images(&e, -1, &err));
    ASSERT_FAILS(BAL_E_ARG, "too long", bal_sequence_plan(&e, 4020, 20, BAL_VIEW_ONE, &p, &err));
    bal_engine_close(&e);
    ASSERT_OK(bal_engine_open(&e, source_path("tests/golden/tiled/model"), 1, NULL, &err));
    ASSERT_FAILS(BAL_E_UNSUP, "llava_onevision models: the picture's shape decides",
                 bal_engine_limit_images(&e, 20, &err));
    bal_engine_close(&e);
    ASSERT_OK(bal_engine_open(&e, source_path("tests/golden/families/llava/model"), 1, NULL, &err));
    ASSERT_FAILS(BAL_E_UNSUP, "llava models: every picture takes the same",
                 bal_engine_limit_images(&e, 20, &err));
    bal_engine_close(&e);

    bal_context *model;
    const bal_open_opts bad = {.size = sizeof bad, .image_max_tokens = 2};
    ASSERT_FAILS(BAL_E_ARG, "limit cannot be below 4",
                 bal_open(&model, source_path(QWEN2), &bad, &err));
    assert_null(model);
}

static void test_tiled_limits(void **state)
{
    (void)state;
    check_tiled_limit("tests/golden/families/internvl/model", 4);
    check_tiled_limit("tests/golden/families/internvl_intern/model", 4);
    check_tiled_limit("tests/golden/families/idefics3/model", 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_tiled_limits),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
