/* SPDX-License-Identifier: MIT
 * Binding named tensors to the fields of a model. A family is a static table of rows; binding
 * checks both ways: a missing tensor and a tensor that no row claims are errors.
 *
 * Names are canonical, the same for every family: model.language_model.*, lm_head.*,
 * model.vision_tower.*, model.multi_modal_projector.*. A family's name tables say what its
 * checkpoints call the same tensors. A linear "X.weight" may be stored packed, as the U8 tensor
 * "X.weight.packed" with its layout id in the metadata entry "layout.X.weight". */
#ifndef BAL_MODEL_BIND_H
#define BAL_MODEL_BIND_H

#include "model/model.h"

typedef enum bal_bind_kind {
    BAL_BIND_VECTOR, /* const float *, [n] or [n][k], copied to f32; leading 1s in the tensor's
                        shape do not count */
    BAL_BIND_LINEAR, /* bal_linear, [n][k], a view */
    BAL_BIND_BIAS,   /* bal_linear.bias, [n], copied to f32 */
    BAL_BIND_UNUSED, /* in published files, claimed so that it is not an error */
} bal_bind_kind;

/* Which rows of its tensor a LINEAR or BIAS is. A field that is bound already is left alone, so
 * rows of fused tensors stand behind those of separate ones. */
typedef enum bal_bind_part {
    BAL_PART_WHOLE,
    BAL_PART_THIRD_0, /* the tensor is [3 n]: q rows, then k, then v */
    BAL_PART_THIRD_1,
    BAL_PART_THIRD_2,
    BAL_PART_GROUP_Q, /* [KV groups][heads per group + 2][head_dim]: InternLM2; copied */
    BAL_PART_GROUP_K,
    BAL_PART_GROUP_V,
} bal_bind_part;

/* Where a row's field lives. */
typedef enum bal_bind_owner { BAL_OWNER_MODEL, BAL_OWNER_DECODER, BAL_OWNER_VISION } bal_bind_owner;

/* Sizes a shape may refer to. */
typedef enum bal_bind_dim {
    BAL_DIM_NONE,
    BAL_DIM_HIDDEN,
    BAL_DIM_Q,  /* heads * head_dim */
    BAL_DIM_KV, /* kv_heads * head_dim */
    BAL_DIM_HEAD,
    BAL_DIM_INTER,
    BAL_DIM_VOCAB,
    BAL_DIM_V_HIDDEN,
    BAL_DIM_V_INTER,
    BAL_DIM_V_POSITIONS,  /* side * side, and one for a class token */
    BAL_DIM_V_PATCH_SIZE, /* 3 * frames * patch * patch; the tensor is [n][3][patch][patch],
                             with frames behind the 3 where there are several */
    BAL_DIM_V_TOKEN,      /* vision hidden * shuffle^2: what enters the projector */
} bal_bind_dim;

typedef struct bal_bind_row {
    bal_bind_kind kind;
    bal_bind_owner owner;
    size_t offset;    /* of the field in its owner */
    const char *name; /* canonical; one %d for the layer unless the owner is the model */
    bal_bind_dim n, k;
    bool optional;
    size_t
        flag; /* offset in bal_config of an int32 without which the row does not exist; 0: none */
    bal_bind_part part;
} bal_bind_row;

typedef struct bal_bind_rename {
    const char *canonical, *old;
} bal_bind_rename;

/* How a family's checkpoints name tensors. Of the prefixes the first that leads to a tensor counts;
 * infixes, in the same order, are all replaced wherever they occur. */
typedef struct bal_bind_names {
    const bal_bind_rename *prefixes;
    size_t n_prefixes;
    const bal_bind_rename *infixes;
    size_t n_infixes;
} bal_bind_names;

/* Binds m->tensors to m's fields; m->config is set and m->layers, m->vision_layers are allocated.
 * ballast.config and ballast.tokenizer belong to the file format and are not a family's. */
bal_status bal_bind(bal_model *m, const bal_family_def *family, bal_error *err);

/* A tensor that a model has: its canonical name and shape, and a row that it serves. */
typedef bal_status bal_bind_tensor_fn(void *ctx, const bal_bind_row *row, const char *name,
                                      const uint64_t *shape, int n_dims, bal_error *err);
/* Every tensor that binding a model of this config needs or may use, once each; where q, k, v may
 * be one tensor or three, the three. Blocks that do not run are listed like those that do, tensors
 * that nobody reads are not. */
bal_status bal_bind_each(const bal_config *c, bal_bind_tensor_fn *fn, void *ctx, bal_error *err);

/* The tensor a canonical name refers to under any of the family's names, or NULL. */
const bal_tensor_view *bal_bind_find(const bal_tensor_set *set, const bal_bind_names *names,
                                     const char *canonical);
/* The canonical form of a name found in a file (the name itself when it is canonical already). */
bal_status bal_bind_canonical(char *out, size_t size, const bal_bind_names *names, const char *name,
                              bal_error *err);

#endif
