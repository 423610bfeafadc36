/* SPDX-License-Identifier: MIT
 * Grids with one f16 scale per row and an integer step per group: tables (a signed step times
 * skewed levels) and two levels (a positive step times codes around a zero point). What is chosen
 * here are scales, steps and zero points, for rows as a whole, since groups share the scale.
 * Formulas and where the levels come from: docs/numerics.md, "Grids with steps". */
#ifndef BAL_QUANT_STEPS_H
#define BAL_QUANT_STEPS_H

#include "quant/quantizer.h"

static inline bool bal_has_steps(bal_grid grid)
{
    return grid == BAL_GRID_TABLE || grid == BAL_GRID_TWO_LEVEL;
}

/* What codes mean under a row's scale and a group's stored step and zero point. */
bal_code_grid bal_steps_grid(bal_packed_kind kind, int bits, float scale, uint8_t step,
                             uint8_t zero);

/* Row r of q from w[k] without data: the scale lets the largest step reach the largest weight, each
 * group gets the step (and zero point) with the smallest squared error of those that its own range
 * suggests, codes are rounded to nearest. */
void bal_steps_quantize(const bal_quantizer *z, const float *w, bal_quantized_linear *q, size_t r);
/* The same as values: out[k], which may be w. */
void bal_steps_values(const bal_quantizer *z, const float *w, int k, float *out);

/* Scale, steps and zero points of row r minimising sum d_j (w_j - w^_j)^2: row scales from 1.1 of
 * the former down to half, each with all steps of a table or all narrower ranges of two levels; the
 * best is refitted by least squares for as long as that lowers the error. Codes are left alone. */
void bal_steps_search(const bal_quantizer *z, const float *w, const double *d,
                      bal_quantized_linear *q, size_t r);

#endif
