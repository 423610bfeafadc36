/* SPDX-License-Identifier: MIT
 * Binding named tensors to the fields of a model. A family is a static table of rows; binding
 * checks both ways: a missing tensor and a tensor that no row claims are errors.
 *
 * Names are canonical (what current transformers versions use); a family's prefix table says what
 * the same tensors were called before. A linear "X.weight" may be stored packed, as the U8 tensor
 * "X.weight.packed" with its layout id in the metadata entry "layout.X.weight". */
#ifndef BAL_MODEL_BIND_H
#define BAL_MODEL_BIND_H

#include "model/model.h"

typedef enum bal_bind_kind {
    BAL_BIND_VECTOR, /* const float *, [n], copied to f32 */
    BAL_BIND_LINEAR, /* bal_linear, [n][k], a view */
    BAL_BIND_BIAS,   /* bal_linear.bias, [n], copied to f32 */
    BAL_BIND_UNUSED, /* in published files, claimed so that it is not an error */
} bal_bind_kind;

/* Where a row's field lives. */
typedef enum bal_bind_owner { BAL_OWNER_MODEL, BAL_OWNER_DECODER, BAL_OWNER_VISION } bal_bind_owner;

/* Sizes a shape may refer to. */
typedef enum bal_bind_dim {
    BAL_DIM_NONE,
    BAL_DIM_HIDDEN,
    BAL_DIM_Q,  /* heads * head_dim */
    BAL_DIM_KV, /* kv_heads * head_dim */
    BAL_DIM_INTER,
    BAL_DIM_VOCAB,
    BAL_DIM_V_HIDDEN,
    BAL_DIM_V_INTER,
    BAL_DIM_V_PATCHES,    /* side * side */
    BAL_DIM_V_PATCH_SIZE, /* 3 * patch * patch; the tensor is [n][3][patch][patch] */
} bal_bind_dim;

typedef struct bal_bind_row {
    bal_bind_kind kind;
    bal_bind_owner owner;
    size_t offset;    /* of the field in its owner */
    const char *name; /* canonical; one %d for the layer unless the owner is the model */
    bal_bind_dim n, k;
    bool optional;
} bal_bind_row;

typedef struct bal_bind_prefix {
    const char *canonical, *old;
} bal_bind_prefix;

typedef struct bal_bind_family {
    const bal_bind_row *rows;
    size_t n_rows;
    const bal_bind_prefix *prefixes;
    size_t n_prefixes;
} bal_bind_family;

extern const bal_bind_family bal_llava_onevision_family;

/* Binds m->tensors to m's fields; m->config is set and m->layers, m->vision_layers are allocated.
 * ballast.config and ballast.tokenizer belong to the file format and are not a family's. */
bal_status bal_bind(bal_model *m, const bal_bind_family *family, bal_error *err);

/* The tensor a canonical name refers to under either generation of names, or NULL. */
const bal_tensor_view *bal_bind_find(const bal_tensor_set *set, const bal_bind_family *family,
                                     const char *canonical);
/* The canonical form of a name found in a file (the name itself when it is canonical already). */
bal_status bal_bind_canonical(char *out, size_t size, const bal_bind_family *family,
                              const char *name, bal_error *err);

#endif
