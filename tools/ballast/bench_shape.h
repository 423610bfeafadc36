/* SPDX-License-Identifier: MIT
 * Shapes of published models: their config and nothing else, from shapes/ (compiled in) or a file
 * of the same form. With them a machine can be measured without any weights at hand. */
#ifndef BAL_TOOL_BENCH_SHAPE_H
#define BAL_TOOL_BENCH_SHAPE_H

#include "format/safetensors.h"
#include "model/config.h"
#include "type/act.h"

typedef struct bal_shape {
    char name[64];
    bal_config config;
    bal_st_dtype dtype; /* of what is not quantized: F16 or BF16 */
    bool lm_head;       /* the checkpoint has a head of its own */
} bal_shape;

/* A shape that is compiled in, generated from shapes/ at build time; ends with a NULL name. */
typedef struct bal_shape_text {
    const char *name, *json;
} bal_shape_text;
extern const bal_shape_text bal_shape_builtin[];

/* `name` is a built-in shape, or a file if it holds a '/' or ends in ".json". BAL_E_ARG names the
 * known ones. */
bal_status bal_shape_load(bal_shape *s, const char *name, bal_error *err);

/* The file with random weights of a shape: `bits` 2, 3, 4, 6 or 8 with groups of `group` inputs in
 * the decoder's linears, which read their inputs as `act` says, or 16: everything in the shape's
 * own type. The head has `head` bits in such groups, or 16 likewise; packed, it stands beside an
 * embedding table that it shared. The vision tower's linears have `tower` bits, or 16 likewise, and
 * read their inputs as the decoder's do. */
typedef struct bal_shape_file {
    const bal_shape *shape;
    int bits, head, tower;
    size_t group;
    bal_act act;
} bal_shape_file;

/* Writes a Ballast file that opens and runs, its weights random with the spread that keeps
 * activations sane, its tokenizer made up, the chat template's tokens in it. Memory: a few MiB.
 * progress may be NULL; its stage is "writing", in MiB. BAL_E_IO when the disk has too little room
 * (nothing is written then). */
bal_status bal_shape_write(const char *path, const bal_shape_file *file, bal_progress_fn *progress,
                           void *ctx, bal_error *err);
/* Whether `path` is a file that bal_shape_write made for the same arguments. */
bool bal_shape_is(const char *path, const bal_shape_file *file);

/* A tokenizer of n_tokens (bytes, words of a few letters, every special token that a chat template
 * of ours uses) as a blob; the caller frees it. image: the text of token image_id; NULL or -1:
 * there is none at a place of its own. */
bal_status bal_shape_tokenizer(int n_tokens, const char *image, int image_id, uint8_t **blob,
                               size_t *n, bal_error *err);

#endif
