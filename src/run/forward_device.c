/* SPDX-License-Identifier: MIT
 * The arrays of a step lie one behind the other and are uploaded together: at, pos, list, tiles,
 * ids, modality, then the pages. Where each begins depends on whether there are more rows than a
 * recorded step has, and on nothing else, so that a recording finds them again. Ops get modalities
 * only where a row is vision, which none of a recorded step is: what is for vision alone is not
 * run in it. */
#include "run/forward_device.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

/* times the room for rows */
enum { AT = 0, POS = 1, LIST = 4, TILES = 5, IDS = 7, MODALITY = 8, WORDS = 9 };
enum { FIRST_KEYS = 64, TILE_PAIRS = 64 };

/* ---- Lifetime -------------------------------------------------------------------------------- */

static size_t line(size_t bytes)
{
    return bal_round_up(bytes, 256);
}

/* Work memory of the group that needs most. */
static size_t linear_bytes(const bal_device_forward *f)
{
    const bal_device_model *d = f->model;
    size_t most = bal_device_group_bytes(d, &d->head, f->max_logits);
    for (int l = 0; l < d->model->config.text.layers; l++) {
        const bal_device_layer *layer = &d->layers[l];
        const bal_device_group *const groups[] = {&layer->qkv, &layer->o, &layer->gate_up,
                                                  &layer->down};
        for (int i = 0; i < 4; i++)
            most = bal_max(most, bal_device_group_bytes(d, groups[i], f->max_rows));
    }
    return most;
}

static size_t qkv_width(const bal_text_config *c)
{
    return (size_t)(c->heads + 2 * c->kv_heads) * (size_t)c->head_dim;
}

static size_t step_bytes(const bal_device_forward *f)
{
    return WORDS * (size_t)f->max_rows * sizeof(int32_t) + f->max_pages * sizeof(bal_dptr);
}

typedef struct piece {
    bal_dptr *at;
    size_t bytes;
} piece;

static bal_status allocate(bal_device_forward *f, bal_error *err)
{
    const bal_device_model *d = f->model;
    const bal_text_config *c = &d->model->config.text;
    const size_t m = (size_t)f->max_rows, n = (size_t)f->max_logits, w = sizeof(float);
    const size_t hidden = (size_t)c->hidden;
    const piece pieces[] = {
        {&f->h, m * hidden * w},
        {&f->qkv, m * qkv_width(c) * w},
        {&f->ctx, m * (size_t)c->heads * (size_t)c->head_dim * w},
        {&f->gate_up, m * 2 * (size_t)c->intermediate * w},
        {&f->act, linear_bytes(f)},
        {&f->work, d->api->attend_bytes(d->device, f->max_rows, c->heads, c->head_dim)},
        {&f->picked, n * hidden * w},
        {&f->logits, n * (size_t)c->vocab * w},
        {&f->index, n * w},
        {&f->best, n * w},
        {&f->draws, n * sizeof(bal_device_draw)},
        {&f->step, step_bytes(f)},
    };
    size_t sum = 0;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) sum += line(pieces[i].bytes);
    BAL_TRY(d->api->alloc(d->device, &f->memory, sum, "rows of the decoder", err));
    bal_dptr at = f->memory;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        *pieces[i].at = at;
        at += line(pieces[i].bytes);
    }
    f->words = calloc(step_bytes(f), 1);
    return f->words ? BAL_OK : bal_nomem(err, step_bytes(f), "rows of the decoder");
}

/* At least a recorded step's rows, and an even number, which keeps the pages behind the words on 8
 * bytes. */
static int room_for(int rows)
{
    return rows < BAL_RECORD_ROWS ? BAL_RECORD_ROWS : rows + rows % 2;
}

bal_status bal_device_forward_create(bal_device_forward *f, bal_device_model *model, int max_rows,
                                     int max_logits, size_t max_pages, bal_error *err)
{
    *f = (bal_device_forward){.model = model,
                              .max_rows = room_for(max_rows),
                              .max_logits = max_logits,
                              .max_pages = max_pages};
    bal_device_model_lock(model);
    const bal_status st = allocate(f, err);
    bal_device_model_unlock(model);
    if (st < 0) {
        bal_device_forward_destroy(f);
        return bal_fail_in(err, st, "device cuda:%d", model->index);
    }
    return BAL_OK;
}

static void forget_records(bal_device_forward *f)
{
    const bal_device_model *d = f->model;
    for (int m = 0; m <= BAL_RECORD_ROWS; m++) {
        d->api->record_destroy(d->device, f->heads[m]);
        f->heads[m] = NULL;
        for (int k = 0; k < BAL_RECORD_KEYS; k++) {
            d->api->record_destroy(d->device, f->blocks[m][k]);
            f->blocks[m][k] = NULL;
        }
    }
}

void bal_device_forward_destroy(bal_device_forward *f)
{
    if (f->model) {
        bal_device_model_lock(f->model);
        forget_records(f);
        f->model->api->release(f->model->device, f->memory);
        bal_device_model_unlock(f->model);
    }
    free(f->words);
    *f = (bal_device_forward){0};
}

/* ---- Rows of a step -------------------------------------------------------------------------- */

typedef struct step {
    int room; /* rows that the arrays are laid out for */
    int m, n_tiles, tile_rows, keys;
    bool single; /* each span has one row */
    bool vision; /* a row is */
    size_t n_pages;
} step;

static int32_t *array(const bal_device_forward *f, const step *t, int which)
{
    return f->words + (size_t)which * (size_t)t->room;
}

/* The same on the device. */
static bal_dptr address(const bal_device_forward *f, const step *t, int which)
{
    return f->step + (size_t)which * (size_t)t->room * sizeof(int32_t);
}

static bal_device_rows rows_of(const bal_device_forward *f, const step *t)
{
    return (bal_device_rows){.at = address(f, t, AT),
                             .pos = address(f, t, POS),
                             .list = address(f, t, LIST),
                             .pages = address(f, t, WORDS)};
}

/* Rows of a tile: 64 pairs of a row and a head that read the same keys. */
static int rows_per_tile(const bal_text_config *c)
{
    const int group = c->heads / c->kv_heads;
    return group < TILE_PAIRS ? TILE_PAIRS / group : 1;
}

static void load_span(bal_device_forward *f, const bal_kv_span *s, step *t)
{
    const int per_tile = rows_per_tile(&f->model->model->config.text), end = s->first + s->m;
    bal_dptr *pages = (bal_dptr *)(void *)array(f, t, WORDS) + t->n_pages;
    const size_t n = bal_ceil_div((size_t)end, BAL_PAGE);
    for (size_t i = 0; i < n; i++) pages[i] = (bal_dptr)(uintptr_t)s->pages[i];
    for (int i = 0; i < s->m; i++) {
        array(f, t, AT)[s->row + i] = s->first + i;
        array(f, t, LIST)[s->row + i] = (int32_t)t->n_pages;
    }
    for (int i = 0; i < s->m; i += per_tile) {
        const int rows = s->m - i < per_tile ? s->m - i : per_tile;
        array(f, t, TILES)[2 * t->n_tiles] = s->row + i;
        array(f, t, TILES)[2 * t->n_tiles++ + 1] = rows;
        if (rows > t->tile_rows) t->tile_rows = rows;
    }
    if (end > t->keys) t->keys = end;
    t->single &= s->m == 1;
    t->n_pages += n;
}

static void load_modality(bal_device_forward *f, const uint8_t *modality, step *t)
{
    for (int i = 0; modality && i < t->m; i++) {
        array(f, t, MODALITY)[i] = modality[i];
        t->vision |= modality[i] == BAL_VISION;
    }
}

static step load_step(bal_device_forward *f, const bal_kv_span *spans, int n_spans, int m,
                      const int32_t *ids, const int32_t (*pos)[3], const uint8_t *modality)
{
    step t = {.room = m <= BAL_RECORD_ROWS ? BAL_RECORD_ROWS : f->max_rows, .m = m, .single = true};
    for (int i = 0; i < n_spans; i++) load_span(f, &spans[i], &t);
    memcpy(array(f, &t, POS), pos, (size_t)m * sizeof *pos);
    if (ids) memcpy(array(f, &t, IDS), ids, (size_t)m * sizeof *ids);
    load_modality(f, modality, &t);
    return t;
}

static void upload_step(bal_device_forward *f, const step *t)
{
    const bal_device_model *d = f->model;
    const size_t words = WORDS * (size_t)t->room * sizeof(int32_t);
    d->api->upload(d->device, f->step, f->words, words + t->n_pages * sizeof(bal_dptr));
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

static bal_status cache_of(const bal_kv_layout *l, bal_device_cache *out, bal_error *err)
{
    static const int element[BAL_KV_TYPES] = {[BAL_KV_F32] = 4, [BAL_KV_F16] = 2, [BAL_KV_I8] = 1};
    *out = (bal_device_cache){.element = element[l->type[BAL_KEYS]],
                              .heads = l->heads,
                              .dim = l->dim,
                              .tile_bytes = l->tile_bytes[BAL_KEYS],
                              .layer_bytes = l->layer_bytes};
    if (l->type[BAL_KEYS] == l->type[BAL_VALUES]) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP, "keys and values of different types on a device");
}

static void attention(bal_device_forward *f, const bal_device_layer *l, int layer,
                      const bal_device_cache *cache, const step *t)
{
    const bal_device_model *d = f->model;
    const bal_text_config *c = &d->model->config.text;
    const bal_rotate_args rotate = {.qkv = f->qkv,
                                    .q_norm = l->q_norm,
                                    .k_norm = l->k_norm,
                                    .frequency = d->frequency,
                                    .axis = d->axis,
                                    .magnitude =
                                        c->rope_kind == BAL_ROPE_YARN ? c->rope_magnitude : 1.0f,
                                    .eps = c->rms_eps,
                                    .m = t->m,
                                    .heads = c->heads,
                                    .layer = layer,
                                    .cache = *cache,
                                    .rows = rows_of(f, t)};
    const bal_attend_args attend = {.q = f->qkv,
                                    .out = f->ctx,
                                    .ld = qkv_width(c),
                                    .tiles = address(f, t, TILES),
                                    .n_tiles = t->n_tiles,
                                    .tile_rows = t->tile_rows,
                                    .m = t->m,
                                    .heads = c->heads,
                                    .layer = layer,
                                    .keys = t->keys,
                                    .cache = *cache,
                                    .rows = rows_of(f, t),
                                    .work = f->work};
    d->api->rotate(d->device, &rotate);
    d->api->attend(d->device, &attend);
}

static void block(bal_device_forward *f, int layer, const bal_device_cache *cache, const step *t)
{
    const bal_device_model *d = f->model;
    const bal_device_layer *l = &d->layers[layer];
    const bal_text_config *c = &d->model->config.text;
    const size_t hidden = (size_t)c->hidden, q = (size_t)c->heads * (size_t)c->head_dim;
    const bal_dptr modality = t->vision ? address(f, t, MODALITY) : 0;
    bal_stage_args s = {.kind = BAL_STAGE_RMS,
                        .x = f->h,
                        .w = l->attn_norm,
                        .out = f->act,
                        .ld = hidden,
                        .m = t->m,
                        .k = c->hidden,
                        .eps = c->rms_eps,
                        .modality = modality};
    bal_device_group_forward(d, &l->qkv, s, f->qkv, qkv_width(c), false);
    attention(f, l, layer, cache, t);
    s = (bal_stage_args){.kind = BAL_STAGE_PLAIN,
                         .x = f->ctx,
                         .out = f->act,
                         .ld = q,
                         .m = t->m,
                         .k = (int)q,
                         .modality = modality};
    bal_device_group_forward(d, &l->o, s, f->h, hidden, true);
    s = (bal_stage_args){.kind = BAL_STAGE_RMS,
                         .x = f->h,
                         .w = l->mlp_norm,
                         .out = f->act,
                         .ld = hidden,
                         .m = t->m,
                         .k = c->hidden,
                         .eps = c->rms_eps,
                         .modality = modality};
    const size_t width = (size_t)l->gate_up.width;
    const bool mixed = l->down.hadamard != 0, gated = l->gate_up.gated || mixed;
    bal_device_group_forward(d, &l->gate_up, s, f->gate_up, width, false);
    if (mixed && !l->gate_up.gated)
        d->api->gate(d->device, f->gate_up, width, t->m, c->intermediate);
    s = (bal_stage_args){.kind = gated ? BAL_STAGE_PLAIN : BAL_STAGE_SILU,
                         .x = f->gate_up,
                         .out = f->act,
                         .ld = width,
                         .m = t->m,
                         .k = c->intermediate,
                         .modality = modality};
    bal_device_group_forward(d, &l->down, s, f->h, hidden, true);
}

static void all_blocks(bal_device_forward *f, const bal_device_cache *cache, const step *t)
{
    for (int l = 0; l < f->model->model->config.text.layers; l++) block(f, l, cache, t);
}

/* ---- Recorded steps -------------------------------------------------------------------------- */

/* Which power of two of keys bounds a step's; t->keys becomes it. */
static int bucket_of(step *t)
{
    int i = 0;
    for (int n = FIRST_KEYS; n < t->keys; n *= 2) i++;
    t->keys = FIRST_KEYS << i;
    return i;
}

static bool repeats(const step *t)
{
    return t->single && !t->vision && t->m <= BAL_RECORD_ROWS &&
           t->keys <= FIRST_KEYS << (BAL_RECORD_KEYS - 1);
}

static bal_status run_recorded(bal_device_forward *f, const bal_kv_layout *kv,
                               const bal_device_cache *cache, step *t, bal_error *err)
{
    const bal_device_model *d = f->model;
    if (f->recorded_for != kv) forget_records(f);
    f->recorded_for = kv;
    bal_device_record **r = &f->blocks[t->m][bucket_of(t)];
    if (!*r) {
        d->api->record_begin(d->device);
        all_blocks(f, cache, t);
        BAL_TRY(d->api->record_end(d->device, r, err));
    }
    d->api->replay(d->device, *r);
    return BAL_OK;
}

bal_status bal_device_forward_blocks(bal_device_forward *f, const bal_kv_layout *kv,
                                     const bal_kv_span *spans, int n_spans, int m, const float *h,
                                     const int32_t *ids, const int32_t (*pos)[3],
                                     const uint8_t *modality, bal_error *err)
{
    const bal_device_model *d = f->model;
    const size_t row = (size_t)d->model->config.text.hidden * sizeof *h;
    bal_device_cache cache;
    BAL_TRY(cache_of(kv, &cache, err));
    bal_device_model_lock(f->model);
    step t = load_step(f, spans, n_spans, m, h ? NULL : ids, pos, modality);
    upload_step(f, &t);
    if (h)
        d->api->upload(d->device, f->h, h, (size_t)m * row);
    else
        d->api->embed(d->device, d->embed, address(f, &t, IDS), m, f->h);
    bal_status st = BAL_OK;
    if (repeats(&t))
        st = run_recorded(f, kv, &cache, &t, err);
    else
        all_blocks(f, &cache, &t);
    bal_device_model_unlock(f->model);
    return st;
}

/* ---- Logits ---------------------------------------------------------------------------------- */

static void head(bal_device_forward *f, int n)
{
    const bal_device_model *d = f->model;
    const bal_text_config *c = &d->model->config.text;
    const bal_stage_args s = {.kind = BAL_STAGE_RMS,
                              .x = f->picked,
                              .w = d->final_norm,
                              .out = f->act,
                              .ld = (size_t)c->hidden,
                              .m = n,
                              .k = c->hidden,
                              .eps = c->rms_eps};
    d->api->gather(d->device, f->h, (size_t)c->hidden, f->index, n, f->picked);
    bal_device_group_forward(d, &d->head, s, f->logits, (size_t)c->vocab, false);
}

static bal_status queue_head(bal_device_forward *f, int n, bal_error *err)
{
    const bal_device_model *d = f->model;
    if (n > BAL_RECORD_ROWS) {
        head(f, n);
        return BAL_OK;
    }
    if (!f->heads[n]) {
        d->api->record_begin(d->device);
        head(f, n);
        BAL_TRY(d->api->record_end(d->device, &f->heads[n], err));
    }
    d->api->replay(d->device, f->heads[n]);
    return BAL_OK;
}

static bal_status logits_of(bal_device_forward *f, const int *rows, int n, float *logits,
                            bal_error *err)
{
    const bal_device_model *d = f->model;
    d->api->upload(d->device, f->index, rows, (size_t)n * sizeof *rows);
    BAL_TRY(queue_head(f, n, err));
    d->api->download(d->device, logits, f->logits,
                     (size_t)n * (size_t)d->model->config.text.vocab * sizeof *logits);
    return d->api->sync(d->device, err);
}

bal_status bal_device_forward_logits(bal_device_forward *f, const int *rows, int n, float *logits,
                                     bal_error *err)
{
    bal_device_model_lock(f->model);
    const bal_status st = logits_of(f, rows, n, logits, err);
    bal_device_model_unlock(f->model);
    return st;
}

static bal_status tokens_of(bal_device_forward *f, const int *rows, int n,
                            const bal_device_draw *draws, int32_t *ids, bal_error *err)
{
    const bal_device_model *d = f->model;
    const int vocab = d->model->config.text.vocab;
    d->api->upload(d->device, f->index, rows, (size_t)n * sizeof *rows);
    if (draws) d->api->upload(d->device, f->draws, draws, (size_t)n * sizeof *draws);
    BAL_TRY(queue_head(f, n, err));
    if (draws)
        d->api->draw(d->device, f->logits, n, vocab, f->draws, f->best);
    else
        d->api->argmax(d->device, f->logits, n, vocab, f->best);
    d->api->download(d->device, ids, f->best, (size_t)n * sizeof *ids);
    return d->api->sync(d->device, err);
}

bal_status bal_device_forward_draw(bal_device_forward *f, const int *rows, int n,
                                   const bal_device_draw *draws, int32_t *ids, bal_error *err)
{
    bal_device_model_lock(f->model);
    const bal_status st = tokens_of(f, rows, n, draws, ids, err);
    bal_device_model_unlock(f->model);
    return st;
}
