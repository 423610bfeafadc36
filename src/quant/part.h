/* SPDX-License-Identifier: MIT
 * One solved block on disk: its linears, packed or as floats, folded norms and biases under their
 * final names, as a small safetensors file. A run that was killed goes on from these; the finished
 * file is made of them; and the quantized stream runs from the bytes in them, so what is measured
 * is what ships. */
#ifndef BAL_QUANT_PART_H
#define BAL_QUANT_PART_H

#include "quant/block.h"

typedef struct bal_part {
    bal_tensor_set set;
    bal_decoder_layer layer; /* views into set, to be run like any other block */
} bal_part;

/* Packs `r`, solved from `source`, or makes floats of it if it says so, and writes it as block
 * `index`; the file appears whole or not at all. */
bal_status bal_part_write(const char *path, const bal_block_result *r, const bal_text_config *c,
                          const bal_decoder_layer *source, int index, bal_error *err);
/* The file is untrusted: it must hold exactly the tensors of block `index` of the checkpoint, whose
 * float layer is `source`, in the shapes that `c` gives them and stored as `recipe` says; a missing
 * or an additional one is BAL_E_FORMAT. On failure *p is empty. */
bal_status bal_part_open(bal_part *p, const char *path, const bal_text_config *c,
                         const bal_decoder_layer *source, const bal_recipe *recipe, int index,
                         bal_error *err);
void bal_part_close(bal_part *p); /* idempotent; a zeroed struct is fine */

/* Outputs n and inputs k of decoder linear i (q k v o gate up down). */
void bal_part_linear_size(const bal_text_config *c, int i, int *n, int *k);

/* Canonical names of what a block has besides its linears' weights. */
enum { BAL_PART_NAME = 200 };
typedef enum bal_part_norm {
    BAL_PART_ATTN_NORM,
    BAL_PART_MLP_NORM,
    BAL_PART_Q_NORM, /* these two only in a model with text.qk_norm */
    BAL_PART_K_NORM,
    BAL_PART_NORMS
} bal_part_norm;
void bal_part_norm_name(char out[BAL_PART_NAME], int index, bal_part_norm which);
/* Its length; 0 where the model has none. */
int bal_part_norm_size(const bal_text_config *c, bal_part_norm which);
void bal_part_bias_name(char out[BAL_PART_NAME], int index, int linear);
void bal_part_packed_name(char out[BAL_PART_NAME], int index, int linear);
/* Of the matrix of small rank beside it, A and B, for the rows that get it. */
void bal_part_low_name(char out[BAL_PART_NAME], int index, int linear, bal_low_rows rows, bool b);
/* Metadata keys of the layout id and of the activation path of linear i; where the recipe says a16
 * there is none of the latter. */
void bal_part_layout_key(char out[BAL_PART_NAME], int index, int linear);
void bal_part_act_key(char out[BAL_PART_NAME], int index, int linear);

#endif
