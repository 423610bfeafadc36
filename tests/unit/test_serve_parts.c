/* SPDX-License-Identifier: MIT
 * The server's parts alone: stop strings, addresses and URLs, fetching with redirects to places it
 * must not go, the text of /metrics, the page's policy. */
#include "check.h"

#include "base/rng.h"
#include "serve/answer.h"
#include "serve/fetch.h"
#include "serve/metrics.h"
#include "serve/page.h"
#include "serve/picture_source.h"
#include "serve/stop_text.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <microhttpd.h>
#include <openssl/evp.h>
#include <time.h>

/* ---- Stop strings ---------------------------------------------------------------------------- */

/* Where the text ends: at the stop string that ends first, of those the longest. */
static size_t end_of(const char *text, size_t n, const char *const *stops, int n_stops)
{
    for (size_t end = 1; end <= n; end++) {
        size_t longest = 0;
        for (int i = 0; i < n_stops; i++) {
            const size_t m = strlen(stops[i]);
            if (m <= end && m > longest && memcmp(text + end - m, stops[i], m) == 0) longest = m;
        }
        if (longest) return end - longest;
    }
    return n;
}

static void stop_strings_do_not_depend_on_pieces(void **state)
{
    (void)state;
    static const char *const stops[] = {"ab", "aab", "bb", "cacb", "b"};
    bal_rng rng;
    bal_error err;
    bal_rng_seed(&rng, 1);
    for (int trial = 0; trial < 3000; trial++) {
        enum { N = 24 };
        char text[N], got[N];
        size_t n_got = 0, at = 0;
        const int n_stops = (int)bal_rng_below(&rng, 5);
        for (int i = 0; i < N; i++) text[i] = (char)('a' + bal_rng_below(&rng, 3));
        bal_stop_text t;
        bal_stop_text_init(&t, stops, n_stops);
        while (at < N) {
            size_t n = 1 + bal_rng_below(&rng, 5), n_out;
            const char *out;
            if (n > N - at) n = N - at;
            ASSERT_OK(bal_stop_text_push(&t, text + at, n, at + n == N, &out, &n_out, &err));
            memcpy(got + n_got, out, n_out);
            n_got += n_out;
            at += n;
        }
        const size_t wanted = end_of(text, N, stops, n_stops);
        assert_int_equal(n_got, wanted);
        assert_memory_equal(got, text, wanted);
        assert_int_equal(t.stopped, wanted < N || (n_stops && end_of(text, N, stops, n_stops) < N));
        bal_stop_text_deinit(&t);
    }
}

/* ---- The text of an answer --------------------------------------------------------------------
 */

/* The space that sentencepiece puts in front of a text is no part of an answer, and is part of what
 * goes on in a prompt's text. */
static void an_answer_has_no_space_in_front(void **state)
{
    (void)state;
    bal_tokenizer *t;
    bal_error err;
    int32_t *ids;
    size_t n;
    ASSERT_OK(bal_tokenizer_open_dir(&t, source_path("tests/golden/text/spm"), &err));
    assert_true(bal_tokenizer_drops_space(t));
    ASSERT_OK(bal_tokenizer_encode(t, "what it is", 10, &ids, &n, &err));
    for (int own = 0; own < 2; own++) {
        bal_answer prompt, answer;
        bal_answer_init(&prompt, t, NULL, 0, false);
        bal_answer_init(&answer, t, NULL, 0, true);
        prompt.own_text = answer.own_text = own;
        ASSERT_OK(bal_answer_prefix(&prompt, ids, n, &err));
        for (size_t i = 0; i < n; i++) {
            const bal_note note = {.event = {.kind = BAL_EVENT_TOKEN, .id = ids[i]}};
            ASSERT_OK(bal_answer_take(&answer, &note, &err));
        }
        const char *want = own ? "what it is" : " what it is";
        assert_int_equal(prompt.n_text, strlen(want));
        assert_memory_equal(prompt.text, want, strlen(want));
        assert_int_equal(answer.n_text, strlen(want));
        assert_memory_equal(answer.text, want, strlen(want));
        bal_answer_deinit(&prompt);
        bal_answer_deinit(&answer);
    }
    free(ids);
    bal_tokenizer_close(t);
}

/* ---- Addresses and URLs ---------------------------------------------------------------------- */

static bool is_public(const char *text)
{
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &in.sin_addr) == 1)
        return bal_address_is_public((const struct sockaddr *)&in);
    assert_int_equal(inet_pton(AF_INET6, text, &in6.sin6_addr), 1);
    return bal_address_is_public((const struct sockaddr *)&in6);
}

static void addresses_are_told_apart(void **state)
{
    (void)state;
    static const char *const open[] = {"1.1.1.1",         "8.8.8.8",        "172.15.255.255",
                                       "172.32.0.1",      "100.63.255.255", "100.128.0.0",
                                       "192.167.1.1",     "223.255.255.1",  "2606:4700:4700::1111",
                                       "2001:4860::8888", "::ffff:1.1.1.1", "64:ff9b::808:808"};
    static const char *const closed[] = {"0.0.0.0",
                                         "10.0.0.1",
                                         "100.64.0.1",
                                         "127.0.0.1",
                                         "127.255.255.254",
                                         "169.254.169.254",
                                         "172.16.0.1",
                                         "172.31.255.255",
                                         "192.0.0.1",
                                         "192.0.2.1",
                                         "192.168.0.1",
                                         "198.18.0.1",
                                         "198.51.100.7",
                                         "203.0.113.9",
                                         "224.0.0.1",
                                         "255.255.255.255",
                                         "::",
                                         "::1",
                                         "fe80::1",
                                         "fc00::1",
                                         "fd12::1",
                                         "ff02::1",
                                         "::ffff:127.0.0.1",
                                         "::ffff:10.0.0.1",
                                         "64:ff9b::a00:1",
                                         "2002:7f00:1::",
                                         "2002:a9fe:a9fe::1",
                                         "2001::1",
                                         "2001:db8::1",
                                         "3fff::1",
                                         "::127.0.0.1"};
    const struct sockaddr other = {.sa_family = AF_UNIX};
    for (size_t i = 0; i < sizeof open / sizeof open[0]; i++)
        if (!is_public(open[i])) fail_msg("%s is public", open[i]);
    for (size_t i = 0; i < sizeof closed / sizeof closed[0]; i++)
        if (is_public(closed[i])) fail_msg("%s is not public", closed[i]);
    assert_false(bal_address_is_public(&other));
}

static void urls_are_held_to_rules(void **state)
{
    (void)state;
    static const struct {
        const char *rule, *url;
        bool good;
    } cases[] = {
        {"*", "http://any.example/x", true},
        {"*", "ftp://any.example/x", false},
        {"*", "file:///etc/passwd", false},
        {"https://a.example", "https://a.example/b/c.png?q", true},
        {"https://a.example", "https://A.EXAMPLE/b", true},
        {"https://a.example", "https://a.example:443/b", true},
        {"https://a.example", "https://a.example:444/b", false},
        {"https://a.example", "http://a.example/b", false},
        {"https://a.example", "https://a.example.evil/b", false},
        {"https://a.example", "https://a.example@evil.example/b", false},
        {"https://a.example", "https://evil.example#https://a.example", false},
        {"https://a.example/pub", "https://a.example/pub", true},
        {"https://a.example/pub", "https://a.example/pub/x", true},
        {"https://a.example/pub", "https://a.example/public", false},
        {"https://a.example/pub", "https://a.example/pub/../secret", false},
        {"https://a.example/pub", "https://a.example/other/../pub/x", true},
        {"http://[2606:4700::1]:8080", "http://[2606:4700::1]:8080/x", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *rules[] = {"https://unrelated.example", cases[i].rule};
        if (bal_url_is_allowed(cases[i].url, rules, 2) != cases[i].good)
            fail_msg("%s: %s should %sbe allowed", cases[i].rule, cases[i].url,
                     cases[i].good ? "" : "not ");
    }
    assert_false(bal_url_is_allowed("http://a.example/", NULL, 0));
}

static void rules_that_hold_nothing_are_refused(void **state)
{
    (void)state;
    static const char *const good[] = {"*", "https://a.example", "HTTP://a.example:81/b/",
                                       "http://[2606:4700::1]:8080/x"};
    static const char *const bad[] = {"",
                                      "foo",
                                      "a.example/b",
                                      "ftp://a.example/",
                                      "file:///srv",
                                      "http://",
                                      "https://*.example/",
                                      "https://a.example:x/",
                                      "https://a.example/?key=1",
                                      "https://a.example/#top"};
    bal_error err;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        ASSERT_OK(bal_url_rule_check(good[i], "--flag", &err));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char wanted[100];
        snprintf(wanted, sizeof wanted, "--flag '%s': ", bad[i]);
        ASSERT_FAILS(BAL_E_ARG, wanted, bal_url_rule_check(bad[i], "--flag", &err));
    }
}

/* ---- Fetching -------------------------------------------------------------------------------- */

static int web_port;

static enum MHD_Result redirect(struct MHD_Connection *c, const char *fmt, int n)
{
    char to[200];
    struct MHD_Response *r = MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    snprintf(to, sizeof to, fmt, n);
    MHD_add_response_header(r, "Location", to);
    const enum MHD_Result queued = MHD_queue_response(c, 302, r);
    MHD_destroy_response(r);
    return queued;
}

static enum MHD_Result web(void *ctx, struct MHD_Connection *c, const char *url, const char *method,
                           const char *version, const char *data, size_t *n, void **state)
{
    static char big[5000];
    (void)ctx, (void)method, (void)version, (void)data, (void)n, (void)state;
    if (strcmp(url, "/once") == 0) return redirect(c, "http://127.0.0.1:%d/ok", web_port);
    if (strcmp(url, "/loop") == 0) return redirect(c, "http://127.0.0.1:%d/loop", web_port);
    if (strcmp(url, "/away") == 0) return redirect(c, "http://127.0.0.2:%d/ok", web_port);
    if (strcmp(url, "/meta") == 0) return redirect(c, "http://169.254.169.254/latest?%d", 1);
    if (strcmp(url, "/file") == 0) return redirect(c, "file:///etc/passwd?%d", 1);
    if (strcmp(url, "/slow") == 0) nanosleep(&(struct timespec){0, 800000000}, NULL);
    struct MHD_Response *r = MHD_create_response_from_buffer(
        strcmp(url, "/big") == 0 ? sizeof big : 5, strcmp(url, "/big") == 0 ? big : "bytes",
        MHD_RESPMEM_PERSISTENT);
    const enum MHD_Result queued = MHD_queue_response(c, strcmp(url, "/gone") ? 200 : 404, r);
    MHD_destroy_response(r);
    return queued;
}

static bool only_first(const struct sockaddr *a)
{
    struct sockaddr_in in;
    if (a->sa_family != AF_INET) return false;
    memcpy(&in, a, sizeof in);
    return ntohl(in.sin_addr.s_addr) == 0x7f000001;
}

static void fetching_goes_only_where_it_may(void **state)
{
    (void)state;
    static const struct {
        const char *host, *path;
        bal_address_fn *may_connect;
        int http; /* 0: comes */
        const char *code;
    } cases[] = {
        {"127.0.0.1", "/ok", only_first, 0, NULL},
        {"localhost", "/ok", only_first, 0, NULL},
        {"127.0.0.1", "/once", only_first, 0, NULL},
        {"127.0.0.1", "/ok", bal_address_is_public, 400, "url_not_allowed"},
        {"localhost", "/ok", bal_address_is_public, 400, "url_not_allowed"}, /* by name */
        {"0x7f.1", "/ok", bal_address_is_public, 400, "url_not_allowed"},
        {"127.0.0.1", "/away", only_first, 400, "url_not_allowed"},
        {"127.0.0.1", "/meta", only_first, 400, "url_not_allowed"},
        {"127.0.0.1", "/file", only_first, 400, NULL},
        {"127.0.0.1", "/loop", only_first, 400, "url_unreachable"},
        {"127.0.0.1", "/gone", only_first, 400, "url_unreachable"},
        {"127.0.0.1", "/big", only_first, 400, "image_too_large"},
        {"127.0.0.1", "/slow", only_first, 504, "url_timeout"},
        {"nowhere.invalid", "/ok", only_first, 400, "url_unreachable"},
    };
    static const char *const rules[] = {"*"};
    struct MHD_Daemon *d = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, web, NULL, MHD_OPTION_SOCK_ADDR,
        &(struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)},
        MHD_OPTION_END);
    assert_non_null(d);
    web_port = MHD_get_daemon_info(d, MHD_DAEMON_INFO_BIND_PORT)->port;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const bal_fetch_rules r = {.allow = rules,
                                   .n_allow = 1,
                                   .may_connect = cases[i].may_connect,
                                   .max_bytes = 1000,
                                   .timeout_ms = cases[i].http == 504 ? 300 : 5000};
        char url[200];
        uint8_t *bytes;
        size_t n;
        bal_refusal f = {0};
        snprintf(url, sizeof url, "http://%s:%d%s", cases[i].host, web_port, cases[i].path);
        const bal_status st = bal_fetch(&bytes, &n, url, &r, "here", &f);
        if ((st == BAL_OK) != (cases[i].http == 0) || f.http != cases[i].http)
            fail_msg("%s: %d %s", url, f.http, f.message);
        if (st == BAL_OK) assert_true(n == 5 && memcmp(bytes, "bytes", 5) == 0);
        if (cases[i].code) assert_string_equal(f.code, cases[i].code);
        if (st < 0) assert_string_equal(f.param, "here");
        free(bytes);
    }
    MHD_stop_daemon(d);
}

/* ---- Metrics --------------------------------------------------------------------------------- */

/* A line is a comment or name{labels} value; buckets rise and end in +Inf, which is the count. */
static void metrics_are_prometheus_text(void **state)
{
    (void)state;
    bal_error err;
    bal_metrics m[2];
    char *text = NULL;
    size_t n = 0;
    for (int k = 0; k < 2; k++) {
        ASSERT_OK(bal_metrics_init(&m[k], &err));
        for (int i = 0; i < 100; i++) {
            const bal_usage usage = {
                .n_image = 3, .n_pictures_encoded = i % 2, .queue_s = 0.01 * i};
            bal_metrics_time(&m[k], BAL_TIMING_FIRST_TOKEN, 0.002 * i);
            bal_metrics_finish(&m[k], BAL_OUTCOME_STOP, &usage);
        }
    }
    bal_metrics_source sources[2] = {{.name = "a\"b\\c\nd", .metrics = &m[0]},
                                     {.name = "other", .metrics = &m[1]}};
    FILE *out = open_memstream(&text, &n);
    bal_metrics_write(out, sources, 2);
    fclose(out);
    assert_non_null(strstr(text, "model_name=\"a\\\"b\\\\c\\nd\""));
    assert_non_null(strstr(text, "ballast:image_tokens_total{model_name=\"other\"} 300\n"));
    assert_non_null(strstr(text, "image_encode_seconds_count{model_name=\"other\"} 50\n"));
    double last = 0;
    int lines = 0, heads = 0, infinite = 0;
    for (char *rest, *line = strtok_r(text, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        char *end;
        if (line[0] == '#') {
            heads += strncmp(line, "# TYPE ballast:", 15) == 0;
            continue;
        }
        lines++;
        const char *value = strrchr(line, ' ');
        assert_true(strncmp(line, "ballast:", 8) == 0 && strchr(line, '{') && value);
        const double x = strtod(value + 1, &end);
        assert_true(*end == 0 && x >= 0);
        if (strstr(line, "_bucket{")) {
            assert_true(x >= last);
            last = strstr(line, "le=\"+Inf\"") ? 0 : x;
            infinite += strstr(line, "le=\"+Inf\"") != NULL;
        }
    }
    assert_true(lines > 200 && heads == 25 && infinite == 14);
    free(text);
    for (int k = 0; k < 2; k++) bal_metrics_deinit(&m[k]);
}

/* ---- The page -------------------------------------------------------------------------------- */

static void the_page_may_run_itself_only(void **state)
{
    (void)state;
    char policy[512];
    bal_error err;
    static const char html[] = "<style>a</style><script>alert(1)</script>";
    ASSERT_OK(bal_page_policy(policy, sizeof policy, html, sizeof html - 1, &err));
    assert_non_null(strstr(policy, "default-src 'none'"));
    /* sha256 of "alert(1)" and of "a" */
    assert_non_null(
        strstr(policy, "script-src 'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"));
    assert_non_null(
        strstr(policy, "style-src 'sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs='"));
    assert_false(strstr(policy, "unsafe"));
    ASSERT_FAILS(BAL_E_FORMAT, "<script>",
                 bal_page_policy(policy, sizeof policy, "<style></style>", 15, &err));
    ASSERT_OK(bal_page_policy(policy, sizeof policy, (const char *)bal_page_html,
                              bal_page_html_bytes, &err));
}

static int setup(void **state)
{
    (void)state;
    return curl_global_init(CURL_GLOBAL_DEFAULT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_strings_do_not_depend_on_pieces),
        cmocka_unit_test(an_answer_has_no_space_in_front),
        cmocka_unit_test(addresses_are_told_apart),
        cmocka_unit_test(urls_are_held_to_rules),
        cmocka_unit_test(rules_that_hold_nothing_are_refused),
        cmocka_unit_test(fetching_goes_only_where_it_may),
        cmocka_unit_test(metrics_are_prometheus_text),
        cmocka_unit_test(the_page_may_run_itself_only),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
