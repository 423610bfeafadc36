/* SPDX-License-Identifier: MIT
 * What the measuring clients of ballast serve share: a clock, one streamed chat request whose
 * pieces are timed, figures from /metrics. Blocking, one curl handle per thread. */
#ifndef BAL_BENCH_CLIENT_H
#define BAL_BENCH_CLIENT_H

#include <curl/curl.h>
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static inline void *need(void *p)
{
    if (!p) exit((fprintf(stderr, "memory is short\n"), 1));
    return p;
}

/* ---- Times and their percentiles ------------------------------------------------------------- */

typedef struct times {
    double *s;
    size_t n, cap;
} times;

static inline void times_add(times *t, double s)
{
    if (t->n == t->cap) t->s = need(realloc(t->s, (t->cap = 2 * t->cap + 64) * sizeof *t->s));
    t->s[t->n++] = s;
}

static inline void times_merge(times *to, const times *from)
{
    for (size_t i = 0; i < from->n; i++) times_add(to, from->s[i]);
}

static inline int by_time(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts; the value below which a share p of them lies (nearest rank), in milliseconds. */
static inline double percentile_ms(times *t, double p)
{
    if (!t->n) return 0.0;
    qsort(t->s, t->n, sizeof *t->s, by_time);
    const size_t rank = (size_t)ceil(p * (double)t->n);
    return 1e3 * t->s[rank ? rank - 1 : 0];
}

/* ---- One request ----------------------------------------------------------------------------- */

/* Zero-initialise; deinit frees. */
typedef struct exchange {
    long status; /* of HTTP; 0: no answer */
    char *text;  /* everything that came, NUL-terminated */
    size_t n, cap;
    size_t at;              /* of the line that is not complete yet */
    int n_pieces;           /* chunks with content */
    int n_prompt, n_answer; /* tokens, where the stream's usage came */
    int leave_after;        /* pieces; 0: stays to the end */
    bool done, left;        /* [DONE] came; the connection was dropped on purpose */
    double began, last;     /* now_s; of the piece before */
    double first_s;         /* from the beginning to the first piece */
    times gaps;             /* between pieces */
} exchange;

static inline void exchange_deinit(exchange *x)
{
    free(x->text);
    free(x->gaps.s);
    *x = (exchange){0};
}

static inline int number_after(const char *line, const char *key)
{
    const char *at = strstr(line, key);
    return at ? atoi(at + strlen(key)) : 0;
}

/* A piece is a line that brings content. */
static inline void exchange_line(exchange *x, const char *line)
{
    if (strstr(line, "\"completion_tokens\":")) {
        x->n_prompt = number_after(line, "\"prompt_tokens\":");
        x->n_answer = number_after(line, "\"completion_tokens\":");
    }
    static const char content[] = "\"content\":\"";
    const char *at = strstr(line, content);
    if (strncmp(line, "data: [DONE]", 12) == 0) x->done = true;
    if (!at || at[sizeof content - 1] == '"') return;
    const double now = now_s();
    if (x->n_pieces++)
        times_add(&x->gaps, now - x->last);
    else
        x->first_s = now - x->began;
    x->last = now;
}

static inline size_t exchange_take(char *bytes, size_t size, size_t count, void *ctx)
{
    exchange *x = ctx;
    const size_t n = size * count;
    if (x->n + n + 1 > x->cap) x->text = need(realloc(x->text, x->cap = 2 * (x->n + n + 1)));
    memcpy(x->text + x->n, bytes, n);
    x->text[x->n += n] = 0;
    for (char *end; (end = strchr(x->text + x->at, '\n')); x->at = (size_t)(end + 1 - x->text)) {
        *end = 0;
        exchange_line(x, x->text + x->at);
        *end = '\n';
    }
    x->left = x->leave_after && x->n_pieces >= x->leave_after;
    return x->left ? 0 : n;
}

/* body NULL: GET. The handle keeps its connection between requests. */
static inline void exchange_run(exchange *x, CURL *c, const char *url, const char *path,
                                const char *body)
{
    char full[600];
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    headers = need(curl_slist_append(headers, "Expect:"));
    snprintf(full, sizeof full, "%s%s", url, path);
    curl_easy_reset(c);
    curl_easy_setopt(c, CURLOPT_URL, full);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, exchange_take);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
    if (body) curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    x->began = now_s();
    const CURLcode code = curl_easy_perform(c);
    if (code == CURLE_OK || x->left) curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &x->status);
    curl_slist_free_all(headers);
}

/* ---- Bodies ---------------------------------------------------------------------------------- */

/* malloc'ed "data:image/png;base64,..." */
static inline char *png_url(const unsigned char *png, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *url = need(malloc(n / 3 * 4 + 40));
    size_t at = (size_t)sprintf(url, "data:image/png;base64,");
    for (size_t i = 0; i < n; i += 3) {
        const uint32_t v = (uint32_t)png[i] << 16 | (i + 1 < n ? (uint32_t)png[i + 1] << 8 : 0) |
                           (i + 2 < n ? png[i + 2] : 0u);
        for (int k = 0; k < 4; k++) url[at++] = digits[v >> (18 - 6 * k) & 63];
        if (i + 1 >= n) url[at - 2] = '=';
        if (i + 2 >= n) url[at - 1] = '=';
    }
    url[at] = 0;
    return url;
}

/* A user's message, with a picture unless url is NULL; more: ", \"n\": 1" or "". malloc'ed. */
static inline char *chat_body(const char *text, const char *url, const char *more)
{
    const size_t n = strlen(text) + strlen(more) + (url ? strlen(url) : 0) + 300;
    char *body = need(malloc(n));
    json_t *string = json_string(text);
    char *quoted = need(json_dumps(string, JSON_ENCODE_ANY));
    if (url)
        snprintf(body, n,
                 "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\","
                 "\"image_url\":{\"url\":\"%s\"}},{\"type\":\"text\",\"text\":%s}]}]%s}",
                 url, quoted, more);
    else
        snprintf(body, n, "{\"messages\":[{\"role\":\"user\",\"content\":%s}]%s}", quoted, more);
    free(quoted);
    json_decref(string);
    return body;
}

/* The first metric of that name, over the models of a server with one. */
static inline double metric(CURL *c, const char *url, const char *name)
{
    exchange x = {0};
    char wanted[100];
    exchange_run(&x, c, url, "/metrics", NULL);
    snprintf(wanted, sizeof wanted, "\nballast:%s{", name);
    const char *at = x.text ? strstr(x.text, wanted) : NULL;
    const char *value = at ? strstr(at, "} ") : NULL;
    const double v = value ? strtod(value + 2, NULL) : NAN;
    exchange_deinit(&x);
    return v;
}

#endif
