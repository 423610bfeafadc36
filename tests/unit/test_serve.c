/* SPDX-License-Identifier: MIT
 * The server from outside, on the embedded model: what the API answers, that an answer depends on
 * its request alone, queues and ends. Bad input: test_serve_bad.c. */
#include "scratch.h"
#include "serve_fixture.h"

static bal_server *server;
static int port;
static char *picture; /* as a data URL */

/* And there are some. */
static bool all_counters_are_zero(const char *metrics)
{
    int n = 0;
    for (const char *at = metrics; (at = strstr(at, "_total{")) != NULL; at++, n++) {
        const char *value = strstr(at, "} ");
        if (!value || strncmp(value, "} 0\n", 4) != 0) return false;
    }
    return n > 10;
}

static int group_setup(void **state)
{
    if (scratch_setup(state) != 0) return -1;
    picture = data_url_of_file("image/png", source_path("demo/data/pictures/eval238.png"));
    server = server_start((bal_server_opts){.max_images = 3, .max_choices = 4, .ctx = 1024});
    port = bal_server_port(server);
    reply r = get(port, "/health"); /* before the model is there */
    const bool loading = is_error(&r, 503, "loading", NULL);
    reply_free(&r);
    reply chat = post(port, "/v1/chat/completions", "{}");
    const bool waits = is_error(&chat, 503, "loading", NULL);
    reply_free(&chat);
    server_load(server);
    reply fresh = get(port, "/metrics"); /* the warm-up is nobody's request */
    const bool zero = all_counters_are_zero(fresh.body);
    reply_free(&fresh);
    return loading && waits && zero ? 0 : -1;
}

static int group_teardown(void **state)
{
    bal_server_close(server);
    free(picture);
    return scratch_teardown(state);
}

static reply chat(const char *text, int n_pictures, const char *more)
{
    const char *urls[3] = {picture, picture, picture};
    char *body = chat_body(text, urls, n_pictures, more);
    reply r = post(port, "/v1/chat/completions", body);
    free(body);
    return r;
}

/* ---- What it answers ------------------------------------------------------------------------- */

static void routes_answer(void **state)
{
    (void)state;
    reply r = get(port, "/health");
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "{\"status\":\"ok\"}");
    reply_free(&r);
    r = get(port, "/v1/models");
    const json_t *one = json_array_get(json_object_get(r.json, "data"), 0);
    assert_string_equal(json_string_value(json_object_get(one, "id")), "model");
    assert_int_equal(json_integer_value(json_object_get(one, "max_model_len")), 1024);
    reply_free(&r);
    r = get(port, "/v1/models/model");
    assert_int_equal(r.status, 200);
    reply_free(&r);
    r = get(port, "/v1/models/other");
    ASSERT_ERROR(r, 404, "model_not_found", "model");
    reply_free(&r);
    r = get(port, "/nowhere");
    ASSERT_ERROR(r, 404, "unknown_url", NULL);
    reply_free(&r);
    r = get(port, "/v1/chat/completions");
    ASSERT_ERROR(r, 405, "method_not_allowed", NULL);
    reply_free(&r);
    r = get(port, "/");
    assert_int_equal(r.status, 200);
    assert_non_null(strstr(r.body, "<!doctype html>"));
    reply_free(&r);
}

static void pictures_are_seen_once(void **state)
{
    (void)state;
    reply first = chat("What is it?", 1, ",\"temperature\":0,\"max_tokens\":12");
    assert_int_equal(first.status, 200);
    assert_true(usage_of(&first, "image_tokens") == 124);
    assert_true(usage_of(&first, "prompt_tokens") > 124);
    reply again = chat("What is it?", 1, ",\"temperature\":0,\"max_tokens\":12");
    assert_string_equal(answer_of(&first), answer_of(&again));
    assert_true(usage_of(&again, "cached_tokens") >= 64);
    const json_t *b = json_object_get(again.json, "ballast");
    assert_int_equal(json_integer_value(json_object_get(b, "pictures_encoded")), 0);
    const json_t *view = json_array_get(json_object_get(b, "pictures"), 0);
    assert_int_equal(json_integer_value(json_object_get(view, "rows")), 3);
    assert_int_equal(json_integer_value(json_object_get(view, "tokens")), 124);
    reply none = chat("What is it?", 1, ",\"temperature\":0,\"max_tokens\":12,\"no_cache\":true");
    assert_string_equal(answer_of(&first), answer_of(&none));
    assert_int_equal(usage_of(&none, "cached_tokens"), 0);
    reply three = chat("What is it?", 3, ",\"temperature\":0,\"max_tokens\":2");
    assert_int_equal(usage_of(&three, "image_tokens"), 51);
    reply_free(&first);
    reply_free(&again);
    reply_free(&none);
    reply_free(&three);
}

static void a_seed_repeats_and_n_differ(void **state)
{
    (void)state;
    static const char more[] = ",\"temperature\":1.5,\"seed\":5,\"n\":3,\"max_tokens\":12,"
                               "\"ignore_eos\":true";
    reply a = chat("Hello", 0, more), b = chat("Hello", 0, more);
    const json_t *x = json_object_get(a.json, "choices"), *y = json_object_get(b.json, "choices");
    assert_int_equal(json_array_size(x), 3);
    assert_true(json_equal(x, y));
    const json_t *first = json_object_get(json_array_get(x, 0), "message");
    const json_t *second = json_object_get(json_array_get(x, 1), "message");
    assert_false(json_equal(first, second));
    assert_int_equal(usage_of(&a, "completion_tokens"), 36);
    reply_free(&a);
    reply_free(&b);
}

static void streams_have_the_shape(void **state)
{
    (void)state;
    char reason[16];
    bool done;
    reply whole = chat("Hello", 0, ",\"temperature\":0,\"max_tokens\":9,\"ignore_eos\":true");
    reply r = chat("Hello", 0,
                   ",\"temperature\":0,\"max_tokens\":9,\"ignore_eos\":true,\"stream\":true,"
                   "\"stream_options\":{\"include_usage\":true},\"logprobs\":true");
    json_t *chunks = chunks_of(r.body, &done);
    assert_true(done);
    char *text = stream_text(chunks, reason);
    assert_string_equal(text, answer_of(&whole));
    assert_string_equal(reason, "length");
    const size_t n = json_array_size(chunks);
    const json_t *first = json_array_get(json_object_get(json_array_get(chunks, 0), "choices"), 0);
    assert_non_null(json_object_get(json_object_get(first, "delta"), "role"));
    size_t tokens = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *c = json_array_get(chunks, i), *usage = json_object_get(c, "usage");
        const json_t *choice = json_array_get(json_object_get(c, "choices"), 0);
        assert_true(i + 1 < n ? json_is_null(usage) : json_is_object(usage));
        assert_int_equal(json_array_size(json_object_get(c, "choices")), i + 1 < n ? 1 : 0);
        tokens += json_array_size(json_object_get(json_object_get(choice, "logprobs"), "content"));
    }
    assert_int_equal(tokens, 9);
    free(text);
    json_decref(chunks);
    reply_free(&whole);
    reply_free(&r);
}

/* A stop string of the answer's own text ends it there, streamed or not. */
static void stop_strings_end_an_answer(void **state)
{
    (void)state;
    static const char more[] = ",\"temperature\":1.5,\"seed\":7,\"max_tokens\":24,"
                               "\"ignore_eos\":true";
    reply plain = chat("Count", 0, more);
    const char *text = answer_of(&plain);
    const size_t n = strlen(text);
    assert_true(n > 6);
    json_t *stop = json_stringn(text + n / 2, 2);
    char *quoted = json_dumps(stop, JSON_ENCODE_ANY), with[200], reason[16];
    snprintf(with, sizeof with, "%s,\"stop\":[%s]", more, quoted);
    reply cut = chat("Count", 0, with);
    const char *at = strstr(text, json_string_value(stop));
    assert_int_equal(strlen(answer_of(&cut)), at - text);
    assert_true(strncmp(answer_of(&cut), text, (size_t)(at - text)) == 0);
    assert_true(usage_of(&cut, "completion_tokens") <= usage_of(&plain, "completion_tokens"));
    strncat(with, ",\"stream\":true", sizeof with - strlen(with) - 1);
    reply streamed = chat("Count", 0, with);
    bool done;
    json_t *chunks = chunks_of(streamed.body, &done);
    char *got = stream_text(chunks, reason);
    assert_string_equal(got, answer_of(&cut));
    assert_string_equal(reason, "stop");
    free(got);
    json_decref(chunks);
    json_decref(stop);
    free(quoted);
    reply_free(&plain);
    reply_free(&cut);
    reply_free(&streamed);
}

static void json_comes_as_asked(void **state)
{
    (void)state;
    char more[400];
    for (int seed = 0; seed < 4; seed++) {
        snprintf(more, sizeof more,
                 ",\"temperature\":1.3,\"seed\":%d,\"max_tokens\":200,\"response_format\":"
                 "{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":{\"type\":"
                 "\"object\",\"properties\":{\"colour\":{\"enum\":[\"red\",\"blue\"]},\"count\":"
                 "{\"type\":\"integer\"}},\"required\":[\"colour\",\"count\"]}}}",
                 seed);
        reply r = chat("Describe", 0, more);
        assert_int_equal(r.status, 200);
        json_t *v = json_loads(answer_of(&r), 0, NULL);
        const char *colour = json_string_value(json_object_get(v, "colour"));
        if (!colour || !json_is_integer(json_object_get(v, "count"))) fail_msg("%s", r.body);
        assert_true(strcmp(colour, "red") == 0 || strcmp(colour, "blue") == 0);
        json_decref(v);
        reply_free(&r);
    }
}

static void completions_echo_with_logprobs(void **state)
{
    (void)state;
    reply r =
        post(port, "/v1/completions",
             "{\"prompt\":[\"What is\",\"This\"],\"echo\":true,\"logprobs\":2,\"max_tokens\":0}");
    assert_int_equal(r.status, 200);
    const json_t *choice = json_array_get(json_object_get(r.json, "choices"), 0);
    assert_string_equal(json_string_value(json_object_get(choice, "text")), "What is");
    const json_t *l = json_object_get(choice, "logprobs");
    assert_int_equal(json_array_size(json_object_get(l, "tokens")), 2);
    assert_true(json_is_null(json_array_get(json_object_get(l, "token_logprobs"), 0)));
    assert_true(json_real_value(json_array_get(json_object_get(l, "token_logprobs"), 1)) < 0);
    assert_int_equal(usage_of(&r, "completion_tokens"), 0);
    assert_int_equal(json_array_size(json_object_get(r.json, "choices")), 2);
    reply_free(&r);
    /* streamed: the same records, when there is something in them */
    r = post(
        port, "/v1/completions",
        "{\"prompt\":\"What is\",\"echo\":true,\"logprobs\":2,\"max_tokens\":1,\"stream\":true}");
    bool done;
    json_t *chunks = chunks_of(r.body, &done), *chunk;
    size_t i, n = 0, with = 0;
    json_array_foreach(chunks, i, chunk)
    {
        l = json_object_get(json_array_get(json_object_get(chunk, "choices"), 0), "logprobs");
        const json_t *values = json_object_get(l, "token_logprobs");
        for (size_t j = 0; j < json_array_size(values); j++, n++)
            with += json_is_real(json_array_get(values, j));
    }
    assert_true(done);
    assert_int_equal(n, 3);
    assert_int_equal(with, 2); /* all but the first of the prompt */
    json_decref(chunks);
    reply_free(&r);
}

static void tokens_go_there_and_back(void **state)
{
    (void)state;
    reply r = post(port, "/tokenize", "{\"prompt\":\"What is this?\"}");
    assert_int_equal(json_array_size(json_object_get(r.json, "tokens")),
                     json_integer_value(json_object_get(r.json, "count")));
    char *ids = json_dumps(json_object_get(r.json, "tokens"), 0), body[400];
    snprintf(body, sizeof body, "{\"tokens\":%s}", ids);
    reply back = post(port, "/detokenize", body);
    assert_string_equal(json_string_value(json_object_get(back.json, "prompt")), "What is this?");
    free(ids);
    reply_free(&r);
    reply_free(&back);
    r = post(port, "/detokenize", "{\"tokens\":[99999999]}");
    ASSERT_ERROR(r, 400, "invalid_value", "tokens");
    assert_non_null(strstr(r.body, "\"tokens: 99999999 is not a token"));
    reply_free(&r);
    r = post(port, "/v1/completions", "{\"prompt\":[99999999]}");
    ASSERT_ERROR(r, 400, "invalid_value", "prompt");
    reply_free(&r);
}

static void metrics_count(void **state)
{
    (void)state;
    reply r = get(port, "/metrics");
    static const char *const names[] = {"num_requests_running",
                                        "num_requests_waiting",
                                        "kv_cache_usage_perc",
                                        "prompt_tokens_total",
                                        "generation_tokens_total",
                                        "request_success_total",
                                        "time_to_first_token_seconds_bucket",
                                        "inter_token_latency_seconds_sum",
                                        "e2e_request_latency_seconds_count",
                                        "request_queue_time_seconds_count",
                                        "request_prefill_time_seconds_count",
                                        "request_decode_time_seconds_count",
                                        "image_encode_seconds_count",
                                        "image_tokens_total",
                                        "image_cache_hits_total"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char wanted[100];
        snprintf(wanted, sizeof wanted, "\nballast:%s{model_name=\"model\"", names[i]);
        if (!strstr(r.body, wanted)) fail_msg("/metrics lacks %s", names[i]);
    }
    reply_free(&r);
}

/* ---- An answer depends on its request alone -------------------------------------------------- */

/* Requests of all kinds: greedy, sampled, with one and three pictures, with a grammar. Sanitizers
 * make arithmetic slow, and what they look for does not need sixteen. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { N_KINDS = 3 };
#else
enum { N_KINDS = 16 };
#endif

static char *body_of_kind(int kind, const char *extra)
{
    static const char *const texts[] = {"What is it?", "Describe the picture.", "Hello", "Count"};
    const char *urls[3] = {picture, picture, picture};
    const int n_pictures = kind % 4 == 0 ? 1 : kind % 4 == 1 ? 3 : 0;
    char more[500];
    snprintf(more, sizeof more, ",\"temperature\":%s,\"seed\":%d,\"max_tokens\":%d%s%s",
             kind % 3 ? "1.3" : "0", kind, 6 + kind,
             kind % 5 == 2 ? ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{"
                             "\"schema\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}}}}"
                           : ",\"ignore_eos\":true,\"presence_penalty\":0.5",
             extra);
    return chat_body(texts[kind % 4], urls, n_pictures, more);
}

typedef struct asked {
    pthread_t thread;
    int port;
    char *body;
    reply r;
} asked;

static void *ask_thread(void *ctx)
{
    asked *a = ctx;
    a->r = post(a->port, "/v1/chat/completions", a->body);
    return NULL;
}

/* All kinds at the same time. */
static void ask_together(asked asks[N_KINDS], int at_port, const char *extra)
{
    for (int i = 0; i < N_KINDS; i++) {
        asks[i] = (asked){.port = at_port, .body = body_of_kind(i, extra)};
        assert_int_equal(pthread_create(&asks[i].thread, NULL, ask_thread, &asks[i]), 0);
    }
    for (int i = 0; i < N_KINDS; i++) pthread_join(asks[i].thread, NULL);
}

static void ask_one_by_one(asked asks[N_KINDS], int at_port, const char *extra)
{
    for (int i = 0; i < N_KINDS; i++) {
        asks[i] = (asked){.port = at_port, .body = body_of_kind(i, extra)};
        ask_thread(&asks[i]);
    }
}

static void answers_free(asked asks[N_KINDS])
{
    for (int i = 0; i < N_KINDS; i++) {
        reply_free(&asks[i].r);
        free(asks[i].body);
    }
}

static void expect_same(asked got[N_KINDS], const asked wanted[N_KINDS], const char *how)
{
    for (int i = 0; i < N_KINDS; i++) {
        const json_t *a = json_object_get(got[i].r.json, "choices");
        if (got[i].r.status != 200 || !json_equal(a, json_object_get(wanted[i].r.json, "choices")))
            fail_msg("%s, kind %d: %s\nalone: %s", how, i, got[i].r.body, wanted[i].r.body);
    }
    answers_free(got);
}

/* A stream that is begun and left; the socket is to be closed later. */
static int begin_and_stop_reading(int at_port)
{
    char first[64];
    char *body = chat_body("Hello", (const char *const *)&picture, 1,
                           ",\"stream\":true,\"max_tokens\":700,\"ignore_eos\":true");
    const int fd = raw_connect(at_port);
    dprintf(fd,
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n"
            "\r\n%s",
            strlen(body), body);
    assert_true(read(fd, first, sizeof first) > 0);
    free(body);
    return fd;
}

static void the_same_request_gives_the_same_tokens(void **state)
{
    (void)state;
    static const char fresh[] = ",\"logprobs\":true,\"top_logprobs\":2,\"no_cache\":true";
    static const char cached[] = ",\"logprobs\":true,\"top_logprobs\":2";
    asked alone[N_KINDS], got[N_KINDS];
    int fds[3], hits = 0;
    ask_one_by_one(alone, port, fresh);
    ask_together(got, port, cached);
    expect_same(got, alone, "in a batch that fills the caches");
    for (int i = 0; i < 3; i++) fds[i] = begin_and_stop_reading(port);
    for (int i = 0; i < 3; i++) close(fds[i]); /* lost while the others are under way */
    ask_together(got, port, cached);
    for (int i = 0; i < N_KINDS; i++) hits += usage_of(&got[i].r, "cached_tokens") > 0;
    assert_true(hits >= (N_KINDS + 1) / 2);
    expect_same(got, alone, "with cache hits, after clients were lost");
    const struct {
        const char *how;
        bal_server_opts o;
    } others[] = {
        {"in chunks of 7, one thread, no prefix cache",
         {.ctx = 1024, .step_tokens = 7, .max_running = 4, .threads = 1, .no_prefix_cache = true}},
        /* 17 pages: one context and no more; requests are put aside and taken up again */
        {"with pages for one long request", {.ctx = 1024, .kv_bytes = 4456448, .max_running = 4}},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        bal_server *s = server_start(others[i].o);
        server_load(s);
        ask_together(got, bal_server_port(s), cached);
        expect_same(got, alone, others[i].how);
        bal_server_close(s);
    }
    answers_free(alone);
}

/* Eight-bit keys and values have answers of their own, as little dependent on company. */
static void eight_bit_pages_repeat_themselves(void **state)
{
    (void)state;
    asked alone[N_KINDS], got[N_KINDS];
    bal_server *s = server_start((bal_server_opts){.ctx = 1024, .kv = "i8"});
    server_load(s);
    ask_one_by_one(alone, bal_server_port(s), ",\"no_cache\":true");
    ask_together(got, bal_server_port(s), "");
    expect_same(got, alone, "in a batch");
    answers_free(alone);
    bal_server_close(s);
}

static void two_models_are_served(void **state)
{
    (void)state;
    static const char *const names[] = {"one", "two"};
    const char *const models[] = {source_path("demo/model"), source_path("demo/model")};
    bal_server *s = server_start(
        (bal_server_opts){.models = models, .names = names, .n_models = 2, .ctx = 512});
    server_load(s);
    const int at_port = bal_server_port(s);
    reply r = get(at_port, "/v1/models");
    const json_t *list = json_object_get(r.json, "data");
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 1), "id")), "two");
    reply_free(&r);
    char *both[2];
    for (int i = 0; i < 2; i++) {
        char more[100];
        snprintf(more, sizeof more, ",\"temperature\":0,\"max_tokens\":9,\"model\":\"%s\"",
                 names[i]);
        const char *urls[1] = {picture};
        char *body = chat_body("Describe the picture.", urls, 1, more);
        reply answer = post(at_port, "/v1/chat/completions", body);
        assert_string_equal(json_string_value(json_object_get(answer.json, "model")), names[i]);
        both[i] = strdup(answer_of(&answer));
        reply_free(&answer);
        free(body);
    }
    assert_true(strlen(both[0]) > 3);
    assert_string_equal(both[0], both[1]);
    r = get(at_port, "/metrics");
    assert_non_null(strstr(r.body, "ballast:images_encoded_total{model_name=\"two\"} 1\n"));
    reply_free(&r);
    r = post(at_port, "/v1/chat/completions",
             "{\"model\":\"three\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}");
    ASSERT_ERROR(r, 404, "model_not_found", "model");
    assert_non_null(strstr(r.body, "'one', 'two'"));
    reply_free(&r);
    for (int i = 0; i < 2; i++) free(both[i]);
    bal_server_close(s);
}

/* A client that goes away frees what its request holds. */
static void a_lost_client_is_forgotten(void **state)
{
    (void)state;
    char *body =
        chat_body("Hello", NULL, 0, ",\"stream\":true,\"max_tokens\":900,\"ignore_eos\":true");
    for (int i = 0; i < 3; i++) {
        const int fd = raw_connect(port);
        char first[64];
        dprintf(fd,
                "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n"
                "\r\n%s",
                strlen(body), body);
        assert_true(read(fd, first, sizeof first) > 0);
        close(fd);
    }
    free(body);
    for (int i = 0; i < 200; i++) {
        reply r = get(port, "/metrics");
        const bool idle = strstr(r.body, "num_requests_running{model_name=\"model\"} 0\n") &&
                          strstr(r.body, "finished_reason=\"abort\"} 3\n");
        reply_free(&r);
        if (idle) return;
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    }
    fail_msg("requests of lost clients are still there");
}

/* ---- Servers of their own -------------------------------------------------------------------- */

static void a_full_queue_says_429(void **state)
{
    (void)state;
    enum { N = 12 };
    asked asks[N];
    bal_server *s = server_start((bal_server_opts){.max_running = 1, .max_waiting = 2, .ctx = 512});
    server_load(s);
    char *body = chat_body("Hello", NULL, 0, ",\"max_tokens\":40,\"ignore_eos\":true");
    for (int i = 0; i < N; i++) {
        asks[i] = (asked){.port = bal_server_port(s), .body = body};
        assert_int_equal(pthread_create(&asks[i].thread, NULL, ask_thread, &asks[i]), 0);
    }
    int good = 0, full = 0;
    for (int i = 0; i < N; i++) {
        pthread_join(asks[i].thread, NULL);
        good += asks[i].r.status == 200;
        if (asks[i].r.status != 200) {
            ASSERT_ERROR(asks[i].r, 429, "queue_full", NULL);
            full++;
        }
        reply_free(&asks[i].r);
    }
    assert_true(good >= 3 && full >= 1);
    free(body);
    /* more answers than the queue ever holds: coming back later would not help */
    body = chat_body("Hello", NULL, 0, ",\"max_tokens\":4,\"n\":4");
    reply many = post(bal_server_port(s), "/v1/chat/completions", body);
    ASSERT_ERROR(many, 400, "invalid_value", "n");
    reply_free(&many);
    free(body);
    bal_server_close(s);
}

static void stopping_ends_streams_cleanly(void **state)
{
    (void)state;
    for (int grace = 0; grace < 2; grace++) {
        char reason[16];
        bool done;
        bal_server *s = server_start((bal_server_opts){.ctx = 2048});
        server_load(s);
        char *body = chat_body("Hello", NULL, 0,
                               grace ? ",\"stream\":true,\"max_tokens\":40,\"ignore_eos\":true"
                                     : ",\"stream\":true,\"max_tokens\":1900,\"ignore_eos\":true");
        asked a = {.port = bal_server_port(s), .body = body};
        assert_int_equal(pthread_create(&a.thread, NULL, ask_thread, &a), 0);
        nanosleep(&(struct timespec){0, 300000000}, NULL);
        bal_server_stop(s, grace ? 120.0 : 0.0, NULL, NULL);
        pthread_join(a.thread, NULL);
        json_t *chunks = chunks_of(a.r.body, &done);
        char *text = stream_text(chunks, reason);
        assert_int_equal(a.r.status, 200);
        assert_true(done);
        const json_t *last = json_array_get(chunks, json_array_size(chunks) - 1);
        const json_t *e = json_object_get(last, "error");
        if (grace) {
            assert_string_equal(reason, "length");
        } else {
            assert_string_equal(json_string_value(json_object_get(e, "code")), "server_stopping");
        }
        free(text);
        json_decref(chunks);
        reply_free(&a.r);
        free(body);
        bal_server_close(s);
    }
}

static void keys_and_origins_are_checked(void **state)
{
    (void)state;
    static const char *const keys[] = {"sk-one", "sk-two"};
    static const char *const origins[] = {"https://good.example"};
    bal_server *s = server_start((bal_server_opts){
        .api_keys = keys, .n_api_keys = 2, .origins = origins, .n_origins = 1, .ctx = 512});
    server_load(s);
    const int p = bal_server_port(s);
    char own[60];
    snprintf(own, sizeof own, "Origin: http://127.0.0.1:%d", p);
    const struct {
        const char *path, *header;
        int status;
        const char *code;
    } cases[] = {
        {"/v1/models", NULL, 401, "invalid_api_key"},
        {"/v1/models", "Authorization: Bearer sk-onf", 401, "invalid_api_key"},
        {"/v1/models", "Authorization: Bearer ", 401, "invalid_api_key"},
        {"/v1/models", "Authorization: Basic sk-one", 401, "invalid_api_key"},
        {"/v1/models", "Authorization: Bearer sk-two", 200, NULL},
        {"/metrics", NULL, 401, "invalid_api_key"},
        {"/health", NULL, 200, NULL},
        {"/", NULL, 200, NULL},
        {"/health", "Origin: https://evil.example", 403, "origin_not_allowed"},
        {"/health", "Origin: https://good.example", 200, NULL},
        {"/health", own, 200, NULL},
        {"/health", "Origin: null", 403, "origin_not_allowed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        reply r = http(p, cases[i].path, NULL, 0, cases[i].header);
        if (r.status != cases[i].status)
            fail_msg("%s %s: %ld", cases[i].path, cases[i].header, r.status);
        if (cases[i].code) ASSERT_ERROR(r, cases[i].status, cases[i].code, NULL);
        reply_free(&r);
    }
    bal_server_close(s);
}

/* A page whose owner points its name here gets nothing by GET either, nor by POST without an
 * origin. Where a key is needed, or others are let in anyway, the name does not matter. */
static void hosts_are_checked_where_no_key_is(void **state)
{
    (void)state;
    static const char *const origins[] = {"https://chat.example:8443"}, *const keys[] = {"sk"};
    static const char *const paths[] = {"/",          "/health",  "/metrics",
                                        "/v1/models", "/v1/none", "/tokenize"};
    static const struct {
        const char *host;
        int status; /* 0: not refused */
    } hosts[] = {{"Host: evil.example", 403},
                 {"Host: evil.example:80", 403},
                 {"Host: 127.0.0.1.evil.example", 403},
                 {"Host: localhost.evil.example", 403},
                 {"Host: chat.example.evil", 403},
                 {"Host: chat", 403},
                 {"Host: :8080", 403},
                 {"Host: localhost:8080", 0},
                 {"Host: [::1]:8080", 0},
                 {"Host: 192.0.2.7", 0},
                 {"Host: Chat.Example", 0},
                 {"Host: chat.example:80", 0}};
    enum { PATHS = sizeof paths / sizeof paths[0], HOSTS = sizeof hosts / sizeof hosts[0] };
    bal_server *s = server_start((bal_server_opts){.origins = origins, .n_origins = 1});
    for (int i = 0; i < HOSTS * PATHS; i++) {
        const char *path = paths[i % PATHS], *body = strcmp(path, "/tokenize") ? NULL : "{}";
        reply r = http(bal_server_port(s), path, body, body ? 2 : 0, hosts[i / PATHS].host);
        if (hosts[i / PATHS].status)
            ASSERT_ERROR(r, 403, "host_not_allowed", NULL);
        else if (r.status == 403 || r.status == 0)
            fail_msg("%s %s: %ld", hosts[i / PATHS].host, path, r.status);
        reply_free(&r);
    }
    bal_server_close(s);
    const bal_server_opts open[] = {{.api_keys = keys, .n_api_keys = 1}, {.host = "0.0.0.0"}};
    for (int i = 0; i < 2; i++) {
        s = server_start(open[i]);
        reply r = http(bal_server_port(s), "/", NULL, 0, "Host: gpu-box.example");
        assert_int_equal(r.status, 200);
        reply_free(&r);
        bal_server_close(s);
    }
}

static void what_cannot_start_says_why(void **state)
{
    (void)state;
    bal_error err;
    bal_server *s;
    const char *const none[] = {"/nowhere/model"}, *const two[] = {source_path("demo/model"),
                                                                   source_path("demo/model")};
    bal_server_opts o = {.models = none, .n_models = 1, .host = "256.1.1.1"};
    ASSERT_FAILS(BAL_E_ARG, "256.1.1.1", bal_server_open(&s, &o, &err));
    o.host = NULL;
    o.port = port;
    ASSERT_FAILS(BAL_E_IO, "in use", bal_server_open(&s, &o, &err));
    o.port = 0;
    ASSERT_OK(bal_server_open(&s, &o, &err));
    ASSERT_FAILS(BAL_E_IO, "/nowhere/model", bal_server_load(s, &err));
    bal_server_close(s);
    o = (bal_server_opts){.models = two, .n_models = 2, .ctx = 512};
    ASSERT_OK(bal_server_open(&s, &o, &err));
    ASSERT_FAILS(BAL_E_ARG, "two models are called 'model'", bal_server_load(s, &err));
    bal_server_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routes_answer),
        cmocka_unit_test(pictures_are_seen_once),
        cmocka_unit_test(a_seed_repeats_and_n_differ),
        cmocka_unit_test(streams_have_the_shape),
        cmocka_unit_test(stop_strings_end_an_answer),
        cmocka_unit_test(json_comes_as_asked),
        cmocka_unit_test(completions_echo_with_logprobs),
        cmocka_unit_test(tokens_go_there_and_back),
        cmocka_unit_test(metrics_count),
        cmocka_unit_test(a_lost_client_is_forgotten),
        cmocka_unit_test(the_same_request_gives_the_same_tokens),
        cmocka_unit_test(eight_bit_pages_repeat_themselves),
        cmocka_unit_test(two_models_are_served),
        cmocka_unit_test(a_full_queue_says_429),
        cmocka_unit_test(stopping_ends_streams_cleanly),
        cmocka_unit_test(keys_and_origins_are_checked),
        cmocka_unit_test(hosts_are_checked_where_no_key_is),
        cmocka_unit_test(what_cannot_start_says_why),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
