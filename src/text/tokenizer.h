/* SPDX-License-Identifier: MIT
 * Byte-pair encoding in the two forms that language models have. Over bytes (GPT-2, Qwen, Llama 3,
 * SmolLM2): repair UTF-8, normalise (NFC or not), split by a regular expression, merge. Over
 * characters (SentencePiece: Llama 2, InternLM2): a space in front or not, characters, bytes for
 * unknown ones, merge over the whole text. Other kinds (unigram, WordPiece, SentencePiece's own
 * normalisations) are refused by name.
 *
 * Text is always plain text: what looks like a special token in it becomes ordinary tokens, so
 * nobody can type one. Special tokens enter a sequence by id only (text/chat.h). */
#ifndef BAL_TEXT_TOKENIZER_H
#define BAL_TEXT_TOKENIZER_H

#include "text/bpe.h"

#define BAL_TOKENIZER_FILE_MAX ((size_t)256 << 20) /* bytes of tokenizer.json and the others */
#define BAL_TOKENIZER_TEXT_MAX ((size_t)64 << 20)  /* bytes of one text to encode */

/* Immutable once open; any number of threads may use one at the same time. */
typedef struct bal_tokenizer bal_tokenizer;

/* Borrowed bytes, not NUL-terminated; may be part of a character or invalid UTF-8. */
typedef struct bal_token_view {
    const char *bytes;
    size_t n;
} bal_token_view;

/* Reads a model folder: tokenizer.json, else tokenizer.model (SentencePiece), else vocab.json +
 * merges.txt, these two with tokenizer_config.json (and added_tokens.json), else encoder.json +
 * vocab.bpe (GPT-2 as first published). */
bal_status bal_tokenizer_open_dir(bal_tokenizer **out, const char *dir, bal_error *err);
/* The text of a tokenizer.json; `name` stands for it in messages. */
bal_status bal_tokenizer_open_json(bal_tokenizer **out, const char *name, const char *json,
                                   size_t n, bal_error *err);
/* The compiled form that bal_tokenizer_blob wrote. data is borrowed until close, at any alignment;
 * it is untrusted and checked whole. */
bal_status bal_tokenizer_open_blob(bal_tokenizer **out, const uint8_t *data, size_t n,
                                   bal_error *err);
void bal_tokenizer_close(bal_tokenizer *t);

/* The compiled form (byte map in tokenizer_blob.h), a view that lives as long as the tokenizer.
 * The same files give the same bytes. */
const uint8_t *bal_tokenizer_blob(const bal_tokenizer *t, size_t *n);

/* Plain text (any bytes; ill-formed UTF-8 counts as U+FFFD) to ids. The caller frees *ids, which
 * is NULL for no ids. Never gives the id of a special token. Fails for memory, with BAL_E_ARG for a
 * text above BAL_TOKENIZER_TEXT_MAX, with BAL_E_FORMAT if the tokenizer's own split pattern
 * backtracks without end. */
bal_status bal_tokenizer_encode(const bal_tokenizer *t, const char *text, size_t n, int32_t **ids,
                                size_t *n_ids, bal_error *err);
/* The same, appended to ids. A text behind other ids counts as one behind a special token. */
bal_status bal_tokenizer_append(const bal_tokenizer *t, const char *text, size_t n, bal_ids *ids,
                                bal_error *err);
/* Where a text stands in its conversation, which decides whether it gets a space in front. */
typedef enum bal_text_place {
    BAL_TEXT_START,       /* first of all, but for BOS */
    BAL_TEXT_AFTER_TOKEN, /* behind a special token */
    BAL_TEXT_INSIDE,      /* behind other text: no space */
} bal_text_place;
bal_status bal_tokenizer_append_part(const bal_tokenizer *t, const char *text, size_t n,
                                     bal_text_place place, bal_ids *ids, bal_error *err);
/* How many bytes the tokens of a text hold, a space in front not counted. */
bal_status bal_tokenizer_count_bytes(const bal_tokenizer *t, const char *text, size_t n,
                                     size_t *n_bytes, bal_error *err);

/* The token that comes before any text ("<s>"), for callers to put there; -1 if there is none. */
int32_t bal_tokenizer_bos(const bal_tokenizer *t);
/* True when the first token of a text has a space in front that the text does not have. */
bool bal_tokenizer_drops_space(const bal_tokenizer *t);
/* Id of an added token ("<|im_end|>"), special or not; -1 if there is none of that text. */
int32_t bal_tokenizer_token_id(const bal_tokenizer *t, const char *text);
bool bal_tokenizer_is_special(const bal_tokenizer *t, int32_t id);
/* The bytes of one token. Special tokens give no bytes unless special_text is set; an id outside
 * the vocabulary (padding rows of the model) gives none. */
bal_token_view bal_tokenizer_decode(const bal_tokenizer *t, int32_t id, bool special_text);

/* Number of tokens; ids are below it. */
size_t bal_tokenizer_size(const bal_tokenizer *t);

#endif
