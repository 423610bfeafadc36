/* SPDX-License-Identifier: MIT */
#include "run/evaluate.h"

#include "base/file.h"
#include "base/size.h"
#include "run/sampler.h"
#include "run/sequence.h"
#include "text/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_CTX = 16384 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Answers as text ------------------------------------------------------------------------- */

static bal_status is_right(bool *right, const char *said, const bal_eval_question *q,
                           bal_error *err)
{
    char *mine, *theirs;
    *right = false;
    BAL_TRY(bal_eval_normalise(&mine, said, err));
    bal_status st = BAL_OK;
    for (int i = 0; i < q->n_answers && st == BAL_OK && !*right; i++) {
        st = bal_eval_normalise(&theirs, q->answers[i], err);
        *right = st == BAL_OK && strcmp(mine, theirs) == 0;
        free(theirs);
    }
    free(mine);
    return st;
}

static bal_status text_of(char **out, const bal_tokenizer *t, const int32_t *ids, int n,
                          bal_error *err)
{
    size_t bytes = 0, n_out;
    for (int i = 0; i < n; i++) bytes += bal_tokenizer_decode(t, ids[i], false).n;
    char *raw = malloc(bytes + 1);
    if (!raw) return bal_nomem(err, bytes + 1, "an answer");
    bytes = 0;
    for (int i = 0; i < n; i++) {
        const bal_token_view v = bal_tokenizer_decode(t, ids[i], false);
        if (v.n) memcpy(raw + bytes, v.bytes, v.n);
        bytes += v.n;
    }
    char *repaired;
    const bal_status st = bal_utf8_repair(&repaired, &n_out, raw, bytes, err);
    free(raw);
    BAL_TRY(st);
    char *ended = realloc(repaired, n_out + 1);
    if (!ended) {
        free(repaired);
        return bal_nomem(err, n_out + 1, "an answer");
    }
    ended[n_out] = 0;
    *out = ended;
    return BAL_OK;
}

/* ---- One question, one model ----------------------------------------------------------------- */

/* What all models are asked. */
typedef struct eval_item {
    const bal_eval_question *q;
    bal_chat_tokens prompt;
    int32_t *target; /* [n_target] answers[0] and the closing token */
    size_t n_target;
} eval_item;

/* The pictures of a group. */
typedef struct eval_pictures {
    bal_image *images;
    int (*sizes)[2];
    int n;
} eval_pictures;

typedef struct scorer {
    const bal_engine *engine;
    bal_session session;
    const struct scorer *eyes; /* whose features these are: its own or an earlier scorer's */
    float *features;           /* [vision positions][hidden] of the group's pictures */
    bool same_pictures;        /* the session's prefix may be used */
    bal_eval_row *rows;        /* [n] of questions of the file */
    double seconds;
    int32_t *said; /* [max_tokens] the greedy answer */
} scorer;

/* Positions of one model at one question, next to the reference's. */
typedef struct scoring {
    const int32_t *target;
    int n_target, vocab;
    const float *reference; /* [n_target][vocab] or NULL */
    float *keep;            /* [n_target][vocab] or NULL: store the logits here */
    int at;
    int n_hit;    /* leading positions whose likeliest token is the target */
    int32_t miss; /* the likeliest token at the first other position */
    bal_eval_row *row;
} scoring;

static void score_position(scoring *s, const float *logits)
{
    const int32_t target = s->target[s->at], top = bal_argmax(logits, s->vocab);
    const double log_q = bal_log_sum_exp(logits, s->vocab);
    const size_t offset = (size_t)s->at * (size_t)s->vocab;
    s->row->nll += log_q - (double)logits[target];
    if (s->keep) memcpy(s->keep + offset, logits, (size_t)s->vocab * sizeof *logits);
    if (s->reference) {
        const float *r = s->reference + offset;
        s->row->kl += bal_kl(r, logits, log_q, s->vocab);
        s->row->n_agree += bal_argmax(r, s->vocab) == top;
    }
    if (s->n_hit == s->at) {
        if (top == target)
            s->n_hit++;
        else
            s->miss = top;
    }
    s->at++;
}

static void see_logits(void *ctx, int row, const float *logits)
{
    (void)row;
    score_position(ctx, logits);
}

/* Leading positions that stand in the session already; at least one is left to be run. */
static int shared_prefix(const scorer *s, const bal_sequence *seq)
{
    int n = 0;
    if (!s->same_pictures) return 0;
    while (n < s->session.n && n < seq->n - 1) {
        const bal_token_info *a = &s->session.info[n], *b = &seq->info[n];
        if (a->id != b->id || a->image != b->image || a->modality != b->modality) break;
        n++;
    }
    return n;
}

/* The new part of the prompt through the decoder. */
static bal_status run_prompt(scorer *s, const bal_sequence *seq, bal_error *err)
{
    const bal_model *m = &s->engine->model;
    const size_t hidden = (size_t)m->config.text.hidden;
    const int from = shared_prefix(s, seq), n = seq->n - from;
    size_t bytes = 0, seen = 0;
    float *embeds = NULL;
    if (!bal_size_mul((size_t)n * sizeof *embeds, hidden, &bytes) || !(embeds = malloc(bytes)))
        return bal_nomem(err, bytes, "decoder inputs");
    for (int i = 0; i < seq->n; i++) {
        const bool vision = seq->info[i].modality == BAL_VISION;
        float *out = i < from ? NULL : embeds + (size_t)(i - from) * hidden;
        if (out && vision) memcpy(out, s->eyes->features + seen * hidden, hidden * sizeof *out);
        if (out && !vision) bal_linear_row(&m->embed, seq->info[i].id, out);
        seen += vision;
    }
    bal_session_truncate(&s->session, from);
    const bal_status st = bal_session_append(&s->session, seq->info + from, embeds, n, 0, NULL,
                                             NULL, (bal_taps){0}, err);
    free(embeds);
    s->same_pictures = st == BAL_OK;
    return st;
}

/* All targets but the last are fed; each position predicts the next. */
static bal_status run_target(scorer *s, scoring *sc, bal_error *err)
{
    const bal_model *m = &s->engine->model;
    const size_t hidden = (size_t)m->config.text.hidden;
    const int n = sc->n_target - 1;
    score_position(sc, s->session.logits);
    if (n == 0) return BAL_OK;
    bal_token_info *info = calloc((size_t)n, sizeof *info);
    float *embeds = malloc((size_t)n * hidden * sizeof *embeds);
    bal_status st = BAL_OK;
    if (!info || !embeds) st = bal_nomem(err, (size_t)n * hidden * sizeof *embeds, "an answer");
    const int pos = bal_session_next_pos(&s->session);
    for (int i = 0; i < n && st == BAL_OK; i++) {
        info[i] = (bal_token_info){.id = sc->target[i],
                                   .pos = {pos + i, pos + i, pos + i},
                                   .image = -1,
                                   .modality = BAL_ANSWER};
        bal_linear_row(&m->embed, sc->target[i], embeds + (size_t)i * hidden);
    }
    if (st == BAL_OK)
        st =
            bal_session_append(&s->session, info, embeds, n, 0, see_logits, sc, (bal_taps){0}, err);
    free(info);
    free(embeds);
    return st;
}

static bool is_end(const scorer *s, const eval_item *item, int32_t id)
{
    return id == item->target[item->n_target - 1] || bal_is_stop(&s->engine->model.config, id);
}

/* The greedy answer into s->said; its beginning is known from the target's positions. n_prompt:
 * positions of the session before the target. Returns the number of tokens through *n. */
static bal_status run_greedy(scorer *s, const eval_item *item, const scoring *sc, int n_prompt,
                             int max_tokens, int *n, bal_error *err)
{
    *n = 0;
    for (int i = 0; i < sc->n_hit && *n < max_tokens; i++)
        if (!is_end(s, item, sc->target[i])) s->said[(*n)++] = sc->target[i];
    if (sc->n_hit == sc->n_target) return BAL_OK;
    bal_session_truncate(&s->session, n_prompt + sc->n_hit);
    int32_t id = sc->miss;
    while (*n < max_tokens && !is_end(s, item, id)) {
        s->said[(*n)++] = id;
        if (*n == max_tokens || s->session.n == s->session.ctx) break;
        BAL_TRY(bal_session_push(&s->session, id, err));
        id = bal_argmax(s->session.logits, s->engine->model.config.text.vocab);
    }
    return BAL_OK;
}

static bal_status score_question(scorer *s, const eval_item *item, const bal_sequence *seq,
                                 scoring *sc, int max_tokens, bal_error *err)
{
    int n_said;
    BAL_TRY(run_prompt(s, seq, err));
    const int n_prompt = s->session.n;
    BAL_TRY(run_target(s, sc, err));
    BAL_TRY(run_greedy(s, item, sc, n_prompt, max_tokens, &n_said, err));
    sc->row->n = sc->n_target;
    sc->row->cut = n_said == max_tokens;
    BAL_TRY(text_of(&sc->row->said, s->engine->tokenizer, s->said, n_said, err));
    return is_right(&sc->row->right, sc->row->said, item->q, err);
}

/* ---- Vision ---------------------------------------------------------------------------------- */

static bool same_linear(const bal_linear *a, const bal_linear *b)
{
    static const size_t size[BAL_TYPE_COUNT] = {
        [BAL_TYPE_F32] = 4, [BAL_TYPE_F16] = 2, [BAL_TYPE_BF16] = 2};
    if (a->type != b->type || a->n != b->n || a->k != b->k || !a->bias != !b->bias) return false;
    const size_t bytes = size[a->type] * (size_t)a->n * (size_t)a->k; /* 0: packed */
    return bytes && memcmp(a->w, b->w, bytes) == 0 &&
           (!a->bias || memcmp(a->bias, b->bias, (size_t)a->n * sizeof *a->bias) == 0);
}

/* Both absent, or equal. */
static bool same_floats(const float *a, const float *b, size_t n)
{
    return !a == !b && (!a || memcmp(a, b, n * sizeof *a) == 0);
}

static bool same_vision_layer(const bal_vision_layer *a, const bal_vision_layer *b, size_t hidden)
{
    const float *const va[] = {a->ln1_w,  a->ln1_b,  a->ln2_w,  a->ln2_b,
                               a->q_norm, a->k_norm, a->scale1, a->scale2};
    const float *const vb[] = {b->ln1_w,  b->ln1_b,  b->ln2_w,  b->ln2_b,
                               b->q_norm, b->k_norm, b->scale1, b->scale2};
    for (size_t i = 0; i < sizeof va / sizeof *va; i++)
        if (!same_floats(va[i], vb[i], hidden)) return false;
    return same_linear(&a->q, &b->q) && same_linear(&a->k, &b->k) && same_linear(&a->v, &b->v) &&
           same_linear(&a->out, &b->out) && same_linear(&a->fc1, &b->fc1) &&
           same_linear(&a->fc2, &b->fc2) &&
           (a->gate.k == 0 ? b->gate.k == 0 : same_linear(&a->gate, &b->gate));
}

/* What stands before and behind the tower's blocks. */
static bool same_ends(const bal_model *a, const bal_model *b)
{
    const bal_vision_config *v = &a->config.vision;
    const size_t hidden = (size_t)v->hidden, patches = (size_t)(v->side * v->side + v->cls);
    const size_t token = (size_t)a->projector[0].k;
    return same_linear(&a->patch, &b->patch) && same_floats(a->cls, b->cls, hidden) &&
           same_floats(a->positions, b->positions, patches * hidden) &&
           same_floats(a->pre_norm_w, b->pre_norm_w, hidden) &&
           same_floats(a->pre_norm_b, b->pre_norm_b, hidden) &&
           same_floats(a->post_norm_w, b->post_norm_w, hidden) &&
           same_floats(a->post_norm_b, b->post_norm_b, hidden) &&
           same_linear(&a->projector[0], &b->projector[0]) &&
           same_floats(a->projector_norm_w, b->projector_norm_w, token) &&
           same_floats(a->projector_norm_b, b->projector_norm_b, token) &&
           (a->projector[1].k == 0 ? b->projector[1].k == 0
                                   : same_linear(&a->projector[1], &b->projector[1])) &&
           same_floats(a->newline, b->newline, (size_t)a->config.text.hidden);
}

/* Whether the same picture gives the same features: everything up to the decoder is equal. */
static bool same_eyes(const bal_model *a, const bal_model *b)
{
    bal_config ca = a->config, cb = b->config;
    ca.text = cb.text; /* may differ behind the projector */
    if (!a->config.has_vision || memcmp(&ca, &cb, sizeof ca) != 0) return false;
    if (a->config.text.hidden != b->config.text.hidden || !same_ends(a, b)) return false;
    for (int i = 0; i < a->config.vision.layers; i++)
        if (!same_vision_layer(&a->vision_layers[i], &b->vision_layers[i],
                               (size_t)a->config.vision.hidden))
            return false;
    return true;
}

/* The features of all pictures of a sequence into s->features. */
static bal_status look(scorer *s, const bal_sequence *seq, const bal_image *images, bal_error *err)
{
    const size_t hidden = (size_t)s->engine->model.config.text.hidden;
    size_t n = 0, bytes = 0;
    for (int i = 0; i < seq->n_images; i++) n += (size_t)seq->plans[i].n_tokens;
    free(s->features);
    s->features = NULL;
    if (!bal_size_mul(n * sizeof *s->features, hidden, &bytes) ||
        !(s->features = malloc(bytes + 1)))
        return bal_nomem(err, bytes, "picture features");
    n = 0;
    for (int i = 0; i < seq->n_images; i++) {
        BAL_TRY(bal_sequence_look(s->engine, &s->session.exec, &seq->plans[i], images + i,
                                  s->features + n * hidden, (bal_taps){0}, err));
        n += (size_t)seq->plans[i].n_tokens;
    }
    return BAL_OK;
}

static void pictures_close(eval_pictures *p)
{
    for (int i = 0; i < p->n; i++) bal_image_free(&p->images[i]);
    free(p->images);
    free(p->sizes);
    *p = (eval_pictures){0};
}

static bal_status pictures_open(eval_pictures *p, const bal_evaldata *data,
                                const bal_eval_question *q, bal_alpha alpha, bal_error *err)
{
    const bal_image_opts opts = {.alpha = alpha};
    char path[4096];
    *p = (eval_pictures){0};
    p->images = calloc((size_t)q->n_images + 1, sizeof *p->images);
    p->sizes = calloc((size_t)q->n_images + 1, sizeof *p->sizes);
    if (!p->images || !p->sizes) return bal_nomem(err, sizeof *p->images, "pictures");
    for (int i = 0; i < q->n_images; i++) {
        BAL_TRY(bal_evaldata_image_path(data, q, i, path, sizeof path, err));
        BAL_TRY(bal_image_open(&p->images[i], path, &opts, err));
        p->n = i + 1;
        p->sizes[i][0] = p->images[i].width;
        p->sizes[i][1] = p->images[i].height;
    }
    return BAL_OK;
}

/* ---- All questions, all models --------------------------------------------------------------- */

typedef struct evaluation {
    const bal_evaldata *data;
    bal_eval_opts opts;
    size_t n;                            /* questions */
    scorer all[BAL_EVAL_MAX_MODELS + 1]; /* the reference first, if there is one */
    int n_all;
    bool has_reference;
    float *reference; /* [cap_positions][vocab] logits of the reference */
    size_t cap_positions;
    eval_pictures pictures;
    size_t group; /* of `pictures` */
    int32_t stop_id;
} evaluation;

static bal_status check_same(const bal_engine *a, const bal_engine *b, bal_error *err)
{
    size_t na, nb;
    const uint8_t *ta = bal_tokenizer_blob(a->tokenizer, &na);
    const uint8_t *tb = bal_tokenizer_blob(b->tokenizer, &nb);
    const int va = a->model.config.text.vocab, vb = b->model.config.text.vocab;
    if (va != vb)
        return bal_fail(err, BAL_E_ARG, "%s: vocabulary of %d, %s has %d: not comparable",
                        b->model.path, vb, a->model.path, va);
    if (na != nb || memcmp(ta, tb, na) != 0)
        return bal_fail(err, BAL_E_ARG, "%s: its tokenizer is not that of %s: not comparable",
                        b->model.path, a->model.path);
    return BAL_OK;
}

static bal_status scorer_open(evaluation *ev, const bal_engine *e, bal_error *err)
{
    scorer *s = &ev->all[ev->n_all++];
    const int max = e->model.config.text.max_positions;
    s->engine = e;
    s->eyes = s;
    if (ev->n_all > 1) BAL_TRY(check_same(ev->all[0].engine, e, err));
    for (int i = 0; i < ev->n_all - 1 && s->eyes == s; i++)
        if (ev->all[i].eyes == &ev->all[i] && same_eyes(&ev->all[i].engine->model, &e->model))
            s->eyes = &ev->all[i];
    s->rows = calloc(ev->data->n, sizeof *s->rows);
    s->said = calloc((size_t)ev->opts.max_tokens, sizeof *s->said);
    if (!s->rows || !s->said) return bal_nomem(err, ev->data->n * sizeof *s->rows, "results");
    return bal_session_create(&s->session, e,
                              ev->opts.ctx    ? ev->opts.ctx
                              : max < MAX_CTX ? max
                                              : MAX_CTX,
                              err);
}

static void scorer_close(scorer *s, size_t n)
{
    for (size_t i = 0; s->rows && i < n; i++) free(s->rows[i].said);
    free(s->rows);
    free(s->said);
    free(s->features);
    bal_session_destroy(&s->session);
    *s = (scorer){0};
}

static void item_close(eval_item *item)
{
    bal_chat_tokens_deinit(&item->prompt);
    free(item->target);
    *item = (eval_item){0};
}

static bal_status item_open(eval_item *item, const evaluation *ev, const bal_eval_question *q,
                            bal_error *err)
{
    const bal_engine *e = ev->all[0].engine;
    const bal_chat_message message = {.role = BAL_CHAT_USER,
                                      .text = q->question,
                                      .n = strlen(q->question),
                                      .n_images = (size_t)q->n_images};
    bal_ids ids = {0};
    *item = (eval_item){.q = q};
    BAL_TRY(bal_chat_encode(&item->prompt, e->tokenizer, e->chat, &message, 1, true, err));
    bal_status st =
        bal_tokenizer_append(e->tokenizer, q->answers[0], strlen(q->answers[0]), &ids, err);
    if (st == BAL_OK) st = bal_ids_push(&ids, ev->stop_id, err);
    item->target = ids.v;
    item->n_target = ids.n;
    return st;
}

static bal_status grow_reference(evaluation *ev, size_t positions, bal_error *err)
{
    const size_t vocab = (size_t)ev->all[0].engine->model.config.text.vocab;
    size_t bytes = 0;
    if (!ev->has_reference || positions <= ev->cap_positions) return BAL_OK;
    float *p = NULL;
    if (bal_size_mul(positions * vocab, sizeof *p, &bytes)) p = realloc(ev->reference, bytes);
    if (!p) return bal_nomem(err, bytes, "the reference's logits");
    ev->reference = p;
    ev->cap_positions = positions;
    return BAL_OK;
}

static bal_status ask_model(evaluation *ev, int which, const eval_item *item, bool new_group,
                            bal_error *err)
{
    scorer *s = &ev->all[which];
    const bool is_reference = ev->has_reference && which == 0;
    bal_sequence seq;
    BAL_TRY(bal_sequence_build(&seq, s->engine, &item->prompt, (const int(*)[2])ev->pictures.sizes,
                               ev->pictures.n, BAL_VIEW_AUTO, 0, 0, err));
    scoring sc = {.target = item->target,
                  .n_target = (int)item->n_target,
                  .vocab = s->engine->model.config.text.vocab,
                  .reference = ev->has_reference && !is_reference ? ev->reference : NULL,
                  .keep = is_reference ? ev->reference : NULL,
                  .row = &s->rows[item->q - ev->data->questions]};
    bal_status st = BAL_OK;
    if (new_group) {
        s->same_pictures = false;
        if (s->eyes == s) st = look(s, &seq, ev->pictures.images, err);
    }
    const double t0 = seconds();
    if (st == BAL_OK) st = score_question(s, item, &seq, &sc, ev->opts.max_tokens, err);
    s->seconds += seconds() - t0;
    bal_sequence_free(&seq);
    return st;
}

static bal_status ask_all(evaluation *ev, const bal_eval_question *q, bal_error *err)
{
    const bool new_group = ev->group != q->group;
    eval_item item;
    if (new_group) {
        pictures_close(&ev->pictures);
        BAL_TRY(pictures_open(&ev->pictures, ev->data, q, ev->opts.alpha, err));
        ev->group = q->group;
    }
    bal_status st = item_open(&item, ev, q, err);
    if (st == BAL_OK) st = grow_reference(ev, item.n_target, err);
    for (int i = 0; i < ev->n_all && st == BAL_OK; i++) {
        st = ask_model(ev, i, &item, new_group, err);
        if (st < 0) bal_fail_in(err, st, "%s", ev->all[i].engine->model.path);
    }
    item_close(&item);
    return st;
}

static bal_status report_progress(const evaluation *ev, size_t done, bal_error *err)
{
    const bal_progress p = {"questions", done, ev->n};
    if (!ev->opts.progress || ev->opts.progress(ev->opts.progress_ctx, &p)) return BAL_OK;
    return bal_fail(err, BAL_E_CANCELLED, "cancelled after %zu of %zu questions", done, ev->n);
}

static bal_status ask_everything(evaluation *ev, bal_error *err)
{
    const bal_evaldata *d = ev->data;
    size_t done = 0;
    ev->group = SIZE_MAX;
    BAL_TRY(report_progress(ev, 0, err));
    for (size_t i = 0; i < d->n; i++) {
        if (d->order[i] >= ev->n) continue; /* behind the limit */
        const bal_eval_question *q = &d->questions[d->order[i]];
        const bal_status st = ask_all(ev, q, err);
        if (st < 0) return bal_fail_in(err, st, "%s, line %zu", d->path, q->line);
        BAL_TRY(report_progress(ev, ++done, err));
    }
    return BAL_OK;
}

/* ---- Results --------------------------------------------------------------------------------- */

/* Sums per group, one block of [n_groups] each. */
enum { COUNT, RIGHT, POSITIONS, NLL, KL, AGREE, N_SUMS };

static double *group_sums(const evaluation *ev, const bal_eval_row *rows, bal_error *err)
{
    const size_t g = ev->data->n_groups;
    double *sums = calloc(N_SUMS * g, sizeof *sums);
    if (!sums) {
        bal_nomem(err, N_SUMS * g * sizeof *sums, "sums of groups");
        return NULL;
    }
    for (size_t i = 0; i < ev->n; i++) {
        double *s = sums + ev->data->questions[i].group;
        s[COUNT * g] += 1.0;
        s[RIGHT * g] += rows[i].right;
        s[POSITIONS * g] += rows[i].n;
        s[NLL * g] += rows[i].nll;
        s[KL * g] += rows[i].kl;
        s[AGREE * g] += rows[i].n_agree;
    }
    return sums;
}

/* Groups that questions of the run belong to: the first ones, groups are numbered by the file. */
static size_t groups_in_use(const evaluation *ev)
{
    size_t n = 0;
    for (size_t i = 0; i < ev->n; i++) n = bal_max(n, ev->data->questions[i].group + 1);
    return n;
}

static bal_status figure(const evaluation *ev, bal_interval *out, const double *sums, int top,
                         int bottom, const double *base, bal_error *err)
{
    const size_t g = ev->data->n_groups;
    const bal_quotient q = {sums + (size_t)top * g, sums + (size_t)bottom * g,
                            base ? base + (size_t)top * g : NULL,
                            base ? base + (size_t)bottom * g : NULL};
    return bal_bootstrap(out, &q, groups_in_use(ev), ev->opts.draws, ev->opts.seed, err);
}

static bal_status figures(const evaluation *ev, bal_eval_result *r, const double *sums,
                          const double *base, bal_error *err)
{
    BAL_TRY(figure(ev, &r->accuracy, sums, RIGHT, COUNT, NULL, err));
    BAL_TRY(figure(ev, &r->nll, sums, NLL, POSITIONS, NULL, err));
    r->perplexity = exp(r->nll.value);
    r->compared = base != NULL;
    if (!base) return BAL_OK;
    BAL_TRY(figure(ev, &r->kl, sums, KL, POSITIONS, NULL, err));
    BAL_TRY(figure(ev, &r->top1, sums, AGREE, POSITIONS, NULL, err));
    BAL_TRY(figure(ev, &r->accuracy_change, sums, RIGHT, COUNT, base, err));
    return figure(ev, &r->nll_change, sums, NLL, POSITIONS, base, err);
}

static bal_status count_type(bal_eval_result *r, const char *name, bool right, bal_error *err)
{
    int i = 0;
    while (i < r->n_types && strcmp(r->types[i].name, name) != 0) i++;
    if (i == r->n_types) {
        bal_eval_type *types = realloc(r->types, (size_t)(i + 1) * sizeof *types);
        if (!types) return bal_nomem(err, (size_t)(i + 1) * sizeof *types, "types of questions");
        r->types = types;
        types[i] = (bal_eval_type){.name = strdup(name)};
        if (!types[i].name) return bal_nomem(err, strlen(name) + 1, "types of questions");
        r->n_types++;
    }
    r->types[i].n++;
    r->types[i].n_right += right;
    return BAL_OK;
}

/* base: the reference's sums, or NULL. Takes the scorer's rows over. */
static bal_status result_of(const evaluation *ev, scorer *s, const double *base, bal_eval_result *r,
                            bal_error *err)
{
    double *sums = group_sums(ev, s->rows, err);
    if (!sums) return BAL_E_NOMEM;
    r->rows = s->rows;
    r->n_rows = r->n = (int)ev->n;
    r->n_groups = (int)groups_in_use(ev);
    r->seconds = s->seconds;
    r->shared_vision = s->eyes != s;
    s->rows = NULL;
    bal_status st = figures(ev, r, sums, base, err);
    free(sums);
    for (size_t i = 0; i < ev->n && st == BAL_OK; i++) {
        const char *type = ev->data->questions[i].type;
        r->n_right += r->rows[i].right;
        r->n_positions += r->rows[i].n;
        if (type) st = count_type(r, type, r->rows[i].right, err);
    }
    return st;
}

static bal_status results_of(evaluation *ev, bal_eval_result results[],
                             bal_eval_result *reference_result, bal_error *err)
{
    bal_status st = BAL_OK;
    double *base = NULL;
    const int first = ev->has_reference;
    if (ev->has_reference) {
        base = group_sums(ev, ev->all[0].rows, err);
        if (!base) return BAL_E_NOMEM;
        if (reference_result) st = result_of(ev, &ev->all[0], NULL, reference_result, err);
    }
    for (int i = first; i < ev->n_all && st == BAL_OK; i++)
        st = result_of(ev, &ev->all[i], base, &results[i - first], err);
    free(base);
    return st;
}

void bal_eval_result_free(bal_eval_result *r)
{
    for (int i = 0; i < r->n_types; i++) free(r->types[i].name);
    for (int i = 0; i < r->n_rows; i++) free(r->rows[i].said);
    free(r->types);
    free(r->rows);
    *r = (bal_eval_result){0};
}

static bal_status evaluate(evaluation *ev, const bal_engine *reference,
                           const bal_engine *const engines[], int n, bal_eval_result results[],
                           bal_eval_result *reference_result, bal_error *err)
{
    const bal_engine *any = reference ? reference : engines[0];
    BAL_TRY(bal_engine_check_chat(any, err));
    BAL_TRY(bal_chat_stop_id(any->tokenizer, any->chat, &ev->stop_id, err));
    if (reference) BAL_TRY(scorer_open(ev, reference, err));
    for (int i = 0; i < n; i++) BAL_TRY(scorer_open(ev, engines[i], err));
    BAL_TRY(ask_everything(ev, err));
    return results_of(ev, results, reference_result, err);
}

static bal_eval_opts with_defaults(const bal_eval_opts *given)
{
    bal_eval_opts o = given ? *given : (bal_eval_opts){0};
    if (!o.max_tokens) o.max_tokens = BAL_EVAL_MAX_TOKENS;
    if (!o.draws) o.draws = BAL_EVAL_DRAWS;
    return o;
}

bal_status bal_eval_run(const bal_engine *reference, const bal_engine *const engines[], int n,
                        const bal_evaldata *data, const bal_eval_opts *opts,
                        bal_eval_result results[], bal_eval_result *reference_result,
                        bal_error *err)
{
    for (int i = 0; i < n; i++) results[i] = (bal_eval_result){0};
    if (reference_result) *reference_result = (bal_eval_result){0};
    if (n < 0 || n > BAL_EVAL_MAX_MODELS || (n == 0 && !reference) || data->n == 0)
        return bal_fail(err, BAL_E_ARG, "evaluation of %d models on %zu questions", n, data->n);
    evaluation *ev = calloc(1, sizeof *ev);
    if (!ev) return bal_nomem(err, sizeof *ev, "evaluation");
    ev->data = data;
    ev->opts = with_defaults(opts);
    ev->has_reference = reference != NULL;
    ev->n = ev->opts.limit > 0 ? bal_min(data->n, (size_t)ev->opts.limit) : data->n;
    const bal_status st = evaluate(ev, reference, engines, n, results, reference_result, err);
    for (int i = 0; i < ev->n_all; i++) scorer_close(&ev->all[i], data->n);
    pictures_close(&ev->pictures);
    free(ev->reference);
    free(ev);
    if (st == BAL_OK) return st;
    for (int i = 0; i < n; i++) bal_eval_result_free(&results[i]);
    if (reference_result) bal_eval_result_free(reference_result);
    return st;
}
