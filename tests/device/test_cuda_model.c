/* SPDX-License-Identifier: MIT
 * Whole models through the CUDA backend, its kernels run by the shim on the host: logits beside the
 * CPU's within a declared bound, and the same likeliest tokens. The bound: activations and queries
 * are f16, which is 2^-11 of a value, where the CPU has f32 or 2^-16; the embedded model's logits
 * move by less than 1e-2 of their deviation, and tiny random checkpoints, which amplify any
 * rounding, by less than 5e-2; by less than 2e-1 where activations or the cache are bytes, since a
 * value on an edge between two of them then moves by a whole step; and by less than 5e-1 where the
 * bytes have fixed scales, whose steps are as wide as the largest of all tokens asks for. */
#include "device_case.h"
#include "unit/scratch.h"

#include "ballast_quant.h"

enum { N = 72, FEW = 20, SINGLE = 3 }; /* two pages, or one */

static int use_shim(void **state)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/ballast_cuda_shim.so", getenv("BALLAST_BINARY_DIR"));
    setenv("BALLAST_CUDA_LIB", path, 0);
    return scratch_setup(state);
}

/* Linears of blocks read rows of vision as zeros. */
static void blind(bal_model *m)
{
    for (int i = 0; i < m->config.text.layers; i++) {
        bal_decoder_layer *l = &m->layers[i];
        bal_linear *const all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        for (int j = 0; j < 7; j++) all[j]->act.fixed[BAL_ACT_VISION] = 0.0f;
    }
}

static void compare_as(const char *path, bool sees, bal_kv_type kv, int n, double limit)
{
    bal_error err = {0};
    bal_engine e;
    ASSERT_OK(bal_engine_open(&e, path, 2, NULL, &err));
    if (!sees) blind(&e.model);
    device_rows cpu = device_run(&e, kv, n, SINGLE);
    ASSERT_OK(bal_engine_use_device(&e, device_under_test(), &err));
    device_rows device = device_run(&e, kv, n, SINGLE);
    const double d = device_distance(&cpu, &device);
    const int agree = device_agree(&cpu, &device);
    printf("%s, cache %s: %.2g of the deviation, %d of %d likeliest tokens\n", path,
           bal_kv_type_name(kv), d, agree, n);
    assert_true(d > 0 && d < limit);
    assert_true(agree >= n - n / 20 - 1);
    free(cpu.data);
    free(device.data);
    bal_engine_close(&e);
}

static void compare(const char *path, bal_kv_type kv, int n, double limit)
{
    compare_as(path, true, kv, n, limit);
}

static const char TINY[] = "tests/golden/tiled/model";

static void families(void **state)
{
    (void)state;
    const char *const models[] = {TINY, "tests/golden/qwen2_vl/small/model",
                                  "tests/golden/families/qwen3/model",
                                  "tests/golden/families/llama_bias/model"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        compare(source_path(models[i]), BAL_KV_F16, i < 2 ? N : FEW, 5e-2);
}

static void caches(void **state)
{
    (void)state;
    compare(source_path(TINY), BAL_KV_F32, FEW, 5e-2);
    compare(source_path(TINY), BAL_KV_I8, FEW, 2e-1);
}

static void packed(void **state)
{
    (void)state;
    const int bits[] = {2, 3, 4, 6, 8, 4};
    for (int i = 0; i < 6; i++) {
        bal_error err = {0};
        char set_bits[16];
        snprintf(set_bits, sizeof set_bits, "bits=%d", bits[i]);
        const char *set[] = {set_bits, i % 2 ? "group=128" : "group=32",
                             i == 2 ? "hadamard=all" : "hadamard=none",
                             i > 2 ? "act=a8" : "act=a16", i == 5 ? "grid=two-level" : "grid=asym"};
        const bal_quant_opts opts = {
            .size = sizeof opts, .recipe = "rtn", .set = set, .n_set = 5, .force = true};
        ASSERT_OK(bal_quantize(source_path(TINY), scratch("q.safetensors"), &opts, &err));
        compare(scratch("q.safetensors"), BAL_KV_F16, FEW, i > 2 ? 2e-1 : 5e-2);
    }
}

static void tables(void **state)
{
    (void)state;
    const char *const bits[] = {"bits=2", "bits=3", "bits=4"};
    for (int i = 0; i < 3; i++) {
        bal_error err = {0};
        const char *set[] = {bits[i], i == 1 ? "group=128" : "group=32", "grid=table"};
        const bal_quant_opts opts = {
            .size = sizeof opts, .recipe = "rtn", .set = set, .n_set = 3, .force = true};
        ASSERT_OK(bal_quantize(source_path(TINY), scratch("t.safetensors"), &opts, &err));
        compare(scratch("t.safetensors"), BAL_KV_F16, FEW, 5e-2);
    }
}

/* Fixed scales, in groups and of whole rows, and matrices of small rank, in prompts with rows of
 * vision and in single rows of either kind. The scale of vision is also replaced, by one that
 * leaves nothing of its rows. */
static void calibrated(void **state)
{
    (void)state;
    static const struct {
        const char *set[6];
        double limit;
        bool blind;
    } cases[] = {
        {{"group=32", "act=a8", "act_scale=static"}, 5e-1, false},
        {{"group=row", "grid=sym", "act=a8", "act_scale=static-modality"}, 5e-1, false},
        {{"group=row", "grid=sym", "act=a8", "act_scale=static-modality"}, 5e-1, true},
        {{"group=32", "bits=3", "rank=8"}, 5e-2, false},
        {{"group=32", "bits=2", "rank=8", "rank_rows=vision"}, 5e-2, false},
        {{"group=32", "bits=3", "act=a8", "rank=8", "hadamard=all"}, 2e-1, false},
        {{"group=32", "act=a8", "act_scale=static-modality", "rank=8"}, 5e-1, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = 0;
        while (cases[i].set[n]) n++;
        device_quantize(TINY, scratch("q.safetensors"), "rtn", cases[i].set, n);
        printf("%s %s %s: ", cases[i].set[1], cases[i].set[2], n > 3 ? cases[i].set[n - 1] : "");
        compare_as(scratch("q.safetensors"), !cases[i].blind, BAL_KV_F16, FEW, cases[i].limit);
    }
}

/* Rows of several sequences in one step, prompts and single rows mixed, pages shared. */
static void requests(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    static device_told cpu, device;
    ASSERT_OK(bal_engine_open(&e, source_path(TINY), 2, NULL, &err));
    int32_t greedy[2][12];
    device_greedy(&e, greedy[0], 12);
    device_ask(&e, &cpu, false);
    ASSERT_OK(bal_engine_use_device(&e, device_under_test(), &err));
    device_greedy(&e, greedy[1], 12);
    assert_memory_equal(greedy[0], greedy[1], sizeof greedy[0]);
    device_draws_as_the_host(&e);
    device_ask(&e, &device, false);
    int same = 0;
    for (int i = 0; i < DEVICE_REQUESTS; i++)
        same += memcmp(cpu.id[i], device.id[i], sizeof cpu.id[i]) == 0;
    printf("%d of %d answers are the CPU's\n", same, DEVICE_REQUESTS);
    assert_true(same == DEVICE_REQUESTS && device.failed == 0);
    bal_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families), cmocka_unit_test(caches),     cmocka_unit_test(packed),
        cmocka_unit_test(tables),   cmocka_unit_test(calibrated), cmocka_unit_test(requests),
    };
    return cmocka_run_group_tests(tests, use_shim, scratch_teardown);
}
