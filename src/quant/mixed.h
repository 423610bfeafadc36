/* SPDX-License-Identifier: MIT
 * Widths of a linear's groups of columns: some get a bit less than the linear's, as many a bit
 * more (group_bits=mixed, after SliM-LLM, arXiv 2405.14917). Chooses widths and nothing else;
 * there is no storage for them (store=float). Called by the solver, checked by test_mixed. */
#ifndef BAL_QUANT_MIXED_H
#define BAL_QUANT_MIXED_H

#include "quant/quantizer.h"

/* Sets q->widths, which must be there, for w [n][k] to those of the least
 *   sum over g of e_g(width_g),   e_g(b) = sum over rows and columns j of g of d_j (w_j - w^_j)^2,
 * w^ rounded to nearest with b bits, among widths of z->bits - 1, z->bits and z->bits + 1 with
 * z->bits as their mean; d [k] >= 0, grid asym. Of equal gains the first groups get them. A last
 * group that is shorter keeps z->bits, so that the bits are those of the linear. Parallel over
 * groups. Takes e_g to be convex in b: where a bit more would gain more than the one before, it
 * counts as that one. */
bal_status bal_mixed_widths(bal_pool *pool, const bal_quantizer *z, const float *w, const double *d,
                            bal_quantized_linear *q, bal_error *err);

#endif
