/* SPDX-License-Identifier: MIT
 * The shapes of OpenAI's completions, whole and in chunks. Every function gives a new reference,
 * NULL when memory is short. */
#ifndef BAL_SERVE_WIRE_H
#define BAL_SERVE_WIRE_H

#include "serve/answer.h"

#include <jansson.h>

/* What every object of one answer carries. */
typedef struct bal_wire {
    bool chat;
    bool logprobs;
    char id[48]; /* "chatcmpl-..." */
    int64_t created;
    const char *model;
} bal_wire;

void bal_wire_init(bal_wire *w, bool chat, bool logprobs, const char *model);

/* {"id":..., "object":..., "created":..., "model":..., "choices": choices}; takes `choices` over.
 */
json_t *bal_wire_object(const bal_wire *w, bool chunk, json_t *choices);

/* A whole choice. */
json_t *bal_wire_choice(const bal_wire *w, int index, const bal_answer *a);
/* What a chunk brings: the role, text[from..to) with the records given, or the end. */
json_t *bal_wire_opening(int index);
json_t *bal_wire_piece(const bal_wire *w, int index, const bal_answer *a, size_t text_to,
                       size_t records_to);
json_t *bal_wire_ending(const bal_wire *w, int index, const bal_answer *a);

json_t *bal_wire_usage(int n_prompt, int n_image, int n_cached, int n_generated);

#endif
