/* SPDX-License-Identifier: MIT
 * What the decoder's linears of a file take, as `quantize` and `demo` print it. */
#ifndef BAL_TOOLS_LINEAR_BITS_H
#define BAL_TOOLS_LINEAR_BITS_H

#include "model/model.h"
#include "quant/recipe.h"

/* Bits per weight of all linears of the decoder's blocks: packed sections whole, padding and
 * matrices of small rank counted. */
double bal_linear_bpw(bal_model *m);
/* The same of what is packed beside them; 0 where nothing is. */
double bal_side_bpw(bal_model *m, bal_side side);

#endif
