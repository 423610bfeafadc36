/* SPDX-License-Identifier: MIT
 * The tower runs once per picture, linear and width, with that linear alone packed: what is
 * measured is what a file would hold. */
#include "quant/side.h"

#include "format/json.h"
#include "quant/quantizer.h"
#include "quant/record.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RECORD_BYTES = 1 << 26 };

bal_status bal_side_plan_create(bal_side_plan *p, const bal_tower *t, bal_error *err)
{
    *p = (bal_side_plan){.n = t->n};
    p->cost = calloc(t->n + 1, sizeof *p->cost);
    p->bits = calloc(t->n + 1, sizeof *p->bits);
    if (p->cost && p->bits) return BAL_OK;
    bal_side_plan_free(p);
    return bal_nomem(err, t->n * sizeof *p->cost, "prices of widths");
}

void bal_side_plan_free(bal_side_plan *p)
{
    free(p->cost);
    free(p->bits);
    *p = (bal_side_plan){0};
}

static bool is_auto(const bal_recipe *r, const bal_tower_linear *item)
{
    return r->side[item->side] == BAL_SIDE_AUTO;
}

/* ---- Budgets ----------------------------------------------------------------------------------
 */

typedef struct range {
    uint64_t least, most, budget; /* bytes */
    double weights;
} range;

static bal_status range_of(range *out, const bal_tower *t, const bal_recipe *r, bal_side side,
                           bal_error *err)
{
    *out = (range){0};
    for (size_t i = 0; i < t->n; i++) {
        const bal_tower_linear *item = &t->items[i];
        bal_packed_layout narrow, wide;
        if (item->side != side) continue;
        BAL_TRY(bal_tower_layout(t, item, bal_side_widths[0], &narrow, err));
        BAL_TRY(bal_tower_layout(t, item, bal_side_widths[BAL_SIDE_WIDTHS - 1], &wide, err));
        out->least += narrow.n_bytes;
        out->most += wide.n_bytes;
        out->weights += (double)item->linear->n * item->linear->k;
    }
    out->budget = (uint64_t)(r->side_bpw[side] * out->weights / 8.0);
    return BAL_OK;
}

static bal_status check_side(const bal_tower *t, const bal_recipe *r, bal_side side, bal_error *err)
{
    const char *name = bal_side_names[side];
    range g;
    BAL_TRY(range_of(&g, t, r, side, err));
    if (g.budget < g.least)
        return bal_fail(err, BAL_E_ARG,
                        "target_bpw_%s=%.10g cannot be met: the least possible is %.5f bits per "
                        "weight (all at %d bits)",
                        name, r->side_bpw[side], 8.0 * (double)g.least / g.weights + 5e-6,
                        bal_side_widths[0]);
    if (g.budget <= g.most) return BAL_OK;
    return bal_fail(err, BAL_E_ARG,
                    "target_bpw_%s=%.10g cannot be spent: the most possible is %.5f bits per "
                    "weight (all at %d bits); give less, or %s=float",
                    name, r->side_bpw[side], floor(8e5 * (double)g.most / g.weights) / 1e5,
                    bal_side_widths[BAL_SIDE_WIDTHS - 1], name);
}

bal_status bal_side_check(const bal_tower *t, const bal_recipe *r, bal_error *err)
{
    for (int s = 0; s < BAL_SIDES; s++)
        if (r->side[s] == BAL_SIDE_AUTO) BAL_TRY(check_side(t, r, (bal_side)s, err));
    return BAL_OK;
}

bal_status bal_side_room(uint64_t *out, const bal_tower *t, const bal_recipe *r, bal_error *err)
{
    *out = 0;
    for (int s = 0; s < BAL_SIDES; s++) {
        range g;
        if (r->side[s] != BAL_SIDE_AUTO) continue;
        BAL_TRY(range_of(&g, t, r, (bal_side)s, err));
        *out += g.budget - g.least;
    }
    return BAL_OK;
}

/* ---- Measuring --------------------------------------------------------------------------------
 */

/* What the float tower makes of one record. */
typedef struct view {
    const bal_calib_record *record;
    float *rows; /* [n][hidden] */
    int n;
} view;

typedef struct meter {
    const bal_engine *engine;
    const bal_exec *exec;
    const bal_recipe *recipe;
    const bal_calib *calib;
    view views[BAL_SIDE_PICTURES];
    int n;
    bal_error *err;
} meter;

static bal_status see(const meter *w, const bal_calib_record *record, float **rows, int *n)
{
    return bal_gather_see(rows, n, w->calib, record, w->engine, w->exec, w->recipe, w->err);
}

static bal_status take_views(meter *w, const size_t *order, size_t n)
{
    if (!bal_recipe_prices_sides(w->recipe)) return BAL_OK;
    for (size_t i = 0; i < n && w->n < BAL_SIDE_PICTURES; i++) {
        view *v = &w->views[w->n];
        v->record = &w->calib->records[order[i]];
        if (v->record->n_images == 0) continue;
        w->n++;
        BAL_TRY(see(w, v->record, &v->rows, &v->n));
    }
    if (w->n) return BAL_OK;
    return bal_fail(w->err, BAL_E_ARG,
                    "%.200s: none of the %zu samples in use has a picture, which vision=auto and "
                    "projector=auto choose by",
                    w->calib->path, n);
}

static void drop_views(meter *w)
{
    for (int i = 0; i < w->n; i++) free(w->views[i].rows);
}

/* Mean squared difference to what the float tower makes of the same records. */
static bal_status seen_error(const meter *w, double *out)
{
    const size_t hidden = (size_t)w->engine->model.config.text.hidden;
    double sum = 0.0, count = 0.0;
    for (int i = 0; i < w->n; i++) {
        const view *v = &w->views[i];
        float *rows;
        int n;
        BAL_TRY(see(w, v->record, &rows, &n));
        for (size_t k = 0; k < (size_t)n * hidden; k++) {
            const double d = (double)rows[k] - (double)v->rows[k];
            sum += d * d;
        }
        count += (double)n * (double)hidden;
        free(rows);
    }
    *out = count > 0.0 ? sum / count : 0.0;
    return BAL_OK;
}

/* With item alone packed at so many bits. */
static bal_status packed_error(const meter *w, const bal_tower *t, const bal_tower_linear *item,
                               int bits, double *out)
{
    const bal_linear was = *item->linear;
    bal_tower_linear trial = *item;
    uint8_t *bytes = NULL;
    BAL_TRY(bal_tower_layout(t, item, bits, &trial.layout, w->err));
    bal_status st = bal_tower_round(w->exec, &trial, &bytes, w->err);
    if (st == BAL_OK) st = bal_tower_view(&trial, bytes, trial.layout.n_bytes, w->err);
    if (st == BAL_OK) st = seen_error(w, out);
    *item->linear = was;
    free(bytes);
    return st;
}

typedef struct rounding {
    const bal_linear *l;
    int group;
    double (*sum)[BAL_SIDE_WIDTHS]; /* [n] of rows */
    float *work;                    /* [lanes][2 k] */
} rounding;

static void round_rows(void *ctx, size_t begin, size_t end, int lane)
{
    const rounding *j = ctx;
    const int k = j->l->k, size = bal_group_size(k, j->group);
    float *row = j->work + (size_t)lane * 2 * (size_t)k, *back = row + k;
    for (size_t r = begin; r < end; r++) {
        bal_linear_row(j->l, (int)r, row);
        for (int width = 0; width < BAL_SIDE_WIDTHS; width++) {
            const bal_quantizer z = {
                .bits = bal_side_widths[width], .group = j->group, .grid = BAL_GRID_SYM};
            double sum = 0.0;
            for (int at = 0; at < k; at += size)
                bal_quantize_group(&z, row + at, k - at < size ? k - at : size, back + at);
            for (int i = 0; i < k; i++)
                sum += ((double)row[i] - (double)back[i]) * ((double)row[i] - (double)back[i]);
            j->sum[r][width] = sum;
        }
    }
}

/* Squared error of the item's weights at every width; rows are added up in order. Of a side with
 * one linear the order of widths is all that counts. */
static bal_status weight_errors(const meter *w, const bal_tower *t, const bal_tower_linear *item,
                                double out[BAL_SIDE_WIDTHS])
{
    const size_t n = (size_t)item->linear->n, k = (size_t)item->linear->k;
    const size_t lanes = (size_t)bal_pool_size(w->exec->pool);
    rounding j = {.l = item->linear, .group = t->group};
    j.sum = calloc(n, sizeof *j.sum);
    j.work = malloc(lanes * 2 * k * sizeof *j.work);
    const bal_status st =
        j.sum && j.work ? BAL_OK : bal_nomem(w->err, n * sizeof *j.sum, "errors of weights");
    if (st == BAL_OK) bal_pool_run(w->exec->pool, round_rows, &j, n, 4);
    memset(out, 0, BAL_SIDE_WIDTHS * sizeof *out);
    for (size_t r = 0; st == BAL_OK && r < n; r++)
        for (int width = 0; width < BAL_SIDE_WIDTHS; width++) out[width] += j.sum[r][width];
    free(j.sum);
    free(j.work);
    return st;
}

static bal_status price(const meter *w, const bal_tower *t, const bal_tower_linear *item,
                        double cost[BAL_SIDE_WIDTHS])
{
    if (item->side == BAL_SIDE_HEAD) return weight_errors(w, t, item, cost);
    for (int width = 0; width < BAL_SIDE_WIDTHS; width++) {
        BAL_TRY(packed_error(w, t, item, bal_side_widths[width], &cost[width]));
        if (!isfinite(cost[width]))
            return bal_fail(w->err, BAL_E_NUMERIC, "%s at %d bits: an error of %g", item->name,
                            bal_side_widths[width], cost[width]);
    }
    return BAL_OK;
}

static bal_status join(bal_side_plan *p, bal_rank *rank, bal_error *err)
{
    if (!rank) return BAL_OK;
    size_t *at = malloc((p->n + 1) * sizeof *at);
    if (!at) return bal_nomem(err, p->n * sizeof *at, "order of linears");
    for (size_t i = 0; i <= p->n; i++) at[i] = i;
    const bal_status st = bal_rank_join_samples(rank, p->cost, at, (int)p->n, sizeof *p->cost, err);
    free(at);
    return st;
}

static bal_status price_all(bal_side_plan *p, const meter *w, const bal_tower *t, bal_rank *rank,
                            bal_step_fn *step, void *step_ctx)
{
    for (size_t i = 0; i < t->n; i++) {
        const bal_tower_linear *item = &t->items[i];
        if (is_auto(w->recipe, item) && bal_rank_owns(rank, (int)i))
            BAL_TRY(price(w, t, item, p->cost[i]));
        if (step && step(step_ctx, "sides", (long)i + 1, (long)t->n))
            return bal_fail(w->err, BAL_E_CANCELLED, "cancelled while measuring widths");
    }
    return join(p, rank, w->err);
}

bal_status bal_side_measure(bal_side_plan *p, bal_tower *t, const bal_engine *engine,
                            const bal_exec *exec, const bal_recipe *r, const bal_calib *calib,
                            const size_t *order, size_t n, bal_rank *rank, bal_step_fn *step,
                            void *step_ctx, bal_error *err)
{
    meter w = {.engine = engine, .exec = exec, .recipe = r, .calib = calib, .err = err};
    bal_status st = take_views(&w, order, n);
    if (st == BAL_OK) st = price_all(p, &w, t, rank, step, step_ctx);
    drop_views(&w);
    return st;
}

/* ---- Buying -----------------------------------------------------------------------------------
 */

static bal_status fill_options(const bal_side_plan *p, const bal_tower *t, bal_side side,
                               bal_alloc_option *option, int *units, bal_error *err)
{
    *units = 0;
    for (size_t i = 0; i < t->n; i++) {
        bal_packed_layout layout;
        if (t->items[i].side != side) continue;
        for (int width = 0; width < BAL_SIDE_WIDTHS; width++) {
            BAL_TRY(bal_tower_layout(t, &t->items[i], bal_side_widths[width], &layout, err));
            option[*units * BAL_SIDE_WIDTHS + width] =
                (bal_alloc_option){layout.n_bytes, p->cost[i][width]};
        }
        ++*units;
    }
    return BAL_OK;
}

static bal_status buy_side(bal_side_plan *p, const bal_tower *t, const bal_recipe *r, bal_side side,
                           bal_alloc_option *option, int *choice, bal_error *err)
{
    range g;
    int units, at = 0;
    BAL_TRY(range_of(&g, t, r, side, err));
    BAL_TRY(fill_options(p, t, side, option, &units, err));
    const bal_alloc_problem problem = {units, BAL_SIDE_WIDTHS, option, g.budget};
    const bal_status st = bal_allocate(choice, &p->result[side], &problem, err);
    if (st < 0) return bal_fail_in(err, st, "target_bpw_%s", bal_side_names[side]);
    for (size_t i = 0; i < t->n; i++)
        if (t->items[i].side == side) p->bits[i] = bal_side_widths[choice[at++]];
    return BAL_OK;
}

bal_status bal_side_buy(bal_side_plan *p, const bal_tower *t, const bal_recipe *r, bal_error *err)
{
    bal_alloc_option *option = calloc(t->n * BAL_SIDE_WIDTHS + 1, sizeof *option);
    int *choice = calloc(t->n + 1, sizeof *choice);
    bal_status st =
        option && choice ? BAL_OK : bal_nomem(err, t->n * sizeof *option, "widths of linears");
    for (int s = 0; st == BAL_OK && s < BAL_SIDES; s++)
        if (r->side[s] == BAL_SIDE_AUTO) st = buy_side(p, t, r, (bal_side)s, option, choice, err);
    free(option);
    free(choice);
    return st;
}

bal_status bal_side_apply(const bal_side_plan *p, bal_tower *t, bal_error *err)
{
    for (size_t i = 0; i < t->n; i++)
        if (p->bits[i])
            BAL_TRY(bal_tower_layout(t, &t->items[i], p->bits[i], &t->items[i].layout, err));
    return BAL_OK;
}

/* ---- Records ----------------------------------------------------------------------------------
 */

static json_t *side_json(const bal_side_plan *p, const bal_tower *t, bal_side side)
{
    json_t *bits = json_object(), *costs = json_object();
    const bal_alloc_result *r = &p->result[side];
    for (size_t i = 0; i < t->n; i++) {
        json_t *row;
        if (t->items[i].side != side) continue;
        json_object_set_new(bits, t->items[i].name, json_integer(p->bits[i]));
        row = json_array();
        for (int width = 0; width < BAL_SIDE_WIDTHS; width++)
            json_array_append_new(row, json_real(p->cost[i][width]));
        json_object_set_new(costs, t->items[i].name, row);
    }
    return json_pack("{s:o, s:o, s:f, s:f, s:b, s:I}", "bits", bits, "costs", costs, "cost",
                     r->cost, "bound", r->bound, "proved", r->proved, "bytes",
                     (json_int_t)r->n_bytes);
}

json_t *bal_side_to_json(const bal_side_plan *p, const bal_tower *t, const bal_recipe *r)
{
    json_t *all = json_object();
    for (int s = 0; s < BAL_SIDES; s++) {
        if (r->side[s] != BAL_SIDE_AUTO) continue;
        if (json_object_set_new(all, bal_side_names[s], side_json(p, t, (bal_side)s)) == 0)
            continue;
        json_decref(all);
        return NULL;
    }
    return all;
}

static bal_status read_bits(int *out, const bal_json *side, const char *name, bal_error *err)
{
    bal_json bits;
    BAL_TRY(bal_json_obj(side, "bits", &bits, err));
    BAL_TRY(bal_json_int(&bits, name, 0, 16, out, err));
    for (int width = 0; width < BAL_SIDE_WIDTHS; width++)
        if (*out == bal_side_widths[width]) return BAL_OK;
    const bal_json value = bal_json_get(&bits, name);
    return bal_json_mismatch(&value, err, "4, 6 or 8 bits");
}

static bal_status read_all(bal_side_plan *p, const bal_tower *t, const bal_recipe *r,
                           const bal_json *root, bal_error *err)
{
    BAL_TRY(bal_json_as_obj(root, err));
    for (size_t i = 0; i < t->n; i++) {
        const bal_tower_linear *item = &t->items[i];
        bal_json side;
        if (!is_auto(r, item)) continue;
        BAL_TRY(bal_json_obj(root, bal_side_names[item->side], &side, err));
        BAL_TRY(read_bits(&p->bits[i], &side, item->name, err));
    }
    return BAL_OK;
}

bal_status bal_side_read(bal_side_plan *p, const bal_tower *t, const bal_recipe *r,
                         const char *path, bal_error *err)
{
    bal_json_doc doc;
    BAL_TRY(bal_side_plan_create(p, t, err));
    bal_status st = bal_json_load(&doc, path, RECORD_BYTES, err);
    if (st >= 0) {
        const bal_json root = bal_json_root(&doc);
        st = read_all(p, t, r, &root, err);
        bal_json_close(&doc);
    }
    if (st < 0) bal_side_plan_free(p);
    return st;
}
