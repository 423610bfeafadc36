/* SPDX-License-Identifier: MIT */
#include "text/chat.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

/* A turn:  turn_begin role after_role (image after_image)* text turn_end after_turn
 * turn_begin, image and turn_end are tokens, the others plain text. */
typedef struct chat_template {
    const char *model_type;
    const char *turn_begin, *after_role, *image, *after_image, *turn_end, *after_turn;
    const char *roles[BAL_CHAT_N_ROLES];
} chat_template;

static const chat_template templates[BAL_CHAT_N_FAMILIES] = {
    [BAL_CHAT_LLAVA_ONEVISION] = {"llava_onevision", .turn_begin = "<|im_start|>",
                                  .after_role = "\n", .image = "<image>", .after_image = "\n",
                                  .turn_end = "<|im_end|>", .after_turn = "\n",
                                  .roles = {"system", "user", "assistant"}},
};

static const char *const role_names[BAL_CHAT_N_ROLES] = {"system", "user", "assistant"};

bal_status bal_chat_family_find(bal_chat_family *out, const char *model_type, bal_error *err)
{
    for (int f = 0; f < BAL_CHAT_N_FAMILIES; f++) {
        *out = (bal_chat_family)f;
        if (strcmp(model_type, templates[f].model_type) == 0) return BAL_OK;
    }
    return bal_fail(err, BAL_E_UNSUP, "no chat template for model_type '%.60s', expected %s",
                    model_type, templates[0].model_type);
}

bal_status bal_chat_role_find(bal_chat_role *out, const char *name, bal_error *err)
{
    for (int r = 0; r < BAL_CHAT_N_ROLES; r++) {
        *out = (bal_chat_role)r;
        if (strcmp(name, role_names[r]) == 0) return BAL_OK;
    }
    return bal_fail(err, BAL_E_ARG, "role '%.60s', expected system, user or assistant", name);
}

/* ---- Writing ------------------------------------------------------------------------------- */

/* Plain text gathers in `text` until a special token ends it: what stands between two special
 * tokens is encoded in one go, as the rendered template would be. */
typedef struct chat_writer {
    const bal_tokenizer *t;
    const chat_template *family;
    bal_ids ids;
    uint8_t *tags;
    size_t cap_tags;
    char *text;
    size_t n_text, cap_text;
    size_t n_scaffold; /* bytes of text that come from the template */
    bal_error *err;
} chat_writer;

/* Every id that has no tag yet gets this one. */
static bal_status tag_from(chat_writer *w, size_t first, bal_token_tag tag)
{
    if (w->ids.n > w->cap_tags) {
        uint8_t *tags = realloc(w->tags, w->ids.cap);
        if (!tags) return bal_nomem(w->err, w->ids.cap, "token tags");
        w->tags = tags;
        w->cap_tags = w->ids.cap;
    }
    memset(w->tags + first, (int)tag, w->ids.n - first);
    return BAL_OK;
}

static bal_status put_text(chat_writer *w, const char *text, size_t n)
{
    size_t need = 0;
    if (!bal_size_add(w->n_text, n, &need)) return bal_nomem(w->err, n, "a chat text");
    if (need > w->cap_text) {
        char *p = realloc(w->text, need + need / 2);
        if (!p) return bal_nomem(w->err, need, "a chat text");
        w->text = p;
        w->cap_text = need + need / 2;
    }
    if (n) memcpy(w->text + w->n_text, text, n);
    w->n_text = need;
    return BAL_OK;
}

static bal_status put_scaffold(chat_writer *w, const char *text)
{
    BAL_TRY(put_text(w, text, strlen(text)));
    w->n_scaffold = w->n_text;
    return BAL_OK;
}

/* Encodes the gathered text; tokens that reach beyond the scaffold get `content`. The scaffold is
 * ASCII that ends with a newline, which neither repair nor NFC changes, so bytes of tokens can be
 * counted against it. */
static bal_status flush(chat_writer *w, bal_token_tag content)
{
    const size_t first = w->ids.n;
    if (w->n_text == 0) return BAL_OK;
    BAL_TRY(bal_tokenizer_append(w->t, w->text, w->n_text, &w->ids, w->err));
    BAL_TRY(tag_from(w, first, content));
    size_t i = first, n_bytes = 0;
    for (; i < w->ids.n; i++) {
        n_bytes += bal_tokenizer_decode(w->t, w->ids.v[i], true).n;
        if (n_bytes > w->n_scaffold) break;
    }
    memset(w->tags + first, BAL_TAG_PROMPT, i - first);
    w->n_text = w->n_scaffold = 0;
    return BAL_OK;
}

static bal_status find_token(const bal_tokenizer *t, const char *text, int32_t *id, bal_error *err)
{
    *id = bal_tokenizer_token_id(t, text);
    if (*id >= 0) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT,
                    "the tokenizer has no added token '%s', which the chat "
                    "template needs",
                    text);
}

static bal_status put_token(chat_writer *w, const char *text, bal_token_tag tag)
{
    int32_t id = -1;
    BAL_TRY(find_token(w->t, text, &id, w->err));
    BAL_TRY(bal_ids_push(&w->ids, id, w->err));
    return tag_from(w, w->ids.n - 1, tag);
}

/* ---- Turns --------------------------------------------------------------------------------- */

static bal_status put_header(chat_writer *w, bal_chat_role role)
{
    BAL_TRY(flush(w, BAL_TAG_PROMPT));
    BAL_TRY(put_token(w, w->family->turn_begin, BAL_TAG_PROMPT));
    BAL_TRY(put_scaffold(w, w->family->roles[role]));
    return put_scaffold(w, w->family->after_role);
}

static bal_status put_message(chat_writer *w, const bal_chat_message *m)
{
    const bal_token_tag content = m->role == BAL_CHAT_ASSISTANT ? BAL_TAG_ANSWER : BAL_TAG_PROMPT;
    BAL_TRY(put_header(w, m->role));
    for (size_t i = 0; i < m->n_images; i++) {
        BAL_TRY(flush(w, BAL_TAG_PROMPT));
        BAL_TRY(put_token(w, w->family->image, BAL_TAG_IMAGE_SLOT));
        BAL_TRY(put_scaffold(w, w->family->after_image));
    }
    BAL_TRY(put_text(w, m->text, m->n));
    BAL_TRY(flush(w, content));
    BAL_TRY(put_token(w, w->family->turn_end, content));
    return put_scaffold(w, w->family->after_turn);
}

static bal_status put_all(chat_writer *w, const bal_chat_message *messages, size_t n_messages,
                          bool generation_prompt)
{
    for (size_t i = 0; i < n_messages; i++) {
        if ((unsigned)messages[i].role >= BAL_CHAT_N_ROLES)
            return bal_fail(w->err, BAL_E_ARG, "message %zu has role %d", i, messages[i].role);
        BAL_TRY(put_message(w, messages + i));
    }
    if (generation_prompt) BAL_TRY(put_header(w, BAL_CHAT_ASSISTANT));
    return flush(w, BAL_TAG_PROMPT);
}

bal_status bal_chat_encode(bal_chat_tokens *out, const bal_tokenizer *t, bal_chat_family family,
                           const bal_chat_message *messages, size_t n_messages,
                           bool generation_prompt, bal_error *err)
{
    *out = (bal_chat_tokens){0};
    if ((unsigned)family >= BAL_CHAT_N_FAMILIES)
        return bal_fail(err, BAL_E_ARG, "chat family %d", family);
    chat_writer w = {.t = t, .family = templates + family, .err = err};
    const bal_status st = put_all(&w, messages, n_messages, generation_prompt);
    free(w.text);
    *out = (bal_chat_tokens){w.ids.v, w.tags, w.ids.n};
    if (st < 0) bal_chat_tokens_deinit(out);
    return st;
}

void bal_chat_tokens_deinit(bal_chat_tokens *tokens)
{
    free(tokens->ids);
    free(tokens->tags);
    *tokens = (bal_chat_tokens){0};
}

bal_status bal_chat_stop_id(const bal_tokenizer *t, bal_chat_family family, int32_t *id,
                            bal_error *err)
{
    if ((unsigned)family >= BAL_CHAT_N_FAMILIES)
        return bal_fail(err, BAL_E_ARG, "chat family %d", family);
    return find_token(t, templates[family].turn_end, id, err);
}
