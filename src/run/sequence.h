/* SPDX-License-Identifier: MIT
 * From a conversation with pictures to decoder inputs: every position with its id, modality, image
 * and rotary position, and the embedding of each. */
#ifndef BAL_RUN_SEQUENCE_H
#define BAL_RUN_SEQUENCE_H

#include "image/anyres.h"
#include "run/session.h"
#include "text/chat.h"

/* How pictures become views. auto: what the family does in use (tiles for a single picture, one
 * padded square each for several); square: one padded square view per picture always. */
typedef enum bal_view_mode { BAL_VIEW_AUTO, BAL_VIEW_SQUARE } bal_view_mode;

typedef struct bal_sequence {
    int n;
    bal_token_info *info; /* [n]; info[i].image counts from first_image */
    int n_images;
    bal_view_plan *plans; /* [n_images] */
} bal_sequence;

/* Expands chat tokens: each image slot takes the tokens of its picture. sizes[i] = {width, height}
 * of the pictures in order. first_pos, first_image: where the sequence stands in its conversation.
 * BAL_E_ARG when slots and pictures differ in number. */
bal_status bal_sequence_build(bal_sequence *s, const bal_config *c, const bal_chat_tokens *tokens,
                              const int (*sizes)[2], int n_images, bal_view_mode mode,
                              int first_pos, int first_image, bal_error *err);
void bal_sequence_free(bal_sequence *s); /* idempotent; zeroed struct is fine */

/* embeds [n][hidden]: table rows for text, encoded pictures for VISION positions. images in the
 * order of the plans. */
bal_status bal_sequence_embed(const bal_sequence *s, const bal_engine *engine, const bal_exec *exec,
                              const bal_image *images, float *embeds, bal_taps taps,
                              bal_error *err);

/* The chat template of the model's family. */
bal_chat_family bal_engine_chat(const bal_engine *e);

#endif
