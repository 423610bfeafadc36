/* SPDX-License-Identifier: MIT
 * Vision towers and projectors through the CUDA backend, its kernels run by the shim on the host:
 * features beside the CPU's. The bound is that of logits (test_cuda_model.c): activations, queries,
 * keys and weights of attention are f16, so features of the embedded model move by less than 1e-2
 * of their deviation and those of tiny random towers, packed ones included, by less than 2e-2. */
#include "device_case.h"
#include "unit/scratch.h"

#include "ballast_quant.h"

static int use_shim(void **state)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/tests/ballast_cuda_shim.so", getenv("BALLAST_BINARY_DIR"));
    setenv("BALLAST_CUDA_LIB", path, 0);
    return scratch_setup(state);
}

static const char TINY[] = "tests/golden/tiled/model";

static void embedded(void **state)
{
    (void)state;
    assert_true(device_looks(source_path("demo/model"), 60, 40) < 1e-2);
}

/* Class tokens, layer scales, shuffled patches; windows of two sizes and a gated MLP. (All
 * families: test_device.c.) */
static void families(void **state)
{
    (void)state;
    const struct {
        const char *model;
        int w, h;
    } all[] = {{TINY, 50, 40},
               {"tests/golden/families/llava/model", 60, 80},
               {"tests/golden/families/internvl_intern/model", 28, 28},
               {"tests/golden/qwen2_5_vl/small/model", 150, 180}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        assert_true(device_looks(source_path(all[i].model), all[i].w, all[i].h) < 2e-2);
}

static void packed(void **state)
{
    (void)state;
    bal_error err = {0};
    const char *set[] = {"vision=4", "bits=4", "group=32"};
    const bal_quant_opts opts = {
        .size = sizeof opts, .recipe = "rtn", .set = set, .n_set = 3, .force = true};
    ASSERT_OK(bal_quantize(source_path(TINY), scratch("v.safetensors"), &opts, &err));
    assert_true(device_looks(scratch("v.safetensors"), 50, 40) < 2e-2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embedded),
        cmocka_unit_test(families),
        cmocka_unit_test(packed),
    };
    return cmocka_run_group_tests(tests, use_shim, scratch_teardown);
}
