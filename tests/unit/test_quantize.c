/* SPDX-License-Identifier: MIT
 * Quantizing from end to end on the tiny golden model: the file, its reproducibility, interruption
 * at every block, and what is refused. */
#include "quantize_case.h"

#include "base/half.h"
#include "format/safetensors.h"
#include "model/model.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { LAYERS = 3, UNITS = 1000 };

static const char *const SMALL[] = {"group=32", "bits=3"};

/* Rounding, with both streams run for the record: cheap, so most tests of the flow use it. */
static bal_quant_opts options(void)
{
    return (bal_quant_opts){.size = sizeof(bal_quant_opts),
                            .threads = 1,
                            .recipe = "rtn",
                            .set = SMALL,
                            .n_set = 2,
                            .calib = source_path(DATA),
                            .samples = -1};
}

/* Everything there is: gradients, search, clip. */
static bal_quant_opts full_options(void)
{
    bal_quant_opts o = options();
    o.recipe = "mbq+";
    return o;
}

static const char *reference(void)
{
    static char path[600];
    const bal_quant_opts o = options();
    return made_once(path, "reference.safetensors", &o);
}

static const char *full_reference(void)
{
    static char path[600];
    const bal_quant_opts o = full_options();
    return made_once(path, "full.safetensors", &o);
}

/* ---- The file ----------------------------------------------------------------------------------
 */

static void test_file(void **state)
{
    (void)state;
    bal_model m, source;
    bal_error err;
    ASSERT_OK(bal_model_load(&m, full_reference(), &err));
    ASSERT_OK(bal_model_load(&source, source_path(MODEL), &err));
    assert_true(m.is_artifact);
    assert_memory_equal(&m.config, &source.config, sizeof m.config);
    for (int i = 0; i < m.config.text.layers; i++)
        for (int k = 0; k < BAL_DECODER_LINEARS; k++) {
            const bal_linear *l = bal_decoder_linear(&m.layers[i], k);
            assert_int_equal(l->type, BAL_TYPE_W3);
            assert_int_equal((uintptr_t)l->packed.codes % 64, 0);
        }
    const bal_tensor_set *s = &m.tensors;
    assert_string_equal(bal_tensor_meta(s, "ballast_format"), "1.0");
    assert_string_equal(bal_tensor_meta(s, "source"), "model");
    assert_non_null(strstr(bal_tensor_meta(s, "recipe"), "\"name\":\"mbq+\",\"bits\":3"));
    assert_int_equal(strlen(bal_tensor_meta(s, "model_sha256")), 64);
    assert_non_null(strstr(bal_tensor_meta(s, "calibration"), "\"samples\":3,\"of\":3"));
    assert_non_null(strstr(bal_tensor_meta(s, "program"), "ballast "));
    /* what is not quantized is there bit for bit */
    const bal_tensor_view *a = bal_tensor_find(s, "model.language_model.embed_tokens.weight");
    const bal_tensor_view *b =
        bal_tensor_find(&source.tensors, "model.language_model.embed_tokens.weight");
    assert_non_null(a);
    assert_int_equal(a->n_bytes, b->n_bytes);
    assert_memory_equal(a->data, b->data, a->n_bytes);
    bal_model_unload(&m);
    bal_model_unload(&source);
}

/* Plain rounding without data: each weight is within half a step of the checkpoint's. */
static void test_rounding_without_data(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    bal_model m, source;
    bal_error err;
    static const char *const eight[] = {"bits=8", "group=32"};
    o.recipe = "rtn";
    o.calib = NULL;
    o.set = eight;
    const char *out = scratch("rtn.safetensors");
    make(out, &o);
    ASSERT_OK(bal_model_load(&m, out, &err));
    ASSERT_OK(bal_model_load(&source, source_path(MODEL), &err));
    assert_null(bal_tensor_meta(&m.tensors, "calibration"));
    const size_t row_bytes = (size_t)m.config.text.hidden * sizeof(float);
    for (int i = 0; i < LAYERS; i++) {
        const bal_decoder_layer *a = &m.layers[i], *b = &source.layers[i];
        assert_memory_equal(a->attn_norm, b->attn_norm, row_bytes);
        assert_memory_equal(a->mlp_norm, b->mlp_norm, row_bytes);
        assert_memory_equal(a->q.bias, b->q.bias, (size_t)a->q.n * sizeof(float));
        assert_memory_equal(a->k.bias, b->k.bias, (size_t)a->k.n * sizeof(float));
        assert_memory_equal(a->v.bias, b->v.bias, (size_t)a->v.n * sizeof(float));
    }
    for (int k = 0; k < BAL_DECODER_LINEARS; k++) {
        const bal_linear *q = bal_decoder_linear(&m.layers[1], k);
        const bal_linear *w = bal_decoder_linear(&source.layers[1], k);
        float got[512], want[512];
        assert_true(q->k <= 512);
        for (int row = 0; row < q->n; row += 7) {
            bal_linear_row(q, row, got);
            bal_linear_row(w, row, want);
            const uint16_t *scale = bal_packed_scales(&q->packed, (size_t)row / BAL_PANEL);
            for (int i = 0; i < q->k; i++) {
                const float step = bal_f16_to_f32(scale[i / 32 * BAL_PANEL + row % BAL_PANEL]);
                /* zero points are whole numbers, so the ends of a group may be a step off */
                assert_true(got[i] - want[i] <= 1.01f * step && want[i] - got[i] <= 1.01f * step);
            }
        }
    }
    bal_model_unload(&m);
    bal_model_unload(&source);
}

static void test_old_names_and_half(void **state)
{
    (void)state;
    bal_quant_opts o = full_options();
    bal_model m;
    bal_error err;
    o.recipe = "mbq";
    const char *out = scratch("half.safetensors");
    ASSERT_OK(bal_quantize(source_path("tests/golden/two_images_f16/model"), out, &o, &err));
    ASSERT_OK(bal_model_load(&m, out, &err));
    assert_non_null(strstr(bal_tensor_meta(&m.tensors, "recipe"), "\"arithmetic\":\"f16\""));
    assert_non_null(bal_tensor_find(&m.tensors, "model.image_newline"));
    assert_null(bal_tensor_find(&m.tensors, "image_newline"));
    bal_model_unload(&m);
}

static void test_threads(void **state)
{
    (void)state;
    const int threads[] = {2, 7};
    for (int i = 0; i < 2; i++) {
        bal_quant_opts o = full_options();
        o.threads = (uint32_t)threads[i];
        const char *out = scratch(i ? "t7.safetensors" : "t2.safetensors");
        make(out, &o);
        assert_same_file(full_reference(), out);
    }
}

/* Everything that changes the result must change the bytes; otherwise this file tests nothing. */
static void test_options_matter(void **state)
{
    (void)state;
    static const char *const sets[][2] = {
        {"group=32", "bits=4"}, {"group=64", "bits=3"}, {"group=32", "grid=sym"}};
    for (int i = 0; i < 4; i++) {
        bal_quant_opts o = i < 3 ? options() : full_options();
        bal_mapping a, b;
        bal_error err;
        if (i < 3) o.set = sets[i];
        o.samples = i < 3 ? -1 : 1;
        o.force = true;
        make(scratch("other.safetensors"), &o);
        ASSERT_OK(bal_map_open(&a, i < 3 ? reference() : full_reference(), &err));
        ASSERT_OK(bal_map_open(&b, scratch("other.safetensors"), &err));
        assert_true(a.n_bytes != b.n_bytes || memcmp(a.data, b.data, a.n_bytes) != 0);
        bal_map_close(&a);
        bal_map_close(&b);
    }
}

static void test_plan(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    bal_quant_plan p;
    bal_mapping file;
    bal_error err;
    ASSERT_OK(bal_quantize_plan(&p, source_path(MODEL), NULL, &o, &err));
    ASSERT_OK(bal_map_open(&file, reference(), &err));
    assert_int_equal(p.file_bytes, file.n_bytes);
    bal_map_close(&file);
    assert_int_equal(p.layers, LAYERS);
    assert_int_equal(p.linears, 7 * LAYERS);
    assert_int_equal(p.bits, 3);
    assert_int_equal(p.group, 32);
    assert_int_equal(p.samples, 3);
    assert_false(p.needs_data);
    /* codes, one f16 scale and one byte zero point per 32 weights */
    assert_true(p.linear_bits_per_weight >= 3.75 && p.linear_bits_per_weight < 4.2);
    assert_true(p.file_bits_per_weight > p.linear_bits_per_weight);
    o.samples = 2;
    ASSERT_OK(bal_quantize_plan(&p, source_path(MODEL), NULL, &o, &err));
    assert_int_equal(p.samples, 2);
    /* data given to a recipe that needs none is run through the model all the same */
    const uint64_t beside = p.disk_bytes - p.file_bytes;
    o.calib = NULL;
    ASSERT_OK(bal_quantize_plan(&p, source_path(MODEL), NULL, &o, &err));
    assert_true(beside > p.disk_bytes - p.file_bytes);
}

/* ---- Interruption ------------------------------------------------------------------------------
 */

typedef struct stopper {
    int64_t stop_at; /* thousandths of a block; -1: at the first picture */
    bool kill;       /* die instead of asking politely */
    long calls;
} stopper;

static bool stop(void *ctx, const bal_progress *p)
{
    stopper *s = ctx;
    s->calls++;
    assert_true(p->done <= p->total);
    const bool blocks = strcmp(p->stage, "blocks") == 0;
    if (s->stop_at < 0 ? blocks : !blocks || (int64_t)p->done < s->stop_at) return true;
    if (s->kill) raise(SIGKILL);
    return false;
}

static bal_quant_opts stopping(stopper *s)
{
    bal_quant_opts o = options();
    o.progress = stop;
    o.progress_ctx = s;
    return o;
}

static void test_cancel_and_resume(void **state)
{
    (void)state;
    const char *out = scratch("cancel.safetensors");
    bal_error err;
    for (int block = 0; block < LAYERS; block++)
        for (int late = 0; late < 2; late++) {
            /* early in the block, and when it is finished */
            stopper s = {.stop_at = block * UNITS + (late ? UNITS : 1)};
            bal_quant_opts o = stopping(&s);
            char part[80];
            if (block + late == 0)
                snprintf(part, sizeof part, "nothing was finished");
            else
                snprintf(part, sizeof part, "after %d of 3 blocks", block + late);
            ASSERT_FAILS(BAL_E_CANCELLED, part, bal_quantize(source_path(MODEL), out, &o, &err));
            assert_false(bal_path_exists(out));

            o = options();
            if (block + late > 0)
                ASSERT_FAILS(BAL_E_EXISTS, "--resume",
                             bal_quantize(source_path(MODEL), out, &o, &err));
            o.resume = true;
            make(out, &o);
            assert_same_file(reference(), out);
            assert_int_equal(unlink(out), 0);
        }
}

/* Before anything is finished there is nothing to keep. */
static void test_cancel_first(void **state)
{
    (void)state;
    stopper s = {.stop_at = -1};
    const bal_quant_opts o = stopping(&s);
    const char *out = scratch("first.safetensors");
    bal_error err;
    ASSERT_FAILS(BAL_E_CANCELLED, "nothing was finished",
                 bal_quantize(source_path(MODEL), out, &o, &err));
    assert_int_equal(s.calls, 1);
    assert_false(bal_path_exists(scratch("first.safetensors.partial")));
}

static void kill_at(const char *out, const bal_quant_opts *opts, int64_t unit)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        stopper s = {.stop_at = unit, .kill = true};
        bal_quant_opts o = *opts;
        o.progress = stop;
        o.progress_ctx = &s;
        bal_quantize(source_path(MODEL), out, &o, NULL);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_false(bal_path_exists(out));
}

static void test_kill_and_resume(void **state)
{
    (void)state;
    const char *out = scratch("kill.safetensors");
    for (int block = 0; block < LAYERS; block++) {
        bal_quant_opts o = options();
        kill_at(out, &o, block * UNITS + 950);
        o.resume = true;
        o.threads = 2;
        make(out, &o);
        assert_same_file(reference(), out);
        assert_int_equal(unlink(out), 0);
    }
}

/* A plan knows of what an interrupted run has left, and with `resume` takes off its time. */
static void test_plan_of_the_rest(void **state)
{
    (void)state;
    bal_error err;
    bal_quant_plan plan;
    const char *out = scratch("rest.safetensors");
    bal_quant_opts o = full_options();
    ASSERT_OK(bal_quantize_plan(&plan, source_path(MODEL), out, &o, &err));
    assert_int_equal(plan.blocks_done, 0);
    kill_at(out, &o, UNITS * (LAYERS - 1) + 500);
    ASSERT_OK(bal_quantize_plan(&plan, source_path(MODEL), out, &o, &err));
    assert_int_equal(plan.blocks_done, LAYERS - 1);
    const double whole = plan.seconds;
    o.resume = true;
    ASSERT_OK(bal_quantize_plan(&plan, source_path(MODEL), out, &o, &err));
    assert_int_equal(plan.blocks_done, LAYERS - 1);
    assert_true(plan.seconds < whole * 2 / 3); /* a third, but speeds are measured anew */
    bal_quant_opts other = o;
    other.seed = 9;
    ASSERT_FAILS(BAL_E_EXISTS, "calibration seed 0, this run has 9; without --resume, --force",
                 bal_quantize_plan(&plan, source_path(MODEL), out, &other, &err));
    other.resume = false; /* which starts over, if at all */
    ASSERT_OK(bal_quantize_plan(&plan, source_path(MODEL), out, &other, &err));
    make(out, &o);
    assert_int_equal(unlink(out), 0);
}

/* With gradients that were measured before the kill, and candidates that see the quantized stream:
 * both must come back to the last bit. */
static void test_kill_and_resume_full(void **state)
{
    (void)state;
    static const char *const set[] = {"group=32", "distort=on"};
    const char *whole = scratch("whole.safetensors"), *out = scratch("kill_full.safetensors");
    bal_quant_opts o = full_options();
    o.set = set;
    o.report = scratch("whole.html");
    make(whole, &o);
    o.report = scratch("resumed.html");
    kill_at(out, &o, UNITS + 500);
    assert_true(bal_path_exists(scratch("kill_full.safetensors.partial/sensitivity.json")));
    o.resume = true;
    make(out, &o);
    assert_same_file(whole, out);
    assert_same_file(scratch("whole.json"), scratch("resumed.json"));
    assert_same_file(scratch("whole.html"), scratch("resumed.html"));
}

static void kill_and_resume_gptq(const char *const *set, size_t n_set)
{
    const char *whole = scratch("whole_gptq.safetensors"), *out = scratch("kill_gptq.safetensors");
    bal_quant_opts o = full_options();
    o.recipe = "gptq";
    o.set = set;
    o.n_set = n_set;
    o.force = true;
    make(whole, &o);
    kill_at(out, &o, UNITS + 500);
    o.force = false;
    o.resume = true;
    o.threads = 2;
    make(out, &o);
    assert_same_file(whole, out);
    assert_int_equal(unlink(out), 0);
}

/* Error feedback on the quantized stream of a resumed run is that of the run in one piece; so are
 * weights that each run rotates and mixes anew. */
static void test_kill_and_resume_solver(void **state)
{
    (void)state;
    static const char *const shifted[] = {"group=32",       "inputs=quantized", "clip=inverse",
                                          "shift=residual", "polish=refit",     "gain=row",
                                          "undo=on",        "hessian=grad2"};
    static const char *const rotated[] = {"group=32", "rotate=residual", "hadamard=all"};
    kill_and_resume_gptq(shifted, sizeof shifted / sizeof shifted[0]);
    kill_and_resume_gptq(rotated, sizeof rotated / sizeof rotated[0]);
}

/* A finished block whose bytes are not what its record says is solved again. */
static void test_damaged_piece(void **state)
{
    (void)state;
    const char *out = scratch("damaged.safetensors");
    bal_quant_opts o = options();
    kill_at(out, &o, 2 * UNITS + 1);
    const char *part = scratch("damaged.safetensors.partial/block_000.safetensors");
    uint8_t *bytes;
    size_t n;
    bal_error err;
    ASSERT_OK(bal_read_file(&bytes, &n, part, 1 << 26, &err));
    bytes[n - 1] ^= 1;
    ASSERT_OK(bal_write_file(part, bytes, n, &err));
    free(bytes);
    o.resume = true;
    make(out, &o);
    assert_same_file(reference(), out);
}

static void test_resume_needs_the_same_run(void **state)
{
    (void)state;
    const char *out = scratch("same.safetensors");
    bal_error err;
    bal_quant_opts o = options();
    kill_at(out, &o, UNITS + 1);
    o.resume = true;
    o.samples = 2;
    ASSERT_FAILS(BAL_E_EXISTS, "calibration samples 3, this run has 2;",
                 bal_quantize(source_path(MODEL), out, &o, &err));
    o = options();
    o.resume = true;
    o.seed = 9;
    ASSERT_FAILS(BAL_E_EXISTS, "calibration seed 0, this run has 9",
                 bal_quantize(source_path(MODEL), out, &o, &err));
    o = options();
    o.resume = true;
    o.set = (const char *const[]){"group=32", "bits=4"};
    ASSERT_FAILS(BAL_E_EXISTS, "recipe bits 3, this run has 4",
                 bal_quantize(source_path(MODEL), out, &o, &err));
    o = options();
    o.resume = true;
    o.isa = "scalar";
    if (bal_cpu_isa() != BAL_ISA_NONE)
        ASSERT_FAILS(BAL_E_EXISTS, "isa", bal_quantize(source_path(MODEL), out, &o, &err));
    /* the finished piece survived all that, and force throws it away */
    assert_true(bal_path_exists(scratch("same.safetensors.partial/block_000.json")));
    o = options();
    o.force = true;
    make(out, &o);
    assert_same_file(reference(), out);
}

/* ---- Smaller pictures --------------------------------------------------------------------------
 */

#define NATIVE "tests/golden/qwen2_vl/small/model"

static void kill_native(const char *out, const bal_quant_opts *opts)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        stopper s = {.stop_at = UNITS + 1, .kill = true};
        bal_quant_opts o = *opts;
        o.progress = stop;
        o.progress_ctx = &s;
        bal_quantize(source_path(NATIVE), out, &o, NULL);
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* The limit is in the provenance, a resumed run has the same, and the file's own pictures keep the
 * model's limit. */
static void test_picture_limit(void **state)
{
    (void)state;
    const char *out = scratch("limited.safetensors");
    bal_quant_opts o = options();
    bal_error err;
    bal_model limited, original;
    o.image_max_tokens = 4;
    ASSERT_FAILS(BAL_E_UNSUP, "picture's shape decides",
                 bal_quantize(source_path(MODEL), out, &o, &err));
    kill_native(out, &o);
    o.resume = true;
    o.image_max_tokens = 5;
    ASSERT_FAILS(BAL_E_EXISTS, "image_max_tokens 4, this run has 5",
                 bal_quantize(source_path(NATIVE), out, &o, &err));
    o.image_max_tokens = 0;
    ASSERT_FAILS(BAL_E_EXISTS, "image_max_tokens",
                 bal_quantize(source_path(NATIVE), out, &o, &err));
    o.image_max_tokens = 4;
    ASSERT_OK(bal_quantize(source_path(NATIVE), out, &o, &err));
    ASSERT_OK(bal_model_load(&limited, out, &err));
    ASSERT_OK(bal_model_load(&original, source_path(NATIVE), &err));
    assert_memory_equal(&limited.config, &original.config, sizeof original.config);
    assert_non_null(
        strstr(bal_tensor_meta(&limited.tensors, "calibration"), "\"image_max_tokens\":4"));
    bal_model_unload(&limited);
    bal_model_unload(&original);

    o = (bal_quant_opts){.size = sizeof o, .recipe = "rtn", .image_max_tokens = 4, .force = true};
    ASSERT_FAILS(BAL_E_ARG, "give --calib", bal_quantize(source_path(NATIVE), out, &o, &err));
}

/* ---- Refusals ----------------------------------------------------------------------------------
 */

static void test_existing_output(void **state)
{
    (void)state;
    const char *out = scratch("exists.safetensors");
    bal_quant_opts o = options();
    bal_error err;
    ASSERT_OK(bal_write_file(out, "precious", 8, &err));
    ASSERT_FAILS(BAL_E_EXISTS, "--force", bal_quantize(source_path(MODEL), out, &o, &err));
    assert_false(bal_path_exists(scratch("exists.safetensors.partial")));
    o.force = true;
    make(out, &o);
    assert_same_file(reference(), out);
}

/* A full disk, as a limit on the size of files: a sentence, no output, and resume afterwards. */
static void test_full_disk(void **state)
{
    (void)state;
    const char *out = scratch("disk.safetensors");
    struct rlimit old, small;
    bal_quant_opts o = options();
    bal_error err;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    /* large enough for the blocks, too small for the whole file; then for nothing */
    const rlim_t limits[] = {600000, 3000};
    for (int i = 0; i < 2; i++) {
        small = old;
        small.rlim_cur = limits[i];
        setrlimit(RLIMIT_FSIZE, &small);
        const bal_status st = bal_quantize(source_path(MODEL), out, &o, &err);
        setrlimit(RLIMIT_FSIZE, &old);
        assert_int_equal(st, BAL_E_IO);
        assert_non_null(strstr(err.text, "File too large"));
        assert_non_null(strstr(err.text, i == 0 ? "out.safetensors" : "disk.safetensors.partial"));
        assert_false(bal_path_exists(out));
        o.resume = true;
        make(out, &o);
        o.resume = false;
        assert_same_file(reference(), out);
        unlink(out);
    }
}

static void test_bad_data(void **state)
{
    (void)state;
    const char *out = scratch("bad.safetensors"), *data = scratch("bad.jsonl");
    static const char text[] =
        "{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"},"
        "{\"from\": \"gpt\", \"value\": \"b\"}]}\n"
        "{\"image\": \"missing.png\", \"conversations\": [{\"from\": \"human\", \"value\": "
        "\"<image>a\"}, {\"from\": \"gpt\", \"value\": \"b\"}]}\n";
    bal_quant_opts o = options();
    bal_error err;
    ASSERT_OK(bal_write_file(data, text, sizeof text - 1, &err));
    o.calib = data;
    ASSERT_FAILS(BAL_E_IO, "record 2 of", bal_quantize(source_path(MODEL), out, &o, &err));
    assert_non_null(strstr(err.text, "missing.png"));
    ASSERT_OK(bal_write_file(scratch("missing.png"), "not a picture", 13, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "record 2 of", bal_quantize(source_path(MODEL), out, &o, &err));
    assert_false(bal_path_exists(scratch("bad.safetensors.partial")));
    o.calib = NULL;
    o.recipe = "awq";
    ASSERT_FAILS(BAL_E_ARG, "needs calibration data",
                 bal_quantize(source_path(MODEL), out, &o, &err));
}

/* Text alone for a model that sees: refused, unless the recipe accepts it. */
static void test_absent_modality(void **state)
{
    (void)state;
    const char *out = scratch("absent.safetensors"), *data = scratch("text.jsonl");
    static const char text[] = "{\"conversations\": [{\"from\": \"human\", \"value\": \"a\"},"
                               "{\"from\": \"gpt\", \"value\": \"b\"}]}\n";
    const char *const set[] = {"group=32", "absent=allow"};
    bal_quant_opts o = options();
    bal_error err;
    ASSERT_OK(bal_write_file(data, text, sizeof text - 1, &err));
    o.calib = data;
    o.set = set;
    o.recipe = "gptq";
    for (o.n_set = 1; o.n_set <= 2; o.n_set++)
        if (o.n_set == 1)
            ASSERT_FAILS(BAL_E_ARG, "none of the 1 samples in use has a picture",
                         bal_quantize(source_path(MODEL), out, &o, &err));
        else
            make(out, &o);
    assert_false(bal_path_exists(scratch("absent.safetensors.partial")));
}

static void test_bad_arguments(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    bal_error err;
    const char *model = source_path(MODEL), *out = scratch("args.safetensors");
    ASSERT_FAILS(BAL_E_ARG, "quantized already", bal_quantize(reference(), out, &o, &err));
    ASSERT_FAILS(BAL_E_IO, "/nowhere", bal_quantize("/nowhere", out, &o, &err));
    ASSERT_FAILS(BAL_E_ARG, "model", bal_quantize(NULL, out, &o, &err));
    ASSERT_FAILS(BAL_E_ARG, "output", bal_quantize(model, "", &o, &err));
    o.size = 2;
    ASSERT_FAILS(BAL_E_ARG, "opts.size", bal_quantize(model, out, &o, &err));
    o = options();
    o.threads = 999;
    ASSERT_FAILS(BAL_E_ARG, "threads", bal_quantize(model, out, &o, &err));
    o = options();
    o.report = "/nowhere/at/all.html";
    ASSERT_FAILS(BAL_E_ARG, "/nowhere/at", bal_quantize(model, out, &o, &err));
    o = options();
    o.set = (const char *const[]){"bits=9", "group=32"};
    ASSERT_FAILS(BAL_E_ARG, "bits", bal_quantize(model, out, &o, &err));
    assert_false(bal_path_exists(scratch("args.safetensors.partial")));
}

/* A second run on the same output while the first is at work. */
typedef struct second {
    bal_status status;
    bal_error err;
    const char *out;
} second;

static bool start_second(void *ctx, const bal_progress *p)
{
    second *s = ctx;
    if (strcmp(p->stage, "blocks") != 0 || s->status != BAL_OK) return true;
    bal_quant_opts o = options();
    o.resume = true;
    o.force = true;
    s->status = bal_quantize(source_path(MODEL), s->out, &o, &s->err);
    return true;
}

static void test_two_runs_on_one_output(void **state)
{
    (void)state;
    second s = {.out = scratch("locked.safetensors")};
    bal_quant_opts o = options();
    o.progress = start_second;
    o.progress_ctx = &s;
    make(s.out, &o);
    assert_int_equal(s.status, BAL_E_EXISTS);
    assert_non_null(strstr(s.err.text, "another run"));
    assert_same_file(reference(), s.out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_rounding_without_data),
        cmocka_unit_test(test_old_names_and_half),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_options_matter),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_cancel_and_resume),
        cmocka_unit_test(test_cancel_first),
        cmocka_unit_test(test_kill_and_resume),
        cmocka_unit_test(test_plan_of_the_rest),
        cmocka_unit_test(test_kill_and_resume_full),
        cmocka_unit_test(test_kill_and_resume_solver),
        cmocka_unit_test(test_damaged_piece),
        cmocka_unit_test(test_resume_needs_the_same_run),
        cmocka_unit_test(test_picture_limit),
        cmocka_unit_test(test_existing_output),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_bad_data),
        cmocka_unit_test(test_absent_modality),
        cmocka_unit_test(test_bad_arguments),
        cmocka_unit_test(test_two_runs_on_one_output),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
