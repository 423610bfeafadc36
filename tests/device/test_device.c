/* SPDX-License-Identifier: MIT
 * The host's side of a device, with the contract in plain C in a GPU's place: names, every way a
 * backend can be missing or wrong, and that rows, pages, recordings and logits are what the CPU
 * has. */
#include "device_case.h"
#include "unit/scratch.h"

#include "ballast.h"
#include "base/half.h"

static const char *library(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/tests/%s", getenv("BALLAST_BINARY_DIR"), name);
    return path;
}

static void use(const char *lib, const char *mood)
{
    setenv("BALLAST_CUDA_LIB", library(lib), 1);
    setenv("PLAIN_DEVICE", mood, 1);
}

/* ---- Names and failures ---------------------------------------------------------------------- */

static void names(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_device_choice c;
    ASSERT_OK(bal_device_parse(NULL, &c, &err));
    assert_false(c.device);
    ASSERT_OK(bal_device_parse("cpu", &c, &err));
    assert_false(c.device);
    ASSERT_OK(bal_device_parse("cuda", &c, &err));
    assert_true(c.device && c.insist && c.index == 0);
    ASSERT_OK(bal_device_parse("cuda:12", &c, &err));
    assert_true(c.device && c.insist && c.index == 12);
    ASSERT_OK(bal_device_parse("auto", &c, &err));
    assert_true(c.device && !c.insist);
    const char *const bad[] = {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda1", "cuda:99999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ASSERT_FAILS(BAL_E_ARG, "expected cpu, cuda:N or auto", bal_device_parse(bad[i], &c, &err));
}

static void every_failure_is_a_sentence(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_device_handle h;
    unsetenv("BALLAST_CUDA_LIB");
    ASSERT_FAILS(BAL_E_UNSUP, "cuda:0: there is no ballast_cuda.so in ",
                 bal_device_open(&h, 0, &err));
    setenv("BALLAST_CUDA_LIB", "/nowhere/ballast_cuda.so", 1);
    ASSERT_FAILS(BAL_E_UNSUP, "BALLAST_CUDA_LIB: /nowhere/ballast_cuda.so: No such file",
                 bal_device_open(&h, 0, &err));
    scratch_text(scratch("text.so"), "no shared object");
    setenv("BALLAST_CUDA_LIB", scratch("text.so"), 1);
    ASSERT_FAILS(BAL_E_UNSUP, "text.so: ", bal_device_open(&h, 0, &err));
    use("other_device.so", "");
    ASSERT_FAILS(BAL_E_UNSUP, "has no bal_device_entry", bal_device_open(&h, 0, &err));
    use("plain_device.so", "abi");
    ASSERT_FAILS(BAL_E_UNSUP, "speaks version 11 of the device contract, expected 5",
                 bal_device_open(&h, 0, &err));
    use("plain_device.so", "none");
    ASSERT_FAILS(BAL_E_UNSUP, "this machine has no cuda device", bal_device_open(&h, 0, &err));
    use("plain_device.so", "old");
    ASSERT_FAILS(BAL_E_UNSUP, "device cuda:1: the driver is too old", bal_device_open(&h, 1, &err));
    use("plain_device.so", "");
    ASSERT_FAILS(BAL_E_UNSUP, "this machine has 2 cuda devices, the last is cuda:1",
                 bal_device_open(&h, 2, &err));
    assert_null(h.api);
    ASSERT_OK(bal_device_open(&h, 1, &err));
    bal_device_info info;
    h.api->describe(h.device, &info);
    assert_string_equal(info.name, "plain C, number 1");
    bal_device_close(&h);
    bal_device_close(&h);
}

static const char TINY[] = "tests/golden/tiled/model";

static void insisting_or_not(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_context *model;
    use("plain_device.so", "none");
    bal_open_opts o = {.size = sizeof o, .threads = 1, .device = "cuda:0"};
    ASSERT_FAILS(BAL_E_UNSUP, "no cuda device", bal_open(&model, source_path(TINY), &o, &err));
    assert_null(model);
    o.device = "auto";
    ASSERT_OK(bal_open(&model, source_path(TINY), &o, &err));
    bal_close(model);
    o.device = "gpu";
    ASSERT_FAILS(BAL_E_ARG, "'gpu'", bal_open(&model, source_path(TINY), &o, &err));
}

static void memory_of_the_device(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    bal_session s;
    use("plain_device.so", "memory=10000");
    ASSERT_OK(bal_engine_open(&e, source_path(TINY), 1, NULL, &err));
    ASSERT_FAILS(BAL_E_NOMEM, "cuda:0: block 0: out of device memory",
                 bal_engine_use_device(&e, "cuda:0", &err));
    assert_null(e.on_device);
    use("plain_device.so", "memory=1500000");
    ASSERT_OK(bal_engine_use_device(&e, "cuda:0", &err));
    ASSERT_FAILS(BAL_E_NOMEM,
                 "device cuda:0: out of device memory: ", bal_session_create(&s, &e, 512, &err));
    bal_engine_close(&e);
}

static void wide_heads(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    ASSERT_OK(bal_engine_open(&e, source_path(TINY), 1, NULL, &err));
    use("plain_device.so", "heads=4");
    ASSERT_FAILS(BAL_E_UNSUP, "too wide", bal_engine_use_device(&e, "cuda:0", &err));
    bal_engine_close(&e);
}

static void a_failure_while_running(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    bal_session s;
    use("plain_device.so", "late");
    ASSERT_OK(bal_engine_open(&e, source_path(TINY), 1, NULL, &err));
    ASSERT_OK(bal_engine_use_device(&e, "cuda:0", &err));
    ASSERT_OK(bal_session_create(&s, &e, 64, &err));
    ASSERT_FAILS(BAL_E_IO, "fell off the bus", bal_session_push(&s, 3, &err));
    assert_int_equal(s.n, 0);
    bal_session_destroy(&s);
    bal_engine_close(&e);
}

/* ---- The same as the CPU --------------------------------------------------------------------- */

/* f32 sums in double, f32 in between: what is left is the order of sums, amplified by random
 * weights. */
static void compare(const char *path, bal_kv_type kv, double limit)
{
    bal_error err = {0};
    enum { N = 140, SINGLE = 20 };
    bal_engine e;
    use("plain_device.so", "");
    ASSERT_OK(bal_engine_open(&e, path, 2, NULL, &err));
    device_rows cpu = device_run(&e, kv, N, SINGLE);
    ASSERT_OK(bal_engine_use_device(&e, "cuda:0", &err));
    device_rows device = device_run(&e, kv, N, SINGLE);
    const double d = device_distance(&cpu, &device);
    printf("%s, cache %s: %.2g of the deviation\n", path, bal_kv_type_name(kv), d);
    assert_true(d < limit);
    assert_true(device_agree(&cpu, &device) >= N - 1);
    free(cpu.data);
    free(device.data);
    bal_engine_close(&e);
}

static void logits(void **state)
{
    (void)state;
    compare(source_path(TINY), BAL_KV_F32, 1e-3);
    compare(source_path(TINY), BAL_KV_F16, 1e-2);
    compare(source_path(TINY), BAL_KV_I8, 5e-2);
    compare(source_path("tests/golden/qwen2_vl/small/model"), BAL_KV_F32, 1e-3);
    compare(source_path("tests/golden/families/qwen3/model"), BAL_KV_F32, 1e-3);
    compare(source_path("tests/golden/families/llama_bias/model"), BAL_KV_F32, 1e-3);
}

static void packed(void **state)
{
    (void)state;
    bal_error err = {0};
    const char *set[] = {"bits=3", "group=32"};
    const bal_quant_opts opts = {
        .size = sizeof opts, .recipe = "rtn", .set = set, .n_set = 2, .force = true};
    ASSERT_OK(bal_quantize(source_path(TINY), scratch("q.safetensors"), &opts, &err));
    compare(scratch("q.safetensors"), BAL_KV_F32, 1e-2);
    const char *mixed[] = {"bits=4", "group=32", "hadamard=all"};
    const bal_quant_opts more = {
        .size = sizeof more, .recipe = "rtn", .set = mixed, .n_set = 3, .force = true};
    ASSERT_OK(bal_quantize(source_path(TINY), scratch("q.safetensors"), &more, &err));
    compare(scratch("q.safetensors"), BAL_KV_F32, 1e-2);
}

/* Scales from calibration, and matrices of small rank, for all rows and for vision alone; down
 * behind a transform of what gate and up, which are no single weight then, give together. A byte
 * that is on an edge moves by a whole step. */
static void calibrated(void **state)
{
    (void)state;
    static const struct {
        const char *set[6];
        double limit;
    } cases[] = {
        {{"group=32", "act=a8", "act_scale=static"}, 5e-2},
        {{"group=32", "act=a8", "act_scale=static-modality"}, 5e-2},
        {{"group=32", "bits=3", "rank=8"}, 1e-2},
        {{"group=32", "bits=3", "rank=8", "rank_rows=vision"}, 1e-2},
        {{"group=32", "bits=3", "rank=8", "hadamard=all"}, 1e-2},
        {{"group=32", "act=a8", "act_scale=static-modality", "rank=8", "rank_rows=vision"}, 5e-2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = 0;
        while (cases[i].set[n]) n++;
        device_quantize(TINY, scratch("q.safetensors"), "rtn", cases[i].set, n);
        printf("%s %s %s: ", cases[i].set[1], cases[i].set[2], n > 3 ? cases[i].set[n - 1] : "");
        compare(scratch("q.safetensors"), BAL_KV_F32, cases[i].limit);
    }
}

/* ---- Matrices of small rank ------------------------------------------------------------------ */

enum { LOW_ROWS = 9, LOW_MOST = 16 };

/* A random matrix of rank `rank` beside w, at an odd address. */
static void add_low(bal_linear *w, int rank, bool vision, uint8_t *room, uint32_t *seed)
{
    const size_t n = (size_t)rank * (size_t)(w->n + w->k);
    for (size_t i = 0; i < n; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        const uint16_t h = bal_f32_to_f16((float)(*seed >> 16) / 65536.0f - 0.5f);
        memcpy(room + 1 + 2 * i, &h, sizeof h);
    }
    w->rank = rank;
    w->low_vision = vision;
    w->low_a = room + 1;
    w->low_b = room + 1 + 2 * (size_t)(rank * w->k);
}

/* y [LOW_ROWS][width] of n linears on the CPU, side by side. */
static void low_on_cpu(const bal_engine *e, const bal_linear *w, int n, const float *x,
                       const uint8_t *modality, float *y, size_t width)
{
    bal_error err = {0};
    bal_exec exec;
    ASSERT_OK(bal_exec_create(&exec, e->pool, &e->kernels, bal_model_max_k(&e->model), &err));
    for (int i = 0; i < n; y += w[i++].n)
        bal_linear_forward_rows(&exec, &w[i], x, (size_t)w[i].k, modality, LOW_ROWS, y, width);
    bal_exec_destroy(&exec);
}

/* The same on the device. gated: asked for one weight, which there cannot be. */
static void low_on_device(bal_device_model *d, const bal_linear *w, int n, bool gated,
                          const float *x, const uint8_t *modality, float *y, size_t width)
{
    bal_error err = {0};
    bal_device_group g = {0};
    int32_t words[LOW_ROWS];
    bal_dptr at;
    const size_t k = (size_t)w->k, x_bytes = LOW_ROWS * k * sizeof *x;
    const size_t y_bytes = LOW_ROWS * width * sizeof *y;
    for (int i = 0; i < LOW_ROWS; i++) words[i] = modality ? modality[i] : 0;
    bal_device_model_lock(d);
    ASSERT_OK(bal_device_group_upload(d, &g, w, n, gated, &err));
    assert_true(!g.gated && g.width == (int)width);
    const size_t work = bal_device_group_bytes(d, &g, LOW_ROWS);
    ASSERT_OK(d->api->alloc(d->device, &at, x_bytes + y_bytes + sizeof words + work, "rows", &err));
    const bal_dptr to = at + x_bytes, rows = to + y_bytes;
    d->api->upload(d->device, at, x, x_bytes);
    d->api->upload(d->device, rows, words, sizeof words);
    const bal_stage_args s = {.x = at,
                              .out = rows + sizeof words,
                              .ld = k,
                              .m = LOW_ROWS,
                              .k = w->k,
                              .modality = modality ? rows : 0};
    bal_device_group_forward(d, &g, s, to, width, false);
    d->api->download(d->device, y, to, y_bytes);
    ASSERT_OK(d->api->sync(d->device, &err));
    d->api->release(d->device, at);
    bal_device_group_free(d, &g);
    bal_device_model_unlock(d);
}

static void check_low(const bal_engine *e, const bal_linear *w, int n, bool gated, bool vision)
{
    const uint8_t modality[LOW_ROWS] = {BAL_PROMPT, BAL_VISION, BAL_VISION, BAL_ANSWER, BAL_VISION};
    const size_t k = (size_t)w->k;
    size_t width = 0;
    for (int i = 0; i < n; i++) width += (size_t)w[i].n;
    device_rows of[2];
    float *x = malloc(LOW_ROWS * k * sizeof *x);
    for (size_t i = 0; i < LOW_ROWS * k; i++) x[i] = sinf((float)(i * i % 1013));
    for (int i = 0; i < 2; i++)
        of[i] = (device_rows){malloc(LOW_ROWS * width * sizeof *x), (int)width, LOW_ROWS};
    low_on_cpu(e, w, n, x, vision ? modality : NULL, of[0].data, width);
    low_on_device(e->on_device, w, n, gated, x, vision ? modality : NULL, of[1].data, width);
    const double d = device_distance(&of[0], &of[1]);
    printf("%d linears, %s: %.2g of the deviation\n", n, vision ? "vision" : "text", d);
    assert_true(d < 1e-4);
    free(of[0].data);
    free(of[1].data);
    free(x);
}

/* Linears of one group with unlike ranks, for unlike rows, or without one. */
static void small_ranks_of_a_group(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    uint32_t seed = 9;
    const char *set[] = {"group=32", "bits=4"};
    device_quantize(TINY, scratch("q.safetensors"), "rtn", set, 2);
    use("plain_device.so", "");
    ASSERT_OK(bal_engine_open(&e, scratch("q.safetensors"), 1, NULL, &err));
    ASSERT_OK(bal_engine_use_device(&e, "cuda:0", &err));
    const bal_decoder_layer *l = &e.model.layers[0];
    bal_linear qkv[] = {l->q, l->k, l->v}, wide[] = {l->gate, l->up};
    uint8_t *room[4];
    for (int i = 0; i < 4; i++) room[i] = malloc(1 + 2 * LOW_MOST * (size_t)(2 * l->down.k));
    add_low(&qkv[0], 3, true, room[0], &seed);
    add_low(&qkv[1], 11, false, room[1], &seed);
    add_low(&wide[0], 5, false, room[2], &seed);
    for (int i = 0; i < 2; i++) {
        check_low(&e, qkv, 3, false, i);
        check_low(&e, wide, 2, true, i);
    }
    add_low(&qkv[2], LOW_MOST, true, room[3], &seed);
    check_low(&e, qkv, 3, false, true);
    for (int i = 0; i < 4; i++) free(room[i]);
    bal_engine_close(&e);
}

/* A tower with layer scales, whose attention is written over what it was made of. */
static void small_ranks_of_a_tower(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    uint32_t seed = 5;
    const char *set[] = {"group=32", "bits=8", "vision=8", "act=a8"};
    device_quantize("tests/golden/families/internvl_intern/model", scratch("v.safetensors"), "rtn",
                    set, 4);
    use("plain_device.so", "");
    ASSERT_OK(bal_engine_open(&e, scratch("v.safetensors"), 1, NULL, &err));
    bal_vision_layer *l = &e.model.vision_layers[0];
    bal_linear *const ranked[] = {&l->out, &l->k, &l->fc1, &l->fc2};
    uint8_t *room[4];
    assert_non_null(l->scale1);
    for (int i = 0; i < 4; i++) {
        room[i] = malloc(1 + 2 * 4 * (size_t)(ranked[i]->n + ranked[i]->k));
        add_low(ranked[i], 4, false, room[i], &seed);
    }
    assert_true(device_looks_with(&e, "with small ranks", 70, 60) < 5e-2);
    for (int i = 0; i < 4; i++) free(room[i]);
    bal_engine_close(&e);
}

/* The head's, and one of the table that it shares weights with, which only who looks a token up
 * adds. */
static void small_ranks_of_the_ends(void **state)
{
    (void)state;
    enum { N = 20, GREEDY = 12 };
    bal_error err = {0};
    bal_engine e;
    int32_t greedy[2][GREEDY];
    uint32_t seed = 7;
    const char *set[] = {"group=32", "bits=8", "head=8"};
    device_quantize(TINY, scratch("q.safetensors"), "rtn", set, 3);
    use("plain_device.so", "");
    ASSERT_OK(bal_engine_open(&e, scratch("q.safetensors"), 1, NULL, &err));
    bal_linear *head = &e.model.head, *table = &e.model.embed;
    const size_t bytes = 1 + 2 * 4 * (size_t)(head->n + head->k);
    uint8_t *room[2] = {malloc(bytes), malloc(bytes)};
    *table = *head;
    add_low(head, 4, false, room[0], &seed);
    add_low(table, 4, false, room[1], &seed);
    device_rows cpu = device_run(&e, BAL_KV_F32, N, 3);
    device_greedy(&e, greedy[0], GREEDY);
    ASSERT_OK(bal_engine_use_device(&e, "cuda:0", &err));
    device_rows device = device_run(&e, BAL_KV_F32, N, 3);
    device_greedy(&e, greedy[1], GREEDY);
    const double d = device_distance(&cpu, &device);
    printf("with small ranks of head and table: %.2g of the deviation\n", d);
    assert_true(d < 1e-2);
    assert_memory_equal(greedy[0], greedy[1], sizeof greedy[0]);
    for (int i = 0; i < 2; i++) free(room[i]);
    free(cpu.data);
    free(device.data);
    bal_engine_close(&e);
}

/* ---- Towers ---------------------------------------------------------------------------------- */

/* Towers with and without class tokens, norms, layer scales, windows and gates; several views, more
 * than a batch of them, and pictures of their own size. What is left is f16 keys and values. */
static void towers(void **state)
{
    (void)state;
    use("plain_device.so", "");
    const struct {
        const char *model;
        int w, h;
    } all[] = {{TINY, 100, 70},
               {"tests/golden/families/llava/model", 60, 80},
               {"tests/golden/families/idefics3/model", 170, 90},
               {"tests/golden/families/internvl/model", 100, 60},
               {"tests/golden/families/internvl_intern/model", 70, 60},
               {"tests/golden/families/internvl_chat/model", 200, 90},
               {"tests/golden/qwen2_vl/small/model", 120, 150},
               {"tests/golden/qwen2_5_vl/small/model", 150, 120}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        assert_true(device_looks(source_path(all[i].model), all[i].w, all[i].h) < 1e-2);
}

/* ---- Many requests --------------------------------------------------------------------------- */

static void scheduler(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    static device_told cpu, device;
    use("plain_device.so", "");
    ASSERT_OK(bal_engine_open(&e, source_path(TINY), 2, NULL, &err));
    int32_t greedy[2][12];
    device_greedy(&e, greedy[0], 12);
    device_ask(&e, &cpu, true);
    ASSERT_OK(bal_engine_use_device(&e, "cuda:1", &err));
    device_greedy(&e, greedy[1], 12);
    assert_memory_equal(greedy[0], greedy[1], sizeof greedy[0]);
    device_draws_as_the_host(&e);
    device_ask(&e, &device, true);
    assert_memory_equal(cpu.id, device.id, sizeof cpu.id);
    bal_engine_close(&e);
    use("plain_device.so", "late");
    ASSERT_OK(bal_engine_open(&e, source_path(TINY), 1, NULL, &err));
    ASSERT_OK(bal_engine_use_device(&e, "cuda:0", &err));
    device_ask(&e, &device, true);
    assert_int_equal(device.failed, DEVICE_REQUESTS);
    assert_non_null(strstr(device.why, "fell off the bus"));
    bal_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(every_failure_is_a_sentence),
        cmocka_unit_test(insisting_or_not),
        cmocka_unit_test(memory_of_the_device),
        cmocka_unit_test(wide_heads),
        cmocka_unit_test(a_failure_while_running),
        cmocka_unit_test(logits),
        cmocka_unit_test(packed),
        cmocka_unit_test(calibrated),
        cmocka_unit_test(small_ranks_of_a_group),
        cmocka_unit_test(small_ranks_of_a_tower),
        cmocka_unit_test(small_ranks_of_the_ends),
        cmocka_unit_test(towers),
        cmocka_unit_test(scheduler),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
