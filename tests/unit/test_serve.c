/* SPDX-License-Identifier: MIT
 * The server from outside, on the embedded model: what the API answers, what every kind of bad
 * input gets while another client's stream goes on unharmed, queues and ends. */
#include "scratch.h"
#include "serve_client.h"

#include "base/rng.h"
#include "serve/server.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

static bal_server *server;
static int port;
static char *picture; /* as a data URL */
static char picture_file[1024];

enum { MAX_BODY = 400000 };

static bal_server *start(bal_server_opts o)
{
    static const char *model[1];
    bal_error err;
    bal_server *s;
    model[0] = source_path("demo/model");
    o.models = model;
    o.n_models = 1;
    if (bal_server_open(&s, &o, &err) < 0) fail_msg("%s", err.text);
    return s;
}

static void load(bal_server *s)
{
    bal_error err;
    ASSERT_OK(bal_server_load(s, &err));
}

static int group_setup(void **state)
{
    static char media[1024];
    static const char *const urls[] = {"*"};
    if (scratch_setup(state) != 0) return -1;
    snprintf(media, sizeof media, "%s", scratch("media"));
    mkdir(media, 0700);
    snprintf(picture_file, sizeof picture_file, "%s",
             source_path("demo/data/pictures/eval238.png"));
    picture = data_url_of_file("image/png", picture_file);
    server = start((bal_server_opts){.max_body = MAX_BODY,
                                     .max_images = 3,
                                     .max_choices = 4,
                                     .max_pixels = 1000000,
                                     .receive_s = 1.5,
                                     .url_s = 1.0,
                                     .ctx = 1024,
                                     .media_dir = media,
                                     .allow_urls = urls,
                                     .n_allow_urls = 1});
    port = bal_server_port(server);
    reply r = get(port, "/health"); /* before the model is there */
    const bool loading = is_error(&r, 503, "loading", NULL);
    reply_free(&r);
    reply chat = post(port, "/v1/chat/completions", "{}");
    const bool waits = is_error(&chat, 503, "loading", NULL);
    reply_free(&chat);
    load(server);
    return loading && waits ? 0 : -1;
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

/* Chunks of a stream: their JSON in an array; *done: [DONE] came last. */
static json_t *chunks_of(const char *body, bool *done)
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
static char *stream_text(const json_t *chunks, char reason[16])
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

/* ---- Bad input, beside a witness ------------------------------------------------------------- */

/* A stream that repeats until told to end; every run must give the text of the first. */
typedef struct witness {
    pthread_t thread;
    int port;
    atomic_bool end;
    int runs, wrong;
    char *first;
} witness;

static void *witness_run(void *ctx)
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

static void witness_begin(witness *w, int at_port)
{
    *w = (witness){.port = at_port};
    assert_int_equal(pthread_create(&w->thread, NULL, witness_run, w), 0);
}

static void witness_end(witness *w)
{
    atomic_store(&w->end, true);
    pthread_join(w->thread, NULL);
    assert_true(strlen(w->first) > 10);
    assert_int_equal(w->wrong, 0);
    free(w->first);
}

#define MESSAGE "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]"
#define PARTS   "{\"messages\":[{\"role\":\"user\",\"content\":["

static void bad_bodies_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *body, *code, *param;
        int status;
    } cases[] = {
        {"", "invalid_json", NULL, 400},
        {"{\"messages\":", "invalid_json", NULL, 400},
        {"\xff\xfe", "invalid_json", NULL, 400},
        {"{\"a\":1,\"a\":2}", "invalid_json", NULL, 400},
        {"[1]", "invalid_type", NULL, 400},
        {"{}", "missing_parameter", "messages", 400},
        {"{\"messages\":3}", "invalid_type", "messages", 400},
        {"{\"messages\":[]}", "invalid_value", "messages", 400},
        {"{\"messages\":[7]}", "invalid_type", "messages[0]", 400},
        {"{\"messages\":[{\"content\":\"a\"}]}", "invalid_type", "messages[0].role", 400},
        {"{\"messages\":[{\"role\":\"root\",\"content\":\"a\"}]}", "invalid_value",
         "messages[0].role", 400},
        {"{\"messages\":[{\"role\":\"user\"}]}", "invalid_type", "messages[0].content", 400},
        {PARTS "{\"type\":\"video\"}]}]}", "invalid_value", "messages[0].content[0].type", 400},
        {PARTS "{\"type\":\"text\",\"text\":4}]}]}", "invalid_type", "messages[0].content[0].text",
         400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"data:image/gif;base64,R0lG\"}]}]}",
         "unsupported_image_type", "messages[0].content[0].image_url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:text/html,a\"}}]}]}",
         "unsupported_image_type", "messages[0].content[0].image_url.url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"data:image/png;base64,***=\"}]}]}",
         "invalid_base64", "messages[0].content[0].image_url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"data:image/png;base64,AAAA\"}]}]}",
         "invalid_image", "messages[0].content[0].image_url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"gopher://x/\"}]}]}", "invalid_url",
         "messages[0].content[0].image_url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"http://127.0.0.1:9/a.png\"}]}]}",
         "url_not_allowed", "messages[0].content[0].image_url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"http://localhost:9/a.png\"}]}]}",
         "url_not_allowed", "messages[0].content[0].image_url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"http://169.254.169.254/a\"}]}]}",
         "url_not_allowed", "messages[0].content[0].image_url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"http://[::1]:9/a\"}]}]}", "url_not_allowed",
         "messages[0].content[0].image_url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"http://10.1.2.3/a\"}]}]}",
         "url_not_allowed", "messages[0].content[0].image_url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"file:///etc/passwd\"}]}]}",
         "file_not_allowed", "messages[0].content[0].image_url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"file://../a.png\"}]}]}", "file_not_allowed",
         "messages[0].content[0].image_url", 400},
        {PARTS "{\"type\":\"image_url\",\"image_url\":\"file://%2e%2e/a.png\"}]}]}",
         "file_not_allowed", "messages[0].content[0].image_url", 400},
        {MESSAGE ",\"model\":\"gpt\"}", "model_not_found", "model", 404},
        {MESSAGE ",\"model\":3}", "invalid_type", "model", 400},
        {MESSAGE ",\"temperature\":\"hot\"}", "invalid_type", "temperature", 400},
        {MESSAGE ",\"temperature\":3}", "invalid_value", "temperature", 400},
        {MESSAGE ",\"top_p\":0}", "invalid_value", "top_p", 400},
        {MESSAGE ",\"max_tokens\":0}", "invalid_value", "max_tokens", 400},
        {MESSAGE ",\"max_tokens\":1.5}", "invalid_type", "max_tokens", 400},
        {MESSAGE ",\"n\":9}", "invalid_value", "n", 400},
        {MESSAGE ",\"stop\":[\"\"]}", "invalid_value", "stop[0]", 400},
        {MESSAGE ",\"stop\":7}", "invalid_type", "stop", 400},
        {MESSAGE ",\"seed\":1e30}", "invalid_type", "seed", 400},
        {MESSAGE ",\"logit_bias\":{\"x\":1}}", "invalid_value", "logit_bias", 400},
        {MESSAGE ",\"logit_bias\":{\"999999\":1}}", "invalid_value", "logit_bias", 400},
        {MESSAGE ",\"logit_bias\":{\"1\":101}}", "invalid_value", "logit_bias.1", 400},
        {MESSAGE ",\"top_logprobs\":2}", "invalid_value", "top_logprobs", 400},
        {MESSAGE ",\"logprobs\":true,\"top_logprobs\":21}", "invalid_value", "top_logprobs", 400},
        {MESSAGE ",\"stream\":1}", "invalid_type", "stream", 400},
        {MESSAGE ",\"stream_options\":{}}", "invalid_value", "stream_options", 400},
        {MESSAGE ",\"tools\":[{}]}", "unsupported_parameter", "tools", 400},
        {MESSAGE ",\"response_format\":{\"type\":\"xml\"}}", "invalid_value",
         "response_format.type", 400},
        {MESSAGE ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"schema\":"
                 "{\"type\":\"string\",\"pattern\":\"a\"}}}}",
         "unsupported_schema", "response_format.json_schema.schema", 400},
    };
    witness w;
    witness_begin(&w, port);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        reply r = post(port, "/v1/chat/completions", cases[i].body);
        if (!is_error(&r, cases[i].status, cases[i].code, cases[i].param))
            fail_msg("%s\n wanted %d %s %s, got %ld %s", cases[i].body, cases[i].status,
                     cases[i].code, cases[i].param, r.status, r.body);
        reply_free(&r);
    }
    witness_end(&w);
}

static void put_u32(uint8_t *at, uint32_t v)
{
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(v >> (24 - 8 * i));
}

static uint32_t png_crc(const uint8_t *data, size_t n)
{
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < n; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

/* A sound head that claims width x height, and nothing behind it. */
static char *bomb_url(uint32_t width, uint32_t height)
{
    uint8_t png[45] = {0x89, 'P', 'N', 'G', 13, 10, 26, 10, 0, 0, 0, 13, 'I', 'H', 'D', 'R'};
    put_u32(png + 16, width);
    put_u32(png + 20, height);
    png[24] = 8;
    png[25] = 2;
    put_u32(png + 29, png_crc(png + 12, 17));
    memcpy(png + 37, "IDAT", 4);
    return data_url("image/png", png, sizeof png);
}

static void bad_pictures_are_named(void **state)
{
    (void)state;
    static const char param[] = "messages[0].content[1].image_url.url";
    witness w;
    witness_begin(&w, port);
    char *bomb = bomb_url(30000, 30000), *cut = strdup(picture);
    cut[strlen("data:image/png;base64,") + 400] = 0; /* the first 300 bytes */
    char *const bad[] = {bomb, cut};
    for (int i = 0; i < 2; i++) {
        const char *urls[2] = {picture, bad[i]};
        char *body = chat_body("What?", urls, 2, "");
        reply r = post(port, "/v1/chat/completions", body);
        ASSERT_ERROR(r, 400, "invalid_image", param);
        reply_free(&r);
        free(body);
        free(bad[i]);
    }
    const char *many[4] = {picture, picture, picture, picture};
    char *body = chat_body("What?", many, 4, "");
    reply r = post(port, "/v1/chat/completions", body);
    ASSERT_ERROR(r, 400, "too_many_images", "messages[0].content[3].image_url.url");
    reply_free(&r);
    free(body);
    witness_end(&w);
}

static void files_stay_in_their_folder(void **state)
{
    (void)state;
    uint8_t *bytes;
    size_t n;
    bal_error err;
    char url[2100];
    ASSERT_OK(bal_read_file(&bytes, &n, picture_file, 1 << 20, &err));
    scratch_write(scratch("media/in.png"), bytes, n);
    scratch_write(scratch("out.png"), bytes, n);
    free(bytes);
    assert_int_equal(symlink("../out.png", scratch("media/link.png")), 0);
    assert_int_equal(symlink("..", scratch("media/up")), 0);
    static const struct {
        const char *name;
        int status;
    } cases[] = {{"in.png", 200},      {"./in.png", 200}, {"link.png", 400}, {"up/out.png", 400},
                 {"../out.png", 400},  {"none.png", 400}, {"", 400},         {"up", 400},
                 {"x/../in.png", 400}, {"in.png/x", 400}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int absolute = 0; absolute < 2; absolute++) {
            snprintf(url, sizeof url, "file://%s%s%s", absolute ? scratch("media") : "",
                     absolute ? "/" : "", cases[i].name);
            const char *urls[1] = {url};
            char *body = chat_body("What?", urls, 1, ",\"max_tokens\":1");
            reply r = post(port, "/v1/chat/completions", body);
            if (r.status != cases[i].status) fail_msg("%s: %ld %s", url, r.status, r.body);
            if (r.status == 400)
                ASSERT_ERROR(r, 400, "file_not_allowed", "messages[0].content[0].image_url.url");
            reply_free(&r);
            free(body);
        }
}

static void too_long_prompts_say_both_numbers(void **state)
{
    (void)state;
    char *text = malloc(20000);
    memset(text, 'z', 19999);
    for (int i = 1; i < 19999; i += 2) text[i] = ' ';
    text[19999] = 0;
    reply r = chat(text, 0, "");
    ASSERT_ERROR(r, 400, "context_length_exceeded", "messages");
    const json_t *e = json_object_get(r.json, "error");
    assert_int_equal(json_integer_value(json_object_get(e, "n_ctx")), 1024);
    assert_true(json_integer_value(json_object_get(e, "n_prompt_tokens")) > 1024);
    assert_string_equal(json_string_value(json_object_get(e, "type")), "exceed_context_size_error");
    reply_free(&r);
    free(text);
}

static void large_bodies_are_refused(void **state)
{
    (void)state;
    witness w;
    witness_begin(&w, port);
    static const size_t sizes[] = {MAX_BODY + 1, 3 * MAX_BODY};
    for (int i = 0; i < 4; i++) {
        const size_t n = sizes[i % 2];
        char *body = malloc(n);
        memset(body, ' ', n);
        /* announced, and in chunks of unknown number */
        reply r = http(port, "/v1/chat/completions", body, n,
                       i < 2 ? NULL : "Transfer-Encoding: chunked");
        ASSERT_ERROR(r, 413, "body_too_large", NULL);
        reply_free(&r);
        free(body);
    }
    witness_end(&w);
}

static void header_floods_are_refused(void **state)
{
    (void)state;
    static const char end[] = "\r\n";
    char line[600], answer[4096];
    witness w;
    witness_begin(&w, port);
    for (int long_ones = 0; long_ones < 2; long_ones++) {
        const int fd = raw_connect(port);
        dprintf(fd, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        memset(line, 'x', sizeof line);
        for (int i = 0; i < (long_ones ? 100 : 1000); i++) {
            const int n = long_ones ? 512 : 8;
            dprintf(fd, "X-%d: %.*s\r\n", i, n, line);
        }
        assert_true(write(fd, end, 2) == 2);
        raw_read(fd, answer, sizeof answer);
        if (!strstr(answer, "HTTP/1.1 431") || !strstr(answer, "\"headers_too_large\""))
            fail_msg("%s", answer);
        close(fd);
    }
    witness_end(&w);
}

/* A head and a body that do not come to their end; both are told so and cut off. */
static void slow_clients_are_cut_off(void **state)
{
    (void)state;
    char answer[4096];
    witness w;
    witness_begin(&w, port);
    int fds[2];
    for (int body = 0; body < 2; body++) {
        fds[body] = raw_connect(port);
        dprintf(fds[body], "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n");
        if (body) dprintf(fds[body], "Content-Length: 100\r\n\r\n{\"messages\":");
    }
    for (int body = 0; body < 2; body++) {
        raw_read(fds[body], answer, sizeof answer);
        if (!strstr(answer, "HTTP/1.1 408") || !strstr(answer, "\"request_timeout\""))
            fail_msg("%s", answer);
        close(fds[body]);
    }
    witness_end(&w);
}

/* Sound bodies broken by a seeded generator: whatever they have become, the answer is a refusal in
 * shape or a completion. */
static void a_thousand_broken_requests(void **state)
{
    (void)state;
    static const char *const seeds[] = {
        MESSAGE ",\"max_tokens\":1,\"temperature\":0.5,\"stop\":[\"a\",\"b\"],\"seed\":3}",
        PARTS "{\"type\":\"text\",\"text\":\"hi\"},{\"type\":\"image_url\",\"image_url\":{\"url\":"
              "\"data:image/png;base64,iVBORw0KGgo=\"}}]}],\"max_tokens\":1}",
        MESSAGE ",\"max_tokens\":1,\"logprobs\":true,\"top_logprobs\":2,\"n\":2,\"stream\":true}",
        MESSAGE
        ",\"max_tokens\":1,\"response_format\":{\"type\":\"json_schema\",\"json_schema\":"
        "{\"schema\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}}}}}}",
        "{\"prompt\":[1,2,3],\"max_tokens\":1,\"echo\":true,\"logprobs\":1}",
    };
    static const char *const paths[] = {"/v1/chat/completions", "/v1/completions", "/tokenize",
                                        "/detokenize"};
    static const char junk[] = "{}[]\",:0123456789-eE.nulltruefalse\\u\xff\xc3\x00\x7f ";
    enum { N = 1000 };
    /* a short context: a body that has lost its max_tokens fills it */
    bal_server *small = start((bal_server_opts){.ctx = 64, .max_choices = 4});
    load(small);
    const int at_port = bal_server_port(small);
    bal_rng rng;
    witness w;
    int counts[6] = {0};
    bal_rng_seed(&rng, 20260726);
    witness_begin(&w, at_port);
    for (int i = 0; i < N; i++) {
        char body[600];
        strcpy(body, seeds[bal_rng_below(&rng, 5)]);
        size_t n = strlen(body);
        for (uint64_t k = 1 + bal_rng_below(&rng, 4); k > 0; k--) {
            const size_t at = bal_rng_below(&rng, n);
            switch (bal_rng_below(&rng, 4)) {
            case 0: body[at] = junk[bal_rng_below(&rng, sizeof junk)]; break;
            case 1: n = at + 1; break;
            case 2: memmove(body + at, body + at + 1, n - at - 1), n -= n > 1; break;
            default: memmove(body + at / 2, body + at, n - at), n -= at - at / 2; break;
            }
        }
        reply r = http(at_port, paths[bal_rng_below(&rng, i % 3 ? 1 : 4)], body, n, NULL);
        const bool good = r.status == 200 ||
                          (r.status >= 400 && r.status < 500 && json_object_get(r.json, "error"));
        if (!good) fail_msg("request %d: %ld %s\n%.*s", i, r.status, r.body, (int)n, body);
        counts[r.status / 100]++;
        reply_free(&r);
    }
    witness_end(&w);
    assert_true(counts[4] > N / 2); /* the generator does break them */
    reply r = get(at_port, "/health");
    assert_int_equal(r.status, 200);
    reply_free(&r);
    bal_server_close(small);
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

typedef struct asked {
    pthread_t thread;
    int port;
    const char *body;
    reply r;
} asked;

static void *ask_thread(void *ctx)
{
    asked *a = ctx;
    a->r = post(a->port, "/v1/chat/completions", a->body);
    return NULL;
}

static void a_full_queue_says_429(void **state)
{
    (void)state;
    enum { N = 12 };
    asked asks[N];
    bal_server *s = start((bal_server_opts){.max_running = 1, .max_waiting = 2, .ctx = 512});
    load(s);
    char *body = chat_body("Hello", NULL, 0, ",\"max_tokens\":60,\"ignore_eos\":true");
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
    bal_server_close(s);
}

static void stopping_ends_streams_cleanly(void **state)
{
    (void)state;
    for (int grace = 0; grace < 2; grace++) {
        char reason[16];
        bool done;
        bal_server *s = start((bal_server_opts){.ctx = 2048});
        load(s);
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
    bal_server *s = start((bal_server_opts){
        .api_keys = keys, .n_api_keys = 2, .origins = origins, .n_origins = 1, .ctx = 512});
    load(s);
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
        cmocka_unit_test(bad_bodies_are_named),
        cmocka_unit_test(bad_pictures_are_named),
        cmocka_unit_test(files_stay_in_their_folder),
        cmocka_unit_test(too_long_prompts_say_both_numbers),
        cmocka_unit_test(large_bodies_are_refused),
        cmocka_unit_test(header_floods_are_refused),
        cmocka_unit_test(slow_clients_are_cut_off),
        cmocka_unit_test(a_lost_client_is_forgotten),
        cmocka_unit_test(a_thousand_broken_requests),
        cmocka_unit_test(a_full_queue_says_429),
        cmocka_unit_test(stopping_ends_streams_cleanly),
        cmocka_unit_test(keys_and_origins_are_checked),
        cmocka_unit_test(what_cannot_start_says_why),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
