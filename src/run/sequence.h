/* SPDX-License-Identifier: MIT
 * From a conversation with pictures to decoder inputs: every position with its id, modality, image
 * and rotary position, and the embedding of each. */
#ifndef BAL_RUN_SEQUENCE_H
#define BAL_RUN_SEQUENCE_H

#include "model/family.h"
#include "run/session.h"
#include "text/chat.h"

typedef struct bal_sequence {
    int n;
    bal_token_info *info; /* [n]; info[i].image counts from first_image, at VISION positions */
    int n_images;
    bal_view_plan *plans; /* [n_images] */
} bal_sequence;

/* Expands chat tokens: each image slot becomes what the family puts in a picture's place. sizes[i]
 * = {width, height} of the pictures in order. first_pos, first_image: where the sequence stands in
 * its conversation. BAL_E_ARG when slots and pictures differ in number. */
bal_status bal_sequence_build(bal_sequence *s, const bal_engine *engine,
                              const bal_chat_tokens *tokens, const int (*sizes)[2], int n_images,
                              bal_view_mode mode, int first_pos, int first_image, bal_error *err);
void bal_sequence_free(bal_sequence *s); /* idempotent; zeroed struct is fine */

/* Plan of one picture of w x h pixels. BAL_E_ARG for a model that cannot see. */
bal_status bal_sequence_plan(const bal_engine *engine, int w, int h, bal_view_mode mode,
                             bal_view_plan *plan, bal_error *err);

/* embeds [n][hidden]: table rows for text, encoded pictures for VISION positions. images in the
 * order of the plans. */
bal_status bal_sequence_embed(const bal_sequence *s, const bal_engine *engine, const bal_exec *exec,
                              const bal_image *images, float *embeds, bal_taps taps,
                              bal_error *err);
/* The part of a sequence that starts at `at`: text up to the next picture, or a picture from its
 * first VISION position to its last, with what stands between. plans: of the pictures from there
 * on. */
bal_sequence bal_sequence_part(const bal_sequence *s, int at, bal_view_plan *plans);

/* Where a tower runs: on the engine's device, if that has one of this family. */
bool bal_sequence_encodes_on_device(const bal_engine *engine);

/* Features [plan->n_tokens][hidden] of a picture's normalised views, [plan->n_floats]. */
bal_status bal_sequence_encode(const bal_engine *engine, const bal_exec *exec,
                               const bal_view_plan *plan, const float *pixels, float *out,
                               bal_taps taps, bal_error *err);

/* Features of one picture, [plan->n_tokens][hidden]. */
bal_status bal_sequence_look(const bal_engine *engine, const bal_exec *exec,
                             const bal_view_plan *plan, const bal_image *image, float *out,
                             bal_taps taps, bal_error *err);

/* Bytes that looking at a picture takes beside the picture itself: its normalised views, the
 * tower's work memory and the features. */
size_t bal_sequence_look_bytes(const bal_engine *engine, const bal_view_plan *plan);

#endif
