/* SPDX-License-Identifier: MIT */
#include "model/vision.h"

#include "base/size.h"
#include "model/family.h"
#include "op/pointwise.h"

#include <stdlib.h>
#include <string.h>

/* Views that pass through together: enough rows to keep every thread busy, small views included,
 * and a bound on memory. */
enum { BATCH = 8 };

/* Work memory of one call. */
typedef struct tower {
    bal_vision_buf block;
    float *h;       /* [rows][hidden] */
    float *out;     /* [patches][hidden]: what leaves the tower */
    float *tokens;  /* [tokens][hidden * shuffle^2] */
    float *mid;     /* [tokens][decoder hidden] */
    float *patches; /* of one view: [side * side][3 * patch * patch] */
    int starts[BATCH + 1];
    float *memory;
} tower;

static void look(bal_taps t, bal_tap tap, int layer, const float *data, int rows, int cols)
{
    if (t.fn) t.fn(t.ctx, tap, layer, data, rows, cols);
}

enum { SLOTS = 11 };

static size_t tower_rows(const bal_vision_config *v, int views)
{
    return (size_t)(views * (v->side * v->side + v->cls));
}

/* Floats of each buffer for so many views, in the order of tower_create; returns their sum. Limits
 * of the config keep each of these below 2^47. */
static size_t tower_sizes(const bal_model *m, int views, size_t size[SLOTS])
{
    const bal_vision_config *v = &m->config.vision;
    const size_t hidden = (size_t)v->hidden, patches = (size_t)(views * v->side * v->side);
    const size_t rows = tower_rows(v, views);
    const size_t tokens = (size_t)views * (size_t)bal_view_tokens(v);
    const size_t patch = 3 * (size_t)v->patch_size * (size_t)v->patch_size;
    const size_t real[SLOTS] = {rows * hidden,
                                rows * hidden,
                                rows * hidden,
                                rows * hidden,
                                rows * hidden,
                                rows * hidden,
                                patches * hidden,
                                rows * (size_t)v->intermediate,
                                patches * hidden,
                                tokens * (size_t)m->config.text.hidden,
                                (size_t)(v->side * v->side) * patch};
    size_t total = 0;
    for (int i = 0; i < SLOTS; i++) {
        size[i] = bal_round_up(real[i], 16);
        total += size[i];
    }
    return total;
}

size_t bal_vision_views_bytes(const bal_model *m, int n_views)
{
    size_t size[SLOTS];
    return tower_sizes(m, n_views < BATCH ? n_views : BATCH, size) * sizeof(float);
}

static bal_status tower_create(tower *b, const bal_model *m, int views, bal_error *err)
{
    const bal_vision_config *v = &m->config.vision;
    float **const slot[SLOTS] = {&b->h,       &b->block.norm, &b->block.q, &b->block.k,
                                 &b->block.v, &b->block.ctx,  &b->out,     &b->block.mlp,
                                 &b->tokens,  &b->mid,        &b->patches};
    size_t size[SLOTS];
    const size_t total = tower_sizes(m, views, size);
    b->memory = aligned_alloc(64, total * sizeof(float));
    b->block.pages = calloc(bal_ceil_div(tower_rows(v, views), BAL_PAGE), sizeof *b->block.pages);
    if (!b->memory || !b->block.pages)
        return bal_nomem(err, total * sizeof(float), "vision tower buffers");
    float *p = b->memory;
    for (int i = 0; i < SLOTS; i++) {
        *slot[i] = p;
        p += size[i];
    }
    for (int i = 0; i <= views; i++) b->starts[i] = i * (v->side * v->side + v->cls);
    return BAL_OK;
}

static void tower_destroy(tower *b)
{
    free(b->memory);
    free(b->block.pages);
}

/* ---- Pieces ------------------------------------------------------------------------------------
 */

void bal_vision_norm_rows(const bal_exec *e, const bal_vision_config *v, const float *x,
                          const float *w, const float *b, int rows, float *y)
{
    if (v->norm == BAL_NORM_RMS)
        bal_rms_norm(e, x, w, v->ln_eps, rows, v->hidden, y);
    else
        bal_layer_norm(e, x, w, b, v->ln_eps, rows, v->hidden, y);
}

void bal_vision_activate(const bal_exec *e, int act, float *x, int rows, int cols)
{
    switch (act) {
    case BAL_ACT_GELU: bal_gelu_erf(e, x, rows, cols); break;
    case BAL_ACT_QUICK_GELU: bal_gelu_quick(e, x, rows, cols); break;
    default: bal_gelu_tanh(e, x, rows, cols); break;
    }
}

void bal_vision_patches(const bal_vision_config *v, const float *view, float *out)
{
    const int p = v->patch_size, s = v->image_size;
    for (int py = 0; py < v->side; py++)
        for (int px = 0; px < v->side; px++)
            for (int c = 0; c < 3; c++)
                for (int y = 0; y < p; y++) {
                    const float *src = view +
                                       ((size_t)c * (size_t)s + (size_t)(py * p + y)) * (size_t)s +
                                       (size_t)(px * p);
                    memcpy(out, src, (size_t)p * sizeof *out);
                    out += p;
                }
}

static void embed_view(const bal_exec *e, const bal_model *m, const float *pixels, tower *b,
                       float *h)
{
    const bal_vision_config *v = &m->config.vision;
    const size_t hidden = (size_t)v->hidden, cls = (size_t)v->cls;
    const int patches = v->side * v->side;
    bal_vision_patches(v, pixels, b->patches);
    bal_linear_forward(e, &m->patch, b->patches, (size_t)m->patch.k, patches, h + cls * hidden,
                       hidden);
    if (cls) memcpy(h, m->cls, hidden * sizeof *h);
    bal_add(e, h, m->positions, ((size_t)patches + cls) * hidden);
}

/* ---- Block -------------------------------------------------------------------------------------
 */

static void attend_segment(const bal_exec *e, const bal_vision_config *v, int first, int n,
                           bal_vision_buf *b)
{
    const size_t hidden = (size_t)v->hidden, at = (size_t)first * hidden;
    const bal_attention_shape shape = {v->heads, v->heads, v->hidden / v->heads, false};
    for (int i = 0; i * BAL_PAGE < n; i++) {
        const size_t page = at + (size_t)i * BAL_PAGE * hidden;
        b->pages[i] = (bal_kv_page){b->k + page, b->v + page};
    }
    bal_attention(e, &shape, b->q + at, n, 0, b->pages, n, b->ctx + at, NULL);
}

/* b->norm -> b->norm */
static void vision_attention(const bal_exec *e, const bal_vision_config *v,
                             const bal_vision_layer *l, const bal_vision_rows *r, bal_vision_buf *b)
{
    const size_t hidden = (size_t)v->hidden;
    const bal_linear_output qkv[] = {
        {&l->q, b->q, hidden}, {&l->k, b->k, hidden}, {&l->v, b->v, hidden}};
    bal_linear_forward_all(e, qkv, 3, b->norm, hidden, NULL, r->n);
    if (l->q_norm) bal_rms_norm(e, b->q, l->q_norm, v->ln_eps, r->n, v->hidden, b->q);
    if (l->k_norm) bal_rms_norm(e, b->k, l->k_norm, v->ln_eps, r->n, v->hidden, b->k);
    for (int i = 0; i < r->n_segments; i++)
        attend_segment(e, v, r->starts[i], r->starts[i + 1] - r->starts[i], b);
    bal_linear_forward(e, &l->out, b->ctx, hidden, r->n, b->norm, hidden);
}

/* h += x, or x * scale */
static void add(const bal_exec *e, float *h, const float *x, const float *scale, int rows, int cols)
{
    if (scale)
        bal_add_scaled(e, h, x, scale, rows, cols);
    else
        bal_add(e, h, x, (size_t)rows * (size_t)cols);
}

void bal_vision_block(const bal_exec *e, const bal_vision_config *v, const bal_vision_layer *l,
                      const bal_vision_rows *r, float *h, bal_vision_buf *b)
{
    const size_t hidden = (size_t)v->hidden, inter = (size_t)v->intermediate;
    bal_vision_norm_rows(e, v, h, l->ln1_w, l->ln1_b, r->n, b->norm);
    vision_attention(e, v, l, r, b);
    add(e, h, b->norm, l->scale1, r->n, v->hidden);
    bal_vision_norm_rows(e, v, h, l->ln2_w, l->ln2_b, r->n, b->norm);
    bal_linear_forward(e, &l->fc1, b->norm, hidden, r->n, b->mlp, inter);
    bal_vision_activate(e, v->act, b->mlp, r->n, v->intermediate);
    bal_linear_forward(e, &l->fc2, b->mlp, inter, r->n, b->norm, hidden);
    add(e, h, b->norm, l->scale2, r->n, v->hidden);
}

/* ---- Tower and projector -----------------------------------------------------------------------
 */

/* Class tokens go, patches stay. */
static void drop_cls(const bal_vision_config *v, int n_views, const float *h, float *out)
{
    const size_t view = (size_t)(v->side * v->side) * (size_t)v->hidden;
    for (int i = 0; i < n_views; i++)
        memcpy(out + (size_t)i * view,
               h + (size_t)i * (view + (size_t)(v->cls * v->hidden)) + (size_t)(v->cls * v->hidden),
               view * sizeof *out);
}

/* Tokens of shuffle x shuffle patches, channels in the order (row, column, channel) of the patch
 * inside its token. */
static void shuffle_view(const bal_vision_config *v, const float *x, float *out)
{
    const int r = v->shuffle, n = v->side / r;
    const size_t hidden = (size_t)v->hidden;
    for (int i = 0; i < n * n; i++) {
        const int ty = v->shuffle_columns ? i % n : i / n, tx = v->shuffle_columns ? i / n : i % n;
        for (int y = 0; y < r; y++, out += (size_t)r * hidden)
            memcpy(out, x + (size_t)((ty * r + y) * v->side + tx * r) * hidden,
                   (size_t)r * hidden * sizeof *out);
    }
}

static void project(const bal_exec *e, const bal_model *m, int n_views, tower *b, float *out)
{
    const bal_vision_config *v = &m->config.vision;
    const int rows = n_views * bal_view_tokens(v), width = m->projector[0].k;
    const size_t hidden = (size_t)m->config.text.hidden;
    const size_t view = (size_t)(v->side * v->side) * (size_t)v->hidden;
    const float *x = b->out;
    if (v->shuffle > 1) {
        for (int i = 0; i < n_views; i++)
            shuffle_view(v, b->out + (size_t)i * view, b->tokens + (size_t)i * view);
        x = b->tokens;
    }
    if (m->projector_norm_w) {
        bal_layer_norm(e, x, m->projector_norm_w, m->projector_norm_b, BAL_PROJECTOR_NORM_EPS, rows,
                       width, b->tokens);
        x = b->tokens;
    }
    const bool two = m->projector[1].k != 0;
    bal_linear_forward(e, &m->projector[0], x, (size_t)width, rows, two ? b->mid : out, hidden);
    if (!two) return;
    bal_vision_activate(e, v->projector_act, b->mid, rows, (int)hidden);
    bal_linear_forward(e, &m->projector[1], b->mid, hidden, rows, out, hidden);
}

static void run_batch(const bal_exec *e, const bal_model *m, const float *pixels, int n_views,
                      tower *b, float *out, bal_taps taps)
{
    const bal_vision_config *v = &m->config.vision;
    const int patches = v->side * v->side * n_views;
    const size_t view = 3 * (size_t)v->image_size * (size_t)v->image_size;
    const bal_vision_rows rows = {b->starts[n_views], b->starts, n_views};
    for (int i = 0; i < n_views; i++)
        embed_view(e, m, pixels + (size_t)i * view, b,
                   b->h + (size_t)b->starts[i] * (size_t)v->hidden);
    look(taps, BAL_TAP_VISION_EMBED, -1, b->h, rows.n, v->hidden);
    if (v->pre_norm) bal_vision_norm_rows(e, v, b->h, m->pre_norm_w, m->pre_norm_b, rows.n, b->h);
    for (int i = 0; i < v->layers; i++) {
        bal_vision_block(e, v, &m->vision_layers[i], &rows, b->h, &b->block);
        look(taps, BAL_TAP_VISION_LAYER, i, b->h, rows.n, v->hidden);
    }
    if (v->post_norm)
        bal_vision_norm_rows(e, v, b->h, m->post_norm_w, m->post_norm_b, rows.n, b->h);
    drop_cls(v, n_views, b->h, b->out);
    look(taps, BAL_TAP_VISION_OUT, -1, b->out, patches, v->hidden);
    project(e, m, n_views, b, out);
    look(taps, BAL_TAP_PROJECTOR, -1, out, n_views * bal_view_tokens(v), m->config.text.hidden);
}

bal_status bal_vision_views(const bal_exec *e, const bal_model *m, const float *pixels, int n_views,
                            float *out, bal_taps taps, bal_error *err)
{
    const bal_vision_config *v = &m->config.vision;
    const size_t view = 3 * (size_t)v->image_size * (size_t)v->image_size;
    const size_t tokens = (size_t)bal_view_tokens(v) * (size_t)m->config.text.hidden;
    tower b = {0};
    const bal_status st = tower_create(&b, m, n_views < BATCH ? n_views : BATCH, err);
    for (int i = 0; st == BAL_OK && i < n_views; i += BATCH) {
        const int n = n_views - i < BATCH ? n_views - i : BATCH;
        run_batch(e, m, pixels + (size_t)i * view, n, &b, out + (size_t)i * tokens, taps);
    }
    tower_destroy(&b);
    return st;
}

size_t bal_family_work(const bal_model *m, const bal_view_plan *p)
{
    const bal_family_def *family = bal_family_of(&m->config);
    return family->work ? family->work(m, p) : bal_vision_views_bytes(m, p->n_views);
}

bal_status bal_family_encode_views(const bal_exec *e, const bal_model *m, const bal_view_plan *p,
                                   const float *pixels, float *out, bal_taps taps, bal_error *err)
{
    return bal_vision_views(e, m, pixels, p->n_views, out, taps, err);
}

bal_status bal_family_encode_views_on(bal_device_vision *t, const bal_view_plan *p,
                                      const float *pixels, float *out, bal_taps taps,
                                      bal_error *err)
{
    return bal_device_vision_views(t, pixels, p->n_views, out, taps, err);
}
