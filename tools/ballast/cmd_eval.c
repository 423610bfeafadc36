/* SPDX-License-Identifier: MIT
 * ballast eval: accuracy and likelihood on questions with known answers, and the distance from a
 * reference model, each with its interval. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "console.h"
#include "run/evaluate.h"
#include "shapes_flag.h"

enum { MAX_MODELS = 16 };

typedef struct eval_flags {
    bal_common common;
    const char *data, *against, *alpha;
    int limit, max_tokens, image_max_tokens;
    const char *chat_template;
    bool rows;
    const char *paths[MAX_MODELS];
    int n_models;
} eval_flags;

typedef struct eval_state {
    const eval_flags *f;
    bal_evaldata data;
    bal_engine engines[MAX_MODELS], reference;
    bal_eval_result results[MAX_MODELS], reference_result;
    bal_bar bar;
} eval_state;

/* ---- Table ----------------------------------------------------------------------------------- */

static bool has_intervals(const bal_eval_result *r)
{
    return r->n_groups >= BAL_EVAL_MIN_GROUPS;
}

static void print_scaled(const bal_eval_result *r, const char *name, const bal_interval *i,
                         double scale, const char *more)
{
    printf("  %-16s %9.4f", name, scale * i->value);
    if (has_intervals(r)) printf("   [%.4f, %.4f]", scale * i->lo, scale * i->hi);
    printf("%s%s\n", *more ? "   " : "", more);
}

static void print_interval(const bal_eval_result *r, const char *name, const bal_interval *i,
                           const char *more)
{
    print_scaled(r, name, i, 1.0, more);
}

/* What an interval of differences says; sign +1 where more is better, -1 where less is. */
static const char *verdict(const bal_eval_result *r, const bal_interval *i, int sign)
{
    if (!has_intervals(r)) return "";
    if (i->lo <= 0.0 && i->hi >= 0.0) return "no difference";
    return sign * i->lo > 0.0 ? "better" : "worse";
}

static void print_model(const char *path, const bal_eval_result *r)
{
    char more[64];
    printf("%s\n", path);
    snprintf(more, sizeof more, "%d of %d", r->n_right, r->n);
    print_interval(r, "accuracy", &r->accuracy, more);
    snprintf(more, sizeof more, "perplexity %.4f", r->perplexity);
    print_interval(r, "answer NLL", &r->nll, more);
    if (!r->compared) return;
    print_scaled(r, "KL, 1e-3 nats", &r->kl, 1e3, "");
    print_interval(r, "top-1 agreement", &r->top1, "");
    print_interval(r, "accuracy change", &r->accuracy_change, verdict(r, &r->accuracy_change, 1));
    print_interval(r, "NLL change", &r->nll_change, verdict(r, &r->nll_change, -1));
}

/* An answer cut short is rarely right: said, so that nobody blames the model. */
static void warn_cut(const eval_state *s)
{
    const bal_eval_result *r = &s->results[0];
    int n = 0;
    for (int i = 0; i < r->n_rows; i++) n += r->rows[i].cut;
    if (n && !s->f->common.quiet)
        fprintf(stderr, "ballast eval: %d of %d answers were cut at %d tokens; see --max-tokens\n",
                n, r->n, s->f->max_tokens);
}

/* Columns: the type, its questions, accuracy per model, the reference last. */
static void print_types(const eval_state *s)
{
    const bal_eval_result *first = &s->results[0];
    if (!first->n_types) return;
    putchar('\n');
    for (int m = 0; m < s->f->n_models; m++) printf("model %d: %s\n", m + 1, s->f->paths[m]);
    printf("%-16s %6s", "type", "n");
    for (int m = 0; m < s->f->n_models; m++) printf("   model %-2d", m + 1);
    printf("%s\n", s->f->against ? "  reference" : "");
    for (int t = 0; t < first->n_types; t++) {
        printf("%-16s %6d", first->types[t].name, first->types[t].n);
        for (int m = 0; m < s->f->n_models; m++)
            printf(" %10.4f", (double)s->results[m].types[t].n_right / first->types[t].n);
        if (s->f->against)
            printf(" %10.4f", (double)s->reference_result.types[t].n_right / first->types[t].n);
        putchar('\n');
    }
}

static void print_table(const eval_state *s)
{
    const bal_eval_result *r = &s->results[0];
    printf("%s: %d question%s about %d picture%s, %lld answer positions; ", s->f->data, r->n,
           r->n == 1 ? "" : "s", r->n_groups, r->n_groups == 1 ? "" : "s",
           (long long)r->n_positions);
    if (has_intervals(r))
        printf("95 %% intervals\n\n");
    else
        printf("too few pictures for intervals (%d)\n\n", BAL_EVAL_MIN_GROUPS);
    for (int m = 0; m < s->f->n_models; m++) print_model(s->f->paths[m], &s->results[m]);
    if (s->f->against) {
        printf("reference ");
        print_model(s->f->against, &s->reference_result);
    }
    print_types(s);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* The ends are null where there is no interval. */
static void put_interval(json_t *o, const bal_eval_result *r, const char *name,
                         const bal_interval *i)
{
    char key[64];
    const bool known = has_intervals(r);
    json_object_set_new(o, name, json_real(i->value));
    snprintf(key, sizeof key, "%s_lo", name);
    json_object_set_new(o, key, known ? json_real(i->lo) : json_null());
    snprintf(key, sizeof key, "%s_hi", name);
    json_object_set_new(o, key, known ? json_real(i->hi) : json_null());
}

static json_t *types_json(const bal_eval_result *r)
{
    json_t *list = json_array();
    for (int i = 0; i < r->n_types; i++) {
        const bal_eval_type *t = &r->types[i];
        json_array_append_new(list, json_pack("{sssisisf}", "type", t->name, "n", t->n, "n_right",
                                              t->n_right, "accuracy", (double)t->n_right / t->n));
    }
    return list;
}

static json_t *rows_json(const eval_state *s, const bal_eval_result *r)
{
    json_t *list = json_array();
    for (int i = 0; i < r->n_rows; i++) {
        const bal_eval_question *q = &s->data.questions[i];
        const bal_eval_row *row = &r->rows[i];
        json_t *o = json_object();
        json_object_set_new(o, "line", json_integer((json_int_t)q->line));
        json_object_set_new(o, "id", q->id ? json_string(q->id) : json_null());
        json_object_set_new(o, "said", json_string(row->said));
        json_object_set_new(o, "right", json_boolean(row->right));
        json_object_set_new(o, "positions", json_integer(row->n));
        json_object_set_new(o, "nll", json_real(row->nll));
        if (r->compared) {
            json_object_set_new(o, "kl", json_real(row->kl));
            json_object_set_new(o, "agree", json_integer(row->n_agree));
        }
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *model_json(const eval_state *s, const char *path, const bal_eval_result *r)
{
    json_t *o = json_object();
    json_object_set_new(o, "model", json_string(path));
    json_object_set_new(o, "n", json_integer(r->n));
    json_object_set_new(o, "n_right", json_integer(r->n_right));
    put_interval(o, r, "accuracy", &r->accuracy);
    put_interval(o, r, "nll", &r->nll);
    json_object_set_new(o, "perplexity", json_real(r->perplexity));
    if (r->compared) {
        put_interval(o, r, "kl", &r->kl);
        put_interval(o, r, "top1", &r->top1);
        put_interval(o, r, "accuracy_change", &r->accuracy_change);
        put_interval(o, r, "nll_change", &r->nll_change);
    }
    json_object_set_new(o, "shared_vision", json_boolean(r->shared_vision));
    json_object_set_new(o, "seconds", json_real(r->seconds));
    json_object_set_new(o, "types", types_json(r));
    if (s->f->rows) json_object_set_new(o, "rows", rows_json(s, r));
    return o;
}

static int print_all_json(const eval_state *s)
{
    const bal_eval_result *r = &s->results[0];
    json_t *o = json_object(), *models = json_array();
    for (int m = 0; m < s->f->n_models; m++)
        json_array_append_new(models, model_json(s, s->f->paths[m], &s->results[m]));
    json_object_set_new(o, "data", json_string(s->f->data));
    json_object_set_new(o, "n", json_integer(r->n));
    json_object_set_new(o, "n_groups", json_integer(r->n_groups));
    json_object_set_new(o, "n_positions", json_integer((json_int_t)r->n_positions));
    json_object_set_new(o, "models", models);
    json_object_set_new(o, "against",
                        s->f->against ? model_json(s, s->f->against, &s->reference_result)
                                      : json_null());
    return bal_print_json("eval", o);
}

/* ---- Command --------------------------------------------------------------------------------- */

static bool on_progress(void *ctx, const bal_progress *p)
{
    bal_bar_show(ctx, p->stage, p->done, p->total);
    return !bal_interrupted();
}

static bal_status open_model(bal_engine *e, const eval_flags *f, const char *path, bal_error *err)
{
    BAL_TRY(bal_engine_open(e, path, f->common.threads, f->common.isa, err));
    BAL_TRY(bal_engine_use_chat(e, f->chat_template, err));
    BAL_TRY(bal_engine_limit_images(e, f->image_max_tokens, err));
    BAL_TRY(bal_engine_use_shapes(e, f->common.shapes, err));
    return bal_engine_use_device(e, f->common.device, err);
}

static bal_status evaluate(eval_state *s, bal_error *err)
{
    const eval_flags *f = s->f;
    const bal_engine *engines[MAX_MODELS];
    const bal_eval_opts opts = {.max_tokens = f->max_tokens,
                                .limit = f->limit,
                                .ctx = f->common.ctx,
                                .seed = f->common.seed,
                                .alpha = strcmp(f->alpha, "drop") == 0 ? BAL_ALPHA_DROP
                                                                       : BAL_ALPHA_WHITE,
                                .progress = on_progress,
                                .progress_ctx = &s->bar};
    BAL_TRY(bal_evaldata_open(&s->data, f->data, err));
    if (f->against) BAL_TRY(open_model(&s->reference, f, f->against, err));
    for (int i = 0; i < f->n_models; i++) {
        BAL_TRY(open_model(&s->engines[i], f, f->paths[i], err));
        engines[i] = &s->engines[i];
    }
    return bal_eval_run(f->against ? &s->reference : NULL, engines, f->n_models, &s->data, &opts,
                        s->results, f->against ? &s->reference_result : NULL, err);
}

static void close_all(eval_state *s)
{
    for (int i = 0; i < s->f->n_models; i++) {
        bal_engine_close(&s->engines[i]);
        bal_eval_result_free(&s->results[i]);
    }
    bal_engine_close(&s->reference);
    bal_eval_result_free(&s->reference_result);
    bal_evaldata_close(&s->data);
}

static int run(const eval_flags *f)
{
    bal_error err;
    eval_state *s = calloc(1, sizeof *s);
    if (!s) return bal_failure("eval", "out of memory");
    s->f = f;
    bal_bar_init(&s->bar, f->common.quiet);
    const bal_status st = evaluate(s, &err);
    bal_bar_clear(&s->bar);
    int status = 0;
    if (st < 0)
        status = bal_failure("eval", "%s", bal_interrupted() ? "interrupted" : err.text);
    else if (f->common.json)
        status = print_all_json(s);
    else
        print_table(s);
    if (status == 0) warn_cut(s);
    close_all(s);
    free(s);
    return bal_finish("eval", status);
}

int bal_cmd_eval(int argc, char **argv)
{
    eval_flags f = {.alpha = "white", .max_tokens = BAL_EVAL_MAX_TOKENS};
    const bal_arg args[] = {
        {"--data", 'd', BAL_ARG_STRING, &f.data, "FILE.jsonl",
         "lines of {image | images, question, answers, id?, type?}", 0, 0},
        {"--against", 0, BAL_ARG_STRING, &f.against, "MODEL", "reference for KL and differences", 0,
         0},
        {"--limit", 0, BAL_ARG_INT, &f.limit, "N", "the first N questions, 0: all (0)", 0, 1 << 30},
        {"--max-tokens", 'n', BAL_ARG_INT, &f.max_tokens, "N", "length of a greedy answer (16)", 1,
         1 << 16},
        {"--chat-template", 0, BAL_ARG_STRING, &f.chat_template, "NAME",
         "a known chat template in place of the model's; a wrong name lists them", 0, 0},
        {"--image-max-tokens", 0, BAL_ARG_INT, &f.image_max_tokens, "N",
         "make pictures smaller, to N tokens at most (the model's limit)", 1, 1 << 24},
        {"--alpha", 0, BAL_ARG_CHOICE, &f.alpha, "white|drop",
         "transparency: on white, or dropped (white)", 0, 0},
        {"--rows", 0, BAL_ARG_BOOL, &f.rows, "", "with --json: every answer too", 0, 0},
    };
    const bal_command cmd = {
        "eval",
        "MODEL...",
        "Accuracy and answer likelihood of one or several models, and with --against their\n"
        "distance from a reference. A difference whose interval holds 0 is no difference;\n"
        "questions about fewer than 6 pictures have no intervals.",
        args,
        sizeof args / sizeof args[0],
        1,
        MAX_MODELS,
        NULL};
    const int st = bal_args_read(&cmd, &f.common, argc, argv, f.paths, &f.n_models);
    if (st >= 0) return st;
    if (!f.data) return bal_usage("eval", "--data is missing: a JSONL file of questions");
    if (f.rows && !f.common.json) return bal_usage("eval", "--rows needs --json");
    int known = bal_device_check("eval", &f.common, false);
    if (known < 0) known = bal_shapes_check("eval", &f.common);
    if (known >= 0) return known;
    bal_interrupt_catch();
    return run(&f);
}
