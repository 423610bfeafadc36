/* SPDX-License-Identifier: MIT
 * What a request says about its next token besides sampling: penalties, biases, a mask, and which
 * log-probabilities are told. Works on a copy of the logits; holds no state of its own, so that a
 * request's tokens follow from its past alone. */
#ifndef BAL_RUN_RULES_H
#define BAL_RUN_RULES_H

#include "run/token.h"

#include "base/status.h"

typedef struct bal_logit_bias {
    int32_t id;
    float bias; /* added to the logit; -100 or less forbids the token */
} bal_logit_bias;

typedef struct bal_token_prob {
    int32_t id;
    float logprob; /* natural log */
} bal_token_prob;

/* Which tokens may come next, for grammars. `ids` are the n tokens generated so far; clear the bit
 * of every token that may not follow (bit id % 64 of allowed[id / 64]; all are set on entry, those
 * of ends of the answer included). A failure ends the request with that status and sentence; so
 * does a mask that allows nothing. */
typedef bal_status bal_mask_fn(void *ctx, const int32_t *ids, int n, uint64_t *allowed,
                               bal_error *err);

typedef struct bal_rules {
    /* 0 or 1: off. A logit of a token in prompt or answer is divided by it if positive, else
     * multiplied (Keskar et al. 2019, as transformers has it) */
    float repetition_penalty;
    /* 0: off. Subtracted once, or once for each time, from tokens of the answer (OpenAI) */
    float presence_penalty, frequency_penalty;
    const bal_logit_bias *bias; /* [n_bias] */
    int n_bias;
    bal_mask_fn *mask; /* NULL: everything is allowed */
    void *mask_ctx;
} bal_rules;

/* BAL_E_ARG names what is out of range. */
bal_status bal_rules_check(const bal_rules *r, int vocab, bal_error *err);
bool bal_rules_any(const bal_rules *r); /* false: logits stay as they are */

/* Applies them in the order penalties, biases, mask. prompt [n_prompt]: positions of pictures are
 * passed over; answer [n_answer]. bits: scratch, [bal_rules_words(vocab)]. */
bal_status bal_rules_apply(const bal_rules *r, const bal_token_info *prompt, int n_prompt,
                           const int32_t *answer, int n_answer, float *logits, int vocab,
                           uint64_t *bits, bal_error *err);
static inline size_t bal_rules_words(int vocab)
{
    return ((size_t)vocab + 63) / 64;
}

/* The n <= vocab likeliest tokens, descending, of equal ones the lowest id first. */
void bal_top_tokens(const float *logits, int vocab, int n, bal_token_prob *out);

#endif
