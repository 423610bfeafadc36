/* SPDX-License-Identifier: MIT
 * Packed weights are what the quantizer simulates, for every width, group and grid and for columns
 * that fill no group, no unit and no panel: decoded rows bit by bit, products as exactly as f32
 * adds up (activations here are whole numbers that the 16-bit form holds exactly). */
#include "check.h"

#include "base/half.h"
#include "base/rng.h"
#include "op/linear.h"
#include "quant/quantizer.h"

#include <math.h>

enum { MAX_K = 300, N = 37, ROWS = 3 };

static const int bits[] = {2, 3, 4, 8};
static const int groups[] = {32, 64, 128, 0};
static const int columns[] = {20, 32, 45, 128, 172, 256, MAX_K};
static const bal_grid grids[] = {BAL_GRID_ASYM, BAL_GRID_SYM};
#define EACH(i, of) for (size_t i = 0; i < sizeof(of) / sizeof *(of); i++)

typedef struct twin {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec exec;
    bal_rng rng;
    float w[N * MAX_K], x[ROWS * MAX_K];
    int compared;
} twin;

/* Weights of several sizes in one row; x: whole numbers, the largest of each unit 32639. */
static void fill(twin *t, int k)
{
    for (int i = 0; i < N * k; i++) t->w[i] = (bal_rng_f32(&t->rng) - 0.4f) * (i % 7 ? 0.1f : 2.0f);
    for (int i = 0; i < ROWS * k; i++)
        t->x[i] = (float)((int)bal_rng_below(&t->rng, 2 * 32639 + 1) - 32639);
    for (int r = 0; r < ROWS; r++)
        for (int at = 0; at < k; at += 32) t->x[r * k + at + (k - at) / 40] = 32639;
}

static void check_rows(twin *t, const bal_quantized_linear *q, const bal_packed_view *v)
{
    float simulated[MAX_K], packed[MAX_K];
    for (int r = 0; r < q->n; r++) {
        bal_quantized_row(q, r, simulated);
        bal_packed_row(v, (size_t)r, packed);
        for (int i = 0; i < q->k; i++)
            if (bal_f32_bits(simulated[i]) != bal_f32_bits(packed[i]))
                fail_msg("row %d column %d: %.9g packed, %.9g simulated", r, i, (double)packed[i],
                         (double)simulated[i]);
    }
    t->compared += q->n * q->k;
}

static void check_products(twin *t, const bal_quantized_linear *q, const bal_packed_view *v,
                           bal_type type)
{
    static float y[ROWS * N];
    float row[MAX_K];
    const bal_linear l = {.type = type, .n = q->n, .k = q->k, .packed = *v};
    bal_linear_forward(&t->exec, &l, t->x, (size_t)q->k, ROWS, y, N);
    for (int r = 0; r < q->n; r++) {
        bal_quantized_row(q, r, row);
        for (int m = 0; m < ROWS; m++) {
            double want = 0, size = 0;
            for (int i = 0; i < q->k; i++) {
                want += (double)t->x[m * q->k + i] * (double)row[i];
                size += fabs((double)t->x[m * q->k + i] * (double)row[i]);
            }
            if (!(fabs((double)y[m * N + r] - want) <= 1e-6 * size))
                fail_msg("output %d of row %d: %.9g, simulated %.9g", r, m, (double)y[m * N + r],
                         want);
        }
    }
}

static void check_one(twin *t, int b, int group, bal_grid grid, int k)
{
    static uint8_t data[1 << 16] __attribute__((aligned(64)));
    bal_error err = {0};
    bal_quantized_linear q;
    bal_packed_layout layout;
    bal_packed_view view;
    bal_type type;
    const bal_quantizer z = {.bits = b, .group = group, .grid = grid, .arith = BAL_ARITH_F32};
    fill(t, k);
    ASSERT_OK(bal_quantized_linear_create(&q, N, k, b, group, &err));
    bal_quantize_matrix(t->pool, &z, t->w, &q);
    ASSERT_OK(bal_packed_layout_init(&layout, b, N, (size_t)k, (size_t)group, &err));
    assert_true(layout.n_bytes <= sizeof data);
    ASSERT_OK(bal_pack(&layout, q.codes, q.scales, q.zeros, data, &err));
    ASSERT_OK(bal_packed_view_init(&view, &layout, data, layout.n_bytes, &err));
    ASSERT_OK(bal_type_from_bits(&type, b, &err));
    check_rows(t, &q, &view);
    check_products(t, &q, &view, type);
    bal_quantized_linear_free(&q);
}

static void test_packed_is_simulated(void **state)
{
    (void)state;
    static twin t;
    bal_error err = {0};
    bal_kernels_init(&t.kernels, bal_cpu_isa());
    ASSERT_OK(bal_pool_create(&t.pool, 2, &err));
    ASSERT_OK(bal_exec_create(&t.exec, t.pool, &t.kernels, MAX_K, &err));
    bal_rng_seed(&t.rng, 6);
    EACH(b, bits)
    EACH(g, groups)
    EACH(s, grids)
    EACH(k, columns) check_one(&t, bits[b], groups[g], grids[s], columns[k]);
    printf("%d weights in %zu matrices\n", t.compared,
           sizeof bits / sizeof *bits * (sizeof groups / sizeof *groups) *
               (sizeof grids / sizeof *grids) * (sizeof columns / sizeof *columns));
    bal_exec_destroy(&t.exec);
    bal_pool_destroy(t.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_packed_is_simulated)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
