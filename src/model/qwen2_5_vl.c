/* SPDX-License-Identifier: MIT
 * Qwen2.5-VL: Qwen2-VL with RMSNorm and a gated MLP in the tower, and attention inside windows but
 * for the blocks that config.json lists. Here hidden_size is the tower's width. */
#include "model/native.h"
#include "model/vision_native.h"
#include "model/vision_rows.h"

/* window_size is in pixels of the resized picture; windows consist of whole tokens. */
static bal_status read_windows(bal_vision_config *v, const bal_json *o, bal_error *err)
{
    int full[BAL_MAX_LAYERS] = {7, 15, 23, 31}, size;
    size_t n = 4;
    BAL_TRY(bal_json_int_or(o, "window_size", 1, 1 << 16, 112, &size, err));
    v->window = size / v->shuffle / v->patch_size;
    if (v->window < 1 || v->window > BAL_MAX_SIDE)
        return bal_config_fail(err, o, "window_size", "is smaller than a token");
    if (bal_json_has(o, "fullatt_block_indexes"))
        BAL_TRY(bal_json_ints(o, "fullatt_block_indexes", 0, v->layers - 1, full, BAL_MAX_LAYERS,
                              &n, err));
    for (size_t i = 0; i < n && full[i] < v->layers; i++) { /* the defaults go up to 31 */
        const uint32_t word = (uint32_t)v->full_blocks[full[i] / 32] | 1u << full[i] % 32;
        v->full_blocks[full[i] / 32] = (int32_t)word;
    }
    return BAL_OK;
}

static bal_status read(bal_config *c, const bal_json *root, bal_error *err)
{
    bal_json vision;
    bal_vision_config *v = &c->vision;
    BAL_TRY(bal_native_read_text(c, root, "qwen2_5_vl", "qwen2_5_vl_text", err));
    BAL_TRY(bal_json_obj(root, "vision_config", &vision, err));
    BAL_TRY(bal_native_read_vision(c, &vision, "hidden_size", 3584, err));
    BAL_TRY(bal_config_expect(&vision, "hidden_act", "silu", "silu", err));
    BAL_TRY(bal_native_read_out(c, &vision, "out_hidden_size", err));
    BAL_TRY(
        bal_json_int_or(&vision, "intermediate_size", 1, BAL_MAX_DIM, 3420, &v->intermediate, err));
    v->norm = BAL_NORM_RMS;
    v->gated = 1;
    return read_windows(v, &vision, err);
}

static const char *fault(const bal_config *c)
{
    const bal_vision_config *v = &c->vision;
    if (v->norm != BAL_NORM_RMS || !v->gated) return "vision block";
    if (v->window < 1) return "vision window";
    return bal_native_fault(c);
}

static const bal_bind_row rows[] = {
    BAL_NATIVE_ROWS,
    BAL_VISION_LINEAR(gate, BAL_NATIVE_BLOCK "mlp.gate_proj", V_INTER, V_HIDDEN),
    BAL_VISION_LINEAR(fc1, BAL_NATIVE_BLOCK "mlp.up_proj", V_INTER, V_HIDDEN),
    BAL_VISION_LINEAR(fc2, BAL_NATIVE_BLOCK "mlp.down_proj", V_HIDDEN, V_INTER),
};

const bal_family_def bal_family_qwen2_5_vl = {
    .id = 21,
    .model_type = "qwen2_5_vl",
    .chat = "qwen2_5_vl",
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
