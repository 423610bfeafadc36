/* SPDX-License-Identifier: MIT */
#include "serve/fetch.h"

#include "base/size.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_REDIRECTS = 3 };

typedef struct download {
    const bal_fetch_rules *rules;
    uint8_t *data;
    size_t n, cap;
    bool too_large, no_memory, closed_address;
} download;

static size_t take(char *bytes, size_t size, size_t count, void *ctx)
{
    download *d = ctx;
    const size_t n = size * count; /* libcurl: size is 1 */
    if (n > d->rules->max_bytes - d->n) {
        d->too_large = true;
        return 0;
    }
    if (d->n + n > d->cap) {
        const size_t cap = bal_min(2 * (d->n + n), d->rules->max_bytes);
        uint8_t *more = realloc(d->data, cap ? cap : 1);
        if (!more) {
            d->no_memory = true;
            return 0;
        }
        d->data = more;
        d->cap = cap;
    }
    if (n) memcpy(d->data + d->n, bytes, n);
    d->n += n;
    return n;
}

/* libcurl asks for a socket to exactly this address: the place where it is certain. */
static curl_socket_t open_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *a)
{
    download *d = ctx;
    (void)purpose;
    if (!d->rules->may_connect(&a->addr)) {
        d->closed_address = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static void set_options(CURL *c, const char *url, download *d, long left_ms)
{
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L); /* every hop is judged by bal_fetch */
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, left_ms);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "ballast/" BALLAST_VERSION);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, d);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, d);
}

static bal_status judge(CURLcode code, const download *d, const char *url, const char *param,
                        bal_refusal *f)
{
    if (d->closed_address)
        return bal_refuse(f, 400, "url_not_allowed", param,
                          "%s: '%.200s' leads to a private, link-local or loopback address", param,
                          url);
    if (d->too_large)
        return bal_refuse(f, 400, "image_too_large", param, "%s: more than %zu bytes at '%.200s'",
                          param, d->rules->max_bytes, url);
    if (d->no_memory) return bal_refuse(f, 500, NULL, NULL, "memory is short");
    if (code == CURLE_OPERATION_TIMEDOUT)
        return bal_refuse(f, 504, "url_timeout", param, "%s: '%.200s' took more than %d ms", param,
                          url, d->rules->timeout_ms);
    if (code != CURLE_OK)
        return bal_refuse(f, 400, "url_unreachable", param, "%s: '%.200s': %s", param, url,
                          curl_easy_strerror(code));
    return BAL_OK;
}

/* One hop; *redirect (malloc'ed) is where it points on to, NULL at the end. */
static bal_status hop(download *d, const char *url, long left_ms, char **redirect,
                      const char *param, bal_refusal *f)
{
    const char *location = NULL;
    long status = 0;
    *redirect = NULL;
    d->n = 0;
    CURL *c = curl_easy_init();
    if (!c) return bal_refuse(f, 500, NULL, NULL, "memory is short");
    set_options(c, url, d, left_ms);
    bal_status st = judge(curl_easy_perform(c), d, url, param, f);
    if (st == BAL_OK) {
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(c, CURLINFO_REDIRECT_URL, &location);
        if (location)
            *redirect = strdup(location);
        else if (status != 200)
            st = bal_refuse(f, 400, "url_unreachable", param, "%s: '%.200s' answers with %ld",
                            param, url, status);
    }
    curl_easy_cleanup(c);
    return st;
}

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (long)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static bal_status follow(download *d, const char *url, const char *param, bal_refusal *f)
{
    const long deadline = now_ms() + d->rules->timeout_ms;
    char *at = strdup(url);
    bal_status st = BAL_OK;
    for (int hops = 0; at; hops++) {
        char *next = NULL;
        const long left = deadline - now_ms();
        if (!bal_url_is_allowed(at, d->rules->allow, d->rules->n_allow))
            st = bal_refuse(f, 400, "url_not_allowed", param,
                            "%s: the server may not fetch '%.200s'%s; send the picture as a data "
                            "URL, or start the server with --allow-url",
                            param, at, hops ? ", to which the URL redirects" : "");
        else if (hops > MAX_REDIRECTS)
            st = bal_refuse(f, 400, "url_unreachable", param, "%s: more than %d redirects", param,
                            MAX_REDIRECTS);
        else
            st = hop(d, at, left > 1 ? left : 1, &next, param, f);
        free(at);
        at = next;
    }
    return st;
}

bal_status bal_fetch(uint8_t **out, size_t *n, const char *url, const bal_fetch_rules *rules,
                     const char *param, bal_refusal *f)
{
    download d = {.rules = rules};
    *out = NULL;
    *n = 0;
    const bal_status st = follow(&d, url, param, f);
    if (st < 0) {
        free(d.data);
        return st;
    }
    *out = d.data;
    *n = d.n;
    return BAL_OK;
}
