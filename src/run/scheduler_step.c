/* SPDX-License-Identifier: MIT
 * What the engine thread does: admission, pictures, batches, tokens.
 *
 * Admission is in the order of arrival. A ticket gets all pages of its prompt at once, so that only
 * growing answers can find the pool empty; then the youngest running one is put aside. One that
 * waits for a picture, or for pages that a running one is about to fill with the same beginning,
 * lets others pass. */
#include "run/scheduler_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Admission ------------------------------------------------------------------------------- */

static bool uses_cache(const bal_ticket *t)
{
    return !t->no_cache && !t->prompt_logprobs;
}

/* Positions that need not be run; the last one is always run, for its logits. */
static int cached_positions(const bal_scheduler *s, const bal_ticket *t)
{
    return uses_cache(t) ? bal_kv_pool_match(&s->pool, t->keys, t->n_tokens - 1) : 0;
}

/* How many first keys are the same: a key stands for all before it, so halving finds the end. */
static int common_keys(const bal_ticket *a, const bal_ticket *b)
{
    int same = 0, differ = (a->n_tokens < b->n_tokens ? a->n_tokens : b->n_tokens) + 1;
    while (differ - same > 1) {
        const int at = same + (differ - same) / 2;
        if (memcmp(&a->keys[at - 1], &b->keys[at - 1], sizeof *a->keys) == 0)
            same = at;
        else
            differ = at;
    }
    return same;
}

/* Whether a running ticket is going to cache more of this one's prompt than is cached now. */
static bool worth_waiting(const bal_scheduler *s, const bal_ticket *t, int cached)
{
    if (!s->pool.indexed || !uses_cache(t)) return false;
    for (const bal_ticket *r = s->running.first; r; r = r->next) {
        if (r->no_cache) continue;
        int common = common_keys(t, r);
        if (common == t->n_tokens) common--;
        if (common / BAL_PAGE * BAL_PAGE > cached) return true;
    }
    return false;
}

/* References to the features that positions behind `cached` need; false if one is not there. */
static bool hold_features(bal_scheduler *s, bal_ticket *t, int cached)
{
    bool all = true;
    for (int i = 0; i < t->n_pictures; i++) {
        bal_ticket_picture *p = &t->pictures[i];
        if (!p->features && p->end > cached)
            p->features = bal_feature_cache_find(&s->features, &p->key);
        all = all && (p->features || p->end <= cached);
    }
    return all;
}

static void drop_features(bal_scheduler *s, bal_ticket *t)
{
    for (int i = 0; i < t->n_pictures; i++) {
        bal_feature_cache_release(&s->features, t->pictures[i].features);
        t->pictures[i].features = NULL;
    }
}

/* Pages for the whole prompt, and one left over for each that runs already. */
static bool take_pages(bal_scheduler *s, bal_ticket *t)
{
    if (uses_cache(t)) bal_kv_seq_attach(&t->seq, t->keys, t->n_tokens - 1);
    const int need = bal_kv_seq_need(&t->seq, t->n_tokens);
    if (need + s->running.n <= bal_kv_pool_available(&s->pool) &&
        bal_kv_seq_reserve(&t->seq, t->n_tokens))
        return true;
    bal_kv_seq_clear(&t->seq);
    return false;
}

static void note_admission(bal_scheduler *s, bal_ticket *t)
{
    t->prefill_at = bal_now();
    if (t->admitted_before) return;
    t->admitted_before = true;
    if (t->usage.queue_s == 0.0) t->usage.queue_s = t->prefill_at - t->submitted_at;
    t->usage.n_cached = t->seq.n;
    s->now.cached_tokens += (uint64_t)t->seq.n;
    s->now.prefix_hits += (uint64_t)t->seq.n;
    if (uses_cache(t)) s->now.prefix_queries += (uint64_t)t->n_prompt;
    s->now.picture_queries += (uint64_t)t->n_pictures;
    s->now.picture_hits += (uint64_t)(t->n_pictures - t->usage.n_pictures_encoded);
}

typedef enum admission { ADMITTED, LATER, FULL } admission;

static admission admit(bal_scheduler *s, bal_ticket *t, bal_error *err)
{
    const int cached = cached_positions(s, t);
    if (worth_waiting(s, t, cached) || !hold_features(s, t, cached)) return LATER;
    if (!t->seq.pool && bal_kv_seq_create(&t->seq, &s->pool, t->cap, err) < 0) return FULL;
    if (!take_pages(s, t)) return FULL;
    note_admission(s, t);
    bal_list_remove(&s->waiting, t);
    bal_list_push(&s->running, t);
    return ADMITTED;
}

/* Ends a ticket that is in `from`. */
static void end(bal_scheduler *s, bal_ticket_list *from, bal_ticket *t, bal_finish why,
                int32_t stop_id, const bal_error *error)
{
    bal_list_remove(from, t);
    bal_scheduler_finish(s, t, why, stop_id, error);
}

void bal_scheduler_admit(bal_scheduler *s)
{
    for (bal_ticket *t = s->waiting.first, *next; t && s->running.n < s->opts.max_running;
         t = next) {
        bal_error err = {0};
        next = t->next;
        if (admit(s, t, &err) != FULL) continue;
        if (s->running.n > 0 && err.status == BAL_OK) return;
        /* alone it must fit, so this is memory of the machine */
        if (err.status == BAL_OK) bal_fail(&err, BAL_E_CAPACITY, "no pages for a request alone");
        end(s, &s->waiting, t, BAL_FINISH_ERROR, -1, &err);
    }
}

/* ---- Pictures -------------------------------------------------------------------------------- */

/* One picture to be encoded; the ticket that asked may end meanwhile. */
typedef struct encoding {
    bal_scheduler *s;
    bal_picture *picture;
    bal_view_plan plan;
    bal_key key;
    bool shared;    /* to be kept */
    double aside_s; /* spent on steps between the layers */
} encoding;

/* The ticket nearest to running that lacks features, and the picture. */
static bool find_missing(bal_scheduler *s, encoding *e)
{
    int ahead = s->opts.max_running - s->running.n;
    for (bal_ticket *t = s->waiting.first; t; t = t->next) {
        const int cached = cached_positions(s, t);
        if (!worth_waiting(s, t, cached) && !hold_features(s, t, cached)) {
            int i = 0;
            while (t->pictures[i].features || t->pictures[i].end <= cached) i++;
            e->picture = bal_picture_retain(t->pictures[i].picture);
            e->plan = t->pictures[i].plan;
            e->key = t->pictures[i].key;
            e->shared = !t->no_cache;
            if (t->usage.queue_s == 0.0) t->usage.queue_s = bal_now() - t->submitted_at;
            return true;
        }
        if (--ahead <= 0) return false;
    }
    return false;
}

/* A layer of the tower for one, then a step for all others. */
static void between_layers(void *ctx, bal_tap tap, int layer, const float *data, int rows, int cols)
{
    encoding *e = ctx;
    (void)layer;
    (void)data;
    (void)rows;
    (void)cols;
    if (tap != BAL_TAP_VISION_LAYER) return;
    const double t0 = bal_now();
    bal_scheduler_inner_step(e->s);
    e->aside_s += bal_now() - t0;
}

static bal_status look(encoding *e, bal_features **out, bal_error *err)
{
    bal_scheduler *s = e->s;
    const bal_taps taps = {between_layers, e};
    BAL_TRY(bal_features_create(out, &e->key, e->plan.n_tokens, s->engine->model.config.text.hidden,
                                err));
    const bal_status st = bal_sequence_look(s->engine, &s->vision_exec, &e->plan,
                                            bal_picture_image(e->picture), (*out)->rows, taps, err);
    if (st < 0) {
        bal_feature_cache_release(&s->features, *out);
        *out = NULL;
    }
    return st;
}

static bal_ticket_picture *picture_with(bal_ticket *t, const bal_key *key)
{
    for (int i = 0; i < t->n_pictures; i++)
        if (memcmp(&t->pictures[i].key, key, sizeof *key) == 0 && !t->pictures[i].features)
            return &t->pictures[i];
    return NULL;
}

/* To all waiting tickets with that picture; the first pays. */
static void hand_out(bal_scheduler *s, bal_features *f, double seconds)
{
    bool paid = false;
    for (bal_ticket *t = s->waiting.first; t; t = t->next)
        for (bal_ticket_picture *p; (p = picture_with(t, &f->key)) != NULL; f->refs++) {
            p->features = f;
            if (!paid) {
                t->usage.n_pictures_encoded++;
                t->usage.vision_s += seconds;
            }
            paid = true;
        }
}

static void fail_waiting(bal_scheduler *s, const bal_key *key, const bal_error *err)
{
    for (bal_ticket *t = s->waiting.first, *next; t; t = next) {
        next = t->next;
        if (picture_with(t, key)) end(s, &s->waiting, t, BAL_FINISH_ERROR, -1, err);
    }
}

bool bal_scheduler_encode(bal_scheduler *s)
{
    encoding e = {.s = s};
    bal_error err = {0};
    bal_features *f = NULL;
    if (!find_missing(s, &e)) return false;
    const double t0 = bal_now();
    const bal_status st = look(&e, &f, &err);
    const double seconds = bal_now() - t0 - e.aside_s;
    s->now.encodes++;
    s->now.vision_s += seconds;
    if (st < 0)
        fail_waiting(s, &e.key, &err);
    else {
        hand_out(s, f, seconds);
        if (e.shared) bal_feature_cache_keep(&s->features, f);
        bal_feature_cache_release(&s->features, f);
    }
    bal_picture_release(e.picture);
    return true;
}

/* ---- Pages for growing answers --------------------------------------------------------------- */

void bal_scheduler_put_aside(bal_scheduler *s, bal_ticket *t)
{
    bal_kv_seq_clear(&t->seq);
    bal_list_remove(&s->running, t);
    bal_list_insert(&s->waiting, t);
    s->now.preempted++;
}

static bal_ticket *youngest(const bal_scheduler *s)
{
    bal_ticket *y = s->running.first;
    for (bal_ticket *t = y; t; t = t->next)
        if (t->id > y->id) y = t;
    return y;
}

static bool all_have_pages(bal_scheduler *s)
{
    for (bal_ticket *t = s->running.first; t; t = t->next)
        if (!bal_kv_seq_reserve(&t->seq, t->n_tokens)) return false;
    return true;
}

/* ---- Who gets how many rows ------------------------------------------------------------------ */

static int by_pending(const void *a, const void *b)
{
    const bal_ticket *x = ((const bal_share *)a)->ticket, *y = ((const bal_share *)b)->ticket;
    const int px = bal_ticket_pending(x), py = bal_ticket_pending(y);
    if (px != py) return px < py ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Beginnings that are shared stand next to each other: order by the lists of pages. */
static int by_pages(const void *a, const void *b)
{
    const bal_kv_seq *x = &((const bal_share *)a)->ticket->seq;
    const bal_kv_seq *y = &((const bal_share *)b)->ticket->seq;
    const int n = x->n_pages < y->n_pages ? x->n_pages : y->n_pages;
    for (int i = 0; i < n; i++)
        if (x->ids[i] != y->ids[i]) return x->ids[i] < y->ids[i] ? -1 : 1;
    return (x->n_pages > y->n_pages) - (x->n_pages < y->n_pages);
}

/* An equal share of what is left for each, the shortest first, who leave what they do not need: one
 * row answers always go on, short prompts pass a huge one, and that still gets its share. */
static int divide_rows(bal_scheduler *s)
{
    int n = 0, left = s->opts.step_tokens;
    for (bal_ticket *t = s->running.first; t; t = t->next) s->shares[n++] = (bal_share){t, 0};
    qsort(s->shares, (size_t)n, sizeof *s->shares, by_pending);
    for (int i = 0; i < n; i++) {
        const int pending = bal_ticket_pending(s->shares[i].ticket), fair = left / (n - i);
        s->shares[i].rows = pending < fair ? pending : fair;
        left -= s->shares[i].rows;
    }
    qsort(s->shares, (size_t)n, sizeof *s->shares, by_pages);
    return n;
}

/* ---- One step -------------------------------------------------------------------------------- */

/* Full pages at the start that both have, before the first row of either. */
static int shared_pages(const bal_kv_seq *a, const bal_kv_seq *b)
{
    const int n = (a->n < b->n ? a->n : b->n) / BAL_PAGE;
    int i = 0;
    while (i < n && a->ids[i] == b->ids[i]) i++;
    return i;
}

static void load_row(bal_scheduler *s, const bal_ticket *t, int at, int row)
{
    const size_t hidden = (size_t)s->engine->model.config.text.hidden;
    float *h = s->forward.h + (size_t)row * hidden;
    const int from = at < t->n_prompt ? t->feature_rows[at] : -1;
    memcpy(s->forward.pos[row], t->info[at].pos, sizeof s->forward.pos[row]);
    s->forward.modality[row] = t->info[at].modality;
    if (from < 0) {
        bal_linear_row(&s->engine->model.embed, t->info[at].id, h);
        return;
    }
    const bal_features *f = t->pictures[t->info[at].image].features;
    memcpy(h, f->rows + (size_t)from * hidden, hidden * sizeof *h);
}

static bool wants_logits(const bal_ticket *t, int at)
{
    if (at == t->n_tokens - 1) return true;
    return t->prompt_logprobs && at + 1 < t->n_prompt && at + 1 >= t->n_told &&
           t->info[at + 1].modality != BAL_VISION;
}

/* Rows, spans and wanted logits of all shares; returns the number of wanted ones. */
static int load_rows(bal_scheduler *s, int n, int *rows)
{
    int wanted = 0;
    *rows = 0;
    for (int i = 0; i < n; i++) {
        const bal_share *share = &s->shares[i];
        const bal_kv_seq *seq = &share->ticket->seq;
        s->spans[i] =
            (bal_kv_span){.row = *rows, .m = share->rows, .first = seq->n, .pages = seq->data};
        if (i > 0) s->spans[i].shared = shared_pages(&s->shares[i - 1].ticket->seq, seq);
        for (int at = seq->n; at < seq->n + share->rows; at++, ++*rows) {
            load_row(s, share->ticket, at, *rows);
            if (wants_logits(share->ticket, at)) s->wanted[wanted++] = (bal_wanted){i, *rows, at};
        }
    }
    return wanted;
}

static void commit_rows(bal_scheduler *s, int n)
{
    for (int i = 0; i < n; i++) {
        bal_ticket *t = s->shares[i].ticket;
        const int first = t->seq.n, m = s->shares[i].rows;
        bal_kv_seq_commit(&t->seq, t->info + first, t->no_cache ? NULL : t->keys, m);
        if (first < t->n_prompt) s->now.prompt_tokens += (uint64_t)m;
        if (t->seq.n >= t->n_prompt) drop_features(s, t);
    }
}

/* Whether nothing but the next token is wanted of all these rows, so that a device may draw it. */
static bool only_tokens(const bal_scheduler *s, const bal_wanted *wanted, int n)
{
    if (!s->engine->on_device) return false;
    for (int i = 0; i < n; i++) {
        const bal_ticket *t = s->shares[wanted[i].share].ticket;
        if (!t || t->logprobs || t->prompt_logprobs || bal_rules_any(&t->rules)) return false;
    }
    return true;
}

static bal_status draw_wanted(bal_scheduler *s, const bal_wanted *wanted, const int *rows, int n,
                              bal_error *err)
{
    bal_device_draw draws[BAL_LOGIT_ROWS];
    int32_t ids[BAL_LOGIT_ROWS];
    bool greedy = true; /* all of them: the largest are found faster than draws of one */
    for (int i = 0; i < n; i++) {
        bal_ticket *t = s->shares[wanted[i].share].ticket;
        draws[i] = bal_sampling_draw(&t->sampling, &t->rng);
        greedy &= t->sampling.temperature == 0.0f;
    }
    BAL_TRY(bal_device_forward_draw(&s->forward.device, rows, n, greedy ? NULL : draws, ids, err));
    for (int i = 0; i < n; i++) {
        bal_share *share = &s->shares[wanted[i].share];
        if (!bal_scheduler_take_token(s, share->ticket, wanted[i].at, ids[i])) share->ticket = NULL;
    }
    return BAL_OK;
}

static bal_status take_wanted(bal_scheduler *s, int n_wanted, bal_error *err)
{
    const size_t vocab = (size_t)s->engine->model.config.text.vocab;
    for (int from = 0, n; from < n_wanted; from += n) {
        int rows[BAL_LOGIT_ROWS];
        n = n_wanted - from < s->forward.max_logits ? n_wanted - from : s->forward.max_logits;
        for (int i = 0; i < n; i++) rows[i] = s->wanted[from + i].row;
        if (only_tokens(s, s->wanted + from, n)) {
            BAL_TRY(draw_wanted(s, s->wanted + from, rows, n, err));
            continue;
        }
        BAL_TRY(bal_forward_logits(&s->forward, rows, n, (bal_taps){0}, err));
        for (int i = 0; i < n; i++) {
            const bal_wanted *w = &s->wanted[from + i];
            bal_share *share = &s->shares[w->share];
            if (share->ticket && !bal_scheduler_take_logits(s, share->ticket, w->at,
                                                            s->forward.logits + (size_t)i * vocab))
                share->ticket = NULL;
        }
    }
    return BAL_OK;
}

/* A device that has failed computes nothing any more: whoever is in the step hears why. */
static void fail_all(bal_scheduler *s, const bal_error *err)
{
    while (s->running.first) end(s, &s->running, s->running.first, BAL_FINISH_ERROR, -1, err);
}

bool bal_scheduler_batch(bal_scheduler *s)
{
    int rows;
    while (!all_have_pages(s)) bal_scheduler_put_aside(s, youngest(s));
    if (s->running.n == 0) return false;
    const double t0 = bal_now();
    const int n = divide_rows(s), wanted = load_rows(s, n, &rows);
    bal_error err = {0};
    bal_status st =
        bal_forward_blocks(&s->forward, &s->pool.layout, s->spans, n, rows, (bal_taps){0}, &err);
    commit_rows(s, n);
    if (st == BAL_OK) st = take_wanted(s, wanted, &err);
    if (st < 0) fail_all(s, &err);
    s->now.steps++;
    s->now.step_s += bal_now() - t0;
    return true;
}

/* ---- Tokens ---------------------------------------------------------------------------------- */

static void tell_token(bal_ticket *t, bal_event_kind kind, int index, int32_t id,
                       const float *logits, int vocab)
{
    bal_token_prob top[BAL_MAX_TOP_LOGPROBS];
    bal_request_event e = {.kind = kind, .request = t->id, .id = id, .index = index, .stop_id = -1};
    if (logits && (t->logprobs || kind == BAL_EVENT_PROMPT_TOKEN)) {
        e.has_logprob = true;
        e.logprob = (float)((double)logits[id] - bal_log_sum_exp(logits, vocab));
        bal_top_tokens(logits, vocab, t->n_top, top);
        e.top = top;
        e.n_top = t->n_top;
    }
    t->on_event(t->event_ctx, &e);
}

/* Prompt positions up to the one behind `at`, which alone is predicted by these logits. */
static void tell_prompt(bal_ticket *t, int at, const float *logits, int vocab)
{
    for (; t->n_told <= at + 1 && t->n_told < t->n_prompt; t->n_told++) {
        const bool predicted = t->n_told == at + 1 && t->info[at + 1].modality != BAL_VISION;
        tell_token(t, BAL_EVENT_PROMPT_TOKEN, t->n_told, t->info[t->n_told].id,
                   predicted ? logits : NULL, vocab);
    }
}

static bool ends(const bal_scheduler *s, const bal_ticket *t, int32_t id)
{
    for (int i = 0; i < t->n_stop_ids; i++)
        if (t->stop_ids[i] == id) return true;
    return !t->ignore_eos && (id == s->stop_id || bal_is_stop(&s->engine->model.config, id));
}

static bal_status pick(bal_scheduler *s, bal_ticket *t, const float *logits, int32_t *id,
                       bal_error *err)
{
    const int vocab = s->engine->model.config.text.vocab;
    if (bal_rules_any(&t->rules)) {
        memcpy(s->logits, logits, (size_t)vocab * sizeof *logits);
        BAL_TRY(bal_rules_apply(&t->rules, t->info, t->n_prompt, t->answer,
                                t->n_tokens - t->n_prompt, s->logits, vocab, s->bits, err));
        logits = s->logits;
    }
    s->sampler.s = t->sampling;
    s->sampler.rng = t->rng;
    *id = bal_sampler_next(&s->sampler, logits);
    t->rng = s->sampler.rng;
    return BAL_OK;
}

/* logits NULL: nobody wants them. */
static bool push_token(bal_scheduler *s, bal_ticket *t, int32_t id, const float *logits,
                       bal_error *err)
{
    const int index = t->usage.n_generated++;
    s->now.generated_tokens++;
    if (index == 0) {
        t->first_at = bal_now();
        t->usage.prefill_s = t->first_at - t->prefill_at;
    }
    if (ends(s, t, id)) {
        end(s, &s->running, t, BAL_FINISH_END, id, NULL);
        return false;
    }
    if (bal_ticket_push(t, id, err) < 0) {
        end(s, &s->running, t, BAL_FINISH_ERROR, -1, err);
        return false;
    }
    tell_token(t, BAL_EVENT_TOKEN, index, id, logits, s->engine->model.config.text.vocab);
    if (t->usage.n_generated < t->max_new) return true;
    end(s, &s->running, t, t->fills_context ? BAL_FINISH_CONTEXT : BAL_FINISH_LENGTH, -1, NULL);
    return false;
}

static bool answer(bal_scheduler *s, bal_ticket *t, const float *logits, bal_error *err)
{
    int32_t id;
    if (pick(s, t, logits, &id, err) == BAL_OK) return push_token(s, t, id, logits, err);
    end(s, &s->running, t, BAL_FINISH_ERROR, -1, err);
    return false;
}

bool bal_scheduler_take_token(bal_scheduler *s, bal_ticket *t, int at, int32_t id)
{
    bal_error err = {0};
    if (id >= 0) return push_token(s, t, id, NULL, &err);
    bal_fail(&err, BAL_E_NUMERIC, "a logit at position %d is not finite", at);
    end(s, &s->running, t, BAL_FINISH_ERROR, -1, &err);
    return false;
}

bool bal_scheduler_take_logits(bal_scheduler *s, bal_ticket *t, int at, const float *logits)
{
    const int vocab = s->engine->model.config.text.vocab;
    bal_error err = {0};
    if (bal_logits_check(logits, vocab, at, &err) < 0) {
        end(s, &s->running, t, BAL_FINISH_ERROR, -1, &err);
        return false;
    }
    if (t->prompt_logprobs) tell_prompt(t, at, logits, vocab);
    return at < t->n_tokens - 1 || answer(s, t, logits, &err);
}
