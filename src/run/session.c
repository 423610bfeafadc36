/* SPDX-License-Identifier: MIT */
#include "run/session.h"

#include "base/size.h"

#include <string.h>

/* Rows that pass through the decoder together. On a device packed weights are widened once for all
 * of them. */
enum { CHUNK = BAL_TILE_CHUNK, DEVICE_CHUNK = 2048 };

static int chunk_of(const bal_engine *e, int ctx)
{
    const int most = e->on_device ? DEVICE_CHUNK : CHUNK;
    return e->on_device && ctx < most ? ctx : most;
}

static int pages_of(int ctx)
{
    return (int)bal_ceil_div((size_t)ctx, BAL_PAGE);
}

static bal_status create_cache(bal_session *s, bal_kv_type type, bal_error *err)
{
    const bal_text_config *c = &s->engine->model.config.text;
    bal_kv_layout layout;
    BAL_TRY(bal_kv_layout_init(&layout, type, c->layers, c->kv_heads, c->head_dim, err));
    BAL_TRY(bal_kv_pool_create_on(&s->pool, s->engine->on_device, &layout, pages_of(s->ctx), false,
                                  err));
    BAL_TRY(bal_kv_seq_create(&s->seq, &s->pool, s->ctx, err));
    return bal_kv_seq_reserve(&s->seq, s->ctx) ? BAL_OK : BAL_E_CAPACITY;
}

static size_t arena_bytes(const bal_text_config *c, int ctx)
{
    return bal_arena_need((size_t)ctx * sizeof(bal_token_info)) +
           bal_arena_need((size_t)c->hidden * sizeof(float));
}

static bal_status create(bal_session *s, bal_kv_type type, bal_error *err)
{
    const bal_engine *e = s->engine;
    const size_t hidden = (size_t)e->model.config.text.hidden;
    BAL_TRY(bal_arena_init(&s->arena, arena_bytes(&e->model.config.text, s->ctx), "session", err));
    BAL_TRY(BAL_ARENA_NEW(s->info, &s->arena, (size_t)s->ctx, err));
    BAL_TRY(BAL_ARENA_NEW(s->row, &s->arena, hidden, err));
    BAL_TRY(create_cache(s, type, err));
    BAL_TRY(bal_exec_create(&s->exec, e->pool, &e->kernels, bal_model_max_k(&e->model), err));
    s->exec.shapes = &e->shapes;
    BAL_TRY(bal_forward_create(&s->forward, e, &s->exec, chunk_of(e, s->ctx), 1,
                               (size_t)pages_of(s->ctx), err));
    s->logits = s->forward.logits;
    return BAL_OK;
}

static bal_status check_context(const bal_engine *engine, int ctx, bal_error *err)
{
    const int max = engine->model.config.text.max_positions;
    if (ctx >= 1 && ctx <= max) return BAL_OK;
    return bal_fail(err, BAL_E_ARG, "context: %d positions, this model takes 1 to %d", ctx, max);
}

bal_status bal_session_bytes(size_t *n_bytes, const bal_engine *engine, int ctx, bal_kv_type type,
                             bal_error *err)
{
    const bal_model *m = &engine->model;
    const bal_text_config *c = &m->config.text;
    bal_kv_layout layout;
    *n_bytes = 0;
    BAL_TRY(check_context(engine, ctx, err));
    BAL_TRY(bal_kv_layout_init(&layout, type, c->layers, c->kv_heads, c->head_dim, err));
    const size_t part[] = {arena_bytes(c, ctx), bal_kv_pool_bytes(&layout, pages_of(ctx), false),
                           (size_t)pages_of(ctx) * (sizeof(int32_t) + sizeof(uint8_t *)),
                           bal_exec_bytes(bal_pool_size(engine->pool), bal_model_max_k(m)),
                           bal_forward_bytes(c, chunk_of(engine, ctx), 1)};
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        if (!bal_size_add(*n_bytes, part[i], n_bytes))
            return bal_fail(err, BAL_E_ARG, "context: %d positions do not fit memory", ctx);
    return BAL_OK;
}

bal_status bal_session_create_kv(bal_session *s, const bal_engine *engine, int ctx,
                                 bal_kv_type type, bal_error *err)
{
    *s = (bal_session){.engine = engine};
    BAL_TRY(check_context(engine, ctx, err));
    s->ctx = ctx;
    const bal_status st = create(s, type, err);
    if (st < 0) bal_session_destroy(s);
    return st;
}

bal_status bal_session_create(bal_session *s, const bal_engine *engine, int ctx, bal_error *err)
{
    return bal_session_create_kv(s, engine, ctx, engine->on_device ? BAL_KV_F16 : BAL_KV_F32, err);
}

void bal_session_destroy(bal_session *s)
{
    bal_kv_seq_destroy(&s->seq);
    bal_kv_pool_destroy(&s->pool);
    bal_forward_destroy(&s->forward);
    bal_exec_destroy(&s->exec);
    bal_arena_deinit(&s->arena);
    *s = (bal_session){0};
}

/* m rows of a chunk behind position s->n, through all blocks. */
static bal_status run_blocks(bal_session *s, const float *embeds, int m, bal_taps taps,
                             bal_error *err)
{
    const size_t hidden = (size_t)s->engine->model.config.text.hidden;
    const bal_kv_span span = {.m = m, .first = s->n, .pages = s->seq.data};
    memcpy(s->forward.h, embeds, (size_t)m * hidden * sizeof *embeds);
    for (int i = 0; i < m; i++) {
        memcpy(s->forward.pos[i], s->info[s->n + i].pos, sizeof s->forward.pos[i]);
        s->forward.modality[i] = s->info[s->n + i].modality;
    }
    return bal_forward_blocks(&s->forward, &s->pool.layout, &span, 1, m, taps, err);
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
    for (int i = 0; i < m; i++) {
        const int row = row0 + i;
        const bool watched = w->fn && row >= w->first;
        if (!watched && row != total - 1) continue;
        BAL_TRY(bal_forward_logits(&s->forward, &i, 1, taps, err));
        BAL_TRY(bal_logits_check(s->logits, s->engine->model.config.text.vocab, s->n + i, err));
        if (watched) w->fn(w->ctx, row, s->logits);
    }
    return BAL_OK;
}

/* Rows of the next chunk: about a fair share, of whole tiles but the last. */
static int rows_of(size_t left, size_t most)
{
    const size_t share = bal_ceil_div(left, bal_ceil_div(left, most));
    return (int)bal_min(bal_min(bal_round_up(share, BAL_TILE_TOKENS), most), left);
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
        const int m = rows_of((size_t)(n - done), (size_t)s->forward.max_rows);
        bal_status st = run_blocks(s, embeds + (size_t)done * hidden, m, taps, err);
        if (st == BAL_OK) st = chunk_logits(s, done, m, n, &w, taps, err);
        if (st < 0) {
            s->n = start;
            return st;
        }
        s->n += m;
        done += m;
    }
    return BAL_OK;
}

static bal_token_info answer_token(const bal_session *s, int32_t id)
{
    const int32_t pos = bal_session_next_pos(s);
    return (bal_token_info){.id = id, .pos = {pos, pos, pos}, .image = -1, .modality = BAL_ANSWER};
}

bal_status bal_session_push(bal_session *s, int32_t id, bal_error *err)
{
    const bal_token_info info = answer_token(s, id);
    bal_linear_row(&s->engine->model.embed, id, s->row);
    return bal_session_append(s, &info, s->row, 1, 0, NULL, NULL, (bal_taps){0}, err);
}

static bal_status draw_on_device(bal_device_forward *f, bal_sampler *how, int32_t *next,
                                 bal_error *err)
{
    const int row = 0;
    const bool greedy = !how || how->s.temperature == 0.0f;
    bal_rng rng = greedy ? (bal_rng){0} : how->rng;
    bal_device_draw draw;
    if (!greedy) draw = bal_sampling_draw(&how->s, &rng);
    BAL_TRY(bal_device_forward_draw(f, &row, 1, greedy ? NULL : &draw, next, err));
    if (*next < 0) return bal_fail(err, BAL_E_NUMERIC, "a logit is not finite");
    if (!greedy) how->rng = rng;
    return BAL_OK;
}

static bal_status next_on_device(bal_session *s, int32_t id, bal_sampler *how, int32_t *next,
                                 bal_error *err)
{
    bal_device_forward *f = &s->forward.device;
    const bal_linear *table = &s->engine->model.embed;
    const bal_token_info info = answer_token(s, id);
    const bal_kv_span span = {.m = 1, .first = s->n, .pages = s->seq.data};
    if (s->n == s->ctx)
        return bal_fail(err, BAL_E_CAPACITY,
                        "context is full: %d positions in use (--ctx makes it larger)", s->n);
    if (table->rank) bal_linear_row(table, id, s->row);
    BAL_TRY(bal_device_forward_blocks(f, &s->pool.layout, &span, 1, 1, table->rank ? s->row : NULL,
                                      &id, &info.pos, NULL, err));
    const bal_status st = draw_on_device(f, how, next, err);
    if (st < 0) return bal_fail_in(err, st, "position %d", s->n);
    s->info[s->n++] = info;
    return BAL_OK;
}

bal_status bal_session_next(bal_session *s, int32_t id, bal_sampler *how, int32_t *next,
                            bal_error *err)
{
    if (s->engine->on_device) return next_on_device(s, id, how, next, err);
    BAL_TRY(bal_session_push(s, id, err));
    *next = how ? bal_sampler_next(how, s->logits)
                : bal_argmax(s->logits, s->engine->model.config.text.vocab);
    return BAL_OK;
}

int32_t bal_session_next_pos(const bal_session *s)
{
    return s->n ? bal_next_pos(&s->info[s->n - 1]) : 0;
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
