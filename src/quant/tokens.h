/* SPDX-License-Identifier: MIT
 * Inside quant/ only: what each token weighs in the solver's second moments (docs/numerics.md,
 * "Error feedback", key `hessian`). The solver owns one; job.h says what a block's job is. */
#ifndef BAL_QUANT_TOKENS_H
#define BAL_QUANT_TOKENS_H

#include "quant/job.h"

enum { BAL_LOCAL_LINEARS = 4 }; /* q, k, v, o */

typedef struct bal_tokens {
    double weight[BAL_MODALITIES]; /* of a token; its mean where they differ */
    float *each;                   /* [tokens of all samples] weights where they differ, or NULL */
    /* [tokens of all samples][BAL_LOCAL_LINEARS], with hessian=local: the square of the mean
     * absolute gradient of the block's own loss at the linear's outputs */
    float *local;
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

/* Fills weight and each for a part; weights of all tokens sum to about 1. j->stats must be there,
 * and what the recipe's `hessian` reads. */
bal_status bal_tokens_weigh(bal_tokens *t, const bal_block_job *j, bal_part_of_group part,
                            bal_error *err);

/* Collective: fills `local`. j->trial must hold the float block as folded; in_float and in_quant
 * are hidden states in front of it. */
bal_status bal_tokens_local(bal_tokens *t, bal_block_job *j, const bal_store *in_float,
                            const bal_store *in_quant, bal_error *err);

static inline double bal_token_weight(const bal_tokens *t, const bal_block_job *j, int sample,
                                      int at)
{
    return t->each ? (double)t->each[bal_job_row0(j, sample) + (size_t)at]
                   : t->weight[j->samples->items[sample].modality[at]];
}

#endif
