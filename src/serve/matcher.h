/* SPDX-License-Identifier: MIT
 * A grammar against a vocabulary: which tokens may come next. States of the network are sets of
 * (node, stack of returns); both are interned, so that a state is a number and its moves and its
 * mask are computed once. What is kept is bounded: beyond that it is thrown away between tokens. */
#ifndef BAL_SERVE_MATCHER_H
#define BAL_SERVE_MATCHER_H

#include "run/scheduler.h"
#include "serve/grammar.h"

/* The vocabulary sorted by bytes, so that tokens with the same beginning walk it once. Immutable;
 * shared by matchers. The tokenizer is borrowed. */
typedef struct bal_vocab {
    const bal_tokenizer *tokenizer;
    int n_ids;      /* of the model: ids are below it */
    int32_t *order; /* [n_order] tokens with bytes, sorted by them */
    uint16_t *same; /* [n_order] leading bytes each has in common with the one before */
    size_t n_order, longest;
    int32_t ends[BAL_MAX_EOS + 1]; /* tokens that end an answer */
    int n_ends;
} bal_vocab;

/* n_ids: rows of the model's head. ends: at most BAL_MAX_EOS + 1 of them. */
bal_status bal_vocab_create(bal_vocab *v, const bal_tokenizer *tokenizer, int n_ids,
                            const int32_t *ends, int n_ends, bal_error *err);
void bal_vocab_destroy(bal_vocab *v); /* idempotent */

typedef struct bal_matcher bal_matcher;

/* At the grammar's start; grammar and vocabulary must outlive it. One thread at a time. */
bal_status bal_matcher_create(bal_matcher **out, const bal_grammar *g, const bal_vocab *v,
                              bal_error *err);
void bal_matcher_destroy(bal_matcher *m); /* NULL is fine */

/* Goes on by n bytes. *fits: whether the grammar lets them through; if not, the matcher stays
 * where it was. */
bal_status bal_matcher_push(bal_matcher *m, const char *bytes, size_t n, bool *fits,
                            bal_error *err);
/* Whether the text so far is complete. */
bool bal_matcher_complete(const bal_matcher *m);
void bal_matcher_reset(bal_matcher *m);

/* The mask of a request (run/scheduler.h); ctx is the matcher. Ends an answer only where it is
 * complete. */
bal_mask_fn bal_matcher_mask;

#endif
