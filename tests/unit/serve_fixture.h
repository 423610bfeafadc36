/* SPDX-License-Identifier: MIT
 * Servers on the embedded model for tests: started and loaded, streams taken apart, a witness that
 * sees whether other clients notice anything. */
#ifndef BAL_TESTS_SERVE_FIXTURE_H
#define BAL_TESTS_SERVE_FIXTURE_H

#include "serve/server.h"
#include "serve_client.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/* On the embedded model unless o names others. */
static inline bal_server *server_start(bal_server_opts o)
{
    static const char *model[1];
    bal_error err;
    bal_server *s;
    if (!o.models) {
        model[0] = source_path("demo/model");
        o.models = model;
        o.n_models = 1;
    }
    if (bal_server_open(&s, &o, &err) < 0) fail_msg("%s", err.text);
    return s;
}

static inline void server_load(bal_server *s)
{
    bal_error err;
    ASSERT_OK(bal_server_load(s, &err));
}

/* Chunks of a stream: their JSON in an array; *done: [DONE] came last. */
static inline json_t *chunks_of(const char *body, bool *done)
{
    json_t *list = json_array();
    *done = false;
    for (const char *at = body; (at = strstr(at, "data: ")) != NULL;) {
        at += 6;
        const char *end = strstr(at, "\n\n");
        if (!end) break;
        *done = strncmp(at, "[DONE]", 6) == 0;
        if (!*done) json_array_append_new(list, json_loadb(at, (size_t)(end - at), 0, NULL));
    }
    return list;
}

/* The text of choice 0 and its last finish_reason; malloc'ed. */
static inline char *stream_text(const json_t *chunks, char reason[16])
{
    char *text = calloc(1, 1);
    size_t n = 0;
    strcpy(reason, "");
    for (size_t i = 0; i < json_array_size(chunks); i++) {
        const json_t *c = json_array_get(json_object_get(json_array_get(chunks, i), "choices"), 0);
        const char *s = json_string_value(json_object_get(json_object_get(c, "delta"), "content"));
        const char *f = json_string_value(json_object_get(c, "finish_reason"));
        if (f) snprintf(reason, 16, "%s", f);
        if (!s) continue;
        text = realloc(text, n + strlen(s) + 1);
        strcpy(text + n, s);
        n += strlen(s);
    }
    return text;
}

/* A stream that repeats until told to end; every run must give the text of the first. */
typedef struct witness {
    pthread_t thread;
    int port;
    atomic_bool end;
    int runs, wrong;
    char *first;
} witness;

static inline void *witness_run(void *ctx)
{
    witness *w = ctx;
    while (!atomic_load(&w->end) || w->runs < 2) {
        bool done;
        char reason[16];
        reply r = post(w->port, "/v1/chat/completions",
                       "{\"messages\":[{\"role\":\"user\",\"content\":\"Tell me\"}],"
                       "\"temperature\":1.5,\"seed\":7,\"max_tokens\":24,\"ignore_eos\":true,"
                       "\"stream\":true}");
        json_t *chunks = chunks_of(r.body, &done);
        char *text = stream_text(chunks, reason);
        w->wrong +=
            !done || strcmp(reason, "length") != 0 || (w->first && strcmp(text, w->first) != 0);
        w->runs++;
        if (w->first)
            free(text);
        else
            w->first = text;
        json_decref(chunks);
        reply_free(&r);
        nanosleep(&(struct timespec){0, 30000000}, NULL);
    }
    return NULL;
}

static inline void witness_begin(witness *w, int at_port)
{
    *w = (witness){.port = at_port};
    assert_int_equal(pthread_create(&w->thread, NULL, witness_run, w), 0);
}

static inline void witness_end(witness *w)
{
    atomic_store(&w->end, true);
    pthread_join(w->thread, NULL);
    assert_true(strlen(w->first) > 10);
    assert_int_equal(w->wrong, 0);
    free(w->first);
}

#endif
