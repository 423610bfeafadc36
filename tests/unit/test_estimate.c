/* SPDX-License-Identifier: MIT
 * Estimates of memory and time: what they must at least say of a decoder as wide as a 7B, and that
 * they grow with what they should grow with. What is measured there: scripts/scale_7b.sh. */
#include "check.h"

#include "quant/estimate.h"

enum { SAMPLES = 128, LENGTH = 150 };

static const bal_text_config wide = {.hidden = 3584,
                                     .intermediate = 18944,
                                     .heads = 28,
                                     .kv_heads = 4,
                                     .head_dim = 128,
                                     .layers = 28};

typedef struct data {
    bal_sample items[SAMPLES];
    uint8_t tags[4 * LENGTH];
    bal_samples all;
} data;

static void make_data(data *d, int n, int length)
{
    memset(d, 0, sizeof *d);
    for (int t = 0; t < length; t++) d->tags[t] = t < length / 2 ? BAL_VISION : BAL_ANSWER;
    for (int i = 0; i < n; i++) d->items[i] = (bal_sample){.n = length, .modality = d->tags};
    d->all = (bal_samples){.n = n, .max_len = length, .items = d->items};
}

static bal_estimate with_lanes(const char *recipe, const char *set, int n, int length, int lanes)
{
    static data d;
    bal_error err = {0};
    bal_recipe r;
    make_data(&d, n, length);
    ASSERT_OK(bal_recipe_load(&r, recipe, &err));
    if (set) ASSERT_OK(bal_recipe_assign(&r, set, &err));
    return bal_estimate_make(&wide, &d.all, &r, r.balance == BAL_BALANCE_GRADIENT,
                             (bal_speed){1e11, 5e10}, lanes);
}

static bal_estimate estimate(const char *recipe, const char *set, int n, int length)
{
    return with_lanes(recipe, set, n, length, 2);
}

/* 5.7 GB were measured for four conversations, most of it moments and their factor; shifted targets
 * come on top. */
static void test_memory(void **state)
{
    (void)state;
    const bal_estimate few = estimate("ballast", NULL, 4, LENGTH);
    const bal_estimate many = estimate("ballast", NULL, SAMPLES, LENGTH);
    const uint64_t plain = estimate("awq+gptq", NULL, 4, LENGTH).ram_bytes;
    assert_true(plain > 5400000000u && plain < 6300000000u);
    assert_true(few.ram_bytes > plain + 500000000u && few.ram_bytes < 7300000000u);
    assert_int_equal(many.ram_bytes, few.ram_bytes); /* streamed, whatever their number */
    assert_true(many.spill_bytes == 32 * few.spill_bytes);
    assert_true(estimate("ballast", NULL, 4, 4 * LENGTH).ram_bytes > few.ram_bytes);
    assert_true(estimate("ballast", "polish=refit", 4, LENGTH).ram_bytes > few.ram_bytes);
    assert_true(estimate("rtn", NULL, 0, 0).ram_bytes < 2500000000u);
    const uint64_t patch = estimate("lqer", "rank_rows=vision", 4, LENGTH).ram_bytes;
    const uint64_t solved = estimate("gptq", NULL, 4, LENGTH).ram_bytes;
    assert_true(patch >= solved + (uint64_t)4 * 18944 * 18944); /* a triangle of doubles */
    const double inverse = (double)with_lanes("gptq", "clip=inverse", 4, LENGTH, 64).ram_bytes;
    const double alone = (double)with_lanes("gptq", "clip=inverse", 4, LENGTH, 1).ram_bytes;
    assert_true(inverse > alone + 63.0 * 18944 * 256 * 8); /* a panel of the inverse per thread */
    assert_true(estimate("ballast", NULL, SAMPLES, 4 * LENGTH).ram_bytes < 8000000000u);
}

static void test_time(void **state)
{
    (void)state;
    const double output = estimate("ballast", NULL, SAMPLES, LENGTH).seconds;
    const double moments = estimate("ballast", "objective=moments", SAMPLES, LENGTH).seconds;
    assert_true(moments < 0.5 * output);
    assert_true(estimate("ballast", NULL, SAMPLES, 2 * LENGTH).seconds > 1.5 * output);
    assert_true(estimate("awq", NULL, SAMPLES, LENGTH).seconds < output);
    /* a second factor, and two triangular solves of what each group is shifted by */
    const double k[] = {3584, 3584, 3584, 18944}, rows[] = {3584, 3584, 3584, 3584};
    double shift = 0.0;
    for (int g = 0; g < 4; g++) shift += k[g] * k[g] * (k[g] / 3.0 + 2.0 * rows[g]);
    const double shifted = estimate("ballast", NULL, 1, LENGTH).seconds;
    assert_true(shifted - estimate("awq+gptq", NULL, 1, LENGTH).seconds > 28 * shift / 5e10);
    assert_true(estimate("mbq", NULL, SAMPLES, LENGTH).seconds >
                estimate("mbq-r1", NULL, SAMPLES, LENGTH).seconds);
    assert_true(estimate("rtn", NULL, 0, 0).seconds < 60.0);
    printf("28 blocks, %d samples of %d positions, 100 and 50 billion operations a second: "
           "%.0f s by output, %.0f s by moments\n",
           SAMPLES, LENGTH, output, moments);
}

static void test_speed(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec e;
    bal_speed s;
    ASSERT_OK(bal_pool_create(&pool, 1, &err));
    bal_kernels_init(&kernels, bal_cpu_isa());
    ASSERT_OK(bal_exec_create(&e, pool, &kernels, 64, &err));
    ASSERT_OK(bal_speed_measure(&s, &e, &err));
    assert_true(s.f32 > 1e6 && s.f32 < 1e14 && s.f64 > 1e6 && s.f64 < 1e14);
    bal_exec_destroy(&e);
    bal_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_time),
        cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
