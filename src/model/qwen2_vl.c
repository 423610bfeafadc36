/* SPDX-License-Identifier: MIT
 * Qwen2-VL: a tower with LayerNorm and a plain MLP that sees the whole picture in every block,
 * Qwen2 decoder with three rotary coordinates. Published configs call the tower's width embed_dim
 * and the language model's hidden_size. */
#include "model/native.h"
#include "model/vision_native.h"
#include "model/vision_rows.h"

static bal_status read(bal_config *c, const bal_json *root, bal_error *err)
{
    bal_json vision;
    double ratio;
    BAL_TRY(bal_native_read_text(c, root, "qwen2_vl", "qwen2_vl_text", err));
    BAL_TRY(bal_json_obj(root, "vision_config", &vision, err));
    BAL_TRY(bal_native_read_vision(c, &vision, "embed_dim", 1280, err));
    BAL_TRY(bal_config_act(&vision, "hidden_act", "quick_gelu", &c->vision.act, err));
    c->vision.norm = BAL_NORM_LAYER;
    BAL_TRY(bal_native_read_out(c, &vision, "hidden_size", err));
    BAL_TRY(bal_json_f64_or(&vision, "mlp_ratio", 0.01, 100.0, 4.0, &ratio, err));
    const double inter = (double)c->vision.hidden * ratio; /* int(), towards zero */
    if (!(inter >= 1.0 && inter <= BAL_MAX_DIM))
        return bal_config_fail(err, &vision, "mlp_ratio", "makes an MLP of no size");
    c->vision.intermediate = (int32_t)inter;
    return BAL_OK;
}

static const char *fault(const bal_config *c)
{
    if (c->vision.norm != BAL_NORM_LAYER || c->vision.gated || c->vision.window)
        return "vision block";
    return bal_native_fault(c);
}

static const bal_bind_row rows[] = {
    BAL_NATIVE_ROWS,
    BAL_MODEL_VECTOR(post_norm_b, BAL_NATIVE_VISUAL "merger.ln_q.bias", V_HIDDEN),
    BAL_VISION_VECTOR(ln1_b, BAL_NATIVE_BLOCK "norm1.bias"),
    BAL_VISION_VECTOR(ln2_b, BAL_NATIVE_BLOCK "norm2.bias"),
    BAL_VISION_LINEAR(fc1, BAL_NATIVE_BLOCK "mlp.fc1", V_INTER, V_HIDDEN),
    BAL_VISION_LINEAR(fc2, BAL_NATIVE_BLOCK "mlp.fc2", V_HIDDEN, V_INTER),
};

const bal_family_def bal_family_qwen2_vl = {
    .id = 20,
    .model_type = "qwen2_vl",
    .chat = "qwen2_vl",
    .read = read,
    .read_processor = bal_native_read_processor,
    .fault = fault,
    .names = {bal_native_prefixes, BAL_NATIVE_PREFIXES, NULL, 0},
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .image_token = "<|image_pad|>",
    .plan = bal_native_plan,
    .limit = bal_native_limit,
    .pixels = bal_native_pixels,
    .encode = bal_native_encode,
    .encode_on = bal_device_vision_native,
    .work = bal_native_work,
    .positions = bal_native_positions,
};
