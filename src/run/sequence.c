/* SPDX-License-Identifier: MIT */
#include "run/sequence.h"

#include "base/size.h"
#include "model/vision.h"

#include <limits.h>
#include <stdlib.h>

bal_chat_family bal_engine_chat(const bal_engine *e)
{
    (void)e; /* one family so far */
    return BAL_CHAT_LLAVA_ONEVISION;
}

static bal_status plan_images(bal_sequence *s, const bal_config *c, const int (*sizes)[2],
                              bal_view_mode mode, bal_error *err)
{
    const bool tiled = mode == BAL_VIEW_AUTO && s->n_images == 1;
    const bal_vision_config *v = &c->vision;
    for (int i = 0; i < s->n_images; i++) {
        const int w = sizes[i][0], h = sizes[i][1];
        if (tiled)
            BAL_TRY(bal_anyres_plan(&s->plans[i], w, h, c->pinpoints, (size_t)c->n_pinpoints,
                                    v->image_size, v->side, c->max_tiles, err));
        else
            BAL_TRY(bal_square_plan(&s->plans[i], w, h, v->image_size, v->side, err));
    }
    return BAL_OK;
}

static bal_status count_positions(bal_sequence *s, const bal_chat_tokens *t, bal_error *err)
{
    size_t n = t->n, slots = 0;
    for (size_t i = 0; i < t->n; i++) slots += t->tags[i] == BAL_TAG_IMAGE_SLOT;
    if (slots != (size_t)s->n_images)
        return bal_fail(err, BAL_E_ARG, "%d pictures for %zu places in the text", s->n_images,
                        slots);
    for (int i = 0; i < s->n_images; i++) n += (size_t)s->plans[i].n_tokens - 1;
    if (n > INT_MAX / 2)
        return bal_fail(err, BAL_E_CAPACITY, "a sequence of %zu positions is too long", n);
    s->n = (int)n;
    s->info = calloc(n + 1, sizeof *s->info);
    return s->info ? BAL_OK : bal_nomem(err, n * sizeof *s->info, "sequence");
}

static void fill(bal_sequence *s, const bal_chat_tokens *t, int first_pos, int first_image)
{
    int at = 0, image = 0;
    for (size_t i = 0; i < t->n; i++) {
        const bool slot = t->tags[i] == BAL_TAG_IMAGE_SLOT;
        const int repeat = slot ? s->plans[image].n_tokens : 1;
        for (int r = 0; r < repeat; r++, at++) {
            const int pos = first_pos + at;
            s->info[at] = (bal_token_info){.id = t->ids[i],
                                           .pos = {pos, pos, pos},
                                           .image = slot ? first_image + image : -1,
                                           .modality = slot                           ? BAL_VISION
                                                       : t->tags[i] == BAL_TAG_ANSWER ? BAL_ANSWER
                                                                                      : BAL_PROMPT};
        }
        image += slot;
    }
}

static bal_status build(bal_sequence *s, const bal_config *c, const bal_chat_tokens *tokens,
                        const int (*sizes)[2], bal_view_mode mode, bal_error *err)
{
    s->plans = calloc((size_t)s->n_images + 1, sizeof *s->plans);
    if (!s->plans) return bal_nomem(err, (size_t)s->n_images * sizeof *s->plans, "view plans");
    if (s->n_images && !c->has_vision)
        return bal_fail(err, BAL_E_ARG, "this model has no vision tower, it cannot see a picture");
    BAL_TRY(plan_images(s, c, sizes, mode, err));
    return count_positions(s, tokens, err);
}

bal_status bal_sequence_build(bal_sequence *s, const bal_config *c, const bal_chat_tokens *tokens,
                              const int (*sizes)[2], int n_images, bal_view_mode mode,
                              int first_pos, int first_image, bal_error *err)
{
    *s = (bal_sequence){.n_images = n_images};
    const bal_status st = build(s, c, tokens, sizes, mode, err);
    if (st < 0) {
        bal_sequence_free(s);
        return st;
    }
    fill(s, tokens, first_pos, first_image);
    return BAL_OK;
}

void bal_sequence_free(bal_sequence *s)
{
    free(s->info);
    free(s->plans);
    *s = (bal_sequence){0};
}

static bal_view_grid grid_of(const bal_view_plan *p)
{
    return (bal_view_grid){.rows = p->rows,
                           .cols = p->cols,
                           .top = p->crop_y,
                           .left = p->crop_x,
                           .h0 = p->h0,
                           .w0 = p->w0,
                           .h1 = p->h1,
                           .w1 = p->w1};
}

static bal_status pixels_of(const bal_config *c, const bal_view_plan *p, const bal_image *image,
                            float *pixels, bal_error *err)
{
    bal_norm norm;
    for (int i = 0; i < 3; i++) {
        norm.mean[i] = (double)c->image_mean[i];
        norm.std[i] = (double)c->image_std[i];
    }
    if (p->square_side) return bal_square_pixels(p, image, &norm, BAL_FILTER_BICUBIC, pixels, err);
    return bal_anyres_pixels(p, image, &norm, BAL_FILTER_BICUBIC, pixels, err);
}

static bal_status embed_image(const bal_engine *engine, const bal_exec *exec,
                              const bal_view_plan *p, const bal_image *image, float *out,
                              bal_taps taps, bal_error *err)
{
    const size_t view = 3 * (size_t)p->view_size * (size_t)p->view_size;
    const size_t bytes = (size_t)p->n_views * view * sizeof(float);
    const bal_view_grid grid = grid_of(p);
    float *pixels = malloc(bytes);
    if (!pixels) return bal_nomem(err, bytes, "views of a picture");
    bal_status st = pixels_of(&engine->model.config, p, image, pixels, err);
    if (st == BAL_OK) st = bal_vision_encode(exec, &engine->model, pixels, &grid, out, taps, err);
    free(pixels);
    return st;
}

bal_status bal_sequence_embed(const bal_sequence *s, const bal_engine *engine, const bal_exec *exec,
                              const bal_image *images, float *embeds, bal_taps taps, bal_error *err)
{
    const bal_model *m = &engine->model;
    const size_t hidden = (size_t)m->config.text.hidden;
    int image = 0;
    for (int i = 0; i < s->n;) {
        float *out = embeds + (size_t)i * hidden;
        if (s->info[i].modality != BAL_VISION) {
            bal_linear_row(&m->embed, s->info[i].id, out);
            i++;
            continue;
        }
        BAL_TRY(embed_image(engine, exec, &s->plans[image], &images[image], out, taps, err));
        i += s->plans[image++].n_tokens;
    }
    if (taps.fn) taps.fn(taps.ctx, BAL_TAP_EMBED, -1, embeds, s->n, (int)hidden);
    return BAL_OK;
}
