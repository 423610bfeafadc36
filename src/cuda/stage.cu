/* SPDX-License-Identifier: MIT
 * Staging. A block has a row and some of its tiles; norms are computed by every block of the row
 * anew, which is cheaper than a launch of their own. */
#include "cuda/stage.cuh"

struct bal_k_stage_args {
    bal_stage_source from;
    unsigned char *out;
    uint32_t *info;
    int rows; /* whole panels */
};

__global__ void __launch_bounds__(STAGE_THREADS) bal_k_stage(const bal_k_stage_args a)
{
    const int row = (int)blockIdx.x, warp = (int)threadIdx.x / 32, tiles = (a.from.k + 127) / 128;
    bal_grid_release();
    bal_grid_wait();
    const bal_stage_row r = stage_row(a.from, row, (float *)bal_shared());
    for (int tile = (int)blockIdx.y * STAGE_WARPS + warp; tile < tiles;
         tile += (int)gridDim.y * STAGE_WARPS) {
        float v[4];
        stage_values(a.from, r.x, r.norm, tile, v);
        const size_t panel = ((size_t)tile * a.rows + row) / 8 * 8;
        if (a.from.group < 0)
            stage_tile<BAL_STAGE_PANEL>(v, (uint16_t *)a.out + panel * 128,
                                        (float *)a.info + panel * BAL_STAGE_INFO, row % 8);
        else
            stage_byte_tile<BAL_STAGE_PANEL>(a.from, r, v, a.out + panel * 128,
                                             a.info + panel * BAL_STAGE_BYTE_INFO, row % 8);
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

bal_stage_source bal_stage_source_of(const bal_stage_job &job)
{
    bal_stage_source a = {};
    a.x = job.x;
    a.w = job.w;
    a.b = job.b;
    a.group = group_of(job.act, (size_t)job.k);
    a.ld = job.ld;
    a.kind = job.kind;
    a.k = job.k;
    a.eps = job.eps;
    a.modality = job.modality;
    a.vision_only = job.vision_only;
    a.fixed = job.act.kind == BAL_ACT_A8 && job.act.scale != BAL_ACT_DYNAMIC;
    a.of_vision = job.act.fixed[BAL_ACT_VISION];
    a.of_text = job.act.fixed[BAL_ACT_TEXT];
    return a;
}

cudaError_t bal_stage(const bal_stage_job &job, cudaStream_t s)
{
    const size_t m = (size_t)job.m, k = (size_t)job.k;
    bal_k_stage_args a = {};
    a.from = bal_stage_source_of(job);
    a.out = (unsigned char *)job.out;
    a.info = (uint32_t *)(a.out + (a.from.group < 0 ? bal_stage_info_offset(m, k)
                                                    : bal_stage_byte_info_offset(m, k)));
    a.rows = (int)bal_stage_rows(m);
    const size_t runs = (bal_stage_tiles(k) + STAGE_WARPS - 1) / STAGE_WARPS;
    const unsigned most = m < 8 ? 32 : 4; /* blocks of a row: many where there are few rows */
    const dim3 grid((unsigned)m, runs < most ? (unsigned)runs : most);
    return bal_launch(bal_k_stage, {grid, STAGE_THREADS, STAGE_WARPS * sizeof(float), s, job.early},
                      a);
}
