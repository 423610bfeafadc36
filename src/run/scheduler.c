/* SPDX-License-Identifier: MIT
 * Lifetime, the doors to other threads, and the loop. */
#include "run/scheduler_impl.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_CTX = 16384 };

/* ---- Lists ----------------------------------------------------------------------------------- */

static void list_init(bal_ticket_list *l)
{
    *l = (bal_ticket_list){.last = &l->first};
}

void bal_list_push(bal_ticket_list *l, bal_ticket *t)
{
    t->next = NULL;
    *l->last = t;
    l->last = &t->next;
    l->n++;
}

void bal_list_remove(bal_ticket_list *l, bal_ticket *t)
{
    bal_ticket **link = &l->first;
    while (*link != t) link = &(*link)->next;
    *link = t->next;
    if (!t->next) l->last = link;
    l->n--;
}

void bal_list_insert(bal_ticket_list *l, bal_ticket *t)
{
    bal_ticket **link = &l->first;
    while (*link && (*link)->id < t->id) link = &(*link)->next;
    t->next = *link;
    *link = t;
    if (!t->next) l->last = &t->next;
    l->n++;
}

/* ---- Lifetime -------------------------------------------------------------------------------- */

static size_t quarter_of_memory(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 ? (size_t)pages / 4 * (size_t)page : SIZE_MAX;
}

static bal_status fill_opts(bal_scheduler_opts *o, const bal_engine *e, bal_error *err)
{
    const int max = e->model.config.text.max_positions;
    if (o->ctx == 0) o->ctx = max < MAX_CTX ? max : MAX_CTX;
    if (o->max_running == 0) o->max_running = 64;
    if (o->max_waiting == 0) o->max_waiting = 256;
    if (o->step_tokens == 0) o->step_tokens = o->max_running > 256 ? o->max_running : 256;
    if (o->picture_bytes == 0) o->picture_bytes = (size_t)256 << 20;
    if (o->ctx < 1 || o->ctx > max)
        return bal_fail(err, BAL_E_ARG, "context: %d positions, this model takes 1 to %d", o->ctx,
                        max);
    if (o->max_running < 1 || o->max_waiting < 0 || o->max_running > 1 << 16 ||
        o->max_waiting > 1 << 24)
        return bal_fail(err, BAL_E_ARG, "%d running and %d waiting requests", o->max_running,
                        o->max_waiting);
    if (o->step_tokens < o->max_running || o->step_tokens > 1 << 20)
        return bal_fail(err, BAL_E_ARG,
                        "%d rows a step, expected %d (the requests that may run) or more",
                        o->step_tokens, o->max_running);
    return BAL_OK;
}

/* A conversation of 512 positions for each that may run at once, so that short ones do not wait for
 * pages. */
enum { DEFAULT_PAGES = 8 };

/* A full context and one page more, for the copy of a page that is shared. */
static bal_status create_pool(bal_scheduler *s, bal_error *err)
{
    const bal_text_config *c = &s->engine->model.config.text;
    bal_kv_layout l;
    BAL_TRY(bal_kv_layout_init(&l, s->opts.kv_type, c->layers, c->kv_heads, c->head_dim, err));
    const size_t least = bal_ceil_div((size_t)s->opts.ctx, BAL_PAGE) + 1;
    size_t n = s->opts.kv_bytes / l.page_bytes;
    if (s->opts.kv_bytes == 0) {
        const size_t most = quarter_of_memory() / l.page_bytes;
        const size_t wish = bal_max(4 * least, DEFAULT_PAGES * (size_t)s->opts.max_running);
        n = bal_max(least, bal_min(wish, most));
    }
    if (n < least || n > INT32_MAX)
        return bal_fail(err, BAL_E_ARG,
                        "a cache of %zu bytes holds %zu pages, a context of %d positions needs %zu "
                        "(%zu bytes)",
                        s->opts.kv_bytes, n, s->opts.ctx, least, least * l.page_bytes);
    s->opts.kv_bytes = n * l.page_bytes;
    return bal_kv_pool_create_on(&s->pool, s->engine->on_device, &l, (int)n,
                                 !s->opts.no_prefix_cache, err);
}

static bal_status create_arrays(bal_scheduler *s, bal_error *err)
{
    const size_t vocab = (size_t)s->engine->model.config.text.vocab;
    const size_t n = (size_t)s->opts.max_running;
    s->logits = malloc(vocab * sizeof *s->logits);
    s->bits = malloc(bal_rules_words((int)vocab) * sizeof *s->bits);
    s->shares = calloc(n, sizeof *s->shares);
    s->spans = calloc(n, sizeof *s->spans);
    s->wanted = calloc((size_t)s->opts.step_tokens, sizeof *s->wanted);
    if (!s->logits || !s->bits || !s->shares || !s->spans || !s->wanted)
        return bal_nomem(err, vocab * sizeof *s->logits, "scheduler");
    return BAL_OK;
}

static bal_status create(bal_scheduler *s, bal_error *err)
{
    const bal_engine *e = s->engine;
    const int max_k = bal_model_max_k(&e->model);
    if (pthread_mutex_init(&s->lock, NULL) != 0 || pthread_cond_init(&s->work, NULL) != 0)
        return bal_fail(err, BAL_E_NOMEM, "no lock for the scheduler");
    s->have_lock = true;
    BAL_TRY(fill_opts(&s->opts, e, err));
    BAL_TRY(create_pool(s, err));
    BAL_TRY(create_arrays(s, err));
    BAL_TRY(bal_exec_create(&s->exec, e->pool, &e->kernels, max_k, err));
    BAL_TRY(bal_exec_create(&s->vision_exec, e->pool, &e->kernels, max_k, err));
    s->exec.shapes = s->vision_exec.shapes = &e->shapes;
    const size_t pages = (size_t)s->opts.max_running * bal_ceil_div((size_t)s->opts.ctx, BAL_PAGE);
    BAL_TRY(bal_forward_create(&s->forward, e, &s->exec, s->opts.step_tokens, BAL_LOGIT_ROWS, pages,
                               err));
    return bal_sampler_create(&s->sampler, &(bal_sampling){.top_p = 1.0f},
                              e->model.config.text.vocab, err);
}

static void show_stats(bal_scheduler *s);

bal_status bal_scheduler_create(bal_scheduler **out, const bal_engine *engine,
                                const bal_scheduler_opts *opts, bal_error *err)
{
    *out = NULL;
    bal_scheduler *s = calloc(1, sizeof *s);
    if (!s) return bal_nomem(err, sizeof *s, "scheduler");
    s->engine = engine;
    if (opts) s->opts = *opts;
    list_init(&s->incoming);
    list_init(&s->waiting);
    list_init(&s->running);
    const bal_status st = create(s, err);
    if (st < 0) {
        bal_scheduler_destroy(s);
        return st;
    }
    s->features.limit = s->opts.picture_bytes;
    s->stop_id = -1;
    if (bal_chat_stop_id(engine->tokenizer, engine->chat, &s->stop_id, NULL) < 0) s->stop_id = -1;
    show_stats(s);
    *out = s;
    return BAL_OK;
}

static void cancel_list(bal_scheduler *s, bal_ticket_list *l)
{
    while (l->first) {
        bal_ticket *t = l->first;
        bal_list_remove(l, t);
        bal_scheduler_finish(s, t, BAL_FINISH_CANCELLED, -1, NULL);
    }
}

void bal_scheduler_destroy(bal_scheduler *s)
{
    if (!s) return;
    cancel_list(s, &s->incoming);
    cancel_list(s, &s->waiting);
    cancel_list(s, &s->running);
    bal_feature_cache_clear(&s->features);
    bal_kv_pool_destroy(&s->pool);
    bal_sampler_destroy(&s->sampler);
    bal_forward_destroy(&s->forward);
    bal_exec_destroy(&s->exec);
    bal_exec_destroy(&s->vision_exec);
    free(s->logits);
    free(s->bits);
    free(s->shares);
    free(s->spans);
    free(s->wanted);
    if (s->have_lock) {
        pthread_cond_destroy(&s->work);
        pthread_mutex_destroy(&s->lock);
    }
    free(s);
}

/* ---- From other threads ---------------------------------------------------------------------- */

static void wake(bal_scheduler *s)
{
    s->woken = true;
    pthread_cond_signal(&s->work);
}

/* Why a sound request cannot be taken now, or NULL. */
static const char *no_room(const bal_scheduler *s)
{
    if (s->stopping) return "no more requests are taken: stopping";
    return s->n_live >= s->opts.max_running + s->opts.max_waiting ? "the queue is full" : NULL;
}

static bal_status enqueue(bal_scheduler *s, bal_ticket *t, uint64_t *id, bal_error *err)
{
    pthread_mutex_lock(&s->lock);
    const char *why = no_room(s);
    const int n = s->n_live;
    if (why) {
        s->refused++;
        pthread_mutex_unlock(&s->lock);
        return bal_fail(err, BAL_E_CAPACITY, "%s (%d requests are here)", why, n);
    }
    *id = t->id = ++s->last_id;
    s->requests++;
    s->n_live++;
    t->next_live = s->live;
    s->live = t;
    bal_list_push(&s->incoming, t);
    wake(s);
    pthread_mutex_unlock(&s->lock);
    return BAL_OK;
}

bal_status bal_scheduler_submit(bal_scheduler *s, const bal_request *request, uint64_t *id,
                                bal_error *err)
{
    bal_ticket *t;
    *id = 0;
    BAL_TRY(bal_ticket_create(&t, s->engine, request, s->opts.ctx, err));
    const bal_status st = enqueue(s, t, id, err);
    if (st < 0) bal_ticket_destroy(t);
    return st;
}

bal_status bal_scheduler_measure(bal_scheduler *s, const bal_request *request, bal_usage *usage,
                                 bal_error *err)
{
    return bal_ticket_measure(s->engine, request, usage, err);
}

void bal_scheduler_cancel(bal_scheduler *s, uint64_t id)
{
    pthread_mutex_lock(&s->lock);
    for (bal_ticket *t = s->live; t; t = t->next_live)
        if (t->id == id) t->cancelled = true;
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

void bal_scheduler_stop(bal_scheduler *s, bool now)
{
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    for (bal_ticket *t = now ? s->live : NULL; t; t = t->next_live) t->cancelled = true;
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

static void clear_counters(bal_scheduler_stats *n)
{
    n->requests = n->finished = n->cancelled = n->failed = n->preempted = n->refused = 0;
    n->steps = n->prompt_tokens = n->generated_tokens = 0;
    n->cached_tokens = n->prefix_hits = n->prefix_queries = 0;
    n->picture_hits = n->picture_queries = n->encodes = 0;
    n->vision_s = n->step_s = 0.0;
}

/* The engine's thread, which may still be ending its last step, clears its own before the next. */
void bal_scheduler_reset_counters(bal_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    s->reset = true;
    s->requests = s->refused = 0;
    pthread_mutex_unlock(&s->lock);
}

void bal_scheduler_get_stats(bal_scheduler *s, bal_scheduler_stats *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->shown;
    if (s->reset) clear_counters(out);
    out->waiting += s->incoming.n;
    out->requests = s->requests;
    out->refused = s->refused;
    pthread_mutex_unlock(&s->lock);
}

/* ---- The loop -------------------------------------------------------------------------------- */

static void show_stats(bal_scheduler *s)
{
    bal_scheduler_stats *n = &s->now;
    const bal_kv_pool *p = &s->pool;
    n->running = s->running.n;
    n->waiting = s->waiting.n;
    n->ctx = s->opts.ctx;
    n->kv_type = p->layout.type[BAL_KEYS];
    n->page_tokens = BAL_PAGE;
    n->pages_total = p->n_pages;
    n->pages_used = p->n_pages - bal_kv_pool_available(p);
    n->pages_cached = p->n_idle;
    n->page_bytes = p->layout.page_bytes;
    n->kv_bytes_total = (size_t)p->n_pages * p->layout.page_bytes;
    n->kv_bytes_used = (size_t)n->pages_used * p->layout.page_bytes;
    n->kv_bytes_per_token = p->layout.page_bytes / BAL_PAGE;
    n->picture_bytes_total = s->features.limit;
    n->picture_bytes_used = s->features.bytes;
    n->pictures_cached = s->features.n;
    pthread_mutex_lock(&s->lock);
    s->shown = *n;
    pthread_mutex_unlock(&s->lock);
}

static void unlink_live(bal_scheduler *s, const bal_ticket *t)
{
    pthread_mutex_lock(&s->lock);
    bal_ticket **link = &s->live;
    while (*link != t) link = &(*link)->next_live;
    *link = t->next_live;
    s->n_live--;
    pthread_mutex_unlock(&s->lock);
}

void bal_scheduler_finish(bal_scheduler *s, bal_ticket *t, bal_finish why, int32_t stop_id,
                          const bal_error *error)
{
    if (t->first_at > 0.0) t->usage.decode_s = bal_now() - t->first_at;
    if (t->seq.pool && !t->no_cache) bal_kv_seq_publish(&t->seq);
    bal_kv_seq_destroy(&t->seq);
    for (int i = 0; i < t->n_pictures; i++) {
        bal_feature_cache_release(&s->features, t->pictures[i].features);
        t->pictures[i].features = NULL;
    }
    s->now.finished++;
    s->now.cancelled += why == BAL_FINISH_CANCELLED;
    s->now.failed += why == BAL_FINISH_ERROR;
    unlink_live(s, t);
    const bal_request_event done = {.kind = BAL_EVENT_DONE,
                                    .request = t->id,
                                    .finish = why,
                                    .stop_id = stop_id,
                                    .usage = t->usage,
                                    .error = error};
    show_stats(s);
    t->on_event(t->event_ctx, &done);
    bal_ticket_destroy(t);
}

/* New tickets to the waiting ones; those that were cancelled move to `gone`. */
static void look_around(bal_scheduler *s, bal_ticket_list *gone)
{
    bal_ticket_list *const lists[] = {&s->waiting, &s->running};
    pthread_mutex_lock(&s->lock);
    if (s->reset) {
        clear_counters(&s->now);
        s->shown = s->now;
        s->reset = false;
    }
    while (s->incoming.first) {
        bal_ticket *t = s->incoming.first;
        bal_list_remove(&s->incoming, t);
        bal_list_push(&s->waiting, t);
    }
    for (int i = 0; i < 2; i++)
        for (bal_ticket *t = lists[i]->first, *next; t; t = next) {
            next = t->next;
            if (!t->cancelled) continue;
            bal_list_remove(lists[i], t);
            bal_list_push(gone, t);
        }
    pthread_mutex_unlock(&s->lock);
}

bool bal_scheduler_inner_step(bal_scheduler *s)
{
    bal_ticket_list gone;
    list_init(&gone);
    look_around(s, &gone);
    const bool any = gone.n > 0;
    cancel_list(s, &gone);
    bal_scheduler_admit(s);
    const bool worked = bal_scheduler_batch(s);
    show_stats(s);
    return any || worked;
}

bool bal_scheduler_step(bal_scheduler *s)
{
    const bool worked = bal_scheduler_inner_step(s);
    return bal_scheduler_encode(s) || worked;
}

/* False when there is nothing left and stop was called. */
static bool wait_for_work(bal_scheduler *s)
{
    pthread_mutex_lock(&s->lock);
    while (!s->woken && !(s->stopping && s->n_live == 0)) pthread_cond_wait(&s->work, &s->lock);
    const bool more = s->woken || s->n_live > 0;
    s->woken = false;
    pthread_mutex_unlock(&s->lock);
    return more;
}

void bal_scheduler_run(bal_scheduler *s)
{
    while (wait_for_work(s))
        while (bal_scheduler_step(s)) {
        }
}
