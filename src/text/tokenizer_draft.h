/* SPDX-License-Identifier: MIT
 * A tokenizer being read from JSON, text files or a SentencePiece model: collects tokens and merges
 * under one set of rules and packs them into a blob (tokenizer_blob.h). Messages name the entry;
 * callers put the file and the place in front. */
#ifndef BAL_TEXT_TOKENIZER_DRAFT_H
#define BAL_TEXT_TOKENIZER_DRAFT_H

#include <jansson.h>

#include "text/tokenizer_blob.h"

typedef struct bal_draft_token {
    const char *text; /* borrowed from the source; NULL for an id that nobody has claimed */
    size_t n;
    bool added, special;
} bal_draft_token;

/* Zero-initialise. Order of calls: init, add_token, take_vocab, add_merge, pack, deinit. */
typedef struct bal_tokenizer_draft {
    const json_t *vocab; /* text as written in the source -> id; borrowed until deinit */
    json_t *added;       /* text -> id of added tokens */
    bal_draft_token *tokens;
    size_t n_tokens, cap; /* highest id + 1, and how many ids there can be */
    bal_merge *merges;
    size_t n_merges, cap_merges;
    char *joined; /* working memory: two parts of a merge, one after the other */
    size_t cap_joined;
    uint32_t flags; /* BAL_TOKENIZER_*; with CHARACTERS text is SentencePiece's, else GPT-2's */
    bool has_bos;
    json_int_t bos;      /* an added token */
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
/* A token of n bytes that neither text nor a name leads to. */
bal_status bal_draft_add_unreachable(bal_tokenizer_draft *d, const char *text, size_t n,
                                     json_int_t id, bal_error *err);
/* Id of an added token so far, or -1. */
json_int_t bal_draft_added_id(const bal_tokenizer_draft *d, const char *content);
/* Claims the ids of the vocabulary and checks that no id is left over. */
bal_status bal_draft_take_vocab(bal_tokenizer_draft *d, bal_error *err);
/* Makes `content`, an added token so far, the one that comes before a text. */
bal_status bal_draft_set_bos(bal_tokenizer_draft *d, const char *content, bal_error *err);
/* The next merge in order of rank, its parts as written in the source. */
bal_status bal_draft_add_merge(bal_tokenizer_draft *d, const char *left, size_t n_left,
                               const char *right, size_t n_right, bal_error *err);
/* The same by ids, which are there. */
bal_status bal_draft_add_merge_ids(bal_tokenizer_draft *d, bal_merge m, bal_error *err);
/* *blob is malloc'ed. */
bal_status bal_draft_pack(const bal_tokenizer_draft *d, uint8_t **blob, size_t *n, bal_error *err);

/* Reads one JSON object, refusing duplicate keys; json_decref *out. */
bal_status bal_draft_load_object(json_t **out, const char *json, size_t n, bal_error *err);
/* A component of a tokenizer.json has a "type"; absent or null it is nothing. */
bool bal_draft_is_type(const json_t *component, const char *name);
bool bal_draft_is_nothing(const json_t *component);
/* Fails with the type found under `key` and what was expected there. */
bal_status bal_draft_refuse_type(bal_error *err, const char *key, const json_t *component,
                                 const char *expected);
/* An added token as tokenizer.json and added_tokens_decoder describe it; refuses matching rules
 * that reach beyond the token (lstrip, rstrip, single_word). */
bal_status bal_draft_add_described(bal_tokenizer_draft *d, const json_t *entry, json_int_t id,
                                   bal_error *err);
/* added_tokens_decoder: {"151643": {"content": "<|endoftext|>", ...}, ...}; NULL is none */
bal_status bal_draft_add_decoder(bal_tokenizer_draft *d, const json_t *decoder, bal_error *err);
/* added_tokens.json: {"<|endoftext|>": 151643, ...}; NULL is none. It does not say which tokens are
 * special; those that nothing else describes are taken for special, so that they never show in an
 * answer. */
bal_status bal_draft_add_plain(bal_tokenizer_draft *d, const json_t *added, bal_error *err);

/* ---- Readers of a source each ---- */

/* Normalizer, pre-tokenizer, post-processor and decoder of a tokenizer.json whose model is read:
 * sets flags, pattern and bos, and refuses by name what would change ids and is not understood. */
bal_status bal_draft_read_parts(bal_tokenizer_draft *d, const json_t *root, bal_error *err);
/* A tokenizer.model of n bytes as a blob. config, added: tokenizer_config.json and
 * added_tokens.json or NULL. Messages name neither file. */
bal_status bal_sentencepiece_pack(const uint8_t *data, size_t n, const json_t *config,
                                  const json_t *added, uint8_t **blob, size_t *n_blob,
                                  bal_error *err);

#endif
