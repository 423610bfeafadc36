/* SPDX-License-Identifier: MIT
 * Packed weights are what the quantizer simulates, for every width, group and grid and for columns
 * that fill no group, no unit and no panel: decoded rows bit by bit, products as exactly as f32
 * adds up (activations here are whole numbers that the 16-bit or 8-bit form holds exactly). */
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
static const bal_grid grids[] = {BAL_GRID_ASYM, BAL_GRID_SYM, BAL_GRID_TABLE, BAL_GRID_TWO_LEVEL};
#define EACH(i, of) for (size_t i = 0; i < sizeof(of) / sizeof *(of); i++)

typedef struct twin {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec exec;
    bal_rng rng;
    float w[N * MAX_K], x[ROWS * MAX_K];
    int compared, products;
} twin;

/* Weights of several sizes in one row; x: whole numbers, the largest of each unit `most`. */
static void fill(twin *t, int k, int most)
{
    for (int i = 0; i < N * k; i++) t->w[i] = (bal_rng_f32(&t->rng) - 0.4f) * (i % 7 ? 0.1f : 2.0f);
    for (int i = 0; i < ROWS * k; i++)
        t->x[i] = (float)((int)bal_rng_below(&t->rng, 2u * (unsigned)most + 1) - most);
    for (int r = 0; r < ROWS; r++)
        for (int at = 0; at < k; at += 32) t->x[r * k + at + (k - at) / 40] = (float)most;
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
                           bal_type type, bal_act act)
{
    static float y[ROWS * N];
    float row[MAX_K];
    const bal_linear l = {.type = type, .n = q->n, .k = q->k, .packed = *v, .act = act};
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

static void check_one(twin *t, bal_packed_format f, bal_grid grid, bal_act_kind act, int k)
{
    static uint8_t data[1 << 16] __attribute__((aligned(64)));
    bal_error err = {0};
    bal_quantized_linear q;
    bal_packed_layout layout;
    bal_packed_view view;
    bal_type type;
    const bal_quantizer z = {
        .bits = f.bits, .group = (int)f.group, .grid = grid, .arith = BAL_ARITH_F32};
    fill(t, k, act == BAL_ACT_A8 ? BAL_A8_MAX : BAL_A16_MAX);
    ASSERT_OK(bal_quantized_linear_make(&q, f, N, k, &err));
    bal_quantize_matrix(t->pool, &z, t->w, &q);
    ASSERT_OK(bal_packed_layout_of(&layout, f, N, (size_t)k, &err));
    assert_true(layout.n_bytes <= sizeof data);
    const bal_packed_parts parts = bal_quantized_parts(&q);
    ASSERT_OK(bal_pack_parts(&layout, &parts, data, &err));
    ASSERT_OK(bal_packed_view_init(&view, &layout, data, layout.n_bytes, &err));
    ASSERT_OK(bal_type_from_bits(&type, f.bits, &err));
    check_rows(t, &q, &view);
    check_products(t, &q, &view, type, (bal_act){.kind = act});
    bal_quantized_linear_free(&q);
    t->products++;
}

/* Whether a grid has that many bits, and reads such activations here. */
static bool exists(bal_grid grid, int b, bal_act_kind act)
{
    if (grid == BAL_GRID_TABLE) return b <= 4 && act == BAL_ACT_A16;
    return grid != BAL_GRID_TWO_LEVEL || b == 4;
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
    EACH(k, columns)
    for (int a = BAL_ACT_A16; a <= BAL_ACT_A8; a++) {
        const bal_recipe r = {.bits = bits[b], .group = groups[g], .grid = grids[s]};
        if (exists(r.grid, r.bits, (bal_act_kind)a))
            check_one(&t, bal_recipe_format(&r, 0), r.grid, (bal_act_kind)a, columns[k]);
    }
    printf("%d weights in %d matrices\n", t.compared, t.products);
    assert_int_equal(t.products, 4 * 7 * (2 * 2 * 4 + 3 + 2));
    bal_exec_destroy(&t.exec);
    bal_pool_destroy(t.pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_packed_is_simulated)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
