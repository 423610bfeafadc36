/* SPDX-License-Identifier: MIT
 * A model family to copy from: CLIP tower, two-layer projector, Llama decoder, one square view per
 * picture. The tests compile this file, give it a checkpoint under the names below and compare what
 * it says with what the original of the same weights says (tests/golden/test_families.c), so it is
 * never out of date. Steps in order: docs/families.md, "Adding a family". */
#include "image/tiles.h"
#include "model/config_read.h"
#include "model/family.h"
#include "model/vision_rows.h"

/* ---- 1. config.json -----------------------------------------------------------------------------
 * Every key that changes what is computed is read or refused: bal_config_expect for those that
 * must have one value here. Published files leave keys out, so the class defaults of the original
 * stand in code. Differences between decoders and towers are fields of bal_text_config and
 * bal_vision_config; a new one is a field there and a line in the shared block, never a question
 * for the family. */
static bal_status read(bal_config *c, const bal_json *root, bal_error *err)
{
    static const char *const texts[] = {"llama", NULL};
    static const bal_vision_defaults clip = {768, 12, 12, 3072, 224, 32, 1e-5, "quick_gelu"};
    bal_json text, vision;
    BAL_TRY(bal_json_obj(root, "text_config", &text, err));
    BAL_TRY(bal_config_text(&c->text, &text, root, "llama", texts, true, err));
    BAL_TRY(bal_json_obj(root, "vision_config", &vision, err));
    BAL_TRY(bal_config_vision(&c->vision, &vision, &clip, err));
    c->vision.cls = c->vision.pre_norm = 1;
    BAL_TRY(bal_config_feature_layer(&c->vision, root, "feature_layer", -2, err));
    BAL_TRY(bal_config_act(root, "bridge_act", "gelu", &c->vision.projector_act, err));
    c->image_token = -1; /* looked up by its string, below */
    return BAL_OK;
}

/* preprocessor_config.json: mean, standard deviation, filter, sizes. */
static bal_status read_processor(bal_config *c, const bal_json *o, bal_error *err)
{
    BAL_TRY(bal_config_norm(c, o, bal_clip_mean, bal_clip_std, 3, err));
    c->resize_edge = c->vision.image_size;
    return bal_config_view_size(c, o, "crop_size", err);
}

/* The same limits once more for configs that come out of a Ballast file: untrusted bytes. */
static const char *fault(const bal_config *c)
{
    return c->resize_edge != c->vision.image_size ? "shortest edge" : NULL;
}

/* ---- 2. Pictures --------------------------------------------------------------------------------
 * A plan is arithmetic on the picture's size: views and tokens. Rules that are new get a file in
 * image/ with a test against the original's numbers. */
static bal_status plan(const bal_config *c, int w, int h, bal_view_mode mode, bal_view_plan *p,
                       bal_error *err)
{
    (void)mode;
    return bal_crop_plan(p, w, h, c->resize_edge, c->vision.image_size, c->vision.side, err);
}

/* ---- 3. Tensors ---------------------------------------------------------------------------------
 * One row per tensor, under its canonical name; a missing tensor and one that no row claims are
 * errors. Linears that a checkpoint holds fused have a second row with a part of the fused one. The
 * decoder's rows are everybody's. */
#define VISION    "model.vision_tower."
#define PROJECTOR "model.multi_modal_projector."

static const bal_bind_row rows[] = {
    BAL_MODEL_LINEAR(patch, VISION "patches", V_HIDDEN, V_PATCH_SIZE),
    BAL_MODEL_VECTOR(cls, VISION "class", V_HIDDEN),
    BAL_MODEL_TABLE(positions, VISION "positions.weight", V_POSITIONS, V_HIDDEN),
    BAL_MODEL_VECTOR(pre_norm_w, VISION "norm.weight", V_HIDDEN),
    BAL_MODEL_VECTOR(pre_norm_b, VISION "norm.bias", V_HIDDEN),
    BAL_MODEL_LINEAR(projector[0], PROJECTOR "first", HIDDEN, V_HIDDEN),
    BAL_MODEL_BIAS(projector[0], PROJECTOR "first", HIDDEN),
    BAL_MODEL_LINEAR(projector[1], PROJECTOR "second", HIDDEN, HIDDEN),
    BAL_MODEL_BIAS(projector[1], PROJECTOR "second", HIDDEN),
    BAL_SIGLIP_ROWS(VISION "blocks.%d."),
};

/* What the checkpoint calls them. */
static const bal_bind_rename prefixes[] = {
    {"model.language_model.", "brain.model."},
    {"lm_head.", "brain.lm_head."},
    {"model.vision_tower.", "eyes."},
    {"model.multi_modal_projector.", "bridge."},
};

/* ---- 4. The family ------------------------------------------------------------------------------
 * The id stands in files and is never given away again. */
const bal_family_def bal_family_example = {
    .id = 1000000,
    .model_type = "example_vl",
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
