/* SPDX-License-Identifier: MIT
 * ballast serve as a process: it is killed and comes back on its port, SIGTERM lets answers end or
 * cuts them off with an error and [DONE], a second signal hurries it, and what cannot start says
 * why with its exit status. */
#include "scratch.h"
#include "serve_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

typedef struct process {
    pid_t pid;
    FILE *out;
    int port;
} process;

enum { MAX_ARGS = 12 };

/* NULL ends the arguments. Both outputs come through p->out. */
static void spawn(process *p, const char *const *args)
{
    static char program[1024];
    char *argv[MAX_ARGS + 3] = {program, (char[]){"serve"}};
    int fds[2];
    posix_spawn_file_actions_t actions;
    snprintf(program, sizeof program, "%s/ballast", getenv("BALLAST_BINARY_DIR"));
    for (int i = 0; i < MAX_ARGS && args[i]; i++) argv[i + 2] = (char *)(uintptr_t)args[i];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 1);
    posix_spawn_file_actions_adddup2(&actions, fds[1], 2);
    assert_int_equal(posix_spawn(&p->pid, program, &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    p->out = fdopen(fds[0], "r");
}

static int wait_for(process *p)
{
    int status = 0;
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    fclose(p->out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Up to "ready". */
static void serve(process *p, const char *const *args)
{
    char line[200];
    spawn(p, args);
    assert_non_null(fgets(line, sizeof line, p->out));
    if (sscanf(line, "listening on http://127.0.0.1:%d", &p->port) != 1) fail_msg("%s", line);
    assert_non_null(fgets(line, sizeof line, p->out));
    assert_string_equal(line, "ready\n");
}

typedef struct stream {
    pthread_t thread;
    int port, max_tokens;
    reply r;
} stream;

static void *stream_run(void *ctx)
{
    stream *s = ctx;
    char more[100];
    snprintf(more, sizeof more, ",\"stream\":true,\"max_tokens\":%d,\"ignore_eos\":true",
             s->max_tokens);
    char *body = chat_body("Hello", NULL, 0, more);
    s->r = post(s->port, "/v1/chat/completions", body);
    free(body);
    return NULL;
}

/* Returns when the stream is under way. */
static void stream_begin(stream *s, int port, int max_tokens)
{
    *s = (stream){.port = port, .max_tokens = max_tokens};
    assert_int_equal(pthread_create(&s->thread, NULL, stream_run, s), 0);
    for (int i = 0; i < 400; i++) {
        reply r = get(port, "/metrics");
        const bool runs = strstr(r.body, "num_requests_running{model_name=\"model\"} 1\n");
        reply_free(&r);
        if (runs) return;
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
    fail_msg("the stream does not begin");
}

static void killed_it_comes_back(void **state)
{
    (void)state;
    char port[16];
    process p;
    stream s;
    const char *first[] = {source_path("demo/model"), "--port", "0", "--ctx", "4000", NULL};
    serve(&p, first);
    stream_begin(&s, p.port, 3900);
    kill(p.pid, SIGKILL);
    pthread_join(s.thread, NULL);
    assert_int_equal(wait_for(&p), -SIGKILL);
    reply_free(&s.r);
    snprintf(port, sizeof port, "%d", p.port);
    const char *again[] = {source_path("demo/model"), "--port", port, NULL};
    serve(&p, again);
    char *body = chat_body("Hello", NULL, 0, ",\"max_tokens\":3");
    reply r = post(p.port, "/v1/chat/completions", body);
    assert_int_equal(r.status, 200);
    reply_free(&r);
    free(body);
    kill(p.pid, SIGTERM);
    assert_int_equal(wait_for(&p), 0);
}

/* Asks on a connection that stays open; false where the answer does not begin so. */
static bool asked_on(int fd, const char *begin)
{
    static const char request[] = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    char answer[2000];
    const ssize_t sent = send(fd, request, sizeof request - 1, MSG_NOSIGNAL);
    const ssize_t n = recv(fd, answer, sizeof answer - 1, 0);
    answer[n > 0 ? n : 0] = 0;
    return sent == (ssize_t)sizeof request - 1 && strncmp(answer, begin, strlen(begin)) == 0;
}

static int keep_connection(int port)
{
    const int fd = raw_connect(port);
    assert_true(fd >= 0);
    assert_true(asked_on(fd, "HTTP/1.1 200"));
    return fd;
}

/* Soon nobody new is let in; who is there is told. */
static void expect_stopping(const process *p, int kept)
{
    int fd = -1;
    for (int i = 0; i < 400; i++) {
        fd = raw_connect(p->port);
        if (fd < 0) break;
        close(fd);
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
    assert_int_equal(fd, -1);
    assert_true(asked_on(kept, "HTTP/1.1 503"));
    close(kept);
}

static void sigterm_ends_streams(void **state)
{
    (void)state;
    /* time to end; none; time, but a second signal */
    for (int way = 0; way < 3; way++) {
        process p;
        stream s;
        bool done;
        char reason[16];
        const char *args[] = {source_path("demo/model"), "--port", "0", "--ctx", "4000", "--grace",
                              way == 1 ? "0" : "100",    NULL};
        serve(&p, args);
        const int kept = way == 0 ? keep_connection(p.port) : -1;
        stream_begin(&s, p.port, way == 0 ? 900 : 3900);
        kill(p.pid, SIGTERM);
        if (way == 0) expect_stopping(&p, kept);
        if (way == 2) {
            nanosleep(&(struct timespec){0, 200000000}, NULL);
            kill(p.pid, SIGTERM);
        }
        pthread_join(s.thread, NULL);
        assert_int_equal(s.r.status, 200);
        json_t *chunks = chunks_of(s.r.body, &done);
        char *text = stream_text(chunks, reason);
        assert_true(done);
        const json_t *last = json_array_get(chunks, json_array_size(chunks) - 1);
        const char *code =
            json_string_value(json_object_get(json_object_get(last, "error"), "code"));
        if (way == 0)
            assert_string_equal(reason, "length");
        else
            assert_string_equal(code ? code : "", "server_stopping");
        assert_int_equal(wait_for(&p), 0);
        free(text);
        json_decref(chunks);
        reply_free(&s.r);
    }
}

static void what_cannot_start_says_why(void **state)
{
    (void)state;
    char keys[1100];
    snprintf(keys, sizeof keys, "%s", scratch("keys"));
    scratch_write(keys, "# none\n\n", 8);
    const char *model = source_path("demo/model");
    const struct {
        const char *args[6];
        int status;
        const char *words;
    } cases[] = {
        {{"/nowhere/model", "--port", "0"}, 1, "/nowhere/model"},
        {{"--port", "0"}, 2, "MODEL"},
        {{model, "--port", "70000"}, 2, "--port"},
        {{model, "--name", "a", "--name", "b"}, 2, "--name"},
        {{model, "--kv", "f8"}, 2, "f32|f16|i8"},
        {{model, "--port", "0", "--api-key-file", keys}, 1, "no key in it"},
        {{model, "--port", "0", "--host", "192.0.2.1"}, 1, "192.0.2.1"},
        {{model, "--port", "0", "--kv-memory", "1"}, 1, "a context of"},
        {{model, "--port", "0", "--media-dir", "/nope"}, 1, "--media-dir '/nope': No such file"},
        {{model, "--port", "0", "--media-dir", keys}, 1, "Not a directory, expected a folder"},
        {{model, "--port", "0", "--allow-url", "foo"}, 1, "--allow-url 'foo': expected"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[4096] = "";
        process p;
        spawn(&p, cases[i].args);
        size_t n = 0;
        while (n < sizeof text - 1 && fgets(text + n, (int)(sizeof text - n), p.out)) {
            if (strcmp(text + n, "ready\n") == 0) kill(p.pid, SIGKILL); /* it did start */
            n += strlen(text + n);
        }
        const int status = wait_for(&p);
        if (status != cases[i].status || !strstr(text, cases[i].words))
            fail_msg("case %zu: %d %s", i, status, text);
        /* what the flags alone can tell is told before anybody is let in */
        if (strstr(cases[i].words, "expected")) assert_null(strstr(text, "listening"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_it_comes_back),
        cmocka_unit_test(sigterm_ends_streams),
        cmocka_unit_test(what_cannot_start_says_why),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
