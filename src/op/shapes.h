/* SPDX-License-Identifier: MIT
 * The shape table: which kernels a linear takes for a number of rows and how its work is cut, where
 * a measurement on this machine beat the rules of op/linear.c. It chooses speed only: the kernels
 * that can take each other's place are of class EXACT, and cuts go between rows and outputs, never
 * through a sum, so the bits of a result are those of the rules. Looked up once for each linear,
 * without locks or memory. Files of it: run/shapes_file.h. */
#ifndef BAL_OP_SHAPES_H
#define BAL_OP_SHAPES_H

#include <stddef.h>
#include <stdint.h>

typedef enum bal_shapes_kernel {
    BAL_SHAPES_ROWS,  /* weights are read as they lie, and rows as they come */
    BAL_SHAPES_WIDE,  /* weights of 16 bits become f32 first, a tile of outputs at a time */
    BAL_SHAPES_TILES, /* what is multiplied is put into the order of use first: kernel/gemm_tile.h,
                         of floats kernel/gemm_panel.h */
    BAL_SHAPES_KERNELS
} bal_shapes_kernel;

typedef struct bal_shapes_choice {
    uint16_t kernel; /* a bal_shapes_kernel */
    uint16_t chunk;  /* most rows that go together, 1 to bal_shapes_most_rows; where the kernel has
                        blocks of rows, up to whole ones */
    uint16_t grain;  /* work items of outputs that a thread takes at a time, at least 1 */
} bal_shapes_choice;

/* What a choice was made for. Without padding: keys are compared as bytes. */
typedef struct bal_shapes_key {
    uint32_t n, k;             /* outputs, inputs */
    uint32_t group, act_group; /* of packed weights and of their 8-bit inputs, as ids say; else 0 */
    uint8_t type;              /* bal_type */
    uint8_t kind, act;         /* bal_packed_kind and bal_act_kind of packed weights, else 0 */
    uint8_t bucket;            /* of rows */
} bal_shapes_key;

typedef struct bal_shapes_entry {
    bal_shapes_key key;
    bal_shapes_choice choice;
} bal_shapes_entry;

/* In the order of bal_shapes_order, every key once. Zeroed: empty. */
typedef struct bal_shapes {
    bal_shapes_entry *entries; /* [n] */
    size_t n;
} bal_shapes;

/* Numbers of rows that share a choice. Up to 64 rows they go by four, which a tile of twelve is
 * made of, so that no bucket holds both the rows that fill a tile and those that begin the next. */
enum { BAL_SHAPES_BUCKETS = 20 };
int bal_shapes_bucket(size_t rows); /* rows >= 1 */
/* The most rows of a bucket: 1, 4, 8, ... 64, 128, 240; 480 of the last, which has no end. */
int bal_shapes_edge(int bucket);

/* Most rows of a chunk; 0: this kernel does not multiply weights of the key's format. */
int bal_shapes_most_rows(const bal_shapes_key *key, bal_shapes_kernel kernel);

/* memcmp of the keys of two entries. */
int bal_shapes_order(const void *a, const void *b);
/* NULL: the table has nothing to say. */
const bal_shapes_choice *bal_shapes_find(const bal_shapes *t, const bal_shapes_key *key);

#endif
