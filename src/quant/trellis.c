/* SPDX-License-Identifier: MIT
 * A step of the search takes, for each state - bits bits, the best of the 2^bits states that end
 * with them, then adds the error of each code that may follow. Both loops run over neighbours in
 * memory; errors are summed in f32, in the order of the run whatever the threads. */
#include "quant/trellis.h"

#include "base/half.h"
#include "base/size.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

/* ---- Levels -----------------------------------------------------------------------------------
 */

enum { LEVEL_STEPS = 32 }; /* of a standard deviation: 4096 quantiles then fit a byte */

static float levels[3][BAL_TRELLIS_STATES];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t scramble(uint32_t x)
{
    x = (x ^ x >> 15) * 0x9e3779b1u;
    x = (x ^ x >> 13) * 0x85ebca77u;
    return x ^ x >> 16;
}

/* A permutation of 0 .. 2^bits - 1. */
static uint32_t shuffle(uint32_t x, int bits)
{
    const uint32_t mask = (1u << bits) - 1;
    for (int i = 0; i < 3; i++) {
        x = x * 0x9e3779b1u & mask;
        x ^= x >> bits / 2;
    }
    return x;
}

/* Of a normal distribution, the quantile in the middle of each 4096th, in steps. */
static void quantiles(int out[BAL_TRELLIS_STATES])
{
    int at = -4 * LEVEL_STEPS;
    for (int i = 0; i < BAL_TRELLIS_STATES; i++) {
        while (0.5 * erfc(-(at + 0.5) / (LEVEL_STEPS * sqrt(2.0))) * BAL_TRELLIS_STATES < i + 0.5)
            at++;
        out[i] = at;
    }
}

static void fill(void)
{
    static int sorted[BAL_TRELLIS_STATES];
    quantiles(sorted);
    for (int bits = 2; bits <= 4; bits++)
        for (uint32_t state = 0; state < BAL_TRELLIS_STATES; state++) {
            const int rest = BAL_TRELLIS_STATE - bits;
            const uint32_t code = state & ((1u << bits) - 1), before = state >> bits;
            const uint32_t part = (code + scramble(before)) & ((1u << bits) - 1);
            const uint32_t within = shuffle(before ^ (scramble(part) & ((1u << rest) - 1)), rest);
            levels[bits - 2][state] = (float)sorted[part << rest | within] / LEVEL_STEPS;
        }
}

bal_trellis bal_trellis_of(int bits)
{
    pthread_once(&once, fill);
    return (bal_trellis){BAL_TRELLIS_STATE, bits, levels[bits - 2]};
}

/* ---- Runs -------------------------------------------------------------------------------------
 */

size_t bal_trellis_runs(size_t n)
{
    return bal_max(n / BAL_TRELLIS_RUN, 1);
}

bal_range bal_trellis_run(size_t n, size_t i)
{
    const size_t runs = bal_trellis_runs(n);
    return (bal_range){n * i / runs, n * (i + 1) / runs};
}

static bal_range run_of(size_t n, size_t row)
{
    return bal_trellis_run(n, ((row + 1) * bal_trellis_runs(n) - 1) / n);
}

float bal_trellis_level(const bal_trellis *t, const uint8_t *codes, size_t stride, int n, int i)
{
    unsigned state = 0;
    for (int back = t->state / t->bits - 1; back >= 0; back--)
        state = state << t->bits | codes[(size_t)((i - back + n) % n) * stride];
    return t->level[state];
}

void bal_trellis_row(const bal_quantized_linear *q, size_t r, float *out)
{
    const bal_trellis t = bal_trellis_of(q->bits);
    const size_t k = (size_t)q->k;
    const bal_range run = run_of((size_t)q->n, r);
    for (size_t c = 0; c < k; c++)
        out[c] = bal_trellis_level(&t, q->codes + run.begin * k + c, k, (int)(run.end - run.begin),
                                   (int)(r - run.begin));
}

/* ---- Search -----------------------------------------------------------------------------------
 */

/* One weight. `bits` is a literal. */
static inline __attribute__((always_inline)) void
step(const int bits, size_t ends, const float *restrict level, float x, float s,
     float *restrict cost, float *restrict best, int32_t *restrict chosen, uint8_t *restrict from)
{
    for (size_t end = 0; end < ends; end++) {
        float least = cost[end];
        int32_t which = 0;
        for (int32_t old = 1; old < 1 << bits; old++) {
            const float c = cost[(size_t)old * ends + end];
            const int32_t better = -(c < least); /* a mask: compilers vectorize this choice */
            which = (old & better) | (which & ~better);
            least = c < least ? c : least;
        }
        best[end] = least;
        chosen[end] = which;
    }
    for (size_t end = 0; end < ends; end++) from[end] = (uint8_t)chosen[end];
    for (size_t i = 0; i < ends << bits; i++) {
        const float off = x - s * level[i];
        cost[i] = off * off;
    }
    for (size_t end = 0; end < ends; end++)
        for (size_t code = 0; code < 1u << bits; code++) cost[end << bits | code] += best[end];
}

static void steps(bal_trellis_work *v, const bal_trellis *t, const float *x, const float *s, int n)
{
    const size_t ends = (size_t)1 << (t->state - t->bits);
    for (int i = 0; i < n; i++)
        if (t->bits == 2)
            step(2, ends, t->level, x[i], s[i], v->cost, v->best, v->chosen, v->from[i]);
        else if (t->bits == 3)
            step(3, ends, t->level, x[i], s[i], v->cost, v->best, v->chosen, v->from[i]);
        else
            step(4, ends, t->level, x[i], s[i], v->cost, v->best, v->chosen, v->from[i]);
}

void bal_trellis_search(bal_trellis_work *v, const bal_trellis *t, const float *x, const float *s,
                        int n, int tail, uint8_t *codes)
{
    const unsigned states = 1u << t->state, ends = states >> t->bits;
    const bool any = tail == BAL_TRELLIS_FREE;
    assert(n <= BAL_TRELLIS_MOST && t->state % t->bits == 0 && t->state <= BAL_TRELLIS_STATE);
    for (unsigned i = 0; i < states; i++)
        v->cost[i] = any || (i & (ends - 1)) == (unsigned)tail ? 0.0f : INFINITY;
    steps(v, t, x, s, n);
    unsigned at = any ? 0 : (unsigned)tail;
    for (unsigned i = 0; i < states; i++)
        if ((any || (i & (ends - 1)) == (unsigned)tail) && v->cost[i] < v->cost[at]) at = i;
    for (int i = n - 1; i >= 0; i--) {
        const unsigned end = at >> t->bits;
        codes[i] = (uint8_t)(at & ((1u << t->bits) - 1));
        at = (unsigned)v->from[i][end] << (t->state - t->bits) | end;
    }
}

void bal_trellis_encode(bal_trellis_work *v, const bal_trellis *t, const float *x, const float *s,
                        int n, uint8_t *codes)
{
    const int half = n / 2, back = t->state / t->bits - 1;
    unsigned tail = 0;
    assert(n > back);
    for (int i = 0; i < n; i++) {
        v->x[i] = x[(i + half) % n];
        v->s[i] = s[(i + half) % n];
    }
    bal_trellis_search(v, t, v->x, v->s, n, BAL_TRELLIS_FREE, codes);
    for (int i = n - back; i < n; i++) tail = tail << t->bits | codes[(i - half + n) % n];
    bal_trellis_search(v, t, x, s, n, (int)tail, codes);
}

/* ---- Matrices ---------------------------------------------------------------------------------
 */

typedef struct trellis_job {
    const float *w;
    bal_quantized_linear *q;
    bal_trellis_work *work; /* [lanes] */
} trellis_job;

static void scale_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const trellis_job *j = ctx;
    const size_t k = (size_t)j->q->k, size = (size_t)bal_group_size(j->q->k, j->q->group);
    const size_t groups = (size_t)bal_group_count(j->q->k, j->q->group);
    for (size_t r = begin; r < end; r++)
        for (size_t g = 0; g < groups; g++) {
            const size_t stop = bal_min((g + 1) * size, k);
            double sum = 0.0;
            for (size_t c = g * size; c < stop; c++)
                sum += (double)j->w[r * k + c] * (double)j->w[r * k + c];
            const uint16_t s = bal_f32_to_f16((float)sqrt(sum / (double)(stop - g * size)));
            j->q->scales[r * groups + g] = s == 0 ? 1 : s < 0x7c00 ? s : 0x7bff;
        }
}

void bal_trellis_scales(bal_pool *pool, const float *w, bal_quantized_linear *q)
{
    trellis_job j = {.w = w, .q = q};
    bal_pool_run(pool, scale_rows, &j, (size_t)q->n, 4);
}

void bal_trellis_column(bal_trellis_work *v, bal_quantized_linear *q, bal_range rows, size_t c,
                        const float *x, float *value)
{
    const bal_trellis t = bal_trellis_of(q->bits);
    const size_t k = (size_t)q->k, size = (size_t)bal_group_size(q->k, q->group);
    const int n = (int)(rows.end - rows.begin);
    float s[BAL_TRELLIS_MOST] = {0};
    for (int i = 0; i < n; i++) s[i] = bal_quantized_grid(q, rows.begin + (size_t)i, c / size).s;
    bal_trellis_encode(v, &t, x, s, n, v->codes);
    for (int i = 0; i < n; i++) {
        q->codes[(rows.begin + (size_t)i) * k + c] = v->codes[i];
        value[i] = bal_trellis_level(&t, v->codes, 1, n, i) * s[i];
    }
}

/* Items are columns of runs. */
static void round_columns(void *ctx, size_t begin, size_t end, int lane)
{
    const trellis_job *j = ctx;
    const size_t k = (size_t)j->q->k;
    float x[BAL_TRELLIS_MOST], value[BAL_TRELLIS_MOST];
    for (size_t item = begin; item < end; item++) {
        const bal_range rows = bal_trellis_run((size_t)j->q->n, item / k);
        for (size_t r = rows.begin; r < rows.end; r++) x[r - rows.begin] = j->w[r * k + item % k];
        bal_trellis_column(&j->work[lane], j->q, rows, item % k, x, value);
    }
}

bal_status bal_trellis_round(bal_pool *pool, const float *w, bal_quantized_linear *q,
                             bal_error *err)
{
    const size_t n_bytes = (size_t)bal_pool_size(pool) * sizeof(bal_trellis_work);
    trellis_job j = {w, q, malloc(n_bytes)};
    if (!j.work) return bal_nomem(err, n_bytes, "searches of a trellis");
    bal_pool_run(pool, round_columns, &j, bal_trellis_runs((size_t)q->n) * (size_t)q->k, 8);
    free(j.work);
    return BAL_OK;
}
