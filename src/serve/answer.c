/* SPDX-License-Identifier: MIT */
#include "serve/answer.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

void bal_answer_init(bal_answer *a, const bal_tokenizer *tokenizer, const char *const *stops,
                     int n_stops, bool keep_records)
{
    *a = (bal_answer){.tokenizer = tokenizer, .keep_records = keep_records};
    bal_stop_text_init(&a->stop, stops, n_stops);
}

void bal_answer_deinit(bal_answer *a)
{
    for (size_t i = 0; i < a->n_records; i++) free(a->records[i].top);
    free(a->records);
    free(a->text);
    bal_stop_text_deinit(&a->stop);
    *a = (bal_answer){0};
}

/* ---- Text ------------------------------------------------------------------------------------ */

static bal_status show(bal_answer *a, const char *s, size_t n, bal_error *err)
{
    size_t need = 0;
    if (!bal_size_add(a->n_text, n, &need)) return bal_nomem(err, n, "an answer");
    if (need > a->cap_text) {
        char *more = realloc(a->text, 2 * need);
        if (!more) return bal_nomem(err, 2 * need, "an answer");
        a->text = more;
        a->cap_text = 2 * need;
    }
    if (n) memcpy(a->text + a->n_text, s, n);
    a->n_text = need;
    return BAL_OK;
}

static size_t count_chars(const char *s, size_t n)
{
    size_t chars = 0;
    for (size_t i = 0; i < n; i++) chars += ((unsigned char)s[i] & 0xc0) != 0x80;
    return chars;
}

/* Whole characters on their way: through the stop strings, or straight on in a prompt. */
static bal_status decoded(bal_answer *a, const char *s, size_t n, bool prompt, bool last,
                          bal_error *err)
{
    a->n_decoded += n;
    a->n_chars += count_chars(s, n);
    if (!prompt) {
        BAL_TRY(bal_stop_text_push(&a->stop, s, n, last, &s, &n, err));
        a->stopped = a->stop.stopped;
    }
    return show(a, s, n, err);
}

static bal_status add_bytes(bal_answer *a, bal_token_view t, bool prompt, bal_error *err)
{
    enum { STEP = 64 };
    char out[BAL_UTF8_STREAM_ROOM(STEP)];
    for (size_t at = 0; at < t.n && !a->stopped; at += STEP) {
        const size_t n = bal_utf8_stream_push(&a->utf8, t.bytes + at, bal_min(STEP, t.n - at), out);
        BAL_TRY(decoded(a, out, n, prompt, false, err));
    }
    return BAL_OK;
}

static bal_status end_text(bal_answer *a, bool prompt, bal_error *err)
{
    char out[BAL_UTF8_STREAM_ROOM(0)];
    if (a->stopped) return BAL_OK;
    return decoded(a, out, bal_utf8_stream_flush(&a->utf8, out), prompt, true, err);
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

static bal_status add_record(bal_answer *a, int32_t id, bal_error *err)
{
    if (a->n_records == a->cap_records) {
        const size_t cap = a->cap_records ? 2 * a->cap_records : 64;
        bal_token_record *more = realloc(a->records, cap * sizeof *more);
        if (!more) return bal_nomem(err, cap * sizeof *more, "an answer's tokens");
        a->records = more;
        a->cap_records = cap;
    }
    a->records[a->n_records++] =
        (bal_token_record){.id = id, .start = a->n_decoded, .start_chars = a->n_chars};
    return BAL_OK;
}

static bal_status fill_record(bal_token_record *r, const bal_request_event *e, bal_error *err)
{
    r->has_logprob = e->has_logprob;
    r->logprob = e->logprob;
    if (!e->n_top) return BAL_OK;
    const size_t bytes = (size_t)e->n_top * sizeof *r->top;
    free(r->top);
    r->n_top = 0;
    r->top = malloc(bytes);
    if (!r->top) return bal_nomem(err, bytes, "an answer's tokens");
    memcpy(r->top, e->top, bytes);
    r->n_top = e->n_top;
    return BAL_OK;
}

/* The bytes of a token, less the tokenizer's own space in front of a text that begins here. */
static bal_token_view bytes_of(bal_answer *a, int32_t id, bool special_text)
{
    bal_token_view t = bal_tokenizer_decode(a->tokenizer, id, special_text);
    if (!a->own_text || bal_tokenizer_is_special(a->tokenizer, id)) return t;
    a->own_text = false;
    if (t.n && *t.bytes == ' ' && bal_tokenizer_drops_space(a->tokenizer)) t.bytes++, t.n--;
    return t;
}

bal_status bal_answer_prefix(bal_answer *a, const int32_t *ids, size_t n, bal_error *err)
{
    for (size_t i = 0; i < n; i++) {
        if (a->keep_records) BAL_TRY(add_record(a, ids[i], err));
        BAL_TRY(add_bytes(a, bytes_of(a, ids[i], true), true, err));
    }
    a->n_prefix = a->n_records;
    return end_text(a, true, err);
}

static bal_status take_token(bal_answer *a, const bal_request_event *e, bal_error *err)
{
    if (a->mute || a->stopped) return BAL_OK;
    a->n_tokens++;
    if (a->keep_records) {
        BAL_TRY(add_record(a, e->id, err));
        BAL_TRY(fill_record(&a->records[a->n_records - 1], e, err));
    }
    return add_bytes(a, bytes_of(a, e->id, false), false, err);
}

static bal_status take_end(bal_answer *a, const bal_request_event *e, bal_error *err)
{
    a->done = true;
    a->finish = e->finish;
    a->usage = e->usage;
    if (e->error) a->error = *e->error;
    return end_text(a, false, err);
}

bal_status bal_answer_take(bal_answer *a, const bal_note *note, bal_error *err)
{
    const bal_request_event *e = &note->event;
    switch (e->kind) {
    case BAL_EVENT_PROMPT_TOKEN:
        if ((size_t)e->index < a->n_prefix) return fill_record(&a->records[e->index], e, err);
        return BAL_OK;
    case BAL_EVENT_TOKEN: return take_token(a, e, err);
    case BAL_EVENT_DONE: return take_end(a, e, err);
    }
    return BAL_OK;
}

/* A token whose text is held back waits with it; one cut off by a stop string never comes. */
size_t bal_answer_visible_records(const bal_answer *a)
{
    if (a->done && !a->stopped) return a->n_records;
    size_t n = a->records_sent;
    while (n < a->n_records && a->records[n].start < a->n_text) n++;
    return n;
}

const char *bal_answer_reason(const bal_answer *a)
{
    const bool length = a->finish == BAL_FINISH_LENGTH || a->finish == BAL_FINISH_CONTEXT;
    return !a->stopped && length ? "length" : "stop";
}

int bal_answer_tokens(const bal_answer *a)
{
    return a->stopped || a->mute ? a->n_tokens : a->usage.n_generated;
}
