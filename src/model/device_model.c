/* SPDX-License-Identifier: MIT */
#include "model/device_model.h"

#include "base/size.h"
#include "model/device_vision.h"
#include "model/rope.h"
#include "op/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- Linears --------------------------------------------------------------------------------- */

/* Whether two linears may be rows of one weight. */
static bool stored_alike(const bal_linear *a, const bal_linear *b)
{
    if (a->type != b->type || a->k != b->k || !bal_act_equal(a->act, b->act)) return false;
    if (!bal_type_get(a->type)->packed) return true;
    const bool table =
        a->packed.layout.kind == BAL_PACKED_TABLE && b->packed.layout.kind == BAL_PACKED_TABLE;
    if (table && memcmp(a->packed.table, b->packed.table, BAL_PACKED_ALIGN) != 0) return false;
    return a->packed.layout.kind == b->packed.layout.kind &&
           a->packed.layout.units_per_group == b->packed.layout.units_per_group;
}

static bal_device_part part_of(const bal_linear *l)
{
    return (bal_device_part){.type = l->type,
                             .n = (size_t)l->n,
                             .w = l->w,
                             .packed = l->packed,
                             .bias = l->bias,
                             .act = l->act};
}

/* linears[from .. to) as one weight of the group. */
static bal_status upload_run(bal_device_model *d, bal_device_group *g, const bal_linear *linears,
                             int from, int to, bal_error *err)
{
    bal_device_part parts[3];
    for (int i = from; i < to; i++) parts[i - from] = part_of(&linears[i]);
    BAL_TRY(d->api->weight_create(d->device, &g->part[g->n].w, parts, to - from,
                                  (size_t)linears[from].k, g->gated, err));
    g->part[g->n].column = g->width;
    g->part[g->n].act = linears[from].act;
    g->n++;
    for (int i = from; i < (g->gated ? from + 1 : to); i++) g->width += linears[i].n;
    return BAL_OK;
}

/* Of the small rank that all rows get, or that rows of vision get. */
static int rank_of(const bal_linear *l, bool vision)
{
    return l->low_vision == vision ? l->rank : 0;
}

/* b [all outputs][rank] of zeros becomes B of the group. */
static void put_diagonal(const bal_linear *linears, int n, bool vision, int rank, uint16_t *b)
{
    for (int i = 0, column = 0; i < n; column += rank_of(&linears[i++], vision)) {
        const size_t own = (size_t)rank_of(&linears[i], vision) * sizeof *b;
        for (size_t r = 0; own && r < (size_t)linears[i].n; r++)
            memcpy(b + r * (size_t)rank + column, (const uint8_t *)linears[i].low_b + r * own, own);
        b += (size_t)linears[i].n * (size_t)rank;
    }
}

static bal_status upload_low(bal_device_model *d, bal_device_group *g, const bal_linear *linears,
                             int n, bool vision, bal_error *err)
{
    bal_device_low *low = &g->low[vision];
    bal_device_part a[3];
    int n_a = 0;
    for (int i = 0; i < n; i++) {
        const int rank = rank_of(&linears[i], vision);
        const bal_device_part part = {
            .type = BAL_TYPE_F16, .n = (size_t)rank, .w = linears[i].low_a};
        if (rank) a[n_a++] = part;
        low->rank += rank;
    }
    if (!low->rank) return BAL_OK;
    const size_t width = (size_t)g->width, rank = (size_t)low->rank;
    uint16_t *b = calloc(width * rank, sizeof *b);
    if (!b) return bal_nomem(err, width * rank * sizeof *b, "a matrix of small rank");
    put_diagonal(linears, n, vision, low->rank, b);
    const bal_device_part all = {.type = BAL_TYPE_F16, .n = width, .w = b};
    bal_status st = d->api->weight_create(d->device, &low->a, a, n_a, (size_t)g->k, false, err);
    if (st == BAL_OK) st = d->api->weight_create(d->device, &low->b, &all, 1, rank, false, err);
    free(b);
    return st;
}

static bal_status upload_lows(bal_device_model *d, bal_device_group *g, const bal_linear *linears,
                              int n, bal_error *err)
{
    BAL_TRY(upload_low(d, g, linears, n, false, err));
    return upload_low(d, g, linears, n, true, err);
}

bal_status bal_device_group_upload(bal_device_model *d, bal_device_group *g,
                                   const bal_linear *linears, int n, bool gated, bal_error *err)
{
    g->k = linears[0].k;
    g->gated =
        gated && stored_alike(&linears[0], &linears[1]) && !linears[0].rank && !linears[1].rank;
    for (int from = 0, to; from < n; from = to) {
        to = from + 1;
        while (to < n && stored_alike(&linears[from], &linears[to])) to++;
        BAL_TRY(upload_run(d, g, linears, from, to, err));
    }
    return upload_lows(d, g, linears, n, err);
}

void bal_device_group_free(bal_device_model *d, bal_device_group *g)
{
    for (int i = 0; i < g->n; i++) d->api->weight_destroy(d->device, g->part[i].w);
    for (int i = 0; i < 2; i++) {
        d->api->weight_destroy(d->device, g->low[i].a);
        d->api->weight_destroy(d->device, g->low[i].b);
    }
    *g = (bal_device_group){0};
}

static bal_status upload_linears(bal_device_model *d, bal_device_layer *to,
                                 const bal_decoder_layer *l, bal_error *err)
{
    const bal_linear qkv[] = {l->q, l->k, l->v}, gate_up[] = {l->gate, l->up};
    to->o.hadamard = l->o.hadamard;
    to->down.hadamard = l->down.hadamard;
    BAL_TRY(bal_device_group_upload(d, &to->qkv, qkv, 3, false, err));
    BAL_TRY(bal_device_group_upload(d, &to->o, &l->o, 1, false, err));
    BAL_TRY(bal_device_group_upload(d, &to->gate_up, gate_up, 2, true, err));
    return bal_device_group_upload(d, &to->down, &l->down, 1, false, err);
}

/* ---- Vectors --------------------------------------------------------------------------------- */

enum { LINE = 64 }; /* words; runs begin on 256 bytes */

bal_dptr bal_device_words_put(bal_device_words *w, const void *words, size_t n)
{
    if (!words) return 0;
    const bal_dptr to = w->base + w->at * sizeof(uint32_t);
    w->at += bal_round_up(n, LINE);
    if (w->base) w->d->api->upload(w->d->device, to, words, n * sizeof(uint32_t));
    return to;
}

/* Axis of each frequency, as bal_rope_angles reads positions. */
static void rope_constants(const bal_text_config *c, float *frequency, int32_t *axis)
{
    const int first = c->mrope[0], second = first + c->mrope[1];
    for (int i = 0; i < c->head_dim / 2; i++) {
        const bool one = second + c->mrope[2] == 0;
        frequency[i] = bal_rope_frequency(c, i);
        axis[i] = one || i < first ? 0 : i < second ? 1 : 2;
    }
}

static void put_vectors(bal_device_model *d, bal_device_words *w, const float *frequency,
                        const int32_t *axis)
{
    const bal_model *m = d->model;
    const bal_text_config *c = &m->config.text;
    const size_t hidden = (size_t)c->hidden, dim = (size_t)c->head_dim;
    for (int i = 0; i < c->layers; i++) {
        const bal_decoder_layer *l = &m->layers[i];
        bal_device_layer *to = &d->layers[i];
        to->attn_norm = bal_device_words_put(w, l->attn_norm, hidden);
        to->mlp_norm = bal_device_words_put(w, l->mlp_norm, hidden);
        to->q_norm = bal_device_words_put(w, l->q_norm, dim);
        to->k_norm = bal_device_words_put(w, l->k_norm, dim);
    }
    d->final_norm = bal_device_words_put(w, m->final_norm, hidden);
    d->frequency = bal_device_words_put(w, frequency, dim / 2);
    d->axis = bal_device_words_put(w, axis, dim / 2);
}

static bal_status upload_vectors(bal_device_model *d, bal_error *err)
{
    float frequency[BAL_MAX_HEAD_DIM / 2];
    int32_t axis[BAL_MAX_HEAD_DIM / 2];
    bal_device_words count = {.d = d};
    rope_constants(&d->model->config.text, frequency, axis);
    put_vectors(d, &count, frequency, axis);
    BAL_TRY(d->api->alloc(d->device, &d->vectors, count.at * sizeof(float), "norms", err));
    put_vectors(d, &(bal_device_words){d, d->vectors, 0}, frequency, axis);
    return BAL_OK;
}

/* ---- Whole models ---------------------------------------------------------------------------- */

static bal_status upload_layers(bal_device_model *d, bal_error *err)
{
    const bal_model *m = d->model;
    for (int i = 0; i < m->config.text.layers; i++) {
        const bal_status st = upload_linears(d, &d->layers[i], &m->layers[i], err);
        if (st < 0) return bal_fail_in(err, st, "block %d", i);
    }
    return BAL_OK;
}

static bal_status upload_ends(bal_device_model *d, bal_error *err)
{
    const bal_model *m = d->model;
    const bool tied = m->head.w == m->embed.w && m->head.packed.codes == m->embed.packed.codes;
    bal_device_part embed = part_of(&m->embed);
    if (tied)
        embed.act = m->head.act; /* a row is read alike, whatever the rows it is multiplied with */
    BAL_TRY(d->api->weight_create(d->device, &d->embed, &embed, 1, (size_t)m->embed.k, false, err));
    if (!tied) return bal_device_group_upload(d, &d->head, &m->head, 1, false, err);
    d->head = (bal_device_group){.n = 1, .width = m->head.n, .k = m->head.k};
    d->head.part[0].w = d->embed;
    d->head.part[0].act = m->head.act;
    return upload_lows(d, &d->head, &m->head, 1, err);
}

/* What the backend cannot compute stays on the CPU; everything else is a failure. */
static bal_status upload_vision(bal_device_model *d, bal_error *err)
{
    if (!d->model->config.has_vision) return BAL_OK;
    bal_status st = bal_device_vision_open(&d->vision, d, &d->no_vision);
    if (st == BAL_OK) st = d->api->sync(d->device, &d->no_vision);
    if (st == BAL_OK || st == BAL_E_UNSUP) return BAL_OK;
    return bal_fail(err, st, "vision tower: %s", d->no_vision.text);
}

static bal_status check_heads(const bal_device_model *d, bal_error *err)
{
    const bal_text_config *c = &d->model->config.text;
    if (d->api->attend_bytes(d->device, 1, c->heads, c->head_dim)) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP, "heads of %d values are too wide for this device",
                    c->head_dim);
}

static bal_status upload_all(bal_device_model *d, bal_error *err)
{
    const int layers = d->model->config.text.layers;
    if (pthread_mutex_init(&d->lock, NULL) != 0)
        return bal_fail(err, BAL_E_NOMEM, "no lock for the device");
    d->have_lock = true;
    d->api = d->handle.api;
    d->device = d->handle.device;
    d->layers = calloc((size_t)layers, sizeof *d->layers);
    if (!d->layers) return bal_nomem(err, (size_t)layers * sizeof *d->layers, "blocks");
    BAL_TRY(check_heads(d, err));
    BAL_TRY(upload_layers(d, err));
    BAL_TRY(upload_ends(d, err));
    BAL_TRY(upload_vectors(d, err));
    BAL_TRY(d->api->sync(d->device, err));
    return upload_vision(d, err);
}

bal_status bal_device_model_open(bal_device_model **out, const bal_model *model, int index,
                                 bal_error *err)
{
    *out = NULL;
    bal_device_model *d = calloc(1, sizeof *d);
    if (!d) return bal_nomem(err, sizeof *d, "device model");
    d->model = model;
    d->index = index;
    bal_status st = bal_device_open(&d->handle, index, err);
    if (st == BAL_OK) {
        st = upload_all(d, err);
        if (st < 0) bal_fail_in(err, st, "device cuda:%d", index);
    }
    if (st < 0)
        bal_device_model_close(d);
    else
        *out = d;
    return st;
}

static void close_weights(bal_device_model *d)
{
    for (int i = 0; d->layers && i < d->model->config.text.layers; i++) {
        bal_device_layer *l = &d->layers[i];
        bal_device_group_free(d, &l->qkv);
        bal_device_group_free(d, &l->o);
        bal_device_group_free(d, &l->gate_up);
        bal_device_group_free(d, &l->down);
    }
    bal_device_vision_close(d->vision);
    if (d->head.part[0].w == d->embed) d->head.n = 0; /* that one is freed as the table */
    bal_device_group_free(d, &d->head);
    d->api->weight_destroy(d->device, d->embed);
    d->api->release(d->device, d->vectors);
}

void bal_device_model_close(bal_device_model *d)
{
    if (!d) return;
    if (d->api) close_weights(d);
    bal_device_close(&d->handle);
    if (d->have_lock) pthread_mutex_destroy(&d->lock);
    free(d->layers);
    free(d);
}

void bal_device_model_lock(bal_device_model *d)
{
    pthread_mutex_lock(&d->lock);
}

void bal_device_model_unlock(bal_device_model *d)
{
    pthread_mutex_unlock(&d->lock);
}

/* ---- Running --------------------------------------------------------------------------------- */

/* Where staged rows end in work memory. */
static size_t staged_bytes(const bal_device_model *d, const bal_device_group *g, int m)
{
    const int rank = g->low[0].rank > g->low[1].rank ? g->low[0].rank : g->low[1].rank;
    return bal_round_up(d->api->act_bytes(m, (size_t)(rank > g->k ? rank : g->k)), 256);
}

size_t bal_device_group_bytes(const bal_device_model *d, const bal_device_group *g, int m)
{
    const size_t rank = (size_t)g->low[0].rank + (size_t)g->low[1].rank;
    return staged_bytes(d, g, m) + (size_t)m * rank * sizeof(float);
}

/* Rows on their way into a group's linears. */
typedef struct rows {
    bal_stage_args stage;
    bool staged; /* as stage.act says */
    bool apart;  /* nothing that is written overlaps them */
} rows;

/* Whether y [m][width] and what is staged lie apart. */
static bool lie_apart(const bal_stage_args *s, bal_dptr y, size_t ld, int width)
{
    const size_t m = (size_t)s->m - 1, k = (size_t)s->k * (s->kind == BAL_STAGE_SILU ? 2 : 1);
    const bal_dptr x_end = s->x + (m * s->ld + k) * sizeof(float);
    const bal_dptr y_end = y + (m * ld + (size_t)width) * sizeof(float);
    return x_end <= y || y_end <= s->x;
}

/* y = rows, read as `act` says, times w. */
static void multiply(const bal_device_model *d, const bal_device_weight *w, rows *r, bal_act act,
                     bal_dptr y, size_t ld, bool add)
{
    const bool again = r->staged && bal_act_equal(r->stage.act, act);
    r->stage.act = act;
    r->staged = true;
    if (!again && !r->apart) d->api->stage(d->device, &r->stage);
    const bal_device_linear_args a = {.w = w,
                                      .x = r->stage.out,
                                      .y = y,
                                      .ld = ld,
                                      .m = r->stage.m,
                                      .add = add,
                                      .input = !r->apart ? BAL_INPUT_STAGED
                                               : again   ? BAL_INPUT_AGAIN
                                                         : BAL_INPUT_FRESH,
                                      .stage = r->stage};
    d->api->linear(d->device, &a);
}

/* Whether rows of this step get low[i]. */
static bool takes_low(const bal_device_group *g, int i, const bal_stage_args *stage)
{
    return g->low[i].rank && (i == 0 || stage->modality);
}

/* Its x A^T, f32 [m][rank]. */
static bal_dptr low_at(const bal_device_model *d, const bal_device_group *g, int i,
                       const bal_stage_args *stage)
{
    const size_t before = i ? (size_t)stage->m * (size_t)g->low[0].rank : 0;
    return stage->out + staged_bytes(d, g, stage->m) + before * sizeof(float);
}

/* x A^T, before anything is written over x. */
static void low_inputs(const bal_device_model *d, const bal_device_group *g, rows *r)
{
    for (int i = 0; i < 2; i++)
        if (takes_low(g, i, &r->stage))
            multiply(d, g->low[i].a, r, (bal_act){0}, low_at(d, g, i, &r->stage),
                     (size_t)g->low[i].rank, false);
}

/* y += (x A^T) B^T */
static void low_outputs(const bal_device_model *d, const bal_device_group *g,
                        const bal_stage_args *stage, bal_dptr y, size_t ld)
{
    for (int i = 0; i < 2; i++) {
        rows r = {.apart = true,
                  .stage = {.kind = BAL_STAGE_PLAIN,
                            .x = low_at(d, g, i, stage),
                            .out = stage->out,
                            .ld = (size_t)g->low[i].rank,
                            .m = stage->m,
                            .k = g->low[i].rank,
                            .modality = stage->modality,
                            .vision_only = i == 1}};
        if (takes_low(g, i, stage)) multiply(d, g->low[i].b, &r, (bal_act){0}, y, ld, true);
    }
}

void bal_device_group_forward(const bal_device_model *d, const bal_device_group *g,
                              bal_stage_args stage, bal_dptr y, size_t ld, bool add)
{
    const size_t values = (size_t)stage.m * stage.ld;
    if (g->hadamard) d->api->hadamard(d->device, stage.x, values, g->hadamard);
    rows r = {.stage = stage, .apart = lie_apart(&stage, y, ld, g->width)};
    assert(r.apart || g->n == 1);
    low_inputs(d, g, &r);
    for (int i = 0; i < g->n; i++)
        multiply(d, g->part[i].w, &r, g->part[i].act, y + (size_t)g->part[i].column * sizeof(float),
                 ld, add);
    low_outputs(d, g, &stage, y, ld);
}
