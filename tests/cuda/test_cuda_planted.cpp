// SPDX-License-Identifier: MIT
// The linear kernel with a bug planted in it: its own source, compiled again with one word of it
// taken out or changed. The checks that pass without the bug must not pass with it.
#include "weights.h"

#include "cuda/bytes.cuh"
#include "cuda/stage.cuh"
#include "cuda/stage_op.h"

#include <cmath>
#include <string>

/* How the bugs read. */
template <int n> void no_wait()
{
}

/* Rows g and g + 8 of A taken for each other's k halves: registers 1 and 2 swapped. */
static inline void swapped_mma(float d[4], const uint32_t a[4], const uint32_t b[2],
                               const float c[4], BAL_SHIM_SITE)
{
    const uint32_t swapped[4] = {a[0], a[2], a[1], a[3]};
    bal_mma_f16(d, swapped, b, c, file, line);
}

/* Of bytes: inputs 0 .. 15 of 32 taken for the others in x, not in W. */
static inline void swapped_bytes(int d[4], const uint32_t a[4], const uint32_t b[2], const int c[4],
                                 BAL_SHIM_SITE)
{
    const uint32_t swapped[2] = {b[1], b[0]};
    bal_mma_u8s8(d, a, swapped, c, file, line);
}

namespace sound
{
#include "cuda/linear.cuh"
}

#undef BAL_CUDA_LINEAR_CUH
namespace without_barriers
{
#define __syncthreads no_barrier
#include "cuda/linear.cuh"
#undef __syncthreads
} // namespace without_barriers

#undef BAL_CUDA_LINEAR_CUH
namespace without_waits
{
#define bal_cp_wait no_wait
#include "cuda/linear.cuh"
#undef bal_cp_wait
} // namespace without_waits

#undef BAL_CUDA_LINEAR_CUH
namespace with_swapped_lanes
{
#define bal_mma_f16  swapped_mma
#define bal_mma_u8s8 swapped_bytes
#include "cuda/linear.cuh"
#undef bal_mma_f16
#undef bal_mma_u8s8
} // namespace with_swapped_lanes

#undef BAL_CUDA_LINEAR_CUH
namespace without_fences
{
#define bal_grid_wait no_barrier
#include "cuda/linear.cuh"
#undef bal_grid_wait
} // namespace without_fences

namespace
{

struct problem {
    host_matrix m;
    std::vector<float> x;

    explicit problem(uint64_t seed)
    {
        dice d(seed);
        m = random_packed(d, 3, 64, 2048, 128);
        x.resize(m.k);
        for (float &v : x) v = d.even();
    }
};

/* "": y is right; else what the shim said, or "wrong values". bytes: of 8-bit activations. */
template <class Args>
std::string outcome(void (*kernel)(Args), size_t shared, const problem &p, uint64_t seed,
                    int shared_short = 0, bool bytes = false)
{
    const device_weight w({&p.m});
    device_array<float> x(p.x), y(p.m.n);
    device_array<unsigned char> staged(bal_stage_bytes(1, p.m.k)),
        work(bal_linear_work_bytes(&w.tiles, 2));
    bal_shim_seed(seed);
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaMemsetAsync(work.p, 0, BAL_LINEAR_ZEROED, s);
    bal_stage_job stage = {};
    stage.x = x.p, stage.out = staged.p, stage.ld = p.m.k, stage.m = 1, stage.k = (int)p.m.k;
    if (bytes) stage.act = {BAL_ACT_A8, 0, BAL_ACT_DYNAMIC, {}};
    bal_stage(stage, s);
    Args a = {};
    a.codes = (const uint4 *)w.weight.codes;
    a.meta = (const unsigned char *)w.weight.meta;
    a.x = (const uint16_t *)staged.p;
    a.x_info = (const float *)(staged.p + (bytes ? bal_stage_byte_info_offset(1, p.m.k)
                                                 : bal_stage_info_offset(1, p.m.k)));
    a.y = y.p;
    a.arrived = (unsigned *)work.p;
    a.partial = (float *)(work.p + BAL_LINEAR_ZEROED);
    a.ld = p.m.n, a.rows_staged = 8, a.m = 1, a.n = (int)p.m.n;
    a.row_blocks = (int)w.tiles.row_blocks, a.k_tiles = (int)w.tiles.k_tiles;
    a.groups = (int)w.tiles.groups, a.units_per_group = 1, a.groups_per_unit = 1;
    a.splits = 2, a.block_meta = (int)w.tiles.block_meta;
    bal_launch(kernel, {dim3(2), 256, shared - (size_t)shared_short, s, true}, a);
    cudaStreamSynchronize(s);
    cudaStreamDestroy(s);
    if (const char *fault = bal_shim_take_fault()) return fault;
    const std::vector<float> found = y.values();
    std::vector<float> row(p.m.k);
    for (size_t r = 0; r < p.m.n; r++) {
        double sum = 0, size = 0;
        p.m.row(r, row.data());
        for (size_t k = 0; k < p.m.k; k++) {
            sum += (double)row[k] * (double)p.x[k];
            size += fabs((double)row[k] * (double)p.x[k]);
        }
        if (!(fabs((double)found[r] - sum) <= (bytes ? 0x1p-6 : 0x1p-10) * size))
            return "wrong values";
    }
    return "";
}

void test_planted(void **)
{
    constexpr size_t shared = sound::bal_linear_sizes<3, 1, 1>::shared;
    for (uint64_t seed = 1; seed < 4; seed++) {
        const problem p(seed);
        const std::string sane = outcome(sound::bal_k_linear<3, 1, 1>, shared, p, seed);
        assert_string_equal(sane.c_str(), "");
        const std::string found[] = {
            outcome(without_barriers::bal_k_linear<3, 1, 1>, shared, p, seed),
            outcome(without_waits::bal_k_linear<3, 1, 1>, shared, p, seed),
            outcome(with_swapped_lanes::bal_k_linear<3, 1, 1>, shared, p, seed),
            outcome(without_fences::bal_k_linear<3, 1, 1>, shared, p, seed),
        };
        assert_string_equal(found[0].c_str(), "wrong values");
        assert_non_null(strstr(found[1].c_str(), "under way"));
        assert_string_equal(found[2].c_str(), "wrong values");
        assert_string_equal(found[3].c_str(), "wrong values");
        const std::string bytes[] = {
            outcome(sound::bal_k_linear<3, 1, 1, true>, shared, p, seed, 0, true),
            outcome(with_swapped_lanes::bal_k_linear<3, 1, 1, true>, shared, p, seed, 0, true),
        };
        assert_string_equal(bytes[0].c_str(), "");
        assert_string_equal(bytes[1].c_str(), "wrong values");
#ifndef __SANITIZE_ADDRESS__ /* which would end the program there */
        const std::string beside = outcome(sound::bal_k_linear<3, 1, 1>, shared, p, seed, 64);
        assert_non_null(strstr(beside.c_str(), "beside its"));
#endif
    }
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {cmocka_unit_test(test_planted)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
