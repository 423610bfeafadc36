/* SPDX-License-Identifier: MIT */
#include "text/tokenizer_blob.h"

#include <stdlib.h>

#include "base/size.h"
#include "text/utf8.h"

/* ---- Header and sections ------------------------------------------------------------------- */

static bal_status check_counts(const bal_tokenizer *t, uint32_t flags, bal_error *err)
{
    if (flags & ~BAL_TOKENIZER_FLAGS)
        return bal_fail(err, BAL_E_UNSUP, "tokenizer: unknown flags 0x%x", flags);
    if ((flags & BAL_TOKENIZER_CHARACTERS) &&
        ((flags & (BAL_TOKENIZER_NFC | BAL_TOKENIZER_WHOLE)) || t->n_pattern))
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: flags 0x%x and a split pattern of %u bytes",
                        flags, t->n_pattern);
    if (t->n_tokens < 256 || t->n_tokens > BAL_BPE_IDS_MAX)
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: %u tokens, expected 256 to %u", t->n_tokens,
                        BAL_BPE_IDS_MAX);
    if (t->n_merges > BAL_BPE_MERGES_MAX)
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: %u merges, expected at most %u", t->n_merges,
                        BAL_BPE_MERGES_MAX);
    if (t->n_added > t->n_tokens)
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: %u added tokens of %u", t->n_added,
                        t->n_tokens);
    if (t->n_pattern > BAL_SPLIT_PATTERN_MAX)
        return bal_fail(err, BAL_E_FORMAT,
                        "tokenizer: split pattern of %u bytes, expected at most "
                        "%d",
                        t->n_pattern, BAL_SPLIT_PATTERN_MAX);
    return BAL_OK;
}

static bal_status read_header(bal_tokenizer *t, bal_error *err)
{
    const uint8_t *p = t->blob;
    if (t->n_blob < BAL_TOKENIZER_BLOB_HEADER || memcmp(p, BAL_TOKENIZER_BLOB_MAGIC, 8) != 0)
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: %zu bytes that do not begin with %s",
                        t->n_blob, BAL_TOKENIZER_BLOB_MAGIC);
    if (bal_le32(p + 8) != BAL_TOKENIZER_BLOB_VERSION)
        return bal_fail(err, BAL_E_UNSUP, "tokenizer: version %u, this build reads version %d",
                        bal_le32(p + 8), BAL_TOKENIZER_BLOB_VERSION);
    t->flags = bal_le32(p + 12);
    t->n_tokens = bal_le32(p + 16);
    t->n_merges = bal_le32(p + 20);
    t->n_added = bal_le32(p + 24);
    t->n_pattern = bal_le32(p + 28);
    t->n_text = bal_le32(p + 32);
    if (bal_le32(p + 36))
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: more than 4 GiB of token text");
    return check_counts(t, t->flags, err);
}

/* The counts are capped, so the sum cannot overflow 64 bits. */
static bal_status find_sections(bal_tokenizer *t, bal_error *err)
{
    const uint64_t offsets = 4 * ((uint64_t)t->n_tokens + 1), merges = 12 * (uint64_t)t->n_merges;
    const uint64_t added = 8 * (uint64_t)t->n_added;
    const uint64_t expected =
        BAL_TOKENIZER_BLOB_HEADER + offsets + merges + added + t->n_pattern + t->n_text;
    if (expected != t->n_blob)
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: %zu bytes, its header promises %llu",
                        t->n_blob, (unsigned long long)expected);
    t->offsets = t->blob + BAL_TOKENIZER_BLOB_HEADER;
    t->merges = t->offsets + offsets;
    t->added = t->merges + merges;
    t->pattern = t->added + added;
    t->text = t->pattern + t->n_pattern;
    return BAL_OK;
}

/* ---- Contents ------------------------------------------------------------------------------ */

static bal_status check_offsets(const bal_tokenizer *t, bal_error *err)
{
    if (bal_le32(t->offsets) != 0 || bal_le32(t->offsets + (size_t)4 * t->n_tokens) != t->n_text)
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: offsets do not span the %u bytes of text",
                        t->n_text);
    for (uint32_t id = 0; id < t->n_tokens; id++)
        if (bal_le32(t->offsets + (size_t)4 * id) >= bal_le32(t->offsets + (size_t)4 * id + 4))
            return bal_fail(err, BAL_E_FORMAT, "tokenizer: token %u has no bytes", id);
    return BAL_OK;
}

/* Flags of added token i, whose id is in order. */
static bal_status check_added_flags(bal_tokenizer *t, uint32_t i, uint32_t id, bal_error *err)
{
    const uint32_t flags = bal_le32(t->added + (size_t)8 * i + 4);
    const bool byte = flags & BAL_TOKENIZER_BYTE;
    if (flags & ~(BAL_TOKENIZER_SPECIAL | BAL_TOKENIZER_BYTE | BAL_TOKENIZER_BOS))
        return bal_fail(err, BAL_E_UNSUP, "tokenizer: added token %u has unknown flags 0x%x", i,
                        flags);
    if (byte && (flags != BAL_TOKENIZER_BYTE || bal_tokenizer_bytes(t, id).n != 1 ||
                 !(t->flags & BAL_TOKENIZER_CHARACTERS)))
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: token %u cannot stand for a byte", id);
    if (!(flags & BAL_TOKENIZER_BOS)) return BAL_OK;
    if (t->bos >= 0)
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: tokens %d and %u both come before a text",
                        t->bos, id);
    t->bos = (int32_t)id;
    return BAL_OK;
}

static bal_status check_added(bal_tokenizer *t, bal_error *err)
{
    t->bos = -1;
    for (uint32_t i = 0; i < t->n_added; i++) {
        const uint8_t *p = t->added + (size_t)8 * i;
        const uint32_t id = bal_le32(p);
        if (id >= t->n_tokens || (i > 0 && id <= bal_le32(p - 8)))
            return bal_fail(err, BAL_E_FORMAT,
                            "tokenizer: added token %u has id %u, expected "
                            "rising ids below %u",
                            i, id, t->n_tokens);
        BAL_TRY(check_added_flags(t, i, id, err));
    }
    return BAL_OK;
}

/* Added tokens do not count: a byte typed by a user must never be one. Where text is characters,
 * the tokens that are marked as bytes count and nothing else. */
static bal_status find_bytes(bal_tokenizer *t, bal_error *err)
{
    const bool marked = t->flags & BAL_TOKENIZER_CHARACTERS;
    for (int b = 0; b < 256; b++) t->byte_id[b] = -1;
    for (uint32_t id = 0, a = 0; id < t->n_tokens; id++) {
        const uint8_t *p = t->added + (size_t)8 * a;
        const bool added = a < t->n_added && bal_le32(p) == id;
        const bool byte = added && bal_le32(p + 4) & BAL_TOKENIZER_BYTE;
        a += added;
        const bal_token_view v = bal_tokenizer_bytes(t, id);
        if (v.n != 1 || (marked ? !byte : added)) continue;
        int32_t *slot = &t->byte_id[(uint8_t)v.bytes[0]];
        if (*slot >= 0)
            return bal_fail(err, BAL_E_FORMAT,
                            "tokenizer: tokens %d and %u are both the byte "
                            "0x%02x",
                            *slot, id, (uint8_t)v.bytes[0]);
        *slot = (int32_t)id;
    }
    for (int b = 0; b < 256; b++)
        if (t->byte_id[b] < 0)
            return bal_fail(err, BAL_E_FORMAT, "tokenizer: no token is the single byte 0x%02x", b);
    return BAL_OK;
}

/* One character, well formed; a lone byte above 0x7f is none. */
static bool is_character(bal_token_view v)
{
    const bal_utf8_char c = bal_utf8_next(v.bytes, v.n);
    return c.kind == BAL_UTF8_GOOD && c.n_bytes == v.n;
}

static bal_status index_token(bal_tokenizer *t, uint32_t id, bal_error *err)
{
    const bal_token_view v = bal_tokenizer_bytes(t, id);
    if ((t->flags & BAL_TOKENIZER_CHARACTERS) && !is_character(v)) return BAL_OK;
    const uint32_t held = bal_token_index_add(&t->index, v.bytes, (uint32_t)v.n, id);
    if (held == id) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT, "tokenizer: tokens %u and %u are both '%.*s'", held, id,
                    bal_utf8_fit(v.bytes, v.n, 48), v.bytes);
}

static bal_status index_tokens(bal_tokenizer *t, bal_error *err)
{
    if (!(t->flags & (BAL_TOKENIZER_CHARACTERS | BAL_TOKENIZER_WHOLE))) return BAL_OK;
    BAL_TRY(bal_token_index_init(&t->index, t->n_tokens, err));
    for (uint32_t id = 0, a = 0; id < t->n_tokens; id++) {
        const bool added = a < t->n_added && bal_le32(t->added + (size_t)8 * a) == id;
        a += added;
        if (!added) BAL_TRY(index_token(t, id, err));
    }
    if ((t->flags & BAL_TOKENIZER_CHARACTERS) && bal_token_index_find(&t->index, " ", 1) < 0)
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: no token is the space, U+2581");
    return BAL_OK;
}

static bool merge_adds_up(const bal_tokenizer *t, bal_merge m)
{
    const bal_token_view l = bal_tokenizer_bytes(t, m.left), r = bal_tokenizer_bytes(t, m.right);
    const bal_token_view both = bal_tokenizer_bytes(t, m.result);
    return both.n == l.n + r.n && memcmp(both.bytes, l.bytes, l.n) == 0 &&
           memcmp(both.bytes + l.n, r.bytes, r.n) == 0;
}

static bal_status index_merge(bal_tokenizer *t, uint32_t rank, bal_error *err)
{
    const bal_merge m = bal_tokenizer_merge(t, rank);
    if (m.left >= t->n_tokens || m.right >= t->n_tokens || m.result >= t->n_tokens)
        return bal_fail(err, BAL_E_FORMAT,
                        "tokenizer: merge %u of tokens %u and %u to %u, expected "
                        "ids below %u",
                        rank, m.left, m.right, m.result, t->n_tokens);
    if (!merge_adds_up(t, m))
        return bal_fail(err, BAL_E_FORMAT,
                        "tokenizer: merge %u: token %u is not tokens %u and %u "
                        "one after the other",
                        rank, m.result, m.left, m.right);
    if (bal_tokenizer_is_special(t, (int32_t)m.result))
        return bal_fail(err, BAL_E_FORMAT,
                        "tokenizer: merge %u makes the special token %u from "
                        "plain text",
                        rank, m.result);
    const uint32_t held = bal_bpe_table_add(&t->pairs, m.left, m.right, rank);
    if (held != rank)
        return bal_fail(err, BAL_E_FORMAT, "tokenizer: merge %u repeats merge %u", rank, held);
    return BAL_OK;
}

/* Merges that tie get one priority; without ties the rank is the priority. */
static bal_status index_ties(bal_tokenizer *t, bal_error *err)
{
    bool any = false;
    for (uint32_t r = 0; r < t->n_merges && !any; r++) any = bal_tokenizer_merge(t, r).ties;
    if (!any) return BAL_OK;
    const size_t n_bytes = t->n_merges * sizeof *t->pairs.priority;
    uint32_t *priority = t->pairs.priority = malloc(n_bytes);
    if (!priority) return bal_nomem(err, n_bytes, "priorities of merges");
    for (uint32_t r = 0; r < t->n_merges; r++)
        priority[r] = r > 0 && bal_tokenizer_merge(t, r).ties ? priority[r - 1] : r;
    return BAL_OK;
}

static bal_status index_merges(bal_tokenizer *t, bal_error *err)
{
    BAL_TRY(bal_bpe_table_init(&t->pairs, t->n_merges, err));
    for (uint32_t rank = 0; rank < t->n_merges; rank++) BAL_TRY(index_merge(t, rank, err));
    return index_ties(t, err);
}

/* ---- Opening ------------------------------------------------------------------------------- */

static bal_status open_view(bal_tokenizer *t, bal_error *err)
{
    BAL_TRY(read_header(t, err));
    BAL_TRY(find_sections(t, err));
    BAL_TRY(check_offsets(t, err));
    BAL_TRY(check_added(t, err));
    BAL_TRY(find_bytes(t, err));
    BAL_TRY(index_tokens(t, err));
    BAL_TRY(index_merges(t, err));
    if (t->flags & BAL_TOKENIZER_CHARACTERS) return BAL_OK;
    return bal_splitter_open(&t->splitter, (const char *)t->pattern, t->n_pattern, err);
}

static bal_status open_any(bal_tokenizer **out, const uint8_t *data, size_t n, uint8_t *owned,
                           bal_error *err)
{
    *out = NULL;
    bal_tokenizer *t = calloc(1, sizeof *t);
    if (!t) {
        free(owned);
        return bal_nomem(err, sizeof *t, "a tokenizer");
    }
    t->owned = owned;
    t->blob = data;
    t->n_blob = n;
    const bal_status st = open_view(t, err);
    if (st < 0)
        bal_tokenizer_close(t);
    else
        *out = t;
    return st;
}

bal_status bal_tokenizer_open_blob(bal_tokenizer **out, const uint8_t *data, size_t n,
                                   bal_error *err)
{
    return open_any(out, data, n, NULL, err);
}

bal_status bal_tokenizer_open_owned(bal_tokenizer **out, uint8_t *blob, size_t n, bal_error *err)
{
    return open_any(out, blob, n, blob, err);
}

const uint8_t *bal_tokenizer_blob(const bal_tokenizer *t, size_t *n)
{
    *n = t->n_blob;
    return t->blob;
}
