/* SPDX-License-Identifier: MIT
 * A tokenizer being read from JSON and text files: collects tokens and merges under one set of
 * rules and packs them into a blob (tokenizer_blob.h). Messages name the entry; callers put the
 * file and the place in front. */
#ifndef BAL_TEXT_TOKENIZER_DRAFT_H
#define BAL_TEXT_TOKENIZER_DRAFT_H

#include <jansson.h>

#include "text/tokenizer_blob.h"

typedef struct bal_draft_token {
    const char *text; /* borrowed from the JSON; NULL for an id that nobody has claimed */
    size_t n;
    bool added, special;
} bal_draft_token;

/* Zero-initialise. Order of calls: init, add_token, take_vocab, add_merge, pack, deinit. */
typedef struct bal_tokenizer_draft {
    const json_t *vocab; /* text in the byte alphabet -> id; borrowed until deinit */
    json_t *added;       /* text -> id of added tokens */
    bal_draft_token *tokens;
    size_t n_tokens, cap; /* highest id + 1, and how many ids there can be */
    bal_merge *merges;
    size_t n_merges, cap_merges;
    char *joined; /* working memory: two parts of a merge, one after the other */
    size_t cap_joined;
    bool nfc;
    const char *pattern; /* split pattern, borrowed */
    size_t n_pattern;
} bal_tokenizer_draft;

/* n_added is an upper bound on the calls of add_token. */
bal_status bal_draft_init(bal_tokenizer_draft *d, const json_t *vocab, size_t n_added,
                          bal_error *err);
void bal_draft_deinit(bal_tokenizer_draft *d);
/* An added token; content is borrowed until pack. The same content and id twice is refused. */
bal_status bal_draft_add_token(bal_tokenizer_draft *d, const char *content, json_int_t id,
                               bool special, bal_error *err);
/* Id of an added token so far, or -1. */
json_int_t bal_draft_added_id(const bal_tokenizer_draft *d, const char *content);
/* Claims the ids of the vocabulary and checks that no id is left over. */
bal_status bal_draft_take_vocab(bal_tokenizer_draft *d, bal_error *err);
/* The next merge in order of rank, its parts in the byte alphabet. */
bal_status bal_draft_add_merge(bal_tokenizer_draft *d, const char *left, size_t n_left,
                               const char *right, size_t n_right, bal_error *err);
/* *blob is malloc'ed. */
bal_status bal_draft_pack(const bal_tokenizer_draft *d, uint8_t **blob, size_t *n, bal_error *err);

/* Reads one JSON object, refusing duplicate keys; json_decref *out. */
bal_status bal_draft_load_object(json_t **out, const char *json, size_t n, bal_error *err);
/* An added token as tokenizer.json and added_tokens_decoder describe it; refuses matching rules
 * that reach beyond the token (lstrip, rstrip, single_word). */
bal_status bal_draft_add_described(bal_tokenizer_draft *d, const json_t *entry, json_int_t id,
                                   bal_error *err);

#endif
