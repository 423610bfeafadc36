/* SPDX-License-Identifier: MIT
 * Inside model/ only: how the families' tables write their rows (model/bind.h) down. n and k are
 * names of bal_bind_dim without the prefix. */
#ifndef BAL_MODEL_VISION_ROWS_H
#define BAL_MODEL_VISION_ROWS_H

#include "model/bind.h"

#define BAL_MODEL_ROW(kind, field, name, n, k, opt, flag)                                          \
    {                                                                                              \
        BAL_BIND_##kind, BAL_OWNER_MODEL, offsetof(bal_model, field), name, BAL_DIM_##n,           \
            BAL_DIM_##k, opt, flag, BAL_PART_WHOLE                                                 \
    }
#define BAL_MODEL_LINEAR(field, name, n, k)                                                        \
    BAL_MODEL_ROW(LINEAR, field, name ".weight", n, k, false, 0)
#define BAL_MODEL_BIAS(field, name, n)     BAL_MODEL_ROW(BIAS, field, name ".bias", n, NONE, false, 0)
#define BAL_MODEL_TABLE(field, name, n, k) BAL_MODEL_ROW(VECTOR, field, name, n, k, false, 0)
#define BAL_MODEL_VECTOR(field, name, n)   BAL_MODEL_ROW(VECTOR, field, name, n, NONE, false, 0)
#define BAL_MODEL_UNUSED(name)             BAL_MODEL_ROW(UNUSED, config, name, NONE, NONE, true, 0)

#define BAL_VISION_ROW(kind, field, name, n, k, opt, flag, part)                                   \
    {                                                                                              \
        BAL_BIND_##kind, BAL_OWNER_VISION, offsetof(bal_vision_layer, field), name, BAL_DIM_##n,   \
            BAL_DIM_##k, opt, flag, part                                                           \
    }
#define BAL_VISION_VECTOR(field, name)                                                             \
    BAL_VISION_ROW(VECTOR, field, name, V_HIDDEN, NONE, false, 0, BAL_PART_WHOLE)
#define BAL_VISION_LINEAR(field, name, n, k)                                                       \
    BAL_VISION_ROW(LINEAR, field, name ".weight", n, k, false, 0, BAL_PART_WHOLE),                 \
        BAL_VISION_ROW(BIAS, field, name ".bias", n, NONE, false, 0, BAL_PART_WHOLE)

/* A block as SigLIP and CLIP have it under the same names; `block` ends in "%d.". */
#define BAL_SIGLIP_ROWS(block)                                                                     \
    BAL_VISION_VECTOR(ln1_w, block "layer_norm1.weight"),                                          \
        BAL_VISION_VECTOR(ln1_b, block "layer_norm1.bias"),                                        \
        BAL_VISION_VECTOR(ln2_w, block "layer_norm2.weight"),                                      \
        BAL_VISION_VECTOR(ln2_b, block "layer_norm2.bias"),                                        \
        BAL_VISION_LINEAR(q, block "self_attn.q_proj", V_HIDDEN, V_HIDDEN),                        \
        BAL_VISION_LINEAR(k, block "self_attn.k_proj", V_HIDDEN, V_HIDDEN),                        \
        BAL_VISION_LINEAR(v, block "self_attn.v_proj", V_HIDDEN, V_HIDDEN),                        \
        BAL_VISION_LINEAR(out, block "self_attn.out_proj", V_HIDDEN, V_HIDDEN),                    \
        BAL_VISION_LINEAR(fc1, block "mlp.fc1", V_INTER, V_HIDDEN),                                \
        BAL_VISION_LINEAR(fc2, block "mlp.fc2", V_HIDDEN, V_INTER)

#endif
