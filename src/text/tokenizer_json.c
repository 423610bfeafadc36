/* SPDX-License-Identifier: MIT
 * Reads the text of a tokenizer.json (Hugging Face tokenizers): vocabulary, merges and added tokens
 * of a BPE model; what stands around the model is tokenizer_parts.c's. */
#include <stdlib.h>

#include "text/tokenizer_draft.h"

/* ---- Model ----------------------------------------------------------------------------------- */

static bal_status check_model(const json_t *model, bal_error *err)
{
    if (!json_is_object(model)) return bal_fail(err, BAL_E_FORMAT, "model is not an object");
    if (json_object_get(model, "type") && !bal_draft_is_type(model, "BPE"))
        return bal_draft_refuse_type(err, "model", model, "BPE");
    if (json_is_true(json_object_get(model, "ignore_merges")) &&
        json_is_true(json_object_get(model, "byte_fallback")))
        return bal_fail(err, BAL_E_UNSUP,
                        "model.ignore_merges together with byte_fallback is not supported");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof affixes / sizeof *affixes; i++) {
        const json_t *v = json_object_get(model, affixes[i]);
        if (!bal_draft_is_nothing(v) && !(json_is_string(v) && json_string_length(v) == 0))
            return bal_fail(err, BAL_E_UNSUP, "model.%s is not supported", affixes[i]);
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (!bal_draft_is_nothing(dropout) && json_number_value(dropout) != 0)
        return bal_fail(err, BAL_E_UNSUP, "model.dropout is not supported");
    return BAL_OK;
}

/* "a b" or ["a", "b"] */
static bal_status read_merge(bal_tokenizer_draft *d, const json_t *v, bal_error *err)
{
    const json_t *a = json_array_get(v, 0), *b = json_array_get(v, 1);
    if (json_array_size(v) == 2 && json_is_string(a) && json_is_string(b))
        return bal_draft_add_merge(d, json_string_value(a), json_string_length(a),
                                   json_string_value(b), json_string_length(b), err);
    const char *pair = json_string_value(v), *space = pair ? strchr(pair, ' ') : NULL;
    if (!space || strchr(space + 1, ' '))
        return bal_fail(err, BAL_E_FORMAT, "expected two parts, \"a b\" or [\"a\", \"b\"]");
    return bal_draft_add_merge(d, pair, (size_t)(space - pair), space + 1, strlen(space + 1), err);
}

static bal_status read_merges(bal_tokenizer_draft *d, const json_t *model, bal_error *err)
{
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges)) return bal_fail(err, BAL_E_FORMAT, "model.merges is not an array");
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const bal_status st = read_merge(d, json_array_get(merges, i), err);
        if (st < 0) return bal_fail_in(err, st, "model.merges[%zu]", i);
    }
    return BAL_OK;
}

static bal_status read_added(bal_tokenizer_draft *d, const json_t *added, bal_error *err)
{
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *v = json_array_get(added, i), *id = json_object_get(v, "id");
        const bal_status st = json_is_integer(id)
                                  ? bal_draft_add_described(d, v, json_integer_value(id), err)
                                  : bal_fail(err, BAL_E_FORMAT, "no integer for an id");
        if (st < 0) return bal_fail_in(err, st, "added_tokens[%zu]", i);
    }
    return BAL_OK;
}

static bal_status read_model(bal_tokenizer_draft *d, const json_t *root, bal_error *err)
{
    const json_t *model = json_object_get(root, "model");
    BAL_TRY(check_model(model, err));
    const json_t *vocab = json_object_get(model, "vocab");
    const json_t *added = json_object_get(root, "added_tokens");
    if (!json_is_object(vocab)) return bal_fail(err, BAL_E_FORMAT, "model.vocab is not an object");
    if (!bal_draft_is_nothing(added) && !json_is_array(added))
        return bal_fail(err, BAL_E_FORMAT, "added_tokens is not an array");
    BAL_TRY(bal_draft_init(d, vocab, json_array_size(added), err));
    if (json_is_true(json_object_get(model, "ignore_merges"))) d->flags = BAL_TOKENIZER_WHOLE;
    if (json_is_true(json_object_get(model, "byte_fallback"))) d->flags = BAL_TOKENIZER_CHARACTERS;
    BAL_TRY(read_added(d, added, err));
    BAL_TRY(bal_draft_take_vocab(d, err));
    return read_merges(d, model, err);
}

static bal_status read_root(bal_tokenizer_draft *d, const json_t *root, bal_error *err)
{
    BAL_TRY(read_model(d, root, err));
    return bal_draft_read_parts(d, root, err);
}

bal_status bal_tokenizer_open_json(bal_tokenizer **out, const char *name, const char *json,
                                   size_t n, bal_error *err)
{
    *out = NULL;
    json_t *root = NULL;
    bal_tokenizer_draft draft = {0};
    uint8_t *blob = NULL;
    size_t n_blob = 0;
    bal_status st = bal_draft_load_object(&root, json, n, err);
    if (st >= 0) st = read_root(&draft, root, err);
    if (st >= 0) st = bal_draft_pack(&draft, &blob, &n_blob, err);
    if (st >= 0) st = bal_tokenizer_open_owned(out, blob, n_blob, err);
    bal_draft_deinit(&draft);
    json_decref(root);
    return st < 0 ? bal_fail_in(err, st, "%s", name) : st;
}
