/* SPDX-License-Identifier: MIT
 * The host's side of a device, with the contract in plain C in a GPU's place: names, every way a
 * backend can be missing or wrong, and that rows, pages, recordings and logits are what the CPU
 * has. */
#include "device_case.h"
#include "unit/scratch.h"

#include "ballast.h"
#include "ballast_quant.h"

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

static void fixed_scales_are_refused(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    const char *set[] = {"group=32", "act=a8", "act_scale=static", "absent=allow"};
    const bal_quant_opts opts = {.size = sizeof opts,
                                 .recipe = "rtn",
                                 .set = set,
                                 .n_set = 4,
                                 .calib = source_path("tests/golden/calib/calib.jsonl"),
                                 .force = true};
    ASSERT_OK(bal_quantize(source_path("tests/golden/tiled/model"), scratch("q.safetensors"), &opts,
                           &err));
    use("plain_device.so", "");
    ASSERT_OK(bal_engine_open(&e, scratch("q.safetensors"), 1, NULL, &err));
    ASSERT_FAILS(BAL_E_UNSUP, "fixed scales, which are not computed on a device",
                 bal_engine_use_device(&e, "cuda:0", &err));
    bal_engine_close(&e);
}

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
        cmocka_unit_test(a_failure_while_running),
        cmocka_unit_test(logits),
        cmocka_unit_test(packed),
        cmocka_unit_test(fixed_scales_are_refused),
        cmocka_unit_test(towers),
        cmocka_unit_test(scheduler),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
