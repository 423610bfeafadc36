/* SPDX-License-Identifier: MIT
 * The order in which gemm_tile.h reads activations; copying only, the same on every processor. */
#include <string.h>

#include "kernel/gemm_tile.h"

static void put_beside(bal_tile_unit *beside, int i, float scale, int32_t sum)
{
    beside->scale[i] = scale;
    beside->sum[i] = sum;
}

/* Units outside, so that a tile is written once from its beginning to its end. */
void bal_tile_pack_a8(uint8_t *tile, size_t units, int n, const bal_a8 *rows)
{
    bal_tile_unit *beside = (void *)(tile + units * BAL_TILE_UNIT_A8);
    for (size_t u = 0; u < units; u++) {
        for (int j = 0; j < 8; j++, tile += 4 * BAL_TILE_TOKENS)
            for (int i = 0; i < n; i++)
                memcpy(tile + 4 * i, rows[(size_t)i * units + u].q + 4 * j, 4);
        for (int i = 0; i < n; i++) {
            const bal_a8 *row = &rows[(size_t)i * units + u];
            put_beside(&beside[u], i, row->scale, row->sum);
        }
    }
}

/* Two inputs of 16 bits from their byte planes. */
static void put_pair(uint8_t *to, const bal_a16 *row, int k)
{
    const int16_t q[2] = {(int16_t)(256 * row->hi[k] + row->lo[k]),
                          (int16_t)(256 * row->hi[k + 1] + row->lo[k + 1])};
    memcpy(to, q, sizeof q);
}

void bal_tile_pack_a16(uint8_t *tile, size_t units, int n, const bal_a16 *rows)
{
    bal_tile_unit *beside = (void *)(tile + units * BAL_TILE_UNIT_A16);
    for (size_t u = 0; u < units; u++) {
        for (int k = 0; k < 32; k += 2, tile += 4 * BAL_TILE_TOKENS)
            for (int i = 0; i < n; i++) put_pair(tile + 4 * i, &rows[(size_t)i * units + u], k);
        for (int i = 0; i < n; i++) {
            const bal_a16 *row = &rows[(size_t)i * units + u];
            put_beside(&beside[u], i, row->scale, row->sum);
        }
    }
}
