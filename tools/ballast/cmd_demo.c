/* SPDX-License-Identifier: MIT
 * ballast demo: quantizes the embedded model with several recipes, lets a 3-bit one answer about a
 * picture, and shows in a table what each recipe lost. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "asking.h"
#include "ballast_quant.h"
#include "base/build_id.h"
#include "base/cpu.h"
#include "base/file.h"
#include "commands.h"
#include "demo_kept.h"
#include "demo_table.h"
#include "format/json.h"
#include "linear_bits.h"
#include "measured.h"
#include "run/sampler.h"
#include "run/session.h"

/* The quick tour is sized for three minutes on two cores. */
enum {
    QUICK_SAMPLES = 32,
    FULL_SAMPLES = 64, /* with all recipes, an hour */
    QUICK_QUESTIONS = 300,
    SPEED_ROUNDS = 7,
    SPEED_TOKENS = 48,
    HERO_TOKENS = 96
};

static_assert(DEMO_MODELS - 1 <= BAL_EVAL_MAX_MODELS, "all are asked together");

typedef struct demo_flags {
    bal_common common;
    bool full, resume;
    const char *json, *markdown, *easy_vqa, *folder, *work;
    int samples, questions, easy_questions;
} demo_flags;

typedef struct demo_state {
    const demo_flags *f;
    FILE *out; /* the tour's text: stdout, or stderr under --json */
    demo_table table;
    bal_engine engines[DEMO_MODELS]; /* [0]: float */
    bal_bar bar;
    char paths[DEMO_MODELS][1100];
} demo_state;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Quantize ----------------------------------------------------------------------------------
 */

static bool show_step(void *ctx, const bal_progress *p)
{
    demo_state *s = ctx;
    bal_bar_show(&s->bar, p->stage, p->done, p->total);
    return !bal_interrupted();
}

/* One row: a recipe at a width, and what else is set. */
typedef struct demo_job {
    const char *label; /* of the row and its files */
    const char *recipe;
    int bits;
    const char *set[3]; /* up to a NULL */
} demo_job;

/* When the newest file of a folder of the demo's was changed, in nanoseconds; 0 where it has none.
 */
static json_int_t newest(const demo_state *s, const char *folder)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/%s", s->f->folder, folder);
    json_int_t last = 0;
    DIR *d = opendir(path);
    for (const struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
        struct stat of;
        if (fstatat(dirfd(d), e->d_name, &of, 0) != 0 || !S_ISREG(of.st_mode)) continue;
        const json_int_t at = (json_int_t)of.st_mtim.tv_sec * 1000000000 + of.st_mtim.tv_nsec;
        if (at > last) last = at;
    }
    if (d) closedir(d);
    return last;
}

/* What must agree for a file to be taken over. */
static bal_status identify(json_t **out, const demo_state *s, const bal_quant_opts *o,
                           bal_error *err)
{
    json_t *set = json_array();
    for (size_t i = 0; i < o->n_set; i++) json_array_append_new(set, json_string(o->set[i]));
    *out = json_pack("{s:s, s:s, s:o, s:i, s:I, s:s, s:i, s:s, s:I, s:I}", "build", bal_build_id,
                     "recipe", o->recipe, "set", set, "samples", o->samples, "seed",
                     (json_int_t)o->seed, "isa", o->isa ? o->isa : bal_isa_name(bal_cpu_isa()),
                     "threads", bal_pool_size_of(o->threads), "folder", s->f->folder, "model",
                     newest(s, "model"), "data", newest(s, "data"));
    return *out ? BAL_OK : bal_nomem(err, sizeof *out, "identity of a run");
}

/* What making the file takes or, resumed, has taken before. */
static bal_status measure(demo_state *s, const char *base, const char *path,
                          const bal_quant_opts *opts, bal_cost *cost, bool *kept, bal_error *err)
{
    char model[1100];
    json_t *identity;
    BAL_TRY(identify(&identity, s, opts, err));
    *kept = s->f->resume && demo_kept(base, identity, cost);
    bal_status st = BAL_OK;
    if (!*kept) {
        demo_forget(base);
        snprintf(model, sizeof model, "%s/model", s->f->folder);
        s->bar.stage =
            "recipe"; /* the process that quantizes draws; what it leaves is cleared here */
        st = bal_quantize_measured(model, path, opts, cost, err);
        bal_bar_clear(&s->bar);
        if (st >= 0) st = demo_keep(base, identity, cost, err);
    }
    json_decref(identity);
    return st;
}

static bal_status quantize(demo_state *s, const demo_job *job, bal_error *err)
{
    const int i = s->table.n_rows, bits = job->bits;
    demo_row *r = &s->table.rows[i];
    char set[16], calib[1100], base[1000], report[1100];
    const char *sets[1 + 3] = {set};
    int n_set = 1;
    snprintf(set, sizeof set, "bits=%d", bits);
    while (n_set < 1 + 3 && job->set[n_set - 1]) {
        sets[n_set] = job->set[n_set - 1];
        n_set++;
    }
    snprintf(calib, sizeof calib, "%s/data/calib.jsonl", s->f->folder);
    snprintf(base, sizeof base, "%s/%s-w%d", s->f->work, job->label, bits);
    snprintf(s->paths[i], sizeof s->paths[i], "%s.safetensors", base);
    snprintf(report, sizeof report, "%s.html", base);
    const bal_quant_opts opts = {.size = sizeof opts,
                                 .threads = s->f->common.threads,
                                 .recipe = job->recipe,
                                 .set = sets,
                                 .n_set = n_set,
                                 .calib = calib,
                                 .samples = s->f->samples,
                                 .seed = s->f->common.seed,
                                 .isa = s->f->common.isa,
                                 .force = true,
                                 .report = report,
                                 .progress = show_step,
                                 .progress_ctx = s};
    bool kept;
    BAL_TRY(measure(s, base, s->paths[i], &opts, &r->quantize, &kept, err));
    r->recipe = job->label;
    r->bits = bits;
    s->table.n_rows++;
    fprintf(s->out, "  %-11s W%d  %5.1f s   %s%s\n", job->label, bits, r->quantize.seconds,
            s->paths[i], kept ? ", kept" : "");
    fflush(s->out);
    return BAL_OK;
}

/* Weights with a range per output, as integer sums over whole rows want them, times bytes. */
#define BYTES "group=row", "grid=sym", "act=a8"

/* What --full compares: recipes at some widths of weights, and 8-bit activations beside them. */
enum { FULL_MOST_BITS = 4, FULL_LEAST_BITS = 2 };
static const char *const full_recipes[] = {
    "rtn",        "awq",     "awq+clip", "mbq",         "mbq-r1", "mbq+",        "gptq",
    "gptq+shift", "gptaq",   "vlm-ptq",  "quantease",   "vlmq",   "guidedquant", "awq+gptq",
    "mbq+gptq",   "ballast", "table",    "table+shift", "lqer"};
static const demo_job full_bytes[] = {
    {.label = "rtn-a8", .recipe = "rtn", .bits = 8, .set = {BYTES}},
    {.label = "w8a8", .recipe = "w8a8", .bits = 8},
    {.label = "gptq-a8", .recipe = "gptq", .bits = 8, .set = {BYTES}},
    {.label = "ballast-a8", .recipe = "ballast", .bits = 8, .set = {BYTES}},
    {.label = "rtn-a8", .recipe = "rtn", .bits = 4, .set = {BYTES}},
    {.label = "awq-a8", .recipe = "awq", .bits = 4, .set = {BYTES}},
    {.label = "w4a8", .recipe = "w4a8", .bits = 4},
    {.label = "gptq-a8", .recipe = "gptq", .bits = 4, .set = {BYTES}},
    {.label = "dgq", .recipe = "dgq", .bits = 4},
    {.label = "qoq", .recipe = "qoq", .bits = 4},
    {.label = "quarot", .recipe = "quarot", .bits = 4},
    {.label = "mixpe", .recipe = "mixpe", .bits = 4},
    {.label = "mquant", .recipe = "mquant", .bits = 4},
    {.label = "w4a8+spikes", .recipe = "w4a8+spikes", .bits = 4},
    {.label = "ballast-a8", .recipe = "ballast", .bits = 4, .set = {BYTES}}};

#define COUNT(a) (sizeof(a) / sizeof *(a))
static_assert(1 + (FULL_MOST_BITS - FULL_LEAST_BITS + 1) * COUNT(full_recipes) +
                      COUNT(full_bytes) <=
                  DEMO_MODELS,
              "the table has a row for each and one for the float model");

static bal_status quantize_full(demo_state *s, bal_error *err)
{
    for (int bits = FULL_MOST_BITS; bits >= FULL_LEAST_BITS; bits--)
        for (size_t i = 0; i < COUNT(full_recipes); i++)
            BAL_TRY(quantize(
                s, &(demo_job){.label = full_recipes[i], .recipe = full_recipes[i], .bits = bits},
                err));
    for (size_t i = 0; i < COUNT(full_bytes); i++) BAL_TRY(quantize(s, &full_bytes[i], err));
    return BAL_OK;
}

static bal_status quantize_all(demo_state *s, bal_error *err)
{
    static const char *const quick[] = {"rtn", "awq", "mbq", "mbq+", "ballast"};
    fprintf(s->out, "Quantizing %s/model:\n", s->f->folder);
    fflush(s->out);
    if (s->f->full) return quantize_full(s, err);
    for (size_t i = 0; i < sizeof quick / sizeof *quick; i++)
        BAL_TRY(quantize(s, &(demo_job){.label = quick[i], .recipe = quick[i], .bits = 3}, err));
    return BAL_OK;
}

/* ---- Records -----------------------------------------------------------------------------------
 */

/* *calibration: conversations, if the recipe used any. */
static bal_status load_record(demo_row *r, const char *path, int *calibration, bal_error *err)
{
    bal_json_doc doc;
    const bal_status st = bal_json_load(&doc, path, (size_t)64 << 20, err);
    if (st < 0) return st;
    r->record = json_incref(doc.root);
    const json_t *samples = json_object_get(json_object_get(r->record, "calibration"), "samples");
    if (json_is_integer(samples)) *calibration = (int)json_integer_value(samples);
    bal_json_close(&doc);
    return BAL_OK;
}

/* Only behind all quantizing: what this process holds counts as memory of those it starts. */
static bal_status load_records(demo_state *s, bal_error *err)
{
    for (int i = 1; i < s->table.n_rows; i++) {
        char report[1100];
        const size_t base = strlen(s->paths[i]) - strlen(".safetensors");
        snprintf(report, sizeof report, "%.*s.json", (int)base, s->paths[i]);
        BAL_TRY(load_record(&s->table.rows[i], report, &s->table.calibration, err));
    }
    return BAL_OK;
}

/* ---- Open, sizes -------------------------------------------------------------------------------
 */

static uint64_t weights_of(const bal_model *m)
{
    uint64_t n = 0;
    for (size_t i = 0; i < m->tensors.n_tensors; i++) {
        uint64_t count = 0;
        if (bal_st_count(m->tensors.tensors[i].shape, m->tensors.tensors[i].n_dims, &count))
            n += count;
    }
    return n;
}

static bal_status open_all(demo_state *s, bal_error *err)
{
    demo_table *t = &s->table;
    snprintf(s->paths[0], sizeof s->paths[0], "%s/model", s->f->folder);
    for (int i = 0; i < t->n_rows; i++) {
        bal_engine *e = &s->engines[i];
        demo_row *r = &t->rows[i];
        BAL_TRY(bal_engine_open(e, s->paths[i], s->f->common.threads, s->f->common.isa, err));
        r->bytes = e->model.tensors.n_file_bytes;
        r->linear_bpw = bal_linear_bpw(&e->model);
        r->file_bpw = 8.0 * (double)r->bytes / (double)weights_of(&s->engines[0].model);
    }
    t->rows[0].recipe = "float";
    t->rows[0].bits = 16;
    t->threads = bal_pool_size(s->engines[0].pool);
    t->isa = bal_isa_name(s->engines[0].isa);
    return BAL_OK;
}

/* ---- The answer --------------------------------------------------------------------------------
 */

static bal_status read_hero(const demo_state *s, char *image, size_t size, char question[256],
                            bal_error *err)
{
    char path[1100];
    const char *name, *text;
    bal_json_doc doc;
    snprintf(path, sizeof path, "%s/data/hero.json", s->f->folder);
    BAL_TRY(bal_json_load(&doc, path, 1 << 20, err));
    const bal_json root = bal_json_root(&doc);
    bal_status st = bal_json_str(&root, "image", &name, err);
    if (st == BAL_OK) st = bal_json_str(&root, "question", &text, err);
    if (st == BAL_OK) {
        snprintf(question, 256, "%s", text);
        snprintf(image, size, "%s/data/%s", s->f->folder, name);
    }
    bal_json_close(&doc);
    return st;
}

static bal_status show_answer(const demo_state *s, int row, bal_error *err)
{
    char image[1200], question[256];
    BAL_TRY(read_hero(s, image, sizeof image, question, err));
    const bal_ask_flags flags = BAL_ASK_DEFAULTS;
    bal_asker a = {.question = question, .stream = s->out == stdout, .collect = true};
    fprintf(s->out, "\n%s, %s at %d bits per weight:\n  > %s\n  ", image, s->table.rows[row].recipe,
            s->table.rows[row].bits, question);
    fflush(s->out);
    bal_status st = bal_asker_open(&a, s->paths[row], &s->f->common, &flags, err);
    if (st == BAL_OK) st = bal_chat_add_image_file(a.chat, image, NULL, err);
    if (st == BAL_OK) st = bal_asker_ask(&a, HERO_TOKENS, err);
    if (st == BAL_OK && !a.stream) fprintf(s->out, "%s", a.answer ? a.answer : "");
    if (st == BAL_OK)
        fprintf(s->out, "\n  (%d prompt tokens, %d of them vision; %d generated in %.2f s)\n",
                (int)a.result.n_prompt, (int)a.result.n_vision, (int)a.result.n_generated,
                a.result.decode_s);
    bal_asker_close(&a);
    return st;
}

/* ---- Speed -------------------------------------------------------------------------------------
 */

static bal_status decode_round(bal_session *session, double *tokens_per_s, bal_error *err)
{
    bal_session_truncate(session, BAL_PAGE);
    const double start = now();
    for (int i = 0; i < SPEED_TOKENS; i++)
        BAL_TRY(bal_session_push(
            session, bal_argmax(session->logits, session->engine->model.config.text.vocab), err));
    *tokens_per_s = SPEED_TOKENS / (now() - start);
    return BAL_OK;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Rounds are interleaved over the models, so that a drifting machine drifts for all. */
static bal_status measure_speed(demo_state *s, bal_error *err)
{
    static double speed[DEMO_MODELS][SPEED_ROUNDS];
    static bal_session sessions[DEMO_MODELS];
    const int n = s->table.n_rows;
    bal_status st = BAL_OK;
    for (int m = 0; m < n && st == BAL_OK; m++) {
        st = bal_session_create(&sessions[m], &s->engines[m], BAL_PAGE + SPEED_TOKENS, err);
        for (int i = 0; i < BAL_PAGE && st == BAL_OK; i++)
            st = bal_session_push(&sessions[m], i, err);
    }
    for (int r = 0; r < SPEED_ROUNDS && st == BAL_OK; r++)
        for (int m = 0; m < n && st == BAL_OK; m++)
            st = decode_round(&sessions[m], &speed[m][r], err);
    for (int m = 0; m < n; m++) {
        bal_session_destroy(&sessions[m]);
        qsort(speed[m], SPEED_ROUNDS, sizeof speed[m][0], by_value);
        s->table.rows[m].tokens_per_s = speed[m][SPEED_ROUNDS / 2];
        s->table.rows[m].speed_lo = speed[m][0];
        s->table.rows[m].speed_hi = speed[m][SPEED_ROUNDS - 1];
    }
    return st;
}

/* ---- Evaluate ----------------------------------------------------------------------------------
 */

static bal_status evaluate(demo_state *s, int set, const char *path, int limit, int max_tokens,
                           bal_error *err)
{
    demo_table *t = &s->table;
    const bal_engine *engines[DEMO_MODELS];
    bal_eval_result results[DEMO_MODELS] = {0};
    const int n = t->n_rows - 1;
    for (int i = 0; i < n; i++) engines[i] = &s->engines[i + 1];
    const bal_eval_opts opts = {.limit = limit,
                                .max_tokens = max_tokens,
                                .ctx = s->f->common.ctx,
                                .progress = show_step,
                                .progress_ctx = s};
    BAL_TRY(bal_evaldata_open(&t->data[set], path, err));
    const bal_status st = bal_eval_run(&s->engines[0], engines, n, &t->data[set], &opts, results,
                                       &t->rows[0].eval[set], err);
    bal_bar_clear(&s->bar);
    for (int i = 0; i < n; i++) t->rows[i + 1].eval[set] = results[i];
    return st;
}

static bal_status evaluate_all(demo_state *s, bal_error *err)
{
    char path[1100];
    snprintf(path, sizeof path, "%s/data/eval.jsonl", s->f->folder);
    BAL_TRY(evaluate(s, DEMO_QUESTIONS, path, s->f->questions, 0, err));
    if (!s->f->full) return BAL_OK;
    /* descriptions are compared token by token, not as strings: one greedy token is enough */
    snprintf(path, sizeof path, "%s/data/describe.jsonl", s->f->folder);
    BAL_TRY(evaluate(s, DEMO_DESCRIPTIONS, path, 0, 1, err));
    if (!s->f->easy_vqa) return BAL_OK;
    return evaluate(s, DEMO_EASY_VQA, s->f->easy_vqa, s->f->easy_questions, 4, err);
}

/* ---- Results -----------------------------------------------------------------------------------
 */

static void read_machine(char out[128])
{
    char line[256];
    snprintf(out, 128, "unknown processor");
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(out, 128, "%s", colon + 2);
        break;
    }
    if (f) fclose(f);
}

static bal_status write_json(const demo_state *s, bal_error *err)
{
    json_t *rows = demo_json(&s->table);
    char *text = json_dumps(rows, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(rows);
    if (!text) return bal_nomem(err, 0, "JSON");
    const bal_status st = bal_write_file(s->f->json, text, strlen(text), err);
    free(text);
    return st;
}

static bal_status write_markdown(const demo_state *s, bal_error *err)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (!f) return bal_nomem(err, 0, "results");
    bal_status st = demo_print_markdown(f, &s->table, err);
    if (fclose(f) != 0 && st == BAL_OK) st = bal_nomem(err, n, "results");
    if (st == BAL_OK) st = bal_write_file(s->f->markdown, text, n, err);
    free(text);
    return st;
}

static bal_status show_difference(const demo_state *s, bal_error *err)
{
    const demo_row *a = demo_find(&s->table, "ballast", 3), *b = demo_find(&s->table, "mbq", 3);
    demo_difference d;
    BAL_TRY(demo_compare(&d, &s->table, DEMO_QUESTIONS, a, b, err));
    const bool real = d.kl.hi < 0 || d.kl.lo > 0;
    fprintf(s->out, "\nballast against mbq at 3 bits: KL %+.4f [%+.4f, %+.4f]%s\n", d.kl.value,
            d.kl.lo, d.kl.hi, real ? "" : ": inside the interval, so no difference was shown");
    return BAL_OK;
}

static bal_status tour(demo_state *s, bal_error *err)
{
    s->table.n_rows = 1; /* the float model */
    BAL_TRY(quantize_all(s, err));
    BAL_TRY(load_records(s, err));
    BAL_TRY(open_all(s, err));
    for (int i = 1; i < s->table.n_rows; i++)
        if (&s->table.rows[i] == demo_find(&s->table, "ballast", 3))
            BAL_TRY(show_answer(s, i, err));
    BAL_TRY(measure_speed(s, err));
    fprintf(s->out, "\nAsking all of them the held-out questions:\n\n");
    fflush(s->out);
    BAL_TRY(evaluate_all(s, err));
    demo_print_table(s->out, &s->table);
    BAL_TRY(show_difference(s, err));
    if (s->f->common.json &&
        bal_print_json("demo", json_pack("{s:o}", "rows", demo_json(&s->table))))
        return bal_fail(err, BAL_E_FORMAT, "the table could not be printed");
    if (s->f->json) BAL_TRY(write_json(s, err));
    if (s->f->markdown) BAL_TRY(write_markdown(s, err));
    fprintf(s->out, "Reports: %s/*.html\n", s->f->work);
    fprintf(s->out, "Now try:  build/ballast chat %s\n", s->paths[s->table.n_rows - 1]);
    return BAL_OK;
}

static void close_all(demo_state *s)
{
    demo_table *t = &s->table;
    for (int i = 0; i < DEMO_MODELS; i++) {
        for (int set = 0; set < DEMO_SETS; set++) bal_eval_result_free(&t->rows[i].eval[set]);
        json_decref(t->rows[i].record);
        bal_engine_close(&s->engines[i]);
    }
    for (int set = 0; set < DEMO_SETS; set++) bal_evaldata_close(&t->data[set]);
}

int bal_cmd_demo(int argc, char **argv)
{
    static demo_state s;
    demo_flags f = {.folder = "demo", .work = "build/demo", .easy_questions = 2000};
    const bal_arg args[] = {
        {"--full", 0, BAL_ARG_BOOL, &f.full, "", "W4, W3, W2, all recipes and questions", 0, 0},
        {"--resume", 0, BAL_ARG_BOOL, &f.resume, "",
         "keep files, and what they took, that a demo before this made of the same", 0, 0},
        {"--samples", 0, BAL_ARG_INT, &f.samples, "N", "calibration conversations (32; full: 64)",
         1, 1 << 20},
        {"--questions", 0, BAL_ARG_INT, &f.questions, "N", "questions (300; full: all)", 1,
         1 << 20},
        {"--markdown", 0, BAL_ARG_STRING, &f.markdown, "FILE", "write the results as a page", 0, 0},
        {"--out-json", 0, BAL_ARG_STRING, &f.json, "FILE", "write the table as JSON rows", 0, 0},
        {"--easy-vqa", 0, BAL_ARG_STRING, &f.easy_vqa, "FILE.jsonl", "with --full: ask these too",
         0, 0},
        {"--easy-questions", 0, BAL_ARG_INT, &f.easy_questions, "N", "of those (2000; 0: all)", 0,
         1 << 20},
        {"--demo", 0, BAL_ARG_STRING, &f.folder, "DIR", "folder of the embedded model (demo)", 0,
         0},
        {"--work", 0, BAL_ARG_STRING, &f.work, "DIR", "where files are written (build/demo)", 0, 0},
    };
    const bal_command cmd = {
        "demo",
        "",
        "The tour: quantizes the embedded model, answers about a picture from\n"
        "3-bit weights and shows what each recipe lost.",
        args,
        sizeof args / sizeof args[0],
        0,
        0,
        "--shapes"};
    int n;
    const int st = bal_args_read(&cmd, &f.common, argc, argv, NULL, &n);
    if (st >= 0) return st;
    const int known = bal_device_check("demo", &f.common, true);
    if (known >= 0) return known;
    if (!f.samples) f.samples = f.full ? FULL_SAMPLES : QUICK_SAMPLES;
    if (!f.questions && !f.full) f.questions = QUICK_QUESTIONS;
    if (mkdir(f.work, 0777) != 0 && errno != EEXIST)
        return bal_failure("demo", "%s: cannot create: %s", f.work, strerror(errno));
    s.f = &f;
    s.out = f.common.json ? stderr : stdout;
    s.table.version = bal_version();
    s.table.group = 128;
    read_machine(s.table.machine);
    bal_bar_init(&s.bar, f.common.quiet);
    bal_interrupt_catch();
    bal_error err = {0};
    const bal_status done = tour(&s, &err);
    bal_bar_clear(&s.bar);
    if (done < 0) bal_failure("demo", "%s", err.text);
    close_all(&s);
    return bal_finish("demo", done < 0 ? 1 : 0);
}
