/* SPDX-License-Identifier: MIT */
#include "run/sampler.h"

#include "base/weight.h"

#include <math.h>
#include <stdlib.h>

bal_status bal_sampling_check(const bal_sampling *opts, bal_error *err)
{
    if (!(opts->temperature >= 0.0f && opts->temperature <= 100.0f))
        return bal_fail(err, BAL_E_ARG, "temperature: %g, expected 0 to 100",
                        (double)opts->temperature);
    if (opts->top_k < 0) return bal_fail(err, BAL_E_ARG, "top_k: %d, expected >= 0", opts->top_k);
    if (!(opts->top_p > 0.0f && opts->top_p <= 1.0f))
        return bal_fail(err, BAL_E_ARG, "top_p: %g, expected more than 0, at most 1",
                        (double)opts->top_p);
    return BAL_OK;
}

bal_status bal_sampler_create(bal_sampler *s, const bal_sampling *opts, int vocab, bal_error *err)
{
    *s = (bal_sampler){.s = *opts, .vocab = vocab};
    BAL_TRY(bal_sampling_check(opts, err));
    s->work = malloc((size_t)vocab * sizeof *s->work);
    if (!s->work) return bal_nomem(err, (size_t)vocab * sizeof *s->work, "sampler");
    bal_rng_seed(&s->rng, opts->seed);
    return BAL_OK;
}

void bal_sampler_destroy(bal_sampler *s)
{
    free(s->work);
    *s = (bal_sampler){0};
}

int32_t bal_argmax(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

double bal_log_sum_exp(const float *x, int n)
{
    const double top = (double)x[bal_argmax(x, n)];
    double sum = 0.0;
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - top);
    return top + log(sum);
}

double bal_kl(const float *p, const float *q, double log_q, int n)
{
    const double log_p = bal_log_sum_exp(p, n);
    double sum = 0.0;
    for (int i = 0; i < n; i++) {
        const double lp = (double)p[i] - log_p, weight = exp(lp);
        if (weight == 0.0) continue; /* of a logit of -inf too */
        sum += weight * (lp - ((double)q[i] - log_q));
    }
    return sum < 0.0 ? 0.0 : sum; /* what is not a number stays so */
}

/* The likelier first; of equals the lower id, so that the order is total. */
static bool before(bal_candidate a, bal_candidate b)
{
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/* Lets work[at] sink to its place in the heap work[0 .. n), the likeliest at 0. */
static void sink(bal_candidate *work, int n, int at)
{
    const bal_candidate c = work[at];
    for (int child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && before(work[child + 1], work[child])) child++;
        if (!before(work[child], c)) break;
        work[at] = work[child];
        at = child;
    }
    work[at] = c;
}

/* Tokens by their weights; those behind `last` in the order of likelihood are not drawn. */
typedef struct lot {
    const float *logits;
    float top, scale;
    bal_candidate last;
    uint64_t mass; /* of those that may be drawn */
} lot;

static uint64_t weight(const lot *l, int id)
{
    return bal_weight_of(l->logits[id], l->top, l->scale);
}

static int candidates(const lot *l, bal_candidate *work, int n)
{
    for (int i = 0; i < n; i++) work[i] = (bal_candidate){l->logits[i], i};
    for (int at = n / 2 - 1; at >= 0; at--) sink(work, n, at);
    return n;
}

/* Leaves the k likeliest in the lot, or as many of them as weigh enough: a heap gives them one by
 * one, so that a vocabulary is not sorted for the few. */
static void keep_likeliest(lot *l, bal_candidate *work, int n, int k, uint64_t enough)
{
    int left = candidates(l, work, n);
    l->mass = 0;
    for (int taken = 0; taken < k && l->mass < enough; taken++) {
        l->last = work[0];
        l->mass += weight(l, work[0].id);
        work[0] = work[--left];
        if (left) sink(work, left, 0);
    }
}

static int32_t draw(const lot *l, int n, uint64_t random)
{
    uint64_t point = bal_weight_point(random, l->mass);
    for (int i = 0; i < n; i++) {
        if (before(l->last, (bal_candidate){l->logits[i], i})) continue;
        const uint64_t w = weight(l, i);
        if (point < w) return i;
        point -= w;
    }
    return l->last.id;
}

bal_device_draw bal_sampling_draw(const bal_sampling *s, bal_rng *rng)
{
    if (s->temperature == 0.0f) return (bal_device_draw){.scale = 1.0f, .top_p = 1.0f, .top_k = 1};
    return (bal_device_draw){.random = bal_rng_u64(rng),
                             .scale = bal_weight_scale(s->temperature),
                             .top_p = s->top_p,
                             .top_k = s->top_k};
}

int32_t bal_sampler_next(bal_sampler *s, const float *logits)
{
    const int n = s->vocab;
    if (s->s.temperature == 0.0f) return bal_argmax(logits, n);
    lot l = {.logits = logits,
             .top = logits[bal_argmax(logits, n)],
             .scale = bal_weight_scale(s->s.temperature),
             .last = {-INFINITY, n}};
    for (int i = 0; i < n; i++) l.mass += weight(&l, i);
    if (s->s.top_k && s->s.top_k < n) keep_likeliest(&l, s->work, n, s->s.top_k, UINT64_MAX);
    if (s->s.top_p < 1.0f) keep_likeliest(&l, s->work, n, n, bal_weight_enough(s->s.top_p, l.mass));
    return draw(&l, n, bal_rng_u64(&s->rng));
}
