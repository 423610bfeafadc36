/* SPDX-License-Identifier: MIT
 * Packing what stands beside the decoder's blocks: the linears of the vision tower's blocks, of the
 * projector, and the head, rounded to nearest without data, at bits of their own (recipe keys
 * vision, projector and head). Patch embedding, norms, biases and the embedding table stay as they
 * are: a head that was tied to that table becomes a tensor of its own. Tensors that hold q, k and v
 * together come apart: each becomes a packed tensor under the name it has where it is one. */
#ifndef BAL_QUANT_TOWER_H
#define BAL_QUANT_TOWER_H

#include "model/model.h"
#include "op/exec.h"
#include "quant/part.h"
#include "quant/workspace.h"

typedef struct bal_tower_linear {
    char name[BAL_PART_NAME];  /* canonical, of its weight as a tensor of its own */
    char fused[BAL_PART_NAME]; /* of the tensor whose rows it may be in the checkpoint, or "" */
    bal_linear *linear;        /* in the model; a packed view once it is packed */
    int piece; /* block; the number of blocks for the projector, one more for the head */
    bal_side side;
    bal_packed_layout layout; /* the narrowest where bits are auto, until they are set */
    bal_act act;              /* how it will read its inputs */
} bal_tower_linear;

typedef struct bal_tower {
    bal_tower_linear *items;
    size_t n;
    int n_pieces, group;
    bal_tensor_set *pieces; /* [n_pieces], open as far as they are packed */
} bal_tower;

/* What `recipe` packs of m, which must outlive the list; nothing is packed yet. BAL_E_ARG when it
 * asks for bits that the model has no vision tower for. On failure *t is empty. */
bal_status bal_tower_list(bal_tower *t, bal_model *m, const bal_recipe *recipe, bal_error *err);

enum { BAL_SIDE_WIDTHS = 3 };
extern const int bal_side_widths[BAL_SIDE_WIDTHS]; /* 4 6 8 */
/* The layout of an item at other bits; and to have it so. */
bal_status bal_tower_layout(const bal_tower *t, const bal_tower_linear *item, int bits,
                            bal_packed_layout *out, bal_error *err);

/* Packed bytes of one item, malloc'ed, and its linear as a view of them, which must outlive it. */
bal_status bal_tower_round(const bal_exec *e, const bal_tower_linear *item, uint8_t **out,
                           bal_error *err);
bal_status bal_tower_view(const bal_tower_linear *item, const uint8_t *data, uint64_t n_bytes,
                          bal_error *err);

/* Packs what stands in front of the decoder piece by piece into files of the workspace and makes
 * the model's linears views of these: from here on the model sees as the finished file will. Memory
 * holds one piece. */
bal_status bal_tower_pack(bal_tower *t, const bal_exec *e, const bal_workspace *space,
                          bal_step_fn *step, void *step_ctx, bal_error *err);

/* The same for the head, once nobody asks for gradients any more: these need it as floats. */
bal_status bal_tower_pack_head(bal_tower *t, const bal_exec *e, const bal_workspace *space,
                               bal_error *err);

/* Whether the weight of that canonical name is in the list, alone or fused. */
bool bal_tower_holds(const bal_tower *t, const char *name);

void bal_tower_close(bal_tower *t); /* idempotent; a zeroed struct is fine */

#endif
