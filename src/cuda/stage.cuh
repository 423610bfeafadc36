/* SPDX-License-Identifier: MIT
 * How rows are staged (layout: cuda/stage.h): a block finds what a norm takes off, its warps go
 * tile by tile. For the kernel that stages, and for the linear kernel, which stages a single row
 * itself.
 */
#ifndef BAL_CUDA_STAGE_CUH
#define BAL_CUDA_STAGE_CUH

#include "cuda/port.cuh"
#include "cuda/stage_op.h"

enum { STAGE_THREADS = 256, STAGE_WARPS = STAGE_THREADS / 32 }; /* of a block that stages */

/* The power of two for a tile whose largest |x| is `most`. Its inverse is exact. */
BAL_DEVICE float bal_stage_power(float most)
{
    const uint32_t e = __float_as_uint(most) >> 23 & 255;
    return __uint_as_float((e > 14 ? e - 14 : 1) << 23);
}

/* Writes one row's tile; all lanes take part. Lane l holds inputs 4 l .. 4 l + 3 of the tile,
 * already divided by `scale`. halves, info: of a panel of `rows`, where row `row` goes. */
template <int rows>
BAL_DEVICE void bal_stage_tile(uint16_t *halves, float *info, int row, const float v[4],
                               float scale)
{
    const int lane = (int)(threadIdx.x % 32);
    const uint32_t p0 = bal_f16_pair(v[0], v[1]), p1 = bal_f16_pair(v[2], v[3]);
    const int at = (lane / 8 * rows + row) * 32 + lane % 2 * 16 + lane / 2 % 4 * 2;
    *(uint32_t *)(halves + at) = p0;
    *(uint32_t *)(halves + at + 8) = p1;
    float sum =
        bal_f16_float(p0) + bal_f16_float(p0 >> 16) + bal_f16_float(p1) + bal_f16_float(p1 >> 16);
    sum += __shfl_xor_sync(BAL_WARP, sum, 1); /* 8 inputs: lanes 0-1 even, 2-3 odd, ... */
    sum += __shfl_xor_sync(BAL_WARP, sum, 4);
    const float unit = sum;
    sum += __shfl_xor_sync(BAL_WARP, sum, 8);
    sum += __shfl_xor_sync(BAL_WARP, sum, 16);
    /* lanes 8 u and 8 u + 2 hold the sums of unit u; the first 16 lanes write */
    const int source = lane < 4 ? 0 : (lane - 4) / 2 % 4 * 8 + lane % 2 * 2;
    const float of_unit = __shfl_sync(BAL_WARP, unit, source);
    const float of_tile = __shfl_sync(BAL_WARP, sum, lane == 2 ? 2 : 0);
    float out = lane < 12 ? of_unit : 0;
    if (lane < 4) out = lane == 0 ? scale : lane < 3 ? of_tile : 0;
    if (lane < 16) info[lane * rows + row] = out;
}

/* The same for 8-bit activations: v holds integers, `scale` is that of the lane's unit. */
template <int rows>
BAL_DEVICE void bal_stage_byte_tile(unsigned char *bytes, uint32_t *info, int row, const float v[4],
                                    float scale)
{
    const int lane = (int)(threadIdx.x % 32), unit = lane / 8, run = lane / 2 % 4;
    uint32_t own = 0;
    int sum = 0;
    BAL_UNROLL
    for (int i = 0; i < 4; i++) {
        const int q = __float2int_rn(v[i]);
        own |= ((uint32_t)q & 255) << 8 * i;
        sum += q;
    }
    /* two lanes have the runs of two words, and make one of them each */
    const uint32_t other = __shfl_xor_sync(BAL_WARP, own, 6);
    const uint32_t word = __byte_perm(own, other, run % 2 ? 0x5140u : 0x3726u);
    const int t = lane % 2 * 2 + (run % 2 ? 0 : 1);
    bytes += (unit / 2 * rows + row) * 64;
    *(uint32_t *)(bytes + t * 16 + unit % 2 * 8 + (run + 1) / 2 % 2 * 4) = word;
    BAL_UNROLL
    for (int bit = 1; bit < 8; bit *= 2) sum += __shfl_xor_sync(BAL_WARP, sum, bit);
    if (lane % 8 == 0) {
        info[unit * rows + row] = __float_as_uint(scale);
        info[(4 + unit) * rows + row] = (uint32_t)sum;
    }
}

/* The larger of two magnitudes; a NaN wins. */
BAL_DEVICE float stage_larger(float a, float b)
{
    return b > a || b != b ? b : a;
}

/* Sum over the block, in every thread; the order depends on the number of threads only. shared:
 * STAGE_WARPS words, here and below. */
BAL_DEVICE float stage_block_sum(float v, float *shared)
{
    BAL_UNROLL
    for (int bit = 16; bit; bit /= 2) v += __shfl_xor_sync(BAL_WARP, v, bit);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < STAGE_WARPS; w++) sum += shared[w];
    return sum;
}

/* What a norm subtracts and multiplies by. */
struct bal_stage_norm {
    float mean, factor;
};

/* A thread's part of the sum of (x - mean), or of its squares. Loads go together, eight at a time.
 */
BAL_DEVICE float stage_thread_sum(const float *x, int k, float mean, bool squares)
{
    constexpr int together = 8;
    float sum = 0;
    for (int from = (int)threadIdx.x; from < k; from += together * STAGE_THREADS) {
        float v[together];
        BAL_UNROLL
        for (int i = 0; i < together; i++) {
            const int c = from + i * STAGE_THREADS;
            v[i] = c < k ? x[c] : mean;
        }
        BAL_UNROLL
        for (int i = 0; i < together; i++)
            sum = fmaf(v[i] - mean, squares ? v[i] - mean : 1.0f, sum);
    }
    return sum;
}

BAL_DEVICE bal_stage_norm stage_norm(const bal_stage_source &a, const float *x, float *shared)
{
    bal_stage_norm n = {0, 1};
    if (!x || (a.kind != BAL_STAGED_RMS && a.kind != BAL_STAGED_LAYER)) return n;
    if (a.kind == BAL_STAGED_LAYER)
        n.mean = stage_block_sum(stage_thread_sum(x, a.k, 0, false), shared) / (float)a.k;
    const float squares = stage_block_sum(stage_thread_sum(x, a.k, n.mean, true), shared);
    n.factor = 1 / sqrtf(squares / (float)a.k + a.eps);
    return n;
}

/* The lane's four inputs of a tile; 0 beyond k. x: NULL for a row of zeros. */
BAL_DEVICE void stage_values(const bal_stage_source &a, const float *x, bal_stage_norm n, int tile,
                             float v[4])
{
    BAL_UNROLL
    for (int i = 0; i < 4; i++) {
        const int c = tile * 128 + (int)(threadIdx.x % 32) * 4 + i;
        v[i] = 0;
        if (c >= a.k || !x) continue;
        v[i] = x[c];
        if (a.kind == BAL_STAGED_SILU) v[i] = v[i] / (1 + __expf(-v[i])) * x[a.k + c];
        if (a.kind == BAL_STAGED_RMS || a.kind == BAL_STAGED_LAYER)
            v[i] = (v[i] - n.mean) * n.factor * a.w[c];
        if (a.kind == BAL_STAGED_LAYER && a.b) v[i] += a.b[c];
    }
}

BAL_DEVICE float stage_most(const float v[4])
{
    float most = fabsf(v[0]);
    BAL_UNROLL
    for (int i = 1; i < 4; i++) most = stage_larger(most, fabsf(v[i]));
    return most;
}

/* The largest of the lanes that share a group of n inputs, 4 a lane. */
BAL_DEVICE float stage_group_most(float most, int n)
{
    BAL_UNROLL
    for (int bit = 16; bit; bit /= 2) {
        const float other = __shfl_xor_sync(BAL_WARP, most, bit);
        if (4 * bit < n) most = stage_larger(most, other);
    }
    return most;
}

/* The largest of a row, in every thread. */
BAL_DEVICE float stage_row_most(const bal_stage_source &a, const float *x, bal_stage_norm n,
                                float *shared)
{
    float most = 0;
    for (int tile = (int)threadIdx.x / 32; tile * 128 < a.k; tile += STAGE_WARPS) {
        float v[4];
        stage_values(a, x, n, tile, v);
        most = stage_larger(most, stage_most(v));
    }
    most = stage_group_most(most, 128);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = most;
    __syncthreads();
    for (int w = 0; w < STAGE_WARPS; w++) most = stage_larger(most, shared[w]);
    return most;
}

/* v becomes the integers of 8-bit activations, as kernel/quant_a8.h has them; returns their scale.
 */
BAL_DEVICE float stage_bytes(float v[4], float most)
{
    const bool finite = most <= 3.402823466e38f, some = finite && most >= 0x1p-100f;
    const float by = some ? 127 / most : 0;
    BAL_UNROLL
    for (int i = 0; i < 4; i++) v[i] = some ? rintf(v[i] * by) : 0;
    return finite ? (some ? most / 127 : 0) : __uint_as_float(0x7fc00000u);
}

/* The same with a scale that was fixed before, where what is beyond it saturates. most: of the row.
 */
BAL_DEVICE float stage_fixed_bytes(float v[4], float most, float scale)
{
    const bool finite = most <= 3.402823466e38f, some = finite && scale >= 0x1p-100f;
    const float by = 1 / scale;
    BAL_UNROLL
    for (int i = 0; i < 4; i++) v[i] = some ? rintf(fminf(fmaxf(v[i] * by, -127), 127)) : 0;
    return finite ? (some ? scale : 0) : __uint_as_float(0x7fc00000u);
}

/* Divides v by a power of two, which it returns. */
BAL_DEVICE float stage_scaled(float v[4], float most)
{
    const float power = bal_stage_power(most), inverse = 1 / power;
    BAL_UNROLL
    for (int i = 0; i < 4; i++) v[i] *= inverse;
    return power;
}

/* A row to stage: x NULL for one of zeros, what a norm does, and of 8-bit activations with one
 * scale for the row its largest and its fixed scale. */
struct bal_stage_row {
    const float *x;
    bal_stage_norm norm;
    float most, fixed;
};

/* By a whole block. */
BAL_DEVICE bal_stage_row stage_row(const bal_stage_source &a, int row, float *shared)
{
    const bool vision = a.modality && a.modality[row] == BAL_VISION;
    bal_stage_row r;
    r.x = vision || !a.vision_only ? a.x + (size_t)row * a.ld : nullptr;
    r.norm = stage_norm(a, r.x, shared);
    r.most = a.group == 0 ? stage_row_most(a, r.x, r.norm, shared) : 0;
    r.fixed = vision ? a.of_vision : a.of_text;
    return r;
}

/* The lane's inputs of a tile into the row's place of a panel, by a warp. */
template <int rows> BAL_DEVICE void stage_tile(float v[4], uint16_t *halves, float *info, int row)
{
    const float scale = stage_scaled(v, stage_group_most(stage_most(v), 128));
    bal_stage_tile<rows>(halves, info, row, v, scale);
}

template <int rows>
BAL_DEVICE void stage_byte_tile(const bal_stage_source &a, const bal_stage_row &r, float v[4],
                                unsigned char *bytes, uint32_t *info, int row)
{
    const float scale =
        a.fixed ? stage_fixed_bytes(v, r.most, r.fixed)
                : stage_bytes(v, a.group == 0 ? r.most : stage_group_most(stage_most(v), a.group));
    bal_stage_byte_tile<rows>(bytes, info, row, v, scale);
}

#endif
