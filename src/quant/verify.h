/* SPDX-License-Identifier: MIT
 * Widths that were moved only where the whole model is the better for it. Costs of single linears
 * leave out that errors meet, and plans made of such scores alone are known to collapse; so this
 * starts from rules (rules.h), goes towards the plan that the costs bought, a batch of moves at a
 * time, and keeps a batch only where the answers' KL to the float model falls
 * (docs/numerics.md, "Widths under a budget"). */
#ifndef BAL_QUANT_VERIFY_H
#define BAL_QUANT_VERIFY_H

#include "quant/price.h"

/* p->cost must be there; p->bits and p->result become those of the plan that was kept, p->step[]
 * what was tried. Looks at the last BAL_PRICE_SAMPLES samples, which with twice as many are none of
 * those whose errors the costs are made of (gradients are of all). Runs the model once in floats
 * and once per plan, all linears rounded to nearest; memory is one block transposed and one sample,
 * on disk two hidden states a position. Step: stage "plans". */
bal_status bal_widths_verify(bal_widths_plan *p, const bal_widths_job *j, uint64_t budget,
                             bal_error *err);

#endif
