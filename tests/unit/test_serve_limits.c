/* SPDX-License-Identifier: MIT
 * What a request may cost the server before anybody can refuse it by its content: values of a body
 * count before it is parsed, text before it becomes tokens, and whoever waits for another server's
 * picture waits alone. */
#include "serve_fixture.h"

#include "serve/request.h"

#include <netinet/in.h>

static bal_server *server;
static int port;

static int group_setup(void **state)
{
    static const char *const urls[] = {"*"};
    (void)state;
    server = server_start((bal_server_opts){.ctx = 256,
                                            .url_s = 30.0,
                                            .allow_urls = urls,
                                            .n_allow_urls = 1,
                                            .allow_private_urls = true});
    port = bal_server_port(server);
    server_load(server);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    bal_server_close(server);
    return 0;
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* head, n times piece, tail; *size its bytes. */
static char *repeated(const char *head, const char *piece, size_t n, const char *tail, size_t *size)
{
    const size_t h = strlen(head), p = strlen(piece), t = strlen(tail);
    char *s = malloc(h + n * p + t + 1);
    assert_non_null(s);
    memcpy(s, head, h);
    for (size_t i = 0; i < n; i++) memcpy(s + h + i * p, piece, p);
    memcpy(s + h + n * p, tail, t + 1);
    *size = h + n * p + t;
    return s;
}

/* The code of the refusal, "" where there is none. */
static const char *read_code(const char *head, const char *piece, size_t n, const char *tail)
{
    static bal_refusal f;
    const bal_request_limits limits = {.max_images = 1, .max_choices = 1};
    bal_api_request r = {0};
    size_t size;
    char *body = repeated(head, piece, n, tail, &size);
    f = (bal_refusal){0};
    bal_api_request_read(&r, BAL_REQUEST_COMPLETION, body, size, &limits, &f);
    bal_api_request_free(&r);
    free(body);
    return f.code ? f.code : "";
}

static void values_are_counted_before_parsing(void **state)
{
    (void)state;
    const size_t many = BAL_REQUEST_MAX_VALUES, groups = BAL_REQUEST_MAX_GROUPS;
    assert_string_equal(read_code("{\"prompt\":[1", ",1", many, "]}"), "too_many_values");
    assert_string_equal(read_code("{\"prompt\":[1", ",1", many - 1, "]}"), "");
    assert_string_equal(read_code("{\"prompt\":\"a\",\"x\":[[]", ",[]", groups, "]}"),
                        "too_many_values");
    assert_string_equal(read_code("{\"prompt\":\"a\",\"x\":[{}", ",{}", groups - 3, "]}"), "");
    /* inside text nothing counts, whatever is escaped there */
    assert_string_equal(read_code("{\"prompt\":\"", ",[{", many, "\"}"), "");
    assert_string_equal(read_code("{\"prompt\":\"", "\\\",\\\\[", many, "\"}"), "");
    assert_string_equal(read_code("{\"prompt\":\"", "\\", 1, ""), "invalid_json");
}

/* ---- Defaults: docs/serving.md has the same table ---------------------------------------------
 */

static void what_is_not_said_is_as_documented(void **state)
{
    (void)state;
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
                               "{\"role\":\"assistant\",\"content\":\"b\"}]}";
    const bal_request_limits limits = {.max_images = 1, .max_choices = 1};
    bal_api_request r = {0};
    bal_refusal f = {0};
    assert_int_equal(bal_api_request_read(&r, BAL_REQUEST_CHAT, body, sizeof body - 1, &limits, &f),
                     BAL_OK);
    assert_true(r.sampling.temperature == 1.0f && r.sampling.top_p == 1.0f);
    assert_true(r.sampling.top_k == 0 && !r.has_seed && r.n == 1);
    assert_true(r.presence_penalty == 0.0f && r.frequency_penalty == 0.0f);
    assert_true(r.repetition_penalty == 0.0f || r.repetition_penalty == 1.0f);
    assert_true(r.n_bias == 0 && r.n_stops == 0 && r.max_tokens == -1);
    assert_true(!r.logprobs && r.n_top_logprobs == 0 && r.format == BAL_FORMAT_TEXT);
    assert_true(!r.stream && !r.include_usage && !r.echo && !r.ignore_eos && !r.no_cache);
    assert_null(r.model);
    assert_int_equal(r.n_messages, 2); /* the last one may be the assistant's */
    bal_api_request_free(&r);
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void text_that_cannot_fit_is_not_cut_up(void **state)
{
    (void)state;
    size_t n;
    char *body = repeated("{\"prompt\":\"", "word ", 800000, "\",\"max_tokens\":1}", &n);
    reply r = http(port, "/v1/completions", body, n, NULL);
    const json_t *e = json_object_get(r.json, "error");
    assert_int_equal(r.status, 400);
    assert_string_equal(json_string_value(json_object_get(e, "code")), "context_length_exceeded");
    assert_int_equal(json_integer_value(json_object_get(e, "n_ctx")), 256);
    assert_true(json_integer_value(json_object_get(e, "n_prompt_tokens")) > 256);
    assert_non_null(strstr(r.body, "at least"));
    reply_free(&r);
    free(body);
}

/* ---- Slow servers ---------------------------------------------------------------------------- */

enum { WAITING = 6 }; /* more than may decode at a time */

static atomic_int n_answered;
static char slow_request[200];

static void *ask_slow(void *ctx)
{
    reply r = post(port, "/v1/chat/completions", slow_request);
    *(long *)ctx = r.status;
    atomic_fetch_add(&n_answered, 1);
    reply_free(&r);
    return NULL;
}

/* Connections are taken by the kernel and never answered. */
static int listen_dumbly(int *at_port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof a;
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    assert_int_equal(listen(fd, 2 * WAITING), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    *at_port = ntohs(a.sin_port);
    return fd;
}

static void slow_picture_servers_hold_up_nobody(void **state)
{
    (void)state;
    pthread_t threads[WAITING];
    long status[WAITING];
    int slow_port;
    const int fd = listen_dumbly(&slow_port);
    snprintf(slow_request, sizeof slow_request,
             "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":"
             "\"http://127.0.0.1:%d/a.png\"}]}]}",
             slow_port);
    for (int i = 0; i < WAITING; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ask_slow, &status[i]), 0);
    nanosleep(&(struct timespec){0, 500000000}, NULL);

    reply text = post(port, "/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":1}");
    char *url = data_url_of_file("image/png", source_path("demo/data/pictures/eval238.png"));
    size_t size = strlen(url) + 200;
    char *body = malloc(size);
    snprintf(
        body, size,
        "{\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\","
        "\"image_url\":\"%s\"}]}]}",
        url);
    reply seen = post(port, "/v1/chat/completions", body);
    assert_int_equal(text.status, 200);
    assert_int_equal(seen.status, 200);
    assert_int_equal(atomic_load(&n_answered), 0);

    close(fd); /* resets them */
    for (int i = 0; i < WAITING; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(status[i], 400);
    }
    reply_free(&text);
    reply_free(&seen);
    free(body);
    free(url);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_counted_before_parsing),
        cmocka_unit_test(what_is_not_said_is_as_documented),
        cmocka_unit_test(text_that_cannot_fit_is_not_cut_up),
        cmocka_unit_test(slow_picture_servers_hold_up_nobody),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
