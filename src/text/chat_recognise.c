/* SPDX-License-Identifier: MIT
 * Which family a chat_template is of. Templates are Jinja programs that nobody runs here; the known
 * ones are told apart by strings that stand in them: marks and words a family writes, marks that
 * another family would write. White space around '+', the kind of quotes and how a newline is
 * written vary between copies of one template and do not count. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/chat_template.h"
#include "text/utf8.h"

#define TEMPLATE_MAX ((size_t)1 << 20) /* bytes of one template */
#define CONFIG_MAX   ((size_t)64 << 20)

typedef struct marks {
    bal_chat_family family;
    const char *has[5], *lacks[5]; /* in normal form; NULL ends a list */
} marks;

#define CHATML_LINE "'<|im_start|>'+message['role']+'\n'"

/* The first row that fits. */
static const marks known[] = {
    {BAL_CHAT_LLAVA_ONEVISION_SPACED,
     {"'<|im_start|>'+message['role']+' '", "'<image>'", "'\n'+content['text']"},
     {0}},
    {BAL_CHAT_LLAVA_ONEVISION, {CHATML_LINE, "'<image>\n'", "selectattr"}, {0}},
    {BAL_CHAT_INTERNVL, {CHATML_LINE, "'<image>\n'"}, {"bos_token", "system\n"}},
    {BAL_CHAT_INTERNVL, {CHATML_LINE, "'<IMG_CONTEXT>\n'"}, {"bos_token", "system\n"}},
    {BAL_CHAT_LLAVA,
     {"'ASSISTANT:'", "'<image>\n'", "content['text']+' '"},
     {"<|im_start|>", "[INST]"}},
    {BAL_CHAT_QWEN2_VL,
     {"<|vision_start|><|image_pad|><|vision_end|>",
      "<|im_start|>system\nYou are a helpful assistant.<|im_end|>"},
     {"<think>", "<tools>"}},
    {BAL_CHAT_SMOLVLM,
     {"<|im_start|>{%", "<end_of_utterance>\n", "'Assistant:'", "'<image>'"},
     {0}},
    {BAL_CHAT_IDEFICS3,
     {"<|begin_of_text|>{%", "<end_of_utterance>\n", "'Assistant:'", "'<image>'"},
     {0}},
    {BAL_CHAT_LLAMA2,
     {"bos_token+'[INST] '", "' [/INST]'", "<<SYS>>\n", "strip()", "eos_token"},
     {"image"}},
    {BAL_CHAT_LLAMA3_1,
     {"<|start_header_id|>", "<|eot_id|>", "Cutting Knowledge Date: December 2023\n"},
     {"<|image|>", "<image>"}},
    {BAL_CHAT_LLAMA3,
     {"<|start_header_id|>", "<|eot_id|>", "bos_token", "trim"},
     {"<|image|>", "<image>", "Knowledge", "tools"}},
    {BAL_CHAT_QWEN3,
     {"<|im_start|>", "enable_thinking", "'<think>\n\n</think>\n\n'", "reasoning_content",
      "last_query_index"},
     {"<|vision_start|>", "You are"}},
    {BAL_CHAT_QWEN2_5,
     {"<|im_start|>", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
     {"<|vision_start|>", "<think>"}},
    {BAL_CHAT_SMOLLM2,
     {"<|im_start|>",
      "system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>"},
     {"<think>"}},
    {BAL_CHAT_QWEN2,
     {"<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", "message['role']"},
     {"<|vision_start|>", "<think>", "<tools>", "<image>"}},
    {BAL_CHAT_INTERNLM2,
     {"bos_token", CHATML_LINE "+message['content']+'<|im_end|>'+'\n'"},
     {"system\n", "<image>", "<think>"}},
    {BAL_CHAT_CHATML,
     {CHATML_LINE "+message['content']+'<|im_end|>'+'\n'"},
     {"system", "bos_token", "<image>", "<think>"}},
};

/* ---- Text ------------------------------------------------------------------------------------ */

/* Text in normal form to out (room for n + 1): "\n" as a newline, double quotes as single ones, no
 * spaces around '+'. */
static void normalise(const char *text, size_t n, char *out)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) {
        const bool newline = text[i] == '\\' && i + 1 < n && text[i + 1] == 'n';
        const bool after_plus = text[i] == ' ' && k > 0 && out[k - 1] == '+';
        if (after_plus) continue;
        while (text[i] == '+' && k > 0 && out[k - 1] == ' ') k--;
        out[k++] = newline ? '\n' : text[i] == '"' ? '\'' : text[i] ? text[i] : ' ';
        i += newline;
    }
    out[k] = 0;
}

static bool fits(const marks *m, const char *text)
{
    for (size_t i = 0; i < 5 && m->has[i]; i++)
        if (!strstr(text, m->has[i])) return false;
    for (size_t i = 0; i < 5 && m->lacks[i]; i++)
        if (strstr(text, m->lacks[i])) return false;
    return true;
}

static bal_status refuse_text(const char *text, size_t n, bal_error *err)
{
    char names[512];
    size_t k = 0;
    for (int f = 0; f < BAL_CHAT_PLAIN && k < sizeof names; f++)
        k += (size_t)snprintf(names + k, sizeof names - k, "%s%s", f ? ", " : "",
                              bal_chat_family_name((bal_chat_family)f));
    return bal_fail(err, BAL_E_UNSUP, "the chat template '%.*s...' is none of the known ones: %s",
                    bal_utf8_fit(text, n, 40), text, names);
}

bal_status bal_chat_family_recognise(bal_chat_family *out, const char *text, size_t n,
                                     bal_error *err)
{
    if (n > TEMPLATE_MAX)
        return bal_fail(err, BAL_E_UNSUP, "a chat template of %zu bytes, expected at most %zu", n,
                        TEMPLATE_MAX);
    char *normal = malloc(n + 1);
    if (!normal) return bal_nomem(err, n + 1, "a chat template");
    normalise(text, n, normal);
    size_t i = 0;
    while (i < sizeof known / sizeof *known && !fits(known + i, normal)) i++;
    free(normal);
    if (i == sizeof known / sizeof *known) return refuse_text(text, n, err);
    *out = known[i].family;
    return BAL_OK;
}

/* ---- Folder ---------------------------------------------------------------------------------- */

/* *data is NULL where the file is absent. */
static bal_status read_optional(char **data, size_t *n, const char *dir, const char *name,
                                bal_error *err)
{
    char path[1024];
    uint8_t *bytes = NULL;
    *data = NULL;
    BAL_TRY(bal_path_join(path, sizeof path, dir, name, err));
    if (!bal_path_exists(path)) return BAL_OK;
    BAL_TRY(bal_read_file(&bytes, n, path, CONFIG_MAX, err));
    *data = (char *)bytes;
    return BAL_OK;
}

/* Of several templates, [{"name", "template"}], the one called default; NULL: none is. */
static const json_t *default_of(const json_t *list)
{
    size_t i;
    const json_t *one;
    json_array_foreach(list, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && strcmp(name, "default") == 0) return json_object_get(one, "template");
    }
    return NULL;
}

/* A string of a JSON file; *value is NULL where the file or the key is absent; json_decref *root.
 */
static bal_status read_key(json_t **root, const json_t **value, const char *dir, const char *name,
                           const char *key, bal_error *err)
{
    char *text = NULL;
    size_t n = 0;
    json_error_t why;
    *root = NULL;
    *value = NULL;
    BAL_TRY(read_optional(&text, &n, dir, name, err));
    if (!text) return BAL_OK;
    *root = json_loadb(text, n, 0, &why);
    free(text);
    if (!*root)
        return bal_fail(err, BAL_E_FORMAT, "%s/%s: line %d: %.*s", dir, name, why.line,
                        bal_utf8_fit(why.text, strlen(why.text), 100), why.text);
    const json_t *v = json_object_get(*root, key);
    if (json_is_array(v)) v = default_of(v);
    if (json_is_string(v)) *value = v;
    return BAL_OK;
}

static bal_status recognise_key(bal_chat_family *out, bool *found, const char *dir,
                                const char *name, bal_error *err)
{
    json_t *root = NULL;
    const json_t *v = NULL;
    bal_status st = read_key(&root, &v, dir, name, "chat_template", err);
    if (st >= 0 && v) {
        st = bal_chat_family_recognise(out, json_string_value(v), json_string_length(v), err);
        if (st < 0) bal_fail_in(err, st, "%s/%s", dir, name);
        *found = true;
    }
    json_decref(root);
    return st;
}

static bal_status recognise_jinja(bal_chat_family *out, bool *found, const char *dir,
                                  bal_error *err)
{
    char *text = NULL;
    size_t n = 0;
    BAL_TRY(read_optional(&text, &n, dir, "chat_template.jinja", err));
    if (!text) return BAL_OK;
    *found = true;
    const bal_status st = bal_chat_family_recognise(out, text, n, err);
    free(text);
    return st < 0 ? bal_fail_in(err, st, "%s/chat_template.jinja", dir) : st;
}

/* InternVL's remote code: "template" in config.json names one of conversation.py. */
static bal_status named_by_config(bal_chat_family *out, bool *found, const char *dir,
                                  bal_error *err)
{
    static const struct {
        const char *name;
        bal_chat_family family;
    } names[] = {{"internlm2-chat", BAL_CHAT_INTERNVL2},
                 {"Hermes-2", BAL_CHAT_INTERNVL2},
                 {"internvl2_5", BAL_CHAT_INTERNVL2_5}};
    json_t *root = NULL;
    const json_t *v = NULL;
    bal_status st = read_key(&root, &v, dir, "config.json", "template", err);
    if (st >= 0 && v) {
        *found = true;
        st = BAL_E_UNSUP;
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            if (strcmp(json_string_value(v), names[i].name) != 0) continue;
            *out = names[i].family;
            st = BAL_OK;
        }
        if (st < 0)
            bal_fail(err, st,
                     "%s/config.json: template is '%.60s', expected internlm2-chat, Hermes-2 or "
                     "internvl2_5",
                     dir, json_string_value(v));
    }
    json_decref(root);
    return st;
}

/* Native InternVL and LLaVA-OneVision write one and the same template, "<image>" and a newline in
 * ChatML, and mean another token by it: the model says which. */
static bal_chat_family of_model(bal_chat_family f, const char *model_type)
{
    if (f != BAL_CHAT_INTERNVL && f != BAL_CHAT_LLAVA_ONEVISION) return f;
    if (strcmp(model_type, "llava_onevision") == 0) return BAL_CHAT_LLAVA_ONEVISION;
    return strcmp(model_type, "internvl") == 0 ? BAL_CHAT_INTERNVL : f;
}

bal_status bal_chat_family_of_dir(bal_chat_family *out, const char *dir, const char *model_type,
                                  bal_error *err)
{
    static const char *const files[] = {"chat_template.json", "processor_config.json",
                                        "tokenizer_config.json"};
    bool found = false;
    if (strcmp(model_type, "internvl_chat") == 0) {
        BAL_TRY(named_by_config(out, &found, dir, err));
        return found ? BAL_OK : bal_chat_family_find(out, model_type, err);
    }
    BAL_TRY(recognise_jinja(out, &found, dir, err));
    for (size_t i = 0; !found && i < sizeof files / sizeof *files; i++)
        BAL_TRY(recognise_key(out, &found, dir, files[i], err));
    if (!found) return bal_chat_family_find(out, model_type, err);
    *out = of_model(*out, model_type);
    return BAL_OK;
}
