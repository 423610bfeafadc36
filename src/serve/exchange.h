/* SPDX-License-Identifier: MIT
 * From the engine thread to the thread of a connection: the events of a job's requests, copied and
 * queued in order. The engine never waits here. What it points to lives until every request of the
 * exchange has had its last event. */
#ifndef BAL_SERVE_EXCHANGE_H
#define BAL_SERVE_EXCHANGE_H

#include "run/scheduler.h"

#include <pthread.h>

typedef struct bal_note {
    struct bal_note *next;
    int choice;              /* which request of the exchange */
    double at;               /* clock of bal_clock_s */
    bal_request_event event; /* its pointers are into this note */
    bal_error error;
    bal_token_prob top[]; /* [event.n_top] */
} bal_note;

typedef struct bal_exchange {
    pthread_mutex_t lock;
    pthread_cond_t more;
    bal_note *first, **end;
    int n_open; /* requests that have not had their last event */
    bool lost;  /* an event could not be copied: memory is short */
} bal_exchange;

/* Where one request's events go: its event_ctx. */
typedef struct bal_exchange_port {
    bal_exchange *exchange;
    int choice;
} bal_exchange_port;

bal_status bal_exchange_init(bal_exchange *x, bal_error *err);
void bal_exchange_deinit(bal_exchange *x); /* when it is over */

void bal_exchange_opened(bal_exchange *x); /* before submit; closed again if that fails */
void bal_exchange_closed(bal_exchange *x);
bal_event_fn bal_exchange_event; /* on_event; ctx is a port */

/* The next event, to be freed; NULL after `seconds` without one. */
bal_note *bal_exchange_take(bal_exchange *x, double seconds);
/* Whether all requests have ended and all events are taken. */
bool bal_exchange_is_over(bal_exchange *x);

#endif
