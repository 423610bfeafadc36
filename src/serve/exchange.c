/* SPDX-License-Identifier: MIT */
#include "serve/exchange.h"

#include "serve/clock.h"

#include <stdlib.h>
#include <string.h>

bal_status bal_exchange_init(bal_exchange *x, bal_error *err)
{
    *x = (bal_exchange){.end = &x->first};
    if (pthread_mutex_init(&x->lock, NULL) != 0)
        return bal_fail(err, BAL_E_NOMEM, "a request: no mutex");
    if (bal_cond_init(&x->more) != 0) {
        pthread_mutex_destroy(&x->lock);
        return bal_fail(err, BAL_E_NOMEM, "a request: no condition");
    }
    return BAL_OK;
}

static void drop_notes(bal_exchange *x)
{
    while (x->first) {
        bal_note *n = x->first;
        x->first = n->next;
        free(n);
    }
    x->end = &x->first;
}

void bal_exchange_deinit(bal_exchange *x)
{
    drop_notes(x);
    pthread_cond_destroy(&x->more);
    pthread_mutex_destroy(&x->lock);
}

void bal_exchange_opened(bal_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    x->n_open++;
    pthread_mutex_unlock(&x->lock);
}

void bal_exchange_closed(bal_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    x->n_open--;
    pthread_cond_signal(&x->more);
    pthread_mutex_unlock(&x->lock);
}

static bal_note *copy(const bal_exchange_port *port, const bal_request_event *event)
{
    const size_t n = (size_t)event->n_top;
    bal_note *note = malloc(sizeof *note + n * sizeof note->top[0]);
    if (!note) return NULL;
    note->next = NULL;
    note->choice = port->choice;
    note->at = bal_clock_s();
    note->event = *event;
    if (n) memcpy(note->top, event->top, n * sizeof note->top[0]);
    note->event.top = note->top;
    if (event->error) {
        note->error = *event->error;
        note->event.error = &note->error;
    }
    return note;
}

/* After the last unlock of a DONE the exchange may be gone. */
void bal_exchange_event(void *ctx, const bal_request_event *event)
{
    const bal_exchange_port *port = ctx;
    bal_exchange *x = port->exchange;
    bal_note *note = copy(port, event);
    pthread_mutex_lock(&x->lock);
    if (note) {
        *x->end = note;
        x->end = &note->next;
    } else {
        x->lost = true;
    }
    if (event->kind == BAL_EVENT_DONE) x->n_open--;
    pthread_cond_signal(&x->more);
    pthread_mutex_unlock(&x->lock);
}

bal_note *bal_exchange_take(bal_exchange *x, double seconds)
{
    pthread_mutex_lock(&x->lock);
    if (!x->first && x->n_open) bal_cond_wait(&x->more, &x->lock, seconds);
    bal_note *n = x->first;
    if (n) x->first = n->next;
    if (!x->first) x->end = &x->first;
    pthread_mutex_unlock(&x->lock);
    return n;
}

bool bal_exchange_is_over(bal_exchange *x)
{
    pthread_mutex_lock(&x->lock);
    const bool over = !x->first && !x->n_open;
    pthread_mutex_unlock(&x->lock);
    return over;
}
