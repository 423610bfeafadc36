/* SPDX-License-Identifier: MIT
 * A warp expands a tile: a lane decodes its pairs into shared memory, then the warp writes whole
 * rows. */
#include "cuda/expand.h"

#include "cuda/linear.cuh"

enum { EXPAND_WARPS = 4, EXPAND_THREADS = 32 * EXPAND_WARPS };

/* A row of a tile in shared memory, in bytes: 16 more than it holds, so that columns fall into
 * different banks. */
enum { EXPAND_ROW = 256 + 16, EXPAND_TILE = 32 * EXPAND_ROW };

struct bal_k_expand_args {
    const uint32_t *codes;
    const unsigned char *meta;
    unsigned char *out;
    size_t ld; /* bytes of a row of out */
    int n, k, first_block, k_tiles, groups, group;
    int paired, bf16;
};

/* Row of the parts that row `row` of a block is, n if none. */
BAL_DEVICE int expand_row(const bal_k_expand_args &a, int block, int row)
{
    if (!a.paired) return min(block * 32 + row, a.n);
    const int r = block * 16 + row % 16;
    return r >= a.n / 2 ? a.n : row < 16 ? r : a.n / 2 + r;
}

/* Decodes the lane's share of a tile, and stores it at its place in `tile`. */
template <int bits>
BAL_DEVICE void expand_tile(const bal_k_expand_args &a, int block, int tile_index,
                            unsigned char *tile)
{
    using width = bal_width<bits>;
    const int lane = (int)(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    const uint32_t *codes =
        a.codes + ((size_t)block * a.k_tiles + tile_index) * (bits * 128) + lane * 4;
    BAL_UNROLL
    for (int slot = 0; slot < 4; slot++) {
        uint32_t w[bits];
        BAL_UNROLL
        for (int v = 0; v < bits; v++) w[v] = codes[v * 128 + slot];
        BAL_UNROLL
        for (int j = 0; j < 16; j++) {
            const int k = 8 * j + 2 * t;
            float scale, shift;
            if (bits == 16) {
                scale = ((const float *)a.meta)[block * 32 + 8 * slot + g];
                shift = 0;
            } else {
                const int group = (tile_index * 128 + k) / a.group;
                const unsigned char *meta = a.meta + ((size_t)block * a.groups + group) * 96;
                scale = bal_f16_float(((const uint16_t *)meta)[4 * g + slot]);
                shift = (float)((j % 2 ? width::odd : width::even) + (int)meta[64 + 4 * g + slot]);
            }
            const uint32_t pair = width::pair(w, j);
            const int c = tile_index * 128 + k;
            const float lo = c < a.k ? (bal_f16_float(pair) - shift) * scale : 0;
            const float hi = c + 1 < a.k ? (bal_f16_float(pair >> 16) - shift) * scale : 0;
            *(uint32_t *)(tile + (8 * slot + g) * EXPAND_ROW + 2 * k) =
                a.bf16 ? bal_bf16_pair(lo, hi) : bal_f16_pair(lo, hi);
        }
    }
}

/* blockIdx.y: row block, from the first on; blockIdx.x: tiles, 4 each. */
template <int bits>
__global__ void __launch_bounds__(EXPAND_THREADS) bal_k_expand(const bal_k_expand_args a)
{
    const int warp = (int)(threadIdx.x / 32), lane = (int)(threadIdx.x % 32);
    const int block = a.first_block + (int)blockIdx.y,
              tile_index = (int)blockIdx.x * EXPAND_WARPS + warp;
    bal_grid_release();
    bal_grid_wait();
    if (tile_index >= a.k_tiles) return;
    unsigned char *tile = bal_shared() + warp * EXPAND_TILE;
    expand_tile<bits>(a, block, tile_index, tile);
    __syncwarp();
    for (int i = lane; i < 32 * 16; i += 32) {
        const int row = expand_row(a, block, i / 16);
        if (row < a.n)
            *(uint4 *)(a.out + (size_t)row * a.ld + tile_index * 256 + i % 16 * 16) =
                *(const uint4 *)(tile + i / 16 * EXPAND_ROW + i % 16 * 16);
    }
}

cudaError_t bal_expand(const bal_linear_weight *w, size_t first, size_t n, bool bf16, void *out,
                       bool early, cudaStream_t s)
{
    const bal_tiles *t = &w->tiles;
    bal_k_expand_args a = {};
    a.codes = (const uint32_t *)w->codes;
    a.meta = (const unsigned char *)w->meta;
    a.out = (unsigned char *)out;
    a.ld = bal_expand_ld(t) * 2;
    a.n = (int)t->n;
    a.k = (int)t->k;
    a.first_block = (int)first;
    a.k_tiles = (int)t->k_tiles;
    a.groups = (int)t->groups;
    a.group = (int)t->group;
    a.paired = t->paired;
    a.bf16 = bf16;
    const dim3 grid((unsigned)((t->k_tiles + EXPAND_WARPS - 1) / EXPAND_WARPS), (unsigned)n);
    const bal_launch_shape shape = {grid, EXPAND_THREADS, EXPAND_WARPS * EXPAND_TILE, s, early};
    switch (t->bits) {
    case 2: return bal_launch(bal_k_expand<2>, shape, a);
    case 3: return bal_launch(bal_k_expand<3>, shape, a);
    case 4: return bal_launch(bal_k_expand<4>, shape, a);
    case 6: return bal_launch(bal_k_expand<6>, shape, a);
    case 8: return bal_launch(bal_k_expand<8>, shape, a);
    default: return bal_launch(bal_k_expand<16>, shape, a);
    }
}
