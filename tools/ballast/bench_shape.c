/* SPDX-License-Identifier: MIT */
#include "bench_shape.h"

#include <stdio.h>
#include <string.h>

enum { MAX_BYTES = 1 << 20 };

static bool is_file(const char *name)
{
    const size_t n = strlen(name);
    return strchr(name, '/') || (n > 5 && strcmp(name + n - 5, ".json") == 0);
}

static bal_status read_shape(bal_shape *s, const bal_json *root, bal_error *err)
{
    static const char *const keys[] = {"source", "dtype", "lm_head", "config", "preprocessor"};
    static const char *const dtypes[] = {"f16", "bf16"};
    bal_json config, processor;
    const char *source;
    size_t dtype;
    BAL_TRY(bal_json_as_obj(root, err));
    BAL_TRY(bal_json_only_keys(root, keys, sizeof keys / sizeof *keys, err));
    BAL_TRY(bal_json_str_or(root, "source", "", &source, err));
    BAL_TRY(bal_json_choice(root, "dtype", dtypes, 2, &dtype, err));
    BAL_TRY(bal_json_bool(root, "lm_head", &s->lm_head, err));
    BAL_TRY(bal_json_obj(root, "config", &config, err));
    BAL_TRY(bal_json_obj_or(root, "preprocessor", &processor, err));
    s->dtype = dtype ? BAL_ST_BF16 : BAL_ST_F16;
    BAL_TRY(bal_config_from_json(&s->config, &config, &processor, err));
    if (s->lm_head || s->config.text.tied) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT,
                    "%s: lm_head is false, and tie_word_embeddings of config too", root->file);
}

static bal_status read_text(bal_shape *s, const char *file, const char *text, bal_error *err)
{
    bal_json_doc doc = {0};
    bal_status st;
    if (text)
        BAL_GOTO(bal_json_parse(&doc, text, strlen(text), MAX_BYTES, file, err), done);
    else
        BAL_GOTO(bal_json_load(&doc, file, MAX_BYTES, err), done);
    const bal_json root = bal_json_root(&doc);
    st = read_shape(s, &root, err);
done:
    bal_json_close(&doc);
    return st;
}

static bal_status unknown(const char *name, bal_error *err)
{
    char known[300];
    size_t at = 0;
    for (const bal_shape_text *t = bal_shape_builtin; t->name && at < sizeof known; t++)
        at += (size_t)snprintf(known + at, sizeof known - at, "%s%s",
                               t == bal_shape_builtin ? "" : ", ", t->name);
    return bal_fail(err, BAL_E_ARG, "'%.40s' is not the name of a shape: %s; or a FILE.json", name,
                    known);
}

bal_status bal_shape_load(bal_shape *s, const char *name, bal_error *err)
{
    *s = (bal_shape){0};
    if (is_file(name)) {
        const char *base = strrchr(name, '/');
        snprintf(s->name, sizeof s->name, "%s", base ? base + 1 : name);
        s->name[strcspn(s->name, ".")] = 0;
        return read_text(s, name, NULL, err);
    }
    for (const bal_shape_text *t = bal_shape_builtin; t->name; t++) {
        if (strcmp(t->name, name) != 0) continue;
        snprintf(s->name, sizeof s->name, "%s", name);
        return read_text(s, name, t->json, err);
    }
    return unknown(name, err);
}
