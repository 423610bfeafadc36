/* SPDX-License-Identifier: MIT */
#include "demo_table.h"

#include "base/status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const demo_row *demo_find(const demo_table *t, const char *recipe, int bits)
{
    for (int i = 0; i < t->n_rows; i++)
        if (strcmp(t->rows[i].recipe, recipe) == 0 && (i == 0 || t->rows[i].bits == bits))
            return &t->rows[i];
    return NULL;
}

/* ---- Paired differences ------------------------------------------------------------------------
 */

enum { SUM_KL, SUM_POSITIONS, SUM_RIGHT, SUM_QUESTIONS, SUMS };

static void sums_of(const bal_evaldata *data, const bal_eval_result *r, double *sums)
{
    const size_t g = data->n_groups;
    for (int i = 0; i < r->n_rows; i++) {
        const size_t at = data->questions[i].group;
        sums[SUM_KL * g + at] += r->rows[i].kl;
        sums[SUM_POSITIONS * g + at] += r->rows[i].n;
        sums[SUM_RIGHT * g + at] += r->rows[i].right;
        sums[SUM_QUESTIONS * g + at] += 1.0;
    }
}

/* Sums of a, and behind them those of b. The caller frees. */
static bal_status sums_of_both(double **out, const demo_table *t, int set, const demo_row *a,
                               const demo_row *b, bal_error *err)
{
    const size_t g = t->data[set].n_groups;
    *out = calloc(2 * SUMS * g, sizeof **out);
    if (!*out) return bal_nomem(err, 2 * SUMS * g * sizeof **out, "sums of groups");
    sums_of(&t->data[set], &a->eval[set], *out);
    sums_of(&t->data[set], &b->eval[set], *out + SUMS * g);
    return BAL_OK;
}

bal_status demo_part(bal_interval *out, const demo_table *t, int set, const demo_row *a,
                     const demo_row *b, bal_error *err)
{
    double *x;
    BAL_TRY(sums_of_both(&x, t, set, a, b, err));
    const bal_quotient part = {.top = x, .bottom = x + SUMS * t->data[set].n_groups};
    const bal_status st =
        bal_bootstrap(out, &part, (size_t)a->eval[set].n_groups, BAL_EVAL_DRAWS, 0, err);
    free(x);
    return st;
}

bal_status demo_compare(demo_difference *out, const demo_table *t, int set, const demo_row *a,
                        const demo_row *b, bal_error *err)
{
    const size_t g = t->data[set].n_groups, used = (size_t)a->eval[set].n_groups;
    double *x;
    BAL_TRY(sums_of_both(&x, t, set, a, b, err));
    const double *y = x + SUMS * g;
    const bal_quotient kl = {x, x + SUM_POSITIONS * g, y, y + SUM_POSITIONS * g};
    const bal_quotient right = {x + SUM_RIGHT * g, x + SUM_QUESTIONS * g, y + SUM_RIGHT * g,
                                y + SUM_QUESTIONS * g};
    bal_status st = bal_bootstrap(&out->kl, &kl, used, BAL_EVAL_DRAWS, 0, err);
    if (st == BAL_OK) st = bal_bootstrap(&out->accuracy, &right, used, BAL_EVAL_DRAWS, 0, err);
    free(x);
    return st;
}

/* ---- Terminal ----------------------------------------------------------------------------------
 */

static void print_row(FILE *f, const demo_row *r)
{
    const bal_eval_result *e = &r->eval[DEMO_QUESTIONS];
    fprintf(f, "%-10s %2d %6.2f %7.2f  %5.1f [%4.1f, %5.1f]  %6.3f", r->recipe, r->bits,
            r->linear_bpw, (double)r->bytes / 1e6, 100 * e->accuracy.value, 100 * e->accuracy.lo,
            100 * e->accuracy.hi, e->nll.value);
    if (e->compared)
        fprintf(f, "  %7.4f [%.4f, %.4f]  %5.1f", e->kl.value, e->kl.lo, e->kl.hi,
                100 * e->top1.value);
    else
        fprintf(f, "  %25s  %5s", "reference", "");
    fprintf(f, "  %6.0f\n", r->tokens_per_s);
}

void demo_print_table(FILE *f, const demo_table *t)
{
    const bal_eval_result *e = &t->rows[0].eval[DEMO_QUESTIONS];
    fprintf(f,
            "%d questions about %d pictures, %d calibration conversations, groups of %d, %d "
            "threads, %s\n\n"
            "recipe    bits    bpw  file MB  accuracy %% [95 %%]   NLL     KL [95 %%]          "
            "        top-1 %%  tok/s\n",
            e->n, e->n_groups, t->calibration, t->group, t->threads, t->isa);
    for (int i = 0; i < t->n_rows; i++) print_row(f, &t->rows[i]);
    fprintf(f,
            "\nbpw: bits per quantized weight, scales and zero points counted. NLL and KL(float || "
            "model) in nats per\nanswer token, top-1: agreement with float. Intervals: bootstrap "
            "over pictures.\n");
}

/* ---- JSON --------------------------------------------------------------------------------------
 */

static void put_interval(json_t *o, const char *name, const bal_interval *i)
{
    char key[32];
    json_object_set_new(o, name, json_real(i->value));
    snprintf(key, sizeof key, "%s_lo", name);
    json_object_set_new(o, key, json_real(i->lo));
    snprintf(key, sizeof key, "%s_hi", name);
    json_object_set_new(o, key, json_real(i->hi));
}

static json_t *row_json(const demo_row *r)
{
    const bal_eval_result *e = &r->eval[DEMO_QUESTIONS];
    const bal_interval zero = {0};
    json_t *o = json_object();
    json_object_set_new(o, "recipe", json_string(r->recipe));
    json_object_set_new(o, "bits", json_integer(r->bits));
    json_object_set_new(o, "bpw", json_real(r->linear_bpw));
    json_object_set_new(o, "file_bpw", json_real(r->file_bpw));
    json_object_set_new(o, "bytes", json_integer((json_int_t)r->bytes));
    json_object_set_new(o, "n", json_integer(e->n));
    put_interval(o, "accuracy", &e->accuracy);
    json_object_set_new(o, "nll", json_real(e->nll.value));
    put_interval(o, "kl", e->compared ? &e->kl : &zero);
    json_object_set_new(o, "top1", json_real(e->compared ? e->top1.value : 1.0));
    json_object_set_new(o, "tokens_per_s", json_real(r->tokens_per_s));
    return o;
}

json_t *demo_json(const demo_table *t)
{
    json_t *rows = json_array();
    for (int i = 0; i < t->n_rows; i++) json_array_append_new(rows, row_json(&t->rows[i]));
    return rows;
}

/* ---- Markdown ----------------------------------------------------------------------------------
 */

static const char *const set_titles[DEMO_SETS] = {"Held-out questions of the embedded model",
                                                  "Descriptions (several sentences)",
                                                  "easy-VQA, published test split"};

static void md_set(FILE *f, const demo_table *t, int set)
{
    const bal_eval_result *first = &t->rows[0].eval[set];
    const bool short_answers = set != DEMO_DESCRIPTIONS;
    if (!first->n) return;
    fprintf(f, "\n## %s\n\n%d questions about %d pictures, %lld answer positions.\n\n",
            set_titles[set], first->n, first->n_groups, (long long)first->n_positions);
    fprintf(f,
            "| recipe | bits | bpw |%s NLL | KL | top-1 %% |\n| --- | ---: | ---: |%s ---: | "
            "---: | ---: |\n",
            short_answers ? " accuracy % |" : "", short_answers ? " ---: |" : "");
    for (int i = 0; i < t->n_rows; i++) {
        const demo_row *r = &t->rows[i];
        const bal_eval_result *e = &r->eval[set];
        fprintf(f, "| %s | %d | %.2f |", r->recipe, r->bits, r->linear_bpw);
        if (short_answers)
            fprintf(f, " %.1f [%.1f, %.1f] |", 100 * e->accuracy.value, 100 * e->accuracy.lo,
                    100 * e->accuracy.hi);
        fprintf(f, " %.4f [%.4f, %.4f] |", e->nll.value, e->nll.lo, e->nll.hi);
        if (e->compared)
            fprintf(f, " %.5f [%.5f, %.5f] | %.1f [%.1f, %.1f] |\n", e->kl.value, e->kl.lo,
                    e->kl.hi, 100 * e->top1.value, 100 * e->top1.lo, 100 * e->top1.hi);
        else
            fprintf(f, " | |\n");
    }
}

/* Whether the row's linears read 8-bit activations. */
static bool reads_bytes(const demo_row *r)
{
    const json_t *recipe = json_object_get(r->record, "recipe");
    const char *act = json_string_value(json_object_get(recipe, "act"));
    return act && strcmp(act, "a8") == 0;
}

static const char *verdict(const bal_interval *i)
{
    if (i->hi < 0) return "lower";
    return i->lo > 0 ? "higher" : "no difference";
}

static bal_status md_pair(FILE *f, const demo_table *t, int set, int bits, const char *a,
                          const char *b, bal_error *err)
{
    const demo_row *x = demo_find(t, a, bits), *y = demo_find(t, b, bits);
    demo_difference d;
    if (!x || !y || !x->eval[set].n) return BAL_OK;
    const bal_status st = demo_compare(&d, t, set, x, y, err);
    if (st < 0) return st;
    fprintf(f, "| %s − %s | %d | %s | %+.5f [%+.5f, %+.5f] %s | %+.1f [%+.1f, %+.1f] %s |\n", a, b,
            bits, set_titles[set], d.kl.value, d.kl.lo, d.kl.hi, verdict(&d.kl),
            100 * d.accuracy.value, 100 * d.accuracy.lo, 100 * d.accuracy.hi,
            set == DEMO_DESCRIPTIONS ? "" : verdict(&d.accuracy));
    return BAL_OK;
}

static bal_status md_pairs(FILE *f, const demo_table *t, bal_error *err)
{
    static const char *const pairs[][2] = {{"awq", "rtn"},
                                           {"mbq", "awq"},
                                           {"mbq", "mbq-r1"},
                                           {"mbq+", "mbq"},
                                           {"mbq+", "awq+clip"},
                                           {"ballast", "mbq"},
                                           {"ballast", "mbq+"},
                                           {"ballast", "gptq"},
                                           {"ballast", "mbq+gptq"},
                                           {"ballast", "awq+gptq"},
                                           {"table", "awq+gptq"},
                                           {"table+shift", "table"},
                                           {"table+shift", "ballast"},
                                           {"gptq+shift", "gptq"},
                                           {"gptaq", "gptq"},
                                           {"vlmq", "gptq"},
                                           {"vlmq", "ballast"},
                                           {"guidedquant", "gptq"},
                                           {"ballast-a8", "w8a8"},
                                           {"ballast-a8", "w4a8"},
                                           {"gptq-a8", "w4a8"},
                                           {"awq-a8", "w4a8"},
                                           {"qoq", "ballast-a8"},
                                           {"ballast-a8", "ballast"}};
    fprintf(f, "\n## Differences, paired over pictures\n\n"
               "A difference inside its interval is not a difference; lower KL is better, higher "
               "accuracy is better.\n\n"
               "| | bits | set | KL | accuracy, points |\n| --- | ---: | --- | --- | --- |\n");
    static const int widths[] = {8, 4, 3, 2};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++)
            for (int set = 0; set < DEMO_SETS; set++) {
                const bal_status st = md_pair(f, t, set, widths[w], pairs[p][0], pairs[p][1], err);
                if (st < 0) return st;
            }
    return BAL_OK;
}

/* What each recipe leaves of the KL of mbq at the same width. */
static bal_status md_parts(FILE *f, const demo_table *t, bal_error *err)
{
    fprintf(f, "\n## KL as a part of `mbq`'s at the same width, %%\n\n| recipe | bits | bpw |");
    for (int set = 0; set < DEMO_SETS && t->rows[0].eval[set].n; set++)
        fprintf(f, " %s |", set_titles[set]);
    fprintf(f, "\n| --- | ---: | ---: |");
    for (int set = 0; set < DEMO_SETS && t->rows[0].eval[set].n; set++) fprintf(f, " ---: |");
    fprintf(f, "\n");
    for (int i = 1; i < t->n_rows; i++) {
        const demo_row *r = &t->rows[i], *mbq = demo_find(t, "mbq", r->bits);
        if (!mbq || mbq == r || reads_bytes(r)) continue;
        fprintf(f, "| %s | %d | %.2f |", r->recipe, r->bits, r->linear_bpw);
        for (int set = 0; set < DEMO_SETS && r->eval[set].n; set++) {
            bal_interval part;
            BAL_TRY(demo_part(&part, t, set, r, mbq, err));
            fprintf(f, " %.0f [%.0f, %.0f] |", 100 * part.value, 100 * part.lo, 100 * part.hi);
        }
        fprintf(f, "\n");
    }
    return BAL_OK;
}

static double member(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* The measured ratio |g vision| / |g answer| per block, and what the floor makes of it. */
static void md_sensitivity(FILE *f, const demo_row *r)
{
    const json_t *layers = json_object_get(json_object_get(r->record, "sensitivity"), "layers");
    size_t i;
    const json_t *layer;
    if (!json_array_size(layers)) return;
    fprintf(f,
            "\n### Recipe `%s`\n\n| block | attn: vision / answer | used | mlp: vision / answer | "
            "used |\n| ---: | ---: | ---: | ---: | ---: |\n",
            r->recipe);
    json_array_foreach(layers, i, layer)
    {
        const json_t *attn = json_object_get(layer, "attn"), *mlp = json_object_get(layer, "mlp");
        fprintf(f, "| %zu | %.4f | %.4f | %.4f | %.4f |\n", i, member(attn, "ratio"),
                member(attn, "weight"), member(mlp, "ratio"), member(mlp, "weight"));
    }
}

static void md_sizes(FILE *f, const demo_table *t)
{
    fprintf(
        f,
        "\n## Size and speed\n\n"
        "bpw: bits per quantized weight, scales and zero points counted; file bpw: the whole "
        "file over all its weights. Quantizing: seconds, those of the processor over all threads, "
        "and the most memory resident meanwhile, the mapped checkpoint included. Decoding speed: "
        "median [slowest, fastest] of "
        "interleaved rounds on %d threads, %s, %s.\n\n"
        "| recipe | bits | bpw | file bpw | bytes | quantized in s | processor s | with MB | "
        "tokens/s |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        t->threads, t->isa, t->machine);
    for (int i = 0; i < t->n_rows; i++) {
        const demo_row *r = &t->rows[i];
        fprintf(f, "| %s | %d | %.2f | %.2f | %llu |", r->recipe, r->bits, r->linear_bpw,
                r->file_bpw, (unsigned long long)r->bytes);
        if (i == 0)
            fprintf(f, " | | |");
        else
            fprintf(f, " %.1f | %.1f | %.0f |", r->quantize.seconds, r->quantize.cpu_seconds,
                    r->quantize.mb);
        fprintf(f, " %.0f [%.0f, %.0f] |\n", r->tokens_per_s, r->speed_lo, r->speed_hi);
    }
}

/* Squared error of the residual stream over its own square, as a mean over blocks, in %; NAN
 * without that modality. */
static double stream_error(const demo_row *r, const char *modality)
{
    const json_t *blocks = json_object_get(r->record, "blocks");
    double sum = 0.0;
    size_t i;
    const json_t *block;
    json_array_foreach(blocks, i, block)
    {
        const json_t *drift = json_object_get(block, "drift");
        sum += member(json_object_get(drift, "mse"), modality) /
               member(json_object_get(drift, "ref_ms"), modality);
    }
    return 100.0 * sum / (double)json_array_size(blocks);
}

static void md_sides(FILE *f, const demo_table *t)
{
    fprintf(f,
            "\n## Vision side and text side\n\nHow far the quantized residual stream is from the "
            "float one on the calibration conversations: squared error over squared size, mean "
            "over blocks, in %%.\n\n"
            "| recipe | bits | vision tokens | answer tokens | prompt tokens |\n"
            "| --- | ---: | ---: | ---: | ---: |\n");
    for (int i = 1; i < t->n_rows; i++) {
        const demo_row *r = &t->rows[i];
        fprintf(f, "| %s | %d | %.2f | %.2f | %.2f |\n", r->recipe, r->bits,
                stream_error(r, "vision"), stream_error(r, "answer"), stream_error(r, "prompt"));
    }
}

static void md_types(FILE *f, const demo_table *t)
{
    const bal_eval_result *first = &t->rows[0].eval[DEMO_QUESTIONS];
    fprintf(f, "\n## Accuracy by type of question, %%\n\n| recipe | bits |");
    for (int k = 0; k < first->n_types; k++)
        fprintf(f, " %s (%d) |", first->types[k].name, first->types[k].n);
    fprintf(f, "\n| --- | ---: |");
    for (int k = 0; k < first->n_types; k++) fprintf(f, " ---: |");
    fprintf(f, "\n");
    for (int i = 0; i < t->n_rows; i++) {
        const bal_eval_result *e = &t->rows[i].eval[DEMO_QUESTIONS];
        fprintf(f, "| %s | %d |", t->rows[i].recipe, t->rows[i].bits);
        for (int k = 0; k < e->n_types; k++)
            fprintf(f, " %.1f |", 100.0 * e->types[k].n_right / e->types[k].n);
        fprintf(f, "\n");
    }
}

bal_status demo_print_markdown(FILE *f, const demo_table *t, bal_error *err)
{
    fprintf(
        f,
        "# Results\n\n"
        "Made by `./demo.sh --full`: the embedded model (`demo/model`), %d calibration "
        "conversations, groups of %d (tables: 32),\nversion %s. With 8-bit activations: `w8a8`, "
        "`w4a8`, `w4a8+spikes`, `quarot` and `mquant` with a range per output, `mixpe` with one "
        "per 128 inputs, `dgq` and `qoq` with integer steps per 128, and what ends in `-a8`, the "
        "recipe of that name with `group=row` `grid=sym` `act=a8`. The rest have 16-bit ones. What "
        "the columns mean: [numerics.md](numerics.md), section Evaluation. Brackets are 95 %% "
        "intervals.\n",
        t->calibration, t->group, t->version);
    for (int set = 0; set < DEMO_SETS; set++) md_set(f, t, set);
    md_types(f, t);
    BAL_TRY(md_pairs(f, t, err));
    BAL_TRY(md_parts(f, t, err));
    fprintf(f, "\n## Measured sensitivity per block\n\n"
               "Mean |gradient| of the answer loss over vision tokens, divided by that over answer "
               "tokens, at the output of each sub-block;\n\"used\" is the ratio after the recipe's "
               "floor. In the last block vision tokens cannot reach the loss through their own "
               "output.\n");
    for (int i = 1; i < t->n_rows; i++)
        if (t->rows[i].bits == 3) md_sensitivity(f, &t->rows[i]);
    md_sides(f, t);
    md_sizes(f, t);
    return BAL_OK;
}
