/* SPDX-License-Identifier: MIT
 * HTTP: routes, limits on what comes in, answers whole and as a stream of events. Sits on
 * libmicrohttpd with a thread per connection, so a handler may wait. */
#ifndef BAL_SERVE_HTTP_H
#define BAL_SERVE_HTTP_H

#include "serve/connection.h"
#include "serve/job.h"
#include "serve/server.h"

#include <microhttpd.h>

typedef enum bal_readiness { BAL_LOADING, BAL_READY, BAL_STOPPING } bal_readiness;

typedef struct bal_http {
    const bal_server_opts *opts; /* defaults filled in */
    bal_service service;         /* its models count from READY on */
    bal_connections connections;
    struct MHD_Daemon *daemon;
    atomic_int readiness;     /* bal_readiness */
    atomic_int n_in_flight;   /* requests that have begun and not ended */
    atomic_size_t body_bytes; /* of all of them */
    char policy[512];         /* of the page */
    bool loopback;            /* where it listens; set before start */
} bal_http;

/* Listens on the socket, which is the daemon's from now on. */
bal_status bal_http_start(bal_http *h, int socket, bool ipv6, bal_error *err);
/* Accepts nobody any more. */
void bal_http_quiesce(bal_http *h);
/* Ends all connections and waits for their threads. Idempotent. */
void bal_http_stop(bal_http *h);

#endif
