/* SPDX-License-Identifier: MIT
 * What stands around the model of a tokenizer.json: normalizer, pre-tokenizer, post-processor and
 * decoder. There are two families of them, over bytes (GPT-2's alphabet) and over characters
 * (SentencePiece's way with spaces); the model's byte_fallback says which. A component that would
 * change ids and is not understood is refused by its name. */
#include "text/tokenizer_draft.h"

#define SPACE "\xe2\x96\x81" /* U+2581 */

static bool is_string(const json_t *v, const char *text)
{
    return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

/* One component under `key` or, where it is a Sequence, all of its `list`, each to fn. */
typedef bal_status part_fn(bal_tokenizer_draft *d, const json_t *v, bal_error *err);
static bal_status each_part(bal_tokenizer_draft *d, const json_t *v, const char *list, part_fn *fn,
                            bal_error *err)
{
    if (bal_draft_is_nothing(v)) return BAL_OK;
    if (!bal_draft_is_type(v, "Sequence")) return fn(d, v, err);
    const json_t *parts = json_object_get(v, list);
    for (size_t i = 0; i < json_array_size(parts); i++)
        BAL_TRY(fn(d, json_array_get(parts, i), err));
    return BAL_OK;
}

/* ---- Bytes ----------------------------------------------------------------------------------- */

static bal_status read_form(bal_tokenizer_draft *d, const json_t *v, bal_error *err)
{
    if (bal_draft_is_nothing(v)) return BAL_OK;
    if (!bal_draft_is_type(v, "NFC"))
        return bal_draft_refuse_type(err, "normalizer", v, "NFC or null");
    d->flags |= BAL_TOKENIZER_NFC;
    return BAL_OK;
}

/* A ByteLevel pre-tokenizer; *use_regex says that it splits by GPT-2's expression as well. */
static bal_status read_byte_level(const json_t *v, bool *use_regex, bal_error *err)
{
    if (!bal_draft_is_type(v, "ByteLevel"))
        return bal_draft_refuse_type(err, "pre_tokenizer", v, "ByteLevel");
    if (!json_is_false(json_object_get(v, "add_prefix_space")))
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: ByteLevel with add_prefix_space is not supported");
    *use_regex = !json_is_false(json_object_get(v, "use_regex"));
    return BAL_OK;
}

static void set_pattern(bal_tokenizer_draft *d, const char *pattern)
{
    d->pattern = pattern;
    d->n_pattern = strlen(pattern);
}

/* ByteLevel alone, or Digits and then ByteLevel */
static bal_status read_gpt2(bal_tokenizer_draft *d, const json_t *digits, const json_t *v,
                            bal_error *err)
{
    bool use_regex = false;
    BAL_TRY(read_byte_level(v, &use_regex, err));
    if (!use_regex)
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: ByteLevel without use_regex and without Split is not "
                        "supported");
    if (digits && !json_is_true(json_object_get(digits, "individual_digits")))
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: Digits without individual_digits is not supported");
    set_pattern(d, digits ? BAL_SPLIT_DIGITS_GPT2 : BAL_SPLIT_GPT2);
    return BAL_OK;
}

static bal_status read_split(bal_tokenizer_draft *d, const json_t *v, bal_error *err)
{
    if (!bal_draft_is_type(v, "Split"))
        return bal_draft_refuse_type(err, "pre_tokenizer", v, "Split or Digits");
    const char *behavior = json_string_value(json_object_get(v, "behavior"));
    if (!behavior || strcmp(behavior, "Isolated") != 0 ||
        json_is_true(json_object_get(v, "invert")))
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: Split with behavior '%.40s' is not supported, expected "
                        "'Isolated' and not inverted",
                        behavior ? behavior : "?");
    const json_t *regex = json_object_get(json_object_get(v, "pattern"), "Regex");
    if (!json_is_string(regex))
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: Split without pattern.Regex is not supported");
    d->pattern = json_string_value(regex);
    d->n_pattern = json_string_length(regex);
    return BAL_OK;
}

static bal_status read_cuts(bal_tokenizer_draft *d, const json_t *v, bal_error *err)
{
    if (!bal_draft_is_type(v, "Sequence")) return read_gpt2(d, NULL, v, err);
    const json_t *steps = json_object_get(v, "pretokenizers");
    const json_t *first = json_array_get(steps, 0), *second = json_array_get(steps, 1);
    if (json_array_size(steps) != 2)
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: Sequence of %zu is not supported, expected Split or "
                        "Digits, then ByteLevel",
                        json_array_size(steps));
    if (bal_draft_is_type(first, "Digits")) return read_gpt2(d, first, second, err);
    bool use_regex = false;
    BAL_TRY(read_split(d, first, err));
    BAL_TRY(read_byte_level(second, &use_regex, err));
    if (!use_regex) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP,
                    "pre_tokenizer: Split and then ByteLevel with use_regex is not supported");
}

/* ---- Characters ------------------------------------------------------------------------------ */

/* What gives the text its space in front; only one part may. */
static bal_status set_prefix(bal_tokenizer_draft *d, uint32_t how, bal_error *err)
{
    if (d->flags & BAL_TOKENIZER_PREFIX)
        return bal_fail(err, BAL_E_UNSUP, "both normalizer and pre_tokenizer put a space in front");
    d->flags |= BAL_TOKENIZER_PREFIX | how;
    return BAL_OK;
}

/* Prepend and Replace, which make the spaces of SentencePiece. That spaces become U+2581 is what
 * CHARACTERS means, whether Replace or Metaspace does it. */
static bal_status read_spaces(bal_tokenizer_draft *d, const json_t *v, bal_error *err)
{
    if (bal_draft_is_type(v, "Prepend") && is_string(json_object_get(v, "prepend"), SPACE))
        return set_prefix(d, 0, err);
    const json_t *from = json_object_get(json_object_get(v, "pattern"), "String");
    if (bal_draft_is_type(v, "Replace") && is_string(from, " ") &&
        is_string(json_object_get(v, "content"), SPACE))
        return BAL_OK;
    return bal_draft_refuse_type(err, "normalizer", v,
                                 "Prepend of U+2581 or Replace of spaces by U+2581");
}

static bal_status read_metaspace(bal_tokenizer_draft *d, const json_t *v, bal_error *err)
{
    if (bal_draft_is_nothing(v)) return BAL_OK;
    if (!bal_draft_is_type(v, "Metaspace"))
        return bal_draft_refuse_type(err, "pre_tokenizer", v, "Metaspace or null");
    const json_t *scheme = json_object_get(v, "prepend_scheme");
    if (!is_string(json_object_get(v, "replacement"), SPACE) ||
        !json_is_false(json_object_get(v, "split")))
        return bal_fail(err, BAL_E_UNSUP,
                        "pre_tokenizer: Metaspace is supported with replacement U+2581 and "
                        "without split only");
    if (is_string(scheme, "never")) return BAL_OK;
    if (is_string(scheme, "always")) return set_prefix(d, BAL_TOKENIZER_PREFIX_UNLESS, err);
    if (is_string(scheme, "first"))
        return set_prefix(d, BAL_TOKENIZER_PREFIX_UNLESS | BAL_TOKENIZER_PREFIX_ONCE, err);
    return bal_fail(err, BAL_E_UNSUP,
                    "pre_tokenizer: Metaspace with prepend_scheme '%.40s' is not supported, "
                    "expected always, first or never",
                    json_is_string(scheme) ? json_string_value(scheme) : "?");
}

/* ---- What comes after the model -------------------------------------------------------------- */

/* A template of one text: the text alone, or one token and the text. */
static bal_status read_template(bal_tokenizer_draft *d, const json_t *v, bal_error *err)
{
    const json_t *single = json_object_get(v, "single");
    const size_t n = json_array_size(single);
    const json_t *first = json_object_get(json_array_get(single, 0), "SpecialToken");
    if (n < 1 || n > 2 || !json_object_get(json_array_get(single, n - 1), "Sequence") ||
        (n == 2) != !!first)
        return bal_fail(err, BAL_E_UNSUP,
                        "post_processor: TemplateProcessing is supported with one token or none "
                        "before a text and none behind");
    const char *content = json_string_value(json_object_get(first, "id"));
    if (n == 1) return BAL_OK;
    if (content) return bal_draft_set_bos(d, content, err);
    return bal_fail(err, BAL_E_FORMAT, "post_processor: TemplateProcessing names no token");
}

static bal_status read_post_processor(bal_tokenizer_draft *d, const json_t *v, bal_error *err)
{
    if (bal_draft_is_type(v, "TemplateProcessing")) return read_template(d, v, err);
    if (bal_draft_is_type(v, "ByteLevel")) return BAL_OK;
    return bal_draft_refuse_type(err, "post_processor", v, "ByteLevel, TemplateProcessing or null");
}

/* Decoding goes by the bytes of tokens, so only the kind matters. */
static bal_status check_decoder(bal_tokenizer_draft *d, const json_t *v, bal_error *err)
{
    static const char *const characters[] = {"Replace", "ByteFallback", "Fuse", "Strip",
                                             "Metaspace"};
    const bool chars = d->flags & BAL_TOKENIZER_CHARACTERS;
    for (size_t i = 0; chars && i < sizeof characters / sizeof *characters; i++)
        if (bal_draft_is_type(v, characters[i])) return BAL_OK;
    if (!chars && bal_draft_is_type(v, "ByteLevel")) return BAL_OK;
    return bal_draft_refuse_type(err, "decoder", v,
                                 chars ? "Replace, ByteFallback, Fuse, Strip, Metaspace or null"
                                       : "ByteLevel or null");
}

bal_status bal_draft_read_parts(bal_tokenizer_draft *d, const json_t *root, bal_error *err)
{
    const json_t *normalizer = json_object_get(root, "normalizer");
    const json_t *cuts = json_object_get(root, "pre_tokenizer");
    if (d->flags & BAL_TOKENIZER_CHARACTERS) {
        BAL_TRY(each_part(d, normalizer, "normalizers", read_spaces, err));
        BAL_TRY(read_metaspace(d, cuts, err));
    } else {
        BAL_TRY(read_form(d, normalizer, err));
        BAL_TRY(read_cuts(d, cuts, err));
    }
    BAL_TRY(each_part(d, json_object_get(root, "post_processor"), "processors", read_post_processor,
                      err));
    return each_part(d, json_object_get(root, "decoder"), "decoders", check_decoder, err);
}
