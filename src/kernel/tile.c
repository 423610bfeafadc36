/* SPDX-License-Identifier: MIT
 * The order in which gemm_tile.h reads activations; copying only, the same on every processor. */
#include <string.h>

#include "kernel/gemm_tile.h"

/* Four bytes of each quad of one unit. */
static void put_quads(uint8_t *unit, int i, const int8_t q[32])
{
    for (int j = 0; j < 8; j++) memcpy(unit + 4 * (BAL_TILE_TOKENS * j + i), q + 4 * j, 4);
}

static void put_pairs(uint8_t *unit, int i, const bal_a16 *row)
{
    for (int k = 0; k < 32; k++) {
        const int16_t q = (int16_t)(256 * row->hi[k] + row->lo[k]);
        memcpy(unit + 4 * (BAL_TILE_TOKENS * (k / 2) + i) + 2 * (k % 2), &q, 2);
    }
}

static void put_beside(uint8_t *beside, size_t u, int i, float scale, int32_t sum)
{
    uint8_t *at = beside + u * sizeof(bal_tile_unit) + 4 * (size_t)i;
    memcpy(at + offsetof(bal_tile_unit, scale), &scale, 4);
    memcpy(at + offsetof(bal_tile_unit, sum), &sum, 4);
}

void bal_tile_put_a8(uint8_t *tile, size_t units, int i, const bal_a8 *row)
{
    uint8_t *beside = tile + units * BAL_TILE_UNIT_A8;
    for (size_t u = 0; u < units; u++) {
        put_quads(tile + u * BAL_TILE_UNIT_A8, i, row[u].q);
        put_beside(beside, u, i, row[u].scale, row[u].sum);
    }
}

void bal_tile_put_a16(uint8_t *tile, size_t units, int i, const bal_a16 *row)
{
    uint8_t *beside = tile + units * BAL_TILE_UNIT_A16;
    for (size_t u = 0; u < units; u++) {
        put_pairs(tile + u * BAL_TILE_UNIT_A16, i, &row[u]);
        put_beside(beside, u, i, row[u].scale, row[u].sum);
    }
}
