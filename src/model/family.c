/* SPDX-License-Identifier: MIT
 * The list of families, and the rows of the decoder that they share. */
#include "model/family.h"

#include <stdio.h>
#include <string.h>

static const bal_family_def *const families[] = {
#define X(name) &bal_family_##name,
    BAL_FAMILIES(X)
#undef X
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const bal_family_def *bal_family_at(size_t i)
{
    return i < N_FAMILIES ? families[i] : NULL;
}

const bal_family_def *bal_family_by_id(int32_t id)
{
    for (int i = 0; i < N_FAMILIES; i++)
        if (families[i]->id == id) return families[i];
    return NULL;
}

const bal_family_def *bal_family_of(const bal_config *c)
{
    return bal_family_by_id(c->family);
}

bal_status bal_family_find(const bal_family_def **out, const char *model_type, const char *file,
                           bal_error *err)
{
    char known[400] = "";
    for (int i = 0; i < N_FAMILIES; i++) {
        *out = families[i];
        if (strcmp(model_type, families[i]->model_type) == 0) return BAL_OK;
        const size_t at = strlen(known);
        snprintf(known + at, sizeof known - at, "%s%s", at ? ", " : "", families[i]->model_type);
    }
    *out = NULL;
    return bal_fail(err, BAL_E_UNSUP,
                    "%s: model_type: \"%.60s\" is not supported; this build knows %s", file,
                    model_type, known);
}

/* ---- The decoder ------------------------------------------------------------------------------
 */

#define LAYER "model.language_model.layers.%d."

#define VECTOR(field, name, n, flag)                                                               \
    {                                                                                              \
        BAL_BIND_VECTOR, BAL_OWNER_DECODER, offsetof(bal_decoder_layer, field), LAYER name,        \
            BAL_DIM_##n, BAL_DIM_NONE, false, flag, BAL_PART_WHOLE                                 \
    }
#define LINEAR(field, name, n, k, opt)                                                             \
    {                                                                                              \
        BAL_BIND_LINEAR, BAL_OWNER_DECODER, offsetof(bal_decoder_layer, field),                    \
            LAYER name ".weight", BAL_DIM_##n, BAL_DIM_##k, opt, 0, BAL_PART_WHOLE                 \
    }
#define BIAS(field, name, n, flag, opt)                                                            \
    {                                                                                              \
        BAL_BIND_BIAS, BAL_OWNER_DECODER, offsetof(bal_decoder_layer, field), LAYER name ".bias",  \
            BAL_DIM_##n, BAL_DIM_NONE, opt, flag, BAL_PART_WHOLE                                   \
    }
#define GROUPED(field, n, part)                                                                    \
    {BAL_BIND_LINEAR,                                                                              \
     BAL_OWNER_DECODER,                                                                            \
     offsetof(bal_decoder_layer, field),                                                           \
     LAYER "self_attn.qkv_proj.weight",                                                            \
     BAL_DIM_##n,                                                                                  \
     BAL_DIM_HIDDEN,                                                                               \
     true,                                                                                         \
     offsetof(bal_config, text.grouped_qkv),                                                       \
     part},                                                                                        \
    {                                                                                              \
        BAL_BIND_BIAS, BAL_OWNER_DECODER, offsetof(bal_decoder_layer, field),                      \
            LAYER "self_attn.qkv_proj.bias", BAL_DIM_##n, BAL_DIM_NONE, true,                      \
            offsetof(bal_config, text.grouped_qkv), part                                           \
    }

#define QKV_BIAS offsetof(bal_config, text.qkv_bias)
#define O_BIAS   offsetof(bal_config, text.o_bias)
#define MLP_BIAS offsetof(bal_config, text.mlp_bias)
#define QK_NORM  offsetof(bal_config, text.qk_norm)

const bal_bind_row bal_text_rows[] = {
    {BAL_BIND_LINEAR, BAL_OWNER_MODEL, offsetof(bal_model, embed),
     "model.language_model.embed_tokens.weight", BAL_DIM_VOCAB, BAL_DIM_HIDDEN, false, 0,
     BAL_PART_WHOLE},
    {BAL_BIND_LINEAR, BAL_OWNER_MODEL, offsetof(bal_model, head), "lm_head.weight", BAL_DIM_VOCAB,
     BAL_DIM_HIDDEN, true, 0, BAL_PART_WHOLE},
    {BAL_BIND_VECTOR, BAL_OWNER_MODEL, offsetof(bal_model, final_norm),
     "model.language_model.norm.weight", BAL_DIM_HIDDEN, BAL_DIM_NONE, false, 0, BAL_PART_WHOLE},
    VECTOR(attn_norm, "input_layernorm.weight", HIDDEN, 0),
    VECTOR(mlp_norm, "post_attention_layernorm.weight", HIDDEN, 0),
    VECTOR(q_norm, "self_attn.q_norm.weight", HEAD, QK_NORM),
    VECTOR(k_norm, "self_attn.k_norm.weight", HEAD, QK_NORM),
    LINEAR(q, "self_attn.q_proj", Q, HIDDEN, true),
    BIAS(q, "self_attn.q_proj", Q, QKV_BIAS, true),
    LINEAR(k, "self_attn.k_proj", KV, HIDDEN, true),
    BIAS(k, "self_attn.k_proj", KV, QKV_BIAS, true),
    LINEAR(v, "self_attn.v_proj", KV, HIDDEN, true),
    BIAS(v, "self_attn.v_proj", KV, QKV_BIAS, true),
    GROUPED(q, Q, BAL_PART_GROUP_Q),
    GROUPED(k, KV, BAL_PART_GROUP_K),
    GROUPED(v, KV, BAL_PART_GROUP_V),
    LINEAR(o, "self_attn.o_proj", HIDDEN, Q, false),
    BIAS(o, "self_attn.o_proj", HIDDEN, O_BIAS, false),
    LINEAR(gate, "mlp.gate_proj", INTER, HIDDEN, false),
    BIAS(gate, "mlp.gate_proj", INTER, MLP_BIAS, false),
    LINEAR(up, "mlp.up_proj", INTER, HIDDEN, false),
    BIAS(up, "mlp.up_proj", INTER, MLP_BIAS, false),
    LINEAR(down, "mlp.down_proj", HIDDEN, INTER, false),
    BIAS(down, "mlp.down_proj", HIDDEN, MLP_BIAS, false),
    {BAL_BIND_UNUSED, BAL_OWNER_DECODER, 0, LAYER "self_attn.rotary_emb.inv_freq", BAL_DIM_NONE,
     BAL_DIM_NONE, true, 0, BAL_PART_WHOLE},
};
const size_t bal_n_text_rows = sizeof bal_text_rows / sizeof *bal_text_rows;
