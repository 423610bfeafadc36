/* SPDX-License-Identifier: MIT
 * What an activation path does to the input of a linear, on floats: the searches and losses of
 * calibration see what the kernels will. Owns the rule for inputs with spikes. */
#ifndef BAL_QUANT_ACTSIM_H
#define BAL_QUANT_ACTSIM_H

#include "op/exec.h"
#include "quant/recipe.h"
#include "quant/stats.h"
#include "type/act.h"

/* The path that the recipe asks for; scales that are fixed are 0 still. */
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

/* Fixes the scales of a path that has such: clip times the largest |x| / scale of the tokens that
 * share one, over 127; scale NULL: 1. Tokens of which none was seen get the scale of the others. */
void bal_act_fix(bal_act *act, const bal_channel_stats *s, const float *scale,
                 const float clip[BAL_ACT_ROWS]);

/* x [m][k] in place becomes scale * q of kernel/quant_a8.h (the very kernel). s NULL, or [k]: x is
 * divided by s before and multiplied by it after. modality [m], read only where scales are fixed.
 * Nothing happens to x with a16, whose error is far below that of the float arithmetic here. */
void bal_act_simulate(const bal_exec *e, bal_act act, const float *s, const uint8_t *modality,
                      float *x, int m, int k);

#endif
