/* SPDX-License-Identifier: MIT
 * LLaVA-OneVision: SigLIP tower, two-layer projector, Qwen2 decoder. Published files use the old
 * names (before transformers 4.52); sources and peculiarities stand in docs/families.md. */
#include "model/bind.h"

#define DECODER "model.language_model.layers.%d."
#define VISION  "model.vision_tower.vision_model."
#define BLOCK   VISION "encoder.layers.%d."

#define MODEL_ROW(kind, field, name, n, k, opt)                                                    \
    {                                                                                              \
        BAL_BIND_##kind, BAL_OWNER_MODEL, offsetof(bal_model, field), name, BAL_DIM_##n,           \
            BAL_DIM_##k, opt                                                                       \
    }
#define DECODER_VECTOR(field, name)                                                                \
    {                                                                                              \
        BAL_BIND_VECTOR, BAL_OWNER_DECODER, offsetof(bal_decoder_layer, field), DECODER name,      \
            BAL_DIM_HIDDEN, BAL_DIM_NONE, false                                                    \
    }
#define DECODER_LINEAR(field, name, n, k)                                                          \
    {                                                                                              \
        BAL_BIND_LINEAR, BAL_OWNER_DECODER, offsetof(bal_decoder_layer, field),                    \
            DECODER name ".weight", BAL_DIM_##n, BAL_DIM_##k, false                                \
    }
#define DECODER_BIAS(field, name, n)                                                               \
    {                                                                                              \
        BAL_BIND_BIAS, BAL_OWNER_DECODER, offsetof(bal_decoder_layer, field),                      \
            DECODER name ".bias", BAL_DIM_##n, BAL_DIM_NONE, false                                 \
    }
#define VISION_VECTOR(field, name)                                                                 \
    {                                                                                              \
        BAL_BIND_VECTOR, BAL_OWNER_VISION, offsetof(bal_vision_layer, field), BLOCK name,          \
            BAL_DIM_V_HIDDEN, BAL_DIM_NONE, false                                                  \
    }
#define VISION_LINEAR(field, name, n, k)                                                           \
    {BAL_BIND_LINEAR,                                                                              \
     BAL_OWNER_VISION,                                                                             \
     offsetof(bal_vision_layer, field),                                                            \
     BLOCK name ".weight",                                                                         \
     BAL_DIM_##n,                                                                                  \
     BAL_DIM_##k,                                                                                  \
     false},                                                                                       \
    {                                                                                              \
        BAL_BIND_BIAS, BAL_OWNER_VISION, offsetof(bal_vision_layer, field), BLOCK name ".bias",    \
            BAL_DIM_##n, BAL_DIM_NONE, false                                                       \
    }

static const bal_bind_row rows[] = {
    MODEL_ROW(LINEAR, embed, "model.language_model.embed_tokens.weight", VOCAB, HIDDEN, false),
    MODEL_ROW(LINEAR, head, "lm_head.weight", VOCAB, HIDDEN, true),
    MODEL_ROW(VECTOR, final_norm, "model.language_model.norm.weight", HIDDEN, NONE, false),
    MODEL_ROW(LINEAR, patch, VISION "embeddings.patch_embedding.weight", V_HIDDEN, V_PATCH_SIZE,
              false),
    MODEL_ROW(BIAS, patch, VISION "embeddings.patch_embedding.bias", V_HIDDEN, NONE, false),
    MODEL_ROW(VECTOR, positions, VISION "embeddings.position_embedding.weight", V_PATCHES, V_HIDDEN,
              false),
    MODEL_ROW(LINEAR, projector[0], "model.multi_modal_projector.linear_1.weight", HIDDEN, V_HIDDEN,
              false),
    MODEL_ROW(BIAS, projector[0], "model.multi_modal_projector.linear_1.bias", HIDDEN, NONE, false),
    MODEL_ROW(LINEAR, projector[1], "model.multi_modal_projector.linear_2.weight", HIDDEN, HIDDEN,
              false),
    MODEL_ROW(BIAS, projector[1], "model.multi_modal_projector.linear_2.bias", HIDDEN, NONE, false),
    MODEL_ROW(VECTOR, newline, "model.image_newline", HIDDEN, NONE, false),

    DECODER_VECTOR(attn_norm, "input_layernorm.weight"),
    DECODER_VECTOR(mlp_norm, "post_attention_layernorm.weight"),
    DECODER_LINEAR(q, "self_attn.q_proj", Q, HIDDEN),
    DECODER_BIAS(q, "self_attn.q_proj", Q),
    DECODER_LINEAR(k, "self_attn.k_proj", KV, HIDDEN),
    DECODER_BIAS(k, "self_attn.k_proj", KV),
    DECODER_LINEAR(v, "self_attn.v_proj", KV, HIDDEN),
    DECODER_BIAS(v, "self_attn.v_proj", KV),
    DECODER_LINEAR(o, "self_attn.o_proj", HIDDEN, Q),
    DECODER_LINEAR(gate, "mlp.gate_proj", INTER, HIDDEN),
    DECODER_LINEAR(up, "mlp.up_proj", INTER, HIDDEN),
    DECODER_LINEAR(down, "mlp.down_proj", HIDDEN, INTER),

    VISION_VECTOR(ln1_w, "layer_norm1.weight"),
    VISION_VECTOR(ln1_b, "layer_norm1.bias"),
    VISION_VECTOR(ln2_w, "layer_norm2.weight"),
    VISION_VECTOR(ln2_b, "layer_norm2.bias"),
    VISION_LINEAR(q, "self_attn.q_proj", V_HIDDEN, V_HIDDEN),
    VISION_LINEAR(k, "self_attn.k_proj", V_HIDDEN, V_HIDDEN),
    VISION_LINEAR(v, "self_attn.v_proj", V_HIDDEN, V_HIDDEN),
    VISION_LINEAR(out, "self_attn.out_proj", V_HIDDEN, V_HIDDEN),
    VISION_LINEAR(fc1, "mlp.fc1", V_INTER, V_HIDDEN),
    VISION_LINEAR(fc2, "mlp.fc2", V_HIDDEN, V_INTER),

    /* the family reads the tower before this norm */
    MODEL_ROW(UNUSED, config, VISION "post_layernorm.weight", NONE, NONE, true),
    MODEL_ROW(UNUSED, config, VISION "post_layernorm.bias", NONE, NONE, true),
    MODEL_ROW(UNUSED, config, VISION "embeddings.position_ids", NONE, NONE, true),
};

static const bal_bind_prefix prefixes[] = {
    {"model.language_model.", "language_model.model."},
    {"lm_head.", "language_model.lm_head."},
    {"model.vision_tower.", "vision_tower."},
    {"model.multi_modal_projector.", "multi_modal_projector."},
    {"model.image_newline", "image_newline"},
};

const bal_bind_family bal_llava_onevision_family = {
    rows,
    sizeof rows / sizeof *rows,
    prefixes,
    sizeof prefixes / sizeof *prefixes,
};
