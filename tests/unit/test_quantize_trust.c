/* SPDX-License-Identifier: MIT
 * What a quantizing run must not believe or touch: pieces that somebody else wrote into its folder,
 * folders and files that are not its own, weights and pictures that are not what they were. */
#include "scratch.h"

#include "ballast_quant.h"
#include "format/json.h"
#include "format/safetensors_write.h"
#include "quant/finite.h"
#include "quant/gather.h"

#define MODEL "tests/golden/tiled/model"
#define DATA  "tests/golden/calib/calib.jsonl"

enum { UNITS = 1000 };

/* Plain rounding without data: nothing but the flow. */
static bal_quant_opts options(void)
{
    static const char *const set[] = {"group=32", "bits=4"};
    return (bal_quant_opts){
        .size = sizeof(bal_quant_opts), .threads = 1, .recipe = "rtn", .set = set, .n_set = 2};
}

static bal_status quantize(const char *name, const bal_quant_opts *o, bal_error *err)
{
    return bal_quantize(source_path(MODEL), scratch(name), o, err);
}

/* ---- An interrupted run, and what is done to it ------------------------------------------------
 */

static bool stop_at_block(void *ctx, const bal_progress *p)
{
    return strcmp(p->stage, "blocks") != 0 || p->done < (uint64_t) * (const int *)ctx * UNITS;
}

/* Leaves `blocks` finished blocks of a run to out.safetensors in `name`.partial */
static void interrupt(const char *name, int blocks)
{
    bal_quant_opts o = options();
    bal_error err;
    o.force = true;
    o.progress = stop_at_block;
    o.progress_ctx = &blocks;
    ASSERT_FAILS(BAL_E_CANCELLED, "after", quantize(name, &o, &err));
}

static const char *piece(const char *out, const char *name)
{
    char path[300];
    snprintf(path, sizeof path, "%s.partial/%s", out, name);
    return scratch(path);
}

/* The record vouches for the part again, as an attacker's would. */
static void vouch(const char *out)
{
    uint8_t digest[BAL_SHA256_BYTES];
    char hex[BAL_SHA256_HEX];
    bal_error err;
    bal_json_doc doc;
    ASSERT_OK(bal_sha256_file(digest, piece(out, "block_000.safetensors"), &err));
    bal_hex(hex, digest, sizeof digest);
    ASSERT_OK(bal_json_load(&doc, piece(out, "block_000.json"), 1 << 20, &err));
    json_object_set_new(doc.root, "part_sha256", json_string(hex));
    assert_int_equal(json_dump_file(doc.root, piece(out, "block_000.json"), 0), 0);
    bal_json_close(&doc);
}

typedef void edit(bal_tensor_view *tensors, size_t *n, bal_st_meta *meta, size_t *n_meta);

/* Rewrites block 0 with a change and resumes. */
static bal_status resume_edited(const char *out, edit *change, bal_error *err)
{
    enum { ROOM = 200 };
    bal_tensor_set set;
    bal_tensor_view tensors[ROOM];
    bal_st_meta meta[ROOM];
    bal_quant_opts o = options();
    interrupt(out, 1);
    const char *path = piece(out, "block_000.safetensors");
    if (bal_tensor_set_open(&set, path, err) < 0) fail_msg("%s", err->text);
    size_t n = set.n_tensors, n_meta = set.n_meta;
    memcpy(tensors, set.tensors, n * sizeof *tensors);
    memcpy(meta, set.meta, n_meta * sizeof *meta);
    change(tensors, &n, meta, &n_meta);
    const char *edited = scratch("edited");
    if (bal_safetensors_write(edited, tensors, n, meta, n_meta, err) < 0) fail_msg("%s", err->text);
    bal_tensor_set_close(&set);
    assert_int_equal(rename(edited, path), 0);
    vouch(out);
    o.resume = true;
    return quantize(out, &o, err);
}

static const float values[512];

static void add_many(bal_tensor_view *tensors, size_t *n, bal_st_meta *meta, size_t *n_meta)
{
    static char names[150][32];
    (void)meta, (void)n_meta;
    for (int i = 0; i < 150; i++) {
        snprintf(names[i], sizeof names[i], "more.%d", i);
        tensors[(*n)++] = (bal_tensor_view){.name = names[i],
                                            .dtype = BAL_ST_F32,
                                            .n_dims = 1,
                                            .shape = {4},
                                            .data = (const uint8_t *)values,
                                            .n_bytes = 16};
    }
}

static void add_bytes(bal_tensor_view *tensors, size_t *n, bal_st_meta *meta, size_t *n_meta)
{
    (void)meta, (void)n_meta;
    tensors[(*n)++] = (bal_tensor_view){.name = "unseen",
                                        .dtype = BAL_ST_U8,
                                        .n_dims = 1,
                                        .shape = {4},
                                        .data = (const uint8_t *)values,
                                        .n_bytes = 4};
}

static void add_bias(bal_tensor_view *tensors, size_t *n, bal_st_meta *meta, size_t *n_meta)
{
    (void)meta, (void)n_meta;
    size_t at = 0; /* as long as the norms: o_proj gives as many outputs */
    while (!strstr(tensors[at].name, "input_layernorm")) at++;
    tensors[*n] = tensors[at];
    tensors[(*n)++].name = "model.language_model.layers.0.self_attn.o_proj.bias";
}

static void drop_bias(bal_tensor_view *tensors, size_t *n, bal_st_meta *meta, size_t *n_meta)
{
    (void)meta, (void)n_meta;
    size_t at = 0;
    while (!strstr(tensors[at].name, "k_proj.bias")) at++;
    tensors[at] = tensors[--*n];
}

static void lie_about_group(bal_tensor_view *tensors, size_t *n, bal_st_meta *meta, size_t *n_meta)
{
    (void)tensors, (void)n;
    for (size_t i = 0; i < *n_meta; i++)
        if (strncmp(meta[i].key, "layout.", 7) == 0) meta[i].value = "w4g64.p16u32.v1";
}

static void test_edited_pieces(void **state)
{
    (void)state;
    bal_error err;
    ASSERT_FAILS(BAL_E_FORMAT, "found 162", resume_edited("e.safetensors", add_many, &err));
    assert_non_null(strstr(err.text, "block_000.safetensors"));
    ASSERT_FAILS(BAL_E_FORMAT, "expected the 12", resume_edited("e.safetensors", add_bytes, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "expected the 12", resume_edited("e.safetensors", add_bias, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "k_proj.bias is missing",
                 resume_edited("e.safetensors", drop_bias, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "expected w4g32.p16u32.v1, found w4g64",
                 resume_edited("e.safetensors", lie_about_group, &err));
    assert_false(bal_path_exists(scratch("e.safetensors")));
}

/* ---- Identity ----------------------------------------------------------------------------------
 */

static void edit_run(const char *out, const char *key, json_t *value)
{
    bal_json_doc doc;
    bal_error err;
    ASSERT_OK(bal_json_load(&doc, piece(out, "run.json"), 1 << 20, &err));
    if (value)
        json_object_set_new(doc.root, key, value);
    else
        assert_int_equal(json_object_del(doc.root, key), 0);
    assert_int_equal(json_dump_file(doc.root, piece(out, "run.json"), 0), 0);
    bal_json_close(&doc);
}

static void test_identity(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    bal_error err;
    o.resume = true;
    interrupt("id.safetensors", 1);
    edit_run("id.safetensors", "build", json_string("another"));
    ASSERT_FAILS(BAL_E_EXISTS, "build \"another\"", quantize("id.safetensors", &o, &err));
    edit_run("id.safetensors", "build", NULL);
    ASSERT_FAILS(BAL_E_EXISTS, "build nothing", quantize("id.safetensors", &o, &err));
    interrupt("id.safetensors", 1);
    edit_run("id.safetensors", "calibration", json_object());
    ASSERT_FAILS(BAL_E_EXISTS, "calibration {}, this run has nothing",
                 quantize("id.safetensors", &o, &err));
    assert_int_equal(unlink(piece("id.safetensors", "run.json")), 0);
    ASSERT_FAILS(BAL_E_EXISTS, "no run.json", quantize("id.safetensors", &o, &err));
    assert_true(bal_path_exists(piece("id.safetensors", "block_000.json")));
    o.resume = false;
    o.force = true;
    ASSERT_OK(quantize("id.safetensors", &o, &err));
}

/* ---- Folders and files of others ---------------------------------------------------------------
 */

static void test_foreign_folder(void **state)
{
    (void)state;
    static const char *const names[] = {"notes.txt", ".hidden", "block_x.json", "photo.json",
                                        "notes.tmp"};
    bal_quant_opts o = options();
    bal_error err;
    const char *out = "f.safetensors";
    assert_int_equal(mkdir(scratch("f.safetensors.partial"), 0777), 0);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        scratch_text(piece(out, names[i]), "precious");
        for (int force = 0; force < 2; force++) {
            o.force = force;
            ASSERT_FAILS(BAL_E_EXISTS, names[i], quantize(out, &o, &err));
            assert_true(bal_path_exists(piece(out, names[i])));
        }
        assert_int_equal(scratch_count(scratch("f.safetensors.partial")), 1);
        assert_int_equal(unlink(piece(out, names[i])), 0);
    }
    /* a name of ours that leads elsewhere */
    scratch_text(scratch("target"), "precious");
    static const char *const links[] = {"lock", "run.json", "block_000.safetensors"};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(symlink(scratch("target"), piece(out, links[i])), 0);
        ASSERT_FAILS(BAL_E_EXISTS, links[i], quantize(out, &o, &err));
        assert_int_equal(unlink(piece(out, links[i])), 0);
    }
    /* what a killed run leaves is no obstacle, and nothing stays behind */
    scratch_text(piece(out, "run.json.tmp"), "half");
    scratch_text(piece(out, "block_1234.safetensors.tmp"), "half");
    scratch_text(piece(out, "ballast-store-abc123"), "half");
    ASSERT_OK(quantize(out, &o, &err));
    assert_false(bal_path_exists(scratch("f.safetensors.partial")));
}

/* A link in the place of the folder: what it points to stays as it is. */
static void test_linked_folder(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    bal_error err;
    assert_int_equal(mkdir(scratch("elsewhere"), 0777), 0);
    scratch_text(scratch("elsewhere/run.json"), "precious");
    assert_int_equal(symlink(scratch("elsewhere"), scratch("l.safetensors.partial")), 0);
    o.force = true;
    ASSERT_FAILS(BAL_E_EXISTS, "l.safetensors.partial", quantize("l.safetensors", &o, &err));
    assert_int_equal(scratch_count(scratch("elsewhere")), 1);
}

/* ---- Reports -----------------------------------------------------------------------------------
 */

static void test_report_targets(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    bal_error err;
    char report[600], data[600], other[600];
    snprintf(report, sizeof report, "%s", scratch("r.html"));
    snprintf(data, sizeof data, "%s", scratch("r.json"));
    snprintf(other, sizeof other, "%s", scratch("./q.safetensors"));
    scratch_text(data, "precious");
    o.report = report;
    ASSERT_FAILS(BAL_E_EXISTS, "r.json", quantize("r.safetensors", &o, &err));
    assert_int_equal(rename(data, report), 0);
    ASSERT_FAILS(BAL_E_EXISTS, "r.html", quantize("r.safetensors", &o, &err));
    o.force = true;
    ASSERT_OK(quantize("r.safetensors", &o, &err));
    assert_true(bal_path_exists(data));
    /* never, whatever the flags */
    o.calib = data;
    ASSERT_FAILS(BAL_E_ARG, "calibration data", quantize("q.safetensors", &o, &err));
    o.calib = NULL;
    o.report = other;
    ASSERT_FAILS(BAL_E_ARG, "the output", quantize("q.safetensors", &o, &err));
    o.report = source_path(MODEL "/config.html");
    ASSERT_FAILS(BAL_E_ARG, "among the model's files", quantize("q.safetensors", &o, &err));
    o.report = scratch_dir;
    ASSERT_FAILS(BAL_E_EXISTS, "is a folder", quantize("q.safetensors", &o, &err));
    assert_false(bal_path_exists(scratch("q.safetensors.partial")));
}

static bool block_report(void *ctx, const bal_progress *p)
{
    (void)p;
    mkdir(ctx, 0777); /* a folder in its place: it cannot be written any more */
    return true;
}

/* A report that fails at the very end costs nothing: the run goes on from there. */
static void test_report_fails_late(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    bal_error err;
    char path[600];
    snprintf(path, sizeof path, "%s", scratch("late.html"));
    o.report = path;
    o.progress = block_report;
    o.progress_ctx = path;
    ASSERT_FAILS(BAL_E_IO, "late.html", quantize("late.safetensors", &o, &err));
    assert_false(bal_path_exists(scratch("late.safetensors")));
    assert_true(bal_path_exists(piece("late.safetensors", "block_002.json")));
    assert_int_equal(rmdir(path), 0);
    o.progress = NULL;
    o.resume = true;
    ASSERT_OK(quantize("late.safetensors", &o, &err));
    assert_true(bal_path_exists(scratch("late.json")));
}

static void test_not_utf8(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    bal_error err;
    o.command = "ballast \xff";
    ASSERT_FAILS(BAL_E_ARG, "command line", quantize("u.safetensors", &o, &err));
    o.command = NULL;
    o.calib = "/tmp/\xff.jsonl";
    ASSERT_FAILS(BAL_E_ARG, "calibration file", quantize("u.safetensors", &o, &err));
    o.calib = NULL;
    ASSERT_FAILS(BAL_E_ARG, "model folder",
                 bal_quantize("/tmp/\xff", scratch("u.safetensors"), &o, &err));
    scratch_text(scratch("\xff.json"), "{\"extends\": \"rtn\"}");
    o.recipe = scratch("\xff.json");
    ASSERT_FAILS(BAL_E_ARG, "not UTF-8", quantize("u.safetensors", &o, &err));
}

/* ---- Model and data ----------------------------------------------------------------------------
 */

static void copy_file(const char *from, const char *to)
{
    uint8_t *bytes;
    size_t n;
    bal_error err;
    ASSERT_OK(bal_read_file(&bytes, &n, from, 1 << 26, &err));
    scratch_write(to, bytes, n);
    free(bytes);
}

/* The golden model in scratch("NAME/"). */
static void copy_model(const char *name)
{
    static const char *const files[] = {"config.json", "generation_config.json",
                                        "model.safetensors", "preprocessor_config.json",
                                        "tokenizer.json"};
    char from[600], to[600];
    assert_int_equal(mkdir(scratch(name), 0777), 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(from, sizeof from, "%s/%s", source_path(MODEL), files[i]);
        snprintf(to, sizeof to, "%s/%s", scratch(name), files[i]);
        copy_file(from, to);
    }
}

/* One float of a tensor becomes Inf. */
static void spoil(const char *path, const char *name, size_t element)
{
    bal_tensor_set set;
    bal_error err;
    uint8_t *bytes;
    size_t n;
    ASSERT_OK(bal_read_file(&bytes, &n, path, 1 << 26, &err));
    ASSERT_OK(bal_tensor_set_open_bytes(&set, bytes, n, path, &err));
    const bal_tensor_view *t = bal_tensor_find(&set, name);
    assert_non_null(t);
    const uint32_t inf = 0xff800000u;
    uint8_t *at = bytes + (t->data - bytes);
    if (t->dtype == BAL_ST_F32)
        memcpy(at + 4 * element, &inf, 4);
    else
        memcpy(at + 2 * element, t->dtype == BAL_ST_F16 ? "\x00\xfc" : "\x80\xff", 2);
    scratch_write(path, bytes, n);
    bal_tensor_set_close(&set);
    free(bytes);
}

static void test_not_finite(void **state)
{
    (void)state;
    static const char *const names[] = {"model.multi_modal_projector.linear_2.bias",
                                        "model.language_model.norm.weight",
                                        "model.language_model.embed_tokens.weight"};
    const size_t element[] = {3, 0, 4097};
    bal_quant_opts o = options();
    bal_error err;
    copy_model("m");
    for (size_t i = 0; i < 3; i++) {
        char want[200];
        copy_file(source_path(MODEL "/model.safetensors"), scratch("m/model.safetensors"));
        spoil(scratch("m/model.safetensors"), names[i], element[i]);
        snprintf(want, sizeof want, "%s: NaN or Inf at %zu", names[i], element[i]);
        ASSERT_FAILS(BAL_E_NUMERIC, want,
                     bal_quantize(scratch("m"), scratch("n.safetensors"), &o, &err));
    }
}

/* Each type's own bits: what is Inf in one is a number in another. */
static void test_not_finite_types(void **state)
{
    (void)state;
    enum { N = 5000 };
    static const struct {
        bal_st_dtype dtype;
        size_t width;
        uint32_t finite, not_finite[2];
    } cases[] = {{BAL_ST_F32, 4, 0xff7fffffu, {0x7f800000u, 0xffc00000u}},
                 {BAL_ST_BF16, 2, 0xff7fu, {0x7f80u, 0xffc0u}},
                 {BAL_ST_F16, 2, 0xfbffu, {0x7c00u, 0xfe00u}}};
    bal_error err;
    for (size_t i = 0; i < 3; i++)
        for (int which = -1; which < 2; which++) {
            uint8_t *data = calloc(N, 4);
            const uint32_t last = which < 0 ? cases[i].finite : cases[i].not_finite[which];
            memcpy(data + (N - 1) * cases[i].width, &last, cases[i].width);
            bal_tensor_view t = {.name = "t",
                                 .dtype = cases[i].dtype,
                                 .n_dims = 1,
                                 .shape = {N},
                                 .data = data,
                                 .n_bytes = N * cases[i].width};
            bal_tensor_set file;
            ASSERT_OK(bal_safetensors_write(scratch("t"), &t, 1, NULL, 0, &err));
            ASSERT_OK(bal_tensor_set_open(&file, scratch("t"), &err));
            if (which < 0)
                ASSERT_OK(bal_check_finite(&file, &err));
            else
                ASSERT_FAILS(BAL_E_NUMERIC, "tensor t: NaN or Inf at 4999",
                             bal_check_finite(&file, &err));
            bal_tensor_set_close(&file);
            free(data);
        }
}

static void meta_of(const char *path, const char *key, char out[200])
{
    bal_tensor_set set;
    bal_error err;
    ASSERT_OK(bal_tensor_set_open(&set, path, &err));
    snprintf(out, 200, "%s", bal_tensor_meta(&set, key));
    bal_tensor_set_close(&set);
}

/* The hash is of what is read, not of what lies beside it. */
static void test_model_hash(void **state)
{
    (void)state;
    static const struct {
        const char *file, *text;
        bool same;
    } cases[] = {{"README.txt", "hello", true},
                 {"notes.json", "{}", true},
                 {"vocab.json", "{}", true},
                 {"more.safetensors", "x", true},
                 {"generation_config.json", "{\"eos_token_id\": 1}", false}};
    bal_quant_opts o = options();
    bal_error err;
    char first[200], now[200];
    o.force = true;
    copy_model("h");
    ASSERT_OK(bal_quantize(scratch("h"), scratch("h.safetensors"), &o, &err));
    meta_of(scratch("h.safetensors"), "model_sha256", first);
    assert_int_equal(strlen(first), 64);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[300];
        snprintf(path, sizeof path, "h/%s", cases[i].file);
        scratch_text(scratch(path), cases[i].text);
        ASSERT_OK(bal_quantize(scratch("h"), scratch("h.safetensors"), &o, &err));
        meta_of(scratch("h.safetensors"), "model_sha256", now);
        assert_int_equal(strcmp(first, now) == 0, cases[i].same);
    }
}

static void test_pictures_change(void **state)
{
    (void)state;
    bal_engine engine;
    bal_exec exec;
    bal_calib calib;
    bal_gathered g;
    bal_recipe recipe;
    size_t *order, n;
    bal_error err;
    static const char *const files[] = {"calib.jsonl", "calib0_100x70.png", "calib1_60x90.png",
                                        "calib2_48x48.png"};
    for (int i = 0; i < 4; i++) {
        char from[200];
        snprintf(from, sizeof from, "tests/golden/calib/%s", files[i]);
        copy_file(source_path(from), scratch(files[i]));
    }
    ASSERT_OK(bal_engine_open(&engine, source_path(MODEL), 1, NULL, &err));
    ASSERT_OK(
        bal_exec_create(&exec, engine.pool, &engine.kernels, bal_model_max_k(&engine.model), &err));
    ASSERT_OK(bal_recipe_load(&recipe, "mbq", &err));
    ASSERT_OK(bal_calib_open(&calib, scratch("calib.jsonl"), &err));
    ASSERT_OK(bal_calib_choose(&calib, 0, 0, &order, &n, &err));
    ASSERT_OK(bal_gather_layout(&g, &calib, order, n, &engine, &recipe, &err));
    assert_int_equal(g.n_images, 3);
    /* same picture, same size, one more byte behind its end */
    FILE *f = fopen(scratch("calib1_60x90.png"), "ab");
    fputc(0, f);
    fclose(f);
    ASSERT_FAILS(BAL_E_IO, "calib1_60x90.png changed",
                 bal_gather_encode(&g, &calib, order, &engine, &exec, &recipe, scratch_dir, NULL,
                                   NULL, &err));
    free(order);
    bal_calib_close(&calib);
    bal_exec_destroy(&exec);
    bal_engine_close(&engine);
}

/* The record has how large each input is, and for no modality that was not there. */
static void test_record_of_inputs(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    bal_error err;
    char report[600], data[600];
    snprintf(report, sizeof report, "%s", scratch("in.html"));
    snprintf(data, sizeof data, "%s", scratch("in.jsonl"));
    o.report = report;
    o.force = true;
    for (int pictures = 0; pictures < 2; pictures++) {
        scratch_text(data, "{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"},"
                           "{\"from\": \"gpt\", \"value\": \"b\"}]}\n");
        o.calib = pictures ? source_path(DATA) : data;
        ASSERT_OK(quantize("in.safetensors", &o, &err));
        json_t *r = json_load_file(scratch("in.json"), 0, NULL);
        for (size_t i = 0; i < 3; i++)
            for (size_t g = 0; g < 4; g++) {
                const json_t *b = json_array_get(json_object_get(r, "blocks"), i);
                const json_t *log = json_array_get(json_object_get(b, "groups"), g);
                const json_t *mean = json_object_get(log, "mean_abs");
                const json_t *max = json_object_get(log, "max_abs");
                const double m = json_number_value(json_object_get(mean, "answer"));
                assert_true(m > 0.0 && json_number_value(json_object_get(max, "answer")) > m);
                assert_int_equal(json_is_real(json_object_get(max, "vision")), pictures);
                assert_int_equal(json_is_null(json_object_get(mean, "vision")), !pictures);
            }
        json_decref(r);
    }
}

static bool never(void *ctx, const bal_progress *p)
{
    (void)p;
    ++*(int *)ctx;
    return true;
}

/* Another run's pieces are told before the vision tower works for them. */
static void test_identity_before_pictures(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    bal_error err;
    int calls = 0;
    interrupt("early.safetensors", 1);
    o.resume = true;
    o.calib = source_path(DATA);
    o.progress = never;
    o.progress_ctx = &calls;
    ASSERT_FAILS(BAL_E_EXISTS, "calibration nothing", quantize("early.safetensors", &o, &err));
    assert_int_equal(calls, 0);
}

/* A weight, a picture or a word of the data that changed under an interrupted run: it does not go
 * on, and says which. */
static void test_resume_of_other_inputs(void **state)
{
    (void)state;
    static const char *const files[] = {"calib.jsonl", "calib0_100x70.png", "calib1_60x90.png",
                                        "calib2_48x48.png"};
    bal_quant_opts o = options();
    bal_error err;
    char model[600], out[600], data[600], picture[600];
    int blocks = 1;
    copy_model("inputs");
    for (int i = 0; i < 4; i++) {
        char from[200];
        snprintf(from, sizeof from, "tests/golden/calib/%s", files[i]);
        copy_file(source_path(from), scratch(files[i]));
    }
    snprintf(model, sizeof model, "%s", scratch("inputs"));
    snprintf(out, sizeof out, "%s", scratch("inputs.safetensors"));
    snprintf(data, sizeof data, "%s", scratch("calib.jsonl"));
    snprintf(picture, sizeof picture, "%s", scratch("calib1_60x90.png"));
    o.calib = data;
    o.progress = stop_at_block;
    o.progress_ctx = &blocks;
    ASSERT_FAILS(BAL_E_CANCELLED, "after 1 of 3", bal_quantize(model, out, &o, &err));
    o.progress = NULL;
    o.resume = true;

    scratch_patch(data, "red circle", "red square");
    ASSERT_FAILS(BAL_E_EXISTS, "calibration sha256", bal_quantize(model, out, &o, &err));
    scratch_patch(data, "red square", "red circle");
    copy_file(source_path("tests/golden/calib/calib2_48x48.png"), picture);
    ASSERT_FAILS(BAL_E_EXISTS, "calibration sha256", bal_quantize(model, out, &o, &err));
    copy_file(source_path("tests/golden/calib/calib1_60x90.png"), picture);
    bal_tensor_set set;
    uint8_t *bytes;
    size_t n;
    ASSERT_OK(bal_read_file(&bytes, &n, scratch("inputs/model.safetensors"), 1 << 26, &err));
    ASSERT_OK(bal_tensor_set_open_bytes(&set, bytes, n, "model", &err));
    const size_t at =
        (size_t)(bal_tensor_find(&set, "model.language_model.layers.2.mlp.up_proj.weight")->data -
                 bytes);
    bal_tensor_set_close(&set);
    bytes[at] ^= 1;
    scratch_write(scratch("inputs/model.safetensors"), bytes, n);
    ASSERT_FAILS(BAL_E_EXISTS, "made with model_sha256", bal_quantize(model, out, &o, &err));
    bytes[at] ^= 1;
    scratch_write(scratch("inputs/model.safetensors"), bytes, n);
    free(bytes);
    ASSERT_OK(bal_quantize(model, out, &o, &err)); /* all as it was */
}

static bool stop_at_pictures(void *ctx, const bal_progress *p)
{
    (void)ctx;
    return strcmp(p->stage, "pictures") != 0;
}

/* A resumed run that is stopped before it comes to its blocks still knows how many there are. */
static void test_cancel_counts_kept_blocks(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    bal_error err;
    int blocks = 2;
    o.calib = source_path(DATA);
    o.progress = stop_at_block;
    o.progress_ctx = &blocks;
    ASSERT_FAILS(BAL_E_CANCELLED, "after 2 of 3", quantize("c.safetensors", &o, &err));
    o.resume = true;
    o.progress = stop_at_pictures;
    ASSERT_FAILS(BAL_E_CANCELLED, "after 2 of 3", quantize("c.safetensors", &o, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_edited_pieces),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_foreign_folder),
        cmocka_unit_test(test_linked_folder),
        cmocka_unit_test(test_report_targets),
        cmocka_unit_test(test_report_fails_late),
        cmocka_unit_test(test_not_utf8),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_not_finite_types),
        cmocka_unit_test(test_model_hash),
        cmocka_unit_test(test_pictures_change),
        cmocka_unit_test(test_record_of_inputs),
        cmocka_unit_test(test_identity_before_pictures),
        cmocka_unit_test(test_resume_of_other_inputs),
        cmocka_unit_test(test_cancel_counts_kept_blocks),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
