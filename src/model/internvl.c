/* SPDX-License-Identifier: MIT
 * InternVL 2, 2.5 and 3: InternViT, pixel shuffle, normed two-layer projector, and an InternLM2,
 * Qwen2 or Llama decoder; tiles of a grid with an overview behind them. Two layouts of files: the
 * one of the authors' program (internvl_chat) and the one of transformers (internvl, "-hf").
 * Peculiarities stand in docs/families.md. */
#include "image/tiles.h"
#include "model/config_read.h"
#include "model/family.h"
#include "model/vision_rows.h"

#include <string.h>

/* ---- Config -----------------------------------------------------------------------------------
 */

static const char *const texts[] = {"internlm2", "qwen2", "llama", "qwen3", NULL};

/* 0.5 -> 2 */
static bal_status read_shuffle(bal_vision_config *v, const bal_json *root, bal_error *err)
{
    double ratio;
    BAL_TRY(bal_json_f64_or(root, "downsample_ratio", 1e-3, 1.0, 0.5, &ratio, err));
    v->shuffle = (int32_t)(1.0 / ratio + 0.5);
    if (v->side % v->shuffle == 0 && (double)v->shuffle * ratio > 0.999 &&
        (double)v->shuffle * ratio < 1.001)
        return BAL_OK;
    return bal_config_fail(err, root, "downsample_ratio",
                           "is not one over a number that divides the patches along a view");
}

/* What the original's processor writes for a view; it must be what the tower makes of one. */
static bal_status check_seq_length(const bal_vision_config *v, const bal_json *root, bal_error *err)
{
    int found;
    const int tokens = bal_view_tokens(v);
    BAL_TRY(bal_json_int_or(root, "image_seq_length", 1, 1 << 24, tokens, &found, err));
    if (found == tokens) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT,
                    "%s: image_seq_length: %d, but image_size, patch_size and downsample_ratio "
                    "make %d tokens of a view",
                    root->file, found, tokens);
}

static bal_status read_norm_type(bal_vision_config *v, const bal_json *o, const char *otherwise,
                                 bal_error *err)
{
    const char *norm;
    BAL_TRY(bal_json_str_or(o, "norm_type", otherwise, &norm, err));
    v->norm = strcmp(norm, "rms_norm") == 0 ? BAL_NORM_RMS : BAL_NORM_LAYER;
    if (v->norm == BAL_NORM_RMS) return BAL_OK;
    return bal_config_expect(o, "norm_type", otherwise, "layer_norm", err);
}

static bal_status read_flag(const bal_json *o, const char *key, bool otherwise, int32_t *out,
                            bal_error *err)
{
    bool on;
    BAL_TRY(bal_json_bool_or(o, key, otherwise, &on, err));
    *out = on;
    return BAL_OK;
}

static bal_status read_hf(bal_config *c, const bal_json *root, bal_error *err)
{
    static const bal_vision_defaults vit = {1024, 24, 16, 4096, 448, 14, 1e-6, "gelu"};
    bal_json text, vision;
    int32_t mean_pooling, table;
    BAL_TRY(bal_json_obj(root, "text_config", &text, err));
    BAL_TRY(bal_config_text(&c->text, &text, root, "qwen2", texts, false, err));
    BAL_TRY(bal_json_obj(root, "vision_config", &vision, err));
    BAL_TRY(bal_config_vision(&c->vision, &vision, &vit, err));
    BAL_TRY(read_norm_type(&c->vision, &vision, "layer_norm", err));
    BAL_TRY(read_flag(&vision, "attention_bias", false, &c->vision.qkv_bias, err));
    BAL_TRY(read_flag(&vision, "use_qk_norm", false, &c->vision.qk_norm, err));
    BAL_TRY(read_flag(&vision, "use_mean_pooling", true, &mean_pooling, err));
    BAL_TRY(read_flag(&vision, "use_absolute_position_embeddings", true, &table, err));
    if (!table || !mean_pooling)
        return bal_fail(err, BAL_E_UNSUP,
                        "%s: vision_config: only towers with use_mean_pooling and "
                        "use_absolute_position_embeddings are supported",
                        root->file);
    c->vision.cls = 1;
    BAL_TRY(bal_config_feature_layer(&c->vision, root, "vision_feature_layer", -1, err));
    BAL_TRY(bal_config_expect(root, "vision_feature_select_strategy", "default", "default", err));
    BAL_TRY(bal_config_act(root, "projector_hidden_act", "gelu", &c->vision.projector_act, err));
    BAL_TRY(read_shuffle(&c->vision, root, err));
    BAL_TRY(check_seq_length(&c->vision, root, err));
    return bal_config_image_token(c, root, 151667, err);
}

/* The tower of the authors' files; the image token's id is the tokenizer's business. */
static bal_status read_chat(bal_config *c, const bal_json *root, bal_error *err)
{
    static const bal_vision_defaults vit = {3200, 48, 25, 12800, 224, 14, 1e-6, "gelu"};
    bal_json text, vision;
    int force;
    const char *shuffle;
    bool square;
    BAL_TRY(bal_json_obj(root, "llm_config", &text, err));
    BAL_TRY(bal_config_text(&c->text, &text, root, "llama", texts, false, err));
    BAL_TRY(bal_json_obj(root, "vision_config", &vision, err));
    BAL_TRY(bal_config_vision(&c->vision, &vision, &vit, err));
    BAL_TRY(read_norm_type(&c->vision, &vision, "rms_norm", err));
    BAL_TRY(read_flag(&vision, "qkv_bias", false, &c->vision.qkv_bias, err));
    BAL_TRY(read_flag(&vision, "qk_normalization", true, &c->vision.qk_norm, err));
    c->vision.cls = 1;
    BAL_TRY(bal_json_int_or(root, "force_image_size", 1, BAL_MAX_SIDE, c->vision.image_size, &force,
                            err));
    if (force != c->vision.image_size)
        return bal_config_fail(err, root, "force_image_size",
                               "differs from vision_config.image_size");
    BAL_TRY(bal_config_feature_layer(&c->vision, root, "select_layer", -1, err));
    BAL_TRY(read_shuffle(&c->vision, root, err));
    BAL_TRY(bal_json_str_or(root, "ps_version", "v1", &shuffle, err));
    c->vision.shuffle_columns = strcmp(shuffle, "v1") == 0;
    if (!c->vision.shuffle_columns) BAL_TRY(bal_config_expect(root, "ps_version", "v1", "v2", err));
    BAL_TRY(bal_json_bool_or(root, "pad2square", false, &square, err));
    if (square) return bal_config_fail(err, root, "pad2square", "is not supported");
    bool dynamic;
    BAL_TRY(bal_json_bool_or(root, "dynamic_image_size", false, &dynamic, err));
    BAL_TRY(bal_json_int_or(root, "min_dynamic_patch", 1, 1024, 1, &c->min_tiles, err));
    BAL_TRY(bal_json_int_or(root, "max_dynamic_patch", 1, 1024, 6, &c->max_tiles, err));
    if (!dynamic) c->min_tiles = c->max_tiles = 1;
    BAL_TRY(read_flag(root, "use_thumbnail", false, &c->thumbnail, err));
    c->image_token = -1;
    return BAL_OK;
}

static const double imagenet_mean[3] = {0.485, 0.456, 0.406};
static const double imagenet_std[3] = {0.229, 0.224, 0.225};

static bal_status read_chat_processor(bal_config *c, const bal_json *o, bal_error *err)
{
    BAL_TRY(bal_config_norm(c, o, imagenet_mean, imagenet_std, BAL_FILTER_BICUBIC, err));
    return bal_config_view_size(c, o, "size", err);
}

/* InternVLProcessor turns crop_to_patches on, whatever the file says. */
static bal_status read_hf_processor(bal_config *c, const bal_json *o, bal_error *err)
{
    BAL_TRY(bal_config_norm(c, o, imagenet_mean, imagenet_std, BAL_FILTER_BICUBIC, err));
    BAL_TRY(bal_json_int_or(o, "min_patches", 1, 1024, 1, &c->min_tiles, err));
    BAL_TRY(bal_json_int_or(o, "max_patches", 1, 1024, 12, &c->max_tiles, err));
    c->thumbnail = 1;
    return bal_config_view_size(c, o, "size", err);
}

static const char *fault(const bal_config *c)
{
    return c->min_tiles < 1 ? "minimum tiles" : NULL;
}

/* ---- Pictures ---------------------------------------------------------------------------------
 */

static bal_status plan(const bal_config *c, int w, int h, bal_view_mode mode, bal_view_plan *p,
                       bal_error *err)
{
    const bal_vision_config *v = &c->vision;
    const bool single = mode == BAL_VIEW_SINGLE;
    return bal_grid_plan(p, w, h, v->image_size, v->side / v->shuffle, single ? 1 : c->min_tiles,
                         single ? 1 : c->max_tiles, c->thumbnail, err);
}

/* Fewer tiles; the overview counts where there is one, that is from two tiles on. */
static bal_status limit(bal_config *c, int n, bal_error *err)
{
    int views;
    BAL_TRY(bal_config_views_within(c, n, &views, err));
    if (c->thumbnail) views = views > 2 ? views - 1 : 1;
    if (views < c->max_tiles) c->max_tiles = views;
    if (c->max_tiles < c->min_tiles) c->min_tiles = c->max_tiles;
    return BAL_OK;
}

static bal_status layout(const bal_config *c, const bal_view_plan *p, bal_piece_fn *put, void *ctx)
{
    (void)c;
    BAL_TRY(put(ctx, BAL_PIECE_TOKEN, "<img>", 1));
    BAL_TRY(put(ctx, BAL_PIECE_VISION, NULL, p->n_tokens));
    return put(ctx, BAL_PIECE_TOKEN, "</img>", 1);
}

/* ---- Tensors ----------------------------------------------------------------------------------
 */

#define VISION    "model.vision_tower."
#define BLOCK     VISION "encoder.layer.%d."
#define PROJECTOR "model.multi_modal_projector."
#define NORM_BIAS offsetof(bal_config, vision.norm) /* BAL_NORM_RMS is 0 */
#define QKV_BIAS  offsetof(bal_config, vision.qkv_bias)
#define QK_NORM   offsetof(bal_config, vision.qk_norm)

/* q, k and v of their own in one layout, rows of one tensor in the other */
#define ATTENTION(field, name, part)                                                               \
    BAL_VISION_ROW(LINEAR, field, BLOCK "attention." name ".weight", V_HIDDEN, V_HIDDEN, true, 0,  \
                   BAL_PART_WHOLE),                                                                \
        BAL_VISION_ROW(BIAS, field, BLOCK "attention." name ".bias", V_HIDDEN, NONE, true,         \
                       QKV_BIAS, BAL_PART_WHOLE),                                                  \
        BAL_VISION_ROW(LINEAR, field, BLOCK "attention.qkv.weight", V_HIDDEN, V_HIDDEN, true, 0,   \
                       part),                                                                      \
        BAL_VISION_ROW(BIAS, field, BLOCK "attention.qkv.bias", V_HIDDEN, NONE, true, QKV_BIAS,    \
                       part)
#define VECTOR_IF(flag, field, name)                                                               \
    BAL_VISION_ROW(VECTOR, field, BLOCK name, V_HIDDEN, NONE, false, flag, BAL_PART_WHOLE)

static const bal_bind_row rows[] = {
    BAL_MODEL_LINEAR(patch, VISION "embeddings.patch_embeddings.projection", V_HIDDEN,
                     V_PATCH_SIZE),
    BAL_MODEL_BIAS(patch, VISION "embeddings.patch_embeddings.projection", V_HIDDEN),
    BAL_MODEL_VECTOR(cls, VISION "embeddings.cls_token", V_HIDDEN),
    BAL_MODEL_TABLE(positions, VISION "embeddings.position_embeddings", V_POSITIONS, V_HIDDEN),
    BAL_MODEL_VECTOR(projector_norm_w, PROJECTOR "layer_norm.weight", V_TOKEN),
    BAL_MODEL_VECTOR(projector_norm_b, PROJECTOR "layer_norm.bias", V_TOKEN),
    BAL_MODEL_LINEAR(projector[0], PROJECTOR "linear_1", HIDDEN, V_TOKEN),
    BAL_MODEL_BIAS(projector[0], PROJECTOR "linear_1", HIDDEN),
    BAL_MODEL_LINEAR(projector[1], PROJECTOR "linear_2", HIDDEN, HIDDEN),
    BAL_MODEL_BIAS(projector[1], PROJECTOR "linear_2", HIDDEN),
    BAL_VISION_VECTOR(ln1_w, BLOCK "layernorm_before.weight"),
    VECTOR_IF(NORM_BIAS, ln1_b, "layernorm_before.bias"),
    BAL_VISION_VECTOR(ln2_w, BLOCK "layernorm_after.weight"),
    VECTOR_IF(NORM_BIAS, ln2_b, "layernorm_after.bias"),
    ATTENTION(q, "q_proj", BAL_PART_THIRD_0),
    ATTENTION(k, "k_proj", BAL_PART_THIRD_1),
    ATTENTION(v, "v_proj", BAL_PART_THIRD_2),
    VECTOR_IF(QK_NORM, q_norm, "attention.q_norm.weight"),
    VECTOR_IF(QK_NORM, k_norm, "attention.k_norm.weight"),
    BAL_VISION_LINEAR(out, BLOCK "attention.projection_layer", V_HIDDEN, V_HIDDEN),
    BAL_VISION_VECTOR(scale1, BLOCK "lambda_1"),
    BAL_VISION_VECTOR(scale2, BLOCK "lambda_2"),
    BAL_VISION_LINEAR(fc1, BLOCK "mlp.fc1", V_INTER, V_HIDDEN),
    BAL_VISION_LINEAR(fc2, BLOCK "mlp.fc2", V_HIDDEN, V_INTER),
    BAL_MODEL_UNUSED(VISION "embeddings.mask_token"),
};

static const bal_bind_rename hf_prefixes[] = {
    {"model.language_model.", "language_model.model."},
    {"lm_head.", "language_model.lm_head."},
    {"model.vision_tower.", "vision_tower."},
    {"model.multi_modal_projector.", "multi_modal_projector."},
};

static const bal_bind_rename chat_prefixes[] = {
    {"model.language_model.", "language_model.model."},
    {"lm_head.", "language_model.lm_head."},
    {"lm_head.", "language_model.output."}, /* InternLM2 */
    {"model.vision_tower.", "vision_model."},
    {"model.multi_modal_projector.layer_norm.", "mlp1.0."},
    {"model.multi_modal_projector.linear_1.", "mlp1.1."},
    {"model.multi_modal_projector.linear_2.", "mlp1.3."},
};

static const bal_bind_rename chat_infixes[] = {
    BAL_INTERNLM2_INFIXES,
    {".encoder.layer.", ".encoder.layers."},
    {".attention.projection_layer.", ".attn.proj."},
    {".attention.qkv.", ".attn.qkv."},
    {".attention.q_norm.", ".attn.q_norm."},
    {".attention.k_norm.", ".attn.k_norm."},
    {".layernorm_before.", ".norm1."},
    {".layernorm_after.", ".norm2."},
    {".lambda_1", ".ls1"},
    {".lambda_2", ".ls2"},
    {".embeddings.cls_token", ".embeddings.class_embedding"},
    {".embeddings.position_embeddings", ".embeddings.position_embedding"},
    {".embeddings.patch_embeddings.projection.", ".embeddings.patch_embedding."},
};

const bal_family_def bal_family_internvl = {
    .id = 9,
    .model_type = "internvl",
    .chat = "internvl",
    .read = read_hf,
    .read_processor = read_hf_processor,
    .fault = fault,
    .names = {hf_prefixes, sizeof hf_prefixes / sizeof *hf_prefixes, NULL, 0},
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .image_token = "<IMG_CONTEXT>",
    .plan = plan,
    .limit = limit,
    .pixels = bal_family_tile_pixels,
    .encode = bal_family_encode_views,
    .encode_on = bal_family_encode_views_on,
    .layout = layout,
};

const bal_family_def bal_family_internvl_chat = {
    .id = 10,
    .model_type = "internvl_chat",
    .chat = "internvl_chat",
    .read = read_chat,
    .read_processor = read_chat_processor,
    .fault = fault,
    .names = {chat_prefixes, sizeof chat_prefixes / sizeof *chat_prefixes, chat_infixes,
              sizeof chat_infixes / sizeof *chat_infixes},
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .image_token = "<IMG_CONTEXT>",
    .plan = plan,
    .limit = limit,
    .pixels = bal_family_tile_pixels,
    .encode = bal_family_encode_views,
    .encode_on = bal_family_encode_views_on,
    .layout = layout,
};
