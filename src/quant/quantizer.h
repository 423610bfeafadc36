/* SPDX-License-Identifier: MIT
 * The group quantizer: one f16 scale S and one integer zero point Z per (row, group of inputs),
 * round to nearest, ties to even. This is the definition of what every recipe rounds to; formulas
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
} bal_quantizer;

typedef struct bal_quantized_linear {
    int n, k, bits, group; /* group 0: row */
    uint8_t *codes;        /* [n][k] */
    uint16_t *scales;      /* [n][groups] f16 */
    uint8_t *zeros;        /* [n][groups] */
} bal_quantized_linear;

bal_quantizer bal_quantizer_of(const bal_recipe *r);
float bal_arith_round(bal_arith arith, float x);

/* Columns of one group and groups of one row; the last group may be shorter. */
int bal_group_size(int k, int group);
int bal_group_count(int k, int group);

/* One row w[k] -> codes [k], scales and zeros [groups]. Per group, top = 2^bits - 1:
 *   asym  S = f16(rd(max(rd(max w - min w), rd(1e-5)) / top)),
 *         Z = clamp(-rint(rd(min w / S)), 0, top)
 *   sym   S = f16(rd(max(max |w|, rd(1e-5)) / (2^(bits-1) - 1))),  Z = 2^(bits-1)
 *   q = clamp(rint(rd(w / S)) + Z, 0, top)
 * An S that vanishes in f16 becomes the smallest subnormal, one that overflows the largest f16.
 * The range is not widened to hold 0, so a one-sided group saturates (as the published code). */
void bal_quantize_row(const bal_quantizer *z, const float *w, int k, uint8_t *codes,
                      uint16_t *scales, uint8_t *zeros);

/* What the search simulates for one row: out = rd(rd((q - Z) * S) / s) with q from rd(w * s).
 * s [k]; work [k]; out may be w. */
void bal_quantize_simulate(const bal_quantizer *z, const float *w, const float *s, int k,
                           float *work, float *out);

/* (q - Z) * S of one group of plain codes, as the search for a clip needs it; no rounding. */
void bal_quantize_group(const bal_quantizer *z, const float *w, int n, float *out);

/* The candidate s for exponent index / points of the statistic m[k]:
 *   s = max(rd(rd(m)^a), rd(1e-4)); s = rd(s / rd(sqrt(rd(max s * min s)))); 0^0 = 1. */
void bal_scale_candidate(const float *m, int k, int index, int points, bal_arith arith, float *s);

bal_status bal_quantized_linear_create(bal_quantized_linear *q, int n, int k, int bits, int group,
                                       bal_error *err);
void bal_quantized_linear_free(bal_quantized_linear *q); /* idempotent; zeroed struct is fine */

/* Quantizes w [n][k] into q, which has these sizes already. Parallel over rows. */
void bal_quantize_matrix(bal_pool *pool, const bal_quantizer *z, const float *w,
                         bal_quantized_linear *q);
/* Row r as floats: ((float)(q - Z)) * S in f32. */
void bal_quantized_row(const bal_quantized_linear *q, int r, float *out);

#endif
