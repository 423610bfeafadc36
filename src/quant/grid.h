/* SPDX-License-Identifier: MIT
 * Ranges for solvers: which scale and zero point every group of a row gets, before any code is
 * chosen. The grid stays as quantizer.h defines it; only its ends are searched. */
#ifndef BAL_QUANT_GRID_H
#define BAL_QUANT_GRID_H

#include "quant/quantizer.h"

/* Scales and zero points of q (sizes set) for w [n][k], minimising sum d_j (w_j - w^_j)^2 in each
 * group, d [k] >= 0. Tried are the range itself and narrower ones, S = c S0 for c = 1, 0.975 ..
 * 0.25, with every Z for up to 3 bits and those within 2 of -min / S beyond; the best is then
 * refitted by least squares for as long as that lowers the error. Grids with steps: steps.h. Codes
 * of q become round to nearest on that grid. Arithmetic is f32 whatever z->arith says. Parallel
 * over rows. */
void bal_grid_search(bal_pool *pool, const bal_quantizer *z, const float *w, const double *d,
                     bal_quantized_linear *q);

/* Codes of w [n][k] by rounding to nearest on the scales and zero points that q has. */
void bal_grid_round(bal_pool *pool, const float *w, bal_quantized_linear *q);

#endif
