/* SPDX-License-Identifier: MIT */
#include "run/ticket.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

double bal_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Checks ---------------------------------------------------------------------------------- */

static bal_status check_tokens(const bal_chat_tokens *t, int n_pictures, int vocab, bal_error *err)
{
    size_t slots = 0;
    if (t->n < 1) return bal_fail(err, BAL_E_ARG, "the prompt is empty");
    for (size_t i = 0; i < t->n; i++) {
        slots += t->tags[i] == BAL_TAG_IMAGE_SLOT;
        if (t->ids[i] < 0 || t->ids[i] >= vocab)
            return bal_fail(err, BAL_E_ARG, "token %d at %zu of the prompt, the model has 0 to %d",
                            t->ids[i], i, vocab - 1);
    }
    if (n_pictures < 0 || n_pictures > BAL_MAX_REQUEST_IMAGES || slots != (size_t)n_pictures)
        return bal_fail(err, BAL_E_ARG, "%d pictures for %zu places in the text, at most %d",
                        n_pictures, slots, BAL_MAX_REQUEST_IMAGES);
    return BAL_OK;
}

static bal_rules rules_of(const bal_request *r)
{
    return (bal_rules){.repetition_penalty = r->repetition_penalty,
                       .presence_penalty = r->presence_penalty,
                       .frequency_penalty = r->frequency_penalty,
                       .bias = r->bias,
                       .n_bias = r->n_bias,
                       .mask = r->mask,
                       .mask_ctx = r->mask_ctx};
}

static bal_status check(const bal_request *r, int vocab, bal_error *err)
{
    if (!r->on_event) return bal_fail(err, BAL_E_ARG, "a request without on_event");
    BAL_TRY(bal_sampling_check(&r->sampling, err));
    const bal_rules rules = rules_of(r);
    BAL_TRY(bal_rules_check(&rules, vocab, err));
    if (r->n_stop_ids < 0 || r->n_stop_ids > BAL_MAX_STOP_IDS)
        return bal_fail(err, BAL_E_ARG, "%d stop tokens, expected 0 to %d", r->n_stop_ids,
                        BAL_MAX_STOP_IDS);
    if (r->n_top_logprobs < 0 || r->n_top_logprobs > BAL_MAX_TOP_LOGPROBS ||
        r->n_top_logprobs > vocab)
        return bal_fail(err, BAL_E_ARG, "top_logprobs: %d, expected 0 to %d", r->n_top_logprobs,
                        BAL_MAX_TOP_LOGPROBS);
    if (r->max_tokens < 0)
        return bal_fail(err, BAL_E_ARG, "max_tokens: %d, expected 1 or more", r->max_tokens);
    return check_tokens(&r->tokens, r->n_pictures, vocab, err);
}

/* ---- Sequence -------------------------------------------------------------------------------- */

static bal_status build(bal_sequence *seq, const bal_engine *engine, const bal_request *r,
                        bal_error *err)
{
    int(*sizes)[2] = calloc((size_t)r->n_pictures + 1, sizeof *sizes);
    if (!sizes) return bal_nomem(err, (size_t)r->n_pictures * sizeof *sizes, "picture sizes");
    for (int i = 0; i < r->n_pictures; i++) {
        const bal_image *image = bal_picture_image(r->pictures[i]);
        sizes[i][0] = image->width;
        sizes[i][1] = image->height;
    }
    const bal_status st = bal_sequence_build(seq, engine, &r->tokens, (const int(*)[2])sizes,
                                             r->n_pictures, BAL_VIEW_AUTO, 0, 0, err);
    free(sizes);
    return st;
}

static void count(bal_usage *u, const bal_sequence *seq)
{
    *u = (bal_usage){.n_prompt = seq->n, .n_pictures = seq->n_images};
    for (int i = 0; i < seq->n; i++) u->n_image += seq->info[i].modality == BAL_VISION;
}

bal_status bal_ticket_measure(const bal_engine *engine, const bal_request *request,
                              bal_usage *usage, bal_error *err)
{
    bal_sequence seq;
    *usage = (bal_usage){0};
    BAL_TRY(check(request, engine->model.config.text.vocab, err));
    BAL_TRY(build(&seq, engine, request, err));
    count(usage, &seq);
    bal_sequence_free(&seq);
    return BAL_OK;
}

/* ---- Keys ------------------------------------------------------------------------------------ */

/* SHA-256 of the key before it and of what stands at position i. Everything is hashed that the
 * cached keys and values depend on, and what is told about the position besides. */
static bal_status make_key(bal_ticket *t, int i, bal_error *err)
{
    const bal_token_info *info = &t->info[i];
    const bool vision = info->modality == BAL_VISION;
    struct {
        bal_key past, picture;
        int32_t id, pos[3], row, modality;
    } text = {.id = info->id,
              .pos = {info->pos[0], info->pos[1], info->pos[2]},
              .row = vision ? t->feature_rows[i] : -1,
              .modality = info->modality};
    if (i > 0) text.past = t->keys[i - 1];
    if (vision) text.picture = t->pictures[info->image].key;
    return bal_sha256_bytes(t->keys[i].b, &text, sizeof text, err);
}

/* ---- Lifetime -------------------------------------------------------------------------------- */

static bal_status allocate(bal_ticket *t, const bal_request *r, int ctx, bal_error *err)
{
    const int room = ctx - t->n_prompt + 1; /* the last token need not be run */
    t->fills_context = r->max_tokens == 0 || r->max_tokens > room;
    t->max_new = t->fills_context ? room : r->max_tokens;
    t->cap = t->n_prompt + t->max_new;
    const size_t cap = (size_t)t->cap;
    t->info = malloc(cap * sizeof *t->info);
    t->keys = malloc(cap * sizeof *t->keys);
    t->feature_rows = malloc((size_t)t->n_prompt * sizeof *t->feature_rows);
    t->answer = malloc((size_t)t->max_new * sizeof *t->answer);
    t->pictures = calloc((size_t)r->n_pictures + 1, sizeof *t->pictures);
    bal_logit_bias *bias = malloc((size_t)r->n_bias * sizeof *bias + 1);
    if (bias && r->n_bias) memcpy(bias, r->bias, (size_t)r->n_bias * sizeof *bias);
    t->rules = rules_of(r);
    t->rules.bias = bias;
    if (!t->info || !t->keys || !t->feature_rows || !t->answer || !t->pictures || !bias)
        return bal_nomem(err, cap * (sizeof *t->info + sizeof *t->keys), "a request");
    return BAL_OK;
}

static void copy_settings(bal_ticket *t, const bal_request *r)
{
    t->on_event = r->on_event;
    t->event_ctx = r->event_ctx;
    t->sampling = r->sampling;
    bal_rng_seed(&t->rng, r->sampling.seed);
    if (r->n_stop_ids)
        memcpy(t->stop_ids, r->stop_ids, (size_t)r->n_stop_ids * sizeof *r->stop_ids);
    t->n_stop_ids = r->n_stop_ids;
    t->ignore_eos = r->ignore_eos;
    t->logprobs = r->logprobs;
    t->prompt_logprobs = r->prompt_logprobs;
    t->no_cache = r->no_cache;
    t->n_top = r->n_top_logprobs;
}

/* A key that no other living request has. */
static bal_status make_private(const bal_ticket *t, bal_key *key, bal_error *err)
{
    struct {
        bal_key key;
        uintptr_t owner;
    } text = {*key, (uintptr_t)t};
    return bal_sha256_bytes(key->b, &text, sizeof text, err);
}

static bal_status take_pictures(bal_ticket *t, const bal_request *r, const bal_sequence *seq,
                                bal_error *err)
{
    for (int i = 0; i < r->n_pictures; i++) {
        bal_ticket_picture *p = &t->pictures[i];
        p->picture = bal_picture_retain(r->pictures[i]);
        t->n_pictures = i + 1;
        p->plan = seq->plans[i];
        BAL_TRY(bal_features_key(&p->key, p->picture, &p->plan, err));
        if (r->no_cache) BAL_TRY(make_private(t, &p->key, err));
    }
    return BAL_OK;
}

static bal_status take_sequence(bal_ticket *t, const bal_sequence *seq, bal_error *err)
{
    int row = 0;
    memcpy(t->info, seq->info, (size_t)seq->n * sizeof *t->info);
    for (int i = 0; i < seq->n; i++) {
        const bool vision = seq->info[i].modality == BAL_VISION;
        bal_ticket_picture *p = vision ? &t->pictures[seq->info[i].image] : NULL;
        if (vision && p->end == 0) row = 0;
        t->feature_rows[i] = vision ? row++ : -1;
        if (vision) p->end = i + 1;
        BAL_TRY(make_key(t, i, err));
    }
    t->n_tokens = seq->n;
    return BAL_OK;
}

static bal_status fill(bal_ticket *t, const bal_request *r, const bal_sequence *seq, int ctx,
                       bal_error *err)
{
    if (seq->n > ctx)
        return bal_fail(err, BAL_E_ARG,
                        "the prompt takes %d positions, this model's context here is %d", seq->n,
                        ctx);
    t->n_prompt = seq->n;
    count(&t->usage, seq);
    BAL_TRY(allocate(t, r, ctx, err));
    copy_settings(t, r);
    BAL_TRY(take_pictures(t, r, seq, err));
    return take_sequence(t, seq, err);
}

bal_status bal_ticket_create(bal_ticket **out, const bal_engine *engine, const bal_request *request,
                             int ctx, bal_error *err)
{
    bal_sequence seq;
    *out = NULL;
    BAL_TRY(check(request, engine->model.config.text.vocab, err));
    BAL_TRY(build(&seq, engine, request, err));
    bal_ticket *t = calloc(1, sizeof *t);
    bal_status st = t ? BAL_OK : bal_nomem(err, sizeof *t, "a request");
    if (st == BAL_OK) st = fill(t, request, &seq, ctx, err);
    bal_sequence_free(&seq);
    if (st < 0) {
        bal_ticket_destroy(t);
        return st;
    }
    t->submitted_at = bal_now();
    *out = t;
    return BAL_OK;
}

void bal_ticket_destroy(bal_ticket *t)
{
    if (!t) return;
    for (int i = 0; i < t->n_pictures; i++) bal_picture_release(t->pictures[i].picture);
    bal_kv_seq_destroy(&t->seq);
    free(t->pictures);
    free(t->info);
    free(t->keys);
    free(t->feature_rows);
    free(t->answer);
    free((void *)(uintptr_t)t->rules.bias);
    free(t);
}

bal_status bal_ticket_push(bal_ticket *t, int32_t id, bal_error *err)
{
    const int32_t pos = bal_next_pos(&t->info[t->n_tokens - 1]);
    t->info[t->n_tokens] =
        (bal_token_info){.id = id, .pos = {pos, pos, pos}, .image = -1, .modality = BAL_ANSWER};
    t->answer[t->n_tokens - t->n_prompt] = id;
    BAL_TRY(make_key(t, t->n_tokens, err));
    t->n_tokens++;
    return BAL_OK;
}
