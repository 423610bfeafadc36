/* SPDX-License-Identifier: MIT
 * LLaVA-1.5: CLIP tower read one block before its end, class token dropped, two-layer projector,
 * Llama decoder. Peculiarities stand in docs/families.md. */
#include "image/tiles.h"
#include "model/config_read.h"
#include "model/family.h"
#include "model/vision_rows.h"

static bal_status read(bal_config *c, const bal_json *root, bal_error *err)
{
    static const char *const texts[] = {"llama", "qwen2", NULL};
    /* CLIPVisionConfig's, and those of LlavaConfig without a vision_config */
    static const bal_vision_defaults clip = {768, 12, 12, 3072, 224, 32, 1e-5, "quick_gelu"};
    static const bal_vision_defaults large = {1024, 24, 16, 4096, 336, 14, 1e-5, "quick_gelu"};
    bal_json text, vision;
    BAL_TRY(bal_json_obj(root, "text_config", &text, err));
    BAL_TRY(bal_config_text(&c->text, &text, root, "llama", texts, true, err));
    BAL_TRY(bal_json_obj_or(root, "vision_config", &vision, err));
    if (vision.value)
        BAL_TRY(bal_config_expect(&vision, "model_type", "clip_vision_model", "clip_vision_model",
                                  err));
    BAL_TRY(bal_config_vision(&c->vision, &vision, vision.value ? &clip : &large, err));
    c->vision.cls = c->vision.pre_norm = 1;
    BAL_TRY(bal_config_feature_layer(&c->vision, root, "vision_feature_layer", -2, err));
    BAL_TRY(bal_config_expect(root, "vision_feature_select_strategy", "default", "default", err));
    BAL_TRY(bal_config_act(root, "projector_hidden_act", "gelu", &c->vision.projector_act, err));
    return bal_config_image_token(c, root, 32000, err);
}

/* The short side may be another size than the view that is cut from the middle. */
static bal_status read_processor(bal_config *c, const bal_json *o, bal_error *err)
{
    const bal_json size = bal_json_get(o, "size");
    BAL_TRY(bal_config_norm(c, o, bal_clip_mean, bal_clip_std, 3, err));
    c->resize_edge = c->vision.image_size;
    if (size.value && json_is_object(size.value))
        BAL_TRY(bal_json_int(&size, "shortest_edge", 1, BAL_MAX_SIDE, &c->resize_edge, err));
    else if (size.value)
        BAL_TRY(bal_json_as_int(&size, 1, BAL_MAX_SIDE, &c->resize_edge, err));
    return bal_config_view_size(c, o, "crop_size", err);
}

static const char *fault(const bal_config *c)
{
    if (c->image_token < 0) return "image token";
    return c->resize_edge < 1 || c->resize_edge > BAL_MAX_SIDE ? "shortest edge" : NULL;
}

static bal_status plan(const bal_config *c, int w, int h, bal_view_mode mode, bal_view_plan *p,
                       bal_error *err)
{
    (void)mode;
    return bal_crop_plan(p, w, h, c->resize_edge, c->vision.image_size, c->vision.side, err);
}

#define VISION    "model.vision_tower.vision_model."
#define PROJECTOR "model.multi_modal_projector."

static const bal_bind_row rows[] = {
    BAL_MODEL_LINEAR(patch, VISION "embeddings.patch_embedding", V_HIDDEN, V_PATCH_SIZE),
    BAL_MODEL_VECTOR(cls, VISION "embeddings.class_embedding", V_HIDDEN),
    BAL_MODEL_TABLE(positions, VISION "embeddings.position_embedding.weight", V_POSITIONS,
                    V_HIDDEN),
    BAL_MODEL_VECTOR(pre_norm_w, VISION "pre_layrnorm.weight", V_HIDDEN), /* sic */
    BAL_MODEL_VECTOR(pre_norm_b, VISION "pre_layrnorm.bias", V_HIDDEN),
    BAL_MODEL_LINEAR(projector[0], PROJECTOR "linear_1", HIDDEN, V_HIDDEN),
    BAL_MODEL_BIAS(projector[0], PROJECTOR "linear_1", HIDDEN),
    BAL_MODEL_LINEAR(projector[1], PROJECTOR "linear_2", HIDDEN, HIDDEN),
    BAL_MODEL_BIAS(projector[1], PROJECTOR "linear_2", HIDDEN),
    BAL_SIGLIP_ROWS(VISION "encoder.layers.%d."),

    BAL_MODEL_UNUSED(VISION "post_layernorm.weight"),
    BAL_MODEL_UNUSED(VISION "post_layernorm.bias"),
    BAL_MODEL_UNUSED(VISION "embeddings.position_ids"),
};

static const bal_bind_rename prefixes[] = {
    {"model.language_model.", "language_model.model."},
    {"lm_head.", "language_model.lm_head."},
    {"model.vision_tower.", "vision_tower."},
    {"model.multi_modal_projector.", "multi_modal_projector."},
};

const bal_family_def bal_family_llava = {
    .id = 6,
    .model_type = "llava",
    .chat = "llava",
    .read = read,
    .read_processor = read_processor,
    .fault = fault,
    .names = {prefixes, sizeof prefixes / sizeof *prefixes, NULL, 0},
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .image_token = "<image>",
    .plan = plan,
    .pixels = bal_family_tile_pixels,
    .encode = bal_family_encode_views,
    .encode_on = bal_family_encode_views_on,
};
