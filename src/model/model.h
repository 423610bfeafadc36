/* SPDX-License-Identifier: MIT
 * A bound model: named weights as views into the mapped file. Immutable once loaded, so threads
 * share it. No file here knows that quantization exists; a packed linear is just another storage
 * type. */
#ifndef BAL_MODEL_MODEL_H
#define BAL_MODEL_MODEL_H

#include "format/safetensors.h"
#include "model/config.h"
#include "op/linear.h"

typedef struct bal_family_def bal_family_def; /* model/family.h */

/* One decoder block (Llama and kin): pre-norm attention with grouped query heads, SwiGLU MLP. */
typedef struct bal_decoder_layer {
    const float *attn_norm, *mlp_norm; /* [hidden] */
    const float *q_norm, *k_norm;      /* [head_dim], NULL without text.qk_norm */
    bal_linear q, k, v, o, gate, up, down;
} bal_decoder_layer;

/* One vision block: pre-norm, full attention inside a view, MLP. What a family lacks is NULL. */
typedef struct bal_vision_layer {
    const float *ln1_w, *ln1_b, *ln2_w, *ln2_b; /* [vision hidden]; no b in an RMSNorm */
    const float *q_norm, *k_norm;               /* [vision hidden] */
    const float *scale1, *scale2;               /* [vision hidden], of each half's output */
    bal_linear q, k, v, out, fc1, fc2;
    bal_linear gate; /* with vision.gated */
} bal_vision_layer;

typedef struct bal_model {
    bal_config config;
    bal_tensor_set tensors;
    char path[1024];
    bool is_artifact; /* a Ballast file rather than a Hugging Face folder */

    bal_linear embed, head; /* head == embed when tied */
    const float *final_norm;
    bal_decoder_layer *layers;

    bal_linear patch;       /* [vision hidden][3 * patch * patch] */
    const float *cls;       /* [vision hidden], with vision.cls */
    const float *positions; /* [cls + side * side][vision hidden] */
    const float *pre_norm_w, *pre_norm_b, *post_norm_w, *post_norm_b;
    bal_vision_layer *vision_layers;                  /* [vision.layers] */
    const float *projector_norm_w, *projector_norm_b; /* [vision hidden * shuffle^2], or NULL */
    bal_linear projector[2];                          /* the second may be absent (k 0) */
    const float *newline;                             /* [hidden], or NULL */

    void *owned; /* chain of small f32 copies (norms, biases) */
} bal_model;

/* Opens a Hugging Face folder or a Ballast file and binds every tensor; missing, unclaimed and
 * wrongly shaped tensors are errors that name the tensor, what was expected and what was found.
 * On failure *m is empty. */
bal_status bal_model_load(bal_model *m, const char *path, bal_error *err);
void bal_model_unload(bal_model *m); /* idempotent; zeroed struct is fine */

/* Widest input of any linear, for bal_exec_create. */
int bal_model_max_k(const bal_model *m);

/* The linears of a vision block, in the order q k v out fc1 fc2 gate; k is 0 where a family has
 * none. */
enum { BAL_VISION_LINEARS = 7 };
bal_linear *bal_vision_linear(bal_vision_layer *l, int i);

/* The seven linears of a decoder block, in the order q k v o gate up down. */
enum { BAL_DECODER_LINEARS = 7 };
bal_linear *bal_decoder_linear(bal_decoder_layer *l, int i);
const char *bal_decoder_linear_name(int i); /* "self_attn.q_proj", ... */
/* Canonical (current generation) tensor name of a decoder linear's weight. */
void bal_decoder_tensor_name(char *out, size_t size, int layer, int i);

#endif
