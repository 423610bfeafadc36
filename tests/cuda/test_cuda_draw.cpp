// SPDX-License-Identifier: MIT
// Drawing the next token on the device: the CPU's sampler, token by token, for the same logits and
// the same generator; and the kernel's source with a barrier or a wait too few.
#include "cuda_check.h"

#include "cuda/ops.h"
#include "cuda/order.cuh"
#include "weights.h"
extern "C" {
#include "base/weight.h"
#include "run/sampler.h"
}

#include <cmath>
#include <string>

static inline float other_rounding(float a, float b)
{
    return a * b * (1 + 0x1p-12f); /* of weights: as a careless exponential would have them */
}

namespace sound
{
#include "cuda/draw.cu"
}

namespace without_barriers
{
#define __syncthreads no_barrier
#include "cuda/draw.cu"
#undef __syncthreads
} // namespace without_barriers

namespace without_fences
{
#define bal_grid_wait no_barrier
#include "cuda/draw.cu"
#undef bal_grid_wait
} // namespace without_fences

namespace with_other_weights
{
#define __fmul_rn other_rounding
#include "cuda/draw.cu"
#undef __fmul_rn
} // namespace with_other_weights

namespace
{

typedef cudaError_t draw_fn(bal_dptr, int, int, bal_dptr, bal_dptr, bal_cuda_queue);

struct problem {
    int n;
    std::vector<float> x; /* [rows][n] */
    std::vector<bal_sampling> how;
};

std::vector<int32_t> on_device(draw_fn *draw, const problem &p, bal_rng rng, std::string *fault)
{
    const int m = (int)p.how.size();
    std::vector<bal_device_draw> draws;
    for (const bal_sampling &s : p.how) draws.push_back(bal_sampling_draw(&s, &rng));
    device_array<float> from(p.x), x(p.x.size());
    device_array<bal_device_draw> dd(draws);
    device_array<int32_t> out((size_t)m);
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    bal_launch(fill, {dim3(1), 32, 0, s, false}, fill_args{x.p, from.p, (int)p.x.size()});
    draw((bal_dptr)x.p, m, p.n, (bal_dptr)dd.p, (bal_dptr)out.p, {s, true});
    cudaStreamSynchronize(s);
    cudaStreamDestroy(s);
    const char *told = bal_shim_take_fault();
    *fault = told ? told : "";
    return out.values();
}

std::vector<int32_t> on_cpu(const problem &p, bal_rng rng)
{
    std::vector<int32_t> ids;
    for (size_t r = 0; r < p.how.size(); r++) {
        bal_sampler s;
        bal_error err = {};
        assert_int_equal(bal_sampler_create(&s, &p.how[r], p.n, &err), BAL_OK);
        s.rng = rng;
        ids.push_back(bal_sampler_next(&s, p.x.data() + r * (size_t)p.n));
        rng = s.rng;
        bal_sampler_destroy(&s);
    }
    return ids;
}

/* Logits of a coarse grid are full of ties; others have few likely tokens, or only likely ones. */
problem random_problem(dice &d, int n, int rows)
{
    problem p = {n, {}, {}};
    for (int r = 0; r < rows; r++) {
        const int kind = d.below(4);
        const float size = kind == 3 ? 30.0f : 4.0f;
        for (int i = 0; i < n; i++) {
            const float v = size * d.even();
            p.x.push_back(kind == 0 ? rintf(v) : kind == 1 ? rintf(4 * v) / 4 : v);
        }
        if (kind == 2) p.x[p.x.size() - (size_t)(1 + d.below(n))] = 40;
        bal_sampling s = {};
        s.temperature = d.below(8) ? 0.1f + 2 * fabsf(d.even()) : 0;
        s.top_k = d.below(2) ? 1 + d.below(n < 60 ? n + 3 : 60) : 0;
        s.top_p = d.below(2) ? 0.05f + 0.94f * fabsf(d.even()) : 1;
        p.how.push_back(s);
    }
    return p;
}

void test_draws(void **)
{
    dice d(11);
    int all = 0;
    for (int n : {1, 2, 31, 300, 512, 5000})
        for (int i = 0; i < 3; i++) {
            const problem p = random_problem(d, n, 8);
            bal_rng rng;
            bal_rng_seed(&rng, (uint64_t)(n + i));
            std::string fault;
            const std::vector<int32_t> found = on_device(sound::bal_cuda_draw, p, rng, &fault);
            assert_string_equal(fault.c_str(), "");
            const std::vector<int32_t> want = on_cpu(p, rng);
            for (size_t r = 0; r < want.size(); r++, all++)
                if (found[r] != want[r])
                    fail_msg("of %d: token %d, expected %d (temperature %g, top-k %d, top-p %g)", n,
                             found[r], want[r], p.how[r].temperature, p.how[r].top_k,
                             p.how[r].top_p);
        }
    print_message("%d draws are the CPU's\n", all);
}

/* Signed zeros are equal, what is not finite is refused, weights are those of the definition. */
void test_edges(void **)
{
    const float nan = NAN, inf = INFINITY;
    const bal_sampling how = {1, 1, 1, 0};
    problem p = {4, {-0.0f, 0.0f, -1, -2, 1, nan, 0, 0, inf, 1, 2, 3, -inf, 1, 0, 2}, {}};
    p.how.assign(4, how);
    bal_rng rng;
    bal_rng_seed(&rng, 1);
    std::string fault;
    const std::vector<int32_t> found = on_device(sound::bal_cuda_draw, p, rng, &fault);
    assert_string_equal(fault.c_str(), "");
    const int32_t want[] = {0, -1, -1, -1};
    for (int i = 0; i < 4; i++) assert_int_equal(found[(size_t)i], want[i]);
    dice d(2);
    for (int i = 0; i < 20000; i++) {
        const float x = -30 * fabsf(d.even()), scale = bal_weight_scale(0.2f + fabsf(d.even()));
        const uint64_t w = bal_weight_of(x, 0, scale);
        assert_true(w == sound::weight_of(x, 0, scale));
        const double ideal = exp2((double)x * (double)scale + 40);
        assert_true(fabs((double)w - ideal) <= 1 + 4e-6 * ideal);
    }
}

int differing(draw_fn *draw, const problem &p, uint64_t seed)
{
    bal_rng rng;
    bal_rng_seed(&rng, seed);
    bal_shim_seed(seed);
    std::string fault;
    const std::vector<int32_t> found = on_device(draw, p, rng, &fault), want = on_cpu(p, rng);
    int n = !fault.empty();
    for (size_t r = 0; r < want.size(); r++) n += found[r] != want[r];
    return n;
}

void test_planted(void **)
{
    dice d(5);
    problem p = random_problem(d, 600, 8);
    for (bal_sampling &s : p.how) s = {0.7f, 40, 0.9f, 0};
    assert_int_equal(differing(sound::bal_cuda_draw, p, 3), 0);
    assert_true(differing(without_barriers::bal_cuda_draw, p, 3) > 0);
    assert_true(differing(without_fences::bal_cuda_draw, p, 3) > 0);
    int wrong = 0; /* weights are off by little, so few draws tell */
    for (int i = 0; i < 20000; i++) {
        const float x = -20 * fabsf(d.even());
        wrong += bal_weight_of(x, 0, 1) != with_other_weights::weight_of(x, 0, 1);
    }
    assert_true(wrong > 10000);
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {cmocka_unit_test(test_draws), cmocka_unit_test(test_edges),
                                cmocka_unit_test(test_planted)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
