// SPDX-License-Identifier: MIT
// The shim itself: fragments lie where PTX says, streams keep their order, planted bugs are caught.
#include "cuda_check.h"

#include <cmath>
#include <string>

namespace
{

constexpr int threads = 128;

bal_launch_shape shape(unsigned blocks, size_t shared, cudaStream_t s = nullptr, bool early = false)
{
    return {dim3(blocks), threads, shared, s, early};
}

/* ---- A kernel as kernels are written, and what can be wrong with one --------------------------
 */

enum bug { sound, no_barrier, no_wait, no_wait_at_all, past_the_end, one_branch, one_lane_short };

struct reverse_args {
    const float *x;
    float *y;
    bug planted;
};

/* y = x reversed within each block, through shared memory by cp.async. */
__global__ void __launch_bounds__(threads) bal_k_reverse(const reverse_args a)
{
    const int i = (int)threadIdx.x, first = (int)blockIdx.x * threads;
    float *tile = (float *)bal_shared();
    if (i % 4 == 0) bal_cp_async16(tile + i, a.x + first + i);
    bal_cp_commit();
    if (a.planted != no_wait && a.planted != no_wait_at_all) bal_cp_wait<0>();
    if (a.planted == one_branch) {
        if (i < 64) __syncthreads();
    } else if (a.planted != no_barrier) {
        __syncthreads();
    }
    if (a.planted == one_lane_short && i % 32) __syncwarp();
    if (a.planted == past_the_end && i == 0) tile[threads] = 1;
    a.y[first + i] = tile[threads - 1 - i];
    if (a.planted == no_wait) bal_cp_wait<0>();
}

/* What went wrong: the fault, "wrong values", or nothing. */
std::string reverse(bug planted, uint64_t seed)
{
    const unsigned blocks = 4, n = blocks * threads;
    std::vector<float> x(n);
    for (unsigned i = 0; i < n; i++) x[i] = (float)i;
    device_array<float> dx(x), dy(n);
    bal_shim_seed(seed);
    const reverse_args args = {dx.p, dy.p, planted};
    bal_launch(bal_k_reverse, shape(blocks, threads * sizeof(float)), args);
    cudaDeviceSynchronize();
    if (const char *fault = bal_shim_take_fault()) return fault;
    const std::vector<float> y = dy.values();
    for (unsigned i = 0; i < n; i++)
        if (!(y[i] == x[i / threads * threads + threads - 1 - i % threads])) return "wrong values";
    return "";
}

void test_planted_bugs(void **)
{
    const struct {
        bug planted;
        const char *found;
    } cases[] = {
        {no_barrier, "wrong values"},
        {no_wait, "wrong values"},
        {no_wait_at_all, "under way"},
        {one_branch, "divergent barrier"},
        {one_lane_short, "divergent warp"},
#if !defined(__SANITIZE_ADDRESS__) /* which would end the program there */
        {past_the_end, "beside its 512 bytes"},
#endif
    };
    for (uint64_t seed = 0; seed < 8; seed++) {
        assert_string_equal(reverse(sound, seed).c_str(), "");
        for (const auto &c : cases) {
            const std::string found = reverse(c.planted, seed);
            if (found.find(c.found) == std::string::npos)
                fail_msg("bug %d: expected \"%s\", found \"%s\"", c.planted, c.found,
                         found.c_str());
        }
    }
}

/* ---- Fragments --------------------------------------------------------------------------------
 * Small integers, so that every sum is exact and a value in the wrong place changes the product. */

int value_a(int row, int k)
{
    return (row * 7 + k * 3) % 11 - 5;
}

int value_b(int k, int column)
{
    return (k * 5 + column * 2) % 13 - 6;
}

constexpr int unsigned_above = 250; /* bytes of a are unsigned, and around 250 */

struct mma_args {
    const uint16_t *a, *b; /* f16 [16][16], [8][16] */
    const uint16_t *a_bf16, *b_bf16;
    const int8_t *a8, *b8; /* [16][32], [8][32] */
    float *d, *d_bf16;     /* [16][8] */
    int *d8;
    bool swapped; /* a[1] and a[2] taken for each other */
};

__global__ void __launch_bounds__(32) bal_k_mma(const mma_args q)
{
    const int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;
    const auto pair = [&](const uint16_t *m, int row, int k) {
        return (uint32_t)m[row * 16 + k + 1] << 16 | m[row * 16 + k];
    };
    const auto run = [&](const uint16_t *ma, const uint16_t *mb, float *out, bool bf16) {
        uint32_t a[4] = {pair(ma, g, 2 * t), pair(ma, g + 8, 2 * t), pair(ma, g, 2 * t + 8),
                         pair(ma, g + 8, 2 * t + 8)};
        const uint32_t b[2] = {pair(mb, g, 2 * t), pair(mb, g, 2 * t + 8)};
        const float c[4] = {1, 2, 3, 4};
        float d[4];
        if (q.swapped) {
            const uint32_t x = a[1];
            a[1] = a[2];
            a[2] = x;
        }
        if (bf16)
            bal_mma_bf16(d, a, b, c);
        else
            bal_mma_f16(d, a, b, c);
        for (int r = 0; r < 4; r++) out[(g + r / 2 * 8) * 8 + 2 * t + r % 2] = d[r];
    };
    run(q.a, q.b, q.d, false);
    run(q.a_bf16, q.b_bf16, q.d_bf16, true);
    const auto bytes = [&](const int8_t *m, int row, int k) {
        uint32_t w;
        memcpy(&w, m + row * 32 + k, 4);
        return w;
    };
    const uint32_t a[4] = {bytes(q.a8, g, 4 * t), bytes(q.a8, g + 8, 4 * t),
                           bytes(q.a8, g, 4 * t + 16), bytes(q.a8, g + 8, 4 * t + 16)};
    const uint32_t b[2] = {bytes(q.b8, g, 4 * t), bytes(q.b8, g, 4 * t + 16)};
    const int c[4] = {1, 2, 3, 4};
    int d[4];
    bal_mma_u8s8(d, a, b, c);
    for (int r = 0; r < 4; r++) q.d8[(g + r / 2 * 8) * 8 + 2 * t + r % 2] = d[r];
}

struct mma_outcome {
    std::vector<float> f16, bf16;
    std::vector<int> s8;
};

mma_outcome multiply(bool swapped)
{
    std::vector<uint16_t> a(256), b(128), a2(256), b2(128);
    std::vector<int8_t> a8(512), b8(256);
    for (int k = 0; k < 16; k++) {
        for (int i = 0; i < 16; i++) {
            a[(size_t)(i * 16 + k)] = bal_f32_to_f16((float)value_a(i, k));
            a2[(size_t)(i * 16 + k)] = bal_f32_to_bf16((float)value_a(i, k));
        }
        for (int j = 0; j < 8; j++) {
            b[(size_t)(j * 16 + k)] = bal_f32_to_f16((float)value_b(k, j));
            b2[(size_t)(j * 16 + k)] = bal_f32_to_bf16((float)value_b(k, j));
        }
    }
    for (int k = 0; k < 32; k++) {
        for (int i = 0; i < 16; i++)
            a8[(size_t)(i * 32 + k)] = (int8_t)(value_a(i, k) + unsigned_above);
        for (int j = 0; j < 8; j++) b8[(size_t)(j * 32 + k)] = (int8_t)value_b(k, j);
    }
    device_array<uint16_t> da(a), db(b), da2(a2), db2(b2);
    device_array<int8_t> da8(a8), db8(b8);
    device_array<float> d(128), d2(128);
    device_array<int> d8(128);
    const mma_args args = {da.p, db.p, da2.p, db2.p, da8.p, db8.p, d.p, d2.p, d8.p, swapped};
    bal_launch(bal_k_mma, {dim3(1), 32, 0, nullptr, false}, args);
    assert_sound();
    return {d.values(), d2.values(), d8.values()};
}

/* How many of the 128 sums of the first n_k products are other than they should be, with `above`
 * added to all of a. */
template <class T> int n_wrong(const std::vector<T> &d, int n_k, int above = 0)
{
    int wrong = 0;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            int sum = (i >= 8 ? 3 : 1) + j % 2;
            for (int k = 0; k < n_k; k++) sum += (value_a(i, k) + above) * value_b(k, j);
            wrong += d[(size_t)(i * 8 + j)] != (T)sum;
        }
    return wrong;
}

void test_fragments(void **)
{
    const mma_outcome good = multiply(false);
    assert_int_equal(n_wrong(good.f16, 16), 0);
    assert_int_equal(n_wrong(good.bf16, 16), 0);
    assert_int_equal(n_wrong(good.s8, 32, unsigned_above), 0);
    assert_true(n_wrong(multiply(true).f16, 16) > 64); /* a wrong layout shows */
}

struct ldmatrix_args {
    uint32_t *plain, *transposed; /* [32][4] */
};

__global__ void __launch_bounds__(32) bal_k_ldmatrix(const ldmatrix_args a)
{
    uint16_t *tile = (uint16_t *)bal_shared(); /* [32 rows][8], element 8 row + column */
    const int lane = (int)threadIdx.x;
    for (int i = 0; i < 8; i++) tile[8 * lane + i] = (uint16_t)(8 * lane + i);
    __syncwarp();
    bal_ldmatrix_x4(a.plain + 4 * lane, tile + 8 * lane);
    bal_ldmatrix_x4_trans(a.transposed + 4 * lane, tile + 8 * lane);
}

void test_ldmatrix(void **)
{
    device_array<uint32_t> plain(128), transposed(128);
    const ldmatrix_args args = {plain.p, transposed.p};
    bal_launch(bal_k_ldmatrix, {dim3(1), 32, 512, nullptr, false}, args);
    assert_sound();
    const auto p = plain.values(), t = transposed.values();
    for (uint32_t lane = 0; lane < 32; lane++)
        for (uint32_t j = 0; j < 4; j++) {
            const uint32_t at = 64 * j + 8 * (lane / 4) + lane % 4 * 2;
            const uint32_t under = 64 * j + 8 * (lane % 4 * 2) + lane / 4;
            assert_int_equal(p[4 * lane + j], (at + 1) << 16 | at);
            assert_int_equal(t[4 * lane + j], (under + 8) << 16 | under);
        }
}

/* ---- Warps ------------------------------------------------------------------------------------
 */

struct warp_args {
    int *out; /* [6][32] */
};

__global__ void __launch_bounds__(32) bal_k_warp(const warp_args a)
{
    const int lane = (int)threadIdx.x;
    a.out[lane] = __shfl_xor_sync(BAL_WARP, lane, 5);
    a.out[32 + lane] = __shfl_sync(BAL_WARP, lane * 2, 7);
    a.out[64 + lane] = __shfl_down_sync(BAL_WARP, lane, 3);
    a.out[96 + lane] = __shfl_xor_sync(BAL_WARP, lane, 1, 4);
    a.out[128 + lane] = (int)__ballot_sync(BAL_WARP, lane % 3 == 0);
    a.out[160 + lane] = __shfl_sync(BAL_WARP, lane, 1, 8);
}

void test_warp(void **)
{
    device_array<int> out(192);
    const warp_args args = {out.p};
    bal_launch(bal_k_warp, {dim3(1), 32, 0, nullptr, false}, args);
    assert_sound();
    const auto v = out.values();
    unsigned votes = 0;
    for (int i = 0; i < 32; i += 3) votes |= 1u << i;
    for (int i = 0; i < 32; i++) {
        assert_int_equal(v[(size_t)i], i ^ 5);
        assert_int_equal(v[32 + (size_t)i], 14);
        assert_int_equal(v[64 + (size_t)i], i < 29 ? i + 3 : i);
        assert_int_equal(v[96 + (size_t)i], i ^ 1);
        assert_int_equal(v[128 + (size_t)i], (int)votes);
        assert_int_equal(v[160 + (size_t)i], i / 8 * 8 + 1);
    }
}

/* ---- Order ------------------------------------------------------------------------------------
 */

struct add_args {
    float *x;
    float by;
    bool waits;
};

/* x[i] = x[i] + by, where x may come from the kernel in front. */
__global__ void __launch_bounds__(threads) bal_k_add(const add_args a)
{
    const float *x = a.x + blockIdx.x * threads + threadIdx.x;
    if (a.waits) bal_grid_wait();
    const float v = *x;
    bal_grid_wait();
    a.x[blockIdx.x * threads + threadIdx.x] = v + a.by;
}

/* Two kernels in a row, the second one started early. */
bool adds_up(bool waits)
{
    device_array<float> x(std::vector<float>(4 * threads, 1.0f));
    cudaStream_t s;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    const add_args args = {x.p, 2, waits};
    bal_launch(bal_k_add, shape(4, 0, s), args);
    bal_launch(bal_k_add, shape(4, 0, s, true), args);
    cudaStreamSynchronize(s);
    bool right = true;
    for (float v : x.values()) right &= v == 5.0f;
    cudaStreamDestroy(s);
    assert_sound();
    return right;
}

void test_early(void **)
{
    assert_true(adds_up(true));
    assert_false(adds_up(false)); /* read before the wait: the old value */
}

void test_streams(void **)
{
    device_array<float> x(std::vector<float>(threads, 1.0f));
    std::vector<float> seen(threads, 0.0f);
    cudaStream_t s, t;
    cudaEvent_t e;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&t, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    bal_launch(bal_k_add, shape(1, 0, s), add_args{x.p, 2, true});
    cudaEventRecord(e, s);
    bal_launch(bal_k_add, shape(1, 0, s), add_args{x.p, 4, true});
    cudaStreamWaitEvent(t, e);
    cudaMemcpyAsync(seen.data(), x.p, threads * sizeof(float), cudaMemcpyDeviceToHost, t);
    assert_true(seen[0] == 0.0f); /* nothing before somebody waits */
    cudaStreamSynchronize(t);
    assert_true(seen[0] == 3.0f); /* up to the event, not beyond */
    cudaStreamSynchronize(s);
    assert_true(x.values()[0] == 7.0f);
    cudaEventDestroy(e);
    cudaStreamDestroy(t);
    cudaStreamDestroy(s);
}

void test_graph(void **)
{
    device_array<float> x(std::vector<float>(threads, 0.0f));
    cudaStream_t s;
    cudaGraph_t g;
    cudaGraphExec_t run;
    cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking);
    cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
    for (int i = 0; i < 3; i++)
        bal_launch(bal_k_add, shape(1, 0, s, i > 0), add_args{x.p, 1, true});
    assert_int_equal(cudaStreamSynchronize(s), cudaErrorStreamCaptureUnsupported);
    cudaStreamEndCapture(s, &g);
    cudaGraphInstantiate(&run, g);
    cudaGraphDestroy(g);
    cudaStreamSynchronize(s);
    assert_true(x.values()[0] == 0.0f); /* recorded, not run */
    for (int i = 0; i < 2; i++) cudaGraphLaunch(run, s);
    cudaStreamSynchronize(s);
    assert_true(x.values()[5] == 6.0f);
    cudaGraphExecDestroy(run);
    cudaStreamDestroy(s);
    assert_sound();
}

/* ---- Memory -----------------------------------------------------------------------------------
 */

void test_memory(void **)
{
    void *p = nullptr;
    const size_t used = bal_shim_memory_used();
    bal_shim_memory_limit(used + 1000);
    assert_int_equal(cudaMalloc(&p, 1001), cudaErrorMemoryAllocation);
    assert_int_equal(cudaGetLastError(), cudaErrorMemoryAllocation);
    assert_int_equal(cudaMalloc(&p, 1000), cudaSuccess);
    float poison;
    assert_int_equal(cudaMemcpy(&poison, p, 4, cudaMemcpyDeviceToHost), cudaSuccess);
    assert_true(std::isnan(poison));
    char host[2000] = {};
    assert_int_equal(cudaMemcpy(p, host, 1001, cudaMemcpyHostToDevice), cudaErrorLaunchFailure);
    assert_true(faulted("outside of what was allocated"));
    assert_int_equal(cudaMemcpy(host, host, 4, cudaMemcpyDeviceToHost), cudaErrorLaunchFailure);
    assert_true(faulted("outside of what was allocated"));
    assert_int_equal(cudaFree(p), cudaSuccess);
    assert_int_equal(bal_shim_memory_used(), used);
    bal_shim_memory_limit((size_t)1 << 30);
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_planted_bugs), cmocka_unit_test(test_fragments),
        cmocka_unit_test(test_ldmatrix),     cmocka_unit_test(test_warp),
        cmocka_unit_test(test_early),        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_graph),        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
