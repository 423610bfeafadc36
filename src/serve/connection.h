/* SPDX-License-Identifier: MIT
 * The open connections and the time each may take: to send its request whole, and to read its
 * answer. What is too slow is told so, if nothing was answered yet, and cut off. */
#ifndef BAL_SERVE_CONNECTION_H
#define BAL_SERVE_CONNECTION_H

#include "base/status.h"

#include <pthread.h>

typedef enum bal_phase {
    BAL_PHASE_IDLE,      /* between two requests of one connection */
    BAL_PHASE_RECEIVING, /* waiting for a request or the rest of one */
    BAL_PHASE_WORKING,   /* the server's turn: no limit here */
    BAL_PHASE_SENDING,   /* waiting for the client to read */
} bal_phase;

typedef struct bal_connection {
    struct bal_connection *next, **at;
    int fd;
    bal_phase phase;
    double since;
    bool cut;
} bal_connection;

typedef struct bal_connections {
    pthread_mutex_t lock;
    bal_connection *first;
    double receive_s, send_s;
} bal_connections;

bal_status bal_connections_init(bal_connections *c, double receive_s, double send_s,
                                bal_error *err);
void bal_connections_deinit(bal_connections *c); /* when none is left */

/* NULL when memory is short. The socket stays the caller's and must be open until _remove. */
bal_connection *bal_connections_add(bal_connections *c, int fd);
void bal_connections_remove(bal_connections *c, bal_connection *one); /* NULL is fine */
void bal_connection_enter(bal_connections *c, bal_connection *one, bal_phase phase);

/* Cuts off what is over its time; to be called several times a second. */
void bal_connections_watch(bal_connections *c);

/* Whether the other side has closed. */
bool bal_connection_is_gone(const bal_connection *one);

#endif
