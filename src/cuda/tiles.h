/* SPDX-License-Identifier: MIT
 * Weights as the linear kernel reads them. Repacked at upload from what files hold (type/packed.h,
 * or float rows); this file owns what the bits mean there. It neither chooses codes nor multiplies.
 *
 * A tile is 32 rows by 128 inputs, the work of one warp, and lies in one piece, so that a load of
 * 16 bytes per lane is a whole request of 512 bytes. A lane's codes are, in order, its A fragments
 * of mma.m16n8k16 (cuda/port.cuh): no shuffle and no shared memory stand between load and product.
 *   codes  [row blocks][tiles of 128 inputs][word v < b][lane][slot] u32
 * Lane 4 g + t and slot s hold row 8 s + g of the block. Its 32 codes are 16 pairs: pair j is the
 * inputs 16 (j / 2) + 8 (j % 2) + 2 t and the one after it, the first in the low half of a word,
 * the second at the same bits of the high half. Where pair j stands in each half of the b words:
 *   b=2   word j / 8, first bit 6 4 2 0 10 8 14 12 for j % 8 = 0 .. 7
 *   b=3   j:     0   1   2   3   4   5   6   7   8   9   10  11  12  13  14
 *         word:  0   0   0   0   0   1   1   1   1   2   1   2   2   2   2
 *         bit:   7   4   13  10  1   4   7   10  13  4   1   10  7   1   13
 *         pair 15 is in the three bits 0: its lowest bit in word 2, its highest in word 0
 *   b=4   word j / 4, first bit 8 4 12 0 for j % 4 = 0 .. 3
 *   b=6   j < 12: word j / 2, first bit 4 or 10
 *         j = 12 + i: low four bits in bits 0 .. 3 of word i, the other two in bits
 *         2 (i % 2) .. of word 4 + i / 2
 *   b=8   word j / 2, bits 0 .. 7 or 8 .. 15
 *   b=16  word j: f16
 * One shift brings a pair of up to 6 bits to bits 4 .. or 6 .. of each half, where OR with an
 * exponent makes it the f16 number offset + q exactly. Even pairs share one offset and odd pairs
 * another, so two sums of the activations (cuda/stage.h) take the offsets out again. No offset
 * exceeds 64 (256 for 8 bits), which keeps what f32 sums lose to it small.
 *
 * Codes of a table lie as the byte permutation that looks up four at a time wants them, in nibbles.
 * Octet o of a lane and slot is the pairs 4 o .. 4 o + 3, of which pair 4 o + p has its first code
 * in nibble 2 p and its second in nibble 2 p + 1:
 *   b=2   octet o: the low (o even) or the high two bits of the nibbles of word o / 2
 *   b=3   octet o < 3: the low three bits of the nibbles of word o
 *         octet 3: its bit i is the highest of the nibbles of word i
 *   b=4   octet o: word o
 * A level, below 4 * 2^b, is looked up in the upper bits of a byte, the f16 number 16 * 2^b +
 * level.
 *
 *   meta, b <= 8   [row blocks][groups]: f16 scale [8 g][4 slots], u8 zero point [8 g][4 slots]
 *   meta, stepped  [row blocks]: the same with the group's step, an integer, in place of its scale;
 *                  then f32 scale [32 rows]: w = (q - zero point) * step * scale, q a table's level
 *   meta, b = 16   [row blocks]: f32 scale [32 rows], a power of two: w = f16 * scale
 * Rows and inputs that pad have code 0, scale 0 and zero point 0. */
#ifndef BAL_CUDA_TILES_H
#define BAL_CUDA_TILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    BAL_TILE_ROWS = 32,
    BAL_TILE_COLS = 128,
    BAL_TILE_GROUP_BYTES = 96, /* of meta: a group of a row block */
    BAL_TILE_SCALE_BYTES = 128 /* of meta: the scales of a row block, of f16 or stepped */
};

/* Zeroed, or filled by bal_tiles_init. */
typedef struct bal_tiles {
    int bits;     /* 2, 3, 4, 6, 8, or 16 for floats */
    bool paired;  /* rows 0 .. n / 2 - 1 (gate) share blocks with the others (up): slots 0 and 1 of
                     block i are gate rows 16 i .., slots 2 and 3 the up rows of those numbers */
    bool stepped; /* two levels of type/packed.h, or a table */
    bool table;   /* codes name levels, one table for all parts */
    uint8_t level[16]; /* of a table, times 2^(6 - bits): the upper bits of a byte */
    size_t n, k;       /* rows in all parts, inputs */
    size_t group;      /* inputs per scale as stored: 32, 64 or a multiple of 128; 0 for floats */
    size_t row_blocks, k_tiles, groups;
    size_t block_codes, block_meta; /* bytes of a row block; all sections are whole blocks */
} bal_tiles;

/* Bytes on the device of all codes and of all scales. */
static inline size_t bal_tiles_codes_bytes(const bal_tiles *t)
{
    return t->row_blocks * t->block_codes;
}

static inline size_t bal_tiles_meta_bytes(const bal_tiles *t)
{
    return t->row_blocks * t->block_meta;
}

#endif
