/* SPDX-License-Identifier: MIT
 * The disk store, per-modality statistics and the loss sums. */
#include "check.h"

#include "base/rng.h"
#include "quant/losses.h"
#include "quant/stats.h"

#include <fcntl.h>
#include <math.h>

enum { COLS = 70, ROWS = 23 };

static bal_samples two_samples(bal_sample items[2])
{
    items[0] = (bal_sample){.n = 3};
    items[1] = (bal_sample){.n = 5};
    return (bal_samples){.n = 2, .max_len = 5, .items = items};
}

static void test_store(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_sample items[2];
    const bal_samples samples = two_samples(items);
    bal_store s = {0};
    float x[5 * 4], back[5 * 4];
    const int input = fcntl(0, F_GETFD);
    bal_store_destroy(&s); /* a zeroed struct is fine, and descriptor 0 is not its own */
    assert_int_equal(fcntl(0, F_GETFD), input);
    ASSERT_OK(bal_store_create(&s, "/tmp", &samples, 4, &err));
    for (int i = 0; i < 20; i++) x[i] = (float)i * 1.5f;
    ASSERT_OK(bal_store_write(&s, 0, x, &err)); /* sample 1 is still missing */
    ASSERT_FAILS(BAL_E_IO, "sample 1 was never written", bal_store_read(&s, 1, back, &err));
    ASSERT_OK(bal_store_write(&s, 1, x, &err));
    x[0] = -1.0f;
    ASSERT_OK(bal_store_write(&s, 0, x, &err));
    ASSERT_OK(bal_store_read(&s, 1, back, &err));
    assert_true(back[0] == 0.0f && back[19] == 28.5f);
    ASSERT_OK(bal_store_read(&s, 0, back, &err));
    assert_true(back[0] == -1.0f && back[11] == 16.5f);
    ASSERT_FAILS(BAL_E_ARG, "sample 2 of a store of 2", bal_store_read(&s, 2, back, &err));
    bal_store_destroy(&s);
    bal_store_destroy(&s);
    ASSERT_FAILS(BAL_E_IO, "/nowhere/at/all",
                 bal_store_create(&s, "/nowhere/at/all", &samples, 4, &err));
}

static void test_samples_check(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_sample items[2];
    bal_samples s = two_samples(items);
    uint8_t tags[] = {0, 1, 2, 0, 2};
    items[0].modality = items[1].modality = tags;
    ASSERT_OK(bal_samples_check(&s, &err));
    s.max_len = 4;
    ASSERT_FAILS(BAL_E_ARG, "sample 1: 5 positions, between 1 and 4", bal_samples_check(&s, &err));
    s.max_len = 5;
    tags[4] = 3;
    ASSERT_FAILS(BAL_E_ARG, "sample 1, position 4: modality 3", bal_samples_check(&s, &err));
    items[0].n = 0;
    ASSERT_FAILS(BAL_E_ARG, "sample 0: 0 positions", bal_samples_check(&s, &err));
}

/* Rows of random values with modalities 0 1 2 0 1 2 .. */
static void fill(float *x, uint8_t *tags)
{
    bal_rng rng;
    bal_rng_seed(&rng, 11);
    for (int i = 0; i < ROWS * COLS; i++) x[i] = bal_rng_f32(&rng) - 0.5f;
    for (int r = 0; r < ROWS; r++) tags[r] = (uint8_t)(r % 3);
}

static double sum_of(const float *x, int modality, int channel, int power)
{
    double sum = 0.0;
    for (int r = modality; r < ROWS; r += 3) sum += pow(fabs((double)x[r * COLS + channel]), power);
    return sum;
}

static void test_stats(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_pool *pool;
    bal_channel_stats s;
    float x[ROWS * COLS], m[COLS];
    double h[COLS];
    uint8_t tags[ROWS];
    fill(x, tags);
    ASSERT_OK(bal_pool_create(&pool, 1, &err));
    ASSERT_OK(bal_stats_create(&s, COLS, &err));
    bal_stats_add(&s, pool, x, tags, 10);
    bal_stats_add(&s, pool, x + 10 * COLS, tags + 10, ROWS - 10);
    const double n[] = {8, 8, 7}, r = 0.25;
    const double weight[] = {0, 1, r};
    bal_stats_mean_abs(&s, weight, m);
    const bal_recipe balanced = {.balance = BAL_BALANCE_GRADIENT};
    bal_stats_diag(&s, &balanced, r, h);
    for (int c = 0; c < COLS; c++) {
        const double a = sum_of(x, 1, c, 1), v = sum_of(x, 2, c, 1);
        assert_true(fabs((double)m[c] - (a + r * v) / (n[1] + r * n[2])) < 1e-6);
        const double diag = sum_of(x, 1, c, 2) / n[1] + r * sum_of(x, 2, c, 2) / n[2];
        assert_true(fabs(h[c] - diag) < 1e-12);
        assert_true((double)s.abs_max[1][c] <= a && s.abs_max[1][c] > 0.0f);
    }
    const bal_recipe off = {.balance = BAL_BALANCE_OFF};
    bal_stats_diag(&s, &off, r, h);
    const double all = sum_of(x, 0, 4, 2) + sum_of(x, 1, 4, 2) + sum_of(x, 2, 4, 2);
    assert_true(fabs(h[4] - all / ROWS) < 1e-12);
    const bal_recipe text = {.balance = BAL_BALANCE_GRADIENT, .language = BAL_LANGUAGE_TEXT};
    bal_stats_diag(&s, &text, r, h);
    const double words = (sum_of(x, 0, 4, 2) + sum_of(x, 1, 4, 2)) / 16;
    assert_true(fabs(h[4] - words - r * sum_of(x, 2, 4, 2) / n[2]) < 1e-12);
    bal_stats_clear(&s);
    bal_stats_mean_abs(&s, weight, m);
    assert_true(m[0] == 0.0f && s.count[1] == 0);
    bal_stats_destroy(&s);
    bal_pool_destroy(pool);
}

/* The formulas of losses.h, summed plainly. */
static double plain_loss(const float *a, const float *b, const bal_recipe *recipe, double r)
{
    double sum[3] = {0};
    const int power = recipe->loss == BAL_LOSS_MAE ? 1 : 2;
    const double n[] = {8.0 * COLS, 8.0 * COLS, 7.0 * COLS};
    for (int i = 0; i < ROWS * COLS; i++)
        sum[i / COLS % 3] += pow(fabs((double)(a[i] - b[i])), power);
    if (recipe->balance == BAL_BALANCE_OFF)
        return (sum[0] + sum[1] + sum[2]) / (n[0] + n[1] + n[2]);
    if (recipe->balance == BAL_BALANCE_ONE) r = 1.0;
    const bool text = recipe->language == BAL_LANGUAGE_TEXT;
    const double language = sum[1] + (text ? sum[0] : 0.0), nl = n[1] + (text ? n[0] : 0.0);
    if (power == 1) return (language + r * sum[2]) / (nl + n[2]);
    return language / nl + r * sum[2] / n[2];
}

static void test_losses(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_pool *pool;
    float a[ROWS * COLS], b[ROWS * COLS];
    bal_row_error work[ROWS];
    uint8_t tags[ROWS];
    bal_error_sums s = {0};
    fill(a, tags);
    for (int i = 0; i < ROWS * COLS; i++) b[i] = a[i] * a[(i * 7) % (ROWS * COLS)];
    ASSERT_OK(bal_pool_create(&pool, 1, &err));
    bal_error_sums_add(&s, pool, a, b, 9, COLS, tags, work);
    bal_error_sums_add(&s, pool, a + 9 * COLS, b + 9 * COLS, ROWS - 9, COLS, tags + 9, work);
    for (int i = 0; i < 12; i++) {
        const bal_recipe r = {.loss = (bal_loss)(i % 2),
                              .balance = (bal_balance)(i / 2 % 3),
                              .language = (bal_language)(i / 6)};
        const double want = plain_loss(a, b, &r, 0.2), got = bal_loss_value(&s, COLS, &r, 0.2);
        if (fabs(want - got) > 1e-12) fail_msg("case %d: %.15g, wanted %.15g", i, got, want);
    }
    bal_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_store),
        cmocka_unit_test(test_samples_check),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_losses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
