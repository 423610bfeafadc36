/* SPDX-License-Identifier: MIT */
#include "op/shapes.h"

#include "base/size.h"
#include "op/exec.h"
#include "type/act.h"
#include "type/packed.h"
#include "type/type.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { FINE = 4, LAST_FINE = 16, FINE_ROWS = FINE * LAST_FINE };
static const uint16_t coarse[] = {128, BAL_TILE_CHUNK, 2 * BAL_TILE_CHUNK};

static_assert(sizeof(bal_shapes_key) == 4 * sizeof(uint32_t) + 4, "keys have no padding");
static_assert(1 + LAST_FINE + sizeof coarse / sizeof *coarse == BAL_SHAPES_BUCKETS, "");
static_assert(BAL_TILE_TOKENS % FINE == 0, "a bucket lies within one tile");

int bal_shapes_bucket(size_t rows)
{
    if (rows <= 1) return 0;
    if (rows <= FINE_ROWS) return (int)bal_ceil_div(rows, FINE);
    return LAST_FINE + (rows <= coarse[0] ? 1 : rows <= coarse[1] ? 2 : 3);
}

int bal_shapes_edge(int bucket)
{
    if (bucket == 0) return 1;
    return bucket <= LAST_FINE ? FINE * bucket : coarse[bucket - LAST_FINE - 1];
}

int bal_shapes_most_rows(const bal_shapes_key *key, bal_shapes_kernel kernel)
{
    const bool packed = bal_type_get(key->type)->packed;
    const bool bytes_of_two = key->act == BAL_ACT_A8 && key->kind == BAL_PACKED_TWO_LEVEL;
    if (kernel == BAL_SHAPES_ROWS) return BAL_ROW_CHUNK;
    if (kernel == BAL_SHAPES_WIDE) return packed || key->type == BAL_TYPE_F32 ? 0 : BAL_ROW_CHUNK;
    if (!packed) return BAL_FLOAT_CHUNK;
    return bytes_of_two ? 0 : BAL_TILE_CHUNK;
}

int bal_shapes_order(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(bal_shapes_key));
}

const bal_shapes_choice *bal_shapes_find(const bal_shapes *t, const bal_shapes_key *key)
{
    if (!t || t->n == 0) return NULL;
    const bal_shapes_entry *e =
        bsearch(key, t->entries, t->n, sizeof *t->entries, bal_shapes_order);
    return e ? &e->choice : NULL;
}
