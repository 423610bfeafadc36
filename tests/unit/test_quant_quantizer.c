/* SPDX-License-Identifier: MIT
 * The group quantizer against golden edge rows and its own definition: constant, one-sided and
 * zero groups, outliers, short last groups, ties, all three arithmetics, both grids. */
#include "check.h"

#include "base/half.h"
#include "base/rng.h"
#include "format/safetensors.h"
#include "quant/quantizer.h"

#include <math.h>

enum { K = 72 };

static const bal_tensor_view *find(const bal_tensor_set *set, int bits, int group, const char *what)
{
    char name[64];
    snprintf(name, sizeof name, "b%d.g%d.%s", bits, group, what);
    const bal_tensor_view *v = bal_tensor_find(set, name);
    if (!v) fail_msg("golden tensor %s is missing", name);
    return v;
}

static void check_edges(const bal_tensor_set *set, const float *w, int n, int bits, int group)
{
    bal_error err = {0};
    bal_pool *pool;
    bal_quantized_linear q;
    const bal_quantizer z = {.bits = bits, .group = group};
    ASSERT_OK(bal_pool_create(&pool, 1, &err));
    ASSERT_OK(bal_quantized_linear_create(&q, n, K, bits, group, &err));
    bal_quantize_matrix(pool, &z, w, &q);
    const bal_tensor_view *codes = find(set, bits, group, "codes");
    const bal_tensor_view *scales = find(set, bits, group, "scales");
    const bal_tensor_view *zeros = find(set, bits, group, "zeros");
    for (size_t i = 0; i < codes->n_bytes; i++)
        if (q.codes[i] != codes->data[i])
            fail_msg("%d bits, group %d, row %zu column %zu: code %d, golden %d", bits, group,
                     i / K, i % K, q.codes[i], codes->data[i]);
    assert_memory_equal(q.scales, scales->data, scales->n_bytes);
    assert_memory_equal(q.zeros, zeros->data, zeros->n_bytes);
    bal_quantized_linear_free(&q);
    bal_pool_destroy(pool);
}

static void test_golden_edges(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_tensor_set set;
    const int bits[] = {2, 3, 4, 8}, groups[] = {32, 0};
    ASSERT_OK(bal_tensor_set_open(&set, source_path("tests/golden/rtn/edges.safetensors"), &err));
    const bal_tensor_view *v = bal_tensor_find(&set, "weight");
    assert_non_null(v);
    assert_int_equal(v->shape[1], K);
    float *w = malloc(v->n_bytes);
    memcpy(w, v->data, v->n_bytes);
    for (int b = 0; b < 4; b++)
        for (int g = 0; g < 2; g++) check_edges(&set, w, (int)v->shape[0], bits[b], groups[g]);
    free(w);
    bal_tensor_set_close(&set);
}

/* One row through codes and back. */
static void round_trip(bal_quantizer z, const float *w, int k, float *out)
{
    bal_error err = {0};
    bal_quantized_linear q;
    ASSERT_OK(bal_quantized_linear_create(&q, 1, k, z.bits, z.group, &err));
    bal_quantize_row(&z, w, k, q.codes, q.scales, q.zeros);
    for (int i = 0; i < k; i++) assert_true(q.codes[i] < 1 << z.bits);
    bal_quantized_row(&q, 0, out);
    bal_quantized_linear_free(&q);
}

static void test_extremes(void **state)
{
    (void)state;
    float w[40], out[40];
    const bal_quantizer z = {.bits = 4, .group = 32};
    memset(w, 0, sizeof w);
    round_trip(z, w, 40, out);
    for (int i = 0; i < 40; i++) assert_true(out[i] == 0.0f);
    /* one outlier: it is kept, the rest of its group is lost, the short last group is not */
    w[3] = 60000.0f;
    w[37] = 0.5f;
    w[38] = -0.25f;
    round_trip(z, w, 40, out);
    assert_true(fabsf(out[3] - 60000.0f) < 0.001f * 60000.0f);
    assert_true(fabsf(out[37] - 0.5f) < 0.03f && fabsf(out[38] + 0.25f) < 0.03f);
    /* beyond what an f16 scale can say: saturates, stays finite */
    w[3] = 3e38f;
    w[4] = -3e38f;
    round_trip(z, w, 40, out);
    for (int i = 0; i < 40; i++) assert_true(isfinite(out[i]));
    /* a one-sided group saturates at 15 steps, because its zero point is clamped */
    for (int i = 0; i < 32; i++) w[i] = 10.0f + (float)i / 32;
    round_trip(z, w, 40, out);
    const float s = bal_round_f16((31.0f / 32) / 15);
    for (int i = 0; i < 32; i++) assert_true(out[i] == 15 * s);
}

/* With range zero the same group, and a constant one, end within half a step; what holds both signs
 * does not change. */
static void test_range_with_zero(void **state)
{
    (void)state;
    static const float ends[][2] = {{10, 11}, {0.75f, 0.75f}, {-3, -1}, {-60000, -1}};
    bal_rng rng;
    bal_rng_seed(&rng, 6);
    for (int turn = 0; turn < 200; turn++) {
        const bal_quantizer zero = {.bits = (int[]){2, 3, 4, 8}[turn % 4],
                                    .arith = turn % 8 < 4 ? BAL_ARITH_F32 : BAL_ARITH_F16,
                                    .range = BAL_EXTENT_ZERO};
        bal_quantizer plain = zero;
        plain.range = BAL_EXTENT_MINMAX;
        const float lo = ends[turn / 50][0], hi = ends[turn / 50][1];
        const float top = (float)((1 << zero.bits) - 1), step = fmaxf(fabsf(lo), fabsf(hi)) / top;
        const float half = (0.51f + top * 0x1p-10f) * step; /* S and w / S have 11 bits */
        float w[32], out[32], same[32];
        for (int i = 0; i < 32; i++) w[i] = lo + bal_rng_f32(&rng) * (hi - lo);
        bal_quantize_group(&zero, w, 32, out);
        for (int i = 0; i < 32; i++) assert_true(fabsf(out[i] - w[i]) <= half);
        w[turn % 32] *= -1.0f;
        bal_quantize_group(&zero, w, 32, out);
        bal_quantize_group(&plain, w, 32, same);
        assert_memory_equal(out, same, sizeof out);
    }
}

/* Codes between minimum and maximum are binary codes (LUT-GEMM, arXiv 2206.09557, eq. 3): bit i of
 * q is beta_i = +-1 with alpha_i = S 2^i / 2, and o = S ((2^b - 1) / 2 - Z); exactly. */
static void test_is_a_binary_code(void **state)
{
    (void)state;
    enum { N = 3, GROUP = 32, GROUPS = 3 };
    bal_rng rng;
    bal_rng_seed(&rng, 8);
    for (int bits = 2; bits <= 8; bits += bits < 4 ? 1 : 2) {
        const bal_quantizer z = {.bits = bits, .group = GROUP};
        bal_error err;
        bal_quantized_linear q;
        float w[N * K], row[K];
        for (int i = 0; i < N * K; i++) w[i] = bal_rng_f32(&rng) - 0.3f;
        ASSERT_OK(bal_quantized_linear_create(&q, N, K, bits, GROUP, &err));
        for (int r = 0; r < N; r++) {
            bal_quantize_row(&z, w + r * K, K, q.codes + r * K, q.scales + r * GROUPS,
                             q.zeros + r * GROUPS);
            bal_quantized_row(&q, r, row);
            for (int c = 0; c < K; c++) {
                const float s = bal_f16_to_f32(q.scales[r * GROUPS + c / GROUP]);
                const float zero = q.zeros[r * GROUPS + c / GROUP];
                float sum = s * ((float)((1 << bits) - 1) / 2 - zero);
                for (int i = 0; i < bits; i++)
                    sum += s * ldexpf(0.5f, i) * (q.codes[r * K + c] >> i & 1 ? 1.0f : -1.0f);
                assert_true(sum == row[c]);
            }
        }
        bal_quantized_linear_free(&q);
    }
}

/* The same operations one after the other, without the code under test. */
static void definition(const float *w, int n, int bits, bal_arith a, float *out)
{
    const float top = (float)((1 << bits) - 1);
    float lo = w[0], hi = w[0];
    for (int i = 0; i < n; i++) {
        lo = fminf(lo, w[i]);
        hi = fmaxf(hi, w[i]);
    }
    const float span = fmaxf(bal_arith_round(a, hi - lo), bal_arith_round(a, 1e-5f));
    const float s = fmaxf(bal_round_f16(bal_arith_round(a, span / top)), 0x1p-24f);
    const float z = fminf(fmaxf(-rintf(bal_arith_round(a, lo / s)), 0.0f), top);
    for (int i = 0; i < n; i++) {
        const float q = rintf(bal_arith_round(a, w[i] / s)) + z;
        out[i] = (fminf(fmaxf(q, 0.0f), top) - z) * s;
    }
}

static void test_definition(void **state)
{
    (void)state;
    bal_rng rng;
    float w[64], s[64], work[64], got[64], want[64];
    bal_rng_seed(&rng, 5);
    for (int turn = 0; turn < 3000; turn++) {
        const bal_arith a = (bal_arith)(turn % 3);
        const int bits = (int[]){2, 3, 4, 6, 8}[turn % 5], n = 1 + turn % 64;
        const float size = ldexpf(1.0f, turn % 31 - 20);
        const bal_quantizer z = {.bits = bits, .arith = a};
        for (int i = 0; i < n; i++) w[i] = (bal_rng_f32(&rng) - 0.4f) * size;
        definition(w, n, bits, a, want);
        bal_quantize_group(&z, w, n, got);
        assert_memory_equal(got, want, (size_t)n * sizeof *got);
        for (int i = 0; i < n; i++) {
            s[i] = bal_arith_round(a, 0.1f + bal_rng_f32(&rng));
            work[i] = bal_arith_round(a, w[i] * s[i]);
        }
        definition(work, n, bits, a, want);
        for (int i = 0; i < n; i++)
            want[i] = bal_arith_round(a, bal_arith_round(a, want[i]) / s[i]);
        bal_quantize_simulate(&z, w, s, n, work, got);
        assert_memory_equal(got, want, (size_t)n * sizeof *got);
    }
}

static void test_ties_go_to_even(void **state)
{
    (void)state;
    /* S = 1, Z = 0: codes of x.5 */
    const float w[] = {0.0f, 0.5f, 1.5f, 2.5f, 3.5f, 15.0f};
    const uint8_t want[] = {0, 0, 2, 2, 4, 15};
    uint8_t codes[6], zero;
    uint16_t scale;
    const bal_quantizer z = {.bits = 4};
    bal_quantize_row(&z, w, 6, codes, &scale, &zero);
    assert_int_equal(scale, bal_f32_to_f16(1.0f));
    assert_memory_equal(codes, want, sizeof want);
}

static void test_symmetric(void **state)
{
    (void)state;
    const float w[] = {-7.0f, -3.4f, 0.0f, 0.4f, 6.0f};
    const uint8_t want[] = {1, 5, 8, 8, 14};
    uint8_t codes[5], zero;
    uint16_t scale;
    const bal_quantizer z = {.bits = 4, .grid = BAL_GRID_SYM};
    bal_quantize_row(&z, w, 5, codes, &scale, &zero);
    assert_int_equal(scale, bal_f32_to_f16(1.0f));
    assert_int_equal(zero, 8);
    assert_memory_equal(codes, want, sizeof want);
}

static void test_scale_candidates(void **state)
{
    (void)state;
    const float m[] = {0.0f, 1e-9f, 0.5f, 2.0f, 8.0f};
    float s[5];
    for (int arith = 0; arith < 3; arith++)
        for (int i = 0; i < 20; i++) {
            bal_scale_candidate(m, 5, i, 20, (bal_arith)arith, s);
            for (int c = 0; c < 5; c++) {
                assert_true(isfinite(s[c]) && s[c] > 0.0f);
                assert_true(i > 0 || s[c] == 1.0f); /* 0^0 = 1 */
                assert_true(s[c] == bal_arith_round((bal_arith)arith, s[c]));
            }
            const double product = (double)s[0] * (double)s[4];
            assert_true(fabs(product - 1.0) < (arith == 0 ? 1e-5 : 0.05));
        }
    /* all channels dead: max * min vanishes in f16, and s must not become infinite */
    const float dead[] = {0.0f, 0.0f};
    bal_scale_candidate(dead, 2, 19, 20, BAL_ARITH_F16, s);
    assert_true(fabsf(s[0] - 1.0f) < 0.01f && s[0] == s[1]);
}

static void test_sizes(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_quantized_linear q;
    assert_int_equal(bal_group_count(152, 128), 2);
    assert_int_equal(bal_group_count(128, 128), 1);
    assert_int_equal(bal_group_count(64, 128), 1);
    assert_int_equal(bal_group_count(64, 0), 1);
    assert_int_equal(bal_group_size(64, 128), 64);
    ASSERT_FAILS(BAL_E_ARG, "0 x 5", bal_quantized_linear_create(&q, 0, 5, 4, 32, &err));
    bal_quantized_linear_free(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_edges),    cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_range_with_zero), cmocka_unit_test(test_is_a_binary_code),
        cmocka_unit_test(test_definition),      cmocka_unit_test(test_ties_go_to_even),
        cmocka_unit_test(test_symmetric),       cmocka_unit_test(test_scale_candidates),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
