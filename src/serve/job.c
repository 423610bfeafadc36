/* SPDX-License-Identifier: MIT */
#include "serve/job.h"

#include "base/size.h"
#include "run/sequence.h"
#include "serve/clock.h"
#include "serve/schema.h"
#include "serve/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* One of prompts times n answers, and the request that makes it. */
typedef struct choice {
    bal_answer answer;
    bal_exchange_port port;
    bal_matcher *matcher;
    uint64_t id;
    bool submitted;
} choice;

struct bal_job {
    bal_service *service;
    bal_served *model;
    bal_api_request request;
    bal_wire wire;
    bal_chat_tokens *prompts; /* [n_prompts] */
    int n_prompts;
    bal_picture **pictures;  /* [n_pictures] */
    bal_picture_view *views; /* [n_views] */
    int n_pictures, n_views;
    size_t pixel_bytes; /* counted in the service */
    bal_grammar grammar;
    choice *choices; /* [n_choices]; choice i answers prompt i / n */
    int n_choices;
    bal_exchange exchange;
    bool has_exchange;
    double began;
    bal_refusal failure; /* what ended it early; http 0 while nothing did */
    char *out;           /* of a stream: bytes ready to be sent */
    size_t out_at, n_out, cap_out;
    bool ended; /* [DONE] is in it */
};

static bal_status no_memory(bal_refusal *f)
{
    return bal_refuse(f, 500, NULL, NULL, "memory is short");
}

/* ---- Preparing: what a request asks for ------------------------------------------------------ */

static bal_status find_model(bal_served **out, bal_service *s, const char *name, bal_refusal *f)
{
    char known[300] = "";
    *out = &s->models[0];
    if (!name) return BAL_OK;
    for (int i = 0; i < s->n_models; i++) {
        const size_t at = strlen(known);
        if (strcmp(s->models[i].name, name) == 0) {
            *out = &s->models[i];
            return BAL_OK;
        }
        snprintf(known + at, sizeof known - at, "%s'%.100s'", i ? ", " : "", s->models[i].name);
    }
    return bal_refuse(f, 404, "model_not_found", "model",
                      "model: '%.100s' is not served here, %s is", name, known);
}

/* Room for decoded pictures, of all jobs together. */
static bal_status claim_pixels(bal_job *j, const bal_image *image, bal_refusal *f)
{
    const size_t bytes = 3 * (size_t)image->width * (size_t)image->height;
    const size_t before = atomic_fetch_add(&j->service->pixel_bytes, bytes);
    j->pixel_bytes += bytes;
    if (before + bytes <= j->service->max_pixel_bytes) return BAL_OK;
    return bal_refuse(f, 429, "too_many_pictures", NULL,
                      "the pictures of all waiting requests take more than %zu bytes; try again "
                      "later or send smaller ones",
                      j->service->max_pixel_bytes);
}

static void enter(sem_t *s)
{
    while (sem_wait(s) != 0) continue; /* EINTR */
}

/* Waiting for other servers is no work: others may decode meanwhile. */
static bal_status read_picture(bal_job *j, const bal_image_ref *ref, uint8_t **bytes, size_t *n,
                               bal_refusal *f)
{
    bal_service *s = j->service;
    if (!bal_picture_is_remote(ref)) return bal_picture_read(bytes, n, ref, &s->pictures, f);
    sem_post(&s->preparing);
    enter(&s->fetching);
    const bal_status st = bal_picture_read(bytes, n, ref, &s->pictures, f);
    sem_post(&s->fetching);
    enter(&s->preparing);
    return st;
}

static bal_status decode_picture(bal_job *j, const bal_image_ref *ref, bal_image *image,
                                 bal_refusal *f)
{
    uint8_t *bytes;
    size_t n;
    BAL_TRY(read_picture(j, ref, &bytes, &n, f));
    const bal_status st = bal_picture_decode(image, bytes, n, ref, &j->service->pictures, f);
    free(bytes);
    return st;
}

static bal_status load_picture(bal_job *j, const bal_image_ref *ref, bal_refusal *f)
{
    bal_image image;
    bal_error err;
    BAL_TRY(decode_picture(j, ref, &image, f));
    const int w = image.width, h = image.height;
    bal_status st = claim_pixels(j, &image, f);
    if (st == BAL_OK && bal_picture_create(&j->pictures[j->n_pictures], &image, &err) < 0)
        st = bal_refuse_for(f, &err, ref->param);
    bal_image_free(&image);
    if (st < 0) return st;
    j->n_pictures++;
    j->views[j->n_views++] = bal_served_view(j->model, w, h, j->request.n_images);
    return BAL_OK;
}

static bal_status load_pictures(bal_job *j, bal_refusal *f)
{
    const int n = j->request.n_images;
    if (n == 0) return BAL_OK;
    if (!j->model->engine.model.config.has_vision)
        return bal_refuse(f, 400, "invalid_value", j->request.images[0].param,
                          "%s: the model '%s' has no vision tower, it cannot see a picture",
                          j->request.images[0].param, j->model->name);
    j->pictures = calloc((size_t)n, sizeof *j->pictures);
    j->views = calloc((size_t)n, sizeof *j->views);
    if (!j->pictures || !j->views) return no_memory(f);
    for (int i = 0; i < n; i++) BAL_TRY(load_picture(j, &j->request.images[i], f));
    return BAL_OK;
}

/* param: what the request calls them. */
static bal_status check_ids(const bal_served *m, const bal_prompt *p, const char *param,
                            bal_refusal *f)
{
    const int vocab = m->engine.model.config.text.vocab;
    for (size_t i = 0; i < p->n_ids; i++)
        if (p->ids[i] >= vocab)
            return bal_refuse(f, 400, "invalid_value", param,
                              "%s: %d is not a token of this model, ids are below %d", param,
                              p->ids[i], vocab);
    return BAL_OK;
}

/* Text or ids as they are: no template, no special tokens. */
static bal_status raw_tokens(bal_chat_tokens *out, const bal_served *m, bal_request_kind kind,
                             const bal_prompt *p, bal_refusal *f)
{
    bal_error err;
    BAL_TRY(check_ids(m, p, "prompt", f));
    if (p->text) {
        if (bal_tokenizer_encode(m->engine.tokenizer, p->text, p->n, &out->ids, &out->n, &err) < 0)
            return bal_refuse_for(f, &err, "prompt");
    } else {
        out->ids = malloc((p->n_ids + 1) * sizeof *out->ids);
        if (!out->ids) return no_memory(f);
        memcpy(out->ids, p->ids, p->n_ids * sizeof *out->ids);
        out->n = p->n_ids;
    }
    if (out->n == 0 && kind != BAL_REQUEST_TOKENIZE)
        return bal_refuse(f, 400, "invalid_value", "prompt",
                          "prompt: empty, nothing to go on from");
    out->tags = calloc(out->n + 1, 1); /* BAL_TAG_PROMPT */
    return out->tags ? BAL_OK : no_memory(f);
}

static bal_status make_prompts(bal_job *j, bal_refusal *f)
{
    const bal_api_request *r = &j->request;
    const bal_engine *e = &j->model->engine;
    bal_error err;
    j->n_prompts = r->n_messages ? 1 : (int)r->n_prompts;
    j->prompts = calloc((size_t)j->n_prompts, sizeof *j->prompts);
    if (!j->prompts) return no_memory(f);
    if (r->n_messages) {
        if (bal_chat_encode(&j->prompts[0], e->tokenizer, e->chat, r->messages, r->n_messages, true,
                            &err) < 0)
            return bal_refuse_for(f, &err, "messages");
        return BAL_OK;
    }
    for (int i = 0; i < j->n_prompts; i++)
        BAL_TRY(raw_tokens(&j->prompts[i], j->model, r->kind, &r->prompts[i], f));
    return BAL_OK;
}

static bal_status check_bias(const bal_job *j, bal_refusal *f)
{
    const int vocab = j->model->engine.model.config.text.vocab;
    for (int i = 0; i < j->request.n_bias; i++)
        if (j->request.bias[i].id >= vocab)
            return bal_refuse(f, 400, "invalid_value", "logit_bias",
                              "logit_bias: %d is not a token of this model, ids are below %d",
                              j->request.bias[i].id, vocab);
    return BAL_OK;
}

static size_t text_bytes(const bal_api_request *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_messages; i++) n += r->messages[i].n;
    for (size_t i = 0; i < r->n_prompts; i++) n += r->prompts[i].n;
    return n;
}

/* Cutting text into tokens takes some fifty times its bytes, so what no tokens could make fit is
 * refused before. Normal forms shorten text to a third at most. */
static bal_status check_text(const bal_job *j, bal_refusal *f)
{
    enum { ALWAYS = 1 << 20, SHORTER = 3 };
    const size_t per_token = SHORTER * bal_max(j->model->vocab.longest, 1),
                 n = text_bytes(&j->request);
    const size_t least = n / per_token / bal_max(j->request.n_prompts, 1);
    if (n <= ALWAYS || least < (size_t)j->model->ctx) return BAL_OK;
    bal_refuse(f, 400, "context_length_exceeded", j->request.n_messages ? "messages" : "prompt",
               "%zu bytes of text take at least %zu positions; the context has %d. Shorten it", n,
               least, j->model->ctx);
    f->n_prompt = (int)bal_min(least, INT32_MAX);
    f->n_ctx = j->model->ctx;
    return BAL_E_ARG;
}

/* The part that costs memory and time; only so many jobs do it at once. */
static bal_status prepare(bal_job *j, bal_refusal *f)
{
    BAL_TRY(make_prompts(j, f));
    if (j->request.format != BAL_FORMAT_TEXT)
        BAL_TRY(bal_schema_compile(&j->grammar, j->request.schema, f));
    return load_pictures(j, f);
}

/* Short text waits for nobody's pictures. */
static bal_status prepare_in_turn(bal_job *j, bal_refusal *f)
{
    enum { SHORT = 1 << 16 };
    const bal_api_request *r = &j->request;
    BAL_TRY(check_bias(j, f));
    BAL_TRY(check_text(j, f));
    if (!r->n_images && r->format == BAL_FORMAT_TEXT && text_bytes(r) <= SHORT)
        return prepare(j, f);
    enter(&j->service->preparing);
    const bal_status st = prepare(j, f);
    sem_post(&j->service->preparing);
    return st;
}

/* ---- Submitting ------------------------------------------------------------------------------ */

static bal_request request_of(const bal_job *j, choice *c, int index)
{
    const bal_api_request *r = &j->request;
    bal_request q = {.tokens = j->prompts[index / r->n],
                     .pictures = j->pictures,
                     .n_pictures = j->n_pictures,
                     .sampling = r->sampling,
                     .repetition_penalty = r->repetition_penalty,
                     .presence_penalty = r->presence_penalty,
                     .frequency_penalty = r->frequency_penalty,
                     .bias = r->bias,
                     .n_bias = r->n_bias,
                     .ignore_eos = r->ignore_eos,
                     .max_tokens = r->max_tokens < 0 ? 0
                                   : r->max_tokens   ? r->max_tokens
                                                     : 1,
                     .logprobs = r->logprobs,
                     .n_top_logprobs = r->n_top_logprobs,
                     .prompt_logprobs = r->logprobs && r->echo,
                     .no_cache = r->no_cache,
                     .on_event = bal_exchange_event,
                     .event_ctx = &c->port};
    q.sampling.seed += (uint64_t)(index % r->n);
    if (c->matcher) {
        q.mask = bal_matcher_mask;
        q.mask_ctx = c->matcher;
    }
    return q;
}

/* The prompt fits with room for one token, or both numbers are said. */
static bal_status check_length(const bal_job *j, const bal_request *q, bal_refusal *f)
{
    bal_usage usage = {0};
    bal_error err = {0};
    const bal_status st = bal_scheduler_measure(j->model->scheduler, q, &usage, &err);
    if (usage.n_prompt >= j->model->ctx) {
        bal_refuse(f, 400, "context_length_exceeded", j->request.n_messages ? "messages" : "prompt",
                   "the prompt takes %d positions, %d of them for pictures; the context has %d. "
                   "Shorten it or send fewer or smaller pictures",
                   usage.n_prompt, usage.n_image, j->model->ctx);
        f->n_prompt = usage.n_prompt;
        f->n_ctx = j->model->ctx;
        return BAL_E_ARG;
    }
    return st < 0 ? bal_refuse_for(f, &err, NULL) : BAL_OK;
}

static bal_status open_choice(bal_job *j, int index, bal_refusal *f)
{
    const bal_api_request *r = &j->request;
    choice *c = &j->choices[index];
    bal_error err;
    c->port = (bal_exchange_port){&j->exchange, index};
    bal_answer_init(&c->answer, j->model->engine.tokenizer, r->stops, r->n_stops, r->logprobs);
    c->answer.mute = r->max_tokens == 0;
    /* without echo a completion goes on in its prompt's text */
    c->answer.own_text = r->kind == BAL_REQUEST_CHAT || r->echo;
    const bal_chat_tokens *t = &j->prompts[index / r->n];
    if (r->echo && bal_answer_prefix(&c->answer, t->ids, t->n, &err) < 0) return no_memory(f);
    if (r->format == BAL_FORMAT_TEXT) return BAL_OK;
    if (bal_matcher_create(&c->matcher, &j->grammar, &j->model->vocab, &err) < 0)
        return bal_refuse_for(f, &err, "response_format");
    return BAL_OK;
}

static bal_status submit_choice(bal_job *j, int index, bal_refusal *f)
{
    choice *c = &j->choices[index];
    bal_error err;
    const bal_request q = request_of(j, c, index);
    if (index % j->request.n == 0) BAL_TRY(check_length(j, &q, f));
    bal_exchange_opened(&j->exchange);
    if (bal_scheduler_submit(j->model->scheduler, &q, &c->id, &err) < 0) {
        bal_exchange_closed(&j->exchange);
        bal_refuse_for(f, &err, NULL);
        if (err.status == BAL_E_CAPACITY) f->code = "queue_full";
        if (atomic_load(&j->service->stopping))
            bal_refuse(f, 503, "server_stopping", NULL, "the server is stopping");
        return BAL_E_ARG;
    }
    c->submitted = true;
    return BAL_OK;
}

static bal_status submit(bal_job *j, bal_refusal *f)
{
    bal_api_request *r = &j->request;
    bal_error err;
    if (!r->has_seed && getrandom(&r->sampling.seed, sizeof r->sampling.seed, 0) < 0)
        r->sampling.seed = (uint64_t)(bal_clock_s() * 1e9);
    j->choices = calloc((size_t)j->n_prompts * (size_t)r->n, sizeof *j->choices);
    if (!j->choices || bal_exchange_init(&j->exchange, &err) < 0) return no_memory(f);
    j->has_exchange = true;
    j->n_choices = j->n_prompts * r->n;
    for (int i = 0; i < j->n_choices; i++) BAL_TRY(open_choice(j, i, f));
    for (int i = 0; i < j->n_choices; i++) BAL_TRY(submit_choice(j, i, f));
    return BAL_OK;
}

/* ---- Figures for /metrics ---------------------------------------------------------------------
 */

static bal_outcome outcome_of(const bal_job *j, const bal_answer *a)
{
    if (a->finish == BAL_FINISH_ERROR) return BAL_OUTCOME_ERROR;
    if (a->finish == BAL_FINISH_CANCELLED && !a->stopped)
        return j->failure.http ? BAL_OUTCOME_ERROR : BAL_OUTCOME_ABORT;
    return bal_answer_reason(a)[0] == 's' ? BAL_OUTCOME_STOP : BAL_OUTCOME_LENGTH;
}

static void count_note(bal_job *j, bal_answer *a, const bal_note *note)
{
    bal_metrics *m = &j->model->metrics;
    if (note->event.kind == BAL_EVENT_TOKEN) {
        if (a->last_at > 0.0)
            bal_metrics_time(m, BAL_TIMING_BETWEEN_TOKENS, note->at - a->last_at);
        else
            bal_metrics_time(m, BAL_TIMING_FIRST_TOKEN, note->at - j->began);
        a->last_at = note->at;
    }
    if (note->event.kind != BAL_EVENT_DONE) return;
    bal_metrics_time(m, BAL_TIMING_WHOLE, note->at - j->began);
    bal_metrics_finish(m, outcome_of(j, a), &note->event.usage);
}

/* Waits for the end of what was cancelled; of the events only the ends count. */
static void drain(bal_job *j)
{
    while (!bal_exchange_is_over(&j->exchange)) {
        bal_note *note = bal_exchange_take(&j->exchange, 1.0);
        if (note && note->event.kind == BAL_EVENT_DONE) {
            bal_answer *a = &j->choices[note->choice].answer;
            a->finish = note->event.finish;
            count_note(j, a, note);
        }
        free(note);
    }
}

/* ---- Lifetime -------------------------------------------------------------------------------- */

static void cancel_all(bal_job *j)
{
    for (int i = 0; i < j->n_choices; i++)
        if (j->choices[i].submitted && !j->choices[i].answer.done)
            bal_scheduler_cancel(j->model->scheduler, j->choices[i].id);
}

/* Pictures and prompts are the scheduler's own matter once it has the request. */
static void release_inputs(bal_job *j)
{
    for (int i = 0; i < j->n_pictures; i++) bal_picture_release(j->pictures[i]);
    for (int i = 0; i < j->n_prompts; i++) bal_chat_tokens_deinit(&j->prompts[i]);
    j->n_pictures = j->n_prompts = 0;
}

void bal_job_close(bal_job *j)
{
    if (!j) return;
    cancel_all(j);
    if (j->has_exchange) {
        drain(j);
        bal_exchange_deinit(&j->exchange);
    }
    for (int i = 0; i < j->n_choices; i++) {
        bal_answer_deinit(&j->choices[i].answer);
        bal_matcher_destroy(j->choices[i].matcher);
    }
    release_inputs(j);
    atomic_fetch_sub(&j->service->pixel_bytes, j->pixel_bytes);
    bal_grammar_free(&j->grammar);
    bal_api_request_free(&j->request);
    free(j->choices);
    free(j->prompts);
    free(j->pictures);
    free(j->views);
    free(j->out);
    free(j);
}

static bal_status open_job(bal_job *j, bal_request_kind kind, const char *body, size_t n,
                           bal_refusal *f)
{
    BAL_TRY(bal_api_request_read(&j->request, kind, body, n, &j->service->limits, f));
    BAL_TRY(find_model(&j->model, j->service, j->request.model, f));
    bal_wire_init(&j->wire, kind == BAL_REQUEST_CHAT, j->request.logprobs, j->model->name);
    return prepare_in_turn(j, f);
}

static bal_job *new_job(bal_service *service, bal_refusal *f)
{
    bal_job *j = calloc(1, sizeof *j);
    *f = (bal_refusal){0};
    if (!j) {
        no_memory(f);
        return NULL;
    }
    j->service = service;
    j->began = bal_clock_s();
    return j;
}

bal_status bal_job_open(bal_job **out, bal_service *service, bal_request_kind kind,
                        const char *body, size_t n, bal_refusal *f)
{
    *out = NULL;
    bal_job *j = new_job(service, f);
    if (!j) return BAL_E_NOMEM;
    bal_status st = open_job(j, kind, body, n, f);
    if (st == BAL_OK) st = submit(j, f);
    release_inputs(j);
    if (st < 0)
        bal_job_close(j);
    else
        *out = j;
    return st;
}

bool bal_job_streams(const bal_job *j)
{
    return j->request.stream;
}

/* ---- Streaming ------------------------------------------------------------------------------- */

static bool out_add(bal_job *j, const char *s, size_t n)
{
    size_t need = 0;
    if (j->out_at == j->n_out) j->out_at = j->n_out = 0;
    if (!bal_size_add(j->n_out, n, &need)) return false;
    if (need > j->cap_out) {
        char *more = realloc(j->out, 2 * need);
        if (!more) return false;
        j->out = more;
        j->cap_out = 2 * need;
    }
    memcpy(j->out + j->n_out, s, n);
    j->n_out = need;
    return true;
}

/* Takes v over. */
static void send_event(bal_job *j, json_t *v)
{
    char *text = v ? json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(v);
    const bool sent =
        text && out_add(j, "data: ", 6) && out_add(j, text, strlen(text)) && out_add(j, "\n\n", 2);
    if (!sent && !j->failure.http) no_memory(&j->failure);
    free(text);
}

static void send_chunk(bal_job *j, json_t *one_choice)
{
    json_t *chunk = bal_wire_object(&j->wire, true, json_pack("[o]", one_choice));
    if (chunk && j->request.include_usage) json_object_set_new(chunk, "usage", json_null());
    send_event(j, chunk);
}

static void send_progress(bal_job *j, int index)
{
    bal_answer *a = &j->choices[index].answer;
    if (!a->opened && j->wire.chat) send_chunk(j, bal_wire_opening(index));
    a->opened = true;
    const size_t records = bal_answer_visible_records(a);
    if (a->n_text > a->text_sent || records > a->records_sent)
        send_chunk(j, bal_wire_piece(&j->wire, index, a, a->n_text, records));
    a->text_sent = a->n_text;
    a->records_sent = records;
    const bool whole = a->done && (a->stopped || a->finish <= BAL_FINISH_CONTEXT);
    if (whole && !a->closed) {
        send_chunk(j, bal_wire_ending(&j->wire, index, a));
        a->closed = true;
    }
}

/* ---- Usage --------------------------------------------------------------------------------- */

static json_t *usage_json(const bal_job *j)
{
    int positions = 0, image = 0, cached = 0, generated = 0;
    for (int i = 0; i < j->n_choices; i++) {
        const bal_usage *u = &j->choices[i].answer.usage;
        generated += bal_answer_tokens(&j->choices[i].answer);
        if (i % j->request.n) continue; /* the n answers share one prompt */
        positions += u->n_prompt;
        image += u->n_image;
        cached += u->n_cached;
    }
    return bal_wire_usage(positions, image, cached, generated);
}

static json_t *views_json(const bal_job *j)
{
    json_t *list = json_array();
    for (int i = 0; i < j->n_views; i++) {
        const bal_picture_view *v = &j->views[i];
        json_array_append_new(list, json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "width", v->width,
                                              "height", v->height, "rows", v->rows, "cols", v->cols,
                                              "views", v->views, "tokens", v->tokens));
    }
    return list;
}

/* What the page shows; clients of the standard fields skip it. */
static json_t *details_json(const bal_job *j)
{
    int encoded = 0;
    for (int i = 0; i < j->n_choices; i++) encoded += j->choices[i].answer.usage.n_pictures_encoded;
    const bal_usage *u = &j->choices[0].answer.usage;
    return json_pack("{s:f, s:f, s:f, s:f, s:i, s:o}", "queue_s", u->queue_s, "vision_s",
                     u->vision_s, "prefill_s", u->prefill_s, "decode_s", u->decode_s,
                     "pictures_encoded", encoded, "pictures", views_json(j));
}

static void send_end(bal_job *j)
{
    if (j->failure.http) {
        send_event(j, bal_refusal_json(&j->failure));
    } else if (j->request.include_usage) {
        json_t *chunk = bal_wire_object(&j->wire, true, json_array());
        if (chunk) {
            json_object_set_new(chunk, "usage", usage_json(j));
            json_object_set_new(chunk, "ballast", details_json(j));
        }
        send_event(j, chunk);
    }
    static const char done[] = "data: [DONE]\n\n";
    out_add(j, done, sizeof done - 1);
    j->ended = true;
}

/* ---- Working --------------------------------------------------------------------------------- */

static void fail_once(bal_job *j, int http, const char *code, const char *text)
{
    if (!j->failure.http) bal_refuse(&j->failure, http, code, NULL, "%s", text);
    cancel_all(j);
}

static void judge_end(bal_job *j, const bal_answer *a)
{
    if (a->finish == BAL_FINISH_ERROR && !j->failure.http) {
        bal_refuse_for(&j->failure, &a->error, NULL);
        cancel_all(j);
    }
    if (a->finish == BAL_FINISH_CANCELLED && !a->stopped && !j->failure.http)
        fail_once(j, 503, "server_stopping", "the server is stopping; the answer was cut off");
}

static void work_on(bal_job *j, const bal_note *note)
{
    choice *c = &j->choices[note->choice];
    const bool before = c->answer.stopped;
    bal_error err;
    if (bal_answer_take(&c->answer, note, &err) < 0) fail_once(j, 500, NULL, err.text);
    if (c->answer.stopped && !before && !c->answer.done)
        bal_scheduler_cancel(j->model->scheduler, c->id);
    count_note(j, &c->answer, note);
    if (c->answer.done) judge_end(j, &c->answer);
    /* log-probabilities of an echoed prompt come before the first token, one by one */
    if (j->request.stream && note->event.kind != BAL_EVENT_PROMPT_TOKEN)
        send_progress(j, note->choice);
}

bool bal_job_pump(bal_job *j, double seconds)
{
    if (j->ended) return true;
    bal_note *note = bal_exchange_take(&j->exchange, seconds);
    if (note) work_on(j, note);
    free(note);
    if (j->exchange.lost) fail_once(j, 500, NULL, "memory is short");
    if (bal_clock_s() - j->began > j->service->max_seconds)
        fail_once(j, 504, "timeout", "the request took longer than the server allows");
    const bool over = bal_exchange_is_over(&j->exchange);
    if (over && j->request.stream) send_end(j);
    return over;
}

size_t bal_job_read(bal_job *j, char *buf, size_t max, bool *over)
{
    const size_t n = bal_min(max, j->n_out - j->out_at);
    if (n) memcpy(buf, j->out + j->out_at, n);
    j->out_at += n;
    *over = j->ended && j->out_at == j->n_out;
    return n;
}

/* Takes v over. */
static char *dump(json_t *v, bal_refusal *f)
{
    char *text = v ? json_dumps(v, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(v);
    if (!text) no_memory(f);
    return text;
}

char *bal_job_result(bal_job *j, bal_refusal *f)
{
    if (j->failure.http) {
        *f = j->failure;
        return NULL;
    }
    json_t *choices = json_array();
    for (int i = 0; i < j->n_choices; i++)
        json_array_append_new(choices, bal_wire_choice(&j->wire, i, &j->choices[i].answer));
    json_t *v = bal_wire_object(&j->wire, false, choices);
    if (v) {
        json_object_set_new(v, "usage", usage_json(j));
        json_object_set_new(v, "ballast", details_json(j));
    }
    return dump(v, f);
}

/* ---- Tokens and back ------------------------------------------------------------------------- */

static json_t *tokens_json(bal_job *j, bal_refusal *f)
{
    const bal_chat_tokens *t = &j->prompts[0];
    const bal_request q = {.tokens = *t,
                           .pictures = j->pictures,
                           .n_pictures = j->n_pictures,
                           .sampling = {.top_p = 1.0f},
                           .on_event = bal_exchange_event};
    bal_usage usage = {.n_prompt = (int)t->n};
    bal_error err;
    if (j->n_pictures && bal_scheduler_measure(j->model->scheduler, &q, &usage, &err) < 0 &&
        usage.n_prompt == 0) {
        bal_refuse_for(f, &err, NULL);
        return NULL;
    }
    json_t *ids = json_array();
    for (size_t i = 0; i < t->n; i++) json_array_append_new(ids, json_integer(t->ids[i]));
    return json_pack("{s:o, s:i, s:i, s:o}", "tokens", ids, "count", usage.n_prompt,
                     "max_model_len", j->model->ctx, "pictures", views_json(j));
}

static json_t *text_json(bal_job *j, bal_refusal *f)
{
    const bal_prompt *p = &j->request.prompts[0];
    bal_answer a;
    bal_error err;
    bal_answer_init(&a, j->model->engine.tokenizer, NULL, 0, false);
    a.own_text = true;
    json_t *v = NULL;
    if (p->text)
        bal_refuse(f, 400, "invalid_type", "tokens", "tokens: expected an array of token ids");
    else if (check_ids(j->model, p, "tokens", f) == BAL_OK &&
             bal_answer_prefix(&a, p->ids, p->n_ids, &err) == BAL_OK)
        v = json_pack("{s:o}", "prompt", json_stringn(a.text ? a.text : "", a.n_text));
    if (v) json_object_set(v, "content", json_object_get(v, "prompt"));
    if (!v && !f->http) no_memory(f);
    bal_answer_deinit(&a);
    return v;
}

char *bal_tokenize(bal_service *service, bal_request_kind kind, const char *body, size_t n,
                   bal_refusal *f)
{
    bal_job *j = new_job(service, f);
    if (!j) return NULL;
    bal_status st = bal_api_request_read(&j->request, kind, body, n, &service->limits, f);
    if (st == BAL_OK) st = find_model(&j->model, service, j->request.model, f);
    const bool back = kind == BAL_REQUEST_DETOKENIZE;
    if (st == BAL_OK && !back) st = prepare_in_turn(j, f);
    json_t *v = st < 0 ? NULL : back ? text_json(j, f) : tokens_json(j, f);
    char *text = st < 0 || (!v && f->http) ? NULL : dump(v, f);
    bal_job_close(j);
    return text;
}
