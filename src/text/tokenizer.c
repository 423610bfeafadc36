/* SPDX-License-Identifier: MIT */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "text/nfc.h"
#include "text/tokenizer_blob.h"
#include "text/utf8.h"

void bal_tokenizer_close(bal_tokenizer *t)
{
    if (!t) return;
    bal_splitter_close(t->splitter);
    bal_bpe_table_deinit(&t->pairs);
    bal_token_index_deinit(&t->index);
    free(t->owned);
    free(t);
}

/* ---- Tokens -------------------------------------------------------------------------------- */

size_t bal_tokenizer_size(const bal_tokenizer *t)
{
    return t->n_tokens;
}

static uint32_t added_id(const bal_tokenizer *t, uint32_t i)
{
    return bal_le32(t->added + (size_t)8 * i);
}

bool bal_tokenizer_is_special(const bal_tokenizer *t, int32_t id)
{
    uint32_t low = 0, high = t->n_added;
    while (low < high) {
        const uint32_t mid = low + (high - low) / 2;
        if ((int64_t)added_id(t, mid) < id)
            low = mid + 1;
        else
            high = mid;
    }
    return low < t->n_added && (int64_t)added_id(t, low) == id &&
           (bal_le32(t->added + (size_t)8 * low + 4) & BAL_TOKENIZER_SPECIAL);
}

int32_t bal_tokenizer_token_id(const bal_tokenizer *t, const char *text)
{
    const size_t n = strlen(text);
    for (uint32_t i = 0; i < t->n_added; i++) {
        const bal_token_view v = bal_tokenizer_bytes(t, added_id(t, i));
        if (bal_le32(t->added + (size_t)8 * i + 4) & BAL_TOKENIZER_BYTE) continue;
        if (v.n == n && memcmp(v.bytes, text, n) == 0) return (int32_t)added_id(t, i);
    }
    return -1;
}

int32_t bal_tokenizer_bos(const bal_tokenizer *t)
{
    return t->bos;
}

bool bal_tokenizer_drops_space(const bal_tokenizer *t)
{
    return t->flags & BAL_TOKENIZER_PREFIX;
}

bal_token_view bal_tokenizer_decode(const bal_tokenizer *t, int32_t id, bool special_text)
{
    if (id < 0 || (uint32_t)id >= t->n_tokens) return (bal_token_view){"", 0};
    if (!special_text && bal_tokenizer_is_special(t, id)) return (bal_token_view){"", 0};
    return bal_tokenizer_bytes(t, (uint32_t)id);
}

/* ---- Encoding ------------------------------------------------------------------------------ */

typedef struct encoding {
    const bal_tokenizer *t;
    bal_ids *ids;
    bal_bpe_scratch scratch;
} encoding;

static uint32_t result_of(const void *ctx, uint32_t rank)
{
    return bal_tokenizer_merge(ctx, rank).result;
}

static bal_status encode_piece(void *ctx, const char *piece, size_t n, bal_error *err)
{
    encoding *e = ctx;
    const int32_t whole = bal_token_index_find(&e->t->index, piece, n);
    if (whole >= 0) return bal_ids_push(e->ids, whole, err);
    BAL_TRY(bal_ids_reserve(e->ids, n, err));
    int32_t *ids = e->ids->v + e->ids->n;
    for (size_t i = 0; i < n; i++) ids[i] = e->t->byte_id[(uint8_t)piece[i]];
    BAL_TRY(bal_bpe_merge(&e->t->pairs, result_of, e->t, &e->scratch, ids, &n, err));
    e->ids->n += n;
    return BAL_OK;
}

static bal_status encode_pieces(const bal_tokenizer *t, const char *text, size_t n, bal_ids *ids,
                                bal_error *err)
{
    encoding e = {.t = t, .ids = ids};
    const bal_status st = bal_splitter_each(t->splitter, text, n, encode_piece, &e, err);
    bal_bpe_scratch_deinit(&e.scratch);
    return st;
}

/* ---- SentencePiece: characters, then bytes for unknown ones, then merges over the whole text.
 * U+2581 in a text is the same as a space, there and back. */

#define SPACE 0x2581

static bool wants_prefix(const bal_tokenizer *t, bal_text_place place, uint32_t first)
{
    if (!(t->flags & BAL_TOKENIZER_PREFIX) || place == BAL_TEXT_INSIDE) return false;
    if ((t->flags & BAL_TOKENIZER_PREFIX_ONCE) && place != BAL_TEXT_START) return false;
    return !(t->flags & BAL_TOKENIZER_PREFIX_UNLESS) || (first != ' ' && first != SPACE);
}

/* The id or ids of one character to `out`, which has room for its bytes; returns how many. */
static size_t put_character(const bal_tokenizer *t, const char *s, bal_utf8_char c, int32_t *out)
{
    const bool space = c.cp == SPACE;
    const int32_t id = bal_token_index_find(&t->index, space ? " " : s, space ? 1 : c.n_bytes);
    if (id >= 0) return out[0] = id, 1;
    for (uint32_t i = 0; i < c.n_bytes; i++) out[i] = t->byte_id[(uint8_t)s[i]];
    return c.n_bytes;
}

static bal_status encode_characters(const bal_tokenizer *t, const char *text, size_t n,
                                    bal_text_place place, bal_ids *ids, bal_error *err)
{
    if (n == 0) return BAL_OK;
    BAL_TRY(bal_ids_reserve(ids, n + 1, err));
    int32_t *out = ids->v + ids->n;
    size_t n_out = 0;
    if (wants_prefix(t, place, bal_utf8_next(text, n).cp))
        out[n_out++] = bal_token_index_find(&t->index, " ", 1);
    for (size_t i = 0; i < n;) {
        const bal_utf8_char c = bal_utf8_next(text + i, n - i);
        n_out += put_character(t, text + i, c, out + n_out);
        i += c.n_bytes;
    }
    bal_bpe_scratch scratch = {0};
    const bal_status st = bal_bpe_merge(&t->pairs, result_of, t, &scratch, out, &n_out, err);
    bal_bpe_scratch_deinit(&scratch);
    ids->n += n_out;
    return st;
}

static bal_status encode_valid(const bal_tokenizer *t, const char *text, size_t n,
                               bal_text_place place, bal_ids *ids, bal_error *err)
{
    if (t->flags & BAL_TOKENIZER_CHARACTERS) return encode_characters(t, text, n, place, ids, err);
    if (!(t->flags & BAL_TOKENIZER_NFC) || bal_nfc_is_plain(text, n))
        return encode_pieces(t, text, n, ids, err);
    char *form_c = NULL;
    BAL_TRY(bal_nfc(&form_c, &n, text, n, err));
    const bal_status st = encode_pieces(t, form_c, n, ids, err);
    free(form_c);
    return st;
}

bal_status bal_tokenizer_append_part(const bal_tokenizer *t, const char *text, size_t n,
                                     bal_text_place place, bal_ids *ids, bal_error *err)
{
    if (n > BAL_TOKENIZER_TEXT_MAX)
        return bal_fail(err, BAL_E_ARG, "text of %zu bytes, expected at most %zu", n,
                        BAL_TOKENIZER_TEXT_MAX);
    if (bal_utf8_valid(text, n)) return encode_valid(t, text, n, place, ids, err);
    char *repaired = NULL;
    BAL_TRY(bal_utf8_repair(&repaired, &n, text, n, err));
    const bal_status st = encode_valid(t, repaired, n, place, ids, err);
    free(repaired);
    return st;
}

bal_status bal_tokenizer_append(const bal_tokenizer *t, const char *text, size_t n, bal_ids *ids,
                                bal_error *err)
{
    return bal_tokenizer_append_part(t, text, n, ids->n ? BAL_TEXT_AFTER_TOKEN : BAL_TEXT_START,
                                     ids, err);
}

/* Bytes of text (valid UTF-8) in its normal form. */
static bal_status count_valid(const bal_tokenizer *t, const char *text, size_t n, size_t *n_bytes,
                              bal_error *err)
{
    *n_bytes = n;
    for (size_t i = 0; (t->flags & BAL_TOKENIZER_CHARACTERS) && i + 2 < n; i++)
        if (memcmp(text + i, "\xe2\x96\x81", 3) == 0) *n_bytes -= 2;
    if (!(t->flags & BAL_TOKENIZER_NFC) || bal_nfc_is_plain(text, n)) return BAL_OK;
    char *form_c = NULL;
    BAL_TRY(bal_nfc(&form_c, n_bytes, text, n, err));
    free(form_c);
    return BAL_OK;
}

bal_status bal_tokenizer_count_bytes(const bal_tokenizer *t, const char *text, size_t n,
                                     size_t *n_bytes, bal_error *err)
{
    if (bal_utf8_valid(text, n)) return count_valid(t, text, n, n_bytes, err);
    char *repaired = NULL;
    BAL_TRY(bal_utf8_repair(&repaired, &n, text, n, err));
    const bal_status st = count_valid(t, repaired, n, n_bytes, err);
    free(repaired);
    return st;
}

bal_status bal_tokenizer_encode(const bal_tokenizer *t, const char *text, size_t n, int32_t **ids,
                                size_t *n_ids, bal_error *err)
{
    bal_ids row = {0};
    const bal_status st = bal_tokenizer_append(t, text, n, &row, err);
    if (st < 0) {
        free(row.v);
        row = (bal_ids){0};
    }
    *ids = row.v;
    *n_ids = row.n;
    return st;
}
