/* SPDX-License-Identifier: MIT
 * A family: everything in which its models differ from others that is not a field of the config.
 * One constant per family, in a file of its own, and a word in the list below; nothing else
 * asks which family a model belongs to. How to add one: docs/families.md. */
#ifndef BAL_MODEL_FAMILY_H
#define BAL_MODEL_FAMILY_H

#include "format/json.h"
#include "image/image.h"
#include "image/plan.h"
#include "model/bind.h"
#include "model/decoder.h"
#include "model/device_vision.h"

/* How a picture becomes views. auto: one or many by the number of pictures of its sequence, which a
 * family never sees; one: the only picture of its conversation; many: one of several;
 * single: as few views as the family can see with, whatever the number (calibration's option). */
typedef enum bal_view_mode {
    BAL_VIEW_AUTO,
    BAL_VIEW_ONE,
    BAL_VIEW_MANY,
    BAL_VIEW_SINGLE
} bal_view_mode;

/* What stands in the sequence for a picture, piece by piece. token: an added token by its string;
 * text: ordinary text, to be encoded by itself; vision: n positions of the picture's features. */
typedef enum bal_piece { BAL_PIECE_TOKEN, BAL_PIECE_TEXT, BAL_PIECE_VISION } bal_piece;
typedef bal_status bal_piece_fn(void *ctx, bal_piece kind, const char *text, int n);

struct bal_family_def {
    int32_t id;             /* in compiled configs; never given to another family */
    const char *model_type; /* of config.json */
    const char *chat;       /* name of its chat template in text/chat.h */

    /* config.json's root and preprocessor_config.json's into *c; NULL processor: no pictures. */
    bal_status (*read)(bal_config *c, const bal_json *root, bal_error *err);
    bal_status (*read_processor)(bal_config *c, const bal_json *root, bal_error *err);
    /* What of its own fields is out of range (or NULL), for configs from any source; general limits
     * hold already. */
    const char *(*fault)(const bal_config *c);

    bal_bind_names names;
    const bal_bind_row *rows; /* tower and projector; every family has the decoder's rows */
    size_t n_rows;
    const char *image_token; /* string of the placeholder where config.json may not give its id */

    /* A family without pictures leaves the rest NULL. */

    /* Views, tokens and sizes of a picture of w x h pixels. BAL_E_ARG, BAL_E_UNSUP: a picture that
     * the family's rule refuses. */
    bal_status (*plan)(const bal_config *c, int w, int h, bal_view_mode mode, bal_view_plan *p,
                       bal_error *err);
    bool plan_by_count; /* the plan of a picture changes when a second one comes */
    /* Changes *c so that a picture takes at most n tokens, n >= 1. BAL_E_ARG: no picture of the
     * family can be that small. NULL: the number is no choice of the user's. */
    bal_status (*limit)(bal_config *c, int n, bal_error *err);
    /* out [p->n_floats]: normalised views as `encode` reads them */
    bal_status (*pixels)(const bal_config *c, const bal_view_plan *p, const bal_image *image,
                         float *out, bal_error *err);
    /* out [p->n_tokens][text hidden] */
    bal_status (*encode)(const bal_exec *e, const bal_model *m, const bal_view_plan *p,
                         const float *pixels, float *out, bal_taps taps, bal_error *err);
    /* The same with tower and projector on a device. NULL: they stay on the CPU. */
    bal_status (*encode_on)(bal_device_vision *t, const bal_view_plan *p, const float *pixels,
                            float *out, bal_taps taps, bal_error *err);
    /* Bytes of work memory that encode allocates. NULL: those of the usual one. */
    size_t (*work)(const bal_model *m, const bal_view_plan *p);
    /* The pieces in order, p->n_tokens vision positions in all. NULL: just those. */
    bal_status (*layout)(const bal_config *c, const bal_view_plan *p, bal_piece_fn *put, void *ctx);
    /* Rotary positions of the picture's features, the first of which would stand at `start`:
     * pos [p->n_tokens][3]; returns the next free position. NULL: start, start + 1, ... for all
     * three. */
    int (*positions)(const bal_config *c, const bal_view_plan *p, int start, int32_t (*pos)[3]);
};

/* The list: a file of its own and a word here for each. */
#define BAL_FAMILIES(X)                                                                            \
    X(llava_onevision)                                                                             \
    X(llava)                                                                                       \
    X(idefics3)                                                                                    \
    X(smolvlm)                                                                                     \
    X(internvl)                                                                                    \
    X(internvl_chat)                                                                               \
    X(llama)                                                                                       \
    X(qwen2)                                                                                       \
    X(qwen3)                                                                                       \
    X(internlm2)                                                                                   \
    X(qwen2_vl)                                                                                    \
    X(qwen2_5_vl)                                                                                  \
    BAL_OWN_FAMILIES(X)

/* One more without a line above, for family.c compiled with -DBAL_OWN_FAMILY=name: how the tests
 * build docs/family_template.c. */
#ifdef BAL_OWN_FAMILY
#define BAL_OWN_FAMILY_(X, name) X(name)
#define BAL_OWN_FAMILIES(X)      BAL_OWN_FAMILY_(X, BAL_OWN_FAMILY)
#else
#define BAL_OWN_FAMILIES(X)
#endif

#define X(name) extern const bal_family_def bal_family_##name;
BAL_FAMILIES(X)
#undef X

/* The family of a config that was read or checked; never NULL for those. */
const bal_family_def *bal_family_of(const bal_config *c);
/* By config.json's model_type; BAL_E_UNSUP names `file`, what was found and the known ones. */
bal_status bal_family_find(const bal_family_def **out, const char *model_type, const char *file,
                           bal_error *err);
const bal_family_def *bal_family_by_id(int32_t id); /* NULL: unknown */
/* The list, for tests and help texts; NULL behind the last. */
const bal_family_def *bal_family_at(size_t i);

/* Rows that every family has: embedding table, head, norms and the decoder's linears. */
extern const bal_bind_row bal_text_rows[];
extern const size_t bal_n_text_rows;

/* The usual `encode`: features of the views in order, nothing added. */
bal_status bal_family_encode_views(const bal_exec *e, const bal_model *m, const bal_view_plan *p,
                                   const float *pixels, float *out, bal_taps taps, bal_error *err);
bal_status bal_family_encode_views_on(bal_device_vision *t, const bal_view_plan *p,
                                      const float *pixels, float *out, bal_taps taps,
                                      bal_error *err);
/* Work memory of the family's encode, bytes. */
size_t bal_family_work(const bal_model *m, const bal_view_plan *p);
/* The usual `pixels` of plans made by image/tiles.h. */
bal_status bal_family_tile_pixels(const bal_config *c, const bal_view_plan *p,
                                  const bal_image *image, float *out, bal_error *err);

/* What InternLM2 calls the parts of a decoder layer, for every family that has it inside. */
#define BAL_INTERNLM2_INFIXES                                                                      \
    {".self_attn.qkv_proj.", ".attention.wqkv."}, {".self_attn.o_proj.", ".attention.wo."},        \
        {".mlp.gate_proj.", ".feed_forward.w1."}, {".mlp.up_proj.", ".feed_forward.w3."},          \
        {".mlp.down_proj.", ".feed_forward.w2."}, {".input_layernorm.", ".attention_norm."},       \
        {".post_attention_layernorm.", ".ffn_norm."},                                              \
    {                                                                                              \
        ".embed_tokens.", ".tok_embeddings."                                                       \
    }

#endif
