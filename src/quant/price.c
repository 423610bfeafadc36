/* SPDX-License-Identifier: MIT
 * The pass that measures, over the float stream of a few samples, and the way from widths to bytes
 * and back. Refuses budgets below the least possible, saying what that is. */
#include "quant/price.h"

#include "format/json.h"
#include "quant/fold.h"
#include "quant/part.h"
#include "quant/pass.h"
#include "quant/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RECORD_BYTES = 1 << 26 };

bal_status bal_widths_create(bal_widths_plan *p, int layers, const bal_recipe *recipe,
                             bal_error *err)
{
    *p = (bal_widths_plan){.layers = layers, .widths = bal_width_count(recipe)};
    p->cost = calloc((size_t)layers, sizeof *p->cost);
    p->bits = calloc((size_t)layers, sizeof *p->bits);
    if (p->cost && p->bits) return BAL_OK;
    bal_widths_free(p);
    return bal_nomem(err, (size_t)layers * sizeof *p->cost, "prices of widths");
}

void bal_widths_free(bal_widths_plan *p)
{
    free(p->cost);
    free(p->bits);
    *p = (bal_widths_plan){0};
}

/* ---- Measuring --------------------------------------------------------------------------------
 */

typedef struct meter {
    bal_widths_plan *p;
    const bal_widths_job *j;
    bal_samples samples;               /* borrowed: the first of all */
    double per_sample[BAL_MODALITIES]; /* mean number of positions */
    const bal_sensitivity *sensitivity;
    bal_store stream;
    bal_pass pass;
    float *h; /* [max_len][hidden] */
} meter;

static bal_status start_stream(meter *w, bal_error *err)
{
    const bal_text_config *c = &w->j->m->config.text;
    const size_t floats = (size_t)w->samples.max_len * (size_t)c->hidden;
    BAL_TRY(bal_pass_create(&w->pass, c, w->samples.max_len, err));
    w->h = malloc(floats * sizeof *w->h);
    if (!w->h) return bal_nomem(err, floats * sizeof *w->h, "hidden states");
    BAL_TRY(bal_store_create(&w->stream, w->j->tmp_dir, &w->samples, c->hidden, err));
    for (int i = 0; i < w->samples.n; i++) {
        BAL_TRY(bal_store_read(w->j->embeds, i, w->h, err));
        BAL_TRY(bal_store_write(&w->stream, i, w->h, err));
        for (int t = 0; t < w->samples.items[i].n; t++)
            w->per_sample[w->samples.items[i].modality[t]] += 1.0 / w->samples.n;
    }
    return BAL_OK;
}

static bal_status advance(meter *w, int layer, bal_error *err)
{
    for (int i = 0; i < w->samples.n; i++) {
        if (!bal_rank_owns(w->samples.rank, i)) continue;
        BAL_TRY(bal_store_read(&w->stream, i, w->h, err));
        bal_pass_place(&w->pass, &w->samples.items[i]);
        const bal_rows rows = bal_pass_rows(&w->pass, w->samples.items[i].n);
        bal_decoder_block(w->j->e, &w->j->m->config.text, &w->j->m->layers[layer], &rows, w->h,
                          &w->pass.buf, layer, (bal_taps){0});
        BAL_TRY(bal_store_write(&w->stream, i, w->h, err));
    }
    return bal_store_join(&w->stream, w->samples.rank, w->h, err);
}

/* Second order with the gradient's squares for a diagonal: every element of the output moves by its
 * squared error, each counts with the mean square of its gradient. The gradient is that of a mean
 * over a sample's answer tokens, hence their number in front. */
static double cost_of(const meter *w, const bal_block_price *price, int layer, int i, int width)
{
    const int sub = bal_group_table[bal_group_of_linear(i)].sub;
    const bal_sensitivity_cell *cell = &w->sensitivity->cell[layer][sub];
    double weight[BAL_MODALITIES], sum = 0.0;
    bal_modality_weights(w->j->recipe, 1.0, weight);
    for (int m = 0; m < BAL_MODALITIES; m++)
        sum += weight[m] * w->per_sample[m] * cell->g2[m] * price->mse[i][width][m];
    return 0.5 * w->per_sample[BAL_ANSWER] * w->j->m->config.text.hidden * sum;
}

static bal_status measure(meter *w, bal_error *err)
{
    const bal_widths_job *j = w->j;
    BAL_TRY(start_stream(w, err));
    for (int layer = 0; layer < w->p->layers; layer++) {
        bal_block_price price;
        BAL_TRY(bal_block_price_make(&price, j->e, &j->m->config.text, &j->m->layers[layer], layer,
                                     &w->samples, &w->stream, j->recipe, j->tmp_dir, err));
        for (int i = 0; i < BAL_DECODER_LINEARS; i++)
            for (int width = 0; width < w->p->widths; width++)
                w->p->cost[layer][i][width] = cost_of(w, &price, layer, i, width);
        BAL_TRY(advance(w, layer, err));
        if (j->step && j->step(j->step_ctx, "widths", layer + 1, w->p->layers))
            return bal_fail(err, BAL_E_CANCELLED, "cancelled while measuring widths");
    }
    w->p->priced = true;
    return BAL_OK;
}

bal_status bal_widths_measure(bal_widths_plan *p, const bal_widths_job *j,
                              const bal_sensitivity *sensitivity, bal_error *err)
{
    meter w = {.p = p, .j = j, .samples = *j->samples, .sensitivity = sensitivity, .stream.fd = -1};
    if (w.samples.n > BAL_PRICE_SAMPLES) w.samples.n = BAL_PRICE_SAMPLES;
    const bal_status st = measure(&w, err);
    bal_store_destroy(&w.stream);
    bal_pass_destroy(&w.pass);
    free(w.h);
    return st;
}

/* ---- Buying -----------------------------------------------------------------------------------
 */

static bal_status packed_bytes(uint64_t *out, const bal_model *m, int i, int width,
                               const bal_recipe *recipe, bal_error *err)
{
    bal_packed_format format = bal_recipe_format(recipe, i);
    bal_packed_layout layout;
    int n, k;
    format.bits = bal_widths[width];
    bal_part_linear_size(&m->config.text, i, &n, &k);
    BAL_TRY(bal_packed_layout_of(&layout, format, (size_t)n, (size_t)k, err));
    *out = layout.n_bytes;
    return BAL_OK;
}

bal_status bal_widths_range(uint64_t *least, uint64_t *most, const bal_model *m,
                            const bal_recipe *recipe, bal_error *err)
{
    const uint64_t layers = (uint64_t)m->config.text.layers;
    *least = *most = 0;
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        uint64_t narrow, wide;
        BAL_TRY(packed_bytes(&narrow, m, i, 0, recipe, err));
        BAL_TRY(packed_bytes(&wide, m, i, bal_width_count(recipe) - 1, recipe, err));
        *least += layers * narrow;
        *most += layers * wide;
    }
    return BAL_OK;
}

bal_status bal_widths_problem(bal_alloc_problem *out, const bal_widths_plan *p, const bal_model *m,
                              const bal_recipe *recipe, uint64_t budget, bal_error *err)
{
    const int units = p->layers * BAL_DECODER_LINEARS, widths = p->widths;
    bal_alloc_option *option = calloc((size_t)units * (size_t)widths, sizeof *option);
    if (!option) return bal_nomem(err, (size_t)units * (size_t)widths * sizeof *option, "widths");
    *out = (bal_alloc_problem){units, widths, option, budget};
    for (int u = 0; u < units; u++)
        for (int width = 0; width < widths; width++) {
            bal_alloc_option *o = &option[u * widths + width];
            const int i = u % BAL_DECODER_LINEARS;
            o->cost = p->cost[u / BAL_DECODER_LINEARS][i][width];
            const bal_status st = packed_bytes(&o->n_bytes, m, i, width, recipe, err);
            if (st < 0) {
                free(option);
                return st;
            }
        }
    return BAL_OK;
}

void bal_widths_set(bal_widths_plan *p, const int *choice)
{
    for (int u = 0; u < p->layers * BAL_DECODER_LINEARS; u++)
        p->bits[u / BAL_DECODER_LINEARS][u % BAL_DECODER_LINEARS] = (uint8_t)bal_widths[choice[u]];
}

bal_status bal_widths_buy(bal_widths_plan *p, const bal_model *m, const bal_recipe *recipe,
                          uint64_t budget, bal_error *err)
{
    bal_alloc_problem problem;
    BAL_TRY(bal_widths_problem(&problem, p, m, recipe, budget, err));
    int *choice = calloc((size_t)problem.units, sizeof *choice);
    bal_status st =
        choice ? BAL_OK : bal_nomem(err, (size_t)problem.units * sizeof *choice, "widths");
    if (st >= 0 && recipe->allocate == BAL_ALLOCATE_RULES) {
        st = bal_alloc_rules(choice, &problem, err);
        if (st >= 0) p->result.n_bytes = bal_alloc_bytes(&problem, choice);
    } else if (st >= 0) {
        st = bal_allocate(choice, &p->result, &problem, err);
    }
    if (st >= 0) bal_widths_set(p, choice);
    free((void *)(uintptr_t)problem.option);
    free(choice);
    return st;
}

/* ---- Records ----------------------------------------------------------------------------------
 */

static json_t *bits_to_json(const bal_widths_plan *p)
{
    json_t *bits = json_array();
    for (int layer = 0; layer < p->layers; layer++) {
        json_t *row = json_array();
        for (int i = 0; i < BAL_DECODER_LINEARS; i++)
            json_array_append_new(row, json_integer(p->bits[layer][i]));
        json_array_append_new(bits, row);
    }
    return bits;
}

static json_t *costs_to_json(const bal_widths_plan *p)
{
    json_t *costs = json_array();
    for (int layer = 0; layer < p->layers; layer++) {
        json_t *block = json_array();
        for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
            json_t *cell = json_array();
            for (int width = 0; width < p->widths; width++)
                json_array_append_new(cell, json_real(p->cost[layer][i][width]));
            json_array_append_new(block, cell);
        }
        json_array_append_new(costs, block);
    }
    return costs;
}

static json_t *plans_to_json(const bal_widths_plan *p)
{
    json_t *plans = json_array();
    for (int i = 0; i < p->n_steps; i++)
        json_array_append_new(plans, json_pack("{s:f, s:I, s:b}", "kl", p->step[i].kl, "bytes",
                                               (json_int_t)p->step[i].n_bytes, "kept",
                                               (int)p->step[i].kept));
    return plans;
}

json_t *bal_widths_to_json(const bal_widths_plan *p)
{
    json_t *o =
        json_pack("{s:o, s:I}", "bits", bits_to_json(p), "bytes", (json_int_t)p->result.n_bytes);
    bool bad = !o;
    if (p->priced) {
        bad |= json_object_set_new(o, "cost", json_real(p->result.cost)) != 0;
        bad |= json_object_set_new(o, "bound", json_real(p->result.bound)) != 0;
        bad |= json_object_set_new(o, "proved", json_boolean(p->result.proved)) != 0;
        bad |= json_object_set_new(o, "costs", costs_to_json(p)) != 0;
    }
    if (p->n_steps) bad |= json_object_set_new(o, "plans", plans_to_json(p)) != 0;
    if (!bad) return o;
    json_decref(o);
    return NULL;
}

static bal_status read_width(uint8_t *out, const bal_json *row, int i, int widths, bal_error *err)
{
    const bal_json value = bal_json_at(row, (size_t)i);
    int bits;
    BAL_TRY(bal_json_as_int(&value, 2, 8, &bits, err));
    for (int width = 0; width < widths; width++)
        if (bits == bal_widths[width]) {
            *out = (uint8_t)bits;
            return BAL_OK;
        }
    return bal_json_mismatch(&value, err,
                             widths == BAL_WIDTHS ? "2, 3, 4, 6 or 8 bits" : "2, 3 or 4 bits");
}

static bal_status read_bits(bal_widths_plan *p, const bal_json *root, bal_error *err)
{
    bal_json list;
    BAL_TRY(bal_json_array(root, "bits", (size_t)p->layers, (size_t)p->layers, &list, err));
    for (int layer = 0; layer < p->layers; layer++) {
        const bal_json row = bal_json_at(&list, (size_t)layer);
        if (bal_json_len(&row) != BAL_DECODER_LINEARS)
            return bal_json_mismatch(&row, err, "an array of %d widths", BAL_DECODER_LINEARS);
        for (int i = 0; i < BAL_DECODER_LINEARS; i++)
            BAL_TRY(read_width(&p->bits[layer][i], &row, i, p->widths, err));
    }
    return BAL_OK;
}

bal_status bal_widths_read(bal_widths_plan *p, const char *path, int layers,
                           const bal_recipe *recipe, bal_error *err)
{
    bal_json_doc doc;
    BAL_TRY(bal_widths_create(p, layers, recipe, err));
    bal_status st = bal_json_load(&doc, path, RECORD_BYTES, err);
    if (st >= 0) {
        const bal_json root = bal_json_root(&doc);
        st = bal_json_as_obj(&root, err);
        if (st >= 0) st = read_bits(p, &root, err);
        bal_json_close(&doc);
    }
    if (st < 0) bal_widths_free(p);
    return st;
}
