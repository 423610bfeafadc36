/* SPDX-License-Identifier: MIT
 * Inside quant/ only: what each token weighs in the solver's second moments (docs/numerics.md,
 * "Error feedback", key `hessian`). The solver owns one; job.h says what a block's job is. */
#ifndef BAL_QUANT_TOKENS_H
#define BAL_QUANT_TOKENS_H

#include "quant/job.h"

typedef struct bal_tokens {
    double weight[BAL_MODALITIES]; /* of a token; its mean where they differ */
    float *each;                   /* [tokens of all samples] weights where they differ, or NULL */
    int columns;                   /* of the block's parts; 0: weights go by modality */
    float *parts;                  /* [tokens of all samples][columns] before scaling */
} bal_tokens;

void bal_tokens_destroy(bal_tokens *t); /* idempotent; zeroed struct is fine */

/* Outputs of a linear with moments of their own. */
typedef struct bal_part_of_group {
    int group;
    int linear; /* of the block; -1: all of the group's together */
    int rows;   /* number of the row group, 0 where there is one */
} bal_part_of_group;

/* Whether the linears of a group need moments of their own. */
bool bal_tokens_apart(const bal_recipe *r, int group);
/* Outputs [begin, end) of row group `rows` of a linear with n outputs. */
bal_range bal_row_group(const bal_recipe *r, size_t n, int rows);
int bal_row_groups(const bal_recipe *r);

/* Collective: what single tokens weigh in the block, if the recipe asks for that: from the store of
 * gradients, or with hessian=local measured, for which j->trial must hold the float block as
 * folded, in_float and in_quant being hidden states in front of it. */
bal_status bal_tokens_create(bal_tokens *t, bal_block_job *j, const bal_store *in_float,
                             const bal_store *in_quant, bal_error *err);

/* Fills weight and each for a part; weights of all tokens sum to about 1. j->stats must be there.
 */
bal_status bal_tokens_weigh(bal_tokens *t, const bal_block_job *j, bal_part_of_group part,
                            bal_error *err);

static inline double bal_token_weight(const bal_tokens *t, const bal_block_job *j, int sample,
                                      int at)
{
    return t->each ? (double)t->each[bal_job_row0(j, sample) + (size_t)at]
                   : t->weight[j->samples->items[sample].modality[at]];
}

#endif
