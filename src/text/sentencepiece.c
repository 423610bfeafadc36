/* SPDX-License-Identifier: MIT
 * Reads a SentencePiece model (tokenizer.model, a protocol buffer; field numbers and meanings from
 * sentencepiece_model.proto of google/sentencepiece). Type BPE with byte fallback, text taken as it
 * is; unigram models, normalisation rules and spaces behind words are refused by name.
 *
 * A model has no list of merges: of all neighbours whose text together is a piece, those with the
 * highest score merge first and of these the leftmost. Here every way to cut a piece into two
 * pieces becomes a merge, ordered by score, and equal scores tie. */
#include <stdlib.h>

#include "base/size.h"
#include "text/protobuf.h"
#include "text/tokenizer_draft.h"
#include "text/utf8.h"

/* for "%.*s" */
#define NAME(p) bal_utf8_fit((p)->text, (p)->n, 48), (p)->text

typedef enum piece_kind { NORMAL = 1, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE } piece_kind;

typedef struct piece {
    const char *text; /* borrowed from the file */
    size_t n;
    float score;
    piece_kind kind;
} piece;

typedef struct spm {
    piece *pieces;
    size_t n, cap;
    bool bpe, byte_fallback, space_behind;     /* trainer_spec */
    bool rules, prefix, squeeze, plain_spaces; /* normalizer_spec */
    json_t *vocab;                             /* pieces that text makes */
    char **names;                              /* NUL-terminated copies of those it does not */
    size_t n_names;
    bal_tokenizer_draft draft;
} spm;

/* ---- The file -------------------------------------------------------------------------------- */

static bal_status piece_room(spm *m, bal_error *err)
{
    if (m->n < m->cap) return BAL_OK;
    if (m->n >= BAL_BPE_IDS_MAX)
        return bal_fail(err, BAL_E_FORMAT, "more than %u pieces", BAL_BPE_IDS_MAX);
    const size_t cap = bal_max(1024, 2 * m->cap);
    piece *pieces = realloc(m->pieces, cap * sizeof *pieces);
    if (!pieces) return bal_nomem(err, cap * sizeof *pieces, "pieces");
    m->pieces = pieces;
    m->cap = cap;
    return BAL_OK;
}

static bal_status check_piece(const piece *p, size_t id, bal_error *err)
{
    if (!p->text || p->n == 0 || p->n > 1 << 16)
        return bal_fail(err, BAL_E_FORMAT, "piece %zu has %zu bytes of text", id, p->n);
    if (!bal_utf8_valid(p->text, p->n))
        return bal_fail(err, BAL_E_FORMAT, "piece %zu is not UTF-8 text", id);
    if (p->kind < NORMAL || p->kind > BYTE)
        return bal_fail(err, BAL_E_UNSUP, "piece %zu, '%.*s', has unknown type %d", id, NAME(p),
                        (int)p->kind);
    if (!(p->score - p->score == 0)) /* neither NaN nor infinite */
        return bal_fail(err, BAL_E_FORMAT, "the score of piece %zu, '%.*s', is no number", id,
                        NAME(p));
    return BAL_OK;
}

static bal_status read_piece(spm *m, const bal_pb_field *message, bal_error *err)
{
    bal_pb_reader r = {message->bytes, message->n, 0};
    bal_pb_field f;
    bal_status st = BAL_OK;
    piece p = {.kind = NORMAL};
    while (bal_pb_next(&r, &f, &st, err)) {
        if (f.number == 1 && f.kind == BAL_PB_BYTES) {
            p.text = (const char *)f.bytes;
            p.n = f.n;
        } else if (f.number == 2 && f.kind == BAL_PB_FIXED32) {
            p.score = bal_pb_float(&f);
        } else if (f.number == 3 && f.kind == BAL_PB_VARINT) {
            p.kind = (piece_kind)bal_min(f.value, 99);
        }
    }
    if (st < 0) return bal_fail_in(err, st, "piece %zu", m->n);
    BAL_TRY(check_piece(&p, m->n, err));
    BAL_TRY(piece_room(m, err));
    m->pieces[m->n++] = p;
    return BAL_OK;
}

static bal_status read_trainer(spm *m, const bal_pb_field *message, bal_error *err)
{
    bal_pb_reader r = {message->bytes, message->n, 0};
    bal_pb_field f;
    bal_status st = BAL_OK;
    while (bal_pb_next(&r, &f, &st, err)) {
        if (f.kind != BAL_PB_VARINT) continue;
        if (f.number == 3) m->bpe = f.value == 2;
        if (f.number == 24) m->space_behind = f.value;
        if (f.number == 35) m->byte_fallback = f.value;
    }
    return st < 0 ? bal_fail_in(err, st, "trainer_spec") : st;
}

static bal_status read_normalizer(spm *m, const bal_pb_field *message, bal_error *err)
{
    bal_pb_reader r = {message->bytes, message->n, 0};
    bal_pb_field f;
    bal_status st = BAL_OK;
    while (bal_pb_next(&r, &f, &st, err)) {
        if (f.number == 2 && f.kind == BAL_PB_BYTES) m->rules = f.n > 0;
        if (f.kind != BAL_PB_VARINT) continue;
        if (f.number == 3) m->prefix = f.value;
        if (f.number == 4) m->squeeze = f.value;
        if (f.number == 5) m->plain_spaces = !f.value;
    }
    return st < 0 ? bal_fail_in(err, st, "normalizer_spec") : st;
}

static bal_status check_specs(const spm *m, bal_error *err)
{
    const struct {
        bool bad;
        const char *what;
    } rules[] = {
        {!m->bpe, "a SentencePiece model that is not BPE (unigram, word or char) is not supported"},
        {!m->byte_fallback, "trainer_spec.byte_fallback is off, which is not supported"},
        {m->space_behind, "trainer_spec.treat_whitespace_as_suffix is not supported"},
        {m->rules, "normalizer_spec has a precompiled_charsmap, expected the identity"},
        {m->squeeze, "normalizer_spec.remove_extra_whitespaces is not supported"},
        {m->plain_spaces, "normalizer_spec.escape_whitespaces is off, which is not supported"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].bad) return bal_fail(err, BAL_E_UNSUP, "%s", rules[i].what);
    return BAL_OK;
}

static bal_status read_model(spm *m, const uint8_t *data, size_t n, bal_error *err)
{
    bal_pb_reader r = {data, n, 0};
    bal_pb_field f;
    bal_status st = BAL_OK, in = BAL_OK;
    m->prefix = m->squeeze = true; /* the format's defaults; the default type is unigram */
    while (in >= 0 && bal_pb_next(&r, &f, &st, err)) {
        if (f.kind != BAL_PB_BYTES) continue;
        if (f.number == 1) in = read_piece(m, &f, err);
        if (f.number == 2) in = read_trainer(m, &f, err);
        if (f.number == 3) in = read_normalizer(m, &f, err);
    }
    BAL_TRY(in);
    BAL_TRY(st);
    if (m->n == 0) return bal_fail(err, BAL_E_FORMAT, "no pieces: not a SentencePiece model");
    return check_specs(m, err);
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

static bool is_marker(const piece *p)
{
    const char first = p->text[0], last = p->text[p->n - 1];
    return p->n >= 3 && ((first == '<' && last == '>') || (first == '[' && last == ']'));
}

static bool is_text(const piece *p)
{
    return p->kind == NORMAL || p->kind == BYTE;
}

/* A piece that text does not make becomes an added token. User-defined pieces would be cut out of a
 * text before anything else; of markers that is not wanted here, others would be missed. */
static bal_status add_apart(spm *m, size_t id, bal_error *err)
{
    const piece *p = m->pieces + id;
    const bool special = p->kind == UNKNOWN || p->kind == CONTROL;
    if (!special && !is_marker(p))
        return bal_fail(
            err, BAL_E_UNSUP,
            "piece %zu, '%.*s', is %s and no marker in <> or [], which is not supported", id,
            NAME(p), p->kind == UNUSED ? "unused" : "user-defined");
    if (memchr(p->text, 0, p->n))
        return bal_fail(err, BAL_E_UNSUP, "piece %zu contains a NUL and is not plain text", id);
    char *name = malloc(p->n + 1);
    if (!name) return bal_nomem(err, p->n + 1, "a piece");
    memcpy(name, p->text, p->n);
    name[p->n] = 0;
    m->names[m->n_names++] = name;
    return bal_draft_add_token(&m->draft, name, (json_int_t)id, special, err);
}

static bal_status add_text(spm *m, size_t id, bal_error *err)
{
    const piece *p = m->pieces + id;
    /* InternLM2 has such a piece; sentencepiece itself prefers the byte <0x00> */
    if (p->n == 1 && p->text[0] == 0)
        return bal_draft_add_unreachable(&m->draft, p->text, 1, (json_int_t)id, err);
    if (json_object_getn(m->vocab, p->text, p->n))
        return bal_fail(err, BAL_E_FORMAT, "piece %zu, '%.*s', stands there twice", id, NAME(p));
    if (json_object_setn_new(m->vocab, p->text, p->n, json_integer((json_int_t)id)) < 0)
        return bal_nomem(err, p->n, "a piece");
    return BAL_OK;
}

/* Tokens of the config come first: they may rename a piece (InternLM2 keeps unused ones for that).
 */
static bal_status add_tokens(spm *m, const json_t *config, const json_t *added, bal_error *err)
{
    const json_t *decoder = json_object_get(config, "added_tokens_decoder");
    const size_t n_more = json_object_size(decoder) + json_object_size(added);
    m->vocab = json_object();
    m->names = calloc(m->n, sizeof *m->names);
    if (!m->vocab || !m->names) return bal_nomem(err, m->n * sizeof *m->names, "pieces");
    BAL_TRY(bal_draft_init(&m->draft, m->vocab, m->n + n_more, err));
    m->draft.flags = BAL_TOKENIZER_CHARACTERS;
    BAL_TRY(bal_draft_add_decoder(&m->draft, decoder, err));
    BAL_TRY(bal_draft_add_plain(&m->draft, added, err));
    for (size_t id = 0; id < m->n; id++) {
        if (m->draft.tokens[id].text) continue;
        BAL_TRY(is_text(m->pieces + id) ? add_text(m, id, err) : add_apart(m, id, err));
    }
    return bal_draft_take_vocab(&m->draft, err);
}

/* ---- Merges ---------------------------------------------------------------------------------- */

typedef struct scored {
    float score;
    uint32_t id;
} scored;

/* Highest score first, then by id, so that the order is one. */
static int by_score(const void *a, const void *b)
{
    const scored *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static int64_t piece_id(const spm *m, const char *text, size_t n)
{
    const json_t *id = json_object_getn(m->vocab, text, n);
    if (!id || m->pieces[json_integer_value(id)].kind != NORMAL) return -1;
    return json_integer_value(id);
}

/* Every cut of piece `id` between two characters whose parts are pieces; *tied is true from the
 * first merge of this score on. */
static bal_status add_cuts(spm *m, uint32_t id, bool *tied, bal_error *err)
{
    const piece *p = m->pieces + id;
    for (size_t cut = bal_utf8_next(p->text, p->n).n_bytes; cut < p->n;
         cut += bal_utf8_next(p->text + cut, p->n - cut).n_bytes) {
        const int64_t left = piece_id(m, p->text, cut);
        const int64_t right = left < 0 ? -1 : piece_id(m, p->text + cut, p->n - cut);
        if (right < 0) continue;
        const bal_merge merge = {(uint32_t)left, (uint32_t)right, id, *tied};
        BAL_TRY(bal_draft_add_merge_ids(&m->draft, merge, err));
        *tied = true;
    }
    return BAL_OK;
}

static bal_status add_merges(spm *m, bal_error *err)
{
    size_t n = 0;
    scored *order = malloc(m->n * sizeof *order);
    if (!order) return bal_nomem(err, m->n * sizeof *order, "scores");
    for (size_t id = 0; id < m->n; id++)
        if (m->pieces[id].kind == NORMAL && !m->draft.tokens[id].added)
            order[n++] = (scored){m->pieces[id].score, (uint32_t)id};
    qsort(order, n, sizeof *order, by_score);
    bal_status st = BAL_OK;
    bool tied = false;
    for (size_t i = 0; i < n && st >= 0; i++) {
        if (i > 0 && order[i].score != order[i - 1].score) tied = false;
        st = add_cuts(m, order[i].id, &tied, err);
    }
    free(order);
    return st;
}

/* ---- Rules that the config adds ----------------------------------------------------------------
 */

/* "<s>" or {"content": "<s>", ...} */
static const char *token_text(const json_t *v)
{
    return json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
}

/* Where Hugging Face's LlamaTokenizer is not "legacy", the space in front is its own and comes
 * once. */
static void read_prefix(spm *m, const json_t *config)
{
    const char *class_name = json_string_value(json_object_get(config, "tokenizer_class"));
    const bool llama = class_name && strncmp(class_name, "LlamaTokenizer", 14) == 0;
    if (llama && json_is_false(json_object_get(config, "legacy"))) {
        m->prefix = !json_is_false(json_object_get(config, "add_prefix_space"));
        m->draft.flags |= BAL_TOKENIZER_PREFIX_ONCE;
    }
    if (m->prefix) m->draft.flags |= BAL_TOKENIZER_PREFIX;
}

/* A text begins with BOS unless the config says otherwise, and does not end with EOS. */
static bal_status read_ends(spm *m, const json_t *config, bal_error *err)
{
    if (json_is_true(json_object_get(config, "add_eos_token")))
        return bal_fail(err, BAL_E_UNSUP,
                        "add_eos_token in tokenizer_config.json is not supported");
    if (json_is_false(json_object_get(config, "add_bos_token"))) return BAL_OK;
    const char *bos = token_text(json_object_get(config, "bos_token"));
    if (!bos && bal_draft_added_id(&m->draft, "<s>") < 0) return BAL_OK;
    return bal_draft_set_bos(&m->draft, bos ? bos : "<s>", err);
}

static bal_status pack(spm *m, const uint8_t *data, size_t n, const json_t *config,
                       const json_t *added, uint8_t **blob, size_t *n_blob, bal_error *err)
{
    BAL_TRY(read_model(m, data, n, err));
    BAL_TRY(add_tokens(m, config, added, err));
    BAL_TRY(add_merges(m, err));
    read_prefix(m, config);
    BAL_TRY(read_ends(m, config, err));
    return bal_draft_pack(&m->draft, blob, n_blob, err);
}

bal_status bal_sentencepiece_pack(const uint8_t *data, size_t n, const json_t *config,
                                  const json_t *added, uint8_t **blob, size_t *n_blob,
                                  bal_error *err)
{
    spm m = {0};
    *blob = NULL;
    *n_blob = 0;
    const bal_status st = pack(&m, data, n, config, added, blob, n_blob, err);
    bal_draft_deinit(&m.draft);
    for (size_t i = 0; i < m.n_names; i++) free(m.names[i]);
    free(m.names);
    json_decref(m.vocab);
    free(m.pieces);
    return st;
}
