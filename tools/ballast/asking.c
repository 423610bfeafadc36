/* SPDX-License-Identifier: MIT */
#include "asking.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bal_status say(bal_error *err, bal_status status, const char *text, const char *detail)
{
    err->status = status;
    snprintf(err->text, sizeof err->text, "%s%s", text, detail);
    return status;
}

bal_status bal_asker_open(bal_asker *a, const char *path, const bal_common *common,
                          const bal_ask_flags *flags, bal_error *err)
{
    const bal_open_opts open = {.size = sizeof open,
                                .threads = (uint32_t)common->threads,
                                .isa = common->isa,
                                .device = common->device,
                                .image_max_tokens = flags->image_max_tokens,
                                .chat_template = flags->chat_template,
                                .shapes = common->shapes};
    const bal_chat_opts chat = {.size = sizeof chat,
                                .context = common->ctx,
                                .alpha = strcmp(flags->alpha, "drop") == 0 ? BAL_ALPHA_DROPPED
                                                                           : BAL_ALPHA_ON_WHITE,
                                .temperature = (float)flags->temperature,
                                .top_k = flags->top_k,
                                .top_p = (float)flags->top_p,
                                .seed = common->seed};
    a->to_terminal = isatty(STDOUT_FILENO);
    const bal_status st = bal_open(&a->model, path, &open, err);
    return st < 0 ? st : bal_chat_open(&a->chat, a->model, &chat, err);
}

void bal_asker_close(bal_asker *a)
{
    bal_chat_close(a->chat);
    bal_close(a->model);
    free(a->answer);
    a->chat = NULL;
    a->model = NULL;
    a->answer = NULL;
}

static bool collect(bal_asker *a, const char *text, size_t n)
{
    if (a->n_answer + n + 1 > a->cap_answer) {
        const size_t cap = 2 * (a->n_answer + n + 1);
        char *p = realloc(a->answer, cap);
        if (!p) return false;
        a->answer = p;
        a->cap_answer = cap;
    }
    memcpy(a->answer + a->n_answer, text, n);
    a->n_answer += n;
    a->answer[a->n_answer] = 0;
    return true;
}

/* A picture can make a model say control characters. */
static bool show(const bal_asker *a, const char *text, size_t n)
{
    if (!a->to_terminal) return fwrite(text, 1, n, stdout) == n && fflush(stdout) == 0;
    bal_print_foreign(text, n, false);
    return fflush(stdout) == 0;
}

static bool on_text(void *ctx, const char *text, size_t n)
{
    bal_asker *a = ctx;
    bal_bar_clear(&a->bar);
    if (a->stream && !show(a, text, n)) a->broken = true;
    if (a->collect && !collect(a, text, n)) return false;
    return !a->broken && !bal_interrupted();
}

static bool on_progress(void *ctx, const bal_progress *p)
{
    bal_asker *a = ctx;
    if (strcmp(p->stage, "answer") != 0) bal_bar_show(&a->bar, p->stage, p->done, p->total);
    return !a->broken && !bal_interrupted();
}

void bal_describe_picture(char *out, size_t size, const char *path, const bal_picture_info *p)
{
    char how[120] = "one square";
    if (p->views > 1)
        snprintf(how, sizeof how, "%d x %d, %d x %d tiles%s", p->resized_width, p->resized_height,
                 p->cols, p->rows, p->views > p->rows * p->cols ? " and an overview" : "");
    else if (p->resized_width)
        snprintf(how, sizeof how, "%d x %d", p->resized_width, p->resized_height);
    snprintf(out, size, "[%s: %d x %d pixels -> %s, %d tokens, %.0f MiB to look at it]", path,
             p->width, p->height, how, p->tokens, ceil((double)p->memory / (1 << 20)));
}

bal_status bal_asker_ask(bal_asker *a, int max_tokens, bal_error *err)
{
    const bal_ask_opts opts = {.size = sizeof opts,
                               .max_tokens = max_tokens,
                               .text = on_text,
                               .progress = on_progress,
                               .ctx = a};
    a->n_answer = 0;
    if (a->answer) a->answer[0] = 0;
    a->result = (bal_ask_result){.size = sizeof a->result};
    const bal_status st = bal_chat_ask(a->chat, a->question, &opts, &a->result, err);
    bal_bar_clear(&a->bar);
    if (st != BAL_E_CANCELLED) return st;
    if (a->broken) return say(err, BAL_E_IO, "the answer could not be written: ", strerror(errno));
    return bal_interrupted() ? say(err, st, "interrupted", "") : st;
}

/* " (12.5/s)", or nothing where nothing was counted: the first token comes out of the prefill. */
static void rate(char *out, size_t size, int n, double seconds, int decimals)
{
    out[0] = 0;
    if (n > 0 && seconds > 0) snprintf(out, size, " (%.*f/s)", decimals, n / seconds);
}

void bal_asker_print_stats(const bal_asker *a)
{
    const bal_ask_result *r = &a->result;
    const double first = r->vision_s + r->prefill_s;
    bal_model_info info = {.size = sizeof info};
    char prefill[32], answer[32], shapes[48] = "";
    if (bal_get_info(a->model, &info, NULL) == BAL_OK && info.n_shapes)
        snprintf(shapes, sizeof shapes, "; shape table of %d", info.n_shapes);
    rate(prefill, sizeof prefill, r->n_prompt, r->prefill_s, 0);
    rate(answer, sizeof answer, r->n_generated - 1, r->decode_s, 1);
    fprintf(stderr,
            "[%d tokens in (%d of pictures), %d out; pictures %.2f s, prefill %.2f s%s, "
            "first token %.2f s, answer %.2f s%s; %s%s]\n",
            r->n_prompt, r->n_vision, r->n_generated, r->vision_s, r->prefill_s, prefill, first,
            r->decode_s, answer, bal_stop_name(r->stop), shapes);
}

const char *bal_stop_name(bal_stop_reason stop)
{
    static const char *const names[] = {"end", "length", "context", "cancelled"};
    return (unsigned)stop < 4 ? names[stop] : "?";
}
