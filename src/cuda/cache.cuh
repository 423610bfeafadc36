/* SPDX-License-Identifier: MIT
 * Where a tile of the cache lies (device/device.h has the layout). */
#ifndef BAL_CUDA_CACHE_CUH
#define BAL_CUDA_CACHE_CUH

#include "cuda/port.cuh"
#include "device/device.h"

enum { BAL_CACHE_KEYS = 0, BAL_CACHE_VALUES = 1 };

/* Tile of `page` pages into the sequence of row `row`. */
BAL_DEVICE unsigned char *bal_tile(const bal_device_cache &c, const bal_device_rows &rows, int row,
                                   int page, int layer, int part, int head)
{
    const int32_t list = ((const int32_t *)rows.list)[row];
    const uint64_t base = ((const uint64_t *)rows.pages)[list + page];
    return (unsigned char *)base + (size_t)layer * c.layer_bytes +
           (size_t)(part * c.heads + head) * c.tile_bytes;
}

/* f32 [64] behind the codes of one byte. */
BAL_DEVICE float *bal_tile_scales(const bal_device_cache &c, unsigned char *tile)
{
    return (float *)(tile + (size_t)BAL_DEVICE_PAGE * (size_t)c.dim);
}

/* Element i of a row of a tile. */
BAL_DEVICE float bal_tile_value(const bal_device_cache &c, const unsigned char *tile, int row,
                                int i)
{
    const size_t at = (size_t)row * (size_t)c.dim + (size_t)i;
    if (c.element == 4) return ((const float *)tile)[at];
    if (c.element == 2) return bal_f16_float(((const uint16_t *)tile)[at]);
    return (float)((const signed char *)tile)[at] * bal_tile_scales(c, (unsigned char *)tile)[row];
}

/* Elements i .. i + 7 as two quads; i and dim are multiples of 8. */
struct bal_eight {
    float4 lo, hi;
};

BAL_DEVICE bal_eight bal_tile_eight(const bal_device_cache &c, const unsigned char *tile, int row,
                                    int i)
{
    const size_t at = (size_t)row * (size_t)c.dim + (size_t)i;
    bal_eight e;
    if (c.element == 4) {
        const float4 *v = (const float4 *)((const float *)tile + at);
        e.lo = v[0];
        e.hi = v[1];
    } else if (c.element == 2) {
        const uint4 v = *(const uint4 *)((const uint16_t *)tile + at);
        e.lo = make_float4(bal_f16_float(v.x), bal_f16_float(v.x >> 16), bal_f16_float(v.y),
                           bal_f16_float(v.y >> 16));
        e.hi = make_float4(bal_f16_float(v.z), bal_f16_float(v.z >> 16), bal_f16_float(v.w),
                           bal_f16_float(v.w >> 16));
    } else {
        const uint2 v = *(const uint2 *)(tile + at);
        const float s = bal_tile_scales(c, (unsigned char *)tile)[row];
        e.lo =
            make_float4(s * (float)(signed char)v.x, s * (float)(signed char)(v.x >> 8),
                        s * (float)(signed char)(v.x >> 16), s * (float)(signed char)(v.x >> 24));
        e.hi =
            make_float4(s * (float)(signed char)v.y, s * (float)(signed char)(v.y >> 8),
                        s * (float)(signed char)(v.y >> 16), s * (float)(signed char)(v.y >> 24));
    }
    return e;
}

#endif
