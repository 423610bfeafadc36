/* SPDX-License-Identifier: MIT
 * How good a model is on questions with known answers, and how far from a reference model it is:
 *
 *   right       the greedy answer, normalised, equals one of the answers, normalised
 *   nll         -log p of each token of answers[0] and of the token that ends the turn, fed the
 *               right answer so far (nats; the answer is encoded on its own)
 *   kl          KL(reference || model) in nats over the whole vocabulary at the same positions
 *   top1        how often both models' likeliest tokens agree there
 *
 * Each figure comes with a 95 % interval: bootstrap over groups of questions about the same
 * pictures, paired (the same draws for all models and for the difference to the reference).
 * Models go side by side, question by question, so that nobody's logits are stored; questions
 * about the same pictures share their prefix, and models with the same vision tower share its
 * output. Results are the same bits for any number of threads and any order of models. */
#ifndef BAL_RUN_EVALUATE_H
#define BAL_RUN_EVALUATE_H

#include "image/image.h"
#include "run/engine.h"
#include "run/evaldata.h"

/* Fewer groups carry no 95 % interval: five differences of one sign come up by chance in 2 of 32
 * cases, six in 2 of 64; one group gives every draw the same value. lo and hi are filled all the
 * same; what shows them asks n_groups. */
enum { BAL_EVAL_MIN_GROUPS = 6 };
enum { BAL_EVAL_MAX_TOKENS = 16, BAL_EVAL_DRAWS = 2000, BAL_EVAL_MAX_MODELS = 80 };

typedef struct bal_interval {
    double value, lo, hi; /* the figure over all questions; 2.5 % and 97.5 % of the draws */
} bal_interval;

typedef struct bal_eval_row {
    bool right;
    int n;       /* positions: tokens of answers[0] and the closing one */
    int n_agree; /* of them, with the reference's top token; 0 without a reference */
    double nll;  /* sum over the positions */
    double kl;   /* sum over the positions; 0 without a reference */
    char *said;  /* the greedy answer as it came */
    bool cut;    /* the answer ended at max_tokens */
} bal_eval_row;

typedef struct bal_eval_type {
    char *name;
    int n, n_right;
} bal_eval_type;

typedef struct bal_eval_result {
    int n, n_right, n_groups;
    int64_t n_positions;
    bal_interval accuracy, nll; /* of questions; of positions */
    double perplexity;          /* exp(nll.value) */
    bool compared;              /* the four below are there */
    bal_interval kl, top1;
    bal_interval accuracy_change, nll_change; /* model minus reference */
    bool shared_vision;                       /* saw through the tower of an earlier, equal model */
    double seconds;                           /* spent in this model's decoder */
    int n_types;
    bal_eval_type *types; /* in the order of their first question; none if no question has one */
    int n_rows;
    bal_eval_row *rows; /* [n_rows == n] in the order of the file */
} bal_eval_result;

typedef struct bal_eval_opts {
    int max_tokens; /* of a greedy answer; 0: BAL_EVAL_MAX_TOKENS */
    int limit;      /* the first so many questions; 0: all */
    int ctx;        /* positions; 0: what the models take, at most 16384 */
    int draws;      /* of the bootstrap; 0: BAL_EVAL_DRAWS */
    uint64_t seed;
    bal_alpha alpha;
    bal_progress_fn *progress; /* after each question; false cancels. May be NULL */
    void *progress_ctx;
} bal_eval_opts;

/* Evaluates n engines, against `reference` if that is not NULL, and the reference itself into
 * *reference_result (may be NULL). results[n]. All must share tokenizer and vocabulary: BAL_E_ARG
 * names the model that does not. opts may be NULL. On failure all results are empty. */
bal_status bal_eval_run(const bal_engine *reference, const bal_engine *const engines[], int n,
                        const bal_evaldata *data, const bal_eval_opts *opts,
                        bal_eval_result results[], bal_eval_result *reference_result,
                        bal_error *err);
void bal_eval_result_free(bal_eval_result *r); /* idempotent; zeroed struct is fine */

/* Lower case, without what is neither letter, mark, number nor space, and trimmed: what answers
 * are compared by. The caller frees *out. */
bal_status bal_eval_normalise(char **out, const char *text, bal_error *err);

/* ---- Bootstrap -------------------------------------------------------------------------------
 * One figure is a quotient of sums over groups, minus another one where base_top is set:
 *     sum top / sum bottom - sum base_top / sum base_bottom */
typedef struct bal_quotient {
    const double *top, *bottom;           /* [n] per group */
    const double *base_top, *base_bottom; /* [n] or NULL */
} bal_quotient;

/* The draws depend on n, draws and seed only. n >= 1, draws >= 1; a draw without any count in
 * `bottom` counts as the value over all. */
bal_status bal_bootstrap(bal_interval *out, const bal_quotient *q, size_t n, int draws,
                         uint64_t seed, bal_error *err);

#endif
