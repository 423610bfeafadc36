/* SPDX-License-Identifier: MIT */
#include "text/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "text/chat_template.h"
#include "text/utf8.h"

static const char *const role_names[BAL_CHAT_N_ROLES] = {"system", "user", "assistant"};

bal_status bal_chat_role_find(bal_chat_role *out, const char *name, bal_error *err)
{
    for (int r = 0; r < BAL_CHAT_N_ROLES; r++) {
        *out = (bal_chat_role)r;
        if (strcmp(name, role_names[r]) == 0) return BAL_OK;
    }
    return bal_fail(err, BAL_E_ARG, "role '%.60s', expected system, user or assistant", name);
}

/* ---- Writing ------------------------------------------------------------------------------- */

/* Bytes of gathered text up to `end`, as tokens will hold them, have this tag. */
typedef struct span {
    size_t end;
    bal_token_tag tag;
} span;

/* Plain text gathers in `text` until a special token ends it: what stands between two special
 * tokens is encoded in one go, as the rendered template would be. */
typedef struct chat_writer {
    const bal_tokenizer *t;
    const bal_chat_template *row;
    bal_ids ids;
    uint8_t *tags;
    size_t cap_tags;
    char *text;
    size_t n_text, cap_text;
    span *spans;
    size_t n_spans, cap_spans;
    bal_text_place place; /* where the gathered text stands */
    bal_error *err;
} chat_writer;

/* Room for a tag of every id. */
static bal_status tag_room(chat_writer *w)
{
    if (w->ids.n <= w->cap_tags) return BAL_OK;
    uint8_t *tags = realloc(w->tags, w->ids.cap);
    if (!tags) return bal_nomem(w->err, w->ids.cap, "token tags");
    w->tags = tags;
    w->cap_tags = w->ids.cap;
    return BAL_OK;
}

static bal_status put_span(chat_writer *w, const char *text, size_t n, bal_token_tag tag)
{
    size_t n_bytes = 0;
    BAL_TRY(bal_tokenizer_count_bytes(w->t, text, n, &n_bytes, w->err));
    if (w->n_spans == w->cap_spans) {
        const size_t cap = bal_max(8, 2 * w->cap_spans);
        span *spans = realloc(w->spans, cap * sizeof *spans);
        if (!spans) return bal_nomem(w->err, cap * sizeof *spans, "a chat text");
        w->spans = spans;
        w->cap_spans = cap;
    }
    const size_t begin = w->n_spans ? w->spans[w->n_spans - 1].end : 0;
    w->spans[w->n_spans++] = (span){begin + n_bytes, tag};
    return BAL_OK;
}

static bal_status put_text(chat_writer *w, const char *text, size_t n, bal_token_tag tag)
{
    size_t need = 0;
    if (n == 0) return BAL_OK;
    if (!bal_size_add(w->n_text, n, &need)) return bal_nomem(w->err, n, "a chat text");
    if (need > w->cap_text) {
        char *p = realloc(w->text, need + need / 2);
        if (!p) return bal_nomem(w->err, need, "a chat text");
        w->text = p;
        w->cap_text = need + need / 2;
    }
    memcpy(w->text + w->n_text, text, n);
    w->n_text = need;
    return put_span(w, text, n, tag);
}

/* Tokens from `first` on take the tag of the span that holds their last byte. A space that the
 * tokenizer put in front stands before all spans. */
static void tag_by_spans(chat_writer *w, size_t first)
{
    size_t total = 0;
    for (size_t i = first; i < w->ids.n; i++)
        total += bal_tokenizer_decode(w->t, w->ids.v[i], true).n;
    const size_t n_bytes = w->spans[w->n_spans - 1].end;
    const size_t in_front = total > n_bytes ? total - n_bytes : 0;
    const span *s = w->spans, *last = w->spans + w->n_spans - 1;
    size_t end = 0;
    for (size_t i = first; i < w->ids.n; i++) {
        end += bal_tokenizer_decode(w->t, w->ids.v[i], true).n;
        while (s < last && s->end + in_front < end) s++;
        w->tags[i] = (uint8_t)s->tag;
    }
}

/* Encodes the gathered text. */
static bal_status flush(chat_writer *w)
{
    const size_t first = w->ids.n;
    if (w->n_text == 0) return BAL_OK;
    BAL_TRY(bal_tokenizer_append_part(w->t, w->text, w->n_text, w->place, &w->ids, w->err));
    BAL_TRY(tag_room(w));
    tag_by_spans(w, first);
    w->n_text = w->n_spans = 0;
    w->place = BAL_TEXT_INSIDE;
    return BAL_OK;
}

static bal_status find_token(const bal_tokenizer *t, const bal_chat_template *row, const char *text,
                             int32_t *id, bal_error *err)
{
    *id = bal_tokenizer_token_id(t, text);
    if (*id >= 0) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT,
                    "the tokenizer has no added token '%s', which the chat template '%s' needs; "
                    "another template can be named for it",
                    text, row->name);
}

static bal_status put_id(chat_writer *w, int32_t id, bal_token_tag tag)
{
    BAL_TRY(flush(w));
    BAL_TRY(bal_ids_push(&w->ids, id, w->err));
    BAL_TRY(tag_room(w));
    w->tags[w->ids.n - 1] = (uint8_t)tag;
    w->place = BAL_TEXT_AFTER_TOKEN;
    return BAL_OK;
}

/* The token in braces at s, whose length with them is n. */
static bal_status put_braced(chat_writer *w, const char *s, size_t n, bal_token_tag tag)
{
    char name[64];
    int32_t id = -1;
    const bool slot = s[1] == '@';
    snprintf(name, sizeof name, "%.*s", (int)(n - 2 - slot), s + 1 + slot);
    BAL_TRY(find_token(w->t, w->row, name, &id, w->err));
    return put_id(w, id, slot ? BAL_TAG_IMAGE_SLOT : tag);
}

/* Length of the part at s: a token with its braces, or text up to the next. */
static size_t part_length(const char *s)
{
    return *s == '{' ? strcspn(s, "}") + 1 : strcspn(s, "{");
}

static bal_status put_part(chat_writer *w, const char *s, size_t n, bal_token_tag tag)
{
    return *s == '{' ? put_braced(w, s, n, tag) : put_text(w, s, n, tag);
}

static bal_status put_scaffold(chat_writer *w, const char *s)
{
    if (!s) return BAL_OK;
    for (size_t n; *s; s += n) {
        n = part_length(s);
        BAL_TRY(put_part(w, s, n, BAL_TAG_PROMPT));
    }
    return BAL_OK;
}

/* ---- Contents ------------------------------------------------------------------------------ */

/* What Python's str.strip takes away. */
static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

static bal_token_view strip(bal_token_view v, bool left)
{
    while (left && v.n) {
        const bal_utf8_char c = bal_utf8_next(v.bytes, v.n);
        if (!is_space(c.cp)) break;
        v.bytes += c.n_bytes;
        v.n -= c.n_bytes;
    }
    size_t kept = 0; /* where the last character that stays ends */
    for (size_t end = 0; end < v.n;) {
        const bal_utf8_char c = bal_utf8_next(v.bytes + end, v.n - end);
        end += c.n_bytes;
        if (!is_space(c.cp)) kept = end;
    }
    v.n = kept;
    return v;
}

static bal_token_view strip_newlines(bal_token_view v, bool left, bool right)
{
    for (; left && v.n && *v.bytes == '\n'; v.n--) v.bytes++;
    while (right && v.n && v.bytes[v.n - 1] == '\n') v.n--;
    return v;
}

/* The first or the last place of `what` in v, or NULL. */
static const char *find(bal_token_view v, const char *what, bool last)
{
    const size_t n = strlen(what);
    const char *found = NULL;
    for (size_t i = 0; i + n <= v.n; i++) {
        if (memcmp(v.bytes + i, what, n) != 0) continue;
        found = v.bytes + i;
        if (!last) break;
    }
    return found;
}

/* Thoughts and answer of a text as Qwen3's template parts them. */
static void part_thoughts(bal_token_view text, bal_token_view *thoughts, bal_token_view *answer)
{
    const char *end = text.bytes + text.n, *first = find(text, "</think>", false);
    const char *last = find(text, "</think>", true);
    *thoughts = (bal_token_view){text.bytes, 0};
    *answer = text;
    if (!first) return;
    *answer = strip_newlines((bal_token_view){last + 8, (size_t)(end - last) - 8}, true, false);
    *thoughts = (bal_token_view){text.bytes, (size_t)(first - text.bytes)};
    const char *begin = find(*thoughts, "<think>", true);
    if (begin) *thoughts = (bal_token_view){begin + 7, (size_t)(first - begin) - 7};
    *thoughts = strip_newlines(*thoughts, true, true);
}

/* An answer with its thoughts, which are kept in the answers behind the last question only. */
static bal_status put_thoughtful(chat_writer *w, bal_token_view text, bool behind, bool last)
{
    bal_token_view thoughts, answer;
    part_thoughts(text, &thoughts, &answer);
    if (!behind || (!last && thoughts.n == 0))
        return put_text(w, answer.bytes, answer.n, BAL_TAG_ANSWER);
    BAL_TRY(put_braced(w, "{<think>}", 9, BAL_TAG_ANSWER));
    BAL_TRY(put_text(w, "\n", 1, BAL_TAG_ANSWER));
    BAL_TRY(put_text(w, thoughts.bytes, thoughts.n, BAL_TAG_ANSWER));
    BAL_TRY(put_text(w, "\n", 1, BAL_TAG_ANSWER));
    BAL_TRY(put_braced(w, "{</think>}", 10, BAL_TAG_ANSWER));
    BAL_TRY(put_text(w, "\n\n", 2, BAL_TAG_ANSWER));
    answer = strip_newlines(answer, true, false);
    return put_text(w, answer.bytes, answer.n, BAL_TAG_ANSWER);
}

/* ---- Turns --------------------------------------------------------------------------------- */

/* A message with its place in the conversation. */
typedef struct turn {
    const bal_chat_message *m;
    bool inside; /* the turn is open already: behind a system turn that stands inside it */
    bool behind; /* the last question */
    bool last;
} turn;

static bal_token_tag content_tag(const bal_chat_message *m)
{
    return m->role == BAL_CHAT_ASSISTANT ? BAL_TAG_ANSWER : BAL_TAG_PROMPT;
}

static bal_status put_image(chat_writer *w, size_t index, size_t n_images)
{
    const char *s = n_images > 1 && w->row->images ? w->row->images : w->row->image;
    char numbered[128], number[24];
    const size_t before = strcspn(s, "#");
    if (!s[before]) return put_scaffold(w, s);
    snprintf(number, sizeof number, "%zu", index + 1);
    snprintf(numbered, sizeof numbered, "%.*s%s%s", (int)before, s, number, s + before + 1);
    return put_scaffold(w, numbered);
}

static bal_status put_content(chat_writer *w, const turn *t)
{
    const bal_chat_template *row = w->row;
    const bal_chat_message *m = t->m;
    bal_token_view text = {m->text, m->n};
    BAL_TRY(put_scaffold(w, row->before_text));
    /* a system turn inside the user's is the beginning of what is stripped as a whole */
    const bool begins_inside = m->role == BAL_CHAT_SYSTEM && (row->rules & BAL_CHAT_INSIDE);
    if ((row->rules & BAL_CHAT_STRIP) && !begins_inside) text = strip(text, !t->inside);
    if ((row->rules & BAL_CHAT_THINKS) && m->role == BAL_CHAT_ASSISTANT)
        BAL_TRY(put_thoughtful(w, text, t->behind, t->last));
    else
        BAL_TRY(put_text(w, text.bytes, text.n, content_tag(m)));
    return put_scaffold(w, row->after_text);
}

/* The close of a turn; of an answer's, everything up to the first token belongs to the answer. */
static bal_status put_end(chat_writer *w, bal_chat_role role)
{
    const char *s = w->row->end[role];
    if (role != BAL_CHAT_ASSISTANT || !strchr(s, '{')) return put_scaffold(w, s);
    for (bool token = false; !token; s += part_length(s)) {
        token = *s == '{';
        BAL_TRY(put_part(w, s, part_length(s), BAL_TAG_ANSWER));
    }
    return put_scaffold(w, s);
}

static bal_status put_message(chat_writer *w, const turn *t)
{
    const bal_chat_message *m = t->m;
    if (m->n_images && !w->row->image)
        return bal_fail(w->err, BAL_E_ARG, "the chat template '%s' takes no pictures",
                        w->row->name);
    if (!t->inside) BAL_TRY(put_scaffold(w, w->row->turn[m->role]));
    if (m->n_images == 0) BAL_TRY(put_scaffold(w, w->row->spacer));
    for (size_t i = 0; i < m->n_images; i++) BAL_TRY(put_image(w, i, m->n_images));
    if (m->text) BAL_TRY(put_content(w, t));
    return put_end(w, m->role);
}

static bal_status put_generation(chat_writer *w)
{
    const char *s = w->row->generation;
    return put_scaffold(w, s ? s : w->row->turn[BAL_CHAT_ASSISTANT]);
}

/* ---- Conversations ------------------------------------------------------------------------- */

static bal_status check_order(const chat_writer *w, const bal_chat_message *m, size_t n)
{
    const unsigned rules = w->row->rules;
    const bool system = n > 0 && m[0].role == BAL_CHAT_SYSTEM;
    for (size_t i = 0; i < n; i++) {
        if ((unsigned)m[i].role >= BAL_CHAT_N_ROLES)
            return bal_fail(w->err, BAL_E_ARG, "message %zu has role %d", i, m[i].role);
        if (i > 0 && (rules & BAL_CHAT_SYSTEM_FIRST) && m[i].role == BAL_CHAT_SYSTEM)
            return bal_fail(w->err, BAL_E_ARG,
                            "message %zu is a system turn, which the chat template '%s' has only "
                            "at the beginning",
                            i, w->row->name);
        const bal_chat_role expected = (i - system) % 2 ? BAL_CHAT_ASSISTANT : BAL_CHAT_USER;
        if ((rules & BAL_CHAT_ALTERNATE) && i >= system && m[i].role != expected)
            return bal_fail(w->err, BAL_E_ARG,
                            "message %zu has role %s, the chat template '%s' expects %s", i,
                            role_names[m[i].role], w->row->name, role_names[expected]);
    }
    return BAL_OK;
}

/* m has a message at least. */
static bal_status put_opening(chat_writer *w, const bal_chat_message *m)
{
    const int32_t bos = bal_tokenizer_bos(w->t);
    const char *system = w->row->system;
    if ((w->row->rules & BAL_CHAT_BOS) && bos >= 0) {
        BAL_TRY(put_id(w, bos, BAL_TAG_PROMPT));
        w->place = BAL_TEXT_START;
    }
    BAL_TRY(put_scaffold(w, w->row->open));
    if (!system || m[0].role == BAL_CHAT_SYSTEM) return BAL_OK;
    const bal_chat_message given = {BAL_CHAT_SYSTEM, system, strlen(system), 0};
    return put_message(w, &(turn){.m = &given});
}

static size_t last_question(const bal_chat_message *m, size_t n)
{
    for (size_t i = n; i > 0; i--)
        if (m[i - 1].role == BAL_CHAT_USER) return i - 1;
    return n ? n - 1 : 0;
}

static bal_status put_all(chat_writer *w, const bal_chat_message *m, size_t n,
                          bool generation_prompt)
{
    BAL_TRY(check_order(w, m, n));
    if (n > 0) BAL_TRY(put_opening(w, m));
    const size_t question = last_question(m, n);
    for (size_t i = 0; i < n; i++) {
        const turn t = {.m = m + i,
                        .inside = i > 0 && m[i - 1].role == BAL_CHAT_SYSTEM &&
                                  (w->row->rules & BAL_CHAT_INSIDE),
                        .behind = i > question,
                        .last = i + 1 == n};
        BAL_TRY(put_message(w, &t));
    }
    if (generation_prompt) BAL_TRY(put_generation(w));
    return flush(w);
}

static bal_status put_next(chat_writer *w, const bal_chat_message *question)
{
    BAL_TRY(put_scaffold(w, w->row->after_text));
    BAL_TRY(put_end(w, BAL_CHAT_ASSISTANT));
    BAL_TRY(put_message(w, &(turn){.m = question}));
    BAL_TRY(put_generation(w));
    return flush(w);
}

static bal_status check_family(bal_chat_family family, bal_error *err)
{
    if ((unsigned)family < BAL_CHAT_N_FAMILIES) return BAL_OK;
    return bal_fail(err, BAL_E_ARG, "chat family %d", family);
}

/* Takes the writer's rows over, or frees them where st is a failure. */
static bal_status finish(chat_writer *w, bal_status st, bal_chat_tokens *out)
{
    free(w->text);
    free(w->spans);
    *out = (bal_chat_tokens){w->ids.v, w->tags, w->ids.n};
    if (st < 0) bal_chat_tokens_deinit(out);
    return st;
}

bal_status bal_chat_encode(bal_chat_tokens *out, const bal_tokenizer *t, bal_chat_family family,
                           const bal_chat_message *messages, size_t n_messages,
                           bool generation_prompt, bal_error *err)
{
    *out = (bal_chat_tokens){0};
    BAL_TRY(check_family(family, err));
    chat_writer w = {.t = t, .row = bal_chat_template_of(family), .err = err};
    return finish(&w, put_all(&w, messages, n_messages, generation_prompt), out);
}

bal_status bal_chat_continue(bal_chat_tokens *out, const bal_tokenizer *t, bal_chat_family family,
                             const bal_chat_message *question, bal_error *err)
{
    *out = (bal_chat_tokens){0};
    BAL_TRY(check_family(family, err));
    if (question->role != BAL_CHAT_USER)
        return bal_fail(err, BAL_E_ARG, "a conversation goes on with a question");
    chat_writer w = {
        .t = t, .row = bal_chat_template_of(family), .place = BAL_TEXT_INSIDE, .err = err};
    return finish(&w, put_next(&w, question), out);
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
    static const char *const usual[] = {"</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>"};
    *id = -1;
    BAL_TRY(check_family(family, err));
    const bal_chat_template *row = bal_chat_template_of(family);
    if (row->stop) return find_token(t, row, row->stop, id, err);
    for (size_t i = 0; i < sizeof usual / sizeof *usual && *id < 0; i++)
        *id = bal_tokenizer_token_id(t, usual[i]);
    return *id >= 0 ? BAL_OK : find_token(t, row, usual[0], id, err);
}
