/* SPDX-License-Identifier: MIT
 * The group quantizer: one f16 scale S and one integer zero point Z per (row, group of inputs),
 * round to nearest, ties to even; or, in grids with steps, one S per row and an integer step per
 * group (steps.h). This is the definition of what every recipe rounds to; formulas
 * and their source in docs/numerics.md. Refuses nothing: callers check that weights are finite. */
#ifndef BAL_QUANT_QUANTIZER_H
#define BAL_QUANT_QUANTIZER_H

#include "base/pool.h"
#include "quant/recipe.h"

/* rd(x) below is x in f32 arithmetic and x rounded to f16 or bf16 in the other two, as if every
 * operation were done in that type. */
typedef struct bal_quantizer {
    int bits, group; /* group 0, or longer than the row: the whole row */
    bal_grid grid;
    bal_arith arith;
    bal_extent range; /* of asym */
    bool second;      /* of table: groups choose between the first table and the second */
} bal_quantizer;

/* What a file will hold (type/packed.h). */
typedef struct bal_quantized_linear {
    int n, k, bits, group; /* group 0: row */
    bal_packed_kind kind;
    uint8_t *codes;   /* [n][k] */
    uint16_t *scales; /* [n][groups] f16; [n] with steps */
    uint8_t *zeros;   /* [n][groups]; unused with a table */
    uint8_t *steps;   /* [n][groups], 16 more with the second table; NULL: kind groups */
    uint8_t *widths;  /* [groups] bits of their codes in all rows; NULL: bits */
    bool trellis;     /* codes are those of trellis.h; of kind groups, without zero points */
    int rank;         /* of what is added to the codes' weights: b a; 0: nothing */
    bool low_vision;  /* for rows of vision alone: no part of a row of weights */
    uint16_t *low_a;  /* [rank][k] f16 */
    uint16_t *low_b;  /* [n][rank] f16 */
} bal_quantized_linear;

/* A table of 2, 3 or 4 bits: its levels, and the middles between neighbours. */
typedef struct bal_levels {
    bal_packed_table table;
    float middle[15];
} bal_levels;
const bal_levels *bal_levels_of(int bits);            /* the one that files have */
const bal_levels *bal_levels_at(int bits, int table); /* 0: that; 1: the second one beside it */

/* What codes of one row and group mean: w^ = (level - z) * s. */
typedef struct bal_code_grid {
    float s, z;               /* s < 0 in tables only */
    int least, most;          /* codes that may stand here */
    const bal_levels *levels; /* NULL: a code is its own level */
} bal_code_grid;

/* Bits of the codes of group g. */
static inline int bal_quantized_width(const bal_quantized_linear *q, size_t g)
{
    return q->widths ? q->widths[g] : q->bits;
}

/* Scales of one row of q. */
int bal_quantized_scales(const bal_quantized_linear *q);
/* The grid of row r, group g. */
bal_code_grid bal_quantized_grid(const bal_quantized_linear *q, size_t r, size_t g);

static inline float bal_code_level(const bal_code_grid *g, int code)
{
    return g->levels ? (float)g->levels->table.level[code] : (float)code;
}

/* The code whose level is nearest to x, of two the lower one. */
static inline int bal_level_code(const bal_code_grid *g, float x)
{
    int code = 0;
    for (int i = 0; i < g->most; i++) code += x > g->levels->middle[i];
    return code;
}

/* The code nearest to w: rint(w / s) + z within its bounds, or the nearest level. */
static inline int bal_code_nearest(const bal_code_grid *g, float w)
{
    const float x = w / g->s;
    if (g->levels) return bal_level_code(g, x + g->z);
    /* adding and subtracting 1.5 * 2^23 rounds to nearest even where it matters (quantizer.c) */
    const float q = ((x + 0x1.8p23f) - 0x1.8p23f) + g->z;
    const float up = q > (float)g->least ? q : (float)g->least;
    return (int)(up < (float)g->most ? up : (float)g->most);
}

static inline float bal_code_value(const bal_code_grid *g, int code)
{
    return (bal_code_level(g, code) - g->z) * g->s;
}

/* What group g of row r holds beside its codes and zero point: its own scale, or its step. */
typedef struct bal_group_side {
    uint16_t scale;
    uint8_t step;
} bal_group_side;
bal_group_side bal_quantized_side(const bal_quantized_linear *q, size_t r, size_t g);
void bal_quantized_set_side(bal_quantized_linear *q, size_t r, size_t g, bal_group_side side);
/* Gives the group the scale nearest to s that it can hold with the codes it has, row scales staying
 * as they are; false, and nothing changed, where it can hold none. */
bool bal_quantized_rescale(bal_quantized_linear *q, size_t r, size_t g, float s);

bal_quantizer bal_quantizer_of(const bal_recipe *r);
float bal_arith_round(bal_arith arith, float x);

/* Columns of one group and groups of one row; the last group may be shorter. */
int bal_group_size(int k, int group);
int bal_group_count(int k, int group);

/* One row w[k] -> codes [k], scales and zeros [groups], grids asym and sym. Per group, top = 2^bits
 * - 1: asym  S = f16(rd(max(rd(max w - min w), rd(1e-5)) / top)), Z = clamp(-rint(rd(min w / S)),
 * 0, top) sym   S = f16(rd(max(max |w|, rd(1e-5)) / (2^(bits-1) - 1))),  Z = 2^(bits-1) q =
 * clamp(rint(rd(w / S)) + Z, 0, top) An S that vanishes in f16 becomes the smallest subnormal, one
 * that overflows the largest f16. min w and max w are those of the group, so that a one-sided group
 * saturates (the published code), or, with range zero, of the group and 0. */
void bal_quantize_row(const bal_quantizer *z, const float *w, int k, uint8_t *codes,
                      uint16_t *scales, uint8_t *zeros);

/* What the search simulates for one row: out = rd(rd((q - Z) * S) / s) with q from rd(w * s).
 * s [k]; work [k]; out may be w. */
void bal_quantize_simulate(const bal_quantizer *z, const float *w, const float *s, int k,
                           float *work, float *out);

/* (q - Z) * S of one group of plain codes, as the search for a clip needs it; no rounding. Grids
 * asym and sym. */
void bal_quantize_group(const bal_quantizer *z, const float *w, int n, float *out);

/* The candidate s for exponent index / points of the statistic m[k]:
 *   s = max(rd(rd(m)^a), rd(1e-4)); s = rd(s / rd(sqrt(rd(max s * min s)))); 0^0 = 1. */
void bal_scale_candidate(const float *m, int k, int index, int points, bal_arith arith, float *s);

bal_status bal_quantized_linear_create(bal_quantized_linear *q, int n, int k, int bits, int group,
                                       bal_error *err);
/* The same of any kind. */
bal_status bal_quantized_linear_make(bal_quantized_linear *q, bal_packed_format f, int n, int k,
                                     bal_error *err);
/* Of linear i of a block as the recipe says, with widths that are all alike where they may be
 * mixed. BAL_E_ARG: a trellis needs at least as many outputs as
 * a state has codes. */
bal_status bal_quantized_linear_of(bal_quantized_linear *q, const bal_recipe *r, int i, int n,
                                   int k, bal_error *err);
/* Bytes that linear i, [n][k], takes in the recipe's format, or would take where that has no
 * storage: codes; of each group scale (16 bits) and zero point (8; a trellis has none), or step (a
 * table's 4, 5 of two tables, two levels' 8) and zero point; with steps a scale (16) per row, and
 * 64 bytes of tables; 2 bits for each of a row's groups that may have other widths than the
 * linear. Padding is left out. Bits auto: those chosen for the block at hand. */
uint64_t bal_format_bytes(const bal_recipe *r, int i, int n, int k);
/* What bal_pack_parts takes; borrowed. */
bal_packed_parts bal_quantized_parts(const bal_quantized_linear *q);
/* Room for b a of that rank, zeros; a rank that is there already is kept. */
bal_status bal_quantized_linear_rank(bal_quantized_linear *q, int rank, bal_error *err);
void bal_quantized_linear_free(bal_quantized_linear *q); /* idempotent; zeroed struct is fine */

/* Quantizes w [n][k] into q, which has these sizes, and widths if any, already. Parallel over rows.
 * No trellis. */
void bal_quantize_matrix(bal_pool *pool, const bal_quantizer *z, const float *w,
                         bal_quantized_linear *q);
/* Row r as floats: ((float)(q - Z)) * S in f32, with steps (level - Z) * (S * step), of a trellis
 * level * S; row r of b a added to it where all rows of inputs get that. */
void bal_quantized_row(const bal_quantized_linear *q, int r, float *out);

#endif
