/* SPDX-License-Identifier: MIT */
#include "serve/server.h"

#include "serve/clock.h"
#include "serve/http.h"
#include "serve/page.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bal_server {
    bal_server_opts opts;
    bal_http http;
    bal_served models[BAL_SERVER_MAX_MODELS];
    char *media_dir; /* absolute */
    int n_open;      /* of them */
    int port;
    pthread_t watcher;
    bool has_watcher, has_connections, has_semaphore, quiesced;
    atomic_bool ending;
};

/* ---- Options --------------------------------------------------------------------------------- */

static void fill_defaults(bal_server_opts *o)
{
    if (!o->host) o->host = "127.0.0.1";
    if (!o->max_body) o->max_body = (size_t)32 << 20;
    if (!o->max_pixels) o->max_pixels = BAL_IMAGE_MAX_PIXELS;
    if (!o->max_memory) o->max_memory = (size_t)1 << 30;
    if (!o->max_images) o->max_images = 16;
    if (!o->max_choices) o->max_choices = 16;
    if (!o->max_running) o->max_running = 64;
    if (!o->max_waiting) o->max_waiting = 256;
    /* a request of more would find the queue full of itself, whenever it came back */
    if (o->max_choices > o->max_running + o->max_waiting)
        o->max_choices = o->max_running + o->max_waiting;
    if (!o->max_connections) o->max_connections = 256;
    if (!(o->receive_s > 0.0)) o->receive_s = 60.0;
    if (!(o->send_s > 0.0)) o->send_s = 60.0;
    if (!(o->answer_s > 0.0)) o->answer_s = 600.0;
    if (!(o->url_s > 0.0)) o->url_s = 5.0;
}

static bool any_address(const struct sockaddr *a)
{
    return a->sa_family == AF_INET || a->sa_family == AF_INET6;
}

/* Jobs that decode pictures at the same time: enough to keep the cores busy, few enough for memory.
 */
enum { PREPARING = 4, FETCHING = 16 };

static bal_status fill_service(bal_server *s, bal_error *err)
{
    const bal_server_opts *o = &s->opts;
    bal_service *v = &s->http.service;
    v->models = s->models;
    v->n_models = o->n_models;
    v->limits = (bal_request_limits){.max_images = o->max_images, .max_choices = o->max_choices};
    v->pictures = (bal_picture_rules){
        .media_dir = s->media_dir,
        .fetch = {.allow = o->allow_urls,
                  .n_allow = o->n_allow_urls,
                  .may_connect = o->allow_private_urls ? any_address : bal_address_is_public,
                  .max_bytes = o->max_body,
                  .timeout_ms = (int)(o->url_s * 1e3)},
        .image = {.alpha = BAL_ALPHA_WHITE,
                  .max_pixels = o->max_pixels,
                  .max_pixels_flag = "--max-pixels"}};
    v->max_pixel_bytes = o->max_memory;
    v->max_seconds = o->answer_s;
    if (sem_init(&v->preparing, 0, PREPARING) != 0 || sem_init(&v->fetching, 0, FETCHING) != 0)
        return bal_fail(err, BAL_E_NOMEM, "the server: no semaphore");
    s->has_semaphore = true;
    return BAL_OK;
}

/* What would only be noticed when somebody sends a picture. */
static bal_status check_sources(bal_server *s, bal_error *err)
{
    const bal_server_opts *o = &s->opts;
    if (o->media_dir) {
        BAL_TRY(bal_media_dir_check(o->media_dir, "--media-dir", err));
        s->media_dir = o->media_dir[0] == '/' ? strdup(o->media_dir) : realpath(o->media_dir, NULL);
        if (!s->media_dir)
            return bal_fail(err, BAL_E_IO, "--media-dir: %s: %s", o->media_dir, strerror(errno));
    }
    for (int i = 0; i < o->n_allow_urls; i++)
        BAL_TRY(bal_url_rule_check(o->allow_urls[i], "--allow-url", err));
    return BAL_OK;
}

/* ---- Listening ------------------------------------------------------------------------------- */

static int try_listen(const struct addrinfo *a)
{
    const int on = 1, fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
    const int why = errno;
    close(fd);
    errno = why;
    return -1;
}

/* Where the socket is bound: its port, and whether only this machine reaches it. */
static void look_at(int fd, int *port, bool *loopback)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } a = {0};
    socklen_t n = sizeof a;
    if (getsockname(fd, &a.any, &n) != 0) return;
    const bool v6 = a.any.sa_family == AF_INET6;
    *port = ntohs(v6 ? a.in6.sin6_port : a.in.sin_port);
    *loopback = v6 ? IN6_IS_ADDR_LOOPBACK(&a.in6.sin6_addr)
                   : ntohl(a.in.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

static bal_status listen_on(bal_server *s, int *fd, bool *ipv6, bal_error *err)
{
    char port[16];
    struct addrinfo *found = NULL;
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    snprintf(port, sizeof port, "%d", s->opts.port);
    const int why = getaddrinfo(s->opts.host, port, &hints, &found);
    if (why != 0)
        return bal_fail(err, BAL_E_ARG, "host '%.100s': %s", s->opts.host, gai_strerror(why));
    *fd = try_listen(found);
    *ipv6 = found->ai_family == AF_INET6;
    freeaddrinfo(found);
    if (*fd < 0)
        return bal_fail(err, BAL_E_IO, "%.100s port %d: %s", s->opts.host, s->opts.port,
                        strerror(errno));
    look_at(*fd, &s->port, &s->http.loopback);
    return BAL_OK;
}

static void *watch(void *ctx)
{
    bal_server *s = ctx;
    const struct timespec pause = {0, 100 * 1000 * 1000};
    while (!atomic_load(&s->ending)) {
        bal_connections_watch(&s->http.connections);
        nanosleep(&pause, NULL);
    }
    return NULL;
}

static bal_status open_all(bal_server *s, bal_error *err)
{
    int fd = -1;
    bool ipv6 = false;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0)
        return bal_fail(err, BAL_E_NOMEM, "libcurl does not start");
    BAL_TRY(check_sources(s, err));
    BAL_TRY(bal_page_policy(s->http.policy, sizeof s->http.policy, (const char *)bal_page_html,
                            bal_page_html_bytes, err));
    BAL_TRY(fill_service(s, err));
    BAL_TRY(bal_connections_init(&s->http.connections, s->opts.receive_s, s->opts.send_s, err));
    s->has_connections = true;
    BAL_TRY(listen_on(s, &fd, &ipv6, err));
    BAL_TRY(bal_http_start(&s->http, fd, ipv6, err));
    if (pthread_create(&s->watcher, NULL, watch, s) != 0)
        return bal_fail(err, BAL_E_NOMEM, "the server's watching thread cannot be started");
    s->has_watcher = true;
    return BAL_OK;
}

bal_status bal_server_open(bal_server **out, const bal_server_opts *opts, bal_error *err)
{
    *out = NULL;
    if (opts->n_models < 1 || opts->n_models > BAL_SERVER_MAX_MODELS)
        return bal_fail(err, BAL_E_ARG, "%d models, expected 1 to %d", opts->n_models,
                        BAL_SERVER_MAX_MODELS);
    bal_server *s = calloc(1, sizeof *s);
    if (!s) return bal_nomem(err, sizeof *s, "a server");
    s->opts = *opts;
    fill_defaults(&s->opts);
    s->http.opts = &s->opts;
    const bal_status st = open_all(s, err);
    if (st < 0)
        bal_server_close(s);
    else
        *out = s;
    return st;
}

int bal_server_port(const bal_server *s)
{
    return s->port;
}

/* ---- Models ---------------------------------------------------------------------------------- */

static bal_status check_names(const bal_server *s, bal_error *err)
{
    for (int i = 0; i < s->n_open; i++)
        for (int j = 0; j < i; j++)
            if (strcmp(s->models[i].name, s->models[j].name) == 0)
                return bal_fail(err, BAL_E_ARG,
                                "two models are called '%.100s'; --name gives them names",
                                s->models[i].name);
    return BAL_OK;
}

static bal_kv_type kv_type(const char *name)
{
    if (!name) return BAL_KV_DEFAULT;
    return strcmp(name, "i8") == 0 ? BAL_KV_I8 : strcmp(name, "f32") == 0 ? BAL_KV_F32 : BAL_KV_F16;
}

bal_status bal_server_load(bal_server *s, bal_error *err)
{
    const bal_server_opts *o = &s->opts;
    const bal_served_opts served = {.threads = o->threads,
                                    .isa = o->isa,
                                    .device = o->device,
                                    .shapes = o->shapes,
                                    .image_max_tokens = o->image_max_tokens,
                                    .chat_template = o->chat_template,
                                    .scheduler = {.ctx = o->ctx,
                                                  .kv_bytes = o->kv_bytes,
                                                  .kv_type = kv_type(o->kv),
                                                  .max_running = o->max_running,
                                                  .max_waiting = o->max_waiting,
                                                  .step_tokens = o->step_tokens,
                                                  .picture_bytes = o->picture_bytes,
                                                  .no_prefix_cache = o->no_prefix_cache}};
    for (int i = 0; i < o->n_models; i++) {
        const char *name = o->names ? o->names[i] : NULL;
        BAL_TRY(bal_served_open(&s->models[i], o->models[i], name, &served, err));
        s->n_open++;
        BAL_TRY(check_names(s, err));
    }
    for (int i = 0; i < s->n_open; i++) {
        BAL_TRY(bal_served_start(&s->models[i], err));
        BAL_TRY(bal_served_warm_up(&s->models[i], err));
    }
    atomic_store(&s->http.readiness, BAL_READY);
    return BAL_OK;
}

/* ---- Stopping -------------------------------------------------------------------------------- */

static void wait_for_answers(bal_server *s, double seconds, bool (*hurry)(void *ctx), void *ctx)
{
    const struct timespec pause = {0, 20 * 1000 * 1000};
    const double until = bal_clock_s() + seconds;
    while (atomic_load(&s->http.n_in_flight) > 0 && bal_clock_s() < until) {
        if (hurry && hurry(ctx)) return;
        nanosleep(&pause, NULL);
    }
}

/* Time for the last chunks of answers that were cut off. */
static const double farewell_s = 10.0;

void bal_server_stop(bal_server *s, double grace_s, bool (*hurry)(void *ctx), void *ctx)
{
    if (s->quiesced) return;
    s->quiesced = true;
    atomic_store(&s->http.readiness, BAL_STOPPING);
    bal_http_quiesce(&s->http);
    wait_for_answers(s, grace_s, hurry, ctx);
    atomic_store(&s->http.service.stopping, true);
    for (int i = 0; i < s->n_open; i++)
        if (s->models[i].has_thread) bal_scheduler_stop(s->models[i].scheduler, true);
    wait_for_answers(s, farewell_s, NULL, NULL);
}

void bal_server_close(bal_server *s)
{
    if (!s) return;
    bal_server_stop(s, 0.0, NULL, NULL);
    bal_http_stop(&s->http);
    if (s->has_watcher) {
        atomic_store(&s->ending, true);
        pthread_join(s->watcher, NULL);
    }
    for (int i = 0; i < s->n_open; i++) bal_served_close(&s->models[i]);
    if (s->has_semaphore) {
        sem_destroy(&s->http.service.preparing);
        sem_destroy(&s->http.service.fetching);
    }
    if (s->has_connections) bal_connections_deinit(&s->http.connections);
    free(s->media_dir);
    free(s);
}
