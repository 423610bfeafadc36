/* SPDX-License-Identifier: MIT
 * How much the answer loss cares about each modality at each sub-block output (MBQ, section 3.2;
 * constants and traps in docs/numerics.md). Forward keeping block inputs, then backward with
 * activation gradients only. */
#ifndef BAL_QUANT_SENSITIVITY_H
#define BAL_QUANT_SENSITIVITY_H

#include "model/decoder.h"
#include "quant/recipe.h"
#include "quant/sample.h"

enum { BAL_SUB_ATTN, BAL_SUB_MLP, BAL_SUBS };

typedef struct bal_sensitivity_cell {
    double g1[BAL_MODALITIES]; /* mean |g| over the modality's tokens and all channels */
    double g2[BAL_MODALITIES]; /* mean g^2 */
    double ratio;              /* g1[VISION] / g1[ANSWER], before the floor; 1 without vision */
    double weight;             /* the ratio after the floor: what the solvers use */
} bal_sensitivity_cell;

typedef struct bal_sensitivity {
    int layers;
    bal_sensitivity_cell (*cell)[BAL_SUBS]; /* [layers] */
    double loss;                            /* mean answer cross-entropy over samples, nats */
} bal_sensitivity;

/* A step of a long call finished: done of total; a non-zero return cancels (BAL_E_CANCELLED). */
typedef int bal_step_fn(void *ctx, const char *stage, long done, long total);

/* `embeds` holds the decoder input embeddings of each sample. NaN, Inf, a sample without answer
 * tokens, no vision tokens in any sample of a model that has a vision tower, and answer gradients
 * that all underflow are errors that name sample and layer. */
bal_status bal_sensitivity_run(bal_sensitivity *out, const bal_exec *e, const bal_model *m,
                               const bal_samples *samples, const bal_store *embeds,
                               const bal_recipe *recipe, bal_step_fn *step, void *step_ctx,
                               bal_error *err);
void bal_sensitivity_free(bal_sensitivity *s);

#endif
