/* SPDX-License-Identifier: MIT
 * ballast run: one question about any number of pictures, the answer streamed to stdout. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "asking.h"
#include "commands.h"
#include "shapes_flag.h"

typedef struct run_flags {
    bal_common common;
    bal_ask_flags ask;
    bal_arg_list pictures;
    const char *question;
} run_flags;

/* All of stdin up to 1 MiB, without its last newline; NULL after a sentence. The caller frees. */
static char *read_stdin(void)
{
    enum { MAX = 1 << 20 };
    char *text = malloc(MAX + 1);
    if (!text) {
        bal_failure("run", "-p -: no memory for %d bytes of text", MAX);
        return NULL;
    }
    const size_t n = fread(text, 1, MAX, stdin);
    if (ferror(stdin) || n == MAX || n == 0 || memchr(text, 0, n)) {
        bal_failure("run", "-p -: standard input %s",
                    ferror(stdin) ? strerror(errno)
                    : n == MAX    ? "is longer than 1 MiB"
                    : n           ? "is not text"
                                  : "is empty");
        free(text);
        return NULL;
    }
    text[text[n - 1] == '\n' ? n - 1 : n] = 0;
    return text;
}

static int print_result(const run_flags *f, bal_asker *a, const char *model)
{
    json_t *pictures = json_array();
    for (int i = 0; i < f->pictures.n; i++) {
        bal_picture_info p = {.size = sizeof p};
        if (bal_chat_picture(a->chat, i, &p, NULL) < 0) continue;
        json_array_append_new(pictures,
                              json_pack("{sssisisisisisisisI}", "path", f->pictures.items[i],
                                        "width", p.width, "height", p.height, "rows", p.rows,
                                        "cols", p.cols, "resized_width", p.resized_width,
                                        "resized_height", p.resized_height, "tokens", p.tokens,
                                        "memory", (json_int_t)p.memory));
    }
    const bal_ask_result *r = &a->result;
    json_t *out = json_object();
    json_object_set_new(out, "model", json_string(model));
    json_object_set_new(out, "question", json_string(a->question));
    json_object_set_new(out, "answer", json_string(a->answer ? a->answer : ""));
    json_object_set_new(out, "stop", json_string(bal_stop_name(r->stop)));
    json_object_set_new(out, "pictures", pictures);
    json_object_set_new(out, "n_prompt", json_integer(r->n_prompt));
    json_object_set_new(out, "n_vision", json_integer(r->n_vision));
    json_object_set_new(out, "n_generated", json_integer(r->n_generated));
    json_object_set_new(out, "n_context", json_integer(r->n_context));
    json_object_set_new(out, "seed", json_integer((json_int_t)f->common.seed));
    json_object_set_new(out, "vision_s", json_real(r->vision_s));
    json_object_set_new(out, "prefill_s", json_real(r->prefill_s));
    json_object_set_new(out, "decode_s", json_real(r->decode_s));
    return bal_print_json("run", out);
}

static bool is_utf8(const char *text)
{
    json_t *s = json_string(text);
    json_decref(s);
    return s != NULL;
}

/* What a picture will cost, when that is worth knowing before it is paid. */
static void print_plans(const run_flags *f, const bal_asker *a)
{
    enum { COSTLY = 2048 };
    for (int i = 0; i < f->pictures.n; i++) {
        char text[1400];
        bal_picture_info p = {.size = sizeof p};
        if (bal_chat_picture(a->chat, i, &p, NULL) < 0) continue;
        if (f->common.quiet || (p.tokens < COSTLY && !f->common.verbose)) continue;
        bal_describe_picture(text, sizeof text, f->pictures.items[i], &p);
        fprintf(stderr, "%s\n", text);
    }
}

static int answer(const run_flags *f, bal_asker *a, const char *model)
{
    bal_error err;
    for (int i = 0; i < f->pictures.n; i++)
        if (bal_chat_add_image_file(a->chat, f->pictures.items[i], NULL, &err) < 0)
            return bal_failure("run", "%s", err.text);
    print_plans(f, a);
    a->stream = !f->common.json;
    a->collect = f->common.json;
    if (bal_asker_ask(a, f->ask.max_tokens, &err) < 0) {
        if (a->stream && a->result.n_generated > 0) fputc('\n', stdout);
        fflush(stdout);
        return bal_failure("run", "%s", err.text);
    }
    int status = 0;
    if (f->common.json)
        status = print_result(f, a, model);
    else
        fputc('\n', stdout);
    if (!status) status = bal_finish("run", 0);
    if (a->result.stop == BAL_STOP_CONTEXT && !f->common.quiet)
        fprintf(stderr, "ballast run: the answer stops here because all %d positions are taken%s\n",
                a->result.n_context, f->common.ctx ? "; see --ctx" : "");
    if (f->common.verbose || (isatty(STDERR_FILENO) && !f->common.quiet)) bal_asker_print_stats(a);
    return status;
}

static int run(run_flags *f, const char *path)
{
    char *from_stdin = NULL;
    bal_error err;
    bal_asker a = {.question = f->question};
    if (strcmp(f->question, "-") == 0) {
        from_stdin = read_stdin();
        if (!from_stdin) return 1;
        a.question = from_stdin;
    }
    bal_bar_init(&a.bar, f->common.quiet);
    int status = 1;
    if (!is_utf8(a.question))
        bal_failure("run", "the question is not UTF-8 text");
    else if (bal_asker_open(&a, path, &f->common, &f->ask, &err) < 0)
        bal_failure("run", "%s", err.text);
    else
        status = answer(f, &a, path);
    bal_asker_close(&a);
    free(from_stdin);
    return status;
}

int bal_cmd_run(int argc, char **argv)
{
    run_flags f = {.ask = BAL_ASK_DEFAULTS};
    const bal_arg args[] = {
        {"--image", 'i', BAL_ARG_LIST, &f.pictures, "PICTURE",
         "JPEG, PNG or WebP; may be given several times", 0, 0},
        {"--prompt", 'p', BAL_ARG_STRING, &f.question, "TEXT",
         "the question; - reads it from standard input", 0, 0},
        BAL_ASK_ARGS(f.ask),
    };
    const bal_command cmd = {"run",
                             "MODEL",
                             "Asks one question about pictures and prints the answer. MODEL is a\n"
                             "Hugging Face folder or a file that ballast quantize wrote.",
                             args,
                             sizeof args / sizeof args[0],
                             1,
                             1,
                             NULL};
    const char *model;
    int n;
    const int st = bal_args_read(&cmd, &f.common, argc, argv, &model, &n);
    if (st >= 0) return st;
    if (!f.question || !*f.question)
        return bal_usage("run", "-p is missing or empty: the question, or - for stdin");
    int known = bal_device_check("run", &f.common, false);
    if (known < 0) known = bal_shapes_check("run", &f.common);
    if (known >= 0) return known;
    bal_interrupt_catch();
    return run(&f, model);
}
