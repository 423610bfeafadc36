/* SPDX-License-Identifier: MIT
 * How keys and values lie in memory: pages of 64 positions, in them one tile per layer, K or V and
 * kv head, in one of several formats. A new format is a row of the table in kv.c with its writer
 * and its reader; nothing else asks which one it is. Every format stores a position on its own, so
 * what is cached does not depend on what was cached with it. */
#ifndef BAL_OP_KV_H
#define BAL_OP_KV_H

#include "kernel/table.h"

#include "base/status.h"

enum {
    BAL_PAGE = 64,
    BAL_MAX_HEAD_DIM = 1024, /* scratch is sized for it; configs above are refused */
};

typedef enum bal_kv_type {
    BAL_KV_DEFAULT, /* F16 */
    BAL_KV_F32,     /* what the linears gave, exactly */
    BAL_KV_F16,     /* rounded half to even; finite values beyond 65504 become 65504 */
    BAL_KV_I8,      /* rint(x / s), s = max |x| / 127 in f32, per position and head */
    BAL_KV_TYPES,
} bal_kv_type;

/* "f32", "f16", "i8"; BAL_E_ARG names the known ones. */
bal_status bal_kv_type_find(bal_kv_type *out, const char *name, bal_error *err);
const char *bal_kv_type_name(bal_kv_type type); /* of DEFAULT: that of the type it stands for */

typedef enum bal_kv_part { BAL_KEYS, BAL_VALUES, BAL_KV_PARTS } bal_kv_part;

/* Where the tiles of a page are: [layers][K, V][heads], each tile on 64 bytes. */
typedef struct bal_kv_layout {
    bal_kv_type type[BAL_KV_PARTS]; /* never DEFAULT */
    int layers, heads, dim;
    size_t tile_bytes[BAL_KV_PARTS], layer_bytes, page_bytes;
} bal_kv_layout;

/* BAL_E_ARG when a page would not fit a size_t. */
bal_status bal_kv_layout_init(bal_kv_layout *l, bal_kv_type type, int layers, int heads, int dim,
                              bal_error *err);

/* Up to 64 positions of one head, keys or values: codes [64] rows of dim elements, `ld` elements
 * from row to row, and scales [64] where the format has them. */
typedef struct bal_kv_tile {
    bal_kv_type type;
    size_t ld;
    const void *codes;
    const float *scales;
} bal_kv_tile;

bal_kv_tile bal_kv_tile_at(const bal_kv_layout *l, const uint8_t *page, int layer, bal_kv_part part,
                           int head);

/* The first n rows as f32, exactly: *ld elements from row to row. `room` [64][dim] is used if the
 * tile holds something else. */
const float *bal_kv_tile_read(const bal_kernels *k, const bal_kv_tile *t, int n, int dim,
                              float *room, size_t *ld);

/* Stores position `row` (0 .. 63) of a layer; k, v [heads * dim]. A value that is not finite is
 * read back as such. */
void bal_kv_write(const bal_kv_layout *l, uint8_t *page, int layer, int row, const float *k,
                  const float *v);

/* The first n positions, all layers. */
void bal_kv_copy_rows(const bal_kv_layout *l, uint8_t *to, const uint8_t *from, int n);

#endif
