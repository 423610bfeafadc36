/* SPDX-License-Identifier: MIT
 * Inside the scheduler only: a request that was accepted. Its tokens, prompt and answer in one row,
 * with the hash of everything up to each; its pictures; its pages while it runs. What it has still
 * to run is n_tokens - seq.n: a prompt's rest, or the one token that was generated last. */
#ifndef BAL_RUN_TICKET_H
#define BAL_RUN_TICKET_H

#include "run/scheduler.h"
#include "run/sequence.h"

typedef struct bal_ticket_picture {
    bal_picture *picture;
    bal_view_plan plan;
    bal_key key;            /* of its features */
    int end;                /* behind its last position */
    bal_features *features; /* a reference, or NULL */
} bal_ticket_picture;

typedef struct bal_ticket {
    struct bal_ticket *next;      /* of the engine thread's list it is in */
    struct bal_ticket *next_live; /* of all, under the lock; */
    bool cancelled;               /* this too */
    uint64_t id;

    bal_event_fn *on_event;
    void *event_ctx;
    bal_sampling sampling;
    bal_rng rng;
    bal_rules rules; /* with biases of its own */
    int32_t stop_ids[BAL_MAX_STOP_IDS];
    int n_stop_ids;
    bool ignore_eos, logprobs, prompt_logprobs, no_cache;
    int n_top, max_new;
    bool fills_context; /* max_new is what the context leaves */

    int n_prompt, n_tokens, cap;
    bal_token_info *info;  /* [cap] */
    bal_key *keys;         /* [cap] */
    int32_t *feature_rows; /* [n_prompt] row of its picture's features, -1 for text */
    int32_t *answer;       /* [max_new] ids of the answer, which info has, too */
    bal_ticket_picture *pictures;
    int n_pictures;

    bal_kv_seq seq;
    int n_told; /* prompt positions told by PROMPT_TOKEN */
    bool admitted_before;
    bal_usage usage;
    double submitted_at, prefill_at, first_at; /* seconds; 0: not yet */
} bal_ticket;

/* Checks and copies a request; `ctx` positions at most. The pages are the pool's later. */
bal_status bal_ticket_create(bal_ticket **out, const bal_engine *engine, const bal_request *request,
                             int ctx, bal_error *err);
/* Pages and features must have been given back. NULL is fine. */
void bal_ticket_destroy(bal_ticket *t);

/* What the request takes. */
bal_status bal_ticket_measure(const bal_engine *engine, const bal_request *request,
                              bal_usage *usage, bal_error *err);

/* Appends a generated token; there is room for max_new. */
bal_status bal_ticket_push(bal_ticket *t, int32_t id, bal_error *err);

static inline int bal_ticket_pending(const bal_ticket *t)
{
    return t->n_tokens - t->seq.n;
}

/* Monotonic clock. */
double bal_now(void);

#endif
