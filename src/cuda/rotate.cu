/* SPDX-License-Identifier: MIT
 * From what the q, k, v linears gave to what attention reads: norms of heads, rotation in place,
 * keys and values into the cache. One warp per head of a row; lane i has the pairs i, i + 32, ...,
 * so norm, rotation and store need no barrier. */
#include "cuda/cache.cuh"
#include "cuda/ops.h"

enum { HEADS = 4 }; /* warps of a block */

BAL_DEVICE float warp_sum(float v)
{
    for (int bits = 16; bits > 0; bits /= 2) v += __shfl_xor_sync(BAL_WARP, v, bits);
    return v;
}

BAL_DEVICE float warp_max(float v)
{
    for (int bits = 16; bits > 0; bits /= 2) v = fmaxf(v, __shfl_xor_sync(BAL_WARP, v, bits));
    return v;
}

BAL_DEVICE void norm_head(float *x, const float *w, float eps, int dim, int lane)
{
    float sum = 0.0f;
    for (int i = lane; i < dim; i += 32) sum += x[i] * x[i];
    const float s = 1.0f / sqrtf(warp_sum(sum) / (float)dim + eps);
    for (int i = lane; i < dim; i += 32) x[i] = x[i] * s * w[i];
}

BAL_DEVICE void rotate_head(const bal_rotate_args &a, float *x, const int32_t *pos, int lane)
{
    const int half = a.cache.dim / 2;
    const float *frequency = (const float *)a.frequency;
    const int32_t *axis = (const int32_t *)a.axis;
    for (int i = lane; i < half; i += 32) {
        const float angle = (float)pos[axis[i]] * frequency[i];
        const float c = cosf(angle) * a.magnitude, s = sinf(angle) * a.magnitude;
        const float u = x[i], v = x[i + half];
        x[i] = u * c - v * s;
        x[i + half] = v * c + u * s;
    }
}

/* What bal_kv_write does: values beyond f16 become its largest; codes take their range from the
 * row. */
BAL_DEVICE void store_head(const bal_device_cache &c, unsigned char *tile, int row, const float *x,
                           int lane)
{
    const size_t from = (size_t)row * (size_t)c.dim;
    if (c.element == 1) {
        float top = 0.0f;
        for (int i = lane; i < c.dim; i += 32) top = fmaxf(top, fabsf(x[i]));
        const float scale = warp_max(top) / 127.0f;
        for (int i = lane; i < c.dim; i += 32)
            ((signed char *)tile)[from + i] =
                scale > 0.0f ? (signed char)__float2int_rn(x[i] / scale) : 0;
        if (lane == 0) bal_tile_scales(c, tile)[row] = scale;
        return;
    }
    for (int i = lane; i < c.dim; i += 32) {
        if (c.element == 4)
            ((float *)tile)[from + i] = x[i];
        else
            ((uint16_t *)tile)[from + i] = bal_f16(fminf(fmaxf(x[i], -65504.0f), 65504.0f));
    }
}

__global__ void __launch_bounds__(HEADS * 32) bal_k_rotate(const bal_rotate_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const bal_device_cache &c = a.cache;
    const int lane = (int)threadIdx.x % 32, row = (int)blockIdx.x;
    const int head = (int)blockIdx.y * HEADS + (int)threadIdx.x / 32;
    const int at = ((const int32_t *)a.rows.at)[row];
    if (head >= a.heads + 2 * c.heads) return;
    float *x = (float *)a.qkv + ((size_t)row * (a.heads + 2 * c.heads) + head) * (size_t)c.dim;
    if (head < a.heads + c.heads) {
        const float *norm = (const float *)(head < a.heads ? a.q_norm : a.k_norm);
        if (norm) norm_head(x, norm, a.eps, c.dim, lane);
        __syncwarp();
        rotate_head(a, x, (const int32_t *)a.rows.pos + 3 * row, lane);
        __syncwarp();
    }
    if (head < a.heads || at < 0) return;
    const int part = (head - a.heads) / c.heads, kv = (head - a.heads) % c.heads;
    store_head(c, bal_tile(c, a.rows, row, at / BAL_DEVICE_PAGE, a.layer, part, kv),
               at % BAL_DEVICE_PAGE, x, lane);
}

cudaError_t bal_cuda_rotate(const bal_rotate_args *a, bal_cuda_queue queue)
{
    const unsigned heads = (unsigned)(a->heads + 2 * a->cache.heads);
    bal_launch_shape shape = {};
    shape.grid = dim3((unsigned)a->m, (heads + HEADS - 1) / HEADS); /* only x has room for any m */
    shape.threads = HEADS * 32;
    shape.stream = queue.stream;
    shape.early = queue.early;
    return bal_launch(bal_k_rotate, shape, *a);
}
