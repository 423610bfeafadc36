/* SPDX-License-Identifier: MIT */
#include "run/session.h"

#include "base/size.h"
#include "op/pointwise.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 128 }; /* rows that pass through the decoder together */

static size_t kv_width(const bal_text_config *c)
{
    return (size_t)c->kv_heads * (size_t)c->head_dim;
}

static size_t pages_per_layer(const bal_session *s)
{
    return bal_ceil_div((size_t)s->ctx, BAL_PAGE);
}

static bal_status allocate(bal_session *s, bal_error *err)
{
    const bal_text_config *c = &s->engine->model.config.text;
    const size_t n_pages = pages_per_layer(s) * (size_t)c->layers;
    const size_t page = BAL_PAGE * kv_width(c);
    size_t kv_bytes, total;
    if (!bal_size_mul(2 * n_pages * sizeof(float), page, &kv_bytes))
        return bal_fail(err, BAL_E_ARG, "context of %d positions is too large", s->ctx);
    total = bal_arena_need(kv_bytes) + bal_arena_need(n_pages * sizeof *s->pages) +
            bal_arena_need((size_t)s->ctx * sizeof *s->info) +
            bal_arena_need((size_t)CHUNK * (size_t)c->hidden * sizeof *s->h) +
            bal_arena_need((size_t)c->vocab * sizeof *s->logits);
    BAL_TRY(bal_arena_init(&s->arena, total, "session", err));
    float *kv;
    BAL_TRY(bal_arena_alloc(&kv, &s->arena, kv_bytes, err));
    BAL_TRY(BAL_ARENA_NEW(s->pages, &s->arena, n_pages, err));
    BAL_TRY(BAL_ARENA_NEW(s->info, &s->arena, (size_t)s->ctx, err));
    BAL_TRY(BAL_ARENA_NEW(s->h, &s->arena, (size_t)CHUNK * (size_t)c->hidden, err));
    BAL_TRY(BAL_ARENA_NEW(s->logits, &s->arena, (size_t)c->vocab, err));
    for (size_t i = 0; i < n_pages; i++) {
        s->pages[i].k = kv + 2 * i * page;
        s->pages[i].v = kv + (2 * i + 1) * page;
    }
    return BAL_OK;
}

static bal_status create(bal_session *s, bal_error *err)
{
    const bal_engine *e = s->engine;
    BAL_TRY(allocate(s, err));
    BAL_TRY(bal_exec_create(&s->exec, e->pool, &e->kernels, bal_model_max_k(&e->model), err));
    return bal_decoder_buf_create(&s->buf, &e->model.config.text, CHUNK, err);
}

bal_status bal_session_create(bal_session *s, const bal_engine *engine, int ctx, bal_error *err)
{
    const int max = engine->model.config.text.max_positions;
    *s = (bal_session){.engine = engine};
    if (ctx < 1 || ctx > max)
        return bal_fail(err, BAL_E_ARG, "context: %d positions, this model takes 1 to %d", ctx,
                        max);
    s->ctx = ctx;
    const bal_status st = create(s, err);
    if (st < 0) bal_session_destroy(s);
    return st;
}

void bal_session_destroy(bal_session *s)
{
    bal_decoder_buf_destroy(&s->buf);
    bal_exec_destroy(&s->exec);
    bal_arena_deinit(&s->arena);
    *s = (bal_session){0};
}

static void positions_of(const bal_session *s, int first, int m)
{
    const bal_text_config *c = &s->engine->model.config.text;
    int32_t pos[CHUNK];
    for (int i = 0; i < m; i++) pos[i] = s->info[first + i].pos[0];
    bal_rope_table(pos, m, c->head_dim, c->rope_theta, s->buf.cos, s->buf.sin);
}

/* m <= CHUNK rows, already in s->h, through all blocks. */
static void run_blocks(bal_session *s, int m, bal_taps taps)
{
    const bal_model *model = &s->engine->model;
    const bal_text_config *c = &model->config.text;
    const size_t pages = pages_per_layer(s);
    positions_of(s, s->n, m);
    bal_rows rows = {.m = m, .first = s->n, .cos = s->buf.cos, .sin = s->buf.sin};
    for (int l = 0; l < c->layers; l++) {
        rows.pages = s->pages + (size_t)l * pages;
        bal_decoder_block(&s->exec, c, &model->layers[l], &rows, s->h, &s->buf, l, taps);
    }
}

static bal_status check_finite(const float *x, int n, int position, bal_error *err)
{
    for (int i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return bal_fail(err, BAL_E_NUMERIC, "logit %d at position %d is %f", i, position,
                            (double)x[i]);
    return BAL_OK;
}

typedef struct watch {
    bal_logits_fn *fn;
    void *ctx;
    int first;
} watch;

/* Logits of the rows that somebody wants: the watched ones and the last of all. */
static bal_status chunk_logits(bal_session *s, int row0, int m, int total, const watch *w,
                               bal_taps taps, bal_error *err)
{
    const bal_model *model = &s->engine->model;
    const int vocab = model->config.text.vocab;
    for (int i = 0; i < m; i++) {
        const int row = row0 + i;
        const bool watched = w->fn && row >= w->first;
        if (!watched && row != total - 1) continue;
        bal_decoder_logits(&s->exec, model, s->h + (size_t)i * (size_t)model->config.text.hidden, 1,
                           &s->buf, s->logits, taps);
        BAL_TRY(check_finite(s->logits, vocab, s->n + i, err));
        if (watched) w->fn(w->ctx, row, s->logits);
    }
    return BAL_OK;
}

bal_status bal_session_append(bal_session *s, const bal_token_info *info, const float *embeds,
                              int n, int first_watched, bal_logits_fn *watch_fn, void *watch_ctx,
                              bal_taps taps, bal_error *err)
{
    const size_t hidden = (size_t)s->engine->model.config.text.hidden;
    const watch w = {watch_fn, watch_ctx, first_watched};
    const int start = s->n;
    if (n > s->ctx - s->n)
        return bal_fail(err, BAL_E_CAPACITY,
                        "context is full: %d positions in use, %d more do not fit into %d "
                        "(--ctx makes it larger)",
                        s->n, n, s->ctx);
    memcpy(s->info + s->n, info, (size_t)n * sizeof *info);
    for (int done = 0; done < n;) {
        const int m = n - done < CHUNK ? n - done : CHUNK;
        memcpy(s->h, embeds + (size_t)done * hidden, (size_t)m * hidden * sizeof *s->h);
        run_blocks(s, m, taps);
        const bal_status st = chunk_logits(s, done, m, n, &w, taps, err);
        if (st < 0) {
            s->n = start;
            return st;
        }
        s->n += m;
        done += m;
    }
    return BAL_OK;
}

bal_status bal_session_push(bal_session *s, int32_t id, bal_error *err)
{
    const int32_t pos = s->n ? s->info[s->n - 1].pos[0] + 1 : 0;
    const bal_token_info info = {
        .id = id, .pos = {pos, pos, pos}, .image = -1, .modality = BAL_ANSWER};
    float *row = s->buf.norm; /* free between appends; copied into s->h before it is used */
    bal_linear_row(&s->engine->model.embed, id, row);
    return bal_session_append(s, &info, row, 1, 0, NULL, NULL, (bal_taps){0}, err);
}

void bal_session_truncate(bal_session *s, int n)
{
    if (n < s->n) s->n = n;
}

bool bal_is_stop(const bal_config *c, int32_t id)
{
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] == id) return true;
    return false;
}
