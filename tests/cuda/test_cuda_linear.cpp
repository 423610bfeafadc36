// SPDX-License-Identifier: MIT
// The linear kernel against what the packed weights mean (bal_packed_row), in double, within a
// bound that follows from the formats: every width, group, tail and number of rows, random and
// extreme.
#include "weights.h"

#include "cuda/stage_op.h"

#include <cmath>

namespace
{

#ifdef __SANITIZE_ADDRESS__
#define WATCHED 1 /* slow: fewer numbers of rows */
#else
#define WATCHED 0
#endif

constexpr int processors = 2; /* so few that blocks walk over several row blocks */

struct call {
    int m = 1;
    int splits = 0;
    bool add = false, early = false, own = false;
    const std::vector<float> *bias = nullptr;
};

/* y [m][n] (n / 2 if paired) of the first m rows of x [..][k], by the kernels. */
std::vector<float> run(const device_weight &w, const std::vector<float> &x, const call &c)
{
    const bal_tiles &t = w.tiles;
    const size_t n = t.paired ? t.n / 2 : t.n, m = (size_t)c.m, ld = n + 3;
    device_array<float> dx(std::vector<float>(x.begin(), x.begin() + (ptrdiff_t)(m * t.k)));
    device_array<unsigned char> staged(bal_stage_bytes(m, t.k)),
        work(bal_linear_work_bytes(&t, c.splits));
    std::vector<float> start(m * ld, NAN);
    for (size_t i = 0; i < m * ld; i++)
        if (c.add) start[i] = 1;
    device_array<float> y(start);
    std::unique_ptr<device_array<float>> bias;
    if (c.bias) bias = std::make_unique<device_array<float>>(*c.bias);
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaMemsetAsync(work.p, 0, BAL_LINEAR_ZEROED, s);
    bal_stage_job stage = {};
    stage.x = dx.p, stage.out = staged.p, stage.ld = t.k, stage.m = c.m, stage.k = (int)t.k;
    stage.early = c.early;
    bal_linear_weight weight = w.weight;
    weight.bias = bias ? bias->p : nullptr;
    const bal_linear_job job = {&weight,
                                staged.p,
                                y.p,
                                ld,
                                c.m,
                                c.add,
                                work.p,
                                processors,
                                c.splits,
                                c.early,
                                c.own ? &stage : nullptr};
    if (!c.own) assert_int_equal(bal_stage(stage, s), cudaSuccess);
    assert_int_equal(bal_linear(job, s), cudaSuccess);
    cudaStreamSynchronize(s);
    cudaStreamDestroy(s);
    assert_sound();
    const std::vector<float> padded = y.values();
    std::vector<float> out;
    for (size_t i = 0; i < m; i++) {
        out.insert(out.end(), padded.begin() + (ptrdiff_t)(i * ld),
                   padded.begin() + (ptrdiff_t)(i * ld + n));
        for (size_t j = n; j < ld; j++)
            assert_true(c.add ? padded[i * ld + j] == 1 : std::isnan(padded[i * ld + j]));
    }
    return out;
}

/* Exact sums of a row, and how far off f16 activations and f32 sums may be:
 *   2^-11 sum |w x|          x rounded to f16
 *   2^-20 sum s (o + 2^b) |x|   f32 sums of offset codes, o the largest offset of the width
 *   2^-37 sum |w| max |x|    what is below f16's range beside the largest x of 128 */
struct expectation {
    double y, bound;
};

/* A row of weights: its values, and the scale of each. */
struct weight_row {
    std::vector<float> w, scale;
    double offset; /* largest code and offset together */

    weight_row(const host_matrix &m, size_t r) : w(m.k), scale(m.k), offset(0)
    {
        m.row(r, w.data());
        if (!bal_type_get(m.type)->packed) return;
        const bal_packed_layout &l = m.view.layout;
        offset = l.kind == BAL_PACKED_TABLE ? 20 << l.bits : l.bits == 8 ? 512 : 128;
        for (size_t k = 0; k < m.k; k++) scale[k] = fabsf(m.scale(r, k));
    }
};

/* Largest |x| of each 128. */
std::vector<float> tile_maxima(const float *x, size_t k)
{
    std::vector<float> most((k + 127) / 128);
    for (size_t i = 0; i < k; i++)
        most[i / 128] = fabsf(x[i]) > most[i / 128] ? fabsf(x[i]) : most[i / 128];
    return most;
}

expectation expect(const weight_row &row, const float *x, const std::vector<float> &most)
{
    expectation e = {0, 0};
    for (size_t k = 0; k < row.w.size(); k++) {
        const double w = (double)row.w[k], v = (double)x[k],
                     shifted = (double)row.scale[k] * row.offset;
        e.y += w * v;
        e.bound += 0x1p-11 * fabs(w * v) + 0x1p-20 * shifted * fabs(v) +
                   0x1p-37 * (fabs(w) + shifted) * (double)most[k / 128];
    }
    return e;
}

/* Rows of x: plain ones, outliers of 2000, a mean, zeros, and ranges near the ends of f32. */
std::vector<float> random_rows(dice &d, int m, size_t k)
{
    std::vector<float> x((size_t)m * k);
    for (int i = 0; i < m; i++)
        for (size_t c = 0; c < k; c++) {
            float v = d.even();
            if (i % 8 == 1 && d.below(60) == 0) v *= 2000;
            if (i % 8 == 2) v += 3;
            if (i % 8 == 3) v = 0;
            if (i % 8 == 4) v *= 1e30f;
            if (i % 8 == 5) v *= 1e-30f;
            if (i % 8 == 6 && c / 128 % 2) v = 0;
            if (i % 8 == 7) v = c % 2 ? 1.0f : -1.0f;
            x[(size_t)i * k + c] = v;
        }
    return x;
}

void check(const std::vector<const host_matrix *> &parts, const std::vector<float> &x,
           const std::vector<float> &y, int m, const char *what, double wider = 1)
{
    const size_t k = parts[0]->k, n = y.size() / (size_t)m;
    size_t at = 0;
    for (const host_matrix *p : parts)
        for (size_t r = 0; r < p->n; r++, at++) {
            const weight_row row(*p, r);
            for (size_t i = 0; i < (size_t)m; i++) {
                const expectation e =
                    expect(row, x.data() + i * k, tile_maxima(x.data() + i * k, k));
                const double found = (double)y[i * n + at];
                if (!(fabs(found - e.y) <= wider * e.bound))
                    fail_msg("%s: row %zu output %zu is %g, expected %g within %g", what, i, at,
                             found, e.y, wider * e.bound);
            }
        }
}

/* All numbers of rows for one matrix: within the bound, and the same bits beside other rows and
 * where blocks stage a row themselves. */
void check_rows(const host_matrix &m, dice &d, const char *what, bool all)
{
    const device_weight w({&m});
    const std::vector<float> x = random_rows(d, 16, m.k);
    call c;
    c.m = 16;
    const std::vector<float> y = run(w, x, c);
    check({&m}, x, y, 16, what);
    const int step = !all ? 7 : WATCHED ? 5 : 1;
    for (c.m = 1; c.m < 16; c.m += step) {
        const std::vector<float> fewer = run(w, x, c);
        if (memcmp(fewer.data(), y.data(), fewer.size() * sizeof(float)))
            fail_msg("%s: %d rows differ from 16", what, c.m);
    }
    c.m = 1;
    c.own = true;
    for (c.splits = 0; c.splits < 4; c.splits += 3) {
        const std::vector<float> staged = c.splits ? run(w, x, {1, c.splits}) : y;
        const std::vector<float> own = run(w, x, c);
        if (memcmp(own.data(), staged.data(), own.size() * sizeof(float)))
            fail_msg("%s, %d splits: a row that blocks stage themselves differs", what, c.splits);
    }
}

void check_width(int bits, uint64_t seed)
{
    dice d(seed);
    const struct {
        size_t n, k, group;
        bool all;
    } cases[] = {
        {37, 420, 128, true}, {32, 128, 32, false}, {5, 290, 32, false},  {33, 200, 64, false},
        {16, 300, 96, false}, {9, 700, 256, false}, {40, 385, 0, false},  {1, 1, 0, false},
        {64, 129, 64, false}, {8, 257, 128, false}, {100, 64, 32, false},
    };
    for (const auto &c : cases) {
        char what[96];
        snprintf(what, sizeof what, "w%d, %zu x %zu, groups of %zu", bits, c.n, c.k, c.group);
        check_rows(random_packed(d, bits, c.n, c.k, c.group), d, what, c.all);
    }
}

void test_w2(void **)
{
    check_width(2, 12);
}

void test_w3(void **)
{
    check_width(3, 13);
}

void test_w4(void **)
{
    check_width(4, 14);
}

void test_w6(void **)
{
    check_width(6, 16);
}

void test_w8(void **)
{
    check_width(8, 18);
}

/* Two levels: steps of groups in the sums, scales of rows behind them. */
void test_d4(void **)
{
    dice d(21);
    check_rows(random_two_level(d, 37, 420, 128), d, "d4, groups of 128", true);
    check_rows(random_two_level(d, 33, 290, 32), d, "d4, groups of 32", false);
    check_rows(random_two_level(d, 5, 300, 0), d, "d4, whole rows", false);
}

/* Tables: levels looked up, steps in the sums, scales of rows behind them. */
void test_tables(void **)
{
    dice d(22);
    for (int bits : {2, 3, 4}) {
        check_rows(random_table(d, bits, 37, 420, 128), d, "table, groups of 128", true);
        check_rows(random_table(d, bits, 33, 290, 32), d, "table, groups of 32", false);
        check_rows(random_table(d, bits, 33, 200, 64), d, "table, groups of 64", false);
        check_rows(random_table(d, bits, 5, 300, 0), d, "table, whole rows", false);
    }
}

void test_floats(void **)
{
    dice d(20);
    check_rows(random_floats(d, BAL_TYPE_BF16, 37, 420), d, "bf16", true);
    check_rows(random_floats(d, BAL_TYPE_F16, 9, 33), d, "f16", false);
    check_rows(random_floats(d, BAL_TYPE_F32, 33, 129), d, "f32", false);
}

/* Codes, zero points and scales at their ends. */
void test_extremes(void **)
{
    dice d(30);
    for (int bits : {2, 3, 4, 6, 8})
        for (int kind = 0; kind < 3; kind++) {
            host_matrix m = random_packed(d, bits, 34, 300, 64);
            bal_error err = {};
            for (size_t i = 0; i < m.codes.size(); i++)
                m.codes[i] = (uint8_t)(kind == 1 ? 0 : (1 << bits) - 1);
            for (size_t i = 0; i < m.scales.size(); i++) {
                m.scales[i] = kind == 0   ? 0x7bff
                              : kind == 1 ? 0x0001
                                          : 0x83ff; /* f16: largest, smallest */
                m.zeros[i] = (uint8_t)(kind == 0 ? 0 : (1 << bits) - 1);
            }
            assert_int_equal(bal_pack(&m.view.layout, m.codes.data(), m.scales.data(),
                                      m.zeros.data(), (uint8_t *)m.view.codes, &err),
                             BAL_OK);
            std::vector<float> x = random_rows(d, 16, 300);
            for (size_t i = 0; i < x.size(); i++)
                if (fabsf(x[i]) > 1e25f) x[i] *= 1e-10f; /* so that sums stay finite */
            const device_weight w({&m});
            call c;
            c.m = 16;
            check({&m}, x, run(w, x, c), 16, "extreme codes");
        }
}

/* What is not finite stays in its row and is seen there. */
void test_not_finite(void **)
{
    dice d(31);
    const host_matrix m = random_packed(d, 3, 40, 300, 128);
    const device_weight w({&m});
    std::vector<float> x(5 * 300, 0.5f);
    x[300 + 7] = NAN;
    x[2 * 300 + 200] = INFINITY;
    x[4 * 300] = -INFINITY;
    call c;
    c.m = 5;
    const std::vector<float> y = run(w, x, c);
    for (size_t i = 0; i < 5; i++)
        for (size_t r = 0; r < 40; r++)
            assert_int_equal(std::isfinite(y[i * 40 + r]), i == 0 || i == 3);
}

/* Any number of splits is within the bound, and the same when run again in another order. */
void test_splits(void **)
{
    dice d(32);
    for (int bits : {3, 8}) {
        const host_matrix m = random_packed(d, bits, 70, 900, 128);
        const device_weight w({&m});
        const std::vector<float> x = random_rows(d, 9, 900);
        for (int splits : {1, 2, 3, 7}) {
            call c;
            c.m = 9;
            c.splits = splits;
            const std::vector<float> y = run(w, x, c);
            check({&m}, x, y, 9, "splits");
            bal_shim_seed((uint64_t)splits + 77);
            const std::vector<float> again = run(w, x, c);
            assert_memory_equal(y.data(), again.data(), y.size() * sizeof(float));
            c.m = 3;
            const std::vector<float> fewer = run(w, x, c);
            assert_memory_equal(y.data(), fewer.data(), fewer.size() * sizeof(float));
        }
    }
}

void test_epilogue(void **)
{
    dice d(33);
    const host_matrix q = random_packed(d, 3, 40, 256, 128), k = random_packed(d, 3, 9, 256, 128),
                      v = random_packed(d, 3, 7, 256, 128);
    const device_weight w({&q, &k, &v});
    const std::vector<float> x = random_rows(d, 4, 256);
    std::vector<float> bias(56);
    for (float &b : bias) b = d.even();
    call c;
    c.m = 4;
    const std::vector<float> plain = run(w, x, c);
    check({&q, &k, &v}, x, plain, 4, "three parts");
    c.add = true;
    c.bias = &bias;
    c.early = true;
    const std::vector<float> all = run(w, x, c);
    for (size_t i = 0; i < all.size(); i++) assert_true(all[i] == 1 + (plain[i] + bias[i % 56]));
}

/* 41 rows take another kernel than 5, with the same bits in every row. */
void check_many(const host_matrix &m, dice &d, int splits)
{
    const device_weight w({&m});
    const std::vector<float> x = random_rows(d, 41, m.k);
    call c;
    c.splits = splits;
    c.m = 41;
    const std::vector<float> y = run(w, x, c);
    if (!splits) check({&m}, x, y, 41, "many rows");
    c.m = 5;
    const std::vector<float> fewer = run(w, x, c);
    assert_memory_equal(y.data(), fewer.data(), fewer.size() * sizeof(float));
}

void test_many_rows(void **)
{
    dice d(34);
    for (int bits : {2, 3, 4})
        for (size_t group : {(size_t)32, (size_t)64, (size_t)128})
            check_many(random_table(d, bits, 290, 300, group), d, 0);
    for (int bits : {2, 3, 4, 6, 8, 16})
        for (size_t group : {(size_t)32, (size_t)64, (size_t)128}) {
            if (bits == 16 && group != 32) continue;
            const host_matrix m = bits == 16 ? random_floats(d, BAL_TYPE_BF16, 290, 300)
                                             : random_packed(d, bits, 290, 300, group);
            check_many(m, d, 0);
            if (bits == 3) check_many(m, d, 2);
        }
}

void test_paired(void **)
{
    dice d(35);
    for (int bits : {3, 16})
        for (int splits : {1, 2}) {
            const bool packed = bits != 16;
            const host_matrix gate = packed ? random_packed(d, 3, 37, 300, 128, 0.2f)
                                            : random_floats(d, BAL_TYPE_BF16, 37, 300),
                              up = packed ? random_packed(d, 3, 37, 300, 128, 0.2f)
                                          : random_floats(d, BAL_TYPE_BF16, 37, 300);
            std::vector<float> bias(74);
            for (float &b : bias) b = d.even();
            const device_weight pair({&gate, &up}, true), g({&gate}), u({&up});
            const std::vector<float> x = random_rows(d, 17, 300);
            call c;
            c.m = splits == 1 ? 3 : 17;
            c.splits = splits;
            const std::vector<float> yg = run(g, x, c), yu = run(u, x, c);
            c.bias = &bias;
            const std::vector<float> y = run(pair, x, c);
            for (size_t i = 0; i < y.size(); i++) {
                const float a = yg[i] + bias[i % 37], b = yu[i] + bias[37 + i % 37];
                assert_true(y[i] == a / (1 + expf(-a)) * b);
            }
        }
}

/* Norms and gates in front, by the kernel that stages and by the linear's own blocks: the same
 * bits. */
void test_own(void **)
{
    dice d(38);
    const size_t k = 1300, n = 70;
    const host_matrix m = random_packed(d, 3, n, k, 128);
    const device_weight w({&m});
    const std::vector<float> x = random_rows(d, 2, k);
    device_array<float> dx(x), norm(random_rows(d, 1, k)), shift(random_rows(d, 1, k)), y(n);
    device_array<unsigned char> staged(bal_stage_bytes(1, k)),
        work(bal_linear_work_bytes(&w.tiles, 3));
    cudaMemsetAsync(work.p, 0, BAL_LINEAR_ZEROED, nullptr);
    for (bal_staged kind : {BAL_STAGED_PLAIN, BAL_STAGED_RMS, BAL_STAGED_LAYER, BAL_STAGED_SILU}) {
        bal_stage_job stage = {};
        stage.kind = kind, stage.x = dx.p, stage.w = norm.p, stage.b = shift.p;
        stage.out = staged.p, stage.ld = 2 * k, stage.m = 1, stage.k = (int)k, stage.eps = 1e-5f;
        bal_linear_job job = {&w.weight, staged.p,   y.p, n,    1,      false,
                              work.p,    processors, 3,   true, nullptr};
        assert_int_equal(bal_stage(stage, nullptr), cudaSuccess);
        assert_int_equal(bal_linear(job, nullptr), cudaSuccess);
        assert_sound();
        const std::vector<float> expected = y.values();
        device_array<float> own(std::vector<float>(n, NAN));
        job.own = &stage, job.y = own.p;
        assert_int_equal(bal_linear(job, nullptr), cudaSuccess);
        assert_sound();
        assert_memory_equal(own.values().data(), expected.data(), n * sizeof(float));
    }
}

/* If tensor cores cut sums off instead of rounding them, the bound holds eight times wider. */
void test_truncating(void **)
{
    dice d(37);
    const host_matrix m = random_packed(d, 3, 32, 896, 128);
    const device_weight w({&m});
    const std::vector<float> x = random_rows(d, 4, 896);
    call c;
    c.m = 4;
    bal_shim_mma_truncate(true);
    const std::vector<float> y = run(w, x, c);
    bal_shim_mma_truncate(false);
    check({&m}, x, y, 4, "truncated", 8);
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_w2),         cmocka_unit_test(test_w3),
        cmocka_unit_test(test_w4),         cmocka_unit_test(test_w6),
        cmocka_unit_test(test_w8),         cmocka_unit_test(test_d4),
        cmocka_unit_test(test_tables),     cmocka_unit_test(test_floats),
        cmocka_unit_test(test_extremes),   cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_splits),     cmocka_unit_test(test_epilogue),
        cmocka_unit_test(test_many_rows),  cmocka_unit_test(test_paired),
        cmocka_unit_test(test_truncating), cmocka_unit_test(test_own),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
