/* SPDX-License-Identifier: MIT
 * What an activation path does to the input of a linear, on floats: the searches and losses of
 * calibration see what the kernels will. Owns the rule for inputs with spikes. */
#ifndef BAL_QUANT_ACTSIM_H
#define BAL_QUANT_ACTSIM_H

#include "op/exec.h"
#include "quant/recipe.h"
#include "quant/stats.h"
#include "type/act.h"

/* The path that the recipe asks for. */
bal_act bal_act_of(const bal_recipe *r);

/* Whether bytes with one scale per token lose most of an input: the step of its largest value,
 * max |x| / 127, is larger than mean |x| of some modality that was seen. */
bool bal_act_spikes(const bal_channel_stats *s);
/* Whether a few elements stand far beyond all others: max |x| of some modality that was seen is
 * more than BAL_SPIKE_RATIO times the 99.9th percentile of its |x|. The statistics must keep the
 * tail. */
enum { BAL_SPIKE_RATIO = 8 };
bool bal_act_tail(const bal_channel_stats *s);
/* The path of an input with these statistics, by the recipe's rule. */
bal_act bal_act_for(const bal_recipe *r, const bal_channel_stats *s);

/* x [m][k] in place becomes scale * q of kernel/quant_a8.h (the very kernel). s NULL, or [k]: x is
 * divided by s before and multiplied by it after. Nothing happens to x with a16, whose error is far
 * below that of the float arithmetic here. */
void bal_act_simulate(const bal_exec *e, bal_act act, const float *s, float *x, int m, int k);

#endif
