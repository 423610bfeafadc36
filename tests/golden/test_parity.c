/* SPDX-License-Identifier: MIT
 * Tap by tap against transformers on tiny random checkpoints: tiles and unpadding, the max-9
 * interpolation, two pictures, text only; tied and own head; both generations of names; f32 and
 * sharded f16. Preprocessing, tokenizer, tower and decoder are all ours here. */
#include "golden/taps.h"

#include "format/json.h"
#include "run/sequence.h"

enum { MAX_IMAGES = 4, MAX_MESSAGES = 8 };

typedef struct parity_case {
    bal_json_doc doc;
    char dir[512];
    bal_engine engine;
    bal_image images[MAX_IMAGES];
    int sizes[MAX_IMAGES][2], n_images;
    bal_chat_message messages[MAX_MESSAGES];
    char text[MAX_MESSAGES][256];
    int n_messages;
} parity_case;

static void read_message(parity_case *p, const bal_json *m)
{
    bal_error err;
    bal_chat_message *out = &p->messages[p->n_messages];
    const char *role;
    ASSERT_OK(bal_json_str(m, "role", &role, &err));
    ASSERT_OK(bal_chat_role_find(&out->role, role, &err));
    bal_json content = bal_json_get(m, "content");
    for (size_t i = 0; i < bal_json_len(&content); i++) {
        const bal_json part = bal_json_at(&content, i);
        const char *type, *text;
        ASSERT_OK(bal_json_str(&part, "type", &type, &err));
        if (strcmp(type, "image") == 0) {
            out->n_images++;
            continue;
        }
        ASSERT_OK(bal_json_str(&part, "text", &text, &err));
        snprintf(p->text[p->n_messages], sizeof p->text[0], "%s", text);
    }
    out->text = p->text[p->n_messages];
    out->n = strlen(out->text);
    p->n_messages++;
}

static void open_case(parity_case *p, const char *name)
{
    bal_error err = {0};
    char path[1024];
    const char *model;
    memset(p, 0, sizeof *p);
    snprintf(p->dir, sizeof p->dir, "%s/%s", source_path("tests/golden"), name);
    snprintf(path, sizeof path, "%s/case.json", p->dir);
    ASSERT_OK(bal_json_load(&p->doc, path, 1 << 20, &err));
    const bal_json root = bal_json_root(&p->doc);
    ASSERT_OK(bal_json_str(&root, "model", &model, &err));
    snprintf(path, sizeof path, "%s/%s", p->dir, model);
    ASSERT_OK(bal_engine_open(&p->engine, path, 2, NULL, &err));
    const bal_json images = bal_json_get(&root, "images"),
                   messages = bal_json_get(&root, "messages");
    for (size_t i = 0; i < bal_json_len(&images); i++) {
        const bal_json item = bal_json_at(&images, i);
        const char *file;
        ASSERT_OK(bal_json_as_str(&item, &file, &err));
        snprintf(path, sizeof path, "%s/%s", p->dir, file);
        ASSERT_OK(bal_image_open(&p->images[i], path, NULL, &err));
        p->sizes[i][0] = p->images[i].width;
        p->sizes[i][1] = p->images[i].height;
        p->n_images++;
    }
    for (size_t i = 0; i < bal_json_len(&messages); i++) {
        const bal_json m = bal_json_at(&messages, i);
        read_message(p, &m);
    }
}

static void close_case(parity_case *p)
{
    for (int i = 0; i < p->n_images; i++) bal_image_free(&p->images[i]);
    bal_engine_close(&p->engine);
    bal_json_close(&p->doc);
}

static void check_ids(const tap_check *c, const bal_sequence *s)
{
    const bal_tensor_view *t = tap_tensor(c, "input_ids");
    assert_non_null(t);
    assert_int_equal(t->n_bytes / 8, s->n);
    for (int i = 0; i < s->n; i++) {
        int64_t want;
        memcpy(&want, t->data + 8 * (size_t)i, 8);
        if (want != s->info[i].id)
            fail_msg("token %d is %d, wanted %d", i, s->info[i].id, (int)want);
    }
}

typedef struct logit_rows {
    tap_check *check;
    int vocab;
} logit_rows;

static void see_logits(void *ctx, int row, const float *logits)
{
    logit_rows *l = ctx;
    tap_compare(l->check, "logits", (size_t)row * (size_t)l->vocab, logits, (size_t)l->vocab);
}

static void run_case(const char *name)
{
    bal_error err = {0};
    static parity_case p;
    open_case(&p, name);
    tap_check c = {.limit = 1e-3};
    char path[1024];
    snprintf(path, sizeof path, "%s/taps.safetensors", p.dir);
    ASSERT_OK(bal_tensor_set_open(&c.golden, path, &err));

    const bal_config *config = &p.engine.model.config;
    bal_chat_tokens tokens;
    bal_sequence seq;
    bal_session session;
    ASSERT_OK(bal_chat_encode(&tokens, p.engine.tokenizer, p.engine.chat, p.messages,
                              (size_t)p.n_messages, true, &err));
    ASSERT_OK(bal_sequence_build(&seq, &p.engine, &tokens, (const int(*)[2])p.sizes, p.n_images,
                                 BAL_VIEW_AUTO, 0, 0, &err));
    check_ids(&c, &seq);
    ASSERT_OK(bal_session_create(&session, &p.engine, 512, &err));
    float *embeds = malloc((size_t)seq.n * (size_t)config->text.hidden * sizeof *embeds);
    assert_non_null(embeds);
    /* sequences longer than a chunk have no per-layer taps in their golden files */
    const bal_taps taps = {tap_seen, &c};
    ASSERT_OK(bal_sequence_embed(&seq, &p.engine, &session.exec, p.images, embeds, taps, &err));
    logit_rows rows = {&c, config->text.vocab};
    const bal_taps blocks = seq.n <= 128 ? taps : (bal_taps){0};
    ASSERT_OK(
        bal_session_append(&session, seq.info, embeds, seq.n, 0, see_logits, &rows, blocks, &err));
    printf("%s: %d positions, %d taps compared, worst %.2g of its deviation at %s\n", name, seq.n,
           c.compared, c.worst, c.worst_name);
    assert_true(c.compared > seq.n);
    if (c.first_bad[0]) fail_msg("%s: %s", name, c.first_bad);
    free(embeds);
    bal_session_destroy(&session);
    bal_sequence_free(&seq);
    bal_chat_tokens_deinit(&tokens);
    bal_tensor_set_close(&c.golden);
    close_case(&p);
}

#define CASE(name)                                                                                 \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        run_case(#name);                                                                           \
    }
CASE(tiled)
CASE(max9)
CASE(two_images)
CASE(two_images_f16)
CASE(text_only)
CASE(mha)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiled),      cmocka_unit_test(test_max9),
        cmocka_unit_test(test_two_images), cmocka_unit_test(test_two_images_f16),
        cmocka_unit_test(test_text_only),  cmocka_unit_test(test_mha),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
