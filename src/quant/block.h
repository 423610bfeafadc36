/* SPDX-License-Identifier: MIT
 * Solves one decoder block: statistics, scale search, fold, clip, rounding. Knows nothing of files;
 * the pipeline feeds it hidden states and writes what it returns. */
#ifndef BAL_QUANT_BLOCK_H
#define BAL_QUANT_BLOCK_H

#include "quant/probe.h"
#include "quant/quantizer.h"
#include "quant/sensitivity.h"
#include "quant/stats.h"

enum { BAL_SCALE_POINTS = 20 };
/* the scale groups of a block (docs/numerics.md): consumers {q,k,v}, {o}, {gate,up}, {down} */
enum { BAL_GROUP_QKV, BAL_GROUP_O, BAL_GROUP_GATE_UP, BAL_GROUP_DOWN, BAL_GROUPS };

/* How large a group's inputs are, per modality; `rows` 0 where nothing was measured. */
typedef struct bal_input_log {
    int64_t rows[BAL_MODALITIES];
    double mean_abs[BAL_MODALITIES], max_abs[BAL_MODALITIES]; /* over rows and channels */
} bal_input_log;

/* What one step of the solver left: the balanced squared error of the residual stream behind the
 * sub-block, on the samples that judge. */
typedef struct bal_step_log {
    const char *name; /* static */
    double error;
    bool kept;
} bal_step_log;
enum { BAL_SOLVER_STEPS = 6 };

typedef struct bal_group_log {
    bal_input_log input;
    int n_steps; /* 0 without solver; step[0] is plain rounding */
    bal_step_log step[BAL_SOLVER_STEPS];
    double error; /* of the last step that was kept */
    double damp;  /* that was used */
    bool searched;
    int best;                      /* index of the chosen exponent: alpha = best / 20 */
    double loss[BAL_SCALE_POINTS]; /* loss[0] is plain rounding */
    int k;
    float *mean_abs; /* [k] the statistic m, NULL without a scale */
    float *scale;    /* [k] the chosen s, NULL without one */
} bal_group_log;

/* Output error of a sub-block against the float block on the same inputs, per modality (mean
 * squared, and mean |.|), for the report. */
typedef struct bal_sub_error {
    double mse[BAL_MODALITIES], mae[BAL_MODALITIES], ref_ms[BAL_MODALITIES];
} bal_sub_error;

typedef struct bal_block_result {
    bal_quantized_linear linear[BAL_DECODER_LINEARS]; /* q k v o gate up down, folded */
    float *bias[BAL_DECODER_LINEARS];                 /* [n] or NULL; v's is folded */
    float *attn_norm, *mlp_norm;                      /* [hidden], folded */
    bal_act act[BAL_GROUPS];                          /* how each group reads its inputs */
    bal_group_log group[BAL_GROUPS];
    bal_sub_error rtn[BAL_SUBS];   /* error of plain rounding at the same bits */
    bal_sub_error final[BAL_SUBS]; /* error of this result */
    bal_storage store;             /* how the linears are to be written */
    bool clip_undone[BAL_SUBS];    /* the clip raised the balanced error and was dropped */
} bal_block_result;

/* `layer` must be of float weights. in_float holds the block inputs of the float chain; in_quant
 * those of the quantized chain (read only when recipe->distort; may be NULL otherwise). ratio[sub]
 * is the weight of vision tokens. Streams over samples: memory holds one sample plus a few copies
 * of the block's weights. tmp_dir is where reference outputs are spilled.
 * Error: NaN or Inf in weights or activations, naming layer, tensor and position. */
bal_status bal_block_solve(bal_block_result *out, const bal_exec *e, const bal_text_config *c,
                           const bal_decoder_layer *layer, int index, const bal_samples *samples,
                           const bal_store *in_float, const bal_store *in_quant,
                           const double ratio[BAL_SUBS], const bal_recipe *recipe,
                           const char *tmp_dir, bal_step_fn *step, void *step_ctx, bal_error *err);
void bal_block_result_free(bal_block_result *r);

/* Linear i of l becomes that of `from` rounded to nearest on the recipe's grid; bits 0: as it is.
 */
void bal_block_round(bal_wide_layer *l, const bal_exec *e, const bal_decoder_layer *from, int i,
                     int bits, const bal_recipe *recipe);

/* Widths that a linear can have, and what each does to the block: the mean squared error of the
 * sub-block's output per modality when this linear alone is rounded to it, all others float. */
enum { BAL_WIDTHS = 5 };
extern const int bal_widths[BAL_WIDTHS]; /* 2 3 4 6 8 */
/* How many of them, from the narrowest on, the recipe's grid has: tables end at 4 bits. */
int bal_width_count(const bal_recipe *r);
typedef struct bal_block_price {
    /* 0 at widths that the grid has not */
    double mse[BAL_RECIPE_LINEARS][BAL_WIDTHS][BAL_MODALITIES];
    int64_t rows[BAL_MODALITIES]; /* that were looked at; a modality without weight has none */
} bal_block_price;

/* Arguments as bal_block_solve's; the recipe says group, grid, arithmetic and which tokens weigh
 * anything. */
bal_status bal_block_price_make(bal_block_price *out, const bal_exec *e, const bal_text_config *c,
                                const bal_decoder_layer *layer, int index,
                                const bal_samples *samples, const bal_store *in_float,
                                const bal_recipe *recipe, const char *tmp_dir, bal_error *err);

#endif
