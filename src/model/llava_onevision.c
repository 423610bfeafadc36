/* SPDX-License-Identifier: MIT
 * LLaVA-OneVision: SigLIP tower, two-layer projector, Qwen2 decoder, tiles with newline embeddings
 * ("anyres"). Published files use the old names (before transformers 4.52); sources and
 * peculiarities stand in docs/families.md. */
#include "image/anyres.h"
#include "model/config_read.h"
#include "model/family.h"
#include "model/vision.h"
#include "model/vision_rows.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Config -----------------------------------------------------------------------------------
 */

/* "anyres_max_9" -> 9 */
static bal_status read_aspect(bal_config *c, const bal_json *root, bal_error *err)
{
    const char *s;
    int used = 0;
    BAL_TRY(bal_json_str_or(root, "vision_aspect_ratio", "anyres_max_9", &s, err));
    if (sscanf(s, "anyres_max_%d%n", &c->max_tiles, &used) == 1 && s[used] == 0 &&
        c->max_tiles >= 1 && c->max_tiles <= 1024)
        return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP,
                    "%s: vision_aspect_ratio: \"%s\" is not supported, expected \"anyres_max_N\"",
                    root->file, s);
}

/* The 36 pairs of the published checkpoints, the class default. */
static void default_pinpoints(bal_config *c)
{
    for (int h = 384; h <= 2304; h += 384)
        for (int w = 384; w <= 2304; w += 384) {
            c->pinpoints[c->n_pinpoints][0] = h;
            c->pinpoints[c->n_pinpoints++][1] = w;
        }
}

static bal_status read_pinpoints(bal_config *c, const bal_json *root, bal_error *err)
{
    bal_json list;
    if (!bal_json_has(root, "image_grid_pinpoints")) {
        default_pinpoints(c);
        return BAL_OK;
    }
    BAL_TRY(bal_json_array(root, "image_grid_pinpoints", 1, BAL_MAX_PINPOINTS, &list, err));
    for (size_t i = 0; i < bal_json_len(&list); i++) {
        const bal_json pair = bal_json_at(&list, i);
        if (bal_json_len(&pair) != 2)
            return bal_json_mismatch(&pair, err, "a pair of height and width");
        for (size_t j = 0; j < 2; j++) {
            const bal_json side = bal_json_at(&pair, j);
            BAL_TRY(bal_json_as_int(&side, 1, 1 << 16, &c->pinpoints[i][j], err));
            if (c->pinpoints[i][j] % c->vision.image_size)
                return bal_json_mismatch(&side, err, "a multiple of the view size %d",
                                         c->vision.image_size);
        }
    }
    c->n_pinpoints = (int32_t)bal_json_len(&list);
    return BAL_OK;
}

static bal_status read(bal_config *c, const bal_json *root, bal_error *err)
{
    static const char *const texts[] = {"qwen2", NULL};
    static const bal_vision_defaults siglip = {1152, 26, 16,   4304,
                                               384,  14, 1e-6, "gelu_pytorch_tanh"};
    bal_json text, vision;
    int layer;
    BAL_TRY(bal_json_obj(root, "text_config", &text, err));
    BAL_TRY(bal_config_text(&c->text, &text, root, "qwen2", texts, false, err));
    BAL_TRY(bal_json_obj(root, "vision_config", &vision, err));
    BAL_TRY(bal_config_expect(&vision, "model_type", "siglip_vision_model", "siglip_vision_model",
                              err));
    BAL_TRY(bal_config_vision(&c->vision, &vision, &siglip, err));
    BAL_TRY(bal_config_act(root, "projector_hidden_act", "gelu", &c->vision.projector_act, err));
    BAL_TRY(bal_config_expect(root, "vision_feature_select_strategy", "full", "full", err));
    BAL_TRY(bal_json_int_or(root, "vision_feature_layer", -1, -1, -1, &layer, err));
    BAL_TRY(read_aspect(c, root, err));
    BAL_TRY(read_pinpoints(c, root, err));
    return bal_config_image_token(c, root, 151646, err);
}

/* The class defaults of mean and deviation are CLIP's, although every published file says 0.5. */
static bal_status read_processor(bal_config *c, const bal_json *o, bal_error *err)
{
    BAL_TRY(bal_config_norm(c, o, bal_clip_mean, bal_clip_std, 3, err));
    if (c->resample != 3)
        return bal_config_fail(err, o, "resample", "only 3 (bicubic) is supported");
    return bal_config_view_size(c, o, "size", err);
}

/* A multiple of the view size, and not more patches in all views than one picture may have. */
static bool good_pinpoint(const bal_vision_config *v, const int32_t p[2])
{
    for (int j = 0; j < 2; j++)
        if (p[j] < 1 || p[j] > 1 << 16 || p[j] % v->image_size) return false;
    const int64_t views = 1 + (int64_t)(p[0] / v->image_size) * (p[1] / v->image_size);
    return views * v->side * v->side <= BAL_MAX_PATCHES;
}

static const char *fault(const bal_config *c)
{
    if (c->image_token < 0) return "image token";
    if (c->max_tiles < 1) return "maximum tiles";
    if (c->vision.shuffle != 1) return "pixel shuffle";
    if (c->n_pinpoints < 1) return "number of pinpoints";
    for (int i = 0; i < c->n_pinpoints; i++)
        if (!good_pinpoint(&c->vision, c->pinpoints[i])) return "image_grid_pinpoints";
    return NULL;
}

/* ---- Pictures ---------------------------------------------------------------------------------
 */

static bal_status plan(const bal_config *c, int w, int h, bal_view_mode mode, bal_view_plan *p,
                       bal_error *err)
{
    const bal_vision_config *v = &c->vision;
    if (mode == BAL_VIEW_ONE)
        return bal_anyres_plan(p, w, h, c->pinpoints, (size_t)c->n_pinpoints, v->image_size,
                               v->side, c->max_tiles, err);
    return bal_square_plan(p, w, h, v->image_size, v->side, err);
}

static bal_status pixels(const bal_config *c, const bal_view_plan *p, const bal_image *image,
                         float *out, bal_error *err)
{
    const bal_norm norm = bal_config_pixel_norm(c);
    if (p->square_side) return bal_square_pixels(p, image, &norm, BAL_FILTER_BICUBIC, out, err);
    return bal_anyres_pixels(p, image, &norm, BAL_FILTER_BICUBIC, out, err);
}

/* Feature at patch row y, column x of the cropped tile grid. */
static const float *grid_at(const bal_view_plan *p, const float *proj, int side, size_t hidden,
                            int y, int x)
{
    const int gy = y + p->crop_y, gx = x + p->crop_x;
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

static void bilinear_cell(const bal_view_plan *p, const float *proj, int side, size_t hidden, int y,
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

static void pack(const bal_model *m, const bal_view_plan *p, const float *proj, float *out)
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

static bal_status new_views(const bal_model *m, const bal_view_plan *p, float **out, bal_error *err)
{
    const size_t rows = (size_t)p->n_views * (size_t)bal_view_tokens(&m->config.vision);
    const size_t bytes = rows * (size_t)m->config.text.hidden * sizeof **out;
    *out = malloc(bytes);
    return *out ? BAL_OK : bal_nomem(err, bytes, "features of views");
}

static bal_status encode(const bal_exec *e, const bal_model *m, const bal_view_plan *p,
                         const float *in, float *out, bal_taps taps, bal_error *err)
{
    float *views;
    BAL_TRY(new_views(m, p, &views, err));
    const bal_status st = bal_vision_views(e, m, in, p->n_views, views, taps, err);
    if (st == BAL_OK) pack(m, p, views, out);
    free(views);
    return st;
}

static bal_status encode_on(bal_device_vision *t, const bal_view_plan *p, const float *in,
                            float *out, bal_taps taps, bal_error *err)
{
    const bal_model *m = t->on->model;
    float *views;
    BAL_TRY(new_views(m, p, &views, err));
    const bal_status st = bal_device_vision_views(t, in, p->n_views, views, taps, err);
    if (st == BAL_OK) pack(m, p, views, out);
    free(views);
    return st;
}

/* The features of all views are kept until they are put together. */
static size_t work(const bal_model *m, const bal_view_plan *p)
{
    const size_t rows = (size_t)p->n_views * (size_t)bal_view_tokens(&m->config.vision);
    return bal_vision_views_bytes(m, p->n_views) +
           rows * (size_t)m->config.text.hidden * sizeof(float);
}

/* ---- Tensors ----------------------------------------------------------------------------------
 */

#define VISION    "model.vision_tower.vision_model."
#define BLOCK     VISION "encoder.layers.%d."
#define PROJECTOR "model.multi_modal_projector."

static const bal_bind_row rows[] = {
    BAL_MODEL_LINEAR(patch, VISION "embeddings.patch_embedding", V_HIDDEN, V_PATCH_SIZE),
    BAL_MODEL_BIAS(patch, VISION "embeddings.patch_embedding", V_HIDDEN),
    BAL_MODEL_TABLE(positions, VISION "embeddings.position_embedding.weight", V_POSITIONS,
                    V_HIDDEN),
    BAL_MODEL_LINEAR(projector[0], PROJECTOR "linear_1", HIDDEN, V_HIDDEN),
    BAL_MODEL_BIAS(projector[0], PROJECTOR "linear_1", HIDDEN),
    BAL_MODEL_LINEAR(projector[1], PROJECTOR "linear_2", HIDDEN, HIDDEN),
    BAL_MODEL_BIAS(projector[1], PROJECTOR "linear_2", HIDDEN),
    BAL_MODEL_VECTOR(newline, "model.image_newline", HIDDEN),
    BAL_SIGLIP_ROWS(BLOCK),

    /* the family reads the tower before this norm */
    BAL_MODEL_UNUSED(VISION "post_layernorm.weight"),
    BAL_MODEL_UNUSED(VISION "post_layernorm.bias"),
    BAL_MODEL_UNUSED(VISION "embeddings.position_ids"),
};

static const bal_bind_rename prefixes[] = {
    {"model.language_model.", "language_model.model."},
    {"lm_head.", "language_model.lm_head."},
    {"model.vision_tower.", "vision_tower."},
    {"model.multi_modal_projector.", "multi_modal_projector."},
    {"model.image_newline", "image_newline"},
};

const bal_family_def bal_family_llava_onevision = {
    .id = 1,
    .model_type = "llava_onevision",
    .chat = "llava_onevision",
    .read = read,
    .read_processor = read_processor,
    .fault = fault,
    .names = {prefixes, sizeof prefixes / sizeof *prefixes, NULL, 0},
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .image_token = "<image>",
    .plan = plan,
    .plan_by_count = true,
    .pixels = pixels,
    .encode = encode,
    .encode_on = encode_on,
    .work = work,
};
