/* SPDX-License-Identifier: MIT */
#include "serve/wire.h"

#include "base/build_id.h"
#include "base/hash.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

void bal_wire_init(bal_wire *w, bool chat, bool logprobs, const char *model)
{
    uint8_t random[12] = {0};
    char hex[2 * sizeof random + 1];
    *w = (bal_wire){.chat = chat, .logprobs = logprobs, .model = model};
    if (getrandom(random, sizeof random, 0) < 0) memset(random, 0, sizeof random);
    bal_hex(hex, random, sizeof random);
    snprintf(w->id, sizeof w->id, "%s-%s", chat ? "chatcmpl" : "cmpl", hex);
    w->created = (int64_t)time(NULL);
}

json_t *bal_wire_object(const bal_wire *w, bool chunk, json_t *choices)
{
    char fingerprint[32];
    snprintf(fingerprint, sizeof fingerprint, "ballast-%.12s", bal_build_id);
    const char *object = !w->chat ? "text_completion"
                         : chunk  ? "chat.completion.chunk"
                                  : "chat.completion";
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", w->id, "object", object, "created",
                     (json_int_t)w->created, "model", w->model, "system_fingerprint", fingerprint,
                     "choices", choices);
}

/* ---- Log probabilities ----------------------------------------------------------------------- */

static json_t *repaired(const char *bytes, size_t n)
{
    char *good = NULL;
    size_t n_good = 0;
    if (bal_utf8_repair(&good, &n_good, bytes, n, NULL) < 0) return NULL;
    json_t *v = json_stringn(good, n_good);
    free(good);
    return v;
}

/* JSON knows no infinity. */
static double json_logprob(float logprob)
{
    return isfinite(logprob) ? (double)logprob : -9999.0;
}

static json_t *byte_list(bal_token_view t)
{
    json_t *list = json_array();
    for (size_t i = 0; i < t.n; i++)
        json_array_append_new(list, json_integer((unsigned char)t.bytes[i]));
    return list;
}

static json_t *chat_token(const bal_answer *a, int32_t id, float logprob)
{
    const bal_token_view t = bal_tokenizer_decode(a->tokenizer, id, true);
    return json_pack("{s:o, s:f, s:o}", "token", repaired(t.bytes, t.n), "logprob",
                     json_logprob(logprob), "bytes", byte_list(t));
}

static json_t *chat_logprobs(const bal_answer *a, size_t from, size_t to)
{
    json_t *content = json_array();
    for (size_t i = from; i < to; i++) {
        const bal_token_record *r = &a->records[i];
        json_t *token = chat_token(a, r->id, r->logprob), *top = json_array();
        for (int k = 0; k < r->n_top; k++)
            json_array_append_new(top, chat_token(a, r->top[k].id, r->top[k].logprob));
        json_object_set_new(token, "top_logprobs", top);
        json_array_append_new(content, token);
    }
    return json_pack("{s:o, s:n}", "content", content, "refusal");
}

/* Part of a character as "bytes:\xe2\x80", so that two parts are two keys. */
static json_t *legacy_token(const bal_answer *a, int32_t id)
{
    const bal_token_view t = bal_tokenizer_decode(a->tokenizer, id, true);
    if (bal_utf8_valid(t.bytes, t.n)) return json_stringn(t.bytes, t.n);
    char text[6 + 4 * 64 + 1] = "bytes:";
    size_t at = 6;
    for (size_t i = 0; i < t.n && i < 64; i++)
        at += (size_t)snprintf(text + at, sizeof text - at, "\\x%02x", (unsigned char)t.bytes[i]);
    return json_string(text);
}

static json_t *legacy_top(const bal_answer *a, const bal_token_record *r)
{
    if (!r->has_logprob) return json_null();
    json_t *map = json_object();
    for (int k = 0; k < r->n_top; k++) {
        json_t *key = legacy_token(a, r->top[k].id);
        if (key && json_string_length(key) == strlen(json_string_value(key)))
            json_object_set_new(map, json_string_value(key),
                                json_real(json_logprob(r->top[k].logprob)));
        json_decref(key);
    }
    return map;
}

static json_t *legacy_logprobs(const bal_answer *a, size_t from, size_t to)
{
    json_t *tokens = json_array(), *probs = json_array(), *tops = json_array();
    json_t *offsets = json_array();
    for (size_t i = from; i < to; i++) {
        const bal_token_record *r = &a->records[i];
        json_array_append_new(tokens, legacy_token(a, r->id));
        json_array_append_new(probs,
                              r->has_logprob ? json_real(json_logprob(r->logprob)) : json_null());
        json_array_append_new(tops, legacy_top(a, r));
        json_array_append_new(offsets, json_integer((json_int_t)r->start_chars));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", probs,
                     "top_logprobs", tops, "text_offset", offsets);
}

static json_t *logprobs(const bal_wire *w, const bal_answer *a, size_t from, size_t to)
{
    if (!w->logprobs) return json_null();
    return w->chat ? chat_logprobs(a, from, to) : legacy_logprobs(a, from, to);
}

/* ---- Choices --------------------------------------------------------------------------------- */

static json_t *text_of(const bal_answer *a, size_t from, size_t to)
{
    return json_stringn(a->text ? a->text + from : "", to - from);
}

json_t *bal_wire_choice(const bal_wire *w, int index, const bal_answer *a)
{
    json_t *text = text_of(a, 0, a->n_text);
    json_t *probs = logprobs(w, a, 0, bal_answer_visible_records(a));
    const char *reason = bal_answer_reason(a);
    if (!w->chat)
        return json_pack("{s:i, s:o, s:o, s:s}", "index", index, "text", text, "logprobs", probs,
                         "finish_reason", reason);
    return json_pack("{s:i, s:{s:s, s:o, s:n}, s:o, s:s}", "index", index, "message", "role",
                     "assistant", "content", text, "refusal", "logprobs", probs, "finish_reason",
                     reason);
}

json_t *bal_wire_opening(int index)
{
    return json_pack("{s:i, s:{s:s, s:s}, s:n, s:n}", "index", index, "delta", "role", "assistant",
                     "content", "", "logprobs", "finish_reason");
}

json_t *bal_wire_piece(const bal_wire *w, int index, const bal_answer *a, size_t text_to,
                       size_t records_to)
{
    json_t *text = text_of(a, a->text_sent, text_to);
    json_t *probs = logprobs(w, a, a->records_sent, records_to);
    if (!w->chat)
        return json_pack("{s:i, s:o, s:o, s:n}", "index", index, "text", text, "logprobs", probs,
                         "finish_reason");
    return json_pack("{s:i, s:{s:o}, s:o, s:n}", "index", index, "delta", "content", text,
                     "logprobs", probs, "finish_reason");
}

json_t *bal_wire_ending(const bal_wire *w, int index, const bal_answer *a)
{
    const char *reason = bal_answer_reason(a);
    if (!w->chat)
        return json_pack("{s:i, s:s, s:n, s:s}", "index", index, "text", "", "logprobs",
                         "finish_reason", reason);
    return json_pack("{s:i, s:{}, s:n, s:s}", "index", index, "delta", "logprobs", "finish_reason",
                     reason);
}

json_t *bal_wire_usage(int n_prompt, int n_image, int n_cached, int n_generated)
{
    return json_pack("{s:i, s:i, s:i, s:{s:i, s:i}}", "prompt_tokens", n_prompt,
                     "completion_tokens", n_generated, "total_tokens", n_prompt + n_generated,
                     "prompt_tokens_details", "cached_tokens", n_cached, "image_tokens", n_image);
}
