/* SPDX-License-Identifier: MIT
 * Inside model/ only: what the families' config readers share. Keys that are out of range, of
 * another type, or of a value that this build would get wrong are errors naming file and key. */
#ifndef BAL_MODEL_CONFIG_READ_H
#define BAL_MODEL_CONFIG_READ_H

#include "format/json.h"
#include "image/plan.h"
#include "model/config.h"

enum {
    BAL_MAX_DIM = 1 << 20,
    BAL_MAX_LAYERS = 1024,
    BAL_MAX_SIDE = 4096,
    BAL_MAX_PATCHES = 1 << 24 /* in all views of one picture */
};

/* "FILE: PATH.key: what" */
bal_status bal_config_fail(bal_error *err, const bal_json *obj, const char *key, const char *what);
/* A string key that must have one value for this build to be right about the model. */
bal_status bal_config_expect(const bal_json *obj, const char *key, const char *otherwise,
                             const char *expected, bal_error *err);

/* A language model's keys at `o`; `root` may say tie_word_embeddings in its stead. model_type (or
 * `otherwise` where absent) must be one of `types`, NULL-terminated names among llama, qwen2, qwen3
 * and internlm2. partial: sizes may be left out and are the class defaults then (only Llama's are
 * ever left out in published files). */
bal_status bal_config_text(bal_text_config *t, const bal_json *o, const bal_json *root,
                           const char *otherwise, const char *const *types, bool partial,
                           bal_error *err);

/* Sizes of a vision tower under the usual names, with a class's defaults for absent ones; `side`,
 * `file_layers` and the neutral values of everything else are set. */
typedef struct bal_vision_defaults {
    int hidden, layers, heads, intermediate, image_size, patch_size;
    double ln_eps;
    const char *act;
} bal_vision_defaults;
bal_status bal_config_vision(bal_vision_config *v, const bal_json *o, const bal_vision_defaults *d,
                             bal_error *err);
/* "gelu", "gelu_pytorch_tanh", "gelu_new" or "quick_gelu". */
bal_status bal_config_act(const bal_json *o, const char *key, const char *otherwise, int32_t *out,
                          bal_error *err);

/* The block whose output is used, counted from the end (-1 the last): those behind it do not run.
 */
bal_status bal_config_feature_layer(bal_vision_config *v, const bal_json *root, const char *key,
                                    int otherwise, bal_error *err);
/* A size in preprocessor_config.json, a number or an object, that must be the tower's. */
bal_status bal_config_view_size(const bal_config *c, const bal_json *o, const char *key,
                                bal_error *err);
/* Views that n tokens are enough for, at least 1: for bal_family_def.limit. */
bal_status bal_config_views_within(const bal_config *c, int n, int *views, bal_error *err);
/* image_token_id or image_token_index. */
bal_status bal_config_image_token(bal_config *c, const bal_json *root, int otherwise,
                                  bal_error *err);
/* image_mean, image_std and resample of preprocessor_config.json. */
bal_status bal_config_norm(bal_config *c, const bal_json *o, const double mean[3],
                           const double std[3], int resample, bal_error *err);

bal_norm bal_config_pixel_norm(const bal_config *c);

extern const double bal_clip_mean[3], bal_clip_std[3];

#endif
