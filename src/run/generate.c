/* SPDX-License-Identifier: MIT */
#include "run/generate.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text/utf8.h"

enum { PIECE = 128 /* positions between two looks at the progress callback */ };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Lifetime -------------------------------------------------------------------------------- */

static bal_status create(bal_dialog *d, int ctx, const bal_sampling *sampling, bal_error *err)
{
    const bal_engine *e = d->engine;
    BAL_TRY(bal_engine_check_chat(e, err));
    BAL_TRY(bal_chat_stop_id(e->tokenizer, e->chat, &d->stop_id, err));
    BAL_TRY(bal_sampler_create(&d->sampler, sampling, e->model.config.text.vocab, err));
    return bal_session_create(&d->session, e, ctx, err);
}

bal_status bal_dialog_create(bal_dialog *d, const bal_engine *engine, int ctx,
                             const bal_sampling *sampling, bal_error *err)
{
    *d = (bal_dialog){.engine = engine};
    const bal_status st = create(d, ctx, sampling, err);
    if (st < 0) bal_dialog_destroy(d);
    return st;
}

static void drop_images(bal_dialog *d)
{
    for (int i = 0; i < d->n_images; i++) bal_image_free(&d->images[i]);
    d->n_images = d->n_shown = d->n_cached_images = 0;
}

void bal_dialog_destroy(bal_dialog *d)
{
    drop_images(d);
    free(d->images);
    bal_chat_tokens_deinit(&d->text);
    bal_sampler_destroy(&d->sampler);
    bal_session_destroy(&d->session);
    *d = (bal_dialog){0};
}

void bal_dialog_clear(bal_dialog *d)
{
    drop_images(d);
    d->text.n = d->n_cached = 0;
    bal_session_truncate(&d->session, 0);
    bal_rng_seed(&d->sampler.rng, d->sampler.s.seed);
}

/* ---- Pictures -------------------------------------------------------------------------------- */

static bal_view_mode view_mode(int n_images)
{
    return n_images > 1 ? BAL_VIEW_MANY : BAL_VIEW_ONE;
}

/* The plan of one picture in a conversation of n_images. */
static bal_status plan_of(const bal_dialog *d, const bal_image *image, int n_images,
                          bal_view_plan *plan, bal_error *err)
{
    return bal_sequence_plan(d->engine, image->width, image->height, view_mode(n_images), plan,
                             err);
}

bal_status bal_dialog_plan(const bal_dialog *d, int index, bal_view_plan *plan, bal_error *err)
{
    *plan = (bal_view_plan){0};
    if (index < 0 || index >= d->n_images)
        return bal_fail(err, BAL_E_ARG, "picture %d of %d", index, d->n_images);
    return plan_of(d, &d->images[index], d->n_images, plan, err);
}

static bal_status grow_images(bal_dialog *d, bal_error *err)
{
    if (d->n_images < d->cap_images) return BAL_OK;
    if (d->n_images >= BAL_DIALOG_MAX_IMAGES)
        return bal_fail(err, BAL_E_ARG, "a conversation takes at most %d pictures",
                        BAL_DIALOG_MAX_IMAGES);
    const int cap = d->cap_images ? 2 * d->cap_images : 4;
    bal_image *images = realloc(d->images, (size_t)cap * sizeof *images);
    if (!images) return bal_nomem(err, (size_t)cap * sizeof *images, "pictures");
    d->images = images;
    d->cap_images = cap;
    return BAL_OK;
}

bal_status bal_dialog_add(bal_dialog *d, bal_image *image, bal_error *err)
{
    bal_view_plan plan;
    BAL_TRY(plan_of(d, image, d->n_images + 1, &plan, err));
    /* the one so far changes from tiles to a square with the second */
    if (d->n_images == 1) BAL_TRY(plan_of(d, &d->images[0], 2, &plan, err));
    BAL_TRY(grow_images(d, err));
    d->images[d->n_images++] = *image;
    *image = (bal_image){0};
    return BAL_OK;
}

/* ---- Transcript ------------------------------------------------------------------------------ */

static bal_status transcript_put(bal_dialog *d, const int32_t *ids, const uint8_t *tags, size_t n,
                                 bal_error *err)
{
    size_t need = 0, bytes = 0;
    if (!bal_size_add(d->text.n, n, &need) || !bal_size_mul(2 * need, sizeof *ids, &bytes))
        return bal_nomem(err, n, "transcript");
    if (need > d->cap_text) {
        int32_t *more_ids = realloc(d->text.ids, bytes);
        if (more_ids) d->text.ids = more_ids;
        uint8_t *more_tags = more_ids ? realloc(d->text.tags, 2 * need) : NULL;
        if (more_tags) d->text.tags = more_tags;
        if (!more_ids || !more_tags) return bal_nomem(err, bytes, "transcript");
        d->cap_text = 2 * need;
    }
    memcpy(d->text.ids + d->text.n, ids, n * sizeof *ids);
    memcpy(d->text.tags + d->text.n, tags, n);
    d->text.n = need;
    return BAL_OK;
}

/* The turn with the header of its answer; behind an answer it starts with that answer's close. */
static bal_status put_turn(bal_dialog *d, const bal_chat_message *question, bal_error *err)
{
    const bal_tokenizer *t = d->engine->tokenizer;
    const bal_chat_family family = d->engine->chat;
    bal_chat_tokens turn = {0};
    bal_status st = d->text.n == 0 ? bal_chat_encode(&turn, t, family, question, 1, true, err)
                                   : bal_chat_continue(&turn, t, family, question, err);
    if (st == BAL_OK) st = transcript_put(d, turn.ids, turn.tags, turn.n, err);
    bal_chat_tokens_deinit(&turn);
    return st;
}

/* ---- Prefill --------------------------------------------------------------------------------- */

typedef struct asking {
    bal_dialog *d;
    const bal_ask_opts *opts;
    bal_ask_result *r;
    bal_sequence seq; /* what the transcript has and the session has not */
    float *embeds;    /* [seq.n][hidden] */
    bool anew;        /* the session was emptied for it */
    bal_utf8_stream stream;
    bal_error *err;
} asking;

static bal_status cancelled(asking *a, const char *where)
{
    a->r->stop = BAL_STOP_CANCELLED;
    return bal_fail(a->err, BAL_E_CANCELLED, "cancelled during the %s", where);
}

static bool go_on(const asking *a, const char *stage, int done, int total)
{
    const bal_progress p = {stage, (uint64_t)done, (uint64_t)total};
    return !a->opts->progress || a->opts->progress(a->opts->ctx, &p);
}

/* Expands what is not cached; nothing that exists is changed if that does not fit. */
static bal_status plan_turn(asking *a)
{
    bal_dialog *d = a->d;
    bal_session *s = &d->session;
    const int n_images = d->n_images;
    const bool anew = bal_family_of(&d->engine->model.config)->plan_by_count && n_images > 1 &&
                      d->n_cached_images == 1 && d->n_shown == 1;
    const size_t from = anew ? 0 : d->n_cached;
    const int from_image = anew ? 0 : d->n_cached_images, cached = anew ? 0 : s->n;
    const int from_pos = anew ? 0 : bal_session_next_pos(s);
    const bal_chat_tokens rest = {d->text.ids + from, d->text.tags + from, d->text.n - from};
    int sizes[BAL_DIALOG_MAX_IMAGES][2];
    for (int i = from_image; i < n_images; i++) {
        sizes[i - from_image][0] = d->images[i].width;
        sizes[i - from_image][1] = d->images[i].height;
    }
    BAL_TRY(bal_sequence_build(&a->seq, d->engine, &rest, (const int(*)[2])sizes,
                               n_images - from_image, view_mode(n_images), from_pos, from_image,
                               a->err));
    if (a->seq.n > s->ctx - cached)
        return bal_fail(a->err, BAL_E_CAPACITY,
                        "the question takes %d positions, %d of %d are in use: it does not fit "
                        "(--ctx makes the context larger)",
                        a->seq.n, cached, s->ctx);
    if (!anew) return BAL_OK;
    a->anew = true;
    bal_session_truncate(s, 0);
    d->n_cached = 0;
    d->n_cached_images = 0;
    return BAL_OK;
}

/* Text by text and picture by picture, so that progress shows and pictures can be timed. */
static bal_status embed_turn(asking *a)
{
    const bal_engine *e = a->d->engine;
    const size_t hidden = (size_t)e->model.config.text.hidden;
    const bal_image *images = a->d->images + (a->d->n_images - a->seq.n_images);
    int image = 0;
    for (int at = 0, n; at < a->seq.n; at += n) {
        const bal_sequence part = bal_sequence_part(&a->seq, at, a->seq.plans + image);
        const bool vision = part.n_images > 0;
        n = part.n;
        if (vision && !go_on(a, "vision", image, a->seq.n_images)) return cancelled(a, "pictures");
        const double t0 = seconds();
        BAL_TRY(bal_sequence_embed(&part, e, &a->d->session.exec, images + image,
                                   a->embeds + (size_t)at * hidden, (bal_taps){0}, a->err));
        if (!vision) continue;
        a->r->vision_s += seconds() - t0;
        a->r->n_vision += part.plans->n_tokens;
        image++;
    }
    return BAL_OK;
}

static bal_status append_turn(asking *a)
{
    bal_session *s = &a->d->session;
    const size_t hidden = (size_t)a->d->engine->model.config.text.hidden;
    for (int at = 0; at < a->seq.n; at += PIECE) {
        const int n = a->seq.n - at < PIECE ? a->seq.n - at : PIECE;
        if (!go_on(a, "prefill", at, a->seq.n)) return cancelled(a, "prefill");
        BAL_TRY(bal_session_append(s, a->seq.info + at, a->embeds + (size_t)at * hidden, n, 0, NULL,
                                   NULL, (bal_taps){0}, a->err));
    }
    return BAL_OK;
}

static bal_status prefill(asking *a)
{
    bal_dialog *d = a->d;
    size_t bytes = 0;
    BAL_TRY(plan_turn(a));
    a->r->n_prompt = a->seq.n;
    if (!bal_size_mul((size_t)a->seq.n * sizeof *a->embeds,
                      (size_t)d->engine->model.config.text.hidden, &bytes) ||
        !(a->embeds = malloc(bytes)))
        return bal_nomem(a->err, bytes, "decoder inputs");
    BAL_TRY(embed_turn(a));
    const double t0 = seconds();
    BAL_TRY(append_turn(a));
    a->r->prefill_s = seconds() - t0;
    d->n_cached = d->text.n;
    d->n_cached_images = d->n_shown = d->n_images;
    return BAL_OK;
}

/* ---- Answer ---------------------------------------------------------------------------------- */

static bool emit(asking *a, const char *text, size_t n)
{
    return n == 0 || !a->opts->text || a->opts->text(a->opts->ctx, text, n);
}

/* Whole characters of a token's bytes go out, an unfinished one waits for the next token. */
static bool emit_token(asking *a, int32_t id)
{
    enum { STEP = 64 };
    char out[BAL_UTF8_STREAM_ROOM(STEP)];
    const bal_tokenizer *tokenizer = a->d->engine->tokenizer;
    const bal_token_view t = bal_tokenizer_decode(tokenizer, id, false);
    /* an answer is a text of its own: the space in front is the tokenizer's */
    const bool first = a->r->n_generated == 1;
    const bool drop = first && t.n && *t.bytes == ' ' && bal_tokenizer_drops_space(tokenizer);
    for (size_t at = drop; at < t.n; at += STEP) {
        const size_t n = bal_min(STEP, t.n - at);
        if (!emit(a, out, bal_utf8_stream_push(&a->stream, t.bytes + at, n, out))) return false;
    }
    return true;
}

static bool is_end(const bal_dialog *d, int32_t id)
{
    return id == d->stop_id || bal_is_stop(&d->engine->model.config, id);
}

static bal_status decode_loop(asking *a)
{
    static const uint8_t tag = BAL_TAG_ANSWER;
    bal_dialog *d = a->d;
    int32_t id = bal_sampler_next(&d->sampler, d->session.logits);
    for (;;) {
        a->r->n_generated++;
        a->r->stop = BAL_STOP_END;
        if (is_end(d, id)) return BAL_OK;
        BAL_TRY(transcript_put(d, &id, &tag, 1, a->err));
        if (!emit_token(a, id) || !go_on(a, "answer", a->r->n_generated, a->opts->max_tokens))
            return cancelled(a, "answer");
        a->r->stop = BAL_STOP_LENGTH;
        if (a->r->n_generated >= a->opts->max_tokens) return BAL_OK;
        a->r->stop = BAL_STOP_CONTEXT;
        if (d->session.n == d->session.ctx) return BAL_OK;
        BAL_TRY(bal_session_next(&d->session, id, &d->sampler, &id, a->err));
        d->n_cached++;
    }
}

static bal_status answer(asking *a)
{
    char out[BAL_UTF8_STREAM_ROOM(0)];
    const double t0 = seconds();
    bal_status st = decode_loop(a);
    a->r->decode_s = seconds() - t0;
    if (st == BAL_OK && !emit(a, out, bal_utf8_stream_flush(&a->stream, out)))
        st = cancelled(a, "answer");
    return st;
}

static bal_status ask(asking *a, const char *text, size_t n)
{
    bal_dialog *d = a->d;
    const bal_chat_message question = {.role = BAL_CHAT_USER,
                                       .text = text,
                                       .n = n,
                                       .n_images = (size_t)(d->n_images - d->n_shown)};
    BAL_TRY(put_turn(d, &question, a->err));
    BAL_TRY(prefill(a));
    return answer(a);
}

bal_status bal_dialog_ask(bal_dialog *d, const char *text, size_t n, const bal_ask_opts *opts,
                          bal_ask_result *result, bal_error *err)
{
    *result = (bal_ask_result){.size = result->size};
    const size_t old_text = d->text.n, old_cached = d->n_cached;
    const int old_n = d->session.n, old_shown = d->n_shown, old_images = d->n_cached_images;
    const bal_rng old_rng = d->sampler.rng;
    asking a = {.d = d, .opts = opts, .r = result, .err = err};
    const bal_status st = ask(&a, text, n);
    bal_sequence_free(&a.seq);
    free(a.embeds);
    const bool kept = st == BAL_OK || (st == BAL_E_CANCELLED && result->n_generated > 0);
    if (!kept) {
        d->text.n = old_text;
        d->n_shown = old_shown;
        d->n_cached = a.anew ? 0 : old_cached;
        d->n_cached_images = a.anew ? 0 : old_images;
        bal_session_truncate(&d->session, a.anew ? 0 : old_n);
        d->sampler.rng = old_rng;
    }
    result->n_context = d->session.n;
    return st;
}
