/* SPDX-License-Identifier: MIT
 * Rows are those of the CPU's towers, in their order. Linears, and what is as wide as an MLP, go
 * through in pieces of rows, so that work memory is a few floats per row and channel. */
#include "model/device_vision.h"

#include "base/size.h"
#include "model/vision.h"
#include "model/vision_native.h"
#include "op/kv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)BAL_ACT_GELU_TANH == (int)BAL_DEVICE_GELU_TANH &&
                   (int)BAL_ACT_GELU == (int)BAL_DEVICE_GELU &&
                   (int)BAL_ACT_QUICK_GELU == (int)BAL_DEVICE_QUICK_GELU,
               "activations are numbered alike");

enum { BATCH = 8, PIECE = 4096, LAST_TILE = BAL_DEVICE_TILE };

/* ---- Upload ---------------------------------------------------------------------------------- */

static bal_status check_tower(const bal_device_model *on, bal_error *err)
{
    const bal_vision_config *v = &on->model->config.vision;
    const int dim = v->hidden / v->heads;
    if (dim % 2 == 0 && dim <= BAL_MAX_HEAD_DIM &&
        on->api->attend_bytes(on->device, 1, v->heads, dim))
        return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP, "a tower with heads of %d values", dim);
}

static bal_status upload_layer(bal_device_vision *t, bal_device_vision_layer *to,
                               const bal_vision_layer *l, bal_error *err)
{
    bal_device_model *d = t->on;
    const bool gated = d->model->config.vision.gated;
    const bal_linear qkv[] = {l->q, l->k, l->v}, up[] = {l->gate, l->fc1};
    BAL_TRY(bal_device_group_upload(d, &to->qkv, qkv, 3, false, err));
    BAL_TRY(bal_device_group_upload(d, &to->out, &l->out, 1, false, err));
    BAL_TRY(bal_device_group_upload(d, &to->up, gated ? up : up + 1, gated ? 2 : 1, gated, err));
    return bal_device_group_upload(d, &to->down, &l->fc2, 1, false, err);
}

static bal_status upload_linears(bal_device_vision *t, bal_error *err)
{
    const bal_model *m = t->on->model;
    BAL_TRY(bal_device_group_upload(t->on, &t->patch, &m->patch, 1, false, err));
    for (int i = 0; i < m->config.vision.layers; i++) {
        const bal_status st = upload_layer(t, &t->layers[i], &m->vision_layers[i], err);
        if (st < 0) return bal_fail_in(err, st, "block %d", i);
    }
    for (int i = 0; i < 2 && m->projector[i].k; i++)
        BAL_TRY(bal_device_group_upload(t->on, &t->projector[i], &m->projector[i], 1, false, err));
    return BAL_OK;
}

/* Rotation of patches at (row, column), which are coordinates 1 and 2 of a position: half of the
 * frequencies each. A tower with learned positions is not rotated. */
static void rope_constants(const bal_model *m, float *frequency, int32_t *axis)
{
    const int dim = m->config.vision.hidden / m->config.vision.heads, quarter = dim / 4;
    for (int i = 0; i < dim / 2; i++) {
        const int at = i < quarter ? i : i - quarter;
        frequency[i] = m->positions ? 0.0f : bal_native_frequency(at, dim);
        axis[i] = m->positions ? 0 : i < quarter ? 1 : 2;
    }
}

/* Positions with the class token added to the first. */
static bal_status origin_of(const bal_model *m, float **out, bal_error *err)
{
    const bal_vision_config *v = &m->config.vision;
    const size_t hidden = (size_t)v->hidden, n = (size_t)(v->side * v->side + v->cls) * hidden;
    *out = NULL;
    if (!m->positions) return BAL_OK;
    *out = malloc(n * sizeof **out);
    if (!*out) return bal_nomem(err, n * sizeof **out, "positions");
    memcpy(*out, m->positions, n * sizeof **out);
    for (size_t i = 0; v->cls && i < hidden; i++) (*out)[i] += m->cls[i];
    return BAL_OK;
}

static void put_layer(bal_device_vision_layer *to, const bal_vision_layer *l, size_t hidden,
                      bal_device_words *w)
{
    to->ln1_w = bal_device_words_put(w, l->ln1_w, hidden);
    to->ln1_b = bal_device_words_put(w, l->ln1_b, hidden);
    to->ln2_w = bal_device_words_put(w, l->ln2_w, hidden);
    to->ln2_b = bal_device_words_put(w, l->ln2_b, hidden);
    to->q_norm = bal_device_words_put(w, l->q_norm, hidden);
    to->k_norm = bal_device_words_put(w, l->k_norm, hidden);
    to->scale1 = bal_device_words_put(w, l->scale1, hidden);
    to->scale2 = bal_device_words_put(w, l->scale2, hidden);
}

static void put_vectors(bal_device_vision *t, const float *origin, bal_device_words *w)
{
    const bal_model *m = t->on->model;
    const bal_vision_config *v = &m->config.vision;
    const size_t hidden = (size_t)v->hidden, dim = hidden / (size_t)v->heads;
    const size_t wide = (size_t)m->projector[0].k;
    float frequency[BAL_MAX_HEAD_DIM / 2];
    int32_t axis[BAL_MAX_HEAD_DIM / 2];
    rope_constants(m, frequency, axis);
    for (int i = 0; i < v->layers; i++) put_layer(&t->layers[i], &m->vision_layers[i], hidden, w);
    t->origin = bal_device_words_put(w, origin, (size_t)(v->side * v->side + v->cls) * hidden);
    t->pre_w = bal_device_words_put(w, m->pre_norm_w, hidden);
    t->pre_b = bal_device_words_put(w, m->pre_norm_b, hidden);
    t->post_w = bal_device_words_put(w, m->post_norm_w, hidden);
    t->post_b = bal_device_words_put(w, m->post_norm_b, hidden);
    t->projector_w = bal_device_words_put(w, m->projector_norm_w, wide);
    t->projector_b = bal_device_words_put(w, m->projector_norm_b, wide);
    t->frequency = bal_device_words_put(w, frequency, dim / 2);
    t->axis = bal_device_words_put(w, axis, dim / 2);
}

static bal_status upload_vectors(bal_device_vision *t, bal_error *err)
{
    const bal_device_model *d = t->on;
    float *origin;
    BAL_TRY(origin_of(d->model, &origin, err));
    bal_device_words count = {.d = d};
    put_vectors(t, origin, &count);
    const bal_status st =
        d->api->alloc(d->device, &t->vectors, count.at * sizeof(float), "norms", err);
    if (st == BAL_OK) put_vectors(t, origin, &(bal_device_words){d, t->vectors, 0});
    free(origin);
    return st;
}

static bal_status upload_all(bal_device_vision *t, bal_error *err)
{
    const bal_vision_config *v = &t->on->model->config.vision;
    BAL_TRY(check_tower(t->on, err));
    t->layers = calloc((size_t)v->layers, sizeof *t->layers);
    if (!t->layers) return bal_nomem(err, (size_t)v->layers * sizeof *t->layers, "blocks");
    BAL_TRY(upload_linears(t, err));
    return upload_vectors(t, err);
}

bal_status bal_device_vision_open(bal_device_vision **out, bal_device_model *d, bal_error *err)
{
    *out = NULL;
    bal_device_vision *t = calloc(1, sizeof *t);
    if (!t) return bal_nomem(err, sizeof *t, "vision tower");
    t->on = d;
    const bal_status st = upload_all(t, err);
    if (st < 0)
        bal_device_vision_close(t);
    else
        *out = t;
    return st;
}

void bal_device_vision_close(bal_device_vision *t)
{
    if (!t) return;
    bal_device_model *d = t->on;
    for (int i = 0; t->layers && i < d->model->config.vision.layers; i++) {
        bal_device_vision_layer *l = &t->layers[i];
        bal_device_group_free(d, &l->qkv);
        bal_device_group_free(d, &l->out);
        bal_device_group_free(d, &l->up);
        bal_device_group_free(d, &l->down);
    }
    bal_device_group_free(d, &t->patch);
    for (int i = 0; i < 2; i++) bal_device_group_free(d, &t->projector[i]);
    d->api->release(d->device, t->vectors);
    free(t->layers);
    free(t);
}

/* ---- A pass through the tower ---------------------------------------------------------------- */

/* Who sees whom in a block, as arrays of the device (device/device.h: bal_device_rows). A segment's
 * pages are its own; a tile of rows is as long as a page of keys, so both are counted in units. */
typedef struct sight {
    bal_dptr at, list, last, tiles, pages;
    int units, keys;
} sight;

typedef struct pass {
    bal_device_vision *t;
    const bal_device_api *api;
    bal_device *device;
    const bal_vision_config *v;
    bal_taps taps;
    int n, tokens, gathered; /* rows of the tower, of the projector; entries of index */
    int piece, units;        /* rows of a piece; units of a sight at most */
    bal_device_cache cache;  /* of one layer */
    sight all, windows;
    bal_dptr memory;
    bal_dptr h, ctx, qkv;            /* f32 [n][hidden], [n][hidden], [n][3 * hidden] */
    bal_dptr wide, act;              /* f32 [piece][up.width or patch.k], of linears */
    bal_dptr mid, out, result;       /* f32 [tokens][projector[0].n], [tokens][text hidden] */
    bal_dptr keys, work, pos, index; /* pages; of attention; i32 [n][3], [gathered] */
    int32_t *words, *host_pos, *host_index;
    float *patches; /* [piece][patch.k] */
} pass;

/* Words of a sight's arrays but its pages: at, list and last [n], tiles [units][2]. */
static size_t sight_words(const pass *p)
{
    return 3 * (size_t)p->n + 2 * (size_t)p->units;
}

/* Everything that is uploaded per call: positions, index, two sights, then their pages. */
static size_t pages_from(const pass *p)
{
    return bal_round_up(3 * (size_t)p->n + (size_t)p->gathered + 2 * sight_words(p), 2);
}

static size_t words_bytes(const pass *p)
{
    return pages_from(p) * sizeof *p->words + 2 * (size_t)p->units * sizeof(bal_dptr);
}

static size_t page_bytes(const pass *p)
{
    return 2 * (size_t)p->cache.heads * p->cache.tile_bytes;
}

/* Widest row of the MLP, or of patches. Gate and up are one product where they are stored alike,
 * and each block may be stored in its own way. */
static size_t widest_piece(const pass *p)
{
    size_t most = (size_t)p->t->on->model->patch.k;
    for (int i = 0; i < p->v->layers; i++) most = bal_max(most, (size_t)p->t->layers[i].up.width);
    return most;
}

/* Work memory of the group that needs most. */
static size_t linear_bytes(const pass *p)
{
    const bal_device_vision *t = p->t;
    const bal_device_group *const ends[] = {&t->patch, &t->projector[0], &t->projector[1]};
    size_t most = 0;
    for (int i = 0; i < 3; i++)
        most = bal_max(most, bal_device_group_bytes(t->on, ends[i], p->piece));
    for (int l = 0; l < p->v->layers; l++) {
        const bal_device_vision_layer *layer = &t->layers[l];
        const bal_device_group *const groups[] = {&layer->qkv, &layer->out, &layer->up,
                                                  &layer->down};
        for (int i = 0; i < 4; i++)
            most = bal_max(most, bal_device_group_bytes(t->on, groups[i], p->piece));
    }
    return most;
}

static bal_status allocate_device(pass *p, bal_dptr *words, bal_error *err)
{
    const bal_model *m = p->t->on->model;
    const size_t rows = (size_t)p->n * sizeof(float), hidden = (size_t)p->v->hidden;
    const size_t tokens = (size_t)p->tokens * sizeof(float), text = (size_t)m->config.text.hidden;
    const struct {
        bal_dptr *at;
        size_t bytes;
    } pieces[] = {
        {&p->h, rows * hidden},
        {&p->ctx, rows * hidden},
        {&p->qkv, rows * 3 * hidden},
        {&p->wide, (size_t)p->piece * widest_piece(p) * sizeof(float)},
        {&p->act, linear_bytes(p)},
        {&p->mid, tokens * (size_t)m->projector[0].n},
        {&p->out, tokens * text},
        {&p->result, tokens * text},
        {&p->keys, (size_t)p->units * page_bytes(p)},
        {&p->work, p->api->attend_bytes(p->device, p->n, p->v->heads, p->cache.dim)},
        {words, words_bytes(p)},
    };
    size_t sum = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        sum += bal_round_up(pieces[i].bytes, 256);
    BAL_TRY(p->api->alloc(p->device, &p->memory, sum, "pictures in the vision tower", err));
    bal_dptr at = p->memory;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        *pieces[i].at = at;
        at += bal_round_up(pieces[i].bytes, 256);
    }
    return BAL_OK;
}

static bal_status allocate_host(pass *p, bal_error *err)
{
    const size_t patches = (size_t)p->piece * (size_t)p->t->on->model->patch.k;
    p->words = calloc(words_bytes(p), 1);
    p->patches = malloc(patches * sizeof *p->patches);
    if (p->words && p->patches) return BAL_OK;
    return bal_nomem(err, words_bytes(p) + patches * sizeof *p->patches, "patches of a picture");
}

static void place_sight(const pass *p, sight *s, bal_dptr words, int which)
{
    const size_t w = sizeof *p->words, n = (size_t)p->n * w;
    s->at = words + 3 * n + (size_t)p->gathered * w + (size_t)which * sight_words(p) * w;
    s->list = s->at + n;
    s->last = s->list + n;
    s->tiles = s->last + n;
    s->pages = words + pages_from(p) * w + (size_t)which * (size_t)p->units * sizeof(bal_dptr);
}

static bal_status open_pass(pass *p, bal_error *err)
{
    bal_dptr words;
    const int dim = p->v->hidden / p->v->heads;
    p->api = p->t->on->api;
    p->device = p->t->on->device;
    p->cache = (bal_device_cache){.element = 2,
                                  .heads = p->v->heads,
                                  .dim = dim,
                                  .tile_bytes = (size_t)BAL_DEVICE_PAGE * (size_t)dim * 2};
    p->cache.layer_bytes = page_bytes(p);
    BAL_TRY(allocate_device(p, &words, err));
    BAL_TRY(allocate_host(p, err));
    p->pos = words;
    p->index = words + 3 * (size_t)p->n * sizeof *p->words;
    p->host_pos = p->words;
    p->host_index = p->words + 3 * (size_t)p->n;
    place_sight(p, &p->all, words, 0);
    place_sight(p, &p->windows, words, 1);
    return BAL_OK;
}

static void close_pass(pass *p)
{
    if (p->api) p->api->release(p->device, p->memory);
    free(p->words);
    free(p->patches);
}

/* The host's copy of what will stand at an address among the words. */
static void *host_of(const pass *p, bal_dptr at)
{
    return (uint8_t *)p->words + (at - p->pos);
}

static void add_segment(const pass *p, sight *s, int first, int n)
{
    int32_t *at = host_of(p, s->at), *list = host_of(p, s->list), *last = host_of(p, s->last);
    int32_t(*tiles)[2] = host_of(p, s->tiles);
    bal_dptr *pages = host_of(p, s->pages);
    const int32_t from = s->units;
    for (int i = 0; i < n; i++) {
        at[first + i] = i;
        list[first + i] = from;
        last[first + i] = n - 1;
    }
    for (int i = 0; i < n; i += LAST_TILE, s->units++) {
        tiles[s->units][0] = first + i;
        tiles[s->units][1] = n - i < LAST_TILE ? n - i : LAST_TILE;
        pages[s->units] = p->keys + (size_t)s->units * page_bytes(p);
    }
    if (n > s->keys) s->keys = n;
}

static void upload_words(const pass *p)
{
    p->api->upload(p->device, p->pos, p->words, words_bytes(p));
}

/* ---- Rows through weights -------------------------------------------------------------------- */

static bal_dptr row_at(bal_dptr x, int row, size_t ld)
{
    return x + (size_t)row * ld * sizeof(float);
}

static int piece_at(const pass *p, int at, int n)
{
    return n - at < p->piece ? n - at : p->piece;
}

/* y [n][ld_y] of n rows that stage.x begins. */
static void linear(const pass *p, const bal_device_group *g, bal_stage_args stage, int n,
                   bal_dptr y, size_t ld_y, bool add)
{
    const bal_dptr x = stage.x;
    stage.out = p->act;
    for (int at = 0; at < n; at += p->piece) {
        stage.x = row_at(x, at, stage.ld);
        stage.m = piece_at(p, at, n);
        bal_device_group_forward(p->t->on, g, stage, row_at(y, at, ld_y), ld_y, add);
    }
}

static bal_stage_args plain(bal_dptr x, int k)
{
    return (bal_stage_args){.kind = BAL_STAGE_PLAIN, .x = x, .ld = (size_t)k, .k = k};
}

static bal_stage_args normed(const pass *p, bal_dptr w, bal_dptr b)
{
    const bool rms = p->v->norm == BAL_NORM_RMS;
    return (bal_stage_args){.kind = rms ? BAL_STAGE_RMS : BAL_STAGE_LAYER,
                            .x = p->h,
                            .w = w,
                            .b = b,
                            .ld = (size_t)p->v->hidden,
                            .k = p->v->hidden,
                            .eps = p->v->ln_eps};
}

/* The first `hidden` of each of n rows, in place. */
static void norm(const pass *p, bool layer, bal_dptr x, size_t ld, bal_dptr w, bal_dptr b)
{
    const bal_norm_args a = {.layer = layer,
                             .x = x,
                             .w = w,
                             .b = b,
                             .ld = ld,
                             .m = p->n,
                             .k = p->v->hidden,
                             .eps = p->v->ln_eps};
    p->api->norm(p->device, &a);
}

static void norm_rows(const pass *p, bal_dptr w, bal_dptr b)
{
    norm(p, p->v->norm == BAL_NORM_LAYER, p->h, (size_t)p->v->hidden, w, b);
}

/* ---- A block --------------------------------------------------------------------------------- */

static void rotate(const pass *p, const sight *s)
{
    const size_t w = sizeof(int32_t), width = 3 * (size_t)p->v->hidden;
    for (int at = 0; at < p->n; at += p->piece) {
        const size_t row = (size_t)at * w;
        const bal_rotate_args a = {
            .qkv = row_at(p->qkv, at, width),
            .frequency = p->t->frequency,
            .axis = p->t->axis,
            .magnitude = 1.0f,
            .m = piece_at(p, at, p->n),
            .heads = p->v->heads,
            .cache = p->cache,
            .rows = {s->at + row, p->pos + 3 * row, s->list + row, s->pages}};
        p->api->rotate(p->device, &a);
    }
}

static void attention(const pass *p, const bal_device_vision_layer *l, const sight *s)
{
    const size_t hidden = (size_t)p->v->hidden;
    linear(p, &l->qkv, normed(p, l->ln1_w, l->ln1_b), p->n, p->qkv, 3 * hidden, false);
    if (l->q_norm) norm(p, false, p->qkv, 3 * hidden, l->q_norm, 0);
    if (l->k_norm) norm(p, false, row_at(p->qkv, 1, hidden), 3 * hidden, l->k_norm, 0);
    rotate(p, s);
    const bal_attend_args a = {.q = p->qkv,
                               .out = p->ctx,
                               .ld = 3 * hidden,
                               .tiles = s->tiles,
                               .n_tiles = s->units,
                               .tile_rows = s->keys < LAST_TILE ? s->keys : LAST_TILE,
                               .m = p->n,
                               .heads = p->v->heads,
                               .keys = s->keys,
                               .cache = p->cache,
                               .rows = {s->last, p->pos, s->list, s->pages},
                               .work = p->work};
    p->api->attend(p->device, &a);
}

/* h += the linear's outputs, or those times scale, which pass through ctx. */
static void add_linear(const pass *p, const bal_device_group *g, bal_stage_args stage, int at,
                       int n, bal_dptr scale)
{
    const size_t hidden = (size_t)p->v->hidden;
    const bal_dptr h = row_at(p->h, at, hidden), ctx = row_at(p->ctx, at, hidden);
    linear(p, g, stage, n, scale ? ctx : h, hidden, !scale);
    if (scale) p->api->add_scaled(p->device, h, ctx, scale, n, p->v->hidden);
}

static void mlp(const pass *p, const bal_device_vision_layer *l, int at, int n)
{
    const bal_vision_config *v = p->v;
    const size_t width = (size_t)l->up.width;
    bal_stage_args in = normed(p, l->ln2_w, l->ln2_b), act = plain(p->wide, v->intermediate);
    in.x = row_at(p->h, at, in.ld);
    act.ld = width;
    linear(p, &l->up, in, n, p->wide, width, false);
    if (v->gated && !l->up.gated) act.kind = BAL_STAGE_SILU;
    if (!v->gated) p->api->gelu(p->device, (bal_device_gelu)v->act, p->wide, (size_t)n * width);
    add_linear(p, &l->down, act, at, n, l->scale2);
}

static void block(const pass *p, int layer)
{
    const bal_device_vision_layer *l = &p->t->layers[layer];
    attention(p, l, bal_native_sees_all(p->v, layer) ? &p->all : &p->windows);
    add_linear(p, &l->out, plain(p->ctx, p->v->hidden), 0, p->n, l->scale1);
    for (int at = 0; at < p->n; at += p->piece) mlp(p, l, at, piece_at(p, at, p->n));
}

/* Whoever looks may use the device meanwhile. */
static void blocks(const pass *p)
{
    for (int i = 0; i < p->v->layers; i++) {
        block(p, i);
        if (!p->taps.fn) continue;
        bal_device_model_unlock(p->t->on);
        p->taps.fn(p->taps.ctx, BAL_TAP_VISION_LAYER, i, NULL, p->n, p->v->hidden);
        bal_device_model_lock(p->t->on);
    }
}

/* ---- Patches and projector ------------------------------------------------------------------- */

/* n rows of p->patches become rows `at` .. of h. */
static void embed(const pass *p, int at, int n)
{
    const int k = p->t->on->model->patch.k;
    const size_t hidden = (size_t)p->v->hidden;
    p->api->upload(p->device, p->wide, p->patches, (size_t)n * (size_t)k * sizeof(float));
    linear(p, &p->t->patch, plain(p->wide, k), n, row_at(p->h, at, hidden), hidden,
           p->t->origin != 0);
}

/* x [tokens][projector[0].k] -> out */
static void project(const pass *p, bal_dptr x)
{
    const bal_model *m = p->t->on->model;
    const size_t hidden = (size_t)m->config.text.hidden, mid = (size_t)m->projector[0].n;
    const bool two = m->projector[1].k != 0;
    bal_stage_args in = plain(x, m->projector[0].k);
    if (p->t->projector_w) {
        in.kind = BAL_STAGE_LAYER;
        in.w = p->t->projector_w;
        in.b = p->t->projector_b;
        in.eps = BAL_PROJECTOR_NORM_EPS;
    }
    linear(p, &p->t->projector[0], in, p->tokens, two ? p->mid : p->out, mid, false);
    if (!two) return;
    p->api->gelu(p->device, (bal_device_gelu)p->v->projector_act, p->mid, (size_t)p->tokens * mid);
    linear(p, &p->t->projector[1], plain(p->mid, (int)mid), p->tokens, p->out, hidden, false);
}

static bal_status fetch(const pass *p, bal_dptr rows, float *out, bal_error *err)
{
    const size_t hidden = (size_t)p->t->on->model->config.text.hidden;
    p->api->download(p->device, out, rows, (size_t)p->tokens * hidden * sizeof *out);
    return p->api->sync(p->device, err);
}

/* ---- Views ----------------------------------------------------------------------------------- */

/* Rows of patches as tokens read them, without class tokens: shuffle^2 of a token one behind the
 * other. */
static void index_view(const pass *p, int view, int32_t *out)
{
    const bal_vision_config *v = p->v;
    const int r = v->shuffle, n = v->side / r, first = view * (v->side * v->side + v->cls) + v->cls;
    for (int i = 0; i < n * n; i++) {
        const int ty = v->shuffle_columns ? i % n : i / n, tx = v->shuffle_columns ? i / n : i % n;
        for (int j = 0; j < r * r; j++)
            *out++ = first + (ty * r + j / r) * v->side + tx * r + j % r;
    }
}

/* For n_views, which may be fewer than the memory is for. */
static void load_views(pass *p, int n_views)
{
    const bal_vision_config *v = p->v;
    const int rows = v->side * v->side + v->cls, indices = p->gathered / (p->n / rows);
    p->all.units = p->all.keys = 0;
    for (int i = 0; i < n_views; i++) {
        add_segment(p, &p->all, i * rows, rows);
        index_view(p, i, p->host_index + (size_t)i * (size_t)indices);
    }
    upload_words(p);
}

static void embed_views(const pass *p, const float *pixels, int n_views)
{
    const bal_vision_config *v = p->v;
    const size_t view = 3 * (size_t)v->image_size * (size_t)v->image_size;
    const size_t hidden = (size_t)v->hidden;
    const int patches = v->side * v->side, rows = patches + v->cls;
    for (int i = 0; i < n_views; i++) {
        bal_vision_patches(v, pixels + (size_t)i * view, p->patches);
        if (p->t->origin)
            p->api->copy(p->device, row_at(p->h, i * rows, hidden), p->t->origin,
                         (size_t)rows * hidden * sizeof(float));
        embed(p, i * rows + v->cls, patches);
    }
}

static bal_status run_views(const pass *whole, const float *pixels, int n_views, float *out,
                            bal_error *err)
{
    pass p = *whole;
    const bal_vision_config *v = p.v;
    p.n = n_views * (v->side * v->side + v->cls);
    p.tokens = n_views * bal_view_tokens(v);
    embed_views(&p, pixels, n_views);
    if (v->pre_norm) norm_rows(&p, p.t->pre_w, p.t->pre_b);
    blocks(&p);
    if (v->post_norm) norm_rows(&p, p.t->post_w, p.t->post_b);
    p.api->gather(p.device, p.h, (size_t)v->hidden, p.index, p.tokens * v->shuffle * v->shuffle,
                  p.ctx);
    project(&p, p.ctx);
    return fetch(&p, p.out, out, err);
}

static bal_status all_views(pass *p, const float *pixels, int n_views, float *out, bal_error *err)
{
    const bal_vision_config *v = p->v;
    const size_t view = 3 * (size_t)v->image_size * (size_t)v->image_size;
    const size_t tokens = (size_t)bal_view_tokens(v) * (size_t)p->t->on->model->config.text.hidden;
    BAL_TRY(open_pass(p, err));
    for (int i = 0; i < n_views; i += BATCH) {
        const int n = n_views - i < BATCH ? n_views - i : BATCH;
        load_views(p, n);
        BAL_TRY(run_views(p, pixels + (size_t)i * view, n, out + (size_t)i * tokens, err));
    }
    return BAL_OK;
}

bal_status bal_device_vision_views(bal_device_vision *t, const float *pixels, int n_views,
                                   float *out, bal_taps taps, bal_error *err)
{
    const bal_vision_config *v = &t->on->model->config.vision;
    const int patches = v->side * v->side, rows = patches + v->cls;
    const int batch = n_views < BATCH ? n_views : BATCH;
    pass p = {.t = t, .v = v, .taps = taps, .n = batch * rows};
    p.tokens = batch * bal_view_tokens(v);
    p.gathered = p.tokens * v->shuffle * v->shuffle;
    p.piece = patches > PIECE ? patches : p.n < PIECE ? p.n : PIECE;
    p.units = batch * (int)bal_ceil_div((size_t)rows, BAL_DEVICE_PAGE);
    bal_device_model_lock(t->on);
    const bal_status st = all_views(&p, pixels, n_views, out, err);
    close_pass(&p);
    bal_device_model_unlock(t->on);
    return st;
}

/* ---- Pictures at their own resolution -------------------------------------------------------- */

typedef struct grid {
    int rows, cols, merge; /* tokens; patches of one are merge x merge */
    int32_t *order;        /* [rows * cols] */
    int *starts;           /* [windows + 1], in tokens */
    int n_windows;
} grid;

static bal_status open_grid(grid *g, const bal_vision_config *v, bal_error *err)
{
    const size_t n = (size_t)(g->rows * g->cols);
    const size_t windows = (size_t)bal_window_count(g->rows, g->cols, v->window);
    g->order = malloc(n * sizeof *g->order);
    g->starts = malloc((windows + 1) * sizeof *g->starts);
    if (!g->order || !g->starts) return bal_nomem(err, n * sizeof *g->order, "vision tower order");
    g->n_windows = bal_window_order(g->rows, g->cols, v->window, g->order, g->starts);
    return BAL_OK;
}

static void close_grid(grid *g)
{
    free(g->order);
    free(g->starts);
}

/* Segments with so many patches each, in pages. */
static int units_of(const grid *g)
{
    const int merge2 = g->merge * g->merge;
    size_t all = bal_ceil_div((size_t)(g->rows * g->cols * merge2), BAL_DEVICE_PAGE), windows = 0;
    for (int i = 0; i < g->n_windows; i++)
        windows +=
            bal_ceil_div((size_t)((g->starts[i + 1] - g->starts[i]) * merge2), BAL_DEVICE_PAGE);
    return (int)bal_max(all, windows);
}

static void load_grid(pass *p, const grid *g)
{
    const int merge2 = g->merge * g->merge;
    for (int i = 0; i < p->n; i++) {
        const int token = g->order[i / merge2], inner = i % merge2;
        p->host_pos[3 * i + 1] = token / g->cols * g->merge + inner / g->merge;
        p->host_pos[3 * i + 2] = token % g->cols * g->merge + inner % g->merge;
    }
    for (int i = 0; i < p->tokens; i++) p->host_index[g->order[i]] = i;
    add_segment(p, &p->all, 0, p->n);
    for (int i = 0; i < g->n_windows; i++)
        add_segment(p, &p->windows, g->starts[i] * merge2,
                    (g->starts[i + 1] - g->starts[i]) * merge2);
    upload_words(p);
}

static void embed_grid(const pass *p, const grid *g, const float *pixels)
{
    const int merge2 = g->merge * g->merge;
    const size_t k = (size_t)p->t->on->model->patch.k;
    for (int at = 0; at < p->n; at += p->piece) {
        const int n = piece_at(p, at, p->n);
        for (int i = 0; i < n; i++)
            bal_native_patch(p->v, g->rows, g->cols, g->order[(at + i) / merge2], (at + i) % merge2,
                             pixels, p->patches + (size_t)i * k);
        embed(p, at, n);
    }
}

static bal_status run_grid(pass *p, const grid *g, const float *pixels, float *out, bal_error *err)
{
    const size_t hidden = (size_t)p->t->on->model->config.text.hidden;
    BAL_TRY(open_pass(p, err));
    load_grid(p, g);
    embed_grid(p, g, pixels);
    blocks(p);
    norm_rows(p, p->t->post_w, p->t->post_b);
    project(p, p->h);
    p->api->gather(p->device, p->out, hidden, p->index, p->tokens, p->result);
    return fetch(p, p->result, out, err);
}

bal_status bal_device_vision_native(bal_device_vision *t, const bal_view_plan *plan,
                                    const float *pixels, float *out, bal_taps taps, bal_error *err)
{
    const bal_vision_config *v = &t->on->model->config.vision;
    grid g = {.rows = plan->h0, .cols = plan->w0, .merge = v->shuffle};
    pass p = {.t = t, .v = v, .taps = taps, .n = g.rows * g.cols * g.merge * g.merge};
    p.tokens = p.gathered = g.rows * g.cols;
    p.piece = p.n < PIECE ? p.n : PIECE;
    bal_status st = open_grid(&g, v, err);
    p.units = st == BAL_OK ? units_of(&g) : 0;
    bal_device_model_lock(t->on);
    if (st == BAL_OK) st = run_grid(&p, &g, pixels, out, err);
    close_pass(&p);
    bal_device_model_unlock(t->on);
    close_grid(&g);
    return st;
}
