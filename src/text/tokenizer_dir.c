/* SPDX-License-Identifier: MIT
 * Finds the tokenizer in a model folder. Besides tokenizer.json there are SentencePiece's
 * tokenizer.model and the older form: a vocabulary in JSON and a text file of merges, where the
 * class named in tokenizer_config.json says how text is normalised and split. */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "text/tokenizer_draft.h"

/* What the Python classes of that name do. */
typedef struct text_rules {
    const char *class_name, *pattern;
    uint32_t flags;
} text_rules;

static const text_rules known_rules[] = {
    {"Qwen2Tokenizer", BAL_SPLIT_QWEN2, BAL_TOKENIZER_NFC},
    {"Qwen2TokenizerFast", BAL_SPLIT_QWEN2, BAL_TOKENIZER_NFC},
    {"GPT2Tokenizer", BAL_SPLIT_GPT2, 0},
    {"GPT2TokenizerFast", BAL_SPLIT_GPT2, 0},
};

/* The files of the older form, all in memory. */
typedef struct old_form {
    const char *dir, *vocab_name, *merges_name;
    json_t *vocab, *config, *added;
    char *merges;
    size_t n_merges;
    bal_tokenizer_draft draft;
} old_form;

static bool is_there(const char *dir, const char *name)
{
    char path[1024];
    return bal_path_join(path, sizeof path, dir, name, NULL) >= 0 && bal_path_exists(path);
}

static bal_status read_text(char **out, size_t *n, const char *dir, const char *name,
                            bal_error *err)
{
    char path[1024];
    uint8_t *text = NULL;
    *out = NULL;
    BAL_TRY(bal_path_join(path, sizeof path, dir, name, err));
    BAL_TRY(bal_read_file(&text, n, path, BAL_TOKENIZER_FILE_MAX, err));
    *out = (char *)text;
    return BAL_OK;
}

static bal_status load_object(json_t **out, const char *dir, const char *name, bal_error *err)
{
    char *text = NULL;
    size_t n = 0;
    BAL_TRY(read_text(&text, &n, dir, name, err));
    const bal_status st = bal_draft_load_object(out, text, n, err);
    free(text);
    return st < 0 ? bal_fail_in(err, st, "%s/%s", dir, name) : st;
}

/* *out is NULL where the file is absent. */
static bal_status load_optional(json_t **out, const char *dir, const char *name, bal_error *err)
{
    *out = NULL;
    return is_there(dir, name) ? load_object(out, dir, name, err) : BAL_OK;
}

/* ---- Older form --------------------------------------------------------------------------------
 */

static bal_status read_files(old_form *f, bal_error *err)
{
    BAL_TRY(load_object(&f->vocab, f->dir, f->vocab_name, err));
    BAL_TRY(read_text(&f->merges, &f->n_merges, f->dir, f->merges_name, err));
    BAL_TRY(load_optional(&f->config, f->dir, "tokenizer_config.json", err));
    return load_optional(&f->added, f->dir, "added_tokens.json", err);
}

/* GPT-2's first release has no config file, only file names of its own. */
static bal_status choose_rules(old_form *f, bool first_release, bal_error *err)
{
    const char *name = json_string_value(json_object_get(f->config, "tokenizer_class"));
    if (!name && first_release) name = "GPT2Tokenizer";
    if (json_is_true(json_object_get(f->config, "add_prefix_space")))
        return bal_fail(err, BAL_E_UNSUP,
                        "%s/tokenizer_config.json: add_prefix_space is not "
                        "supported",
                        f->dir);
    for (size_t i = 0; name && i < sizeof known_rules / sizeof *known_rules; i++) {
        if (strcmp(name, known_rules[i].class_name) != 0) continue;
        f->draft.pattern = known_rules[i].pattern;
        f->draft.n_pattern = strlen(known_rules[i].pattern);
        f->draft.flags = known_rules[i].flags;
        return BAL_OK;
    }
    return bal_fail(err, BAL_E_UNSUP,
                    "%s/tokenizer_config.json: tokenizer_class is '%.60s', "
                    "expected Qwen2Tokenizer or GPT2Tokenizer (or a tokenizer.json)",
                    f->dir, name ? name : "?");
}

static bal_status add_tokens(old_form *f, bool first_release, bal_error *err)
{
    bal_tokenizer_draft *d = &f->draft;
    bal_status st =
        bal_draft_add_decoder(d, json_object_get(f->config, "added_tokens_decoder"), err);
    if (st < 0) return bal_fail_in(err, st, "%s/tokenizer_config.json", f->dir);
    st = bal_draft_add_plain(d, f->added, err);
    if (st < 0) return bal_fail_in(err, st, "%s/added_tokens.json", f->dir);
    /* GPT2Tokenizer's own default for the one special token its vocabulary contains */
    const json_t *end = json_object_get(f->vocab, "<|endoftext|>");
    if (first_release && end && bal_draft_added_id(d, "<|endoftext|>") < 0)
        st = bal_draft_add_token(d, "<|endoftext|>", json_integer_value(end), true, err);
    if (st >= 0) st = bal_draft_take_vocab(d, err);
    return st < 0 ? bal_fail_in(err, st, "%s/%s", f->dir, f->vocab_name) : st;
}

static bal_status add_merge_line(bal_tokenizer_draft *d, const char *line, size_t n, bal_error *err)
{
    const char *space = memchr(line, ' ', n);
    if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - line)))
        return bal_fail(err, BAL_E_FORMAT, "expected two parts with a space between them");
    const size_t n_left = (size_t)(space - line);
    return bal_draft_add_merge(d, line, n_left, space + 1, n - n_left - 1, err);
}

/* One merge a line; lines that begin with #version are skipped, as tokenizers does. */
static bal_status add_merges(old_form *f, bal_error *err)
{
    static const char version[] = "#version";
    const char *line = f->merges, *end = f->merges + f->n_merges;
    for (size_t number = 1; line < end; number++) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        size_t n = (size_t)((newline ? newline : end) - line);
        if (n > 0 && line[n - 1] == '\r') n--;
        const bool skip = n >= strlen(version) && memcmp(line, version, strlen(version)) == 0;
        const bal_status st = skip ? BAL_OK : add_merge_line(&f->draft, line, n, err);
        if (st < 0) return bal_fail_in(err, st, "%s/%s: line %zu", f->dir, f->merges_name, number);
        line = newline ? newline + 1 : end;
    }
    return BAL_OK;
}

static bal_status read_old_form(old_form *f, bool first_release, uint8_t **blob, size_t *n_blob,
                                bal_error *err)
{
    BAL_TRY(read_files(f, err));
    const size_t n_decoder = json_object_size(json_object_get(f->config, "added_tokens_decoder"));
    const size_t n_added = n_decoder + json_object_size(f->added) + first_release;
    bal_status st = bal_draft_init(&f->draft, f->vocab, n_added, err);
    if (st < 0) return bal_fail_in(err, st, "%s/%s", f->dir, f->vocab_name);
    BAL_TRY(choose_rules(f, first_release, err));
    BAL_TRY(add_tokens(f, first_release, err));
    BAL_TRY(add_merges(f, err));
    st = bal_draft_pack(&f->draft, blob, n_blob, err);
    return st < 0 ? bal_fail_in(err, st, "%s/%s", f->dir, f->vocab_name) : st;
}

static bal_status open_old_form(bal_tokenizer **out, const char *dir, bool first_release,
                                bal_error *err)
{
    old_form f = {.dir = dir,
                  .vocab_name = first_release ? "encoder.json" : "vocab.json",
                  .merges_name = first_release ? "vocab.bpe" : "merges.txt"};
    uint8_t *blob = NULL;
    size_t n_blob = 0;
    bal_status st = read_old_form(&f, first_release, &blob, &n_blob, err);
    if (st >= 0 && (st = bal_tokenizer_open_owned(out, blob, n_blob, err)) < 0)
        bal_fail_in(err, st, "%s", dir);
    bal_draft_deinit(&f.draft);
    json_decref(f.vocab);
    json_decref(f.config);
    json_decref(f.added);
    free(f.merges);
    return st;
}

/* ---- SentencePiece ------------------------------------------------------------------------- */

static bal_status open_sentencepiece(bal_tokenizer **out, const char *dir, bal_error *err)
{
    char *model = NULL;
    uint8_t *blob = NULL;
    json_t *config = NULL, *added = NULL;
    size_t n = 0, n_blob = 0;
    bal_status st = read_text(&model, &n, dir, "tokenizer.model", err);
    if (st >= 0) st = load_optional(&config, dir, "tokenizer_config.json", err);
    if (st >= 0) st = load_optional(&added, dir, "added_tokens.json", err);
    if (st >= 0) {
        st = bal_sentencepiece_pack((uint8_t *)model, n, config, added, &blob, &n_blob, err);
        if (st >= 0) st = bal_tokenizer_open_owned(out, blob, n_blob, err);
        if (st < 0) bal_fail_in(err, st, "%s/tokenizer.model", dir);
    }
    json_decref(config);
    json_decref(added);
    free(model);
    return st;
}

/* ---- Folder ------------------------------------------------------------------------------------
 */

static bal_status open_tokenizer_json(bal_tokenizer **out, const char *dir, bal_error *err)
{
    char path[1024], *text = NULL;
    size_t n = 0;
    BAL_TRY(bal_path_join(path, sizeof path, dir, "tokenizer.json", err));
    BAL_TRY(read_text(&text, &n, dir, "tokenizer.json", err));
    const bal_status st = bal_tokenizer_open_json(out, path, text, n, err);
    free(text);
    return st;
}

bal_status bal_tokenizer_open_dir(bal_tokenizer **out, const char *dir, bal_error *err)
{
    *out = NULL;
    if (is_there(dir, "tokenizer.json")) return open_tokenizer_json(out, dir, err);
    if (is_there(dir, "tokenizer.model")) return open_sentencepiece(out, dir, err);
    if (is_there(dir, "vocab.json")) return open_old_form(out, dir, false, err);
    if (is_there(dir, "encoder.json")) return open_old_form(out, dir, true, err);
    return bal_fail(err, BAL_E_IO,
                    "%s: no tokenizer.json, tokenizer.model, vocab.json or encoder.json", dir);
}
