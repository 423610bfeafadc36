/* SPDX-License-Identifier: MIT
 * A client for the tests of the server: requests by libcurl, raw bytes by a socket, pictures as
 * data URLs, and the shape of an error checked. */
#ifndef BAL_TESTS_SERVE_CLIENT_H
#define BAL_TESTS_SERVE_CLIENT_H

#include "check.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct reply {
    long status;
    char *body; /* NUL-terminated */
    size_t n;
    json_t *json; /* NULL where the body is none */
} reply;

static inline size_t reply_take(char *bytes, size_t size, size_t count, void *ctx)
{
    reply *r = ctx;
    char *more = realloc(r->body, r->n + size * count + 1);
    if (!more) return 0;
    r->body = more;
    memcpy(r->body + r->n, bytes, size * count);
    r->n += size * count;
    r->body[r->n] = 0;
    return size * count;
}

/* body NULL: GET. header (may be NULL): one more. status 0: no answer. */
static inline reply http(int port, const char *path, const char *body, size_t n_body,
                         const char *header)
{
    char url[300];
    reply r = {.body = calloc(1, 1)};
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    CURL *c = curl_easy_init();
    snprintf(url, sizeof url, "http://127.0.0.1:%d%s", port, path);
    if (header) headers = curl_slist_append(headers, header);
    headers = curl_slist_append(headers, "Expect:");
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, 300L);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, reply_take);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &r);
    if (body) {
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)n_body);
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    }
    if (curl_easy_perform(c) == CURLE_OK) curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &r.status);
    curl_slist_free_all(headers);
    curl_easy_cleanup(c);
    r.json = json_loadb(r.body, r.n, JSON_ALLOW_NUL, NULL);
    return r;
}

static inline reply get(int port, const char *path)
{
    return http(port, path, NULL, 0, NULL);
}

static inline reply post(int port, const char *path, const char *body)
{
    return http(port, path, body, strlen(body), NULL);
}

static inline void reply_free(reply *r)
{
    json_decref(r->json);
    free(r->body);
    *r = (reply){0};
}

/* {"error": {message, type, param, code}}, exactly; param and code as given (NULL for null). */
static inline bool is_error(const reply *r, long status, const char *code, const char *param)
{
    const json_t *e = json_object_get(r->json, "error");
    const char *c = json_string_value(json_object_get(e, "code"));
    const char *p = json_string_value(json_object_get(e, "param"));
    const char *m = json_string_value(json_object_get(e, "message"));
    const size_t extra = json_object_get(e, "n_ctx") ? 2 : 0;
    return r->status == status && json_object_size(r->json) == 1 &&
           json_object_size(e) == 4 + extra && m && strlen(m) > 10 &&
           json_is_string(json_object_get(e, "type")) && json_object_get(e, "param") &&
           json_object_get(e, "code") && (c ? code && strcmp(c, code) == 0 : !code) &&
           (p ? param && strcmp(p, param) == 0 : !param);
}

#define ASSERT_ERROR(r_, status_, code_, param_)                                                   \
    do {                                                                                           \
        if (!is_error(&(r_), status_, code_, param_))                                              \
            fail_msg("wanted %d %s %s, got %ld: %s", status_, (const char *)(code_),               \
                     (const char *)(param_), (r_).status, (r_).body);                              \
    } while (0)

/* Connected to the server; raw bytes to be written and read. */
static inline int raw_connect(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* Everything until the other side closes, at most size - 1 bytes; NUL-terminated. */
static inline size_t raw_read(int fd, char *out, size_t size)
{
    size_t n = 0;
    for (ssize_t got; n < size - 1 && (got = read(fd, out + n, size - 1 - n)) > 0;)
        n += (size_t)got;
    out[n] = 0;
    return n;
}

/* malloc'ed "data:MIME;base64,..." */
static inline char *data_url(const char *mime, const void *bytes, size_t n)
{
    char *url = malloc(64 + n * 4 / 3 + 8);
    const int at = sprintf(url, "data:%s;base64,", mime);
    EVP_EncodeBlock((unsigned char *)url + at, bytes, (int)n);
    return url;
}

static inline char *data_url_of_file(const char *mime, const char *path)
{
    uint8_t *bytes;
    size_t n;
    assert_true(bal_read_file(&bytes, &n, path, (size_t)1 << 24, NULL) == BAL_OK);
    char *url = data_url(mime, bytes, n);
    free(bytes);
    return url;
}

/* A chat request about pictures, malloc'ed; more: further fields (", \"n\": 2") or "". */
static inline char *chat_body(const char *text, const char *const *urls, int n_urls,
                              const char *more)
{
    json_t *parts = json_array();
    for (int i = 0; i < n_urls; i++)
        json_array_append_new(
            parts, json_pack("{s:s, s:{s:s}}", "type", "image_url", "image_url", "url", urls[i]));
    json_array_append_new(parts, json_pack("{s:s, s:s}", "type", "text", "text", text));
    char *list = json_dumps(parts, JSON_COMPACT);
    char *body = malloc(strlen(list) + strlen(more) + 100);
    sprintf(body, "{\"messages\":[{\"role\":\"user\",\"content\":%s}]%s}", list, more);
    json_decref(parts);
    free(list);
    return body;
}

static inline const char *answer_of(const reply *r)
{
    const json_t *choice = json_array_get(json_object_get(r->json, "choices"), 0);
    const char *s =
        json_string_value(json_object_get(json_object_get(choice, "message"), "content"));
    return s ? s : "";
}

static inline int usage_of(const reply *r, const char *key)
{
    const json_t *u = json_object_get(r->json, "usage");
    const json_t *v = json_object_get(u, key);
    if (!v) v = json_object_get(json_object_get(u, "prompt_tokens_details"), key);
    return v ? (int)json_integer_value(v) : -1;
}

#endif
