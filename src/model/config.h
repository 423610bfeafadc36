/* SPDX-License-Identifier: MIT
 * What a model is: sizes and constants, read from a Hugging Face folder (config.json,
 * preprocessor_config.json, generation_config.json, with the class defaults that published files
 * leave out) or from the compiled blob inside a Ballast file. Plain data, no pointers. */
#ifndef BAL_MODEL_CONFIG_H
#define BAL_MODEL_CONFIG_H

#include "base/status.h"

enum { BAL_MAX_PINPOINTS = 256, BAL_MAX_EOS = 8 };

typedef enum bal_family {
    BAL_FAMILY_LLAVA_ONEVISION = 1,
} bal_family;

typedef struct bal_text_config {
    int32_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocab;
    int32_t max_positions;
    int32_t tied; /* 1: the head is the embedding table unless lm_head.weight is in the file */
    float rope_theta, rms_eps;
} bal_text_config;

typedef struct bal_vision_config {
    int32_t hidden, layers, heads, intermediate, image_size, patch_size;
    int32_t side; /* patches per side of a view: image_size / patch_size, rounded down */
    float ln_eps;
} bal_vision_config;

typedef struct bal_config {
    int32_t family;
    bal_text_config text;
    int32_t has_vision;
    bal_vision_config vision;
    int32_t image_token; /* id of the placeholder <image> */
    int32_t max_tiles;   /* N of anyres_max_N */
    int32_t n_pinpoints;
    int32_t pinpoints[BAL_MAX_PINPOINTS][2]; /* height, width */
    float image_mean[3], image_std[3];
    int32_t n_eos;
    int32_t eos[BAL_MAX_EOS]; /* ids that end generation */
} bal_config;

/* Reads and checks `dir`; every error names file and key. */
bal_status bal_config_read(bal_config *c, const char *dir, bal_error *err);

/* Compiled form, little-endian; *out is malloc'ed. Reading checks every field as untrusted. */
bal_status bal_config_blob(const bal_config *c, uint8_t **out, size_t *n_bytes, bal_error *err);
bal_status bal_config_from_blob(bal_config *c, const uint8_t *data, size_t n_bytes, bal_error *err);

#endif
