/* SPDX-License-Identifier: MIT
 * What bits cost where: for every linear of the decoder and every width, how much the answer loss
 * is expected to rise, and the widths that an allocator (allocate.h) buys for a budget. The formula
 * stands in docs/numerics.md, "Widths under a budget". Knows no files; the pipeline keeps what it
 * returns. */
#ifndef BAL_QUANT_PRICE_H
#define BAL_QUANT_PRICE_H

#include "quant/block.h"
#include "quant/rules.h"

#include <jansson.h>

enum { BAL_PRICE_SAMPLES = 32 }; /* that are looked at, at most */

/* A plan that was run from end to end (verify.h). */
typedef struct bal_widths_step {
    double kl; /* of its answers to those of the float model, nats per answer token */
    uint64_t n_bytes;
    bool kept;
} bal_widths_step;
enum { BAL_WIDTHS_STEPS = BAL_MOVE_BATCHES + 2 };

typedef struct bal_widths_plan {
    int layers, widths;                             /* the first so many of bal_widths */
    double (*cost)[BAL_RECIPE_LINEARS][BAL_WIDTHS]; /* [layers] nats per answer token */
    bool priced;                                    /* cost is there */
    bal_linear_bits *bits;                          /* [layers]; all 0 until bought */
    bal_alloc_result result;
    bal_widths_step step[BAL_WIDTHS_STEPS]; /* with allocate=verified */
    int n_steps;
} bal_widths_plan;

/* What measuring a plan takes, all of it borrowed. */
typedef struct bal_widths_job {
    const bal_exec *e;
    const bal_model *m;
    const bal_samples *samples;
    const bal_store *embeds; /* the decoder's inputs, of all samples */
    const bal_recipe *recipe;
    const char *tmp_dir;
    bal_step_fn *step;
    void *step_ctx;
} bal_widths_job;

bal_status bal_widths_create(bal_widths_plan *p, int layers, const bal_recipe *recipe,
                             bal_error *err);
void bal_widths_free(bal_widths_plan *p); /* idempotent; zeroed struct is fine */

/* Measures cost: the float model on the first BAL_PRICE_SAMPLES samples, block by block, memory
 * and disk as for solving them. step: stage "widths", blocks done. */
bal_status bal_widths_measure(bal_widths_plan *p, const bal_widths_job *j,
                              const bal_sensitivity *sensitivity, bal_error *err);

/* Bytes of all linears of the decoder at their narrowest and at their widest. */
bal_status bal_widths_range(uint64_t *least, uint64_t *most, const bal_model *m,
                            const bal_recipe *recipe, bal_error *err);

/* What an allocator is asked: option[] is the caller's to free. */
bal_status bal_widths_problem(bal_alloc_problem *out, const bal_widths_plan *p, const bal_model *m,
                              const bal_recipe *recipe, uint64_t budget, bal_error *err);
void bal_widths_set(bal_widths_plan *p, const int *choice); /* bits of every linear */

/* Chooses bits so that the packed linears take at most `budget` bytes: by cost, which must be
 * there, or with allocate=rules by rules. */
bal_status bal_widths_buy(bal_widths_plan *p, const bal_model *m, const bal_recipe *recipe,
                          uint64_t budget, bal_error *err);

/* {"bits": [[7 per layer]], "bytes"}, where costs were measured "cost", "bound", "proved", "costs":
 * [[[widths] 7]], where plans were run "plans": [{"kl", "bytes", "kept"}]; and back,
 * from a file that others may have written to: layers must agree and every width be one that the
 * recipe's grid has.
 * NULL when memory is short. */
json_t *bal_widths_to_json(const bal_widths_plan *p);
bal_status bal_widths_read(bal_widths_plan *p, const char *path, int layers,
                           const bal_recipe *recipe, bal_error *err);

#endif
