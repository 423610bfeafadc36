/* SPDX-License-Identifier: MIT
 * Inside the scheduler only. Two worlds: what stands under the lock, for every thread; and the
 * engine thread's own, which nobody else touches. */
#ifndef BAL_RUN_SCHEDULER_IMPL_H
#define BAL_RUN_SCHEDULER_IMPL_H

#include "run/forward.h"
#include "run/ticket.h"

#include <pthread.h>

enum { BAL_LOGIT_ROWS = 16 }; /* rows whose logits are computed together */

typedef struct bal_ticket_list {
    bal_ticket *first, **last; /* last: where the next one is hung */
    int n;
} bal_ticket_list;

/* The rows of a ticket in a step. */
typedef struct bal_share {
    bal_ticket *ticket; /* NULL: ended within the step */
    int rows;
} bal_share;

/* A row of a step whose logits are wanted, at position `at` of its ticket. */
typedef struct bal_wanted {
    int share, row, at;
} bal_wanted;

struct bal_scheduler {
    const bal_engine *engine;
    bal_scheduler_opts opts; /* every default filled in */
    int32_t stop_id;         /* of the chat template, or -1 */

    pthread_mutex_t lock; /* for this part */
    pthread_cond_t work;
    bool have_lock, woken, stopping, stop_now, reset;
    uint64_t last_id, requests, refused;
    int n_live;
    bal_ticket *live; /* all tickets, newest first */
    bal_ticket_list incoming;
    bal_scheduler_stats shown;

    bal_ticket_list waiting, running; /* the engine thread's: by id; by admission */
    bal_kv_pool pool;
    bal_feature_cache features;
    bal_exec exec, vision_exec; /* two, because steps run between the layers of the tower */
    bal_forward forward;
    bal_sampler sampler; /* work memory; options and generator are the ticket's */
    float *logits;       /* [vocab] after a request's rules */
    uint64_t *bits;      /* scratch of the rules */
    bal_share *shares;   /* [max_running] */
    bal_kv_span *spans;  /* [max_running] */
    bal_wanted *wanted;  /* [step_tokens] */
    bal_scheduler_stats now;
};

void bal_list_push(bal_ticket_list *l, bal_ticket *t);
void bal_list_remove(bal_ticket_list *l, bal_ticket *t);
/* Before the first one with a larger id. */
void bal_list_insert(bal_ticket_list *l, bal_ticket *t);

/* Gives everything back, tells DONE and frees it; it must be in no list of the engine thread.
 * error: with FINISH_ERROR, else NULL. */
void bal_scheduler_finish(bal_scheduler *s, bal_ticket *t, bal_finish why, int32_t stop_id,
                          const bal_error *error);
/* Moves waiting tickets to running ones as far as rows, pages and pictures allow. */
void bal_scheduler_admit(bal_scheduler *s);
/* One picture of a waiting ticket through the tower, if one is needed. */
bool bal_scheduler_encode(bal_scheduler *s);
/* One step of the decoder for all running tickets. */
bool bal_scheduler_batch(bal_scheduler *s);
/* Logits of one row: tells or picks a token. False when the ticket has ended. */
bool bal_scheduler_take_logits(bal_scheduler *s, bal_ticket *t, int at, const float *logits);
/* The same with its token, drawn on a device; -1: a logit was not finite. */
bool bal_scheduler_take_token(bal_scheduler *s, bal_ticket *t, int at, int32_t id);
/* Puts a running ticket aside: its pages become free, it waits again. */
void bal_scheduler_put_aside(bal_scheduler *s, bal_ticket *t);
/* Everything of step() but encoding. */
bool bal_scheduler_inner_step(bal_scheduler *s);

#endif
