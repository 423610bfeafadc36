/* SPDX-License-Identifier: MIT
 * ballast serve: OpenAI's API and a page for one or several models, until SIGTERM or Ctrl-C. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "commands.h"
#include "console.h"
#include "serve/server.h"
#include "shapes_flag.h"

typedef struct serve_flags {
    bal_common common;
    const char *host, *key_file, *media_dir, *kv, *chat_template;
    bal_arg_list names, urls, origins;
    int port, image_max_tokens, max_images, max_choices, max_connections, max_running, max_waiting,
        step_tokens;
    int max_body_mib, kv_mib, picture_mib, memory_mib, max_mpixels;
    double grace_s, answer_s, receive_s, send_s;
    bool allow_private, no_prefix_cache;
} serve_flags;

/* ---- Signals --------------------------------------------------------------------------------- */

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
    (void)number;
    signals++;
}

static void catch_signals(void)
{
    struct sigaction a;
    memset(&a, 0, sizeof a);
    a.sa_handler = on_signal;
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
}

static bool second_signal(void *ctx)
{
    (void)ctx;
    return signals > 1;
}

static void wait_for_signal(void)
{
    const struct timespec pause = {0, 50 * 1000 * 1000};
    while (!signals) nanosleep(&pause, NULL);
}

/* ---- Keys ------------------------------------------------------------------------------------ */

typedef struct key_list {
    char *text;
    const char **keys;
    int n;
} key_list;

/* One key a line; blank lines and those that begin with # are skipped. */
static bal_status keys_read(key_list *k, const char *path, bal_error *err)
{
    enum { MAX_BYTES = 1 << 20 };
    size_t n = 0;
    if (!path) return BAL_OK;
    BAL_TRY(bal_read_file((uint8_t **)&k->text, &n, path, MAX_BYTES, err));
    k->keys = calloc(n + 1, sizeof *k->keys);
    if (!k->keys) return bal_nomem(err, n, "API keys");
    char *rest = NULL;
    for (char *line = strtok_r(k->text, "\r\n", &rest); line; line = strtok_r(NULL, "\r\n", &rest))
        if (line[0] != '#' && line[strspn(line, " \t")]) k->keys[k->n++] = line;
    if (k->n == 0)
        return bal_fail(err, BAL_E_FORMAT, "--api-key-file %s: no key in it, expected one a line",
                        path);
    return BAL_OK;
}

static void keys_free(key_list *k)
{
    free(k->text);
    free(k->keys);
}

/* ---- Running --------------------------------------------------------------------------------- */

static void log_line(void *ctx, const char *line)
{
    (void)ctx;
    char stamp[32];
    struct tm tm;
    const time_t now = time(NULL);
    gmtime_r(&now, &tm);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", &tm);
    fprintf(stderr, "%s %s\n", stamp, line);
}

static bal_server_opts options_of(const serve_flags *f, const key_list *keys,
                                  const char *const *models, int n_models)
{
    const size_t mib = (size_t)1 << 20;
    return (bal_server_opts){.host = f->host,
                             .port = f->port,
                             .models = models,
                             .names = f->names.n ? f->names.items : NULL,
                             .n_models = n_models,
                             .threads = f->common.threads,
                             .isa = f->common.isa,
                             .device = f->common.device,
                             .shapes = f->common.shapes,
                             .image_max_tokens = f->image_max_tokens,
                             .chat_template = f->chat_template,
                             .ctx = f->common.ctx,
                             .kv_bytes = (size_t)f->kv_mib * mib,
                             .kv = f->kv,
                             .max_running = f->max_running,
                             .max_waiting = f->max_waiting,
                             .step_tokens = f->step_tokens,
                             .picture_bytes = (size_t)f->picture_mib * mib,
                             .no_prefix_cache = f->no_prefix_cache,
                             .api_keys = keys->keys,
                             .n_api_keys = keys->n,
                             .origins = f->origins.items,
                             .n_origins = f->origins.n,
                             .media_dir = f->media_dir,
                             .allow_urls = f->urls.items,
                             .n_allow_urls = f->urls.n,
                             .allow_private_urls = f->allow_private,
                             .max_body = (size_t)f->max_body_mib * mib,
                             .max_pixels = (size_t)f->max_mpixels * 1000000,
                             .max_memory = (size_t)f->memory_mib * mib,
                             .max_images = f->max_images,
                             .max_choices = f->max_choices,
                             .max_connections = f->max_connections,
                             .receive_s = f->receive_s,
                             .send_s = f->send_s,
                             .answer_s = f->answer_s,
                             .log = f->common.verbose ? log_line : NULL};
}

static bool is_loopback(const char *host)
{
    return strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0 ||
           strncmp(host, "127.", 4) == 0;
}

/* One line each on stdout, for people and for scripts that wait for them. */
static int serve(const serve_flags *f, bal_server *s)
{
    bal_error err;
    const bool v6 = strchr(f->host, ':') != NULL;
    printf("listening on http://%s%s%s:%d\n", v6 ? "[" : "", f->host, v6 ? "]" : "",
           bal_server_port(s));
    fflush(stdout);
    if (bal_server_load(s, &err) < 0) return bal_failure("serve", "%s", err.text);
    catch_signals();
    printf("ready\n");
    fflush(stdout);
    wait_for_signal();
    if (!f->common.quiet) fprintf(stderr, "ballast serve: stopping; once more to stop at once\n");
    bal_server_stop(s, f->grace_s, second_signal, NULL);
    return 0;
}

static int run(const serve_flags *f, const char *const *models, int n_models)
{
    key_list keys = {0};
    bal_server *s = NULL;
    bal_error err;
    int status = 1;
    if (keys_read(&keys, f->key_file, &err) < 0) {
        bal_failure("serve", "%s", err.text);
    } else {
        const bal_server_opts opts = options_of(f, &keys, models, n_models);
        if (!is_loopback(f->host) && keys.n == 0 && !f->common.quiet)
            fprintf(stderr,
                    "ballast serve: --host %s without --api-key-file: whoever reaches this "
                    "port may ask\n",
                    f->host);
        if (bal_server_open(&s, &opts, &err) < 0)
            bal_failure("serve", "%s", err.text);
        else
            status = serve(f, s);
    }
    bal_server_close(s);
    keys_free(&keys);
    return status;
}

int bal_cmd_serve(int argc, char **argv)
{
    serve_flags f = {.host = "127.0.0.1",
                     .port = 8080,
                     .max_images = 16,
                     .max_choices = 16,
                     .max_connections = 256,
                     .max_body_mib = 32,
                     .max_mpixels = 64,
                     .memory_mib = 1024,
                     .grace_s = 30.0,
                     .answer_s = 600.0,
                     .receive_s = 60.0,
                     .send_s = 60.0};
    const bal_arg args[] = {
        {"--host", 0, BAL_ARG_STRING, &f.host, "ADDRESS", "where to listen (127.0.0.1)", 0, 0},
        {"--port", 0, BAL_ARG_INT, &f.port, "N", "and the port; 0: any free one (8080)", 0, 65535},
        {"--name", 0, BAL_ARG_LIST, &f.names, "NAME",
         "what requests call the model; one per model (the file's)", 0, 0},
        {"--api-key-file", 0, BAL_ARG_STRING, &f.key_file, "FILE", "API keys, one a line", 0, 0},
        {"--origin", 0, BAL_ARG_LIST, &f.origins, "URL",
         "pages of that origin may ask too, and by its name; several times", 0, 0},
        {"--media-dir", 0, BAL_ARG_STRING, &f.media_dir, "DIR", "file:// pictures below it", 0, 0},
        {"--allow-url", 0, BAL_ARG_LIST, &f.urls, "URL",
         "http(s) pictures that begin so, * for any; several times", 0, 0},
        {"--allow-private-urls", 0, BAL_ARG_BOOL, &f.allow_private, "",
         "even at private and loopback addresses", 0, 0},
        {"--chat-template", 0, BAL_ARG_STRING, &f.chat_template, "NAME",
         "a known chat template in place of the model's; a wrong name lists them", 0, 0},
        {"--image-max-tokens", 0, BAL_ARG_INT, &f.image_max_tokens, "N",
         "make pictures smaller, to N tokens at most (the model's limit)", 1, 1 << 24},
        {"--max-body", 0, BAL_ARG_INT, &f.max_body_mib, "MIB", "of one request (32)", 1, 2047},
        {"--max-pixels", 0, BAL_ARG_INT, &f.max_mpixels, "MPIXEL", "of one picture (64)", 1, 1000},
        {"--max-memory", 0, BAL_ARG_INT, &f.memory_mib, "MIB",
         "bodies, and decoded pictures, of all requests (1024)", 1, 1 << 20},
        {"--max-images", 0, BAL_ARG_INT, &f.max_images, "N", "of one request (16)", 1, 1024},
        {"--max-choices", 0, BAL_ARG_INT, &f.max_choices, "N", "answers of one request (16)", 1,
         128},
        {"--max-connections", 0, BAL_ARG_INT, &f.max_connections, "N", "open at a time (256)", 4,
         10000},
        {"--max-running", 0, BAL_ARG_INT, &f.max_running, "N", "requests in a batch (64)", 1, 4096},
        {"--max-waiting", 0, BAL_ARG_INT, &f.max_waiting, "N", "requests in the queue (256)", 1,
         100000},
        {"--step-tokens", 0, BAL_ARG_INT, &f.step_tokens, "N", "positions of one step (256)", 1,
         65536},
        {"--kv-memory", 0, BAL_ARG_INT, &f.kv_mib, "MIB", "keys and values (four contexts or more)",
         1, 1 << 24},
        {"--kv", 0, BAL_ARG_CHOICE, &f.kv, "f32|f16|i8", "how they are kept (f16)", 0, 0},
        {"--picture-cache", 0, BAL_ARG_INT, &f.picture_mib, "MIB", "encoded pictures (256)", 1,
         1 << 24},
        {"--no-prefix-cache", 0, BAL_ARG_BOOL, &f.no_prefix_cache, "",
         "compute prompts anew that begin alike", 0, 0},
        {"--answer-timeout", 0, BAL_ARG_REAL, &f.answer_s, "S", "for one answer (600)", 0.1, 1e6},
        {"--receive-timeout", 0, BAL_ARG_REAL, &f.receive_s, "S", "for sending a request (60)", 0.1,
         1e6},
        {"--send-timeout", 0, BAL_ARG_REAL, &f.send_s, "S", "a client may stop reading (60)", 0.1,
         1e6},
        {"--grace", 0, BAL_ARG_REAL, &f.grace_s, "S", "for answers under way on SIGTERM (30)", 0,
         1e6},
    };
    const bal_command cmd = {
        "serve",
        "MODEL [MODEL ...]",
        "Answers over HTTP until SIGTERM or Ctrl-C: OpenAI's API under /v1, a\n"
        "page at /. With two models the page shows both answers side by side.",
        args,
        sizeof args / sizeof args[0],
        1,
        BAL_SERVER_MAX_MODELS,
        "--json --seed"};
    const char *models[BAL_SERVER_MAX_MODELS];
    int n;
    const int st = bal_args_read(&cmd, &f.common, argc, argv, models, &n);
    if (st >= 0) return st;
    if (f.names.n && f.names.n != n)
        return bal_usage("serve", "--name: given %d times for %d models", f.names.n, n);
    int known = bal_device_check("serve", &f.common, false);
    if (known < 0) known = bal_shapes_check("serve", &f.common);
    if (known >= 0) return known;
    return run(&f, models, n);
}
