/* SPDX-License-Identifier: MIT
 * The page: what was made, how much each modality cares about each block, what rounding cost and
 * what the method won back, what was chosen, and where everything came from. */
#include "report/report.h"

#include "quant/recipe.h"
#include "report/chart.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LAYERS = 4096, POINTS = 64 };

static const char STYLE[] =
    ":root{--bg:#fbfbf9;--fg:#1c1f24;--dim:#6b7078;--rule:#dcdcd6;--card:#fff;--answer:#1f6feb;"
    "--vision:#d9660a;--prompt:#7a7f87;--floor:#9333a8}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#15171b;--fg:#e6e7ea;--dim:#9aa0a9;"
    "--rule:#32363d;--card:#1d2026;--answer:#6ea8ff;--vision:#ff9a4d;--prompt:#a0a5ad;"
    "--floor:#d08be0}}\n"
    "body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:0 auto;"
    "max-width:1120px;padding:24px 20px 60px}h1{font-size:24px;margin:0}h2{font-size:18px;"
    "margin:36px 0 6px;border-top:1px solid var(--rule);padding-top:18px}p{max-width:76ch}\n"
    ".dim{color:var(--dim)}.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:18px 0}.tile{"
    "background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px 16px}"
    ".tile b{display:block;font-size:22px}.charts{display:grid;gap:14px;"
    "grid-template-columns:repeat(auto-fit,minmax(330px,1fr))}figure{margin:0;padding:8px;"
    "background:var(--card);border:1px solid var(--rule);border-radius:8px}svg{width:100%;"
    "height:auto;display:block}.spark{width:96px;display:inline-block;vertical-align:middle}\n"
    "text{fill:var(--fg)}.tick{fill:var(--dim);font-size:10px}.head{font-size:12px;"
    "font-weight:600}.grid{stroke:var(--rule);stroke-width:1}.line{fill:none;stroke-width:1.6}"
    ".legend{font-size:12px;margin:2px 6px}.key{display:inline-block;width:10px;height:10px;"
    "border-radius:5px;margin:0 5px 0 8px}\n"
    "path.answer{stroke:var(--answer)}path.vision{stroke:var(--vision)}path.prompt{"
    "stroke:var(--prompt)}path.floor{stroke:var(--floor)}path.before{stroke:var(--dim);"
    "stroke-dasharray:4 3}circle.answer{fill:var(--answer)}circle.vision{fill:var(--vision)}"
    "circle.prompt{fill:var(--prompt)}circle.floor{fill:var(--floor)}circle.before{"
    "fill:var(--dim)}.key.answer{background:var(--answer)}.key.vision{background:var(--vision)}"
    ".key.prompt{background:var(--prompt)}.key.floor{background:var(--floor)}.key.before{"
    "background:var(--dim)}\n"
    "table{border-collapse:collapse;font-size:13px}th,td{padding:3px 12px 3px 0;text-align:left;"
    "border-bottom:1px solid var(--rule);vertical-align:middle}td.n{text-align:right;"
    "font-variant-numeric:tabular-nums}.wide{overflow-x:auto}code,pre{font:12px/1.4 "
    "ui-monospace,monospace;word-break:break-all;white-space:pre-wrap}\n";

/* ---- Reading the record ------------------------------------------------------------------------
 */

/* The value under a chain of keys that ends with NULL. */
static const json_t *find(const json_t *o, va_list keys)
{
    for (const char *k; o && (k = va_arg(keys, const char *));) o = json_object_get(o, k);
    return o;
}

static const json_t *get(const json_t *o, ...)
{
    va_list keys;
    va_start(keys, o);
    o = find(o, keys);
    va_end(keys);
    return o;
}

static double num(const json_t *o, ...)
{
    va_list keys;
    va_start(keys, o);
    o = find(o, keys);
    va_end(keys);
    return json_is_number(o) ? json_number_value(o) : NAN;
}

static void text_or_dash(FILE *f, const json_t *v)
{
    if (json_is_string(v))
        bal_chart_text(f, json_string_value(v));
    else if (json_is_integer(v))
        fprintf(f, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        fprintf(f, "%.10g", json_real_value(v));
    else
        fputs("–", f);
}

static void number_or_dash(FILE *f, const char *format, double x)
{
    if (isfinite(x))
        fprintf(f, format, x); /* formats are literals of this file */
    else
        fputs("–", f);
}

static int layers_of(const json_t *record)
{
    const size_t n = json_array_size(get(record, "blocks", NULL));
    return n < MAX_LAYERS ? (int)n : MAX_LAYERS;
}

/* ---- Top ---------------------------------------------------------------------------------------
 */

static void tile(FILE *f, const char *label, const char *format, double x)
{
    fputs("<div class=\"tile\"><b>", f);
    number_or_dash(f, format, x);
    fprintf(f, "</b>%s</div>\n", label);
}

static bool is(const json_t *r, const char *key, const char *word)
{
    const char *text = json_string_value(get(r, "recipe", key, NULL));
    return text && strcmp(text, word) == 0;
}

/* The name, and what was changed of the recipe of that name. */
static void write_title(FILE *f, const json_t *recipe)
{
    char title[BAL_RECIPE_TITLE] = "";
    char *text = json_is_object(recipe) ? json_dumps(recipe, JSON_COMPACT) : NULL;
    if (text) bal_recipe_title_of(text, title);
    if (title[0])
        bal_chart_text(f, title);
    else
        text_or_dash(f, get(recipe, "name", NULL));
    free(text);
}

/* Floats that stand for a format have the bits of it, not those that they take. */
static void write_bits_tile(FILE *f, const json_t *sizes)
{
    const double format = num(sizes, "format_bits_per_weight", NULL);
    const double stored = num(sizes, "linear_bits_per_weight", NULL);
    if (isfinite(format)) {
        tile(f, "bits per weight of the simulated format", "%.3f", format);
        tile(f, "bits per weight, linears stored as floats", "%.3f", stored);
    } else
        tile(f, "bits per weight, quantized linears", "%.3f", stored);
}

static void write_top(FILE *f, const json_t *r)
{
    fputs("<h1>", f);
    text_or_dash(f, get(r, "source", NULL));
    fputs("</h1>\n<p class=\"dim\">recipe ", f);
    write_title(f, get(r, "recipe", NULL));
    fputs(", ", f);
    text_or_dash(f, get(r, "recipe", "bits", NULL));
    fputs(" bits, group ", f);
    text_or_dash(f, get(r, "recipe", "group", NULL));
    fputs(", made by ", f);
    text_or_dash(f, get(r, "program", NULL));
    fputs("</p>\n<div class=\"tiles\">\n", f);
    write_bits_tile(f, get(r, "sizes", NULL));
    tile(f, "bits per weight, whole file", "%.3f", num(r, "sizes", "file_bits_per_weight", NULL));
    tile(f, "MB, the file", "%.1f", num(r, "sizes", "file_bytes", NULL) / 1e6);
    tile(f, "MB, the checkpoint", "%.1f", num(r, "sizes", "source_bytes", NULL) / 1e6);
    tile(f, "calibration samples", "%.0f", num(r, "calibration", "samples", NULL));
    tile(f, "vision tokens", "%.0f", num(r, "tokens", "vision", NULL));
    tile(f, "answer tokens", "%.0f", num(r, "tokens", "answer", NULL));
    fputs("</div>\n", f);
}

/* ---- Sensitivity -------------------------------------------------------------------------------
 */

typedef struct columns {
    double *y[4]; /* [n] each */
} columns;

static bool columns_init(columns *c, int n)
{
    double *all = malloc(4 * ((size_t)n + 1) * sizeof *all);
    for (int i = 0; i < 4; i++) c->y[i] = all ? all + (size_t)i * ((size_t)n + 1) : NULL;
    return all != NULL;
}

static void sensitivity_charts(FILE *f, const json_t *layers, int n, const char *sub, columns *c)
{
    char title[80];
    for (int i = 0; i < n; i++) {
        const json_t *cell = get(json_array_get(layers, (size_t)i), sub, NULL);
        c->y[0][i] = num(cell, "ratio", NULL);
        c->y[1][i] = num(cell, "weight", NULL);
        c->y[2][i] = num(cell, "g1", "vision", NULL);
        c->y[3][i] = num(cell, "g1", "answer", NULL);
    }
    const bal_chart_series ratio[] = {{"measured ratio", "vision", c->y[0]},
                                      {"used, after the floor", "floor", c->y[1]}};
    const bal_chart_series g1[] = {{"vision", "vision", c->y[2]}, {"answer", "answer", c->y[3]}};
    snprintf(title, sizeof title, "%s: weight of a vision token", sub);
    bal_chart_write(f, &(bal_chart){title, "layer", ratio, 2, n, false});
    snprintf(title, sizeof title, "%s: mean |gradient| (log)", sub);
    bal_chart_write(f, &(bal_chart){title, "layer", g1, 2, n, true});
}

static const char *use_of_ratio(const json_t *r)
{
    const bool weighs = is(r, "balance", "gradient");
    if (weighs && is(r, "scale", "search"))
        return "is what a vision token weighs in the search; the recipe may raise it to the median "
               "over layers";
    if (weighs && (is(r, "hessian", "balanced") || is(r, "hessian", "squared")))
        return "is what a vision token weighs in the second moments; the recipe may raise it to "
               "the median over layers";
    return "is no weight in this recipe";
}

static void write_sensitivity(FILE *f, const json_t *r, columns *c)
{
    const json_t *layers = get(r, "sensitivity", "layers", NULL);
    fputs("<h2>Sensitivity: how much the answer cares</h2>\n", f);
    if (!json_is_array(layers)) {
        fprintf(f,
                "<p class=\"dim\">This recipe does not measure gradients of the answers' loss%s."
                "</p>\n",
                is(r, "hessian", "local") ? ", only those of what each block's attention lost"
                                          : "");
        return;
    }
    fprintf(f,
            "<p>Mean absolute gradient of the answer's loss at each sub-block's output, per "
            "modality. The ratio vision / answer %s. Mean loss ",
            use_of_ratio(r));
    number_or_dash(f, "%.4f", num(r, "sensitivity", "loss", NULL));
    fputs(" nats per answer token.</p>\n<div class=\"charts\">\n", f);
    const size_t n = json_array_size(layers);
    const int m = (int)(n < (size_t)layers_of(r) ? n : (size_t)layers_of(r));
    sensitivity_charts(f, layers, m, "attn", c);
    sensitivity_charts(f, layers, m, "mlp", c);
    fputs("</div>\n", f);
}

/* ---- Errors ------------------------------------------------------------------------------------
 */

static double relative(const json_t *errors, const char *modality)
{
    return num(errors, "mse", modality, NULL) / num(errors, "ref_ms", modality, NULL);
}

static void error_chart(FILE *f, const json_t *r, const char *sub, const char *modality, columns *c)
{
    char title[80];
    const int n = layers_of(r);
    const json_t *blocks = get(r, "blocks", NULL);
    for (int i = 0; i < n; i++) {
        const json_t *b = json_array_get(blocks, (size_t)i);
        c->y[0][i] = relative(get(b, "rtn", sub, NULL), modality);
        c->y[1][i] = relative(get(b, "final", sub, NULL), modality);
    }
    const bal_chart_series s[] = {{"plain rounding", "before", c->y[0]},
                                  {"this file", modality, c->y[1]}};
    snprintf(title, sizeof title, "%s output, %s tokens", sub, modality);
    bal_chart_write(f, &(bal_chart){title, "layer", s, 2, n, true});
}

static void drift_chart(FILE *f, const json_t *r, columns *c)
{
    static const char *const names[] = {"prompt", "answer", "vision"};
    const int n = layers_of(r);
    bal_chart_series s[3];
    for (int m = 0; m < 3; m++) {
        for (int i = 0; i < n; i++)
            c->y[m][i] = relative(
                get(json_array_get(get(r, "blocks", NULL), (size_t)i), "drift", NULL), names[m]);
        s[m] = (bal_chart_series){names[m], names[m], c->y[m]};
    }
    bal_chart_write(
        f, &(bal_chart){"drift of the hidden states behind each block", "layer", s, 3, n, true});
}

static void write_errors(FILE *f, const json_t *r, columns *c)
{
    fputs("<h2>Error before and after</h2>\n<p>Mean squared output error of each sub-block on the "
          "float model's inputs, relative to the output's mean square: plain rounding at the same "
          "bits against this file, each modality by itself. Drift is the whole quantized model "
          "against the float one, block after block.</p>\n<div class=\"charts\">\n",
          f);
    error_chart(f, r, "attn", "answer", c);
    error_chart(f, r, "attn", "vision", c);
    error_chart(f, r, "mlp", "answer", c);
    error_chart(f, r, "mlp", "vision", c);
    drift_chart(f, r, c);
    fputs("</div>\n", f);
}

/* ---- Choices -----------------------------------------------------------------------------------
 */

static void group_cell(FILE *f, const json_t *g)
{
    double y[POINTS];
    const json_t *loss = get(g, "loss", NULL);
    const size_t n = json_array_size(loss);
    if (n < 2 || n > POINTS) {
        fputs("<td class=\"dim\">–</td>", f);
        return;
    }
    for (size_t i = 0; i < n; i++) y[i] = num(json_array_get(loss, i), NULL);
    const double best = num(g, "best", NULL);
    fputs("<td>", f);
    bal_chart_spark(f, y, (int)n, best >= 0 && best < POINTS ? (int)best : -1);
    fputs(" ", f);
    number_or_dash(f, "%.2f", num(g, "exponent", NULL));
    fputs("</td>", f);
}

static void choice_row(FILE *f, const json_t *b, int layer)
{
    static const char *const names[] = {"qkv", "o", "gate_up", "down"};
    const json_t *groups = get(b, "groups", NULL);
    fprintf(f, "<tr><td class=\"n\">%d</td>", layer);
    for (int k = 0; k < 4; k++) {
        const json_t *found = NULL;
        for (size_t i = 0; i < json_array_size(groups) && !found; i++) {
            const json_t *g = json_array_get(groups, i);
            const char *name = json_string_value(get(g, "name", NULL));
            if (name && strcmp(name, names[k]) == 0) found = g;
        }
        group_cell(f, found);
    }
    const bool attn = json_is_true(get(b, "clip_undone", "attn", NULL));
    const bool mlp = json_is_true(get(b, "clip_undone", "mlp", NULL));
    fprintf(f, "<td>%s%s%s</td></tr>\n", attn ? "attn " : "", mlp ? "mlp " : "",
            attn || mlp ? "undone" : "");
}

/* Whether some block has exponents or a clip to show. */
static bool has_choices(const json_t *r)
{
    const json_t *blocks = get(r, "blocks", NULL), *b, *g;
    bool any = is(r, "scale", "search");
    size_t i, k;
    json_array_foreach(blocks, i, b)
    {
        any |= json_is_true(get(b, "clip_undone", "attn", NULL)) ||
               json_is_true(get(b, "clip_undone", "mlp", NULL));
        json_array_foreach(get(b, "groups", NULL), k, g) any |= json_is_array(get(g, "loss", NULL));
    }
    return any;
}

static void write_choices(FILE *f, const json_t *r)
{
    if (!has_choices(r)) return;
    fputs("<h2>Chosen exponents</h2>\n<p>Channel scales are the channel statistic to the power of "
          "an exponent; the curve is the loss over the exponents 0 to 0.95, the dot the one that "
          "was taken. 0 is plain rounding. A dash: this group was not searched.</p>\n"
          "<details open><summary>every layer</summary><div class=\"wide\"><table><tr><th>layer"
          "</th><th>q k v</th><th>o</th><th>gate, up</th><th>down</th><th>clip</th></tr>\n",
          f);
    for (int i = 0; i < layers_of(r); i++)
        choice_row(f, json_array_get(get(r, "blocks", NULL), (size_t)i), i);
    fputs("</table></div></details>\n", f);
}

/* ---- Solver steps ------------------------------------------------------------------------------
 */

/* Each step's error as a part of plain rounding's; struck out what was undone. */
static void steps_cell(FILE *f, const json_t *steps)
{
    const double plain = num(json_array_get(steps, 0), "error", NULL);
    fputs("<td>", f);
    for (size_t i = 1; i < json_array_size(steps); i++) {
        const json_t *step = json_array_get(steps, i);
        const char *tag = json_is_true(get(step, "kept", NULL)) ? "span" : "s";
        fprintf(f, "%s<%s>", i > 1 ? ", " : "", tag);
        text_or_dash(f, get(step, "name", NULL));
        fputs(" ", f);
        number_or_dash(f, "%.3f", num(step, "error", NULL) / plain);
        fprintf(f, "</%s>", tag);
    }
    fputs("</td>", f);
}

static bool has_steps(const json_t *r)
{
    const json_t *first = json_array_get(get(r, "blocks", NULL), 0);
    return json_array_size(get(json_array_get(get(first, "groups", NULL), 0), "steps", NULL)) > 0;
}

/* What weighs tokens in H, where it is a word of the recipe's. */
static const char *weighing(const json_t *r)
{
    static const char *const words[][2] = {
        {"balanced", "as the loss weighs them (hessian=balanced)"},
        {"squared", "as the loss weighs them, vision by the square of its ratio (hessian=squared)"},
        {"all", "all alike (hessian=all)"},
        {"answer", "answers alone (hessian=answer)"},
        {"vision", "vision alone (hessian=vision)"},
        {"grad2", "by squared gradients of the answers' loss, cut off (hessian=grad2)"},
        {"grad2-raw", "by squared gradients of the answers' loss (hessian=grad2-raw)"},
        {"grad2-mean", "by their modality's squared gradient (hessian=grad2-mean)"},
        {"attention", "by the attention they get in their block (hessian=attention)"},
        {"local", "those of q, k, v and o by the gradient of what the block's attention lost, all "
                  "others alike (hessian=local)"},
    };
    if (is(r, "hessian", "balanced") && is(r, "balance", "off"))
        return "all alike (hessian=balanced with balance=off)";
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (is(r, "hessian", words[i][0])) return words[i][1];
    return "as the recipe says";
}

/* What is solved besides codes for all rows alike. */
static void write_solving(FILE *f, const json_t *r)
{
    const json_int_t groups = json_integer_value(get(r, "recipe", "row_groups", NULL));
    const json_int_t rank = json_integer_value(get(r, "recipe", "rank", NULL));
    fprintf(f, "<p>Tokens weigh in H: %s.", weighing(r));
    if (groups > 1)
        fprintf(f,
                " Outputs are solved in %" JSON_INTEGER_FORMAT " groups, each with weights of "
                "its own (row_groups).",
                groups);
    if (rank > 0)
        fprintf(f,
                " Beside the codes stands a matrix of rank %" JSON_INTEGER_FORMAT " for %s; its "
                "bits are counted.",
                rank, is(r, "rank_rows", "vision") ? "vision rows only" : "all rows");
    fputs("</p>\n", f);
}

static void write_steps(FILE *f, const json_t *r)
{
    if (!has_steps(r)) return;
    fputs("<h2>Solver steps</h2>\n", f);
    write_solving(f, r);
    fprintf(f,
            "<p>Squared error of the residual stream behind the sub-block on the quantized stream, "
            "tokens weighed as in H, as a part of what plain rounding of the same group leaves; "
            "columns of recipes that weigh them otherwise do not compare. %s</p>\n<details "
            "open><summary>every layer</summary>"
            "<div class=\"wide\"><table><tr><th>layer</th><th>q k v</th><th>o</th><th>gate, "
            "up</th><th>down</th></tr>\n",
            is(r, "undo", "on")
                ? "Measured on samples the solver has not seen where there are enough. Struck out: "
                  "the step was worse and undone."
                : "All steps of the recipe at once, measured on every eighth sample where there "
                  "are enough; the solver has seen them, and nothing is undone (undo=off).");
    for (int i = 0; i < layers_of(r); i++) {
        const json_t *b = json_array_get(get(r, "blocks", NULL), (size_t)i);
        const json_t *groups = get(b, "groups", NULL);
        fprintf(f, "<tr><td class=\"n\">%d</td>", i);
        for (size_t g = 0; g < json_array_size(groups); g++)
            steps_cell(f, get(json_array_get(groups, g), "steps", NULL));
        fputs("</tr>\n", f);
    }
    fputs("</table></div></details>\n", f);
}

/* ---- Bits and numbers --------------------------------------------------------------------------
 */

static void size_row(FILE *f, const char *label, double bytes, double weights, double bpw)
{
    fprintf(f, "<tr><td>%s</td><td class=\"n\">", label);
    number_or_dash(f, "%.0f", bytes);
    fputs("</td><td class=\"n\">", f);
    number_or_dash(f, "%.0f", weights);
    fputs("</td><td class=\"n\">", f);
    number_or_dash(f, "%.4f", bpw);
    fputs("</td></tr>\n", f);
}

static void write_bits(FILE *f, const json_t *r)
{
    const json_t *s = get(r, "sizes", NULL);
    fputs("<h2>Bits</h2>\n<div class=\"wide\"><table><tr><th></th><th>bytes</th><th>weights</th>"
          "<th>bits per weight</th></tr>\n",
          f);
    size_row(f, "quantized linears, scales, zero points and matrices of small rank counted",
             num(s, "linear_bytes", NULL), num(s, "linear_weights", NULL),
             num(s, "linear_bits_per_weight", NULL));
    const double format = num(s, "format_bits_per_weight", NULL);
    if (isfinite(format))
        size_row(f, "the same in a storage of the format, which floats stand for here: computed",
                 format * num(s, "linear_weights", NULL) / 8, num(s, "linear_weights", NULL),
                 format);
    size_row(f, "whole file, embeddings, head and vision tower counted", num(s, "file_bytes", NULL),
             num(s, "all_weights", NULL), num(s, "file_bits_per_weight", NULL));
    size_row(f, "the checkpoint", num(s, "source_bytes", NULL), num(s, "all_weights", NULL),
             8 * num(s, "source_bytes", NULL) / num(s, "all_weights", NULL));
    fputs("</table></div>\n", f);
}

/* What allocate=verified has tried. */
static void write_plans(FILE *f, const json_t *r)
{
    const json_t *plans = get(r, "allocation", "plans", NULL), *plan;
    size_t i;
    if (!json_is_array(plans)) return;
    fputs("<p class=\"dim\">Plans of widths in the order they were tried, all linears rounded: the "
          "first by rules, then batch by batch towards the expected costs.</p>\n"
          "<div class=\"wide\"><table><tr><th>plan</th><th>KL of the answers, nats</th>"
          "<th>bytes</th><th>kept</th></tr>\n",
          f);
    json_array_foreach(plans, i, plan)
    {
        fprintf(f, "<tr><td class=\"n\">%zu</td><td class=\"n\">", i + 1);
        number_or_dash(f, "%.3g", num(plan, "kl", NULL));
        fputs("</td><td class=\"n\">", f);
        number_or_dash(f, "%.0f", num(plan, "bytes", NULL));
        fprintf(f, "</td><td>%s</td></tr>\n",
                json_is_true(json_object_get(plan, "kept")) ? "yes" : "no");
    }
    fputs("</table></div>\n", f);
}

/* Which width each linear got, with bits=auto. */
static void write_allocation(FILE *f, const json_t *r)
{
    const json_t *layers = get(r, "allocation", "bits", NULL), *row;
    const char *how = get(r, "allocation", "plans", NULL)
                          ? "from rules towards the least expected rise of the answer loss, as far "
                            "as the answers' KL fell"
                      : get(r, "allocation", "cost", NULL)
                          ? "by the rise of the answer loss that is expected of each"
                          : "by rules";
    size_t i;
    if (!json_is_array(layers)) return;
    fprintf(f,
            "<h2>Bits per linear</h2>\n<p class=\"dim\">Widths under the budget, %s.</p>\n"
            "<div class=\"wide\"><table><tr><th>block</th><th>q</th><th>k</th><th>v</th><th>o</th>"
            "<th>gate</th><th>up</th><th>down</th></tr>\n",
            how);
    json_array_foreach(layers, i, row)
    {
        fprintf(f, "<tr><td class=\"n\">%zu</td>", i);
        for (size_t k = 0; k < 7; k++) {
            const json_t *bits = json_array_get(row, k);
            fputs("<td class=\"n\">", f);
            number_or_dash(f, "%.0f", json_is_integer(bits) ? json_number_value(bits) : NAN);
            fputs("</td>", f);
        }
        fputs("</tr>\n", f);
    }
    fputs("</table></div>\n", f);
    write_plans(f, r);
}

static void numbers_row(FILE *f, const json_t *b, const json_t *cell, const char *sub, int layer)
{
    fprintf(f, "<tr><td class=\"n\">%d</td><td>%s</td>", layer, sub);
    const double values[] = {
        num(cell, "ratio", NULL),
        num(cell, "weight", NULL),
        relative(get(b, "rtn", sub, NULL), "answer"),
        relative(get(b, "final", sub, NULL), "answer"),
        relative(get(b, "rtn", sub, NULL), "vision"),
        relative(get(b, "final", sub, NULL), "vision"),
    };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        fputs("<td class=\"n\">", f);
        number_or_dash(f, "%.3g", values[i]);
        fputs("</td>", f);
    }
    fputs("</tr>\n", f);
}

static void write_numbers(FILE *f, const json_t *r)
{
    fputs("<h2>Numbers</h2>\n<details><summary>per layer and sub-block</summary><div class="
          "\"wide\"><table><tr><th>layer</th><th></th><th>ratio</th><th>used</th><th>answer, "
          "rounding</th><th>answer, file</th><th>vision, rounding</th><th>vision, file</th></tr>\n",
          f);
    for (int i = 0; i < layers_of(r); i++) {
        const json_t *b = json_array_get(get(r, "blocks", NULL), (size_t)i);
        const json_t *s = json_array_get(get(r, "sensitivity", "layers", NULL), (size_t)i);
        numbers_row(f, b, get(s, "attn", NULL), "attn", i);
        numbers_row(f, b, get(s, "mlp", NULL), "mlp", i);
    }
    fputs("</table></div></details>\n", f);
}

/* ---- Where it came from ------------------------------------------------------------------------
 */

static void origin_row(FILE *f, const char *label, const json_t *v)
{
    fprintf(f, "<tr><td>%s</td><td><code>", label);
    text_or_dash(f, v);
    fputs("</code></td></tr>\n", f);
}

static void write_origin(FILE *f, const json_t *r)
{
    fputs("<h2>Where it came from</h2>\n<div class=\"wide\"><table>\n", f);
    origin_row(f, "program", get(r, "program", NULL));
    origin_row(f, "instruction set", get(r, "isa", NULL));
    if (get(r, "blas", NULL)) origin_row(f, "BLAS", get(r, "blas", NULL));
    origin_row(f, "checkpoint", get(r, "source", NULL));
    origin_row(f, "checkpoint, SHA-256", get(r, "model_sha256", NULL));
    origin_row(f, "calibration data", get(r, "calibration", "file", NULL));
    origin_row(f, "data and pictures, SHA-256", get(r, "calibration", "sha256", NULL));
    origin_row(f, "records in the data file", get(r, "calibration", "of", NULL));
    origin_row(f, "seed", get(r, "calibration", "seed", NULL));
    const json_t *limit = get(r, "calibration", "image_max_tokens", NULL);
    if (limit) origin_row(f, "most tokens of a picture", limit);
    origin_row(f, "command", get(r, "command", NULL));
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)get(r, "recipe", NULL), key, value)
    {
        fputs("<tr><td>recipe: ", f);
        bal_chart_text(f, key);
        fputs("</td><td><code>", f);
        text_or_dash(f, value);
        fputs("</code></td></tr>\n", f);
    }
    fputs("</table></div>\n", f);
}

static void write_page(FILE *f, const json_t *r, columns *c)
{
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\""
          " content=\"width=device-width\"><title>Ballast: ",
          f);
    text_or_dash(f, get(r, "source", NULL));
    fprintf(f, "</title><style>\n%s</style></head><body>\n", STYLE);
    write_top(f, r);
    write_sensitivity(f, r, c);
    write_errors(f, r, c);
    write_choices(f, r);
    write_steps(f, r);
    write_bits(f, r);
    write_allocation(f, r);
    write_numbers(f, r);
    write_origin(f, r);
    fputs("</body></html>\n", f);
}

bal_status bal_report_html(char **out, const json_t *record, bal_error *err)
{
    columns c;
    size_t n = 0;
    *out = NULL;
    if (!columns_init(&c, layers_of(record))) return bal_nomem(err, MAX_LAYERS, "report");
    FILE *f = open_memstream(out, &n);
    if (f) write_page(f, record, &c);
    const bool bad = !f || ferror(f);
    if (f && fclose(f) == 0 && !bad && *out) {
        free(c.y[0]);
        return BAL_OK;
    }
    free(c.y[0]);
    free(*out);
    *out = NULL;
    return bal_nomem(err, n, "report");
}
