/* SPDX-License-Identifier: MIT
 * How a warp stages a tile of one row (layout: cuda/stage.h), for kernels that produce activations.
 */
#ifndef BAL_CUDA_STAGE_CUH
#define BAL_CUDA_STAGE_CUH

#include "cuda/port.cuh"
#include "cuda/stage.h"

/* The power of two for a tile whose largest |x| is `most`. Its inverse is exact. */
BAL_DEVICE float bal_stage_power(float most)
{
    const uint32_t e = __float_as_uint(most) >> 23 & 255;
    return __uint_as_float((e > 14 ? e - 14 : 1) << 23);
}

/* Writes one row's tile; all lanes take part. Lane l holds inputs 4 l .. 4 l + 3 of the tile,
 * already divided by `scale`. halves, info: of the panel, where row `row` < 8 of it goes. */
BAL_DEVICE void bal_stage_tile(uint16_t *halves, float *info, int row, const float v[4],
                               float scale)
{
    const int lane = (int)(threadIdx.x % 32);
    const uint32_t p0 = bal_f16_pair(v[0], v[1]), p1 = bal_f16_pair(v[2], v[3]);
    const int at = lane / 8 * 256 + row * 32 + lane % 2 * 16 + lane / 2 % 4 * 2;
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
    if (lane < 16) info[lane * BAL_STAGE_PANEL + row] = out;
}

/* The same for 8-bit activations: v holds integers, `scale` is that of the lane's unit. */
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
    bytes += unit / 2 * 512 + row * 64;
    *(uint32_t *)(bytes + t * 16 + unit % 2 * 8 + (run + 1) / 2 % 2 * 4) = word;
    BAL_UNROLL
    for (int bit = 1; bit < 8; bit *= 2) sum += __shfl_xor_sync(BAL_WARP, sum, bit);
    if (lane % 8 == 0) {
        info[unit * BAL_STAGE_PANEL + row] = __float_as_uint(scale);
        info[(4 + unit) * BAL_STAGE_PANEL + row] = (uint32_t)sum;
    }
}

#endif
