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

#endif
