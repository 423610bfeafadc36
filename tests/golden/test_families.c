/* SPDX-License-Identifier: MIT
 * Every family against its original on tiny random checkpoints: ids, every tap, all logits and 64
 * greedy tokens; gradients of the decoder; and MBQ on the same checkpoint, where the packed file
 * must answer like its simulated twin. Cases come from make/families.py. */
#include "golden/taps.h"
#include "golden/unpack.h"
#include "unit/scratch.h"

#include "ballast_quant.h"
#include "base/file.h"
#include "format/json.h"
#include "format/safetensors_write.h"
#include "quant/sensitivity.h"
#include "run/sequence.h"

enum { MAX_IMAGES = 4, MAX_IDS = 1024, GREEDY = 64, ANSWER = 12 };

typedef struct family_case {
    bal_json_doc doc;
    bal_engine engine;
    bal_image images[MAX_IMAGES];
    int sizes[MAX_IMAGES][2], n_images;
    int prompt[MAX_IDS], greedy[GREEDY];
    uint8_t tags[MAX_IDS];
    size_t n_prompt;
    tap_check taps;
} family_case;

static const char *case_path(const char *name)
{
    static char path[8][600];
    static unsigned turn;
    char *p = path[turn++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", source_path("tests/golden/families"), name);
    return p;
}

static void read_prompt(family_case *f, const bal_json *root)
{
    bal_error err = {0};
    size_t n;
    ASSERT_OK(bal_json_ints(root, "prompt", -1, 1 << 20, f->prompt, MAX_IDS, &f->n_prompt, &err));
    ASSERT_OK(bal_json_ints(root, "greedy", 0, 1 << 20, f->greedy, GREEDY, &n, &err));
    assert_int_equal(n, GREEDY);
    for (size_t i = 0; i < f->n_prompt; i++) {
        const bool slot = f->prompt[i] < 0;
        f->tags[i] = slot ? BAL_TAG_IMAGE_SLOT : BAL_TAG_PROMPT;
        if (slot) f->prompt[i] = 0;
    }
}

static void read_images(family_case *f, const bal_json *root)
{
    bal_error err = {0};
    const bal_json images = bal_json_get(root, "images");
    for (size_t i = 0; i < bal_json_len(&images); i++, f->n_images++) {
        const bal_json item = bal_json_at(&images, i);
        const char *file;
        ASSERT_OK(bal_json_as_str(&item, &file, &err));
        ASSERT_OK(bal_image_open(&f->images[i], case_path(file), NULL, &err));
        f->sizes[i][0] = f->images[i].width;
        f->sizes[i][1] = f->images[i].height;
    }
}

/* name: "llama/text"; model NULL: the case's own */
static void open_case(family_case *f, const char *name, const char *model)
{
    bal_error err = {0};
    char file[256];
    memset(f, 0, sizeof *f);
    f->taps.limit = 1e-3;
    snprintf(file, sizeof file, "%s.json", name);
    ASSERT_OK(bal_json_load(&f->doc, case_path(file), 1 << 20, &err));
    const bal_json root = bal_json_root(&f->doc);
    const char *own;
    ASSERT_OK(bal_json_str(&root, "model", &own, &err));
    ASSERT_OK(bal_engine_open(&f->engine, model ? model : case_path(own), 2, NULL, &err));
    read_prompt(f, &root);
    read_images(f, &root);
    snprintf(file, sizeof file, "%s.safetensors", name);
    ASSERT_OK(bal_tensor_set_open(&f->taps.golden, case_path(file), &err));
}

static void close_case(family_case *f)
{
    for (int i = 0; i < f->n_images; i++) bal_image_free(&f->images[i]);
    bal_tensor_set_close(&f->taps.golden);
    bal_engine_close(&f->engine);
    bal_json_close(&f->doc);
}

static void build(family_case *f, bal_sequence *seq)
{
    bal_error err = {0};
    const bal_chat_tokens tokens = {f->prompt, f->tags, f->n_prompt};
    ASSERT_OK(bal_sequence_build(seq, &f->engine, &tokens, (const int(*)[2])f->sizes, f->n_images,
                                 BAL_VIEW_AUTO, 0, 0, &err));
}

/* ---- Parity ------------------------------------------------------------------------------------
 */

static void check_ids(const family_case *f, const bal_sequence *s)
{
    const bal_tensor_view *t = tap_tensor(&f->taps, "input_ids");
    assert_non_null(t);
    assert_int_equal(t->n_bytes / 8, s->n);
    for (int i = 0; i < s->n; i++) {
        int64_t want;
        memcpy(&want, t->data + 8 * (size_t)i, 8);
        if (want != s->info[i].id)
            fail_msg("token %d is %d, wanted %d", i, s->info[i].id, (int)want);
    }
}

typedef struct seen_logits {
    family_case *f;
    float *all; /* [n][vocab], or NULL */
} seen_logits;

static void see(void *ctx, int row, const float *logits)
{
    const seen_logits *s = ctx;
    const size_t vocab = (size_t)s->f->engine.model.config.text.vocab;
    if (s->all)
        memcpy(s->all + (size_t)row * vocab, logits, vocab * sizeof *logits);
    else
        tap_compare(&s->f->taps, "logits", (size_t)row * vocab, logits, vocab);
}

static void run(family_case *f, const bal_sequence *seq, bal_session *session, bal_taps taps,
                float *all)
{
    bal_error err = {0};
    const size_t hidden = (size_t)f->engine.model.config.text.hidden;
    float *embeds = malloc((size_t)seq->n * hidden * sizeof *embeds);
    assert_non_null(embeds);
    ASSERT_OK(bal_sequence_embed(seq, &f->engine, &session->exec, f->images, embeds, taps, &err));
    seen_logits seen = {f, all};
    /* longer than a chunk: blocks come in pieces, and their taps are not in the file */
    const bal_taps blocks = seq->n <= 128 ? taps : (bal_taps){0};
    ASSERT_OK(bal_session_append(session, seq->info, embeds, seq->n, 0, see, &seen, blocks, &err));
    free(embeds);
}

static int best(const float *logits, int n)
{
    int at = 0;
    for (int i = 1; i < n; i++)
        if (logits[i] > logits[at]) at = i;
    return at;
}

static void check_greedy(const family_case *f, bal_session *s)
{
    bal_error err = {0};
    for (int i = 0; i < GREEDY; i++) {
        const int id = best(s->logits, f->engine.model.config.text.vocab);
        if (id != f->greedy[i]) fail_msg("greedy token %d is %d, wanted %d", i, id, f->greedy[i]);
        if (i + 1 < GREEDY) ASSERT_OK(bal_session_push(s, id, &err));
    }
}

/* model: as for open_case */
static void parity(const char *name, const char *model)
{
    static family_case f;
    bal_error err = {0};
    bal_sequence seq;
    bal_session session;
    open_case(&f, name, model);
    build(&f, &seq);
    check_ids(&f, &seq);
    ASSERT_OK(bal_session_create(&session, &f.engine, seq.n + GREEDY, &err));
    run(&f, &seq, &session, (bal_taps){tap_seen, &f.taps}, NULL);
    printf("%s: %d positions, %d taps compared, worst %.2g of its deviation at %s\n", name, seq.n,
           f.taps.compared, f.taps.worst, f.taps.worst_name);
    assert_true(f.taps.compared >= seq.n + 1);
    if (f.taps.first_bad[0]) fail_msg("%s: %s", name, f.taps.first_bad);
    check_greedy(&f, &session);
    bal_session_destroy(&session);
    bal_sequence_free(&seq);
    close_case(&f);
}

/* ---- Gradients ---------------------------------------------------------------------------------
 * One sample whose last ANSWER tokens are the answer: mean |g| over them against autograd's. */

static void gradients(const char *name)
{
    static family_case f;
    bal_error err = {0};
    bal_sequence seq;
    bal_exec exec;
    bal_sensitivity out;
    open_case(&f, name, NULL);
    build(&f, &seq);
    int32_t ids[MAX_IDS];
    uint8_t modality[MAX_IDS];
    for (int i = 0; i < seq.n; i++) {
        ids[i] = seq.info[i].id;
        modality[i] = i >= seq.n - ANSWER ? BAL_ANSWER : seq.info[i].modality;
    }
    bal_sample sample = {.n = seq.n, .ids = ids, .modality = modality};
    const bal_samples samples = {.n = 1, .max_len = seq.n, .items = &sample};
    const bal_engine *e = &f.engine;
    const size_t hidden = (size_t)e->model.config.text.hidden;
    bal_store embeds;
    bal_recipe recipe;
    ASSERT_OK(bal_recipe_load(&recipe, "mbq", &err));
    ASSERT_OK(bal_recipe_assign(&recipe, "gradient=f32", &err));
    ASSERT_OK(bal_exec_create(&exec, e->pool, &e->kernels, bal_model_max_k(&e->model), &err));
    ASSERT_OK(bal_store_create(&embeds, scratch_dir, &samples, (int)hidden, &err));
    float *rows = malloc((size_t)seq.n * hidden * sizeof *rows);
    ASSERT_OK(bal_sequence_embed(&seq, e, &exec, f.images, rows, (bal_taps){0}, &err));
    ASSERT_OK(bal_store_write(&embeds, 0, rows, &err));
    ASSERT_OK(
        bal_sensitivity_run(&out, &exec, &e->model, &samples, &embeds, &recipe, NULL, NULL, &err));
    const bal_json root = bal_json_root(&f.doc);
    double want[64];
    size_t n;
    ASSERT_OK(bal_json_f64s(&root, "gradients", 0.0, 1e9, want, 64, &n, &err));
    assert_int_equal(n, 2 * (size_t)out.layers);
    for (int i = 0; i < out.layers; i++)
        for (int sub = 0; sub < BAL_SUBS; sub++) {
            const double got = out.cell[i][sub].g1[BAL_ANSWER], w = want[2 * i + sub];
            if (!(fabs(got - w) < 1e-4 * w))
                fail_msg("%s layer %d sub %d: %.9g, wanted %.9g", name, i, sub, got, w);
        }
    bal_sensitivity_free(&out);
    bal_store_destroy(&embeds);
    bal_exec_destroy(&exec);
    free(rows);
    bal_sequence_free(&seq);
    close_case(&f);
}

/* ---- Quantized ---------------------------------------------------------------------------------
 */

/* Logits of all positions of the case, [n][vocab], malloc'ed. */
static float *logits_of(family_case *f, size_t *n)
{
    bal_error err = {0};
    bal_sequence seq;
    bal_session session;
    build(f, &seq);
    *n = (size_t)seq.n * (size_t)f->engine.model.config.text.vocab;
    float *all = malloc(*n * sizeof *all);
    ASSERT_OK(bal_session_create(&session, &f->engine, seq.n, &err));
    run(f, &seq, &session, (bal_taps){0}, all);
    bal_session_destroy(&session);
    bal_sequence_free(&seq);
    return all;
}

/* Largest difference over the deviation of `want`. */
static double distance(const float *want, const float *got, size_t n)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)want[i] - (double)got[i]));
    return worst / tap_deviation(want, n);
}

/* What is NULL of all but the decoder stays as it is. */
typedef struct bit_widths {
    const char *decoder, *vision, *projector, *head;
} bit_widths;

static void quantize(const char *model, const char *calib, const char *recipe, bit_widths bits,
                     const char *out)
{
    bal_error err = {0};
    const char *const some[] = {bits.vision, bits.projector, bits.head};
    const char *set[6] = {bits.decoder, "group=32", "template=legacy"};
    size_t n_set = 3;
    for (int i = 0; i < 3; i++)
        if (some[i]) set[n_set++] = some[i];
    const bal_quant_opts opts = {.size = sizeof opts,
                                 .threads = 2,
                                 .recipe = recipe,
                                 .set = set,
                                 .n_set = n_set,
                                 .calib = calib,
                                 .force = true};
    ASSERT_OK(bal_quantize(model, out, &opts, &err));
}

static void check_counts(const unpacked *u, const bal_config *c, bit_widths bits)
{
    const int per_block = c->vision.gated ? 7 : 6;
    assert_int_equal(u->decoder, c->text.layers * BAL_DECODER_LINEARS);
    assert_int_equal(u->tower, bits.vision ? c->vision.layers * per_block : 0);
    if (bits.projector)
        assert_true(u->projector > 0);
    else
        assert_int_equal(u->projector, 0);
    assert_int_equal(u->head, bits.head != NULL);
}

/* A packed head is no view of the embedding table, which stays what it was. */
static void check_head(const bal_model *m, bool packed)
{
    assert_false(bal_type_get(m->embed.type)->packed);
    assert_true(bal_tensor_find(&m->tensors, "model.language_model.embed_tokens.weight") != NULL);
    const bool is = bal_tensor_find(&m->tensors, "lm_head.weight.packed") != NULL;
    assert_int_equal(is, packed);
    if (is) assert_null(bal_tensor_find(&m->tensors, "lm_head.weight"));
}

static void quantized(const char *name, const char *source, const char *calib, bit_widths bits,
                      double to_float)
{
    static family_case f;
    char out[1100], model[1100];
    size_t n;
    open_case(&f, name, source);
    float *plain = logits_of(&f, &n);
    snprintf(model, sizeof model, "%s", f.engine.model.path);
    close_case(&f);
    snprintf(out, sizeof out, "%s", scratch("q.safetensors"));
    quantize(model, calib, "mbq+", bits, out);
    open_case(&f, name, out);
    float *packed = logits_of(&f, &n);
    unpacked u;
    check_head(&f.engine.model, bits.head != NULL);
    unpack_all(&u, &f.engine.model);
    check_counts(&u, &f.engine.model.config, bits);
    float *twin = logits_of(&f, &n);
    const double error = distance(plain, twin, n), rounding = distance(twin, packed, n);
    printf("%s %s %s: packed differs from its twin by %.2g, both from float by %.2g\n", name,
           bits.decoder, bits.vision ? bits.vision : "vision=float", rounding, error);
    assert_true(rounding > 0 && rounding < 8e-3);
    assert_true(error > 0 && error < to_float);
    unpacked_free(&u);
    free(plain);
    free(packed);
    free(twin);
    close_case(&f);
}

/* ---- The families ------------------------------------------------------------------------------
 */

static void text_family(const char *name)
{
    char text[64];
    snprintf(text, sizeof text, "%s/text", name);
    parity(text, NULL);
    gradients(text);
    quantized(text, NULL, case_path("text_calib.jsonl"),
              (bit_widths){.decoder = "bits=8", .head = "head=8"}, 0.35);
    quantized(text, NULL, case_path("text_calib.jsonl"), (bit_widths){.decoder = "bits=3"}, 6.0);
}

#define TEXT_FAMILY(name)                                                                          \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        text_family(#name);                                                                        \
    }
TEXT_FAMILY(llama)
TEXT_FAMILY(llama_bias)
TEXT_FAMILY(qwen2)
TEXT_FAMILY(qwen3)
TEXT_FAMILY(internlm2)

/* Every case that the family has. model NULL: the cases' own */
static void vision_parity(const char *name, const char *model)
{
    static const char *const cases[] = {"small", "large", "extreme", "two", "text"};
    char path[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(path, sizeof path, "%s/%s", name, cases[i]);
        parity(path, model);
    }
}

/* MBQ with the pictures of the calibration set. */
static void vision_quantized(const char *name, const char *model, bit_widths bits, double to_float)
{
    char path[64], calib[600]; /* source_path's buffers take turns */
    snprintf(path, sizeof path, "%s/small", name);
    snprintf(calib, sizeof calib, "%s", source_path("tests/golden/calib/calib.jsonl"));
    quantized(path, model, calib, bits, to_float);
}

static void vision_family(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "%s/small", name);
    vision_parity(name, NULL);
    gradients(path);
    vision_quantized(name, NULL, (bit_widths){.decoder = "bits=3"}, 8.0);
    vision_quantized(name, NULL, (bit_widths){"bits=8", "vision=8", "projector=8", "head=8"}, 0.4);
}

/* The same weights under other names answer the same, packed tower and all. */
static void same_under(const char *model, const char *name)
{
    vision_parity(name, model);
    vision_quantized(name, model, (bit_widths){"bits=8", "vision=6", "projector=6", "head=6"}, 2.0);
}

#define VISION_FAMILY(name)                                                                        \
    static void test_##name(void **state)                                                          \
    {                                                                                              \
        (void)state;                                                                               \
        vision_family(#name);                                                                      \
    }
VISION_FAMILY(onevision)
VISION_FAMILY(llava)
VISION_FAMILY(idefics3)
VISION_FAMILY(smolvlm)
VISION_FAMILY(internvl)
VISION_FAMILY(internvl_intern)

static void test_internvl_chat(void **state)
{
    (void)state;
    char model[600];
    snprintf(model, sizeof model, "%s", case_path("internvl_chat/model"));
    same_under(model, "internvl");
}

/* ---- docs/family_template.c ---------------------------------------------------------------------
 * LLaVA's checkpoint under the template's names. */

/* What llava's files call a tensor -> what the template's call it. */
static void template_name(char *out, size_t size, const char *name)
{
    static const char *const renames[][2] = {
        {"language_model.", "brain."},
        {"vision_tower.vision_model.embeddings.patch_embedding.", "eyes.patches."},
        {"vision_tower.vision_model.embeddings.class_embedding", "eyes.class"},
        {"vision_tower.vision_model.embeddings.position_embedding.", "eyes.positions."},
        {"vision_tower.vision_model.pre_layrnorm.", "eyes.norm."},
        {"vision_tower.vision_model.encoder.layers.", "eyes.blocks."},
        {"multi_modal_projector.linear_1.", "bridge.first."},
        {"multi_modal_projector.linear_2.", "bridge.second."},
    };
    out[0] = 0; /* has no place in the template */
    for (size_t i = 0; i < sizeof renames / sizeof *renames; i++) {
        const size_t n = strlen(renames[i][0]);
        if (strncmp(name, renames[i][0], n) == 0)
            snprintf(out, size, "%s%s", renames[i][1], name + n);
    }
}

static void write_template_weights(const char *path)
{
    bal_error err = {0};
    bal_tensor_set set;
    ASSERT_OK(bal_tensor_set_open(&set, case_path("llava/model"), &err));
    bal_tensor_view *copy = calloc(set.n_tensors, sizeof *copy);
    char(*names)[200] = calloc(set.n_tensors, sizeof *names);
    assert_true(copy && names);
    size_t n = 0;
    for (size_t i = 0; i < set.n_tensors; i++) {
        template_name(names[n], sizeof *names, set.tensors[i].name);
        if (!names[n][0]) continue;
        copy[n] = set.tensors[i];
        copy[n].name = names[n];
        n++;
    }
    ASSERT_OK(bal_safetensors_write(path, copy, n, NULL, 0, &err));
    free(copy);
    free(names);
    bal_tensor_set_close(&set);
}

/* from, to: a key that has another name; NULL: none. */
static void copy_text(const char *folder, const char *name, const char *const (*changes)[2])
{
    bal_error err = {0};
    char from[600], to[1200], *hit;
    uint8_t *text;
    size_t n;
    snprintf(from, sizeof from, "%s/%s", case_path("llava/model"), name);
    snprintf(to, sizeof to, "%s/%s", folder, name);
    ASSERT_OK(bal_read_file(&text, &n, from, 1 << 22, &err));
    FILE *f = fopen(to, "w");
    assert_non_null(f);
    const char *at = (const char *)text;
    for (; changes && (*changes)[0]; changes++) {
        hit = strstr(at, (*changes)[0]);
        if (!hit) fail_msg("%s: no %s behind the change before", name, (*changes)[0]);
        fwrite(at, 1, (size_t)(hit - at), f);
        fputs((*changes)[1], f);
        at = hit + strlen((*changes)[0]);
    }
    fputs(at, f);
    fclose(f);
    free(text);
}

static void test_template(void **state)
{
    (void)state;
    static const char *const config[][2] = {
        {"\"model_type\": \"llava\"", "\"model_type\": \"example_vl\""}, {NULL, NULL}};
    char folder[1000], weights[1100];
    snprintf(folder, sizeof folder, "%s", scratch("template"));
    snprintf(weights, sizeof weights, "%s/model.safetensors", folder);
    mkdir(folder, 0777);
    write_template_weights(weights);
    copy_text(folder, "config.json", config);
    static const char *const same[] = {"preprocessor_config.json", "generation_config.json",
                                       "tokenizer.json", "tokenizer_config.json"};
    for (size_t i = 0; i < 4; i++) copy_text(folder, same[i], NULL);
    same_under(folder, "llava");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),         cmocka_unit_test(test_llama_bias),
        cmocka_unit_test(test_qwen2),         cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_internlm2),     cmocka_unit_test(test_onevision),
        cmocka_unit_test(test_llava),         cmocka_unit_test(test_idefics3),
        cmocka_unit_test(test_smolvlm),       cmocka_unit_test(test_internvl),
        cmocka_unit_test(test_internvl_chat), cmocka_unit_test(test_internvl_intern),
        cmocka_unit_test(test_template),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
