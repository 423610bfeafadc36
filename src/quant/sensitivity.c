/* SPDX-License-Identifier: MIT
 * A few samples at a time: forward keeping the two residual streams of every block in memory,
 * backward with activation gradients (quant/backward.h), sums per block, sub-block and modality.
 * Weights are transposed once a layer and batch (quant/probe.h says why).
 *
 * gradient f16 emulates the published fp16 backward: the loss is divided by the number of samples
 * and every gradient tensor is rounded to f16 at module boundaries, so what lies below 2^-25
 * becomes zero, as it did there. Means are multiplied back by that number, so that both arithmetics
 * give figures of the same size. The forward pass is f32 in both. */
#include "quant/sensitivity.h"

#include "base/size.h"
#include "quant/backward.h"
#include "quant/block.h"
#include "quant/losses.h"
#include "quant/tokens.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Classes a row can be averaged in: the three modalities, and answer with prompt. */
enum { CLASS_TEXT = BAL_MODALITIES, CLASSES };

typedef struct class_mean {
    double abs, sq; /* sum of per-sample means, or of all elements */
    int64_t weight; /* samples, or elements */
} class_mean;

typedef class_mean cell_sums[CLASSES];

/* Hidden states kept at a time: enough samples to pay for transposing a layer, not more memory. */
#define STATE_BYTES ((size_t)16 << 20)

typedef struct walk {
    const bal_exec *e;
    const bal_model *m;
    const bal_text_config *c;
    const bal_recipe *recipe;
    const bal_samples *samples;
    bal_backward_mode mode;
    bal_pass pass;
    bal_probe probe;
    bal_wide_layer wide;
    bal_backward back;
    int own;                 /* samples that this rank computes */
    int first, n;            /* the batch: own samples first .. first + n - 1 */
    int batch;               /* largest n */
    float *h;                /* [layers + 1][batch][max_len][hidden]: block inputs, the output */
    float *mid;              /* [layers][batch][max_len][hidden]: after attention */
    float *dh;               /* [batch][max_len][hidden] */
    float *dmid;             /* [max_len][hidden] */
    bal_row_error *row_sums; /* [max_len] */
    cell_sums (*sums)[BAL_SUBS]; /* [layers] */
    bal_error_sums *records;     /* [samples][layers][BAL_SUBS] of gradients */
    double *losses;              /* [samples] */
    int columns;                 /* of a layer in tokens */
    float *tokens;               /* [batch][max_len][columns layers], or NULL: not asked for */
    double *head_sums;           /* [heads][max_len], with hessian=attention */
    float *attended;             /* [max_len], likewise */
} walk;

static void walk_deinit(walk *w)
{
    bal_pass_destroy(&w->pass);
    bal_probe_destroy(&w->probe);
    bal_wide_layer_destroy(&w->wide);
    bal_backward_destroy(&w->back);
    free(w->h);
    free(w->mid);
    free(w->dh);
    free(w->dmid);
    free(w->row_sums);
    free(w->sums);
    free(w->records);
    free(w->losses);
    free(w->tokens);
    free(w->head_sums);
    free(w->attended);
    *w = (walk){0};
}

static bal_status walk_states(walk *w, bal_error *err)
{
    const size_t layers = (size_t)w->c->layers, n = (size_t)w->samples->max_len;
    const size_t sample = n * (size_t)w->c->hidden * sizeof(float);
    const size_t fit = bal_max(1, STATE_BYTES / ((2 * layers + 2) * sample));
    const size_t batch = bal_min(fit, (size_t)w->samples->n);
    w->batch = (int)batch;
    w->h = malloc((layers + 1) * batch * sample);
    w->mid = malloc(layers * batch * sample);
    w->dh = malloc(batch * sample);
    w->dmid = malloc(sample);
    w->row_sums = malloc(n * sizeof *w->row_sums);
    w->sums = calloc(layers, sizeof *w->sums);
    w->records = calloc((size_t)w->samples->n * layers * BAL_SUBS, sizeof *w->records);
    w->losses = calloc((size_t)w->samples->n, sizeof *w->losses);
    if (!w->h || !w->mid || !w->dh || !w->dmid || !w->row_sums || !w->sums || !w->records ||
        !w->losses)
        return bal_nomem(err, (2 * layers + 2) * batch * sample, "hidden states of samples");
    if (!w->samples->gradients) return BAL_OK;
    const size_t floats = batch * n * (size_t)w->columns * layers;
    w->tokens = malloc(floats * sizeof *w->tokens);
    if (!w->tokens) return bal_nomem(err, floats * sizeof *w->tokens, "weights of tokens");
    if (w->recipe->hessian != BAL_HESSIAN_ATTENTION) return BAL_OK;
    const size_t sums = (size_t)w->c->heads * n;
    w->head_sums = malloc(sums * sizeof *w->head_sums);
    w->attended = malloc(n * sizeof *w->attended);
    return w->head_sums && w->attended
               ? BAL_OK
               : bal_nomem(err, sums * sizeof *w->head_sums, "attention of tokens");
}

static bal_status walk_init(walk *w, const bal_exec *e, const bal_model *m,
                            const bal_samples *samples, const bal_recipe *recipe, bal_error *err)
{
    const bool half = recipe->gradient == BAL_GRADIENT_F16;
    *w = (walk){.e = e, .m = m, .c = &m->config.text, .recipe = recipe, .samples = samples};
    w->columns = bal_recipe_token_columns(recipe);
    w->mode = (bal_backward_mode){half ? 1.0 / samples->n : 1.0, recipe->gradient};
    BAL_TRY(bal_pass_create(&w->pass, w->c, samples->max_len, err));
    BAL_TRY(bal_probe_create(&w->probe, e, w->c, samples->max_len, err));
    BAL_TRY(bal_wide_layer_create(&w->wide, e, &m->layers[0], err));
    BAL_TRY(bal_backward_create(&w->back, w->c, samples->max_len, err));
    return walk_states(w, err);
}

/* ---- A batch of samples -----------------------------------------------------------------------
 */

/* Rows of sample i of the batch in layer `layer` of h or mid (0 for dh). */
static float *sample_rows(const walk *w, float *base, int layer, int i)
{
    const size_t at = (size_t)layer * (size_t)w->batch + (size_t)i;
    return base + at * (size_t)w->samples->max_len * (size_t)w->c->hidden;
}

/* Number of sample i of the batch among all: ranks take turns. */
static int index_of(const walk *w, int i)
{
    const bal_rank *r = w->samples->rank;
    return r ? (w->first + i) * r->count + r->index : w->first + i;
}

static const bal_sample *sample_at(const walk *w, int i)
{
    return &w->samples->items[index_of(w, i)];
}

static bal_status check_rows(const walk *w, const float *x, int i, int layer, const char *what,
                             bal_error *err)
{
    const long at = bal_first_not_finite(x, (size_t)sample_at(w, i)->n * (size_t)w->c->hidden);
    if (at < 0) return BAL_OK;
    return bal_fail(err, BAL_E_NUMERIC,
                    "sample %d, layer %d: %s is NaN or Inf at position %ld, channel %ld",
                    index_of(w, i), layer, what, at / w->c->hidden, at % w->c->hidden);
}

static bool weighs_by(const walk *w, bool attention)
{
    return w->tokens && (w->recipe->hessian == BAL_HESSIAN_ATTENTION) == attention;
}

/* Columns of position t of sample i of the batch in a layer. */
static float *token_columns(const walk *w, int layer, int i, size_t t)
{
    const size_t columns = (size_t)w->columns, stride = columns * (size_t)w->c->layers;
    const size_t row = (size_t)i * (size_t)w->samples->max_len + t;
    return w->tokens + row * stride + columns * (size_t)layer;
}

/* All linears of a block weigh a token by what its attention gives it. */
static void keep_attended(walk *w, int layer, int i)
{
    const size_t n = (size_t)sample_at(w, i)->n;
    bal_probe_attended(w->e, w->c, (int)n, &w->probe, &w->pass, w->head_sums, w->attended);
    for (size_t t = 0; t < n; t++)
        for (int g = 0; g < w->columns; g++) token_columns(w, layer, i, t)[g] = w->attended[t];
}

static bal_status forward_block(walk *w, int layer, int i, bal_error *err)
{
    float *h = sample_rows(w, w->h, layer, i), *mid = sample_rows(w, w->mid, layer, i);
    float *next = sample_rows(w, w->h, layer + 1, i);
    bal_pass_place(&w->pass, sample_at(w, i));
    bal_probe_block(w->e, w->c, &w->wide, sample_at(w, i)->n, h, &w->probe, &w->pass, mid, next);
    if (weighs_by(w, true)) keep_attended(w, layer, i);
    return check_rows(w, next, i, layer, "the block output", err);
}

static bal_status forward(walk *w, const bal_store *embeds, bal_error *err)
{
    for (int i = 0; i < w->n; i++) {
        float *h = sample_rows(w, w->h, 0, i);
        BAL_TRY(bal_store_read(embeds, index_of(w, i), h, err));
        BAL_TRY(check_rows(w, h, i, -1, "the input embedding", err));
    }
    for (int l = 0; l < w->c->layers; l++) {
        bal_wide_copy_all(&w->wide, w->e, &w->m->layers[l]);
        for (int i = 0; i < w->n; i++) BAL_TRY(forward_block(w, l, i, err));
    }
    return BAL_OK;
}

static void add_class(class_mean *m, bal_average average, double abs, double sq, int64_t elements)
{
    if (elements == 0) return;
    const double per = average == BAL_AVERAGE_SAMPLE ? (double)elements : 1.0;
    m->abs += abs / per;
    m->sq += sq / per;
    m->weight += average == BAL_AVERAGE_SAMPLE ? 1 : elements;
}

static bal_error_sums *record_of(const walk *w, int sample, int layer, int sub)
{
    const size_t layers = (size_t)w->c->layers;
    return &w->records[((size_t)sample * layers + (size_t)layer) * BAL_SUBS + (size_t)sub];
}

static void keep_gradient(walk *w, int layer, int sub, const float *g, int i)
{
    const bal_sample *s = sample_at(w, i);
    bal_error_sums_add(record_of(w, index_of(w, i), layer, sub), w->e->pool, g, NULL, s->n,
                       w->c->hidden, s->modality, w->row_sums);
}

static void add_record(walk *w, int layer, int sub, const bal_error_sums *e)
{
    class_mean *m = w->sums[layer][sub];
    const int64_t cols = w->c->hidden;
    for (int i = 0; i < BAL_MODALITIES; i++)
        add_class(&m[i], w->recipe->average, e->abs[i], e->sq[i], e->rows[i] * cols);
    add_class(&m[CLASS_TEXT], w->recipe->average, e->abs[BAL_ANSWER] + e->abs[BAL_PROMPT],
              e->sq[BAL_ANSWER] + e->sq[BAL_PROMPT],
              (e->rows[BAL_ANSWER] + e->rows[BAL_PROMPT]) * cols);
}

/* Samples in order, whoever has computed them. */
static void add_records(walk *w, double *loss)
{
    for (int i = 0; i < w->samples->n; i++) {
        *loss += w->losses[i] / w->samples->n;
        for (int l = 0; l < w->c->layers; l++)
            for (int sub = 0; sub < BAL_SUBS; sub++) add_record(w, l, sub, record_of(w, i, l, sub));
    }
}

static double squares(const float *x, size_t n)
{
    double sum = 0.0;
    for (size_t c = 0; c < n; c++) sum += (double)x[c] * (double)x[c];
    return sum;
}

/* One row of the gradients of a group's outputs. */
typedef struct output_row {
    const float *g[3]; /* of each linear */
    const int *cols;
    int first, count; /* linears */
} output_row;

static double mean_square(const output_row *r)
{
    double sum = 0.0, all = 0.0;
    for (int k = 0; k < r->count; k++) {
        sum += squares(r->g[k], (size_t)r->cols[k]);
        all += r->cols[k];
    }
    return sum / all;
}

/* The same of each row group of each linear, to their columns. */
static void part_squares(const walk *w, const output_row *r, float *to)
{
    const int parts = bal_row_groups(w->recipe);
    for (int k = 0; k < r->count; k++)
        for (int p = 0; p < parts; p++) {
            const bal_range part = bal_row_group(w->recipe, (size_t)r->cols[k], p);
            const size_t n = part.end - part.begin;
            const double mean = n > 0 ? squares(r->g[k] + part.begin, n) / (double)n : 0.0;
            to[(r->first + k) * parts + p] = (float)(mean / (w->mode.scale * w->mode.scale));
        }
}

/* g: gradients of the group's linears, [positions][cols] each. */
static void keep_tokens(walk *w, int layer, int group, int i, const float *const *g,
                        const int *cols)
{
    output_row r = {
        .cols = cols, .first = bal_group_table[group].first, .count = bal_group_table[group].count};
    for (size_t t = 0; t < (size_t)sample_at(w, i)->n; t++) {
        float *to = token_columns(w, layer, i, t);
        for (int k = 0; k < r.count; k++) r.g[k] = g[k] + t * (size_t)cols[k];
        if (bal_row_groups(w->recipe) > 1)
            part_squares(w, &r, to);
        else
            to[group] = (float)(mean_square(&r) / (w->mode.scale * w->mode.scale));
    }
}

/* What the backward pass of a block has left behind in its buffers. */
static void keep_inner_tokens(walk *w, int layer, int i)
{
    const bal_text_config *c = w->c;
    const bal_backward *b = &w->back;
    const int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    keep_tokens(w, layer, BAL_GROUP_QKV, i, (const float *const[]){b->dq, b->dk, b->dv},
                (const int[]){q, kv, kv});
    keep_tokens(w, layer, BAL_GROUP_GATE_UP, i, (const float *const[]){b->dact, b->up},
                (const int[]){c->intermediate, c->intermediate});
    keep_tokens(w, layer, BAL_GROUP_O, i, (const float *const[]){w->dmid},
                (const int[]){c->hidden});
}

static bal_status backward_block(walk *w, int layer, int i, bal_error *err)
{
    const bal_sample *s = sample_at(w, i);
    bal_pass_place(&w->pass, s);
    const bal_rows rows = bal_pass_rows(&w->pass, s->n);
    float *dh = sample_rows(w, w->dh, 0, i);
    keep_gradient(w, layer, BAL_SUB_MLP, dh, i);
    if (weighs_by(w, false))
        keep_tokens(w, layer, BAL_GROUP_DOWN, i, (const float *const[]){dh},
                    (const int[]){w->c->hidden});
    bal_backward_block(w->e, w->c, &w->m->layers[layer], &w->wide, &rows, w->mode,
                       sample_rows(w, w->h, layer, i), sample_rows(w, w->mid, layer, i), dh,
                       w->dmid, &w->back);
    BAL_TRY(check_rows(w, w->dmid, i, layer, "the gradient", err));
    keep_gradient(w, layer, BAL_SUB_ATTN, w->dmid, i);
    if (weighs_by(w, false)) keep_inner_tokens(w, layer, i);
    return BAL_OK;
}

static bal_status backward(walk *w, bal_error *err)
{
    for (int l = w->c->layers - 1; l >= 0; l--) {
        bal_wide_copy_all(&w->wide, w->e, &w->m->layers[l]);
        for (int i = 0; i < w->n; i++) BAL_TRY(backward_block(w, l, i, err));
    }
    return BAL_OK;
}

static bal_status one_batch(walk *w, const bal_store *embeds, bal_error *err)
{
    BAL_TRY(forward(w, embeds, err));
    for (int i = 0; i < w->n; i++) {
        const bal_status st = bal_backward_loss(
            w->e, w->m, sample_at(w, i), w->mode, sample_rows(w, w->h, w->c->layers, i),
            &w->losses[index_of(w, i)], sample_rows(w, w->dh, 0, i), &w->pass.buf, err);
        if (st < 0) return bal_fail_in(err, st, "calibration sample %d", index_of(w, i));
    }
    BAL_TRY(backward(w, err));
    const size_t floats = (size_t)w->samples->max_len * (size_t)w->columns * (size_t)w->c->layers;
    for (int i = 0; w->tokens && i < w->n; i++)
        BAL_TRY(bal_store_write(w->samples->gradients, index_of(w, i),
                                w->tokens + (size_t)i * floats, err));
    return BAL_OK;
}

/* ---- All samples ------------------------------------------------------------------------------
 */

static const char *const sub_name[BAL_SUBS] = {"attention", "MLP"};

static bal_status fill_cell(const walk *w, bal_sensitivity_cell *cell, int layer, int sub,
                            bal_error *err)
{
    const class_mean *m = w->sums[layer][sub];
    double g1[CLASSES], g2[CLASSES];
    for (int i = 0; i < CLASSES; i++) {
        const double n = m[i].weight > 0 ? (double)m[i].weight : 1.0;
        g1[i] = m[i].abs / n / w->mode.scale;
        g2[i] = m[i].sq / n / (w->mode.scale * w->mode.scale);
    }
    memcpy(cell->g1, g1, sizeof cell->g1);
    memcpy(cell->g2, g2, sizeof cell->g2);
    const double language =
        g1[w->recipe->language == BAL_LANGUAGE_TEXT ? (int)CLASS_TEXT : (int)BAL_ANSWER];
    if (!(language > 0.0))
        return bal_fail(
            err, BAL_E_NUMERIC, "layer %d, %s: every answer gradient is zero%s", layer,
            sub_name[sub],
            w->recipe->gradient == BAL_GRADIENT_F16 ? " in f16 arithmetic; set gradient=f32" : "");
    cell->ratio = m[BAL_VISION].weight > 0 ? g1[BAL_VISION] / language : 1.0;
    return BAL_OK;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of an even count: the mean of the middle two. */
static bal_status median_ratio(const bal_sensitivity *s, int sub, double *median, bal_error *err)
{
    const size_t n = (size_t)s->layers;
    double *r = malloc(n * sizeof *r);
    *median = 0.0;
    if (!r) return bal_nomem(err, n * sizeof *r, "ratios");
    for (size_t i = 0; i < n; i++) r[i] = s->cell[i][sub].ratio;
    qsort(r, n, sizeof *r, by_value);
    *median = (r[(n - 1) / 2] + r[n / 2]) / 2.0;
    free(r);
    return BAL_OK;
}

static bal_status finish(const walk *w, bal_sensitivity *out, bal_error *err)
{
    const bal_floor floor = w->recipe->floor;
    const int last = out->layers - 1;
    for (int sub = 0; sub < BAL_SUBS; sub++) {
        double median;
        for (int i = 0; i <= last; i++) BAL_TRY(fill_cell(w, &out->cell[i][sub], i, sub, err));
        BAL_TRY(median_ratio(out, sub, &median, err));
        for (int i = 0; i <= last; i++) {
            const double r = out->cell[floor == BAL_FLOOR_REVERSED ? last - i : i][sub].ratio;
            out->cell[i][sub].weight = floor == BAL_FLOOR_FLAT     ? median
                                       : floor == BAL_FLOOR_MEDIAN ? fmax(r, median)
                                                                   : r;
        }
    }
    return BAL_OK;
}

static bal_status check_linears(const bal_model *m, bal_error *err)
{
    for (int i = 0; i < m->config.text.layers; i++)
        for (int j = 0; j < BAL_DECODER_LINEARS; j++)
            if (bal_type_get(bal_decoder_linear(&m->layers[i], j)->type)->packed)
                return bal_fail(err, BAL_E_ARG,
                                "%s: layer %d %s is packed; gradients need float "
                                "weights",
                                m->path, i, bal_decoder_linear_name(j));
    return BAL_OK;
}

/* A ratio of vision's weight to that of answers has nothing to be of without vision. */
static bool may_lack_vision(const bal_recipe *r)
{
    return r->absent == BAL_ABSENT_ALLOW && r->balance != BAL_BALANCE_GRADIENT;
}

static bal_status check_samples(const bal_model *m, const bal_samples *samples,
                                const bal_store *embeds, const bal_recipe *recipe, bal_error *err)
{
    bool vision = false;
    if (samples->n < 1) return bal_fail(err, BAL_E_ARG, "no calibration samples");
    BAL_TRY(bal_samples_check(samples, err));
    if (embeds->n_samples != samples->n || embeds->cols != m->config.text.hidden)
        return bal_fail(err, BAL_E_ARG, "%d embeddings of %d columns for %d samples of %d",
                        embeds->n_samples, embeds->cols, samples->n, (int)m->config.text.hidden);
    for (int i = 0; i < samples->n; i++) {
        const bal_sample *s = &samples->items[i];
        bool answer = false;
        for (int t = 0; t < s->n; t++) {
            answer = answer || (t > 0 && s->modality[t] == BAL_ANSWER);
            vision = vision || s->modality[t] == BAL_VISION;
        }
        if (!answer) return bal_fail(err, BAL_E_ARG, "calibration sample %d: no answer token", i);
    }
    if (m->config.has_vision && !vision && !may_lack_vision(recipe))
        return bal_fail(err, BAL_E_ARG,
                        "none of the %d calibration samples has vision tokens, but the model has a "
                        "vision tower: their weight cannot be measured",
                        samples->n);
    return BAL_OK;
}

static bal_status join(walk *w, bal_error *err)
{
    const int n = w->samples->n;
    const size_t record = (size_t)w->c->layers * BAL_SUBS * sizeof *w->records;
    if (!w->samples->rank) return BAL_OK;
    size_t *at = malloc(((size_t)n + 1) * sizeof *at);
    if (!at) return bal_nomem(err, ((size_t)n + 1) * sizeof *at, "order of samples");
    for (size_t i = 0; i <= (size_t)n; i++) at[i] = i;
    bal_rank *rank = w->samples->rank;
    bal_status st = bal_rank_join_samples(rank, w->records, at, n, record, err);
    if (st >= 0) st = bal_rank_join_samples(rank, w->losses, at, n, sizeof *w->losses, err);
    free(at);
    if (st < 0 || !w->tokens) return st;
    return bal_store_join(w->samples->gradients, rank, w->tokens, err);
}

static bal_status all_samples(walk *w, bal_sensitivity *out, const bal_store *embeds,
                              bal_step_fn *step, void *step_ctx, bal_error *err)
{
    for (int i = 0; i < w->samples->n; i++) w->own += bal_rank_owns(w->samples->rank, i);
    for (w->first = 0; w->first < w->own; w->first += w->batch) {
        w->n = w->own - w->first < w->batch ? w->own - w->first : w->batch;
        BAL_TRY(one_batch(w, embeds, err));
        if (step && step(step_ctx, "sensitivity", w->first + w->n, w->own) != 0)
            return bal_fail(err, BAL_E_CANCELLED, "cancelled while measuring sensitivity");
    }
    BAL_TRY(join(w, err));
    add_records(w, &out->loss);
    return finish(w, out, err);
}

bal_status bal_sensitivity_run(bal_sensitivity *out, const bal_exec *e, const bal_model *m,
                               const bal_samples *samples, const bal_store *embeds,
                               const bal_recipe *recipe, bal_step_fn *step, void *step_ctx,
                               bal_error *err)
{
    walk w = {0};
    *out = (bal_sensitivity){.layers = m->config.text.layers};
    BAL_TRY(check_linears(m, err));
    BAL_TRY(check_samples(m, samples, embeds, recipe, err));
    out->cell = calloc((size_t)out->layers, sizeof *out->cell);
    bal_status st = out->cell ? walk_init(&w, e, m, samples, recipe, err)
                              : bal_nomem(err, (size_t)out->layers, "sensitivity");
    if (st >= 0) st = all_samples(&w, out, embeds, step, step_ctx, err);
    walk_deinit(&w);
    if (st < 0) bal_sensitivity_free(out);
    return st;
}

void bal_sensitivity_free(bal_sensitivity *s)
{
    free(s->cell);
    *s = (bal_sensitivity){0};
}
