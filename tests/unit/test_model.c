/* SPDX-License-Identifier: MIT
 * Checkpoints that are not right: each test copies the tiny one with one thing changed and reads
 * the sentence. */
#include "check.h"
#include "unit/scratch.h"

#include "format/safetensors_write.h"
#include "model/family.h"
#include "model/model.h"

#define TINY "tests/golden/tiled/model"

/* Copies a text file of the tiny model into the scratch model folder, with one replacement. */
static void copy_with(const char *name, const char *from, const char *to)
{
    bal_error err;
    uint8_t *text;
    size_t n;
    char path[1100], source[1100];
    snprintf(source, sizeof source, "%s/%s", source_path(TINY), name);
    ASSERT_OK(bal_read_file(&text, &n, source, 1 << 20, &err));
    snprintf(path, sizeof path, "%s/%s", scratch("model"), name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    char *hit = from ? strstr((char *)text, from) : NULL;
    if (from && !hit) fail_msg("%s does not contain %s", name, from);
    if (hit) {
        fwrite(text, 1, (size_t)(hit - (char *)text), f);
        fputs(to, f);
        fputs(hit + strlen(from), f);
    } else
        fwrite(text, 1, n, f);
    fclose(f);
    free(text);
}

typedef bal_status edit_fn(bal_tensor_view *tensors, size_t *n);

static void copy_weights(edit_fn *edit)
{
    bal_error err;
    char source[1100], path[1100];
    bal_tensor_set set;
    snprintf(source, sizeof source, "%s/model.safetensors", source_path(TINY));
    ASSERT_OK(bal_tensor_set_open(&set, source, &err));
    bal_tensor_view *copy = calloc(set.n_tensors + 1, sizeof *copy);
    memcpy(copy, set.tensors, set.n_tensors * sizeof *copy);
    size_t n = set.n_tensors;
    if (edit) edit(copy, &n);
    snprintf(path, sizeof path, "%s/model.safetensors", scratch("model"));
    ASSERT_OK(bal_safetensors_write(path, copy, n, NULL, 0, &err));
    free(copy);
    bal_tensor_set_close(&set);
}

static void fresh_model(void)
{
    mkdir(scratch("model"), 0777);
    copy_with("config.json", NULL, NULL);
    copy_with("preprocessor_config.json", NULL, NULL);
    copy_with("generation_config.json", NULL, NULL);
    copy_weights(NULL);
}

static void expect(bal_status status, const char *part)
{
    bal_error err = {0};
    bal_model m;
    ASSERT_FAILS(status, part, bal_model_load(&m, scratch("model"), &err));
    assert_null(m.layers);
}

static bal_tensor_view *find(bal_tensor_view *t, size_t n, const char *part)
{
    for (size_t i = 0; i < n; i++)
        if (strstr(t[i].name, part)) return &t[i];
    fail_msg("no tensor %s", part);
    return NULL;
}

static bal_status drop_one(bal_tensor_view *t, size_t *n)
{
    bal_tensor_view *x = find(t, *n, "layers.1.mlp.up_proj.weight");
    *x = t[--*n];
    return BAL_OK;
}

static bal_status add_one(bal_tensor_view *t, size_t *n)
{
    t[*n] = *find(t, *n, "image_newline");
    t[(*n)++].name = "model.language_model.layers.3.extra.weight";
    return BAL_OK;
}

static bal_status swap_shape(bal_tensor_view *t, size_t *n)
{
    bal_tensor_view *x = find(t, *n, "layers.0.mlp.down_proj.weight");
    const uint64_t rows = x->shape[0];
    x->shape[0] = x->shape[1];
    x->shape[1] = rows;
    return BAL_OK;
}

static bal_status drop_head(bal_tensor_view *t, size_t *n)
{
    bal_tensor_view *x = find(t, *n, "lm_head");
    *x = t[--*n];
    return BAL_OK;
}

static bal_status integer_type(bal_tensor_view *t, size_t *n)
{
    find(t, *n, "layers.0.mlp.down_proj.weight")->dtype = BAL_ST_I32;
    return BAL_OK;
}

static void tensors(void **state)
{
    (void)state;
    bal_error err;
    bal_model m;
    fresh_model();
    ASSERT_OK(bal_model_load(&m, scratch("model"), &err));
    bal_model_unload(&m);
    copy_weights(drop_one);
    expect(BAL_E_FORMAT, "layers.1.mlp.up_proj.weight is missing");
    copy_weights(add_one);
    expect(BAL_E_FORMAT, "layers.3.extra.weight belongs to no part");
    copy_weights(swap_shape);
    expect(BAL_E_FORMAT, "expected F32, F16 or BF16 [64, 152], found F32 [152, 64]");
    copy_weights(drop_head);
    expect(BAL_E_FORMAT, "lm_head.weight is missing, and tie_word_embeddings is false");
    copy_weights(integer_type);
    expect(BAL_E_FORMAT, "found I32");
}

static void configs(void **state)
{
    (void)state;
    const struct {
        const char *file, *from, *to, *part;
        bal_status status;
    } cases[] = {
        {"config.json", "\"hidden_size\": 64", "\"hidden\": 64", "text_config.hidden_size",
         BAL_E_FORMAT},
        {"config.json", "\"num_hidden_layers\": 3,\n    \"num_key", "\"num_key",
         "num_hidden_layers", BAL_E_FORMAT},
        {"config.json", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3",
         "does not divide", BAL_E_FORMAT},
        {"config.json", "\"llava_onevision\"", "\"llava_next\"", "llava_next", BAL_E_UNSUP},
        {"config.json", "\"qwen2\"", "\"mamba\"", "text_config.model_type: \"mamba\"", BAL_E_UNSUP},
        {"config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": -3",
         "num_hidden_layers", BAL_E_FORMAT},
        {"config.json", "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2",
         "belongs to no part", BAL_E_FORMAT},
        {"config.json", "anyres_max_9", "pad", "vision_aspect_ratio", BAL_E_UNSUP},
        {"config.json", "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"longrope\"}",
         "rope_scaling.type", BAL_E_FORMAT},
        {"config.json", "\"rope_scaling\": null", "\"head_dim\": 2048", "head size", BAL_E_FORMAT},
        {"config.json", "{", "", "config.json", BAL_E_FORMAT},
        {"preprocessor_config.json", "\"image_std\"", "\"image_std_\"", NULL, BAL_OK},
        {"preprocessor_config.json", "\"resample\": 3", "\"resample\": 2", "resample",
         BAL_E_FORMAT},
        {"preprocessor_config.json", "\"height\": 56", "\"height\": 57", "differs", BAL_E_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fresh_model();
        copy_with(cases[i].file, cases[i].from, cases[i].to);
        if (cases[i].part) {
            expect(cases[i].status, cases[i].part);
            continue;
        }
        /* left out: the class default, which is CLIP's */
        bal_error err;
        bal_model m;
        ASSERT_OK(bal_model_load(&m, scratch("model"), &err));
        assert_float_equal(m.config.image_std[0], 0.26862954f, 1e-7);
        bal_model_unload(&m);
    }
}

static void paths(void **state)
{
    (void)state;
    bal_error err;
    bal_model m;
    ASSERT_FAILS(BAL_E_IO, "no such file", bal_model_load(&m, scratch("nothing"), &err));
    mkdir(scratch("empty"), 0777);
    ASSERT_FAILS(BAL_E_IO, "model.safetensors", bal_model_load(&m, scratch("empty"), &err));
    ASSERT_FAILS(BAL_E_FORMAT, "not a Ballast file",
                 bal_model_load(&m, source_path(TINY "/model.safetensors"), &err));
}

static void blob(void **state)
{
    (void)state;
    bal_error err;
    bal_config c, back;
    uint8_t *bytes;
    size_t n;
    ASSERT_OK(bal_config_read(&c, source_path(TINY), &err));
    ASSERT_OK(bal_config_blob(&c, &bytes, &n, &err));
    ASSERT_OK(bal_config_from_blob(&back, bytes, n, &err));
    assert_memory_equal(&c, &back, sizeof c);
    for (size_t cut = 0; cut < n; cut += 7)
        assert_int_equal(bal_config_from_blob(&back, bytes, cut, &err), BAL_E_FORMAT);
    /* any word made absurd is refused, but for places of the two tables that are not in use */
    int accepted = 0;
    for (size_t at = 8; at < n; at += 4) {
        uint8_t old[4];
        memcpy(old, bytes + at, 4);
        memset(bytes + at, 0xff, 4);
        accepted += bal_config_from_blob(&back, bytes, n, &err) == BAL_OK;
        memcpy(bytes + at, old, 4);
    }
    assert_int_equal(accepted, 2 * (BAL_MAX_PINPOINTS - c.n_pinpoints) + BAL_MAX_EOS - c.n_eos);
    free(bytes);
}

/* A blob of the first version, word by word: files made then are read for good. */
static void first_blob(void **state)
{
    (void)state;
    bal_error err;
    bal_config want, c;
    uint8_t bytes[4 * (2 + 21 + 3 + 512 + 6 + 9)] = {0}, *at = bytes;
    ASSERT_OK(bal_config_read(&want, source_path(TINY), &err));
#define PUT(v)                                                                                     \
    do {                                                                                           \
        const __typeof__(v) put_ = (v);                                                            \
        memcpy(at, &put_, 4);                                                                      \
        at += 4;                                                                                   \
    } while (0)
    PUT(0x31434c42);
    PUT((int)(sizeof bytes / 4 - 2));
    const bal_text_config *t = &want.text;
    const bal_vision_config *v = &want.vision;
    const int32_t text[] = {1,           t->hidden,       t->layers, t->heads,         t->kv_heads,
                            t->head_dim, t->intermediate, t->vocab,  t->max_positions, t->tied};
    for (int i = 0; i < 10; i++) PUT(text[i]);
    PUT(t->rope_theta);
    PUT(t->rms_eps);
    const int32_t vision[] = {
        1, v->hidden, v->layers, v->heads, v->intermediate, v->image_size, v->patch_size, v->side};
    for (int i = 0; i < 8; i++) PUT(vision[i]);
    PUT(v->ln_eps);
    PUT(want.image_token);
    PUT(want.max_tiles);
    PUT(want.n_pinpoints);
    memcpy(at, want.pinpoints, sizeof want.pinpoints);
    at += sizeof want.pinpoints;
    for (int i = 0; i < 3; i++) PUT(want.image_mean[i]);
    for (int i = 0; i < 3; i++) PUT(want.image_std[i]);
    PUT(want.n_eos);
    for (int i = 0; i < 8; i++) PUT(want.eos[i]);
#undef PUT
    assert_int_equal(at - bytes, sizeof bytes);
    ASSERT_OK(bal_config_from_blob(&c, bytes, sizeof bytes, &err));
    want.text.rope_original = 0; /* not kept then, and without scaling not used */
    assert_memory_equal(&c, &want, sizeof c);
    bytes[8] = 99;
    ASSERT_FAILS(BAL_E_FORMAT, "family", bal_config_from_blob(&c, bytes, sizeof bytes, &err));
}

typedef struct listing {
    const bal_model *m;
    uint8_t *seen; /* [tensors] */
} listing;

static bal_status see_tensor(void *ctx, const bal_bind_row *row, const char *name,
                             const uint64_t *shape, int n_dims, bal_error *err)
{
    const listing *l = ctx;
    const bal_family_def *f = bal_family_of(&l->m->config);
    const bal_tensor_view *t = bal_bind_find(&l->m->tensors, &f->names, name);
    uint64_t want = 0, found = 0;
    (void)err;
    if (!t) {
        if (!row->optional) fail_msg("%s is listed and not in the file", name);
        return BAL_OK;
    }
    assert_true(bal_st_count(shape, n_dims, &want));
    assert_true(bal_st_count(t->shape, t->n_dims, &found));
    if (want != found) fail_msg("%s: %d elements listed, %d found", name, (int)want, (int)found);
    assert_int_equal(l->seen[t - l->m->tensors.tensors]++, 0);
    return BAL_OK;
}

/* What bal_bind_each lists is what binding asks for: every tensor of a checkpoint, once, but for
 * those that nobody reads. */
static void list(void **state)
{
    static const char *const models[] = {TINY, "tests/golden/two_images/model",
                                         "tests/golden/qwen2_vl/small/model",
                                         "tests/golden/qwen2_5_vl/small/model"};
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        bal_model m;
        bal_error err;
        ASSERT_OK(bal_model_load(&m, source_path(models[i]), &err));
        listing l = {&m, calloc(m.tensors.n_tensors, 1)};
        assert_non_null(l.seen);
        ASSERT_OK(bal_bind_each(&m.config, see_tensor, &l, &err));
        for (size_t t = 0; t < m.tensors.n_tensors; t++)
            if (!l.seen[t] && !strstr(m.tensors.tensors[t].name, "post_layernorm"))
                fail_msg("%s: %s is not listed", models[i], m.tensors.tensors[t].name);
        free(l.seen);
        bal_model_unload(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors), cmocka_unit_test(configs),    cmocka_unit_test(paths),
        cmocka_unit_test(blob),    cmocka_unit_test(first_blob), cmocka_unit_test(list),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
