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

/* Descending probability; ascending id where equal, so that sorting is deterministic. */
static int by_probability(const void *a, const void *b)
{
    const bal_candidate *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* A token below (1 - top_p) / (n - 1) cannot be in the nucleus, so only the rest is sorted. */
static int likely(const bal_sampler *s, const float *logits)
{
    const float top = logits[bal_argmax(logits, s->vocab)];
    double sum = 0.0;
    for (int i = 0; i < s->vocab; i++)
        sum += exp((double)(logits[i] - top) / (double)s->s.temperature);
    const double cut =
        s->s.top_k || s->vocab < 2 ? 0.0 : (1.0 - (double)s->s.top_p) / (s->vocab - 1);
    int n = 0;
    for (int i = 0; i < s->vocab; i++) {
        const double p = exp((double)(logits[i] - top) / (double)s->s.temperature) / sum;
        if ((p >= cut && p > 0.0) || logits[i] == top) s->work[n++] = (bal_candidate){(float)p, i};
    }
    return n;
}

/* The shortest head of the sorted candidates whose probability reaches top_p of their total. */
static int nucleus(const bal_sampler *s, int n, double total)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++) {
        sum += (double)s->work[i].p;
        if (sum >= (double)s->s.top_p * total) return i + 1;
    }
    return n;
}

static double total_of(const bal_sampler *s, int n)
{
    double total = 0.0;
    for (int i = 0; i < n; i++) total += (double)s->work[i].p;
    return total;
}

int32_t bal_sampler_next(bal_sampler *s, const float *logits)
{
    if (s->s.temperature == 0.0f) return bal_argmax(logits, s->vocab);
    int n = likely(s, logits);
    qsort(s->work, (size_t)n, sizeof *s->work, by_probability);
    if (s->s.top_k && n > s->s.top_k) n = s->s.top_k;
    /* without top-k the candidates left out count as mass, so the nucleus is that of all tokens */
    if (s->s.top_p < 1.0f) n = nucleus(s, n, s->s.top_k ? total_of(s, n) : 1.0);
    double u = (double)bal_rng_f32(&s->rng) * total_of(s, n);
    for (int i = 0; i < n - 1; i++) {
        u -= (double)s->work[i].p;
        if (u < 0.0) return s->work[i].id;
    }
    return s->work[n - 1].id;
}
