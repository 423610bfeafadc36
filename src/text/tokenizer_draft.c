/* SPDX-License-Identifier: MIT */
#include "text/tokenizer_draft.h"

#include <stdlib.h>

#include "base/size.h"
#include "text/utf8.h"

/* for "%.*s": a piece of a name short enough for a sentence */
#define NAME(s, n) bal_utf8_fit(s, n, 48), s

bal_status bal_draft_init(bal_tokenizer_draft *d, const json_t *vocab, size_t n_added,
                          bal_error *err)
{
    *d = (bal_tokenizer_draft){.vocab = vocab};
    d->cap = json_object_size(vocab) + n_added;
    if (d->cap > BAL_BPE_IDS_MAX)
        return bal_fail(err, BAL_E_FORMAT, "%zu tokens, expected at most %u", d->cap,
                        BAL_BPE_IDS_MAX);
    d->tokens = calloc(d->cap + 1, sizeof *d->tokens);
    d->added = json_object();
    if (!d->tokens || !d->added) return bal_nomem(err, d->cap * sizeof *d->tokens, "tokens");
    return BAL_OK;
}

void bal_draft_deinit(bal_tokenizer_draft *d)
{
    json_decref(d->added);
    free(d->tokens);
    free(d->merges);
    free(d->joined);
    *d = (bal_tokenizer_draft){0};
}

/* ---- Tokens -------------------------------------------------------------------------------- */

static bal_status claim(bal_tokenizer_draft *d, json_int_t id, bal_draft_token token,
                        bal_error *err)
{
    if (id < 0 || (size_t)id >= d->cap)
        return bal_fail(err, BAL_E_FORMAT,
                        "token '%.*s' has id %lld, expected 0 to %zu (as many as "
                        "there are tokens)",
                        NAME(token.text, token.n), (long long)id, d->cap - 1);
    bal_draft_token *slot = d->tokens + id;
    if (slot->text)
        return bal_fail(err, BAL_E_FORMAT, "tokens '%.*s' and '%.*s' both have id %lld",
                        NAME(slot->text, slot->n), NAME(token.text, token.n), (long long)id);
    *slot = token;
    d->n_tokens = bal_max(d->n_tokens, (size_t)id + 1);
    return BAL_OK;
}

json_int_t bal_draft_added_id(const bal_tokenizer_draft *d, const char *content)
{
    const json_t *id = json_object_get(d->added, content);
    return id ? json_integer_value(id) : -1;
}

bal_status bal_draft_add_token(bal_tokenizer_draft *d, const char *content, json_int_t id,
                               bool special, bal_error *err)
{
    const bal_draft_token token = {content, strlen(content), true, special};
    if (token.n == 0) return bal_fail(err, BAL_E_FORMAT, "an added token without content");
    if (bal_draft_added_id(d, content) >= 0)
        return bal_fail(err, BAL_E_FORMAT, "added token '%.*s' stands there twice",
                        NAME(content, token.n));
    const json_t *same = json_object_get(d->vocab, content);
    if (same && json_integer_value(same) != id)
        return bal_fail(err, BAL_E_FORMAT, "added token '%.*s' has id %lld, in the vocabulary %lld",
                        NAME(content, token.n), (long long)id, (long long)json_integer_value(same));
    BAL_TRY(claim(d, id, token, err));
    if (json_object_set_new(d->added, content, json_integer(id)) < 0)
        return bal_nomem(err, token.n, "an added token");
    return BAL_OK;
}

bal_status bal_draft_add_unreachable(bal_tokenizer_draft *d, const char *text, size_t n,
                                     json_int_t id, bal_error *err)
{
    return claim(d, id, (bal_draft_token){text, n, true, false}, err);
}

static bal_status take_entry(bal_tokenizer_draft *d, const char *text, size_t n, const json_t *id,
                             bal_error *err)
{
    if (n == 0) return bal_fail(err, BAL_E_FORMAT, "the vocabulary has a token without text");
    if (!json_is_integer(id))
        return bal_fail(err, BAL_E_FORMAT, "token '%.*s' has no integer for an id", NAME(text, n));
    if (bal_draft_added_id(d, text) >= 0) return BAL_OK; /* add_token saw that the ids agree */
    return claim(d, json_integer_value(id), (bal_draft_token){text, n, false, false}, err);
}

bal_status bal_draft_take_vocab(bal_tokenizer_draft *d, bal_error *err)
{
    void *vocab = (void *)(uintptr_t)d->vocab; /* jansson's iterators take no const */
    for (void *it = json_object_iter(vocab); it; it = json_object_iter_next(vocab, it)) {
        const char *text = json_object_iter_key(it);
        BAL_TRY(take_entry(d, text, json_object_iter_key_len(it), json_object_iter_value(it), err));
    }
    for (size_t id = 0; id < d->n_tokens; id++)
        if (!d->tokens[id].text)
            return bal_fail(err, BAL_E_FORMAT, "no token has id %zu, but ids go up to %zu", id,
                            d->n_tokens - 1);
    return BAL_OK;
}

bal_status bal_draft_set_bos(bal_tokenizer_draft *d, const char *content, bal_error *err)
{
    d->bos = bal_draft_added_id(d, content);
    d->has_bos = d->bos >= 0;
    if (d->has_bos) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT, "'%.*s' is to come before a text and is no added token",
                    NAME(content, strlen(content)));
}

/* ---- Merges -------------------------------------------------------------------------------- */

static bal_status joined(bal_tokenizer_draft *d, const char *left, size_t n_left, const char *right,
                         size_t n_right, bal_error *err)
{
    const size_t n = n_left + n_right;
    if (n > d->cap_joined) {
        char *p = realloc(d->joined, 2 * n);
        if (!p) return bal_nomem(err, 2 * n, "a merge");
        d->joined = p;
        d->cap_joined = 2 * n;
    }
    memcpy(d->joined, left, n_left);
    memcpy(d->joined + n_left, right, n_right);
    return BAL_OK;
}

static bal_status merge_room(bal_tokenizer_draft *d, bal_error *err)
{
    if (d->n_merges == BAL_BPE_MERGES_MAX)
        return bal_fail(err, BAL_E_FORMAT, "more than %u merges", BAL_BPE_MERGES_MAX);
    if (d->n_merges < d->cap_merges) return BAL_OK;
    const size_t cap = bal_max(256, 2 * d->cap_merges), n_bytes = cap * sizeof *d->merges;
    bal_merge *p = realloc(d->merges, n_bytes);
    if (!p) return bal_nomem(err, n_bytes, "merges");
    d->merges = p;
    d->cap_merges = cap;
    return BAL_OK;
}

static bal_status part_id(const bal_tokenizer_draft *d, uint32_t *id, const char *text, size_t n,
                          bal_error *err)
{
    const json_t *v = json_object_getn(d->vocab, text, n);
    if (!v) return bal_fail(err, BAL_E_FORMAT, "'%.*s' is not in the vocabulary", NAME(text, n));
    *id = (uint32_t)json_integer_value(v);
    return BAL_OK;
}

bal_status bal_draft_add_merge(bal_tokenizer_draft *d, const char *left, size_t n_left,
                               const char *right, size_t n_right, bal_error *err)
{
    if (n_left == 0 || n_right == 0)
        return bal_fail(err, BAL_E_FORMAT, "a part is empty, expected two parts");
    BAL_TRY(joined(d, left, n_left, right, n_right, err));
    BAL_TRY(merge_room(d, err));
    bal_merge *m = d->merges + d->n_merges;
    m->ties = false;
    BAL_TRY(part_id(d, &m->left, left, n_left, err));
    BAL_TRY(part_id(d, &m->right, right, n_right, err));
    BAL_TRY(part_id(d, &m->result, d->joined, n_left + n_right, err));
    d->n_merges++;
    return BAL_OK;
}

bal_status bal_draft_add_merge_ids(bal_tokenizer_draft *d, bal_merge m, bal_error *err)
{
    BAL_TRY(merge_room(d, err));
    d->merges[d->n_merges++] = m;
    return BAL_OK;
}

/* ---- Packing ------------------------------------------------------------------------------- */

/* GPT-2's byte alphabet (bytes_to_unicode): printable Latin-1 stands for itself, the other 68
 * bytes for U+0100 onwards in order. byte_of[cp] is the byte, -1 for no letter of it. */
typedef struct alphabet {
    int16_t byte_of[256 + 68];
} alphabet;

static alphabet make_alphabet(void)
{
    alphabet a;
    int next = 256;
    for (int i = 0; i < 256 + 68; i++) a.byte_of[i] = -1;
    for (int b = 0; b < 256; b++) {
        const bool shown = (b > 0x20 && b < 0x7f) || (b > 0xa0 && b != 0xad);
        a.byte_of[shown ? b : next++] = (int16_t)b;
    }
    return a;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that a SentencePiece token such as <0x0A> stands for, or -1. */
static int byte_of(const bal_draft_token *token)
{
    const char *s = token->text;
    if (token->added || token->n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    const int high = hex_digit(s[3]), low = hex_digit(s[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

/* The bytes of a SentencePiece entry to out (room for n): U+2581 is its space. */
static void to_characters(const bal_draft_token *token, uint8_t *out, size_t *n_out)
{
    static const char space[] = "\xe2\x96\x81";
    *n_out = 0;
    for (size_t i = 0; i < token->n;) {
        const bool is_space = token->n - i >= 3 && memcmp(token->text + i, space, 3) == 0;
        out[(*n_out)++] = is_space ? ' ' : (uint8_t)token->text[i];
        i += is_space ? 3 : 1;
    }
}

/* The bytes of an entry of a byte-level vocabulary to out (room for n); *n_out of them. */
static bal_status to_bytes(const alphabet *a, const bal_draft_token *token, uint8_t *out,
                           size_t *n_out, bal_error *err)
{
    *n_out = 0;
    for (size_t i = 0; i < token->n;) {
        const bal_utf8_char c = bal_utf8_next(token->text + i, token->n - i);
        const int byte = c.cp < sizeof a->byte_of / sizeof *a->byte_of ? a->byte_of[c.cp] : -1;
        if (byte < 0)
            return bal_fail(err, BAL_E_UNSUP,
                            "token '%.*s' contains U+%04X, which stands for no "
                            "byte: not a byte-level vocabulary",
                            NAME(token->text, token->n), c.cp);
        out[(*n_out)++] = (uint8_t)byte;
        i += c.n_bytes;
    }
    return BAL_OK;
}

/* Where the parts of the blob go. text_end grows as tokens are written. */
typedef struct packing {
    alphabet letters;
    uint8_t *blob, *offsets, *merges, *added, *pattern, *text;
    size_t n_text;
    uint32_t n_added;
} packing;

/* Text never makes this token by itself: added, or standing for a byte. */
static bool is_apart(const bal_tokenizer_draft *d, const bal_draft_token *token)
{
    return token->added || ((d->flags & BAL_TOKENIZER_CHARACTERS) && byte_of(token) >= 0);
}

static void pack_apart(packing *p, const bal_tokenizer_draft *d, size_t id)
{
    const bal_draft_token *token = d->tokens + id;
    uint32_t flags = token->special ? BAL_TOKENIZER_SPECIAL : 0;
    if (!token->added) flags = BAL_TOKENIZER_BYTE;
    if (d->has_bos && (size_t)d->bos == id) flags |= BAL_TOKENIZER_BOS;
    bal_put_le32(p->added, (uint32_t)id);
    bal_put_le32(p->added + 4, flags);
    p->added += 8;
}

/* The bytes of a token to out (room for token->n). */
static bal_status pack_text(const packing *p, const bal_tokenizer_draft *d,
                            const bal_draft_token *token, uint8_t *out, size_t *n, bal_error *err)
{
    *n = token->n;
    if (token->added) return memcpy(out, token->text, *n), BAL_OK;
    if (!(d->flags & BAL_TOKENIZER_CHARACTERS)) return to_bytes(&p->letters, token, out, n, err);
    const int byte = byte_of(token);
    if (byte < 0) return to_characters(token, out, n), BAL_OK;
    out[0] = (uint8_t)byte;
    *n = 1;
    return BAL_OK;
}

static bal_status pack_tokens(packing *p, const bal_tokenizer_draft *d, bal_error *err)
{
    for (size_t id = 0; id < d->n_tokens; id++) {
        const bal_draft_token *token = d->tokens + id;
        size_t n = 0;
        bal_put_le32(p->offsets + 4 * id, (uint32_t)p->n_text);
        BAL_TRY(pack_text(p, d, token, p->text + p->n_text, &n, err));
        if (is_apart(d, token)) pack_apart(p, d, id);
        p->n_text += n;
    }
    bal_put_le32(p->offsets + 4 * d->n_tokens, (uint32_t)p->n_text);
    return BAL_OK;
}

static void pack_merges(const packing *p, const bal_tokenizer_draft *d)
{
    for (size_t i = 0; i < d->n_merges; i++) {
        bal_put_le32(p->merges + 12 * i, d->merges[i].left);
        bal_put_le32(p->merges + 12 * i + 4, d->merges[i].right);
        bal_put_le32(p->merges + 12 * i + 8,
                     d->merges[i].result | (d->merges[i].ties ? BAL_TOKENIZER_TIES : 0));
    }
}

static void pack_header(const packing *p, const bal_tokenizer_draft *d)
{
    memcpy(p->blob, BAL_TOKENIZER_BLOB_MAGIC, 8);
    bal_put_le32(p->blob + 8, BAL_TOKENIZER_BLOB_VERSION);
    bal_put_le32(p->blob + 12, d->flags);
    bal_put_le32(p->blob + 16, (uint32_t)d->n_tokens);
    bal_put_le32(p->blob + 20, (uint32_t)d->n_merges);
    bal_put_le32(p->blob + 24, p->n_added);
    bal_put_le32(p->blob + 28, (uint32_t)d->n_pattern);
    bal_put_le32(p->blob + 32, (uint32_t)p->n_text);
    bal_put_le32(p->blob + 36, 0);
}

/* Room for all parts; a token as written is never shorter than its bytes. */
static bal_status pack_room(packing *p, const bal_tokenizer_draft *d, bal_error *err)
{
    size_t n_text = 0;
    for (size_t id = 0; id < d->n_tokens; id++) {
        n_text += d->tokens[id].n;
        p->n_added += is_apart(d, d->tokens + id);
    }
    if (n_text > BAL_TOKENIZER_FILE_MAX || d->n_pattern > BAL_SPLIT_PATTERN_MAX)
        return bal_fail(err, BAL_E_FORMAT,
                        "%zu bytes of tokens and %zu of split pattern are too "
                        "much",
                        n_text, d->n_pattern);
    const size_t offsets = 4 * (d->n_tokens + 1), merges = 12 * d->n_merges;
    const size_t added = (size_t)8 * p->n_added;
    const size_t n = BAL_TOKENIZER_BLOB_HEADER + offsets + merges + added + d->n_pattern + n_text;
    if (!(p->blob = malloc(n))) return bal_nomem(err, n, "a compiled tokenizer");
    p->offsets = p->blob + BAL_TOKENIZER_BLOB_HEADER;
    p->merges = p->offsets + offsets;
    p->added = p->merges + merges;
    p->pattern = p->added + added;
    p->text = p->pattern + d->n_pattern;
    return BAL_OK;
}

bal_status bal_draft_pack(const bal_tokenizer_draft *d, uint8_t **blob, size_t *n, bal_error *err)
{
    *blob = NULL;
    *n = 0;
    packing p = {.letters = make_alphabet()};
    BAL_TRY(pack_room(&p, d, err));
    const bal_status st = pack_tokens(&p, d, err);
    if (st < 0) return free(p.blob), st;
    pack_merges(&p, d);
    if (d->n_pattern) memcpy(p.pattern, d->pattern, d->n_pattern);
    pack_header(&p, d);
    *blob = p.blob;
    *n = (size_t)(p.text - p.blob) + p.n_text;
    return BAL_OK;
}

/* ---- JSON that both readers need ------------------------------------------------------------- */

bal_status bal_draft_load_object(json_t **out, const char *json, size_t n, bal_error *err)
{
    json_error_t why;
    *out = json_loadb(json, n, JSON_REJECT_DUPLICATES, &why);
    if (!*out)
        return bal_fail(
            err, json_error_code(&why) == json_error_out_of_memory ? BAL_E_NOMEM : BAL_E_FORMAT,
            "line %d: %.*s", why.line, NAME(why.text, strlen(why.text)));
    if (json_is_object(*out)) return BAL_OK;
    json_decref(*out);
    *out = NULL;
    return bal_fail(err, BAL_E_FORMAT, "expected a JSON object");
}

static const char *type_of(const json_t *component)
{
    return json_string_value(json_object_get(component, "type"));
}

bool bal_draft_is_type(const json_t *component, const char *name)
{
    const char *type = type_of(component);
    return type && strcmp(type, name) == 0;
}

bool bal_draft_is_nothing(const json_t *component)
{
    return !component || json_is_null(component);
}

bal_status bal_draft_refuse_type(bal_error *err, const char *key, const json_t *component,
                                 const char *expected)
{
    const char *type = type_of(component);
    return bal_fail(err, BAL_E_UNSUP, "%s of type '%.60s' is not supported, expected %s", key,
                    type ? type : "?", expected);
}

bal_status bal_draft_add_described(bal_tokenizer_draft *d, const json_t *entry, json_int_t id,
                                   bal_error *err)
{
    const char *content = json_string_value(json_object_get(entry, "content"));
    if (!content)
        return bal_fail(err, BAL_E_FORMAT, "added token %lld has no content", (long long)id);
    static const char *const rules[] = {"lstrip", "rstrip", "single_word"};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (json_is_true(json_object_get(entry, rules[i])))
            return bal_fail(err, BAL_E_UNSUP,
                            "added token '%.*s' has %s set, which is not "
                            "supported",
                            NAME(content, strlen(content)), rules[i]);
    return bal_draft_add_token(d, content, id, json_is_true(json_object_get(entry, "special")),
                               err);
}

bal_status bal_draft_add_decoder(bal_tokenizer_draft *d, const json_t *decoder, bal_error *err)
{
    void *object = (void *)(uintptr_t)decoder; /* jansson's iterators take no const */
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        const char *key = json_object_iter_key(it);
        char *end = NULL;
        const long long id = strtoll(key, &end, 10);
        const bal_status st = *key >= '0' && *key <= '9' && !*end
                                  ? bal_draft_add_described(d, json_object_iter_value(it), id, err)
                                  : bal_fail(err, BAL_E_FORMAT, "the key is not a token id");
        if (st < 0) return bal_fail_in(err, st, "added_tokens_decoder[\"%.40s\"]", key);
    }
    return BAL_OK;
}

bal_status bal_draft_add_plain(bal_tokenizer_draft *d, const json_t *added, bal_error *err)
{
    void *object = (void *)(uintptr_t)added;
    for (void *it = json_object_iter(object); it; it = json_object_iter_next(object, it)) {
        const char *content = json_object_iter_key(it);
        const json_t *v = json_object_iter_value(it);
        const json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        const json_int_t known = bal_draft_added_id(d, content);
        if (known >= 0 && known != id)
            return bal_fail(err, BAL_E_FORMAT, "'%.48s' has id %lld, in tokenizer_config.json %lld",
                            content, (long long)id, (long long)known);
        if (known < 0) BAL_TRY(bal_draft_add_token(d, content, id, true, err));
    }
    return BAL_OK;
}
