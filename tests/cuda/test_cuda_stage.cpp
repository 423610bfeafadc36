// SPDX-License-Identifier: MIT
// Staging against a plain reading of cuda/stage.h: where values go, their scale and their sums;
// norms, gates and 8-bit activations in front of it, and rows that are left out.
#include "cuda_check.h"

#include "cuda/stage_op.h"
#include "weights.h"
extern "C" {
#include "kernel/table.h"
}

#include <cmath>

namespace
{

/* A staged buffer read back. */
struct staged {
    int m, k;
    std::vector<unsigned char> bytes;

    /* rows in front of the row's panel, in all tiles */
    size_t panel(int row, int tile) const
    {
        return ((size_t)tile * bal_stage_rows((size_t)m) + (size_t)row) / 8 * 8;
    }
    float half(int row, int c) const
    {
        uint16_t h;
        const size_t at = panel(row, c / 128) * 128 + (size_t)bal_stage_at(row % 8, c % 128);
        memcpy(&h, bytes.data() + 2 * at, 2);
        return bal_f16_to_f32(h);
    }
    float info(int row, int tile, int i) const
    {
        float f;
        const size_t at = bal_stage_info_offset((size_t)m, (size_t)k) +
                          (panel(row, tile) * BAL_STAGE_INFO + (size_t)(i * 8 + row % 8)) * 4;
        memcpy(&f, bytes.data() + at, 4);
        return f;
    }
    int byte(int row, int c) const
    {
        const size_t at = panel(row, c / 128) * 128 + (size_t)bal_stage_byte_at(row % 8, c % 128);
        return (int8_t)bytes[at];
    }
    /* word i of the info of bytes */
    uint32_t byte_info(int row, int tile, int i) const
    {
        uint32_t u;
        const size_t at = bal_stage_byte_info_offset((size_t)m, (size_t)k) +
                          (panel(row, tile) * BAL_STAGE_BYTE_INFO + (size_t)(i * 8 + row % 8)) * 4;
        memcpy(&u, bytes.data() + at, 4);
        return u;
    }
    double value(int row, int c) const
    {
        return (double)half(row, c) * (double)info(row, c / 128, 0);
    }
};

staged run(bal_stage_job job, const std::vector<float> &x, const std::vector<float> &w = {},
           const std::vector<float> &b = {}, const std::vector<int32_t> &modality = {})
{
    device_array<int32_t> dm(modality.empty() ? std::vector<int32_t>(1) : modality);
    device_array<float> dx(x), dw(w.empty() ? std::vector<float>(1) : w),
        db(b.empty() ? std::vector<float>(1) : b);
    device_array<unsigned char> out(bal_stage_bytes((size_t)job.m, (size_t)job.k));
    job.x = dx.p;
    job.w = w.empty() ? nullptr : dw.p;
    job.b = b.empty() ? nullptr : db.p;
    job.out = out.p;
    job.modality = modality.empty() ? nullptr : dm.p;
    assert_int_equal(bal_stage(job, nullptr), cudaSuccess);
    assert_sound();
    return {job.m, job.k, out.values()};
}

/* Padding is zero, sums are those of the f16 values, what is not used is zero. */
void check_form(const staged &s)
{
    const int tiles = (s.k + 127) / 128;
    for (int row = 0; row < s.m; row++)
        for (int tile = 0; tile < tiles; tile++) {
            double sums[4][2] = {};
            for (int c = 0; c < 128; c++) {
                const float h = s.half(row, tile * 128 + c);
                if (tile * 128 + c >= s.k) assert_true(h == 0);
                sums[c / 32][c / 8 % 2] += (double)h;
            }
            for (int odd = 0; odd < 2; odd++) {
                double all = 0, size = 1;
                for (int u = 0; u < 4; u++) {
                    assert_true(fabs((double)s.info(row, tile, 4 + 2 * u + odd) - sums[u][odd]) <=
                                0.1);
                    all += sums[u][odd];
                    size += fabs(sums[u][odd]);
                }
                assert_true(fabs((double)s.info(row, tile, 1 + odd) - all) <= size * 0x1p-20);
            }
            for (int i : {3, 12, 13, 14, 15}) assert_true(s.info(row, tile, i) == 0);
        }
}

std::vector<float> random_x(dice &d, size_t n)
{
    std::vector<float> x(n);
    for (float &v : x) v = d.even() * (d.below(50) ? 1 : 300);
    return x;
}

void check_values(const staged &s, const std::vector<double> &expected, double most_error)
{
    for (int row = 0; row < s.m; row++)
        for (int c = 0; c < s.k; c++) {
            const double e = expected[(size_t)row * (size_t)s.k + (size_t)c];
            double most = 0;
            for (int i = c / 128 * 128; i < c / 128 * 128 + 128 && i < s.k; i++)
                most = fmax(most, fabs(expected[(size_t)row * (size_t)s.k + (size_t)i]));
            if (!(fabs(s.value(row, c) - e) <= most_error * fabs(e) + 0x1p-38 * most))
                fail_msg("row %d input %d is %g, expected %g", row, c, s.value(row, c), e);
        }
}

void test_plain(void **)
{
    dice d(1);
    for (int k : {1, 31, 128, 300, 1100})
        for (int m : {1, 3, 9}) {
            const size_t ld = (size_t)k + 5;
            const std::vector<float> x = random_x(d, ld * (size_t)m);
            bal_stage_job job = {};
            job.ld = ld, job.m = m, job.k = k;
            const staged s = run(job, x);
            std::vector<double> expected;
            for (int row = 0; row < m; row++)
                for (int c = 0; c < k; c++)
                    expected.push_back((double)x[(size_t)row * ld + (size_t)c]);
            check_form(s);
            check_values(s, expected, 0x1p-11);
        }
}

/* The scale is the power of two that cuda/stage.h says, also at the ends of f32. */
void test_scales(void **)
{
    for (float most : {1.0f, 3.9f, 1e30f, 3e38f, 1e-30f, 1e-38f, 0.0f}) {
        std::vector<float> x(128, most / 16);
        x[77] = -most;
        bal_stage_job job = {};
        job.ld = 128, job.m = 1, job.k = 128;
        const staged s = run(job, x);
        const float h = fabsf(s.half(0, 77)), scale = s.info(0, 0, 0);
        assert_true(most < 1e-33f || (h >= 16384 && h <= 32768));
        assert_true(h * scale == most || fabsf(h * scale - most) <= most * 0x1p-11f);
        int exponent;
        assert_true(frexpf(scale, &exponent) == 0.5f);
    }
}

void test_norms(void **)
{
    dice d(2);
    const int k = 300, m = 3;
    const std::vector<float> x = random_x(d, (size_t)(k * m)), w = random_x(d, (size_t)k),
                             b = random_x(d, (size_t)k);
    for (int layer = 0; layer < 2; layer++) {
        bal_stage_job job = {};
        job.kind = layer ? BAL_STAGED_LAYER : BAL_STAGED_RMS;
        job.ld = (size_t)k, job.m = m, job.k = k, job.eps = 1e-5f;
        const staged s = run(job, x, w, layer ? b : std::vector<float>());
        check_form(s);
        for (int row = 0; row < m; row++) {
            const float *v = x.data() + row * k;
            double mean = 0, squares = 0;
            for (int c = 0; c < k; c++) mean += layer ? (double)v[c] / k : 0;
            for (int c = 0; c < k; c++) squares += ((double)v[c] - mean) * ((double)v[c] - mean);
            const double by = 1 / sqrt(squares / k + 1e-5);
            for (int c = 0; c < k; c++) {
                const double normed = ((double)v[c] - mean) * by * (double)w[(size_t)c],
                             e = normed + (layer ? (double)b[(size_t)c] : 0);
                assert_true(fabs(s.value(row, c) - e) <=
                            0x1p-10 * (fabs(normed) + (layer ? fabs((double)b[(size_t)c]) : 0)) +
                                1e-5);
            }
        }
    }
}

void test_silu(void **)
{
    dice d(3);
    const int k = 200, m = 2;
    const std::vector<float> x = random_x(d, (size_t)(2 * k * m));
    bal_stage_job job = {};
    job.kind = BAL_STAGED_SILU;
    job.ld = (size_t)(2 * k), job.m = m, job.k = k;
    const staged s = run(job, x);
    check_form(s);
    std::vector<double> expected;
    for (int row = 0; row < m; row++)
        for (int c = 0; c < k; c++) {
            const double g = (double)x[(size_t)(row * 2 * k + c)],
                         u = (double)x[(size_t)(row * 2 * k + k + c)];
            expected.push_back(g / (1 + exp(-g)) * u);
        }
    check_values(s, expected, 0x1p-10);
}

/* 8-bit activations are those of the CPU's kernel, bit for bit. */
void check_bytes(const staged &s, const bal_kernels &kernels, const std::vector<float> &x,
                 const bal_act &act, const std::vector<int32_t> &modality = {})
{
    const int units = (s.k + 31) / 32;
    std::vector<bal_a8> a((size_t)units);
    for (int row = 0; row < s.m; row++) {
        const int kind = modality.empty() ? BAL_PROMPT : modality[(size_t)row];
        const float *from = x.data() + row * s.k;
        if (act.scale == BAL_ACT_DYNAMIC)
            kernels.quant_a8(from, (size_t)s.k, act.group, a.data());
        else
            kernels.quant_a8_fixed(from, (size_t)s.k, act.fixed[bal_act_row_of(kind)], a.data());
        for (int c = 0; c < (s.k + 127) / 128 * 128; c++)
            assert_int_equal(s.byte(row, c), c < units * 32 ? a[(size_t)c / 32].q[c % 32] : 0);
        for (int u = 0; u < (s.k + 127) / 128 * 4; u++) {
            const uint32_t scale = s.byte_info(row, u / 4, u % 4),
                           sum = s.byte_info(row, u / 4, 4 + u % 4);
            const int before = u && u < units ? a[(size_t)u - 1].sum : 0;
            assert_int_equal((int)sum, u < units ? a[(size_t)u].sum - before : 0);
            if (u >= units) continue;
            const float e = a[(size_t)u].scale;
            if (e != e)
                assert_true(bal_f32_from_bits(scale) != bal_f32_from_bits(scale));
            else
                assert_int_equal(scale, bal_f32_bits(e));
        }
    }
}

void test_bytes(void **)
{
    dice d(4);
    bal_kernels kernels;
    bal_kernels_init(&kernels, 0);
    const int k = 300, m = 4;
    std::vector<float> x = random_x(d, (size_t)(k * m));
    x[(size_t)k + 170] = NAN; /* of what is not finite, and of what is too small */
    x[2 * (size_t)k + 40] = INFINITY;
    for (size_t c = 0; c < 128; c++) x[3 * (size_t)k + c] = 1e-33f;
    for (size_t group : {(size_t)0, (size_t)32, (size_t)64, (size_t)128}) {
        bal_stage_job job = {};
        job.ld = (size_t)k, job.m = m, job.k = k,
        job.act = {BAL_ACT_A8, group, BAL_ACT_DYNAMIC, {}};
        check_bytes(run(job, x), kernels, x, job.act);
    }
    assert_true(bal_stage_can({BAL_ACT_A8, 512, BAL_ACT_DYNAMIC, {}}, 300));
    assert_false(bal_stage_can({BAL_ACT_A8, 96, BAL_ACT_DYNAMIC, {}}, 300));
    assert_true(bal_stage_can({BAL_ACT_A8, 0, BAL_ACT_STATIC, {0.5f, 0.5f}}, 300));
}

/* Scales beyond which values saturate, that are wide, that are too small for any; of text, of
 * vision, and of text where nobody says what rows are. The first row is on the edges of bytes. */
void test_fixed_bytes(void **)
{
    dice d(5);
    bal_kernels kernels;
    bal_kernels_init(&kernels, 0);
    const std::vector<int32_t> modality = {BAL_PROMPT, BAL_VISION, BAL_ANSWER,
                                           BAL_VISION, BAL_VISION, BAL_PROMPT};
    const int k = 300, m = 6;
    std::vector<float> x = random_x(d, (size_t)(k * m));
    x[3 * (size_t)k + 170] = NAN;
    x[5 * (size_t)k + 299] = -INFINITY;
    const float scales[][2] = {{0.003f, 0.7f}, {2.5f, 0.01f}, {0, 1e-3f}, {1.0f, 7e-31f}};
    for (const auto &f : scales)
        for (bool known : {false, true}) {
            bal_stage_job job = {};
            for (int c = 0; c < k; c++) x[(size_t)c] = ((float)(c % 127) + 0.5f) * f[0];
            job.ld = (size_t)k, job.m = m, job.k = k;
            job.act = {BAL_ACT_A8, 0, BAL_ACT_STATIC_MODALITY, {f[0], f[1]}};
            const std::vector<int32_t> of = known ? modality : std::vector<int32_t>();
            check_bytes(run(job, x, {}, {}, of), kernels, x, job.act, of);
        }
}

/* Rows that are no vision are zeros, numbers or not; the others are what they are without it. */
void test_vision_only(void **)
{
    dice d(6);
    const int k = 300, m = 3;
    std::vector<float> x = random_x(d, (size_t)(k * m)), w = random_x(d, (size_t)k);
    x[17] = NAN;
    for (bal_staged kind : {BAL_STAGED_PLAIN, BAL_STAGED_RMS})
        for (bool known : {false, true}) {
            const std::vector<int32_t> modality = {BAL_PROMPT, BAL_VISION, BAL_ANSWER};
            bal_stage_job job = {};
            job.kind = kind;
            job.ld = (size_t)k, job.m = m, job.k = k;
            const staged all = run(job, x, w);
            job.vision_only = true;
            const staged s = run(job, x, w, {}, known ? modality : std::vector<int32_t>());
            check_form(s);
            for (int row = 0; row < m; row++)
                for (int c = 0; c < k; c++)
                    assert_true(s.value(row, c) == (known && row == 1 ? all.value(row, c) : 0));
        }
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),       cmocka_unit_test(test_scales),
        cmocka_unit_test(test_norms),       cmocka_unit_test(test_silu),
        cmocka_unit_test(test_bytes),       cmocka_unit_test(test_fixed_bytes),
        cmocka_unit_test(test_vision_only),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
