/* SPDX-License-Identifier: MIT
 * What a browser asks before a page of another origin may use the API: allowed where the owner of
 * the server listed the origin, with the header fields the page wants, and nowhere else. */
#include "serve_fixture.h"

static bal_server *server;

static int group_setup(void **state)
{
    static const char *const origins[] = {"https://chat.example"};
    (void)state;
    server = server_start((bal_server_opts){.origins = origins, .n_origins = 1});
    return 0; /* nothing here needs a model */
}

static int group_teardown(void **state)
{
    (void)state;
    bal_server_close(server);
    return 0;
}

static void ask(const char *origin, char answer[4096])
{
    char request[400];
    const int fd = raw_connect(bal_server_port(server));
    const int n = snprintf(request, sizeof request,
                           "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: ballast.example\r\n"
                           "Origin: %s\r\nAccess-Control-Request-Method: POST\r\n"
                           "Access-Control-Request-Headers: authorization,x-stainless-os\r\n"
                           "Connection: close\r\n\r\n",
                           origin);
    assert_int_equal(send(fd, request, (size_t)n, 0), n);
    raw_read(fd, answer, 4096);
    close(fd);
}

static void listed_origins_get_what_they_want(void **state)
{
    (void)state;
    char answer[4096];
    ask("https://chat.example", answer);
    assert_non_null(strstr(answer, "HTTP/1.1 204"));
    assert_non_null(strstr(answer, "Access-Control-Allow-Origin: https://chat.example\r\n"));
    assert_non_null(
        strstr(answer, "Access-Control-Allow-Headers: authorization,x-stainless-os\r\n"));
    assert_non_null(strstr(answer, "Access-Control-Allow-Methods: GET, POST\r\n"));
}

static void others_get_nothing(void **state)
{
    (void)state;
    static const char *const origins[] = {"https://evil.example", "null",
                                          "https://chat.example.evil"};
    char answer[4096];
    for (size_t i = 0; i < sizeof origins / sizeof origins[0]; i++) {
        ask(origins[i], answer);
        assert_non_null(strstr(answer, "HTTP/1.1 403"));
        assert_null(strstr(answer, "Access-Control-Allow"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(listed_origins_get_what_they_want),
        cmocka_unit_test(others_get_nothing),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
