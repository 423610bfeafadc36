// SPDX-License-Identifier: MIT
// The linear kernel for 8-bit activations, with scales of their rows and fixed ones. Integer sums
// are exact, so there is no bound here: every width, group on either side, tail and number of rows
// must give the very bits of the definition (kernel/gemm_a8.h) in the kernel's order of sums; and
// where a row has one scale on both sides, whose sum has no order, those of the CPU's kernel.
#include "weights.h"

#include "cuda/stage_op.h"
extern "C" {
#include "kernel/table.h"
}

#include <cmath>

namespace
{

#ifdef __SANITIZE_ADDRESS__
#define WATCHED 1 /* slow: fewer numbers of rows */
#else
#define WATCHED 0
#endif

constexpr int processors = 2; /* so few that blocks walk over several row blocks */

/* Of a row of any case. */
int modality_of(size_t row)
{
    return row % 3 == 1 ? BAL_VISION : BAL_PROMPT;
}

/* A row of text, or of vision, that blocks stage themselves gives what it gives staged. */
void check_own(bal_stage_job stage, bal_linear_job job)
{
    const size_t n = job.ld;
    for (int kind : {BAL_PROMPT, BAL_VISION}) {
        device_array<int32_t> modality(std::vector<int32_t>{kind});
        device_array<float> y(std::vector<float>(n, NAN)), own(std::vector<float>(n, NAN));
        stage.modality = modality.p;
        job.y = y.p;
        job.own = nullptr;
        assert_int_equal(bal_stage(stage, nullptr), cudaSuccess);
        assert_int_equal(bal_linear(job, nullptr), cudaSuccess);
        job.y = own.p;
        job.own = &stage;
        assert_int_equal(bal_linear(job, nullptr), cudaSuccess);
        assert_sound();
        assert_memory_equal(own.values().data(), y.values().data(), n * sizeof(float));
    }
}

/* y [m][n] of the first m rows of x, by the kernels. */
std::vector<float> run(const device_weight &w, const std::vector<float> &x, bal_act act, int m,
                       int splits)
{
    const bal_tiles &t = w.tiles;
    const size_t n = t.paired ? t.n / 2 : t.n, rows = (size_t)m;
    device_array<float> dx(std::vector<float>(x.begin(), x.begin() + (ptrdiff_t)(rows * t.k)));
    device_array<unsigned char> staged(bal_stage_bytes(rows, t.k)),
        work(bal_linear_work_bytes(&t, splits));
    device_array<float> y(rows * n);
    std::vector<int32_t> kinds;
    for (size_t i = 0; i < rows; i++) kinds.push_back(modality_of(i));
    device_array<int32_t> modality(kinds);
    cudaMemsetAsync(work.p, 0, BAL_LINEAR_ZEROED, nullptr);
    bal_stage_job stage = {};
    stage.x = dx.p, stage.out = staged.p, stage.ld = t.k, stage.m = m, stage.k = (int)t.k;
    stage.act = act, stage.modality = modality.p, stage.early = true;
    bal_linear_weight weight = w.weight;
    weight.act = act;
    bal_linear_job job = {&weight, staged.p,   y.p,    n,    m,      false,
                          work.p,  processors, splits, true, nullptr};
    assert_int_equal(bal_stage(stage, nullptr), cudaSuccess);
    assert_int_equal(bal_linear(job, nullptr), cudaSuccess);
    assert_sound();
    const std::vector<float> out = y.values();
    if (m == 1) check_own(stage, job);
    return out;
}

/* What an output is made of: its codes, zero points and scales, and bytes of a row of x. */
struct problem {
    const host_matrix &m;
    const std::vector<bal_a8> &a;
    size_t act_group; /* inputs */

    size_t weight_group() const
    {
        return m.view.layout.units_per_group * 32;
    }
    size_t group_at(size_t r, size_t k) const
    {
        return r * m.view.layout.groups + k / weight_group();
    }
    int dot(size_t r, size_t from, size_t end) const
    {
        int sum = 0;
        for (size_t k = from; k < end && k < m.k; k++) {
            const size_t g = group_at(r, k);
            const int step = m.steps.empty() || !whole() ? 1 : m.steps[g];
            sum += (m.codes[r * m.k + k] - m.zeros[g]) * step * a[k / 32].q[k % 32];
        }
        return sum;
    }
    /* of a row of two levels */
    float row_scale(size_t r) const
    {
        return bal_f16_to_f32(m.scales[r]);
    }
    /* of a run: that of its group, or its step */
    float scale(size_t r, size_t k) const
    {
        const size_t g = group_at(r, k);
        const float w = m.steps.empty() ? bal_f16_to_f32(m.scales[g]) : (float)m.steps[g];
        return w * a[k / 32].scale;
    }
    /* one scale on both sides of a whole row */
    bool whole() const
    {
        return (weight_group() >= m.k || !m.steps.empty()) && act_group >= m.k;
    }
    float of_row(size_t r) const
    {
        const float by = m.steps.empty() ? scale(r, 0) : row_scale(r) * a[0].scale;
        return fmaf((float)dot(r, 0, m.k), by, 0.0f);
    }
};

/* The definition in the order of cuda/linear.cuh: runs with one scale, a unit at most; units of a
 * warp; warps; splits. */
float in_order(const problem &p, const device_weight &w, size_t r, int splits)
{
    const int cols = p.m.view.layout.bits == 8 ? 64 : 128,
              units = (int)w.tiles.k_tiles * (128 / cols);
    if (p.whole()) return p.of_row(r);
    size_t run = (size_t)cols;
    if (p.weight_group() < run || p.act_group < run) run = 32;
    if (!splits) splits = bal_linear_splits(&w.tiles);
    float y = 0;
    for (int split = 0; split < splits; split++) {
        const int begin = units * split / splits, end = units * (split + 1) / splits;
        float of_split = 0;
        for (int warp = 0; warp < 8; warp++) {
            const size_t from = (size_t)((begin + (end - begin) * warp / 8) * cols),
                         to = (size_t)((begin + (end - begin) * (warp + 1) / 8) * cols);
            float of_warp = 0;
            for (size_t k = from; k < to && k < p.m.k; k += run)
                of_warp = fmaf((float)p.dot(r, k, k + run), p.scale(r, k), of_warp);
            of_split = warp ? of_split + of_warp : of_warp;
        }
        y = split ? y + of_split : of_split;
    }
    return p.m.steps.empty() ? y : y * p.row_scale(r);
}

/* y [m][n padded] by the CPU's kernel. */
std::vector<float> by_cpu(const bal_kernels &kernels, const host_matrix &w,
                          const std::vector<std::vector<bal_a8>> &rows, size_t act_group)
{
    const bal_packed_layout &l = w.view.layout;
    std::vector<bal_a8> a;
    for (const auto &row : rows) a.insert(a.end(), row.begin(), row.end());
    std::vector<float> y(rows.size() * l.panels * 16);
    const size_t per_scale = act_group ? act_group / 32 : l.units;
    for (size_t p = 0; p < l.panels; p++) {
        const uint32_t *codes = bal_packed_codes(&w.view, p);
        const uint16_t *scales = bal_packed_scales(&w.view, p);
        const uint8_t *steps = bal_packed_steps(&w.view, p), *zeros = bal_packed_zeros(&w.view, p);
        float *to = y.data() + p * 16;
        if (steps)
            kernels.gemm_a8d4((int)rows.size(), l.units, l.units_per_group, per_scale, a.data(),
                              l.units, codes, scales, steps, zeros, to, l.panels * 16);
        else
            bal_kernels_gemm_a8(&kernels, l.bits)((int)rows.size(), l.units, l.units_per_group,
                                                  per_scale, a.data(), l.units, codes, scales,
                                                  zeros, to, l.panels * 16);
    }
    return y;
}

/* Plain rows, one with outliers, zeros, tiny and large ones. */
std::vector<float> random_rows(dice &d, int m, size_t k)
{
    std::vector<float> x((size_t)m * k);
    for (int i = 0; i < m; i++)
        for (size_t c = 0; c < k; c++) {
            float v = d.even();
            if (i % 8 == 1 && d.below(40) == 0) v *= 500;
            if (i % 8 == 2) v = 0;
            if (i % 8 == 3) v *= 1e-20f;
            if (i % 8 == 4) v *= 1e20f;
            if (i % 8 == 5) v = c % 2 ? 1.0f : -1.0f;
            x[(size_t)i * k + c] = v;
        }
    return x;
}

/* One matrix: 16 rows by the definition; fewer and more rows with the same bits. splits: 0 for
 * those of the shape. */
void check(const host_matrix &m, const bal_act &act, dice &d, bool all, int splits,
           const char *what)
{
    const size_t act_group = act.group;
    bal_kernels kernels;
    bal_kernels_init(&kernels, 0);
    const device_weight w({&m});
    const int most = 33, few = 16;
    const std::vector<float> x = random_rows(d, most, m.k);
    std::vector<std::vector<bal_a8>> rows;
    for (size_t i = 0; i < few; i++) {
        rows.push_back(std::vector<bal_a8>(m.view.layout.units));
        if (act.scale == BAL_ACT_DYNAMIC)
            kernels.quant_a8(x.data() + i * m.k, m.k, act_group, rows[i].data());
        else
            kernels.quant_a8_fixed(x.data() + i * m.k, m.k,
                                   act.fixed[bal_act_row_of(modality_of(i))], rows[i].data());
    }
    const size_t padded = m.view.layout.panels * 16;
    const std::vector<float> cpu = by_cpu(kernels, m, rows, act_group);
    const std::vector<float> y = run(w, x, act, few, splits);
    for (size_t i = 0; i < few; i++)
        for (size_t r = 0; r < m.n; r++) {
            const problem p = {m, rows[i], act_group ? act_group : m.k};
            const float e = in_order(p, w, r, splits), c = cpu[i * padded + r];
            if (bal_f32_bits(y[i * m.n + r]) != bal_f32_bits(e))
                fail_msg("%s: row %zu output %zu is %a, defined as %a", what, i, r,
                         (double)y[i * m.n + r], (double)e);
            if (p.whole() && bal_f32_bits(c) != bal_f32_bits(e))
                fail_msg("%s: row %zu output %zu is %a, on the CPU %a", what, i, r, (double)e,
                         (double)c);
        }
    const int step = WATCHED || !all ? 7 : 1;
    for (int rows_now = 1; rows_now < few; rows_now += step) {
        const std::vector<float> fewer = run(w, x, act, rows_now, splits);
        assert_memory_equal(fewer.data(), y.data(), fewer.size() * sizeof(float));
    }
    const std::vector<float> more = run(w, x, act, most, splits);
    assert_memory_equal(more.data(), y.data(), y.size() * sizeof(float));
}

/* As it is found in inputs, in groups of so many. */
bal_act found(size_t group)
{
    return {BAL_ACT_A8, group, BAL_ACT_DYNAMIC, {}};
}

const bal_act fixed = {BAL_ACT_A8, 0, BAL_ACT_STATIC_MODALITY, {0.004f, 0.02f}};

void check_width(int bits, uint64_t seed)
{
    dice d(seed);
    const struct {
        size_t n, k, group, act_group;
        bool all;
        int splits;
    } cases[] = {
        {37, 420, 128, 0, true, 0},  {70, 1300, 0, 0, false, 3},  {33, 300, 128, 128, false, 3},
        {9, 290, 32, 0, false, 0},   {5, 290, 128, 32, false, 0}, {40, 200, 64, 64, false, 0},
        {8, 700, 256, 64, false, 0}, {16, 385, 0, 128, false, 0}, {1, 1, 0, 0, false, 0},
        {64, 129, 64, 32, false, 2}, {34, 2100, 0, 32, false, 0},
    };
    for (const auto &c : cases) {
        char what[96];
        snprintf(what, sizeof what, "w%d, %zu x %zu, groups of %zu and %zu", bits, c.n, c.k,
                 c.group, c.act_group);
        check(random_packed(d, bits, c.n, c.k, c.group), found(c.act_group), d, c.all, c.splits,
              what);
    }
    for (size_t group : {(size_t)0, (size_t)32, (size_t)128})
        check(random_packed(d, bits, 41, 700, group), fixed, d, false, 0, "fixed scales");
}

void test_w2(void **)
{
    check_width(2, 62);
}

void test_w3(void **)
{
    check_width(3, 63);
}

void test_w4(void **)
{
    check_width(4, 64);
}

void test_w6(void **)
{
    check_width(6, 66);
}

void test_w8(void **)
{
    check_width(8, 68);
}

/* Two levels: with one scale for a row of x, sums are integers to the end. */
void test_d4(void **)
{
    dice d(69);
    check(random_two_level(d, 37, 420, 128), found(0), d, true, 0, "d4, groups of 128 and 0");
    check(random_two_level(d, 33, 1300, 32), found(0), d, false, 3, "d4, groups of 32 and 0");
    check(random_two_level(d, 40, 300, 64), found(32), d, false, 0, "d4, groups of 64 and 32");
    check(random_two_level(d, 5, 300, 0), found(128), d, false, 0, "d4, groups of 0 and 128");
    check(random_two_level(d, 40, 700, 32), fixed, d, false, 0, "d4, fixed scales");
}

/* The largest sums there are: all codes 255 beside zero points of 0, all inputs 127. */
void test_extremes(void **)
{
    dice d(70);
    for (size_t group : {(size_t)0, (size_t)128}) {
        host_matrix m = random_packed(d, 8, 33, 4096, group);
        bal_error err = {};
        for (uint8_t &q : m.codes) q = 255;
        for (uint8_t &z : m.zeros) z = 0;
        assert_int_equal(bal_pack(&m.view.layout, m.codes.data(), m.scales.data(), m.zeros.data(),
                                  (uint8_t *)m.view.codes, &err),
                         BAL_OK);
        const device_weight w({&m});
        std::vector<float> x(2 * m.k, 1.0f);
        for (size_t k = 0; k < m.k; k++) x[m.k + k] = -1.0f;
        const std::vector<float> y = run(w, x, {BAL_ACT_A8, 0, BAL_ACT_DYNAMIC, {}}, 2, 0);
        std::vector<std::vector<bal_a8>> rows(2, std::vector<bal_a8>(m.view.layout.units));
        bal_kernels kernels;
        bal_kernels_init(&kernels, 0);
        for (size_t i = 0; i < 2; i++) {
            kernels.quant_a8(x.data() + i * m.k, m.k, 0, rows[i].data());
            for (size_t r = 0; r < m.n; r++)
                assert_true(y[i * m.n + r] == in_order({m, rows[i], m.k}, w, r, 0));
        }
    }
}

/* What is not finite stays in its row and is seen in all of it, with one scale and with many. */
void test_not_finite(void **)
{
    dice d(71);
    for (size_t group : {(size_t)0, (size_t)128}) {
        const host_matrix m = random_packed(d, 4, 40, 300, group);
        const device_weight w({&m});
        std::vector<float> x(4 * 300, 0.5f);
        x[300 + 7] = NAN;
        x[2 * 300 + 200] = INFINITY;
        const std::vector<float> y = run(w, x, {BAL_ACT_A8, 0, BAL_ACT_DYNAMIC, {}}, 4, 0);
        for (size_t i = 0; i < 4; i++)
            for (size_t r = 0; r < 40; r++)
                assert_int_equal(std::isnan(y[i * 40 + r]), i == 1 || i == 2);
    }
}

/* Gate and up in one weight: silu(gate) * up of what either gives alone. */
void test_paired(void **)
{
    dice d(72);
    for (size_t group : {(size_t)0, (size_t)64})
        for (int splits : {1, 2}) {
            const host_matrix gate = random_packed(d, 4, 37, 300, group, 0.2f),
                              up = random_packed(d, 4, 37, 300, group, 0.2f);
            const device_weight pair({&gate, &up}, true), g({&gate}), u({&up});
            const std::vector<float> x = random_rows(d, 17, 300);
            const bal_act act = {BAL_ACT_A8, 0, BAL_ACT_DYNAMIC, {}};
            const int m = splits == 1 ? 3 : 17;
            const std::vector<float> yg = run(g, x, act, m, splits), yu = run(u, x, act, m, splits),
                                     y = run(pair, x, act, m, splits);
            for (size_t i = 0; i < y.size(); i++) {
                const float e = yg[i] / (1 + expf(-yg[i])) * yu[i];
                assert_true(y[i] == e || (y[i] != y[i] && e != e));
            }
        }
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_w2),         cmocka_unit_test(test_w3),
        cmocka_unit_test(test_w4),         cmocka_unit_test(test_w6),
        cmocka_unit_test(test_w8),         cmocka_unit_test(test_d4),
        cmocka_unit_test(test_extremes),   cmocka_unit_test(test_paired),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
