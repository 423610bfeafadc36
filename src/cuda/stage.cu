/* SPDX-License-Identifier: MIT
 * Staging. A block has a row and some of its tiles; a warp stages a tile at a time. Norms are
 * computed by every block of the row anew, which is cheaper than a launch of their own. */
#include "cuda/stage_op.h"

#include "cuda/stage.cuh"

enum { STAGE_THREADS = 256, STAGE_WARPS = STAGE_THREADS / 32 };

struct bal_k_stage_args {
    const float *x, *w, *b;
    unsigned char *out;
    uint32_t *info;
    size_t ld;
    int kind, rows, k; /* rows: whole panels */
    int group;         /* of 8-bit activations: -1 none, 0 the row, else 32, 64 or 128 */
    float eps;
    const int32_t *modality;
    bool vision_only;
    bool fixed; /* group is 0, and scales are those of vision and of all other rows: */
    float of_vision, of_text;
};

/* The larger of two magnitudes; a NaN wins. */
BAL_DEVICE float stage_larger(float a, float b)
{
    return b > a || b != b ? b : a;
}

/* Sum over the block, in every thread; the order depends on the number of threads only. */
BAL_DEVICE float stage_block_sum(float v)
{
    float *shared = (float *)bal_shared();
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

BAL_DEVICE bal_stage_norm stage_norm(const bal_k_stage_args &a, const float *x)
{
    bal_stage_norm n = {0, 1};
    if (!x || (a.kind != BAL_STAGED_RMS && a.kind != BAL_STAGED_LAYER)) return n;
    if (a.kind == BAL_STAGED_LAYER) {
        float sum = 0;
        for (int c = (int)threadIdx.x; c < a.k; c += STAGE_THREADS) sum += x[c];
        n.mean = stage_block_sum(sum) / (float)a.k;
    }
    float squares = 0;
    for (int c = (int)threadIdx.x; c < a.k; c += STAGE_THREADS)
        squares = fmaf(x[c] - n.mean, x[c] - n.mean, squares);
    n.factor = 1 / sqrtf(stage_block_sum(squares) / (float)a.k + a.eps);
    return n;
}

/* The lane's four inputs of a tile; 0 beyond k. x: NULL for a row of zeros. */
BAL_DEVICE void stage_values(const bal_k_stage_args &a, const float *x, bal_stage_norm n, int tile,
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
BAL_DEVICE float stage_row_most(const bal_k_stage_args &a, const float *x, bal_stage_norm n)
{
    float *shared = (float *)bal_shared(), most = 0;
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

__global__ void __launch_bounds__(STAGE_THREADS) bal_k_stage(const bal_k_stage_args a)
{
    const int row = (int)blockIdx.x, warp = (int)threadIdx.x / 32, tiles = (a.k + 127) / 128;
    bal_grid_release();
    bal_grid_wait();
    const bool vision = a.modality && a.modality[row] == BAL_VISION;
    const float *x = vision || !a.vision_only ? a.x + (size_t)row * a.ld : nullptr;
    const bal_stage_norm n = stage_norm(a, x);
    const float row_most = a.group == 0 ? stage_row_most(a, x, n) : 0;
    for (int tile = (int)blockIdx.y * STAGE_WARPS + warp; tile < tiles;
         tile += (int)gridDim.y * STAGE_WARPS) {
        float v[4];
        stage_values(a, x, n, tile, v);
        const size_t panel = ((size_t)tile * a.rows + row) / 8 * 8;
        const float most = stage_most(v);
        if (a.group < 0) {
            const float scale = stage_scaled(v, stage_group_most(most, 128));
            bal_stage_tile((uint16_t *)a.out + panel * 128,
                           (float *)a.info + panel * BAL_STAGE_INFO, row % 8, v, scale);
        } else {
            const float scale =
                a.fixed ? stage_fixed_bytes(v, row_most, vision ? a.of_vision : a.of_text)
                        : stage_bytes(v, a.group == 0 ? row_most : stage_group_most(most, a.group));
            bal_stage_byte_tile(a.out + panel * 128, a.info + panel * BAL_STAGE_BYTE_INFO, row % 8,
                                v, scale);
        }
    }
}

/* The group of 8-bit activations as the kernel counts it, -2 if it cannot. */
static int group_of(bal_act act, size_t k)
{
    if (act.kind == BAL_ACT_A16) return -1;
    if (act.group == 0 || act.group >= k) return 0;
    return act.group == 32 || act.group == 64 || act.group == 128 ? (int)act.group : -2;
}

bool bal_stage_can(bal_act act, size_t k)
{
    return group_of(act, k) != -2;
}

cudaError_t bal_stage(const bal_stage_job &job, cudaStream_t s)
{
    const size_t m = (size_t)job.m, k = (size_t)job.k;
    bal_k_stage_args a = {};
    a.x = job.x;
    a.w = job.w;
    a.b = job.b;
    a.group = group_of(job.act, k);
    a.out = (unsigned char *)job.out;
    a.info = (uint32_t *)(a.out + (a.group < 0 ? bal_stage_info_offset(m, k)
                                               : bal_stage_byte_info_offset(m, k)));
    a.ld = job.ld;
    a.kind = job.kind;
    a.rows = (int)bal_stage_rows(m);
    a.k = job.k;
    a.eps = job.eps;
    a.modality = job.modality;
    a.vision_only = job.vision_only;
    a.fixed = job.act.kind == BAL_ACT_A8 && job.act.scale != BAL_ACT_DYNAMIC;
    a.of_vision = job.act.fixed[BAL_ACT_VISION];
    a.of_text = job.act.fixed[BAL_ACT_TEXT];
    const size_t runs = (bal_stage_tiles(k) + STAGE_WARPS - 1) / STAGE_WARPS;
    const unsigned most = m < 8 ? 32 : 4; /* blocks of a row: many where there are few rows */
    const dim3 grid((unsigned)m, runs < most ? (unsigned)runs : most);
    return bal_launch(bal_k_stage, {grid, STAGE_THREADS, STAGE_WARPS * sizeof(float), s, job.early},
                      a);
}
