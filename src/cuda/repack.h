/* SPDX-License-Identifier: MIT
 * From the weights of a file to tiles (cuda/tiles.h), row block by row block, so that a caller can
 * split the work over threads and stream it through a staging buffer. Results do not depend on how
 * it is split. */
#ifndef BAL_CUDA_REPACK_H
#define BAL_CUDA_REPACK_H

#include "cuda/tiles.h"
#include "type/packed.h"
#include "type/type.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of one matrix in host memory, borrowed. */
typedef struct bal_tiles_part {
    bal_type type;          /* F32, F16, BF16, or a packed type */
    size_t n;               /* rows */
    const void *w;          /* float types: [n][k], any alignment */
    bal_packed_view packed; /* packed types */
} bal_tiles_part;

/* Parts one below the other, all of k inputs: floats of any kinds, or packed with the same bits,
 * group, kind and table. paired: two parts of equal rows, gate and up. BAL_E_UNSUP names parts that
 * do not go together, BAL_E_ARG sizes that do not fit. */
bal_status bal_tiles_init(bal_tiles *t, const bal_tiles_part *parts, int n_parts, size_t k,
                          bool paired, bal_error *err);

/* Row block `block` < t->row_blocks into codes[t->block_codes] and meta[t->block_meta], both
 * 4-byte aligned and overwritten whole. `parts` as given to init. */
void bal_tiles_write(const bal_tiles *t, const bal_tiles_part *parts, size_t block, void *codes,
                     void *meta);

#ifdef __cplusplus
}
#endif

#endif
