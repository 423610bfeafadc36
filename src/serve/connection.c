/* SPDX-License-Identifier: MIT */
#include "serve/connection.h"

#include "serve/clock.h"
#include "serve/refusal.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

bal_status bal_connections_init(bal_connections *c, double receive_s, double send_s, bal_error *err)
{
    *c = (bal_connections){.receive_s = receive_s, .send_s = send_s};
    if (pthread_mutex_init(&c->lock, NULL) != 0)
        return bal_fail(err, BAL_E_NOMEM, "connections: no mutex");
    return BAL_OK;
}

void bal_connections_deinit(bal_connections *c)
{
    pthread_mutex_destroy(&c->lock);
}

bal_connection *bal_connections_add(bal_connections *c, int fd)
{
    bal_connection *one = calloc(1, sizeof *one);
    if (!one) return NULL;
    *one = (bal_connection){.fd = fd, .phase = BAL_PHASE_RECEIVING, .since = bal_clock_s()};
    pthread_mutex_lock(&c->lock);
    one->next = c->first;
    one->at = &c->first;
    if (c->first) c->first->at = &one->next;
    c->first = one;
    pthread_mutex_unlock(&c->lock);
    return one;
}

void bal_connections_remove(bal_connections *c, bal_connection *one)
{
    if (!one) return;
    pthread_mutex_lock(&c->lock);
    *one->at = one->next;
    if (one->next) one->next->at = one->at;
    pthread_mutex_unlock(&c->lock);
    free(one);
}

void bal_connection_enter(bal_connections *c, bal_connection *one, bal_phase phase)
{
    if (!one) return;
    pthread_mutex_lock(&c->lock);
    one->phase = phase;
    one->since = bal_clock_s();
    pthread_mutex_unlock(&c->lock);
}

/* Nobody else writes while a request is still coming in. */
static void say_too_slow(const bal_connections *c, int fd)
{
    char head[200];
    bal_refusal f;
    bal_refuse(&f, 408, "request_timeout", NULL, "the request did not arrive whole in %g seconds",
               c->receive_s);
    char *body = bal_refusal_text(&f);
    if (!body) return;
    const int n = snprintf(head, sizeof head,
                           "HTTP/1.1 408 %s\r\nContent-Type: application/json\r\n"
                           "Content-Length: %zu\r\nConnection: close\r\n\r\n",
                           bal_http_reason(408), strlen(body));
    if (send(fd, head, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) == n)
        (void)!send(fd, body, strlen(body), MSG_NOSIGNAL | MSG_DONTWAIT);
    free(body);
}

static void judge(const bal_connections *c, bal_connection *one, double now)
{
    const bool receiving = one->phase == BAL_PHASE_IDLE || one->phase == BAL_PHASE_RECEIVING;
    const double limit = receiving ? c->receive_s : c->send_s;
    if (one->cut || one->phase == BAL_PHASE_WORKING || now - one->since <= limit) return;
    if (one->phase == BAL_PHASE_RECEIVING) say_too_slow(c, one->fd);
    shutdown(one->fd, SHUT_RDWR);
    one->cut = true;
}

void bal_connections_watch(bal_connections *c)
{
    const double now = bal_clock_s();
    pthread_mutex_lock(&c->lock);
    for (bal_connection *one = c->first; one; one = one->next) judge(c, one, now);
    pthread_mutex_unlock(&c->lock);
}

bool bal_connection_is_gone(const bal_connection *one)
{
    struct pollfd p = {.fd = one ? one->fd : -1, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL));
}
