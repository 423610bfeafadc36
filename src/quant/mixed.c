/* SPDX-License-Identifier: MIT
 * Choosing of the widths of mixed.h. All groups begin a bit below the linear's and there are as
 * many bits to hand out as groups, each to where it gains most; with costs that are convex in the
 * bits that is the best there is. */
#include "quant/mixed.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { CHOICES = 3 }; /* a bit less, as many, a bit more */

typedef struct cost_job {
    const bal_quantizer *z;
    const float *w;
    const double *d;
    size_t n, k;
    int size;
    float *rounded;       /* [groups][CHOICES][size] */
    double (*e)[CHOICES]; /* [groups] */
} cost_job;

/* rounded [size]: scratch */
static double group_cost(const cost_job *j, size_t g, int bits, float *rounded)
{
    const size_t size = (size_t)j->size, at = g * size;
    const bal_quantizer z = {
        .bits = bits, .grid = j->z->grid, .arith = j->z->arith, .range = j->z->range};
    double sum = 0.0;
    for (size_t r = 0; r < j->n; r++) {
        const float *w = j->w + r * j->k + at;
        bal_quantize_group(&z, w, j->size, rounded);
        for (size_t i = 0; i < size; i++) {
            const double e = (double)w[i] - (double)rounded[i];
            sum += j->d[at + i] * e * e;
        }
    }
    return sum;
}

static void cost_groups(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const cost_job *j = ctx;
    for (size_t i = begin; i < end; i++) {
        const int choice = (int)(i % CHOICES), bits = j->z->bits - 1 + choice;
        float *rounded = j->rounded + i * (size_t)j->size;
        j->e[i / CHOICES][choice] = group_cost(j, i / CHOICES, bits, rounded);
    }
}

/* One more bit for a group: the first, or the second. */
typedef struct grant {
    double gain;
    size_t group;
} grant;

static int by_gain(const void *a, const void *b)
{
    const grant *x = a, *y = b;
    if (x->gain != y->gain) return x->gain > y->gain ? -1 : 1;
    return (x->group > y->group) - (x->group < y->group);
}

/* widths = those of `groups` groups, from their costs; grants [2 * groups] is scratch. */
static void hand_out(const double (*e)[CHOICES], size_t groups, int bits, grant *grants,
                     uint8_t *widths)
{
    for (size_t g = 0; g < groups; g++) {
        const double first = e[g][0] - e[g][1], second = e[g][1] - e[g][2];
        grants[2 * g] = (grant){first, g};
        grants[2 * g + 1] = (grant){second < first ? second : first, g};
        widths[g] = (uint8_t)(bits - 1);
    }
    qsort(grants, 2 * groups, sizeof *grants, by_gain);
    for (size_t i = 0; i < groups; i++) widths[grants[i].group]++;
}

bal_status bal_mixed_widths(bal_pool *pool, const bal_quantizer *z, const float *w, const double *d,
                            bal_quantized_linear *q, bal_error *err)
{
    const int size = bal_group_size(q->k, q->group);
    const size_t n = (size_t)(q->k / size);
    assert(q->widths && z->grid == BAL_GRID_ASYM && z->bits > 1 && z->bits < 8);
    double(*e)[CHOICES] = malloc(n * sizeof *e);
    grant *grants = malloc(2 * n * sizeof *grants);
    float *rounded = malloc((size_t)q->k * CHOICES * sizeof *rounded);
    bal_status st = BAL_OK;
    memset(q->widths, z->bits, (size_t)bal_group_count(q->k, q->group));
    if (e && grants && rounded) {
        cost_job j = {z, w, d, (size_t)q->n, (size_t)q->k, size, rounded, e};
        bal_pool_run(pool, cost_groups, &j, n * CHOICES, 1);
        hand_out((const double(*)[CHOICES])e, n, z->bits, grants, q->widths);
    } else {
        st = bal_nomem(err, (size_t)q->k * CHOICES * sizeof *rounded, "costs of widths");
    }
    free(e);
    free(grants);
    free(rounded);
    return st;
}
