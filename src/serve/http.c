/* SPDX-License-Identifier: MIT */
#include "serve/http.h"

#include "base/size.h"
#include "serve/access.h"
#include "serve/clock.h"
#include "serve/page.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* POOL: bytes libmicrohttpd keeps a request's head in; what is larger it refuses itself, bare.
 * A head that fits but is beyond the others is refused here. */
enum { POOL = 1 << 20, MAX_HEAD_BYTES = 32 << 10, MAX_HEADERS = 100, STACK = 2 << 20 };

typedef struct exchange_state {
    bal_http *http;
    bal_connection *connection;
    const struct route *route;
    char *body;
    size_t n_body, cap_body;
    size_t n_counted;    /* in http->body_bytes */
    size_t n_dropped;    /* of a body that is not kept */
    bal_refusal refusal; /* http 0: none so far */
    bal_job *job;
    bool answered;
    double began;
    char method[12], url[320];
    int status;
} exchange_state;

typedef enum MHD_Result handler_fn(struct MHD_Connection *c, exchange_state *x);

typedef struct route {
    const char *method, *path; /* a path that ends in '*' holds all that begin with it */
    handler_fn *handler;
    bool open; /* without an API key */
} route;

/* ---- Answers --------------------------------------------------------------------------------- */

static const char *header_of(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

static void add_common_headers(struct MHD_Connection *c, const exchange_state *x,
                               struct MHD_Response *r, const char *type)
{
    const bal_server_opts *o = x->http->opts;
    const char *origin = header_of(c, "Origin");
    MHD_add_response_header(r, "Content-Type", type);
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(r, "Cache-Control", "no-store");
    if (!origin || !bal_origin_is_listed(o->origins, o->n_origins, origin)) return;
    MHD_add_response_header(r, "Access-Control-Allow-Origin", origin);
    MHD_add_response_header(r, "Vary", "Origin");
}

static enum MHD_Result queue(struct MHD_Connection *c, exchange_state *x, int status,
                             struct MHD_Response *r)
{
    if (!r) return MHD_NO;
    x->answered = true;
    x->status = status;
    bal_connection_enter(&x->http->connections, x->connection, BAL_PHASE_SENDING);
    const enum MHD_Result queued = MHD_queue_response(c, (unsigned)status, r);
    MHD_destroy_response(r);
    return queued;
}

/* Takes text (malloc'ed) over. */
static enum MHD_Result send_text(struct MHD_Connection *c, exchange_state *x, int status,
                                 const char *type, char *text)
{
    if (!text) return MHD_NO;
    struct MHD_Response *r =
        MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (!r) {
        free(text);
        return MHD_NO;
    }
    add_common_headers(c, x, r, type);
    if (status == 401) MHD_add_response_header(r, "WWW-Authenticate", "Bearer");
    if (status == 429) MHD_add_response_header(r, "Retry-After", "1");
    if (status == 405) MHD_add_response_header(r, "Allow", "GET, POST");
    return queue(c, x, status, r);
}

static enum MHD_Result send_refusal(struct MHD_Connection *c, exchange_state *x)
{
    return send_text(c, x, x->refusal.http, "application/json", bal_refusal_text(&x->refusal));
}

static enum MHD_Result send_json(struct MHD_Connection *c, exchange_state *x, json_t *v)
{
    char *text = v ? json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(v);
    return send_text(c, x, 200, "application/json", text);
}

/* ---- The page, health, metrics, models ------------------------------------------------------- */

static enum MHD_Result get_page(struct MHD_Connection *c, exchange_state *x)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(
        bal_page_html_bytes, (void *)(uintptr_t)bal_page_html, MHD_RESPMEM_PERSISTENT);
    if (!r) return MHD_NO;
    add_common_headers(c, x, r, "text/html; charset=utf-8");
    MHD_add_response_header(r, "Content-Security-Policy", x->http->policy);
    MHD_add_response_header(r, "Referrer-Policy", "no-referrer");
    return queue(c, x, 200, r);
}

static enum MHD_Result get_health(struct MHD_Connection *c, exchange_state *x)
{
    return send_json(c, x, json_pack("{s:s}", "status", "ok"));
}

static enum MHD_Result get_metrics(struct MHD_Connection *c, exchange_state *x)
{
    bal_service *s = &x->http->service;
    bal_metrics_source sources[BAL_SERVER_MAX_MODELS];
    char *text = NULL;
    size_t n = 0;
    for (int i = 0; i < s->n_models; i++) {
        sources[i] =
            (bal_metrics_source){.name = s->models[i].name, .metrics = &s->models[i].metrics};
        bal_scheduler_get_stats(s->models[i].scheduler, &sources[i].stats);
    }
    FILE *out = open_memstream(&text, &n);
    if (!out) return MHD_NO;
    bal_metrics_write(out, sources, s->n_models);
    const bool good = !ferror(out);
    if (fclose(out) != 0 || !good) {
        free(text);
        return MHD_NO;
    }
    return send_text(c, x, 200, "text/plain; version=0.0.4; charset=utf-8", text);
}

static enum MHD_Result get_models(struct MHD_Connection *c, exchange_state *x)
{
    const bal_service *s = &x->http->service;
    json_t *list = json_array();
    for (int i = 0; i < s->n_models; i++)
        json_array_append_new(list, bal_served_json(&s->models[i]));
    return send_json(c, x, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

static enum MHD_Result get_model(struct MHD_Connection *c, exchange_state *x)
{
    const bal_service *s = &x->http->service;
    const char *name = x->url + strlen("/v1/models/");
    for (int i = 0; i < s->n_models; i++)
        if (strcmp(s->models[i].name, name) == 0)
            return send_json(c, x, bal_served_json(&s->models[i]));
    bal_refuse(&x->refusal, 404, "model_not_found", "model", "model: '%.100s' is not served here",
               name);
    return send_refusal(c, x);
}

/* ---- Completions ----------------------------------------------------------------------------- */

/* libmicrohttpd asks for more; waiting is allowed here. */
static ssize_t read_stream(void *ctx, uint64_t pos, char *buf, size_t max)
{
    exchange_state *x = ctx;
    bal_connections *all = &x->http->connections;
    bool over = false;
    (void)pos;
    bal_connection_enter(all, x->connection, BAL_PHASE_WORKING);
    for (;;) {
        const size_t n = bal_job_read(x->job, buf, max, &over);
        if (n || over) {
            bal_connection_enter(all, x->connection, BAL_PHASE_SENDING);
            return n ? (ssize_t)n : MHD_CONTENT_READER_END_OF_STREAM;
        }
        if (bal_connection_is_gone(x->connection)) return MHD_CONTENT_READER_END_WITH_ERROR;
        bal_job_pump(x->job, 0.1);
    }
}

static enum MHD_Result send_stream(struct MHD_Connection *c, exchange_state *x)
{
    enum { BLOCK = 16 << 10 };
    struct MHD_Response *r =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, x, NULL);
    if (!r) return MHD_NO;
    add_common_headers(c, x, r, "text/event-stream; charset=utf-8");
    MHD_add_response_header(r, "X-Accel-Buffering", "no"); /* nginx passes it on at once */
    return queue(c, x, 200, r);
}

static enum MHD_Result wait_for_result(struct MHD_Connection *c, exchange_state *x)
{
    while (!bal_job_pump(x->job, 0.1))
        if (bal_connection_is_gone(x->connection)) return MHD_NO;
    char *text = bal_job_result(x->job, &x->refusal);
    bal_job_close(x->job); /* its memory is not needed while the client reads */
    x->job = NULL;
    return text ? send_text(c, x, 200, "application/json", text) : send_refusal(c, x);
}

static enum MHD_Result complete(struct MHD_Connection *c, exchange_state *x, bal_request_kind kind)
{
    bal_service *s = &x->http->service;
    const bal_status st = bal_job_open(&x->job, s, kind, x->body, x->n_body, &x->refusal);
    free(x->body);
    x->body = NULL;
    if (st < 0) return send_refusal(c, x);
    return bal_job_streams(x->job) ? send_stream(c, x) : wait_for_result(c, x);
}

static enum MHD_Result post_chat(struct MHD_Connection *c, exchange_state *x)
{
    return complete(c, x, BAL_REQUEST_CHAT);
}

static enum MHD_Result post_completion(struct MHD_Connection *c, exchange_state *x)
{
    return complete(c, x, BAL_REQUEST_COMPLETION);
}

static enum MHD_Result tokens(struct MHD_Connection *c, exchange_state *x, bal_request_kind kind)
{
    char *text = bal_tokenize(&x->http->service, kind, x->body, x->n_body, &x->refusal);
    return text ? send_text(c, x, 200, "application/json", text) : send_refusal(c, x);
}

static enum MHD_Result post_tokenize(struct MHD_Connection *c, exchange_state *x)
{
    return tokens(c, x, BAL_REQUEST_TOKENIZE);
}

static enum MHD_Result post_detokenize(struct MHD_Connection *c, exchange_state *x)
{
    return tokens(c, x, BAL_REQUEST_DETOKENIZE);
}

/* ---- Routes ---------------------------------------------------------------------------------- */

static const route routes[] = {
    {"GET", "/", get_page, true},
    {"GET", "/health", get_health, true},
    {"GET", "/metrics", get_metrics, false},
    {"GET", "/v1/models", get_models, false},
    {"GET", "/v1/models/*", get_model, false},
    {"POST", "/v1/chat/completions", post_chat, false},
    {"POST", "/v1/completions", post_completion, false},
    {"POST", "/tokenize", post_tokenize, false},
    {"POST", "/detokenize", post_detokenize, false},
};
enum { N_ROUTES = sizeof routes / sizeof routes[0] };

static bool path_is(const route *r, const char *url)
{
    const size_t n = strlen(r->path);
    return r->path[n - 1] == '*' ? strncmp(r->path, url, n - 1) == 0 : strcmp(r->path, url) == 0;
}

static bal_status find_route(exchange_state *x, const char *method, const char *url)
{
    const char *wanted = NULL;
    for (int i = 0; i < N_ROUTES; i++) {
        if (!path_is(&routes[i], url)) continue;
        wanted = routes[i].method;
        x->route = &routes[i];
        if (strcmp(method, wanted) == 0) return BAL_OK;
        if (strcmp(method, "HEAD") == 0 && strcmp(wanted, "GET") == 0) return BAL_OK;
    }
    if (wanted)
        return bal_refuse(&x->refusal, 405, "method_not_allowed", NULL, "%.10s %.80s: expected %s",
                          method, url, wanted);
    return bal_refuse(&x->refusal, 404, "unknown_url", NULL,
                      "%.10s %.80s: no such route; the API is under /v1", method, url);
}

/* ---- What comes in --------------------------------------------------------------------------- */

typedef struct head_size {
    size_t n, bytes;
} head_size;

static enum MHD_Result measure_header(void *ctx, enum MHD_ValueKind kind, const char *key,
                                      const char *value)
{
    head_size *h = ctx;
    (void)kind;
    h->n++;
    h->bytes += (key ? strlen(key) : 0) + (value ? strlen(value) : 0);
    return MHD_YES;
}

static bal_status check_head(struct MHD_Connection *c, exchange_state *x, const char *url)
{
    head_size h = {0, strlen(url)};
    MHD_get_connection_values(c, MHD_HEADER_KIND | MHD_GET_ARGUMENT_KIND, measure_header, &h);
    if (h.n <= MAX_HEADERS && h.bytes <= MAX_HEAD_BYTES) return BAL_OK;
    return bal_refuse(&x->refusal, 431, "headers_too_large", NULL,
                      "%zu header fields of %zu bytes, at most %d of %d", h.n, h.bytes, MAX_HEADERS,
                      MAX_HEAD_BYTES);
}

static bal_status check_ready(exchange_state *x)
{
    const bool page = x->route->handler == get_page;
    switch (atomic_load(&x->http->readiness)) {
    case BAL_LOADING:
        if (page) return BAL_OK;
        return bal_refuse(&x->refusal, 503, "loading", NULL, "the model is being loaded");
    case BAL_STOPPING:
        return bal_refuse(&x->refusal, 503, "server_stopping", NULL, "the server is stopping");
    default: return BAL_OK;
    }
}

/* The announced length; 0 where there is none. */
static size_t announced(struct MHD_Connection *c)
{
    const char *value = header_of(c, "Content-Length");
    return value ? (size_t)strtoull(value, NULL, 10) : 0;
}

static bal_status too_large(exchange_state *x)
{
    return bal_refuse(
        &x->refusal, 413, "body_too_large", NULL,
        "the body has more than %zu bytes; send smaller pictures, or start the server "
        "with a larger --max-body",
        x->http->opts->max_body);
}

/* On loopback without a key, being there is what lets somebody in. A page elsewhere whose name its
 * owner points to this machine is there as well, and says so by the Host alone. */
static bal_status check_host(struct MHD_Connection *c, exchange_state *x)
{
    const bal_server_opts *o = x->http->opts;
    if (!x->http->loopback || o->n_api_keys > 0 || header_of(c, "Origin")) return BAL_OK;
    return bal_check_host(o->origins, o->n_origins, header_of(c, "Host"), &x->refusal);
}

static bal_status check_request(struct MHD_Connection *c, exchange_state *x, const char *method,
                                const char *url)
{
    const bal_server_opts *o = x->http->opts;
    bal_refusal *f = &x->refusal;
    BAL_TRY(check_head(c, x, url));
    BAL_TRY(bal_check_origin(o->origins, o->n_origins, header_of(c, "Origin"), header_of(c, "Host"),
                             f));
    BAL_TRY(check_host(c, x));
    BAL_TRY(find_route(x, method, url));
    if (!x->route->open)
        BAL_TRY(bal_check_key(o->api_keys, o->n_api_keys, header_of(c, "Authorization"), f));
    if (announced(c) > o->max_body) return too_large(x);
    return check_ready(x);
}

/* A page elsewhere asks before it asks. */
static enum MHD_Result answer_preflight(struct MHD_Connection *c, exchange_state *x)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    if (!r) return MHD_NO;
    add_common_headers(c, x, r, "text/plain");
    MHD_add_response_header(r, "Access-Control-Allow-Methods", "GET, POST");
    /* the origin is trusted, so are the fields it wants: OpenAI's client sends some of its own */
    const char *asked = header_of(c, "Access-Control-Request-Headers");
    MHD_add_response_header(r, "Access-Control-Allow-Headers",
                            asked ? asked : "Authorization, Content-Type");
    return queue(c, x, 204, r);
}

static exchange_state *new_state(bal_http *h, struct MHD_Connection *c, const char *method,
                                 const char *url)
{
    exchange_state *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    x->http = h;
    x->connection = info ? info->socket_context : NULL;
    x->began = bal_clock_s();
    snprintf(x->method, sizeof x->method, "%s", method);
    snprintf(x->url, sizeof x->url, "%s", url);
    atomic_fetch_add(&h->n_in_flight, 1);
    return x;
}

/* A refusal waits until a body of tolerable length was sent: a client that is still writing when
 * the connection closes would not see it. */
static enum MHD_Result begin(bal_http *h, struct MHD_Connection *c, const char *method,
                             const char *url, void **state)
{
    exchange_state *x = *state = new_state(h, c, method, url);
    if (!x) return MHD_NO;
    bal_connection_enter(&h->connections, x->connection, BAL_PHASE_RECEIVING);
    const char *origin = header_of(c, "Origin");
    if (strcmp(method, "OPTIONS") == 0 && origin &&
        bal_origin_is_listed(h->opts->origins, h->opts->n_origins, origin))
        return answer_preflight(c, x);
    if (check_request(c, x, method, url) == BAL_OK) return MHD_YES;
    return announced(c) / 4 > h->opts->max_body ? send_refusal(c, x) : MHD_YES;
}

static bool reserve_body(exchange_state *x, size_t need)
{
    if (need <= x->cap_body) return true;
    const size_t cap = bal_min(bal_max(2 * need, 4096), x->http->opts->max_body + 1);
    const size_t before = atomic_fetch_add(&x->http->body_bytes, cap - x->cap_body);
    x->n_counted += cap - x->cap_body;
    if (before + cap - x->cap_body > x->http->opts->max_memory) {
        bal_refuse(&x->refusal, 429, "too_many_bodies", NULL,
                   "the bodies of all requests together take more than %zu bytes; try again later",
                   x->http->opts->max_memory);
        return false;
    }
    char *more = realloc(x->body, cap);
    if (!more) {
        bal_refuse(&x->refusal, 500, NULL, NULL, "memory is short");
        return false;
    }
    x->body = more;
    x->cap_body = cap;
    return true;
}

static void take_body(exchange_state *x, const char *data, size_t n)
{
    if (x->refusal.http) {
        x->n_dropped += n;
        return;
    }
    if (n > x->http->opts->max_body - x->n_body) {
        too_large(x);
    } else if (reserve_body(x, x->n_body + n)) {
        memcpy(x->body + x->n_body, data, n);
        x->n_body += n;
    }
}

static enum MHD_Result handle(void *ctx, struct MHD_Connection *c, const char *url,
                              const char *method, const char *version, const char *data, size_t *n,
                              void **state)
{
    bal_http *h = ctx;
    exchange_state *x = *state;
    (void)version;
    if (!x) return begin(h, c, method, url, state);
    if (*n) {
        take_body(x, data, *n);
        *n = 0;
        /* an endless body is cut off */
        return x->n_dropped / 4 > h->opts->max_body ? MHD_NO : MHD_YES;
    }
    if (x->answered) return MHD_YES;
    bal_connection_enter(&h->connections, x->connection, BAL_PHASE_WORKING);
    return x->refusal.http ? send_refusal(c, x) : x->route->handler(c, x);
}

/* ---- Ends ------------------------------------------------------------------------------------ */

static void log_line(const bal_http *h, const char *fmt, ...) BAL_PRINTF(2, 3);

static void log_line(const bal_http *h, const char *fmt, ...)
{
    char line[512];
    va_list ap;
    if (!h->opts->log) return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    for (char *p = line; *p; p++) /* the client's bytes are among them */
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = '?';
    h->opts->log(h->opts->log_ctx, line);
}

static void completed(void *ctx, struct MHD_Connection *c, void **state,
                      enum MHD_RequestTerminationCode why)
{
    bal_http *h = ctx;
    exchange_state *x = *state;
    (void)c;
    if (!x) return;
    *state = NULL;
    bal_job_close(x->job);
    free(x->body);
    atomic_fetch_sub(&h->body_bytes, x->n_counted);
    log_line(h, "%s %s %d %.3f s%s%s%s", x->method, x->url, x->status, bal_clock_s() - x->began,
             why == MHD_REQUEST_TERMINATED_COMPLETED_OK ? "" : ", connection lost",
             x->refusal.http ? ": " : "", x->refusal.message);
    bal_connection_enter(&h->connections, x->connection, BAL_PHASE_IDLE);
    free(x);
    atomic_fetch_sub(&h->n_in_flight, 1);
}

static void connection_changed(void *ctx, struct MHD_Connection *c, void **socket_context,
                               enum MHD_ConnectionNotificationCode what)
{
    bal_http *h = ctx;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
        *socket_context = info ? bal_connections_add(&h->connections, info->connect_fd) : NULL;
    } else {
        bal_connections_remove(&h->connections, *socket_context);
        *socket_context = NULL;
    }
}

static void daemon_log(void *ctx, const char *fmt, va_list ap)
{
    char line[300];
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\n")] = 0;
    log_line(ctx, "http: %s", line);
}

bal_status bal_http_start(bal_http *h, int socket, bool ipv6, bal_error *err)
{
    unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD |
                     MHD_USE_POLL | MHD_USE_ITC | MHD_USE_ERROR_LOG;
    if (ipv6) flags |= MHD_USE_IPv6;
    h->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, handle, h, MHD_OPTION_EXTERNAL_LOGGER, daemon_log, h,
        MHD_OPTION_LISTEN_SOCKET, socket, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)h->opts->max_connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL,
        MHD_OPTION_THREAD_STACK_SIZE, (size_t)STACK, MHD_OPTION_NOTIFY_COMPLETED, completed, h,
        MHD_OPTION_NOTIFY_CONNECTION, connection_changed, h, MHD_OPTION_END);
    if (h->daemon) return BAL_OK;
    close(socket);
    return bal_fail(err, BAL_E_IO, "the HTTP server does not start");
}

void bal_http_quiesce(bal_http *h)
{
    const int socket = h->daemon ? MHD_quiesce_daemon(h->daemon) : -1;
    if (socket >= 0) close(socket);
}

void bal_http_stop(bal_http *h)
{
    if (h->daemon) MHD_stop_daemon(h->daemon);
    h->daemon = NULL;
}
