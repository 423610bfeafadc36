/* SPDX-License-Identifier: MIT
 * Reads the text of a tokenizer.json (Hugging Face tokenizers). Only what byte-level BPE needs is
 * understood; a component that would change ids and is not understood is refused by its name. */
#include <stdlib.h>

#include "text/tokenizer_draft.h"

/* "type" of a component, NULL if the component is absent or null */
static const char *type_of(const json_t *component)
{
    return json_string_value(json_object_get(component, "type"));
}

static bool is_nothing(const json_t *v)
{
    return !v || json_is_null(v);
}

static bal_status refuse_type(bal_error *err, const char *key, const json_t *v,
                              const char *expected)
{
    const char *type = type_of(v);
    return bal_fail(err, BAL_E_UNSUP, "%s of type '%.60s' is not supported, expected %s", key,
                    type ? type : "?", expected);
}

static bool is_type(const json_t *v, const char *name)
{
    const char *type = type_of(v);
    return type && strcmp(type, name) == 0;
}

/* ---- Components ------------------------------------------------------------------------------ */

static bal_status read_normalizer(bal_tokenizer_draft *d, const json_t *root, bal_error *err)
{
    const json_t *v = json_object_get(root, "normalizer");
    if (is_nothing(v)) return BAL_OK;
    if (!is_type(v, "NFC")) return refuse_type(err, "normalizer", v, "NFC or null");
    d->nfc = true;
    return BAL_OK;
}

/* A ByteLevel pre-tokenizer; *use_regex says that it splits by GPT-2's expression as well. */
static bal_status read_byte_level(const json_t *v, bool *use_regex, bal_error *err)
{
    if (!is_type(v, "ByteLevel")) return refuse_type(err, "pre_tokenizer", v, "ByteLevel");
    if (!json_is_false(json_object_get(v, "add_prefix_space")))
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: ByteLevel with add_prefix_space is not "
                        "supported");
    *use_regex = !json_is_false(json_object_get(v, "use_regex"));
    return BAL_OK;
}

static bal_status read_split(bal_tokenizer_draft *d, const json_t *v, bal_error *err)
{
    if (!is_type(v, "Split")) return refuse_type(err, "pre_tokenizer", v, "Split");
    const char *behavior = json_string_value(json_object_get(v, "behavior"));
    if (!behavior || strcmp(behavior, "Isolated") != 0 ||
        json_is_true(json_object_get(v, "invert")))
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: Split with behavior '%.40s' is not "
                        "supported, expected 'Isolated' and not inverted",
                        behavior ? behavior : "?");
    const json_t *regex = json_object_get(json_object_get(v, "pattern"), "Regex");
    if (!json_is_string(regex))
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: Split without pattern.Regex is not "
                        "supported");
    d->pattern = json_string_value(regex);
    d->n_pattern = json_string_length(regex);
    return BAL_OK;
}

static bal_status read_pre_tokenizer(bal_tokenizer_draft *d, const json_t *root, bal_error *err)
{
    const json_t *v = json_object_get(root, "pre_tokenizer"), *steps = NULL;
    bool use_regex = false;
    if (is_type(v, "Sequence")) steps = json_object_get(v, "pretokenizers");
    if (json_array_size(steps) == 2) {
        BAL_TRY(read_split(d, json_array_get(steps, 0), err));
        BAL_TRY(read_byte_level(json_array_get(steps, 1), &use_regex, err));
        if (!use_regex) return BAL_OK;
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: Split and then ByteLevel with use_regex "
                        "is not supported");
    }
    if (steps)
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: Sequence of %zu is not supported, "
                        "expected Split and ByteLevel",
                        json_array_size(steps));
    BAL_TRY(read_byte_level(v, &use_regex, err));
    if (!use_regex)
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: ByteLevel without use_regex and without "
                        "Split is not supported");
    d->pattern = BAL_SPLIT_GPT2;
    d->n_pattern = strlen(BAL_SPLIT_GPT2);
    return BAL_OK;
}

/* What stands after the model: only forms that add no token. */
static bal_status check_after(const json_t *root, bal_error *err)
{
    static const char *const keys[] = {"post_processor", "decoder"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *v = json_object_get(root, keys[i]);
        if (!is_nothing(v) && !is_type(v, "ByteLevel"))
            return refuse_type(err, keys[i], v, "ByteLevel or null");
    }
    return BAL_OK;
}

/* ---- Model ----------------------------------------------------------------------------------- */

static bal_status check_model(const json_t *model, bal_error *err)
{
    if (!json_is_object(model)) return bal_fail(err, BAL_E_FORMAT, "model is not an object");
    if (json_object_get(model, "type") && !is_type(model, "BPE"))
        return refuse_type(err, "model", model, "BPE");
    static const char *const flags[] = {"ignore_merges", "byte_fallback"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (json_is_true(json_object_get(model, flags[i])))
            return bal_fail(err, BAL_E_UNSUP, "model.%s is not supported", flags[i]);
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; i < sizeof affixes / sizeof *affixes; i++) {
        const json_t *v = json_object_get(model, affixes[i]);
        if (!is_nothing(v) && !(json_is_string(v) && json_string_length(v) == 0))
            return bal_fail(err, BAL_E_UNSUP, "model.%s is not supported", affixes[i]);
    }
    const json_t *dropout = json_object_get(model, "dropout");
    if (!is_nothing(dropout) && json_number_value(dropout) != 0)
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
    if (!is_nothing(added) && !json_is_array(added))
        return bal_fail(err, BAL_E_FORMAT, "added_tokens is not an array");
    BAL_TRY(bal_draft_init(d, vocab, json_array_size(added), err));
    BAL_TRY(read_added(d, added, err));
    BAL_TRY(bal_draft_take_vocab(d, err));
    return read_merges(d, model, err);
}

static bal_status read_root(bal_tokenizer_draft *d, const json_t *root, bal_error *err)
{
    BAL_TRY(read_model(d, root, err));
    BAL_TRY(read_normalizer(d, root, err));
    BAL_TRY(read_pre_tokenizer(d, root, err));
    return check_after(root, err);
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
