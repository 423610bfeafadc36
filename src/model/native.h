/* SPDX-License-Identifier: MIT
 * Inside model/ only: what Qwen2-VL and Qwen2.5-VL share as families (model/family.h): pictures at
 * their own resolution, one view each, and three-dimensional rotary positions. The tower itself is
 * vision_native.h. */
#ifndef BAL_MODEL_NATIVE_H
#define BAL_MODEL_NATIVE_H

#include "model/config_read.h"
#include "model/family.h"

/* The text keys, at the top level as in published files or in text_config. model_type and
 * text_type: what the two levels call themselves. */
bal_status bal_native_read_text(bal_config *c, const bal_json *root, const char *model_type,
                                const char *text_type, bal_error *err);
/* Keys of vision_config that the two have in common; `o` is vision_config, `width_key` the key of
 * the tower's width (default: otherwise). Sets everything but the norm, the MLP and windows. */
bal_status bal_native_read_vision(bal_config *c, const bal_json *o, const char *width_key,
                                  int otherwise, bal_error *err);
/* The key that says how wide the projector's output is must agree with the language model. */
bal_status bal_native_read_out(const bal_config *c, const bal_json *o, const char *key,
                               bal_error *err);

/* bal_family_def's functions of the same names. In a plan resized_w x resized_h is the picture in
 * the tower and h0 x w0 its grid of tokens. */
bal_status bal_native_read_processor(bal_config *c, const bal_json *o, bal_error *err);
const char *bal_native_fault(const bal_config *c);
bal_status bal_native_plan(const bal_config *c, int w, int h, bal_view_mode mode, bal_view_plan *p,
                           bal_error *err);
/* Lowers max_pixels; min_pixels stays. A picture so long that its short side is one token keeps
 * the tokens of its long one. */
bal_status bal_native_limit(bal_config *c, int n, bal_error *err);
bal_status bal_native_pixels(const bal_config *c, const bal_view_plan *p, const bal_image *image,
                             float *out, bal_error *err);
/* Feature (row, column) stands at (start, start + row, start + column); what follows goes on behind
 * the largest of them. */
int bal_native_positions(const bal_config *c, const bal_view_plan *p, int start, int32_t (*pos)[3]);

/* Names: the published ones behind those of transformers since 4.52. */
extern const bal_bind_rename bal_native_prefixes[];
enum { BAL_NATIVE_PREFIXES = 2 };

#define BAL_NATIVE_VISUAL "model.visual."
#define BAL_NATIVE_BLOCK  BAL_NATIVE_VISUAL "blocks.%d."
#define BAL_NATIVE_THIRD(field, part)                                                              \
    BAL_VISION_ROW(LINEAR, field, BAL_NATIVE_BLOCK "attn." #field "_proj.weight", V_HIDDEN,        \
                   V_HIDDEN, true, 0, BAL_PART_WHOLE), /* packed on its own */                     \
        BAL_VISION_ROW(LINEAR, field, BAL_NATIVE_BLOCK "attn.qkv.weight", V_HIDDEN, V_HIDDEN,      \
                       false, 0, BAL_PART_THIRD_##part),                                           \
        BAL_VISION_ROW(BIAS, field, BAL_NATIVE_BLOCK "attn.qkv.bias", V_HIDDEN, NONE, false, 0,    \
                       BAL_PART_THIRD_##part)
/* Rows of the tensors that both towers have. */
#define BAL_NATIVE_ROWS                                                                            \
    BAL_MODEL_LINEAR(patch, BAL_NATIVE_VISUAL "patch_embed.proj", V_HIDDEN, V_PATCH_SIZE),         \
        BAL_MODEL_VECTOR(post_norm_w, BAL_NATIVE_VISUAL "merger.ln_q.weight", V_HIDDEN),           \
        BAL_MODEL_LINEAR(projector[0], BAL_NATIVE_VISUAL "merger.mlp.0", V_TOKEN, V_TOKEN),        \
        BAL_MODEL_BIAS(projector[0], BAL_NATIVE_VISUAL "merger.mlp.0", V_TOKEN),                   \
        BAL_MODEL_LINEAR(projector[1], BAL_NATIVE_VISUAL "merger.mlp.2", HIDDEN, V_TOKEN),         \
        BAL_MODEL_BIAS(projector[1], BAL_NATIVE_VISUAL "merger.mlp.2", HIDDEN),                    \
        BAL_VISION_VECTOR(ln1_w, BAL_NATIVE_BLOCK "norm1.weight"),                                 \
        BAL_VISION_VECTOR(ln2_w, BAL_NATIVE_BLOCK "norm2.weight"), BAL_NATIVE_THIRD(q, 0),         \
        BAL_NATIVE_THIRD(k, 1), BAL_NATIVE_THIRD(v, 2),                                            \
        BAL_VISION_LINEAR(out, BAL_NATIVE_BLOCK "attn.proj", V_HIDDEN, V_HIDDEN)

#endif
