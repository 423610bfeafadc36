/* SPDX-License-Identifier: MIT
 * Idefics3 and SmolVLM: SigLIP tower with its last norm, pixel shuffle, one linear, Llama decoder;
 * tiles with their row and column written in front of them. Peculiarities stand in
 * docs/families.md. */
#include "image/tiles.h"
#include "model/config_read.h"
#include "model/family.h"
#include "model/vision_rows.h"

#include <stdio.h>

/* ---- Config -----------------------------------------------------------------------------------
 */

static bal_status read(bal_config *c, const bal_json *root, bal_error *err)
{
    static const char *const texts[] = {"llama", NULL};
    static const bal_vision_defaults siglip = {1152, 12, 16,   3072,
                                               224,  32, 1e-6, "gelu_pytorch_tanh"};
    bal_json text, vision;
    BAL_TRY(bal_json_obj(root, "text_config", &text, err));
    BAL_TRY(bal_config_text(&c->text, &text, root, "llama", texts, false, err));
    BAL_TRY(bal_json_obj(root, "vision_config", &vision, err));
    BAL_TRY(bal_config_vision(&c->vision, &vision, &siglip, err));
    c->vision.post_norm = 1;
    BAL_TRY(bal_json_int_or(root, "scale_factor", 1, BAL_MAX_SIDE, 2, &c->vision.shuffle, err));
    if (c->vision.side % c->vision.shuffle)
        return bal_config_fail(err, root, "scale_factor",
                               "does not divide the patches along a side of a view");
    return bal_config_image_token(c, root, 128257, err);
}

static bal_status read_processor(bal_config *c, const bal_json *o, bal_error *err)
{
    static const double half[3] = {0.5, 0.5, 0.5};
    bal_json size;
    bool split;
    BAL_TRY(bal_config_norm(c, o, half, half, BAL_FILTER_LANCZOS, err));
    BAL_TRY(bal_json_obj_or(o, "size", &size, err));
    BAL_TRY(bal_json_int_or(&size, "longest_edge", 1, 1 << 16, 4 * 364, &c->resize_edge, err));
    BAL_TRY(bal_config_view_size(c, o, "max_image_size", err));
    BAL_TRY(bal_json_bool_or(o, "do_image_splitting", true, &split, err));
    c->thumbnail = split;
    const int edge = c->resize_edge < 4096 ? c->resize_edge : 4096;
    const int side = (edge + c->vision.image_size - 1) / c->vision.image_size;
    c->max_tiles = split ? side * side : 0;
    return BAL_OK;
}

static const char *fault(const bal_config *c)
{
    if (c->image_token < 0) return "image token";
    return c->resize_edge < 1 ? "longest edge" : NULL;
}

/* ---- Pictures ---------------------------------------------------------------------------------
 */

static bal_status plan(const bal_config *c, int w, int h, bal_view_mode mode, bal_view_plan *p,
                       bal_error *err)
{
    const bal_vision_config *v = &c->vision;
    const bool split = c->thumbnail && mode != BAL_VIEW_SINGLE;
    return bal_rows_plan(p, w, h, c->resize_edge, v->image_size, v->side / v->shuffle, split, err);
}

/* A smaller long side: k of its views are at most k x k tiles with an overview, or one view. */
static bal_status limit(bal_config *c, int n, bal_error *err)
{
    int views, k = 1;
    BAL_TRY(bal_config_views_within(c, n, &views, err));
    while ((k + 1) * (k + 1) + 1 <= views && k < BAL_MAX_SIDE / c->vision.image_size) k++;
    if (k * c->vision.image_size < c->resize_edge) c->resize_edge = k * c->vision.image_size;
    return BAL_OK;
}

static bal_status put_view(const bal_view_plan *p, const char *name, bal_piece_fn *put, void *ctx)
{
    BAL_TRY(put(ctx, BAL_PIECE_TOKEN, "<fake_token_around_image>", 1));
    BAL_TRY(put(ctx, BAL_PIECE_TOKEN, name, 1));
    return put(ctx, BAL_PIECE_VISION, NULL, p->patch_side * p->patch_side);
}

/* A newline behind each row of tiles, another one in front of the overview. */
static bal_status layout(const bal_config *c, const bal_view_plan *p, bal_piece_fn *put, void *ctx)
{
    char name[48];
    (void)c;
    for (int i = 0; i < p->rows * p->cols; i++) {
        const int row = i / p->cols, col = i % p->cols;
        snprintf(name, sizeof name, "<row_%d_col_%d>", row + 1, col + 1);
        BAL_TRY(put_view(p, name, put, ctx));
        if (col == p->cols - 1)
            BAL_TRY(put(ctx, BAL_PIECE_TEXT, row == p->rows - 1 ? "\n\n" : "\n", 1));
    }
    BAL_TRY(put_view(p, "<global-img>", put, ctx));
    return put(ctx, BAL_PIECE_TOKEN, "<fake_token_around_image>", 1);
}

/* ---- Tensors ----------------------------------------------------------------------------------
 */

#define VISION "model.vision_tower."

static const bal_bind_row rows[] = {
    BAL_MODEL_LINEAR(patch, VISION "embeddings.patch_embedding", V_HIDDEN, V_PATCH_SIZE),
    BAL_MODEL_BIAS(patch, VISION "embeddings.patch_embedding", V_HIDDEN),
    BAL_MODEL_TABLE(positions, VISION "embeddings.position_embedding.weight", V_POSITIONS,
                    V_HIDDEN),
    BAL_MODEL_VECTOR(post_norm_w, VISION "post_layernorm.weight", V_HIDDEN),
    BAL_MODEL_VECTOR(post_norm_b, VISION "post_layernorm.bias", V_HIDDEN),
    BAL_MODEL_LINEAR(projector[0], "model.multi_modal_projector.proj", HIDDEN, V_TOKEN),
    BAL_SIGLIP_ROWS(VISION "encoder.layers.%d."),
};

static const bal_bind_rename prefixes[] = {
    {"model.language_model.", "model.text_model."},
    {"model.vision_tower.", "model.vision_model."},
    {"model.multi_modal_projector.", "model.connector.modality_projection."},
};

#define IDEFICS3(number, type)                                                                     \
    {                                                                                              \
        .id = number, .model_type = type, .chat = type, .read = read,                              \
        .read_processor = read_processor, .fault = fault,                                          \
        .names = {prefixes, sizeof prefixes / sizeof *prefixes, NULL, 0}, .rows = rows,            \
        .n_rows = sizeof rows / sizeof *rows, .image_token = "<image>", .plan = plan,              \
        .limit = limit, .pixels = bal_family_tile_pixels, .encode = bal_family_encode_views,       \
        .encode_on = bal_family_encode_views_on, .layout = layout,                                 \
    }

const bal_family_def bal_family_idefics3 = IDEFICS3(7, "idefics3");
const bal_family_def bal_family_smolvlm = IDEFICS3(8, "smolvlm");
