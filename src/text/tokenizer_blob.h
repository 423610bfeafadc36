/* SPDX-License-Identifier: MIT
 * The compiled tokenizer and how a tokenizer lies in memory: every tokenizer is a checked view of a
 * blob plus a hash table and a compiled regular expression, whether the blob came from a file or
 * was packed from JSON a moment ago. So there is one place where the rules are checked.
 *
 * Byte map, all integers little-endian and unsigned, sections without holes:
 *
 *    0   8  magic "BALTOKEN"
 *    8   4  version, 1
 *   12   4  flags, BAL_TOKENIZER_* below
 *   16   4  n_tokens, 256 to 2^20
 *   20   4  n_merges, at most 2^22
 *   24   4  n_added, at most n_tokens
 *   28   4  n_pattern, bytes of the split pattern, 1 to 4096
 *   32   8  n_text, bytes of all tokens
 *   40      offsets: (n_tokens + 1) x 4, token i is text[offset i, offset i + 1), never empty
 *   ..      merges in order of rank: n_merges x 12, {left id, right id, id of both together}; bit
 * 31 of the last says that the merge ties with the one before it
 *   ..      tokens that text never makes by itself, by id: n_added x 8, {id, flags: 1 = special,
 *           2 = stands for a single byte, 4 = comes before a text (BOS; at most one)}
 *   ..      split pattern, as in tokenizer.json; none with BAL_TOKENIZER_CHARACTERS
 *   ..      text; the space of SentencePiece (U+2581) is written as a space
 */
#ifndef BAL_TEXT_TOKENIZER_BLOB_H
#define BAL_TEXT_TOKENIZER_BLOB_H

#include <string.h>

#include "text/splitter.h"
#include "text/token_index.h"
#include "text/tokenizer.h"

#define BAL_TOKENIZER_BLOB_MAGIC   "BALTOKEN"
#define BAL_TOKENIZER_BLOB_VERSION 1
#define BAL_TOKENIZER_BLOB_HEADER  40

#define BAL_TOKENIZER_NFC           1u  /* normalise to NFC */
#define BAL_TOKENIZER_WHOLE         2u  /* a piece that is a token is not merged (ignore_merges) */
#define BAL_TOKENIZER_CHARACTERS    4u  /* SentencePiece: text is characters, unknown ones bytes */
#define BAL_TOKENIZER_PREFIX        8u  /* a text gets a space in front */
#define BAL_TOKENIZER_PREFIX_ONCE   16u /* but not behind a special token */
#define BAL_TOKENIZER_PREFIX_UNLESS 32u /* and not if it begins with one */
#define BAL_TOKENIZER_FLAGS         63u

#define BAL_TOKENIZER_SPECIAL 1u
#define BAL_TOKENIZER_BYTE    2u
#define BAL_TOKENIZER_BOS     4u

#define BAL_TOKENIZER_TIES (1u << 31)

typedef struct bal_merge {
    uint32_t left, right, result;
    bool ties; /* goes with the one before, the leftmost of both first */
} bal_merge;

struct bal_tokenizer {
    uint8_t *owned; /* the blob, unless it is the caller's */
    const uint8_t *blob;
    size_t n_blob;
    const uint8_t *offsets, *merges, *added, *pattern, *text; /* sections of the blob */
    uint32_t n_tokens, n_merges, n_added, n_pattern, n_text;
    uint32_t flags;
    int32_t bos;          /* or -1 */
    int32_t byte_id[256]; /* the token of each single byte */
    bal_bpe_table pairs;
    bal_token_index index;  /* WHOLE: every token that text makes; CHARACTERS: single characters */
    bal_splitter *splitter; /* NULL with CHARACTERS */
};

/* Checks and opens a malloc'ed blob and takes it over, also on failure. */
bal_status bal_tokenizer_open_owned(bal_tokenizer **out, uint8_t *blob, size_t n, bal_error *err);

static inline uint32_t bal_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline void bal_put_le32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++, v >>= 8) p[i] = (uint8_t)v;
}

static inline bal_merge bal_tokenizer_merge(const bal_tokenizer *t, uint32_t rank)
{
    const uint8_t *p = t->merges + (size_t)12 * rank;
    const uint32_t result = bal_le32(p + 8);
    return (bal_merge){bal_le32(p), bal_le32(p + 4), result & ~BAL_TOKENIZER_TIES,
                       result & BAL_TOKENIZER_TIES};
}

/* Bytes of token id < n_tokens. */
static inline bal_token_view bal_tokenizer_bytes(const bal_tokenizer *t, uint32_t id)
{
    const uint32_t begin = bal_le32(t->offsets + (size_t)4 * id);
    const uint32_t end = bal_le32(t->offsets + (size_t)4 * id + 4);
    return (bal_token_view){(const char *)t->text + begin, end - begin};
}

#endif
