/* SPDX-License-Identifier: MIT
 * What is done to rows without weights: mixing runs of them, picking some, the largest of each. */
#include "cuda/ops.h"
#include "cuda/order.cuh"

enum { THREADS = 256 };

/* ---- Gather ---------------------------------------------------------------------------------- */

struct bal_k_gather_args {
    const float *x;
    const int32_t *index;
    float *out;
    size_t k;
};

__global__ void __launch_bounds__(THREADS) bal_k_gather(const bal_k_gather_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const float *from = a.x + (size_t)a.index[blockIdx.x] * a.k;
    float *to = a.out + (size_t)blockIdx.x * a.k;
    for (size_t i = threadIdx.x; i < a.k; i += THREADS) to[i] = from[i];
}

cudaError_t bal_cuda_gather(bal_dptr x, size_t k, bal_dptr index, int n, bal_dptr out,
                            bal_cuda_queue queue)
{
    const bal_k_gather_args args = {(const float *)x, (const int32_t *)index, (float *)out, k};
    bal_launch_shape shape = {};
    shape.grid = dim3((unsigned)n);
    shape.threads = THREADS;
    shape.stream = queue.stream;
    shape.early = queue.early;
    return bal_launch(bal_k_gather, shape, args);
}

/* ---- Hadamard's transform -------------------------------------------------------------------- */

struct bal_k_hadamard_args {
    float *x;
    size_t n;
    int block;
    float scale;
};

/* One warp per 128 values, whole runs; lane l has 4 l .. 4 l + 3. Both sides of a sum compute it in
 * the same order, so that it is the definition's bit for bit. */
__global__ void __launch_bounds__(THREADS) bal_k_hadamard(const bal_k_hadamard_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const int lane = (int)threadIdx.x % 32;
    const size_t warp = (size_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const size_t at = warp * 128 + 4 * (size_t)lane;
    float4 v = make_float4(0, 0, 0, 0);
    if (at < a.n) v = *(const float4 *)(a.x + at);
    v = make_float4(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
    v = make_float4(v.x + v.z, v.y + v.w, v.x - v.z, v.y - v.w);
    for (int bit = 1; 4 * bit < a.block; bit *= 2) {
        const float x = __shfl_xor_sync(BAL_WARP, v.x, bit);
        const float y = __shfl_xor_sync(BAL_WARP, v.y, bit);
        const float z = __shfl_xor_sync(BAL_WARP, v.z, bit);
        const float w = __shfl_xor_sync(BAL_WARP, v.w, bit);
        const bool upper = (lane & bit) != 0;
        v = upper ? make_float4(x - v.x, y - v.y, z - v.z, w - v.w)
                  : make_float4(v.x + x, v.y + y, v.z + z, v.w + w);
    }
    const float s = a.scale;
    if (at < a.n) *(float4 *)(a.x + at) = make_float4(v.x * s, v.y * s, v.z * s, v.w * s);
}

cudaError_t bal_cuda_hadamard(bal_dptr x, size_t n, int block, bal_cuda_queue queue)
{
    const bal_k_hadamard_args args = {(float *)x, n, block, 1.0f / sqrtf((float)block)};
    bal_launch_shape shape = {};
    shape.grid = dim3((unsigned)((n + 4 * THREADS - 1) / (4 * THREADS)));
    shape.threads = THREADS;
    shape.stream = queue.stream;
    shape.early = queue.early;
    return bal_launch(bal_k_hadamard, shape, args);
}

/* ---- Reading ----------------------------------------------------------------------------------
 */

struct bal_k_read_args {
    const uint4 *x;
    size_t n; /* vectors */
    uint32_t *never;
};

/* Four loads under way per thread; what is read must be used, and is written where no sum leads. */
__global__ void __launch_bounds__(THREADS) bal_k_read(const bal_k_read_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const size_t step = (size_t)gridDim.x * THREADS;
    uint32_t sum = 0;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < a.n; i += 4 * step) {
        uint4 v[4];
        BAL_UNROLL
        for (int j = 0; j < 4; j++) {
            v[j] = make_uint4(0, 0, 0, 0);
            if (i + (size_t)j * step < a.n) v[j] = __ldcs(a.x + i + (size_t)j * step);
        }
        BAL_UNROLL
        for (int j = 0; j < 4; j++) sum |= v[j].x & v[j].y & v[j].z & v[j].w & 0x80000000u;
    }
    if (sum == 1) *a.never = sum;
}

cudaError_t bal_cuda_read(bal_dptr x, size_t n, int processors, bal_cuda_queue queue)
{
    const bal_k_read_args args = {(const uint4 *)x, n / 16, (uint32_t *)x};
    const size_t need = (n / 16 + THREADS - 1) / THREADS, most = (size_t)processors * 8;
    bal_launch_shape shape = {};
    shape.grid = dim3((unsigned)(need < most ? need : most));
    shape.threads = THREADS;
    shape.stream = queue.stream;
    shape.early = queue.early;
    return bal_launch(bal_k_read, shape, args);
}

/* ---- The largest of a row -------------------------------------------------------------------- */

struct bal_k_argmax_args {
    const float *x;
    int32_t *out;
    int n;
};

enum { ARGMAX_THREADS = 1024, TOGETHER = 8 /* loads of a thread */ };

/* A value and its index, so that of two the larger number is the larger value, and of equal values
 * the one with the lower index. */
typedef unsigned long long candidate;

BAL_DEVICE candidate candidate_of(uint32_t key, int index)
{
    return (candidate)key << 32 | (0xffffffffu - (uint32_t)index);
}

BAL_DEVICE candidate warp_best(candidate c)
{
    for (int bits = 16; bits > 0; bits /= 2) {
        const uint32_t hi = __shfl_xor_sync(BAL_WARP, (uint32_t)(c >> 32), bits);
        const uint32_t lo = __shfl_xor_sync(BAL_WARP, (uint32_t)c, bits);
        const candidate other = (candidate)hi << 32 | lo;
        c = other > c ? other : c;
    }
    return c;
}

/* The best of every ARGMAX_THREADSth value from the thread's first on. */
BAL_DEVICE candidate thread_best(const float *x, int n)
{
    uint32_t best = 0;
    int index = 0;
    for (int from = (int)threadIdx.x; from < n; from += TOGETHER * ARGMAX_THREADS) {
        float v[TOGETHER];
        BAL_UNROLL
        for (int i = 0; i < TOGETHER; i++) {
            const int at = from + i * ARGMAX_THREADS;
            v[i] = x[at < n ? at : from]; /* again, which changes nothing */
        }
        BAL_UNROLL
        for (int i = 0; i < TOGETHER; i++) {
            const uint32_t key = bal_is_finite(v[i]) ? bal_key_of(v[i]) : BAL_KEY_NOT_FINITE;
            const bool better = key > best; /* indices ascend */
            best = better ? key : best;
            index = better ? from + i * ARGMAX_THREADS : index;
        }
    }
    return candidate_of(best, index);
}

/* Grid: rows. */
__global__ void __launch_bounds__(ARGMAX_THREADS) bal_k_argmax(const bal_k_argmax_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const int t = (int)threadIdx.x;
    candidate *warps = (candidate *)bal_shared();
    candidate best = warp_best(thread_best(a.x + (size_t)blockIdx.x * (size_t)a.n, a.n));
    if (t % 32 == 0) warps[t / 32] = best;
    __syncthreads();
    if (t / 32 > 0) return;
    best = warp_best(warps[t]);
    const bool finite = (uint32_t)(best >> 32) != BAL_KEY_NOT_FINITE;
    if (t == 0) a.out[blockIdx.x] = finite ? (int32_t)(0xffffffffu - (uint32_t)best) : -1;
}

cudaError_t bal_cuda_argmax(bal_dptr x, int m, int n, bal_dptr out, bal_cuda_queue queue)
{
    const bal_k_argmax_args args = {(const float *)x, (int32_t *)out, n};
    bal_launch_shape shape = {};
    shape.grid = dim3((unsigned)m);
    shape.threads = ARGMAX_THREADS;
    shape.shared = ARGMAX_THREADS / 32 * sizeof(candidate);
    shape.stream = queue.stream;
    shape.early = queue.early;
    return bal_launch(bal_k_argmax, shape, args);
}
