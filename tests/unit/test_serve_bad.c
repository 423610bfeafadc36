/* SPDX-License-Identifier: MIT
 * Bad input of every kind, on the embedded model: each gets its status and an error that names what
 * to change, while another client's stream goes on unharmed. */
#include "scratch.h"
#include "serve_fixture.h"

#include "base/rng.h"

static bal_server *server;
static int port;
static char *picture; /* as a data URL */
static char picture_file[1024];

enum { MAX_BODY = 400000 };

static atomic_int n_lost; /* answers that the server gave up */

static void on_log(void *ctx, const char *line)
{
    (void)ctx;
    if (strstr(line, "GET /metrics 200") && strstr(line, "connection lost"))
        atomic_fetch_add(&n_lost, 1);
}

/* An absolute path from here. */
static void relative(char *out, size_t size, const char *path)
{
    char here[1024];
    size_t n = 0;
    assert_non_null(getcwd(here, sizeof here));
    for (const char *p = here; (p = strchr(p, '/')); p++)
        if (p[1]) n += (size_t)snprintf(out + n, size - n, "../");
    snprintf(out + n, size - n, "%s", path + 1);
}

static int group_setup(void **state)
{
    static char media[1024];
    static const char *const urls[] = {"*"};
    if (scratch_setup(state) != 0) return -1;
    mkdir(scratch("media"), 0700);
    relative(media, sizeof media, scratch("media")); /* URLs below are absolute all the same */
    snprintf(picture_file, sizeof picture_file, "%s",
             source_path("demo/data/pictures/eval238.png"));
    picture = data_url_of_file("image/png", picture_file);
    server = server_start((bal_server_opts){.max_body = MAX_BODY,
                                            .max_images = 3,
                                            .max_choices = 4,
                                            .max_pixels = 1000000,
                                            .receive_s = 1.5,
                                            .send_s = 3.0,
                                            .url_s = 1.0,
                                            .ctx = 1024,
                                            .log = on_log,
                                            .media_dir = media,
                                            .allow_urls = urls,
                                            .n_allow_urls = 1});
    port = bal_server_port(server);
    server_load(server);
    return 0;
}

static int group_teardown(void **state)
{
    bal_server_close(server);
    free(picture);
    return scratch_teardown(state);
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
        if (i == 0)
            assert_non_null(strstr(r.body, "limit of 1000000, which is set by --max-pixels"));
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
    char *body = chat_body(text, NULL, 0, "");
    reply r = post(port, "/v1/chat/completions", body);
    free(body);
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

/* Asks for megabytes with a tiny window and reads nothing of them. */
static int deaf_connect(void)
{
    const int small = 2048;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    for (int i = 0; i < 500; i++) dprintf(fd, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    return fd;
}

/* A head and a body that do not come to their end, and answers that nobody reads: all are cut off,
 * the first two are told so. */
static void slow_clients_are_cut_off(void **state)
{
    (void)state;
    char answer[4096];
    witness w;
    witness_begin(&w, port);
    int fds[2];
    const int deaf = deaf_connect();
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
    for (int i = 0; i < 1200 && !atomic_load(&n_lost); i++)
        nanosleep(&(struct timespec){0, 50000000}, NULL);
    assert_int_equal(atomic_load(&n_lost), 1);
    close(deaf);
    witness_end(&w);
}

/* A schema whose alternatives unroll into more states than a grammar may have. */
static void a_schema_too_large_is_refused(void **state)
{
    (void)state;
    enum { N = 300 };
    char body[120 + 80 * N];
    int at = sprintf(body, MESSAGE ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":"
                                   "{\"schema\":{\"anyOf\":[");
    for (int i = 0; i < N; i++)
        at += sprintf(body + at,
                      "%s{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"minItems\":%d}",
                      i ? "," : "", i);
    strcpy(body + at, "]}}}}");
    reply r = post(port, "/v1/chat/completions", body);
    ASSERT_ERROR(r, 400, "unsupported_schema", "response_format.json_schema.schema");
    reply_free(&r);
}

static void a_model_name_of_any_length_is_unknown(void **state)
{
    (void)state;
    enum { N = 3000 };
    char path[N + 20] = "/v1/models/";
    const size_t at = strlen(path);
    memset(path + at, 'm', N);
    path[at + N] = 0;
    reply r = get(port, path);
    ASSERT_ERROR(r, 404, "model_not_found", "model");
    reply_free(&r);
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
    bal_server *small = server_start((bal_server_opts){.ctx = 64, .max_choices = 4});
    server_load(small);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_bodies_are_named),
        cmocka_unit_test(bad_pictures_are_named),
        cmocka_unit_test(files_stay_in_their_folder),
        cmocka_unit_test(too_long_prompts_say_both_numbers),
        cmocka_unit_test(large_bodies_are_refused),
        cmocka_unit_test(header_floods_are_refused),
        cmocka_unit_test(slow_clients_are_cut_off),
        cmocka_unit_test(a_schema_too_large_is_refused),
        cmocka_unit_test(a_model_name_of_any_length_is_unknown),
        cmocka_unit_test(a_thousand_broken_requests),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
