/* SPDX-License-Identifier: MIT */
#include "model/vision.h"

#include "base/size.h"
#include "op/pointwise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Work memory of one call; all views of a picture go through the tower together. */
typedef struct tower_buf {
    float *h, *norm, *q, *k, *v, *ctx, *mlp, *proj, *patches;
    bal_kv_page *pages;
    float *memory;
} tower_buf;

static void look(bal_taps t, bal_tap tap, int layer, const float *data, int rows, int cols)
{
    if (t.fn) t.fn(t.ctx, tap, layer, data, rows, cols);
}

int bal_view_grid_tokens(const bal_view_grid *p, int side)
{
    const bool tiled = p->rows > 0 && p->cols > 0;
    return side * side + (tiled ? p->h1 * (p->w1 + 1) : 1);
}

static bal_status tower_buf_create(tower_buf *b, const bal_model *m, int rows, bal_error *err)
{
    const bal_vision_config *v = &m->config.vision;
    const size_t hidden = (size_t)v->hidden, view = (size_t)v->side * (size_t)v->side;
    const size_t n_pages = bal_ceil_div(view, BAL_PAGE);
    /* keys and values live in pages of one view each; the rest is [rows][width] */
    const size_t paged = (size_t)rows / view * n_pages * BAL_PAGE;
    const size_t size[] = {
        (size_t)rows * hidden,
        (size_t)rows * hidden,
        (size_t)rows * hidden,
        paged * hidden,
        paged * hidden,
        (size_t)rows * hidden,
        (size_t)rows * bal_max((size_t)v->intermediate, (size_t)m->config.text.hidden),
        (size_t)rows * (size_t)m->config.text.hidden,
        (size_t)rows * 3 * (size_t)v->patch_size * (size_t)v->patch_size,
    };
    float **const slot[] = {&b->h,   &b->norm, &b->q,    &b->k,      &b->v,
                            &b->ctx, &b->mlp,  &b->proj, &b->patches};
    enum { SLOTS = sizeof slot / sizeof *slot };
    /* limits of the config keep each of these below 2^45 */
    size_t total = 0;
    for (int i = 0; i < SLOTS; i++) total += bal_round_up(size[i], 16);
    *b = (tower_buf){0};
    b->memory = aligned_alloc(64, total * sizeof(float));
    b->pages = calloc(n_pages, sizeof *b->pages);
    if (!b->memory || !b->pages) {
        free(b->memory);
        free(b->pages);
        return bal_nomem(err, total * sizeof(float), "vision tower buffers");
    }
    float *p = b->memory;
    for (int i = 0; i < SLOTS; i++) {
        *slot[i] = p;
        p += bal_round_up(size[i], 16);
    }
    return BAL_OK;
}

static void tower_buf_destroy(tower_buf *b)
{
    free(b->memory);
    free(b->pages);
}

/* A "valid" convolution with stride = kernel is a linear over flattened patches in (channel, row,
 * column) order; pixels past side * patch are unused. */
static void gather_patches(const bal_vision_config *v, const float *view, float *out)
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

static void embed_patches(const bal_exec *e, const bal_model *m, const float *pixels, int n_views,
                          tower_buf *b)
{
    const bal_vision_config *v = &m->config.vision;
    const size_t view = (size_t)v->side * (size_t)v->side, hidden = (size_t)v->hidden;
    const size_t width = (size_t)m->patch.k;
    const size_t view_pixels = 3 * (size_t)v->image_size * (size_t)v->image_size;
    for (int i = 0; i < n_views; i++)
        gather_patches(v, pixels + (size_t)i * view_pixels, b->patches + (size_t)i * view * width);
    bal_linear_forward(e, &m->patch, b->patches, width, (int)view * n_views, b->h, hidden);
    for (int i = 0; i < n_views; i++)
        bal_add(e, b->h + (size_t)i * view * hidden, m->positions, view * hidden);
}

/* Full attention inside each view. */
static void vision_attention(const bal_exec *e, const bal_vision_config *v,
                             const bal_vision_layer *l, int n_views, tower_buf *b)
{
    const int view = v->side * v->side, head_dim = v->hidden / v->heads;
    const size_t hidden = (size_t)v->hidden, step = (size_t)BAL_PAGE * hidden;
    const int n_pages = (view + BAL_PAGE - 1) / BAL_PAGE;
    const bal_attention_shape shape = {v->heads, v->heads, head_dim, false};
    bal_linear_forward(e, &l->q, b->norm, hidden, view * n_views, b->q, hidden);
    for (int i = 0; i < n_views; i++) {
        const float *x = b->norm + (size_t)i * (size_t)view * hidden;
        float *k = b->k + (size_t)(i * n_pages) * step, *w = b->v + (size_t)(i * n_pages) * step;
        bal_linear_forward(e, &l->k, x, hidden, view, k, hidden);
        bal_linear_forward(e, &l->v, x, hidden, view, w, hidden);
        for (int j = 0; j < n_pages; j++)
            b->pages[j] = (bal_kv_page){k + (size_t)j * step, w + (size_t)j * step};
        const size_t at = (size_t)i * (size_t)view * hidden;
        bal_attention(e, &shape, b->q + at, view, 0, b->pages, view, b->ctx + at, NULL);
    }
}

static void vision_block(const bal_exec *e, const bal_vision_config *v, const bal_vision_layer *l,
                         int n_views, tower_buf *b)
{
    const int rows = v->side * v->side * n_views;
    const size_t hidden = (size_t)v->hidden, inter = (size_t)v->intermediate;
    bal_layer_norm(e, b->h, l->ln1_w, l->ln1_b, v->ln_eps, rows, v->hidden, b->norm);
    vision_attention(e, v, l, n_views, b);
    bal_linear_forward(e, &l->out, b->ctx, hidden, rows, b->norm, hidden);
    bal_add(e, b->h, b->norm, (size_t)rows * hidden);
    bal_layer_norm(e, b->h, l->ln2_w, l->ln2_b, v->ln_eps, rows, v->hidden, b->norm);
    bal_linear_forward(e, &l->fc1, b->norm, hidden, rows, b->mlp, inter);
    bal_gelu_tanh(e, b->mlp, rows, v->intermediate);
    bal_linear_forward(e, &l->fc2, b->mlp, inter, rows, b->norm, hidden);
    bal_add(e, b->h, b->norm, (size_t)rows * hidden);
}

/* The encoder output goes to the projector before post_layernorm, which the files contain but the
 * family does not use. */
static void project(const bal_exec *e, const bal_model *m, int rows, tower_buf *b)
{
    const size_t vision = (size_t)m->config.vision.hidden, hidden = (size_t)m->config.text.hidden;
    bal_linear_forward(e, &m->projector[0], b->h, vision, rows, b->mlp, hidden);
    bal_gelu_erf(e, b->mlp, rows, (int)hidden);
    bal_linear_forward(e, &m->projector[1], b->mlp, hidden, rows, b->proj, hidden);
}

/* Feature at patch row y, column x of the cropped tile grid. */
static const float *grid_at(const bal_view_grid *p, const float *proj, int side, size_t hidden,
                            int y, int x)
{
    const int gy = y + p->top, gx = x + p->left;
    const int view = 1 + gy / side * p->cols + gx / side;
    const int cell = view * side * side + gy % side * side + gx % side;
    return proj + (size_t)cell * hidden;
}

/* torch's area_pixel_compute_source_index for bilinear, align_corners false. */
static void bilinear_source(int out, int n_in, int n_out, int *i0, int *i1, float *w1)
{
    const float scale = (float)n_in / (float)n_out;
    float src = scale * ((float)out + 0.5f) - 0.5f;
    if (src < 0.0f) src = 0.0f;
    *i0 = (int)src;
    if (*i0 > n_in - 1) *i0 = n_in - 1;
    *i1 = *i0 < n_in - 1 ? *i0 + 1 : *i0;
    *w1 = src - (float)*i0;
}

static void bilinear_cell(const bal_view_grid *p, const float *proj, int side, size_t hidden, int y,
                          int x, float *out)
{
    int y0, y1, x0, x1;
    float wy, wx;
    bilinear_source(y, p->h0, p->h1, &y0, &y1, &wy);
    bilinear_source(x, p->w0, p->w1, &x0, &x1, &wx);
    const float *a = grid_at(p, proj, side, hidden, y0, x0);
    const float *b = grid_at(p, proj, side, hidden, y0, x1);
    const float *c = grid_at(p, proj, side, hidden, y1, x0);
    const float *d = grid_at(p, proj, side, hidden, y1, x1);
    for (size_t i = 0; i < hidden; i++)
        out[i] =
            (1.0f - wy) * ((1.0f - wx) * a[i] + wx * b[i]) + wy * ((1.0f - wx) * c[i] + wx * d[i]);
}

static void pack(const bal_model *m, const bal_view_grid *p, const float *proj, float *out)
{
    const int side = m->config.vision.side;
    const size_t hidden = (size_t)m->config.text.hidden, row = hidden * sizeof(float);
    const size_t base = (size_t)(side * side) * hidden;
    memcpy(out, proj, base * sizeof *out);
    out += base;
    if (p->rows == 0 || p->cols == 0) {
        memcpy(out, m->newline, row);
        return;
    }
    const bool same = p->h0 == p->h1 && p->w0 == p->w1;
    for (int y = 0; y < p->h1; y++) {
        for (int x = 0; x < p->w1; x++, out += hidden) {
            if (same)
                memcpy(out, grid_at(p, proj, side, hidden, y, x), row);
            else
                bilinear_cell(p, proj, side, hidden, y, x, out);
        }
        memcpy(out, m->newline, row);
        out += hidden;
    }
}

bal_status bal_vision_encode(const bal_exec *e, const bal_model *m, const float *pixels,
                             const bal_view_grid *p, float *out, bal_taps taps, bal_error *err)
{
    const bal_vision_config *v = &m->config.vision;
    const int n_views = 1 + p->rows * p->cols, rows = v->side * v->side * n_views;
    tower_buf b;
    BAL_TRY(tower_buf_create(&b, m, rows, err));
    embed_patches(e, m, pixels, n_views, &b);
    look(taps, BAL_TAP_VISION_EMBED, -1, b.h, rows, v->hidden);
    for (int i = 0; i < v->layers; i++) {
        vision_block(e, v, &m->vision_layers[i], n_views, &b);
        look(taps, BAL_TAP_VISION_LAYER, i, b.h, rows, v->hidden);
    }
    look(taps, BAL_TAP_VISION_OUT, -1, b.h, rows, v->hidden);
    project(e, m, rows, &b);
    look(taps, BAL_TAP_PROJECTOR, -1, b.proj, rows, m->config.text.hidden);
    pack(m, p, b.proj, out);
    look(taps, BAL_TAP_IMAGE, -1, out, bal_view_grid_tokens(p, v->side), m->config.text.hidden);
    tower_buf_destroy(&b);
    return BAL_OK;
}
