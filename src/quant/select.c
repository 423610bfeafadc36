/* SPDX-License-Identifier: MIT
 * Filters, then farthest points. Sums run in the order of candidates, so the choice depends on
 * them and the seed alone. */
#include "quant/select.h"

#include "base/rng.h"
#include "base/size.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER_SHARE = 8, FEW = 8 }; /* quartiles of fewer than FEW say nothing */
static const double NEAR = 0.5;     /* features have length 1 on average */

static const char *const names[] = {"random", "first", "diverse"};

bal_status bal_select_parse(bal_select *out, const char *word, bal_error *err)
{
    *out = BAL_SELECT_RANDOM;
    for (int i = 0; word && i < 3; i++)
        if (strcmp(word, names[i]) == 0) {
            *out = (bal_select)i;
            return BAL_OK;
        }
    if (!word) return BAL_OK;
    return bal_fail(err, BAL_E_ARG, "select must be one of random, first, diverse, found \"%.60s\"",
                    word);
}

const char *bal_select_name(bal_select s)
{
    return names[s];
}

typedef enum state { CLEAN, DROPPED, REPEATED } state;

typedef struct chooser {
    const bal_prospect *c;
    float *x; /* [n][2][dim] */
    size_t n, dim;
    state *state;   /* [n] */
    double *value;  /* [n] what a filter looks at, or the distance to what is chosen */
    double *sorted; /* [n] */
} chooser;

/* ---- Filters ----------------------------------------------------------------------------------
 */

static bool same(const uint8_t *a, const uint8_t *b)
{
    return memcmp(a, b, BAL_SHA256_BYTES) == 0;
}

static void drop_duplicates(chooser *s, size_t want, bal_select_log *log)
{
    const size_t most = want / ANSWER_SHARE > 0 ? want / ANSWER_SHARE : 1;
    for (size_t i = 0; i < s->n; i++) {
        if (s->state[i] != CLEAN) continue;
        size_t answers = 0;
        bool again = false;
        for (size_t k = 0; k < i && !again; k++) {
            if (s->state[k] == DROPPED) continue;
            again = same(s->c[i].content, s->c[k].content);
            answers += s->state[k] == CLEAN && same(s->c[i].answer, s->c[k].answer);
        }
        if (again) {
            s->state[i] = DROPPED;
            log->duplicates++;
        } else if (answers >= most) {
            s->state[i] = REPEATED;
            log->repeated++;
        }
    }
}

static int rising(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Drops what lies beyond 1.5 quartile distances of the quartiles of value[], or `least` if that is
 * more, over the records of one kind that are not dropped yet. */
static size_t drop_far(chooser *s, bool sees, double least)
{
    size_t n = 0, dropped = 0;
    for (size_t i = 0; i < s->n; i++)
        if (s->state[i] != DROPPED && s->c[i].sees == sees) s->sorted[n++] = s->value[i];
    if (n < FEW) return 0;
    qsort(s->sorted, n, sizeof *s->sorted, rising);
    const double low = s->sorted[n / 4], high = s->sorted[3 * n / 4];
    const double far = fmax(1.5 * (high - low), least);
    for (size_t i = 0; i < s->n; i++) {
        if (s->state[i] == DROPPED || s->c[i].sees != sees) continue;
        if (s->value[i] >= low - far && s->value[i] <= high + far) continue;
        s->state[i] = DROPPED;
        dropped++;
    }
    return dropped;
}

static size_t drop_far_of_both(chooser *s, double least)
{
    return drop_far(s, false, least) + drop_far(s, true, least);
}

/* ---- Features ---------------------------------------------------------------------------------
 */

static float *half_of(const chooser *s, size_t i, size_t half)
{
    return s->x + (2 * i + half) * s->dim;
}

static bool has_half(const chooser *s, size_t i, size_t half)
{
    return s->state[i] != DROPPED && (half == 0 || s->c[i].sees);
}

/* Mean 0 and mean square 1 over those that have the half, so that both halves count alike; the
 * others' is 0. mean [dim] is scratch. */
static void normalise(chooser *s, size_t half, double *mean)
{
    double square = 0.0, n = 0.0;
    for (size_t k = 0; k < s->dim; k++) mean[k] = 0.0;
    for (size_t i = 0; i < s->n; i++) {
        if (!has_half(s, i, half)) continue;
        n += 1.0;
        for (size_t k = 0; k < s->dim; k++) mean[k] += (double)half_of(s, i, half)[k];
    }
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < s->dim; k++) {
            float *x = &half_of(s, i, half)[k];
            *x = has_half(s, i, half) ? (float)((double)*x - mean[k] / n) : 0.0f;
            square += (double)*x * (double)*x;
        }
    const double scale = square > 0.0 ? sqrt(n / square) : 0.0;
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < s->dim; k++)
            half_of(s, i, half)[k] = (float)(scale * (double)half_of(s, i, half)[k]);
}

/* Squared distance of two candidates, or of one from the mean (b == n). */
static double distance(const chooser *s, size_t a, size_t b)
{
    const float *x = half_of(s, a, 0), *y = b < s->n ? half_of(s, b, 0) : NULL;
    double sum = 0.0;
    for (size_t k = 0; k < 2 * s->dim; k++) {
        const double d = (double)x[k] - (y ? (double)y[k] : 0.0);
        sum += d * d;
    }
    return sum;
}

/* ---- Choosing ---------------------------------------------------------------------------------
 */

static size_t count(const chooser *s, bool sees)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n; i++) n += s->state[i] == CLEAN && s->c[i].sees == sees;
    return n;
}

/* The clean candidate of a kind with that number among them. */
static size_t find(const chooser *s, bool sees, size_t number)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->state[i] == CLEAN && s->c[i].sees == sees && number-- == 0) return i;
    return s->n;
}

/* `want` clean candidates of one kind, marked in picked [n]. */
static void farthest(chooser *s, bool sees, size_t want, bal_rng *rng, bool *picked)
{
    const size_t all = count(s, sees);
    if (want == 0 || all == 0) return;
    size_t next = find(s, sees, (size_t)bal_rng_below(rng, all));
    for (size_t i = 0; i < s->n; i++) s->value[i] = INFINITY;
    for (size_t done = 0; done < want; done++) {
        picked[next] = true;
        size_t best = s->n;
        for (size_t i = 0; i < s->n; i++) {
            if (s->state[i] != CLEAN || s->c[i].sees != sees || picked[i]) continue;
            const double d = distance(s, i, next);
            s->value[i] = d < s->value[i] ? d : s->value[i];
            if (best == s->n || s->value[i] > s->value[best]) best = i;
        }
        next = best;
    }
}

/* How many of `want` are without pictures: their share, but each kind at least one. */
static size_t share_of_text(size_t text, size_t sees, size_t want)
{
    if (text == 0 || sees == 0) return text == 0 ? 0 : want;
    size_t n = (2 * want * text + text + sees) / (2 * (text + sees));
    if (n == 0 && want > 1) n = 1;
    if (n == want && want > 1) n--;
    return n;
}

static void filter(chooser *s, size_t want, double *mean, bal_select_log *log)
{
    for (size_t i = 0; i < s->n; i++) {
        s->state[i] = s->c[i].broken ? DROPPED : CLEAN;
        log->broken += s->c[i].broken;
        s->value[i] = log1p((double)s->c[i].tokens);
    }
    drop_duplicates(s, want, log);
    log->long_or_short = drop_far_of_both(s, M_LN2);
    for (size_t half = 0; half < 2; half++) normalise(s, half, mean);
    for (size_t i = 0; i < s->n; i++) s->value[i] = sqrt(distance(s, i, s->n));
    log->outliers = drop_far_of_both(s, NEAR);
    size_t clean = count(s, false) + count(s, true);
    for (size_t i = 0; i < s->n && clean < want; i++)
        if (s->state[i] == REPEATED) {
            s->state[i] = CLEAN;
            clean++;
        }
}

static bal_status choose(chooser *s, uint64_t seed, size_t want, bool *picked, size_t *chosen,
                         size_t *n_chosen, const bal_select_log *log, bal_error *err)
{
    bal_rng rng;
    const size_t text = count(s, false), sees = count(s, true);
    want = bal_min(want, text + sees);
    *n_chosen = 0;
    if (want == 0)
        return bal_fail(err, BAL_E_ARG,
                        "select=diverse leaves nothing of %zu records: %zu broken, %zu duplicates, "
                        "%zu too long or short, %zu outliers",
                        log->candidates, log->broken, log->duplicates, log->long_or_short,
                        log->outliers);
    const size_t of_text = bal_min(share_of_text(text, sees, want), text);
    bal_rng_seed(&rng, seed);
    farthest(s, false, of_text, &rng, picked);
    farthest(s, true, want - of_text, &rng, picked);
    for (size_t i = 0; i < s->n; i++)
        if (picked[i]) chosen[(*n_chosen)++] = i;
    return BAL_OK;
}

bal_status bal_select_diverse(const bal_prospect *c, float *features, size_t n, size_t dim,
                              uint64_t seed, size_t want, size_t *chosen, size_t *n_chosen,
                              bal_select_log *log, bal_error *err)
{
    chooser s = {.c = c, .x = features, .n = n, .dim = dim};
    *log = (bal_select_log){.candidates = n};
    s.state = malloc((n + 1) * sizeof *s.state);
    s.value = malloc((n + 1) * sizeof *s.value);
    s.sorted = malloc((n + 1) * sizeof *s.sorted);
    double *mean = malloc((dim + 1) * sizeof *mean);
    bool *picked = calloc(n + 1, sizeof *picked);
    bal_status st = s.state && s.value && s.sorted && mean && picked
                        ? BAL_OK
                        : bal_nomem(err, n * sizeof *s.value, "choice of records");
    if (st == BAL_OK) {
        filter(&s, want, mean, log);
        st = choose(&s, seed, want, picked, chosen, n_chosen, log, err);
    }
    free(s.state);
    free(s.value);
    free(s.sorted);
    free(mean);
    free(picked);
    return st;
}
