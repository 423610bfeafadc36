/* SPDX-License-Identifier: MIT */
#include "run/sampler.h"

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

/* Higher probability first; of equals the lower id, so that the order is total. */
static bool before(bal_candidate a, bal_candidate b)
{
    return a.p != b.p ? a.p > b.p : a.id < b.id;
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

/* Probabilities of all tokens that have one, in order of id; their number. */
static int candidates(const bal_sampler *s, const float *logits)
{
    const double top = (double)logits[bal_argmax(logits, s->vocab)];
    double sum = 0.0;
    int n = 0;
    for (int i = 0; i < s->vocab; i++) {
        const double p = exp(((double)logits[i] - top) / (double)s->s.temperature);
        sum += p;
        if ((float)p > 0.0f) s->work[n++] = (bal_candidate){(float)p, i};
    }
    for (int i = 0; i < n; i++) s->work[i].p = (float)((double)s->work[i].p / sum);
    return n;
}

static double mass(const bal_candidate *c, int n)
{
    double total = 0.0;
    for (int i = 0; i < n; i++) total += (double)c[i].p;
    return total;
}

/* Moves the k likeliest of n, or as many of them as reach the probability `enough`, to the end of
 * work[0 .. n), the likeliest last: a heap gives them one by one, so that a vocabulary is not
 * sorted for the few. Returns their number. */
static int take_likeliest(bal_candidate *work, int n, int k, double enough)
{
    for (int at = n / 2 - 1; at >= 0; at--) sink(work, n, at);
    double sum = 0.0;
    int taken = 0;
    while (taken < k && (taken == 0 || sum < enough)) {
        const bal_candidate c = work[0];
        work[0] = work[n - 1 - taken];
        work[n - 1 - taken] = c;
        sink(work, n - 1 - taken, 0);
        sum += (double)c.p;
        taken++;
    }
    return taken;
}

int32_t bal_sampler_next(bal_sampler *s, const float *logits)
{
    if (s->s.temperature == 0.0f) return bal_argmax(logits, s->vocab);
    int n = candidates(s, logits);
    bal_candidate *from = s->work;
    if (s->s.top_k && s->s.top_k < n) {
        const int k = take_likeliest(from, n, s->s.top_k, INFINITY);
        from += n - k;
        n = k;
    }
    if (s->s.top_p < 1.0f) {
        const int k = take_likeliest(from, n, n, (double)s->s.top_p * mass(from, n));
        from += n - k;
        n = k;
    }
    double u = (double)bal_rng_f32(&s->rng) * mass(from, n);
    for (int i = 0; i < n - 1; i++) {
        u -= (double)from[i].p;
        if (u < 0.0) return from[i].id;
    }
    return from[n - 1].id;
}
