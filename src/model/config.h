/* SPDX-License-Identifier: MIT
 * What a model is: sizes and constants, read from a Hugging Face folder (config.json,
 * preprocessor_config.json, generation_config.json, with the class defaults that published files
 * leave out) or from the compiled blob inside a Ballast file. Plain data, no pointers; what differs
 * between families is a named field here, and which function reads or uses it stands in
 * model/family.h. */
#ifndef BAL_MODEL_CONFIG_H
#define BAL_MODEL_CONFIG_H

#include "format/json.h"

enum { BAL_MAX_PINPOINTS = 256, BAL_MAX_EOS = 8 };

/* How rotary frequencies depart from theta^(-2i/d). "dynamic" scaling is plain within the positions
 * a model was trained for, and more are refused, so it needs no kind of its own. */
typedef enum bal_rope_kind {
    BAL_ROPE_PLAIN,
    BAL_ROPE_LINEAR, /* positions divided by a factor */
    BAL_ROPE_LLAMA3, /* long wavelengths divided, short kept, smooth between (Llama 3.1) */
    BAL_ROPE_YARN,   /* the same with a ramp over dimensions, and scaled cos, sin (Peng et al. 2023)
                      */
} bal_rope_kind;

typedef struct bal_text_config {
    int32_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocab;
    int32_t max_positions;
    int32_t tied; /* 1: the head is the embedding table unless lm_head.weight is in the file */
    int32_t qkv_bias, o_bias, mlp_bias; /* which linears have biases */
    int32_t qk_norm;                    /* 1: RMSNorm over each head of q and k, before rotation */
    int32_t grouped_qkv;                /* 1: q, k, v may be one tensor, a KV group after the other:
                                           heads / kv_heads query heads, a key and a value head */
    int32_t rope_kind;                  /* bal_rope_kind */
    int32_t rope_original;              /* positions before scaling */
    int32_t mrope[3]; /* frequencies that follow t, h, w, in this order; 0, 0, 0: one position */
    float rope_theta, rms_eps;
    float rope_factor, rope_low, rope_high; /* llama3: low and high frequency factor; yarn: beta
                                               slow and fast; 0 where unused */
    float rope_magnitude;                   /* yarn: cos and sin are multiplied by it */
} bal_text_config;

typedef enum bal_vision_act {
    BAL_ACT_GELU_TANH,
    BAL_ACT_GELU,       /* exact, through erf */
    BAL_ACT_QUICK_GELU, /* x sigmoid(1.702 x) */
    BAL_N_ACTS,
} bal_vision_act;

typedef enum bal_vision_norm { BAL_NORM_RMS, BAL_NORM_LAYER } bal_vision_norm;

typedef struct bal_vision_config {
    int32_t hidden, layers, heads, intermediate, image_size, patch_size;
    int32_t side;        /* patches per side of a view: image_size / patch_size, rounded down */
    int32_t file_layers; /* blocks in the file; of them `layers` run */
    int32_t act, norm;   /* bal_vision_act, bal_vision_norm */
    int32_t cls;         /* 1: a class token in front of each view's patches, dropped behind the
                            tower */
    int32_t pre_norm, post_norm; /* 1: a norm before, behind the blocks that is applied */
    int32_t qkv_bias;
    int32_t qk_norm;         /* 1: RMSNorm of q and k over the full width */
    int32_t shuffle;         /* r: r x r patches become one token of r^2 times the width; 1: none */
    int32_t shuffle_columns; /* 1: tokens then go column by column (InternVL's first version) */
    int32_t temporal;        /* frames of a patch, a still picture in each; 0 or 1: one */
    int32_t gated;           /* 1: the MLP is gated: down(silu(gate) * up) */
    int32_t window; /* side of an attention window in tokens behind the projector; 0: none */
    int32_t full_blocks[32]; /* with windows: bit i % 32 of word i / 32 for each block i that sees
                                the whole picture */
    int32_t projector_act;
    float ln_eps;
} bal_vision_config;

typedef struct bal_config {
    int32_t family; /* bal_family_def.id */
    bal_text_config text;
    int32_t has_vision;
    bal_vision_config vision;
    int32_t image_token; /* id that stands at VISION positions; -1: to be looked up by its string */
    int32_t min_tiles, max_tiles; /* tiles of a picture, an overview not counted */
    int32_t thumbnail;            /* 1: tiles are followed by an overview */
    int32_t resample;    /* Pillow's number of the filter: 1 Lanczos, 2 bilinear, 3 bicubic */
    int32_t resize_edge; /* what an edge of a picture is resized to before it is cut: the longest in
                            Idefics3, the shortest in LLaVA-1.5; 0 unused */
    int32_t min_pixels, max_pixels; /* area of a picture that keeps its own resolution; 0 unused */
    int32_t n_pinpoints;
    int32_t pinpoints[BAL_MAX_PINPOINTS][2]; /* height, width */
    float image_mean[3], image_std[3];
    int32_t n_eos;
    int32_t eos[BAL_MAX_EOS]; /* ids that end generation */
} bal_config;

/* Reads and checks `dir`; every error names file and key. An unknown model_type is BAL_E_UNSUP with
 * the known ones. */
bal_status bal_config_read(bal_config *c, const char *dir, bal_error *err);

/* The same from objects in hand: config.json's root, and preprocessor_config.json's, which is not
 * looked at for a model without a tower. Errors name their file and path. */
bal_status bal_config_from_json(bal_config *c, const bal_json *config, const bal_json *processor,
                                bal_error *err);

/* Compiled form, little-endian; *out is malloc'ed. Reading checks every field as untrusted, and
 * reads the first version of the format as well (LLaVA-OneVision only). */
bal_status bal_config_blob(const bal_config *c, uint8_t **out, size_t *n_bytes, bal_error *err);
bal_status bal_config_from_blob(bal_config *c, const uint8_t *data, size_t n_bytes, bal_error *err);

/* Tokens of one view behind the projector. */
static inline int bal_view_tokens(const bal_vision_config *v)
{
    return v->shuffle > 0 ? (v->side / v->shuffle) * (v->side / v->shuffle) : 0;
}

#endif
