/* SPDX-License-Identifier: MIT
 * Intervals by resampling groups with replacement. See run/evaluate.h. */
#include <stdlib.h>

#include "base/rng.h"
#include "run/evaluate.h"

static int ascending(const void *x, const void *y)
{
    const double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

/* Linear between the two nearest ranks, as numpy's default. */
static double percentile(const double *sorted, int n, double p)
{
    const double at = p * (n - 1);
    const int i = (int)at;
    if (i + 1 >= n) return sorted[n - 1];
    return sorted[i] + (at - i) * (sorted[i + 1] - sorted[i]);
}

static double quotient(double top, double bottom, double otherwise)
{
    return bottom > 0.0 ? top / bottom : otherwise;
}

typedef struct sums {
    double top, bottom, base_top, base_bottom;
} sums;

static void add(sums *s, const bal_quotient *q, size_t i)
{
    s->top += q->top[i];
    s->bottom += q->bottom[i];
    if (!q->base_top) return;
    s->base_top += q->base_top[i];
    s->base_bottom += q->base_bottom[i];
}

static double value_of(const sums *s, const bal_quotient *q, double otherwise)
{
    const double v = quotient(s->top, s->bottom, otherwise);
    return q->base_top ? v - quotient(s->base_top, s->base_bottom, 0.0) : v;
}

bal_status bal_bootstrap(bal_interval *out, const bal_quotient *q, size_t n, int draws,
                         uint64_t seed, bal_error *err)
{
    *out = (bal_interval){0};
    double *values = malloc((size_t)draws * sizeof *values);
    if (!values) return bal_nomem(err, (size_t)draws * sizeof *values, "bootstrap");
    sums all = {0};
    for (size_t i = 0; i < n; i++) add(&all, q, i);
    out->value = value_of(&all, q, 0.0);
    bal_rng rng;
    bal_rng_seed(&rng, seed);
    for (int d = 0; d < draws; d++) {
        sums s = {0};
        for (size_t i = 0; i < n; i++) add(&s, q, (size_t)bal_rng_below(&rng, n));
        values[d] = s.bottom > 0.0 ? value_of(&s, q, 0.0) : out->value;
    }
    qsort(values, (size_t)draws, sizeof *values, ascending);
    out->lo = percentile(values, draws, 0.025);
    out->hi = percentile(values, draws, 0.975);
    free(values);
    return BAL_OK;
}
