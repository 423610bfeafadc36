// SPDX-License-Identifier: MIT
// Norms, activations and scaled residuals of a vision tower beside their definitions in double, and
// the same source with a barrier, a wait or a sum too few, which the checks must tell.
#include "cuda_check.h"

#include "cuda/ops.h"
#include "weights.h"

#include <cmath>
#include <string>

/* Squares that are not added up. */
static inline float forgotten_sum(float a, float b, float)
{
    return a * b;
}

namespace sound
{
#include "cuda/tower.cu"
}

namespace without_barriers
{
#define __syncthreads no_barrier
#include "cuda/tower.cu"
#undef __syncthreads
} // namespace without_barriers

namespace without_fences
{
#define bal_grid_wait no_barrier
#include "cuda/tower.cu"
#undef bal_grid_wait
} // namespace without_fences

namespace with_other_sums
{
#define fmaf forgotten_sum
#include "cuda/tower.cu"
#undef fmaf
} // namespace with_other_sums

namespace
{

std::vector<float> random_values(dice &d, size_t n, float size)
{
    std::vector<float> x(n);
    for (float &v : x) v = size * d.even() + (d.below(40) ? 0 : 5 * size);
    return x;
}

struct norm_case {
    bool layer, bias;
    int m, k, pad;
};

/* "": right; else what the shim said, or "wrong values". */
std::string norm_outcome(cudaError_t (*run)(const bal_norm_args *, bal_cuda_queue),
                         const norm_case &c, uint64_t seed)
{
    dice d(seed);
    const size_t ld = (size_t)(c.k + c.pad), n = ld * (size_t)c.m;
    const std::vector<float> x = random_values(d, n, 2), w = random_values(d, (size_t)c.k, 1),
                             b = random_values(d, (size_t)c.k, 1);
    device_array<float> from(x), dx(n), dw(w), db(b);
    bal_shim_seed(seed);
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    bal_launch(fill, {dim3(1), 32, 0, s, false}, fill_args{dx.p, from.p, (int)n});
    bal_norm_args a = {};
    a.layer = c.layer, a.x = (bal_dptr)dx.p, a.w = (bal_dptr)dw.p;
    a.b = c.bias ? (bal_dptr)db.p : 0;
    a.ld = ld, a.m = c.m, a.k = c.k, a.eps = 1e-5f;
    run(&a, {s, true});
    cudaStreamSynchronize(s);
    cudaStreamDestroy(s);
    if (const char *fault = bal_shim_take_fault()) return fault;
    const std::vector<float> found = dx.values();
    for (int r = 0; r < c.m; r++) {
        const float *row = x.data() + (size_t)r * ld;
        double mean = 0, squares = 0;
        for (int i = 0; c.layer && i < c.k; i++) mean += (double)row[i] / c.k;
        for (int i = 0; i < c.k; i++)
            squares += ((double)row[i] - mean) * ((double)row[i] - mean) / c.k;
        for (int i = 0; i < (int)ld; i++) {
            double want = (double)row[i];
            if (i < c.k) {
                const size_t at = (size_t)i;
                want = (want - mean) / std::sqrt(squares + (double)1e-5f) * (double)w[at] +
                       (c.bias ? (double)b[at] : 0);
            }
            if (!(std::fabs((double)found[(size_t)r * ld + (size_t)i] - want) <=
                  1e-5 * (1 + std::fabs(want))))
                return "wrong values";
        }
    }
    return "";
}

void test_norm(void **)
{
    const norm_case cases[] = {{true, true, 3, 300, 0},  {true, true, 1, 31, 5},
                               {true, false, 2, 256, 3}, {false, false, 4, 515, 2},
                               {false, true, 1, 7, 0},   {false, false, 2, 1, 1}};
    for (const norm_case &c : cases) {
        const std::string found = norm_outcome(sound::bal_cuda_norm, c, 7);
        assert_string_equal(found.c_str(), "");
    }
}

void test_planted(void **)
{
    const norm_case c = {true, true, 2, 600, 0};
    for (uint64_t seed = 1; seed < 4; seed++) {
        const std::string found[] = {norm_outcome(sound::bal_cuda_norm, c, seed),
                                     norm_outcome(without_barriers::bal_cuda_norm, c, seed),
                                     norm_outcome(without_fences::bal_cuda_norm, c, seed),
                                     norm_outcome(with_other_sums::bal_cuda_norm, c, seed)};
        assert_string_equal(found[0].c_str(), "");
        assert_string_equal(found[1].c_str(), "wrong values");
        assert_string_equal(found[2].c_str(), "wrong values");
        assert_string_equal(found[3].c_str(), "wrong values");
    }
}

double gelu(int kind, double x)
{
    if (kind == BAL_DEVICE_GELU) return 0.5 * x * (1 + std::erf(x * std::sqrt(0.5)));
    if (kind == BAL_DEVICE_QUICK_GELU) return x / (1 + std::exp(-1.702 * x));
    return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

/* More values than threads, and ones that would overflow an exponential. */
void test_gelu(void **)
{
    dice d(3);
    std::vector<float> x = random_values(d, 3000, 6);
    x[0] = -200, x[1] = 200, x[2] = 0, x[3] = -3e4f;
    for (int kind = 0; kind < 3; kind++) {
        device_array<float> dx(x);
        assert_int_equal(sound::bal_cuda_gelu((bal_device_gelu)kind, (bal_dptr)dx.p, x.size(), 1,
                                              {nullptr, false}),
                         cudaSuccess);
        assert_sound();
        const std::vector<float> found = dx.values();
        for (size_t i = 0; i < x.size(); i++) {
            const double want = gelu(kind, (double)x[i]);
            if (!(std::fabs((double)found[i] - want) <= 1e-6 * (1 + std::fabs(want))))
                fail_msg("form %d of %g is %g, expected %g", kind, x[i], found[i], want);
        }
    }
}

/* Rows that are wider than what is read of them keep the rest. */
void test_gate(void **)
{
    dice d(4);
    for (int k : {1, 33, 700}) {
        const size_t m = 3, ld = 2 * (size_t)k + 3;
        std::vector<float> x = random_values(d, m * ld, 6);
        x[0] = -200, x[ld] = 200;
        device_array<float> dx(x);
        assert_int_equal(sound::bal_cuda_gate((bal_dptr)dx.p, ld, (int)m, k, {nullptr, false}),
                         cudaSuccess);
        assert_sound();
        const std::vector<float> found = dx.values();
        for (size_t i = 0; i < x.size(); i++) {
            double want = (double)x[i];
            if (i % ld < (size_t)k) want *= (double)x[i + (size_t)k] / (1 + std::exp(-want));
            assert_true(std::fabs((double)found[i] - want) <= 1e-6 * (1 + std::fabs(want)));
        }
    }
}

void test_add_scaled(void **)
{
    dice d(5);
    for (int k : {1, 33, 700}) {
        const int m = 3;
        const size_t n = (size_t)(m * k);
        const std::vector<float> h = random_values(d, n, 1), x = random_values(d, n, 1),
                                 scale = random_values(d, (size_t)k, 1);
        device_array<float> dh(h), dx(x), ds(scale);
        assert_int_equal(sound::bal_cuda_add_scaled((bal_dptr)dh.p, (bal_dptr)dx.p, (bal_dptr)ds.p,
                                                    m, k, {nullptr, false}),
                         cudaSuccess);
        assert_sound();
        const std::vector<float> found = dh.values();
        for (size_t i = 0; i < n; i++) {
            const double want = (double)h[i] + (double)x[i] * (double)scale[i % (size_t)k];
            assert_true(std::fabs((double)found[i] - want) <= 1e-5);
        }
    }
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {cmocka_unit_test(test_norm), cmocka_unit_test(test_planted),
                                cmocka_unit_test(test_gelu), cmocka_unit_test(test_gate),
                                cmocka_unit_test(test_add_scaled)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
