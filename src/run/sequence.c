/* SPDX-License-Identifier: MIT */
#include "run/sequence.h"

#include "base/size.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- Plans ------------------------------------------------------------------------------------
 */

bal_status bal_sequence_plan(const bal_engine *engine, int w, int h, bal_view_mode mode,
                             bal_view_plan *plan, bal_error *err)
{
    const bal_config *c = &engine->model.config;
    if (!c->has_vision)
        return bal_fail(err, BAL_E_ARG, "this model has no vision tower, it cannot see a picture");
    return bal_family_of(c)->plan(c, w, h, mode, plan, err);
}

static bal_status plan_images(bal_sequence *s, const bal_engine *e, const int (*sizes)[2],
                              bal_view_mode mode, bal_error *err)
{
    s->plans = calloc((size_t)s->n_images + 1, sizeof *s->plans);
    if (!s->plans) return bal_nomem(err, (size_t)s->n_images * sizeof *s->plans, "view plans");
    if (mode == BAL_VIEW_AUTO) mode = s->n_images > 1 ? BAL_VIEW_MANY : BAL_VIEW_ONE;
    for (int i = 0; i < s->n_images; i++)
        BAL_TRY(bal_sequence_plan(e, sizes[i][0], sizes[i][1], mode, &s->plans[i], err));
    return BAL_OK;
}

/* ---- Positions --------------------------------------------------------------------------------
 * Written twice: once without a row, to count, once into it. */

typedef struct writer {
    const bal_engine *engine;
    bal_token_info *info; /* NULL: counting */
    int64_t n;
    int pos, image;   /* next rotary position, picture at hand */
    int32_t (*at)[3]; /* positions of the picture's features, of which `seen` are written */
    int seen;
    bal_error *err;
} writer;

static void put_position(writer *w, int32_t id, bal_modality modality, const int32_t pos[3])
{
    if (w->info)
        w->info[w->n] = (bal_token_info){.id = id,
                                         .pos = {pos[0], pos[1], pos[2]},
                                         .image = modality == BAL_VISION ? w->image : -1,
                                         .modality = (uint8_t)modality};
    w->n++;
}

static void put_text_token(writer *w, int32_t id, bal_modality modality)
{
    const int32_t pos[3] = {w->pos, w->pos, w->pos};
    put_position(w, id, modality, pos);
    w->pos++;
}

static bal_status put_piece_token(writer *w, const char *text)
{
    const int32_t id = bal_tokenizer_token_id(w->engine->tokenizer, text);
    if (id < 0)
        return bal_fail(w->err, BAL_E_FORMAT,
                        "the tokenizer has no added token %s, which the model's pictures need",
                        text);
    put_text_token(w, id, BAL_PROMPT);
    return BAL_OK;
}

static bal_status put_piece_text(writer *w, const char *text)
{
    bal_ids ids = {0};
    const bal_status st =
        bal_tokenizer_append(w->engine->tokenizer, text, strlen(text), &ids, w->err);
    for (size_t i = 0; st == BAL_OK && i < ids.n; i++) put_text_token(w, ids.v[i], BAL_PROMPT);
    free(ids.v);
    return st;
}

static void put_features(writer *w, int n)
{
    const int32_t id = w->engine->model.config.image_token;
    for (int i = 0; i < n; i++) {
        if (w->at)
            put_position(w, id, BAL_VISION, w->at[w->seen++]);
        else
            put_text_token(w, id, BAL_VISION);
    }
}

static bal_status put_piece(void *ctx, bal_piece kind, const char *text, int n)
{
    writer *w = ctx;
    switch (kind) {
    case BAL_PIECE_TOKEN: return put_piece_token(w, text);
    case BAL_PIECE_TEXT: return put_piece_text(w, text);
    case BAL_PIECE_VISION: put_features(w, n); break;
    }
    return BAL_OK;
}

static bal_status put_layout(writer *w, const bal_family_def *f, const bal_view_plan *p)
{
    if (f->layout) return f->layout(&w->engine->model.config, p, put_piece, w);
    return put_piece(w, BAL_PIECE_VISION, NULL, p->n_tokens);
}

static bal_status put_picture(writer *w, const bal_view_plan *p)
{
    const bal_config *c = &w->engine->model.config;
    const bal_family_def *f = bal_family_of(c);
    if (!f->positions) return put_layout(w, f, p);
    w->seen = 0;
    w->at = malloc((size_t)p->n_tokens * sizeof *w->at);
    if (!w->at) return bal_nomem(w->err, (size_t)p->n_tokens * sizeof *w->at, "positions");
    w->pos = f->positions(c, p, w->pos, w->at);
    const bal_status st = put_layout(w, f, p);
    free(w->at);
    w->at = NULL;
    return st;
}

static bal_status put_all(writer *w, const bal_chat_tokens *t, const bal_view_plan *plans)
{
    for (size_t i = 0; i < t->n; i++) {
        if (t->tags[i] == BAL_TAG_IMAGE_SLOT) {
            BAL_TRY(put_picture(w, plans++));
            w->image++;
        } else
            put_text_token(w, t->ids[i], t->tags[i] == BAL_TAG_ANSWER ? BAL_ANSWER : BAL_PROMPT);
        if (w->n > INT_MAX / 2)
            return bal_fail(w->err, BAL_E_CAPACITY, "a sequence of %lld positions is too long",
                            (long long)w->n);
    }
    return BAL_OK;
}

static bal_status count_slots(const bal_sequence *s, const bal_chat_tokens *t, bal_error *err)
{
    size_t slots = 0;
    for (size_t i = 0; i < t->n; i++) slots += t->tags[i] == BAL_TAG_IMAGE_SLOT;
    if (slots == (size_t)s->n_images) return BAL_OK;
    return bal_fail(err, BAL_E_ARG, "%d pictures for %zu places in the text", s->n_images, slots);
}

static bal_status build(bal_sequence *s, const bal_engine *engine, const bal_chat_tokens *tokens,
                        const int (*sizes)[2], bal_view_mode mode, int first_pos, int first_image,
                        bal_error *err)
{
    writer w = {.engine = engine, .pos = first_pos, .image = first_image, .err = err};
    BAL_TRY(count_slots(s, tokens, err));
    BAL_TRY(plan_images(s, engine, sizes, mode, err));
    BAL_TRY(put_all(&w, tokens, s->plans));
    s->n = (int)w.n;
    s->info = calloc((size_t)s->n + 1, sizeof *s->info);
    if (!s->info) return bal_nomem(err, (size_t)s->n * sizeof *s->info, "sequence");
    w = (writer){
        .engine = engine, .info = s->info, .pos = first_pos, .image = first_image, .err = err};
    return put_all(&w, tokens, s->plans);
}

bal_status bal_sequence_build(bal_sequence *s, const bal_engine *engine,
                              const bal_chat_tokens *tokens, const int (*sizes)[2], int n_images,
                              bal_view_mode mode, int first_pos, int first_image, bal_error *err)
{
    *s = (bal_sequence){.n_images = n_images};
    const bal_status st = build(s, engine, tokens, sizes, mode, first_pos, first_image, err);
    if (st < 0) bal_sequence_free(s);
    return st;
}

void bal_sequence_free(bal_sequence *s)
{
    free(s->info);
    free(s->plans);
    *s = (bal_sequence){0};
}

/* ---- Embeddings -------------------------------------------------------------------------------
 */

bool bal_sequence_encodes_on_device(const bal_engine *engine)
{
    return engine->on_device && engine->on_device->vision &&
           bal_family_of(&engine->model.config)->encode_on;
}

bal_status bal_sequence_encode(const bal_engine *engine, const bal_exec *exec,
                               const bal_view_plan *plan, const float *pixels, float *out,
                               bal_taps taps, bal_error *err)
{
    const bal_family_def *f = bal_family_of(&engine->model.config);
    if (bal_sequence_encodes_on_device(engine))
        return f->encode_on(engine->on_device->vision, plan, pixels, out, taps, err);
    return f->encode(exec, &engine->model, plan, pixels, out, taps, err);
}

bal_status bal_sequence_look(const bal_engine *engine, const bal_exec *exec,
                             const bal_view_plan *plan, const bal_image *image, float *out,
                             bal_taps taps, bal_error *err)
{
    const bal_model *m = &engine->model;
    const bal_family_def *f = bal_family_of(&m->config);
    const size_t bytes = plan->n_floats * sizeof(float);
    float *pixels = malloc(bytes);
    if (!pixels) return bal_nomem(err, bytes, "views of a picture");
    bal_status st = f->pixels(&m->config, plan, image, pixels, err);
    if (st == BAL_OK) st = bal_sequence_encode(engine, exec, plan, pixels, out, taps, err);
    if (st == BAL_OK && taps.fn)
        taps.fn(taps.ctx, BAL_TAP_IMAGE, -1, out, plan->n_tokens, m->config.text.hidden);
    free(pixels);
    return st;
}

size_t bal_sequence_look_bytes(const bal_engine *engine, const bal_view_plan *plan)
{
    const bal_model *m = &engine->model;
    const size_t features = (size_t)plan->n_tokens * (size_t)m->config.text.hidden;
    return (plan->n_floats + features) * sizeof(float) + bal_family_work(m, plan);
}

/* End of the picture that begins at `at`: behind its last VISION position. */
static int picture_end(const bal_sequence *s, int at)
{
    const int32_t image = s->info[at].image;
    int end = at + 1;
    for (int i = at; i < s->n && (s->info[i].image == image || s->info[i].image < 0); i++)
        if (s->info[i].image == image) end = i + 1;
    return end;
}

bal_sequence bal_sequence_part(const bal_sequence *s, int at, bal_view_plan *plans)
{
    const bool vision = s->info[at].modality == BAL_VISION;
    int end = at;
    if (vision)
        end = picture_end(s, at);
    else
        while (end < s->n && s->info[end].modality != BAL_VISION) end++;
    return (bal_sequence){end - at, s->info + at, vision, plans};
}

/* Text between the features of a picture's views makes their rows stand apart. */
static bal_status embed_picture(const bal_sequence *part, const bal_engine *engine,
                                const bal_exec *exec, const bal_image *image, float *embeds,
                                bal_taps taps, bal_error *err)
{
    const bal_model *m = &engine->model;
    const size_t hidden = (size_t)m->config.text.hidden;
    const int n = part->plans->n_tokens;
    if (n == part->n) return bal_sequence_look(engine, exec, part->plans, image, embeds, taps, err);
    float *features = malloc((size_t)n * hidden * sizeof *features);
    if (!features) return bal_nomem(err, (size_t)n * hidden * sizeof *features, "picture features");
    const bal_status st = bal_sequence_look(engine, exec, part->plans, image, features, taps, err);
    const float *from = features;
    for (int i = 0; st == BAL_OK && i < part->n; i++) {
        float *to = embeds + (size_t)i * hidden;
        if (part->info[i].modality != BAL_VISION) {
            bal_linear_row(&m->embed, part->info[i].id, to);
            continue;
        }
        memcpy(to, from, hidden * sizeof *to);
        from += hidden;
    }
    free(features);
    return st;
}

bal_status bal_sequence_embed(const bal_sequence *s, const bal_engine *engine, const bal_exec *exec,
                              const bal_image *images, float *embeds, bal_taps taps, bal_error *err)
{
    const bal_model *m = &engine->model;
    const size_t hidden = (size_t)m->config.text.hidden;
    int image = 0;
    for (int at = 0; at < s->n;) {
        float *out = embeds + (size_t)at * hidden;
        const bal_sequence part = bal_sequence_part(s, at, s->plans + image);
        if (part.n_images)
            BAL_TRY(embed_picture(&part, engine, exec, &images[image++], out, taps, err));
        else
            for (int i = 0; i < part.n; i++, out += hidden)
                bal_linear_row(&m->embed, part.info[i].id, out);
        at += part.n;
    }
    if (taps.fn) taps.fn(taps.ctx, BAL_TAP_EMBED, -1, embeds, s->n, (int)hidden);
    return BAL_OK;
}
