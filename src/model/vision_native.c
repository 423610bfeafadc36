/* SPDX-License-Identifier: MIT
 * The tower. Rows are patches in the order in which they are computed: tokens in window order, the
 * patches of a token row by row, so windows are contiguous and merging is a view. Everything but
 * keys, values and the hidden state goes through in pieces of CHUNK rows; row-wise ops and
 * attention give the same bits for any cut. */
#include "model/vision_native.h"

#include "base/size.h"
#include "model/vision.h"
#include "op/pointwise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 256, THETA = 10000 };

typedef struct tower {
    const bal_exec *e;
    const bal_model *m;
    const bal_vision_config *v;
    int rows, cols;    /* grid of tokens */
    int merge2, chunk; /* patches of a token; of a piece, a multiple of merge2 */
    int n;             /* patches */
    int32_t *order;    /* [rows * cols] */
    int *starts;       /* [n_windows + 1], in patches */
    int n_windows;
    bal_kv_page *pages;    /* of one segment */
    float *h, *k, *v_;     /* [n][hidden] */
    float *cos, *sin;      /* [n][head_dim / 2] */
    float *norm, *q, *ctx; /* [chunk][hidden] */
    float *mlp, *up;       /* [chunk][intermediate] */
    float *patches;        /* [chunk][patch.k] */
    float *merged, *token; /* [chunk / merge2][merge2 * hidden], [chunk / merge2][text hidden] */
    float *memory;
} tower;

/* ---- Order and angles -------------------------------------------------------------------------
 */

int bal_window_count(int rows, int cols, int side)
{
    if (side < 1) return 1;
    return ((rows + side - 1) / side) * ((cols + side - 1) / side);
}

static int put_window(int y0, int x0, int y1, int x1, int cols, int32_t *order)
{
    int n = 0;
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++) order[n++] = y * cols + x;
    return n;
}

int bal_window_order(int rows, int cols, int side, int32_t *order, int *starts)
{
    const int high = side < 1 ? rows : side, wide = side < 1 ? cols : side;
    int at = 0, windows = 0;
    for (int y = 0; y < rows; y += high)
        for (int x = 0; x < cols; x += wide) {
            const int y1 = y + high < rows ? y + high : rows;
            const int x1 = x + wide < cols ? x + wide : cols;
            starts[windows++] = at;
            at += put_window(y, x, y1, x1, cols, order + at);
        }
    starts[windows] = at;
    return windows;
}

float bal_native_frequency(int i, int head_dim)
{
    return (float)(1.0 / pow(THETA, 4.0 * i / head_dim));
}

/* The frequencies of one coordinate: half of the half. */
static void rope_half(int pos, const float *frequency, int n, float *cos_out, float *sin_out)
{
    for (int i = 0; i < n; i++) {
        cos_out[i] = cosf((float)pos * frequency[i]);
        sin_out[i] = sinf((float)pos * frequency[i]);
    }
}

void bal_vision_rope(const int32_t *order, int n, int cols, int merge, int head_dim, float *cos_out,
                     float *sin_out)
{
    const int merge2 = merge * merge, quarter = head_dim / 4;
    float frequency[BAL_MAX_HEAD_DIM / 4];
    for (int i = 0; i < quarter; i++) frequency[i] = bal_native_frequency(i, head_dim);
    for (int i = 0; i < n * merge2; i++) {
        const int token = order[i / merge2], inner = i % merge2;
        float *c = cos_out + (size_t)i * 2 * (size_t)quarter;
        float *s = sin_out + (size_t)i * 2 * (size_t)quarter;
        rope_half(token / cols * merge + inner / merge, frequency, quarter, c, s);
        rope_half(token % cols * merge + inner % merge, frequency, quarter, c + quarter,
                  s + quarter);
    }
}

/* ---- Memory -----------------------------------------------------------------------------------
 */

enum { SLOTS = 13 };

/* Floats of each buffer, in the order of allocate_floats; returns their sum. Limits of config and
 * plan keep each of these below 2^45. */
static size_t tower_sizes(const tower *t, size_t size[SLOTS])
{
    const bal_vision_config *v = t->v;
    const size_t n = (size_t)t->n, chunk = (size_t)t->chunk, hidden = (size_t)v->hidden;
    const size_t tokens = chunk / (size_t)t->merge2, half = hidden / (size_t)v->heads / 2;
    const size_t inter = (size_t)v->intermediate, text = (size_t)t->m->config.text.hidden;
    const size_t real[SLOTS] = {n * hidden,
                                n * hidden,
                                n * hidden,
                                n * half,
                                n * half,
                                chunk * hidden,
                                chunk * hidden,
                                chunk * hidden,
                                chunk * inter,
                                chunk * inter,
                                chunk * (size_t)t->m->patch.k,
                                chunk * hidden,
                                tokens * text};
    size_t total = 0;
    for (int i = 0; i < SLOTS; i++) {
        size[i] = bal_round_up(real[i], 16);
        total += size[i];
    }
    return total;
}

static bal_status allocate_floats(tower *t, bal_error *err)
{
    float **const slot[SLOTS] = {&t->h,   &t->k,   &t->v_, &t->cos,     &t->sin,    &t->norm, &t->q,
                                 &t->ctx, &t->mlp, &t->up, &t->patches, &t->merged, &t->token};
    size_t size[SLOTS];
    const size_t total = tower_sizes(t, size);
    t->memory = aligned_alloc(64, total * sizeof(float));
    if (!t->memory)
        return bal_fail(err, BAL_E_NOMEM,
                        "%zu MiB for a picture of %d tokens; --image-max-tokens makes it smaller",
                        total * sizeof(float) >> 20, t->rows * t->cols);
    float *p = t->memory;
    for (int i = 0; i < SLOTS; i++) {
        *slot[i] = p;
        p += size[i];
    }
    return BAL_OK;
}

static void tower_close(tower *t)
{
    free(t->order);
    free(t->starts);
    free(t->pages);
    free(t->memory);
}

static bal_status tower_open(tower *t, bal_error *err)
{
    const bal_vision_config *v = t->v;
    const int windows = bal_window_count(t->rows, t->cols, v->window);
    t->order = malloc((size_t)(t->rows * t->cols) * sizeof *t->order);
    t->starts = malloc(((size_t)windows + 1) * sizeof *t->starts);
    t->pages = calloc(bal_ceil_div((size_t)t->n, BAL_PAGE), sizeof *t->pages);
    if (!t->order || !t->starts || !t->pages)
        return bal_nomem(err, (size_t)t->n * sizeof *t->order, "vision tower order");
    BAL_TRY(allocate_floats(t, err));
    t->n_windows = bal_window_order(t->rows, t->cols, v->window, t->order, t->starts);
    for (int i = 0; i <= t->n_windows; i++) t->starts[i] *= t->merge2;
    bal_vision_rope(t->order, t->rows * t->cols, t->cols, v->shuffle, v->hidden / v->heads, t->cos,
                    t->sin);
    return BAL_OK;
}

/* ---- Patches ----------------------------------------------------------------------------------
 */

void bal_native_patch(const bal_vision_config *v, int rows, int cols, int32_t token, int inner,
                      const float *pixels, float *out)
{
    const int p = v->patch_size, merge = v->shuffle;
    const size_t width = (size_t)(cols * merge * p), height = (size_t)(rows * merge * p);
    const int y0 = (token / cols * merge + inner / merge) * p;
    const int x0 = (token % cols * merge + inner % merge) * p;
    for (size_t c = 0; c < 3; c++)
        for (int time = 0; time < v->temporal; time++)
            for (int y = 0; y < p; y++, out += p)
                memcpy(out, pixels + (c * height + (size_t)(y0 + y)) * width + x0,
                       (size_t)p * sizeof *out);
}

static void embed(tower *t, const float *pixels)
{
    const size_t hidden = (size_t)t->v->hidden, k = (size_t)t->m->patch.k;
    for (int at = 0; at < t->n; at += t->chunk) {
        const int rows = t->n - at < t->chunk ? t->n - at : t->chunk;
        for (int i = at; i < at + rows; i++)
            bal_native_patch(t->v, t->rows, t->cols, t->order[i / t->merge2], i % t->merge2, pixels,
                             t->patches + (size_t)(i - at) * k);
        bal_linear_forward(t->e, &t->m->patch, t->patches, k, rows, t->h + (size_t)at * hidden,
                           hidden);
    }
}

/* ---- A block ----------------------------------------------------------------------------------
 */

static void rotate(const tower *t, float *x, int at, int rows)
{
    const int dim = t->v->hidden / t->v->heads;
    const size_t from = (size_t)at * (size_t)(dim / 2);
    bal_rope_apply(t->e, x, rows, t->v->heads, dim, t->cos + from, t->sin + from, 1.0f);
}

static void keys_and_values(tower *t, const bal_vision_layer *l, int at, int rows)
{
    const size_t hidden = (size_t)t->v->hidden, from = (size_t)at * hidden;
    bal_vision_norm_rows(t->e, t->v, t->h + from, l->ln1_w, l->ln1_b, rows, t->norm);
    const bal_linear_output kv[] = {{&l->k, t->k + from, hidden}, {&l->v, t->v_ + from, hidden}};
    bal_linear_forward_all(t->e, kv, 2, t->norm, hidden, NULL, rows);
    rotate(t, t->k + from, at, rows);
}

/* Rows at .. at + rows - 1 of the piece that starts at `piece` see segment first .. end - 1. */
static void attend(tower *t, int piece, int at, int rows, int first, int end)
{
    const bal_vision_config *v = t->v;
    const size_t hidden = (size_t)v->hidden, from = (size_t)(at - piece) * hidden;
    const bal_attention_shape shape = {v->heads, v->heads, v->hidden / v->heads, false};
    for (int i = 0; first + i * BAL_PAGE < end; i++) {
        const size_t row = (size_t)(first + i * BAL_PAGE) * hidden;
        t->pages[i] = (bal_kv_page){.k = t->k + row, .v = t->v_ + row};
    }
    bal_attention(t->e, &shape, t->q + from, rows, 0, t->pages, end - first, t->ctx + from, NULL);
}

bool bal_native_sees_all(const bal_vision_config *v, int layer)
{
    return v->window < 1 || (uint32_t)v->full_blocks[layer / 32] >> layer % 32 & 1;
}

static void attend_piece(tower *t, int layer, int at, int rows)
{
    if (bal_native_sees_all(t->v, layer)) {
        attend(t, at, at, rows, 0, t->n);
        return;
    }
    for (int w = 0; w < t->n_windows; w++) {
        const int first = t->starts[w], end = t->starts[w + 1];
        const int lo = first > at ? first : at, hi = end < at + rows ? end : at + rows;
        if (lo < hi) attend(t, at, lo, hi - lo, first, end);
    }
}

static void mlp(tower *t, const bal_vision_layer *l, float *h, int rows)
{
    const bal_vision_config *v = t->v;
    const size_t hidden = (size_t)v->hidden, inter = (size_t)v->intermediate;
    bal_vision_norm_rows(t->e, v, h, l->ln2_w, l->ln2_b, rows, t->norm);
    const bal_linear_output wide[] = {{&l->fc1, t->up, inter}, {&l->gate, t->mlp, inter}};
    bal_linear_forward_all(t->e, wide, v->gated ? 2 : 1, t->norm, hidden, NULL, rows);
    float *act = t->up;
    if (v->gated) {
        act = t->mlp;
        bal_silu_mul(t->e, act, t->up, rows, v->intermediate);
    } else
        bal_vision_activate(t->e, v->act, act, rows, v->intermediate);
    bal_linear_forward(t->e, &l->fc2, act, inter, rows, t->norm, hidden);
    bal_add(t->e, h, t->norm, (size_t)rows * hidden);
}

static void block(tower *t, int layer)
{
    const bal_vision_config *v = t->v;
    const bal_vision_layer *l = &t->m->vision_layers[layer];
    const size_t hidden = (size_t)v->hidden;
    for (int at = 0; at < t->n; at += t->chunk)
        keys_and_values(t, l, at, t->n - at < t->chunk ? t->n - at : t->chunk);
    for (int at = 0; at < t->n; at += t->chunk) {
        const int rows = t->n - at < t->chunk ? t->n - at : t->chunk;
        float *h = t->h + (size_t)at * hidden;
        bal_vision_norm_rows(t->e, v, h, l->ln1_w, l->ln1_b, rows, t->norm);
        bal_linear_forward(t->e, &l->q, t->norm, hidden, rows, t->q, hidden);
        rotate(t, t->q, at, rows);
        attend_piece(t, layer, at, rows);
        bal_linear_forward(t->e, &l->out, t->ctx, hidden, rows, t->norm, hidden);
        bal_add(t->e, h, t->norm, (size_t)rows * hidden);
        mlp(t, l, h, rows);
    }
}

/* ---- Merger -----------------------------------------------------------------------------------
 */

/* Tokens go back to where they stand in the picture. */
static void merge(tower *t, float *out)
{
    const bal_vision_config *v = t->v;
    const size_t wide = (size_t)v->hidden * (size_t)t->merge2;
    const size_t hidden = (size_t)t->m->config.text.hidden;
    const bal_linear *p = t->m->projector;
    for (int at = 0; at < t->n; at += t->chunk) {
        const int rows = t->n - at < t->chunk ? t->n - at : t->chunk, tokens = rows / t->merge2;
        bal_vision_norm_rows(t->e, v, t->h + (size_t)at * (size_t)v->hidden, t->m->post_norm_w,
                             t->m->post_norm_b, rows, t->norm);
        bal_linear_forward(t->e, &p[0], t->norm, wide, tokens, t->merged, wide);
        bal_vision_activate(t->e, v->projector_act, t->merged, tokens, (int)wide);
        bal_linear_forward(t->e, &p[1], t->merged, wide, tokens, t->token, hidden);
        for (int i = 0; i < tokens; i++)
            memcpy(out + (size_t)t->order[at / t->merge2 + i] * hidden,
                   t->token + (size_t)i * hidden, hidden * sizeof *out);
    }
}

static void look(bal_taps t, bal_tap tap, int layer, const float *data, int rows, int cols)
{
    if (t.fn) t.fn(t.ctx, tap, layer, data, rows, cols);
}

static tower tower_of(const bal_exec *e, const bal_model *m, const bal_view_plan *p)
{
    const bal_vision_config *v = &m->config.vision;
    tower t = {.e = e, .m = m, .v = v, .rows = p->h0, .cols = p->w0};
    t.merge2 = v->shuffle * v->shuffle;
    t.chunk = t.merge2 * (t.merge2 < CHUNK ? CHUNK / t.merge2 : 1);
    t.n = p->h0 * p->w0 * t.merge2;
    return t;
}

size_t bal_native_work(const bal_model *m, const bal_view_plan *p)
{
    size_t size[SLOTS];
    const tower t = tower_of(NULL, m, p);
    const size_t windows = (size_t)bal_window_count(t.rows, t.cols, t.v->window);
    return tower_sizes(&t, size) * sizeof(float) + (size_t)(t.rows * t.cols) * sizeof *t.order +
           (windows + 1) * sizeof *t.starts + bal_ceil_div((size_t)t.n, BAL_PAGE) * sizeof *t.pages;
}

bal_status bal_native_encode(const bal_exec *e, const bal_model *m, const bal_view_plan *p,
                             const float *pixels, float *out, bal_taps taps, bal_error *err)
{
    const bal_vision_config *v = &m->config.vision;
    tower t = tower_of(e, m, p);
    const bal_status st = tower_open(&t, err);
    if (st == BAL_OK) {
        embed(&t, pixels);
        look(taps, BAL_TAP_VISION_EMBED, -1, t.h, t.n, v->hidden);
        for (int i = 0; i < v->layers; i++) {
            block(&t, i);
            look(taps, BAL_TAP_VISION_LAYER, i, t.h, t.n, v->hidden);
        }
        look(taps, BAL_TAP_VISION_OUT, -1, t.h, t.n, v->hidden);
        merge(&t, out);
        look(taps, BAL_TAP_PROJECTOR, -1, out, p->n_tokens, m->config.text.hidden);
    }
    tower_close(&t);
    return st;
}
