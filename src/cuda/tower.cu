/* SPDX-License-Identifier: MIT
 * What stands between linears, most of it in a vision tower, and is no staging: norms of rows that
 * are read more than once, activations, residuals that are scaled by column. */
#include "cuda/ops.h"

enum { THREADS = 256, WARPS = THREADS / 32 };

static bal_launch_shape shape_of(dim3 grid, size_t shared, bal_cuda_queue queue)
{
    bal_launch_shape shape = {};
    shape.grid = grid;
    shape.threads = THREADS;
    shape.shared = shared;
    shape.stream = queue.stream;
    shape.early = queue.early;
    return shape;
}

/* ---- Norms of rows --------------------------------------------------------------------------- */

/* Sum over the block, in every thread; the order depends on the number of threads only. */
BAL_DEVICE float block_sum(float v)
{
    float *warps = (float *)bal_shared(), sum = 0.0f;
    for (int bits = 16; bits > 0; bits /= 2) v += __shfl_xor_sync(BAL_WARP, v, bits);
    __syncthreads();
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
    __syncthreads();
    for (int i = 0; i < WARPS; i++) sum += warps[i];
    return sum;
}

/* Grid: rows. */
__global__ void __launch_bounds__(THREADS) bal_k_norm(const bal_norm_args a)
{
    bal_grid_release();
    bal_grid_wait();
    float *x = (float *)a.x + (size_t)blockIdx.x * a.ld;
    const float *w = (const float *)a.w, *b = (const float *)a.b;
    float mean = 0.0f, squares = 0.0f;
    if (a.layer) {
        for (int i = (int)threadIdx.x; i < a.k; i += THREADS) mean += x[i];
        mean = block_sum(mean) / (float)a.k;
    }
    for (int i = (int)threadIdx.x; i < a.k; i += THREADS)
        squares = fmaf(x[i] - mean, x[i] - mean, squares);
    const float scale = 1.0f / sqrtf(block_sum(squares) / (float)a.k + a.eps);
    for (int i = (int)threadIdx.x; i < a.k; i += THREADS)
        x[i] = (x[i] - mean) * scale * w[i] + (b ? b[i] : 0.0f);
}

cudaError_t bal_cuda_norm(const bal_norm_args *a, bal_cuda_queue queue)
{
    return bal_launch(bal_k_norm, shape_of(dim3((unsigned)a->m), WARPS * sizeof(float), queue), *a);
}

/* ---- Activations ----------------------------------------------------------------------------- */

struct bal_k_gelu_args {
    float *x;
    size_t n;
    int kind;
};

BAL_DEVICE float gelu_of(int kind, float x)
{
    if (kind == BAL_DEVICE_GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    const float z = kind == BAL_DEVICE_QUICK_GELU
                        ? 1.702f * x
                        : 2.0f * 0.79788456080286536f * fmaf(0.044715f * x * x, x, x);
    return x / (1.0f + expf(-z)); /* 1 + tanh(z / 2) is 2 / (1 + exp(-z)) */
}

__global__ void __launch_bounds__(THREADS) bal_k_gelu(const bal_k_gelu_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const size_t step = (size_t)gridDim.x * THREADS;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < a.n; i += step)
        a.x[i] = gelu_of(a.kind, a.x[i]);
}

cudaError_t bal_cuda_gelu(bal_device_gelu kind, bal_dptr x, size_t n, int processors,
                          bal_cuda_queue queue)
{
    const bal_k_gelu_args args = {(float *)x, n, kind};
    const size_t need = (n + THREADS - 1) / THREADS, most = (size_t)processors * 8;
    return bal_launch(bal_k_gelu, shape_of(dim3((unsigned)(need < most ? need : most)), 0, queue),
                      args);
}

struct bal_k_gate_args {
    float *x;
    size_t ld;
    int k;
};

/* Grid: rows. */
__global__ void __launch_bounds__(THREADS) bal_k_gate(const bal_k_gate_args a)
{
    bal_grid_release();
    bal_grid_wait();
    float *x = a.x + (size_t)blockIdx.x * a.ld;
    for (int i = (int)threadIdx.x; i < a.k; i += THREADS)
        x[i] = x[i] / (1.0f + __expf(-x[i])) * x[a.k + i]; /* as staging has it */
}

cudaError_t bal_cuda_gate(bal_dptr x, size_t ld, int m, int k, bal_cuda_queue queue)
{
    const bal_k_gate_args args = {(float *)x, ld, k};
    return bal_launch(bal_k_gate, shape_of(dim3((unsigned)m), 0, queue), args);
}

/* ---- Residuals ------------------------------------------------------------------------------- */

struct bal_k_add_scaled_args {
    float *h;
    const float *x, *scale;
    int k;
};

/* Grid: rows. */
__global__ void __launch_bounds__(THREADS) bal_k_add_scaled(const bal_k_add_scaled_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const size_t row = (size_t)blockIdx.x * (size_t)a.k;
    for (int i = (int)threadIdx.x; i < a.k; i += THREADS)
        a.h[row + i] = fmaf(a.x[row + i], a.scale[i], a.h[row + i]);
}

cudaError_t bal_cuda_add_scaled(bal_dptr h, bal_dptr x, bal_dptr scale, int m, int k,
                                bal_cuda_queue queue)
{
    const bal_k_add_scaled_args args = {(float *)h, (const float *)x, (const float *)scale, k};
    return bal_launch(bal_k_add_scaled, shape_of(dim3((unsigned)m), 0, queue), args);
}
