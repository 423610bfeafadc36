/* SPDX-License-Identifier: MIT
 * The sampler against its definition: probabilities sorted whole, cut by top-k, then by top-p, and
 * drawn from. What may be drawn is exactly what the definition leaves, and as often as it says. */
#include "check.h"

#include "run/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 500, DRAWS = 40000 };

typedef struct likely {
    float p;
    int32_t id;
} likely;

static int by_probability(const void *a, const void *b)
{
    const likely *x = a, *y = b;
    if (x->p != y->p) return x->p > y->p ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Probability of each token after temperature, top-k, top-p; 0: cannot be drawn. */
static void define(double out[VOCAB], const float *logits, const bal_sampling *s)
{
    likely c[VOCAB];
    const double top = (double)logits[bal_argmax(logits, VOCAB)];
    double sum = 0.0, head = 0.0, kept = 0.0;
    for (int i = 0; i < VOCAB; i++) sum += exp(((double)logits[i] - top) / (double)s->temperature);
    for (int i = 0; i < VOCAB; i++)
        c[i] = (likely){(float)(exp(((double)logits[i] - top) / (double)s->temperature) / sum), i};
    qsort(c, VOCAB, sizeof *c, by_probability);
    const int k = s->top_k && s->top_k < VOCAB ? s->top_k : VOCAB;
    for (int i = 0; i < k; i++) head += (double)c[i].p;
    int n = 0;
    while (n < k && (n == 0 || kept < (double)s->top_p * head - 1e-9)) kept += (double)c[n++].p;
    memset(out, 0, VOCAB * sizeof *out);
    for (int i = 0; i < (s->top_p < 1.0f ? n : k); i++)
        out[c[i].id] = (double)c[i].p / (s->top_p < 1.0f ? kept : head);
}

/* Peaked logits with ties, one at minus infinity. */
static void fill(float logits[VOCAB])
{
    bal_rng rng;
    bal_rng_seed(&rng, 5);
    for (int i = 0; i < VOCAB; i++) logits[i] = floorf(bal_rng_f32(&rng) * 16.0f) * 0.5f;
    logits[17] = -INFINITY;
    logits[400] = 11.0f;
}

static void test_draws_what_is_defined(void **state)
{
    (void)state;
    static const bal_sampling cases[] = {{.temperature = 1.0f, .top_p = 1.0f},
                                         {.temperature = 0.7f, .top_p = 0.9f},
                                         {.temperature = 1.5f, .top_k = 7, .top_p = 1.0f},
                                         {.temperature = 1.0f, .top_k = 40, .top_p = 0.5f},
                                         {.temperature = 3.0f, .top_k = VOCAB + 9, .top_p = 0.99f},
                                         {.temperature = 0.01f, .top_p = 0.01f}};
    float logits[VOCAB];
    fill(logits);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        double expected[VOCAB];
        int drawn[VOCAB] = {0};
        bal_sampler s;
        bal_error err;
        define(expected, logits, &cases[c]);
        ASSERT_OK(bal_sampler_create(&s, &cases[c], VOCAB, &err));
        for (int i = 0; i < DRAWS; i++) drawn[bal_sampler_next(&s, logits)]++;
        for (int i = 0; i < VOCAB; i++) {
            const double mean = expected[i] * DRAWS;
            if (expected[i] == 0.0) assert_int_equal(drawn[i], 0);
            assert_true(fabs(drawn[i] - mean) <= 6.0 * sqrt(mean) + 1.0); /* Poisson */
        }
        bal_sampler_destroy(&s);
    }
}

static void test_greedy_takes_the_first_of_equals(void **state)
{
    (void)state;
    float logits[VOCAB];
    fill(logits);
    logits[3] = logits[400];
    bal_sampler s;
    bal_error err;
    ASSERT_OK(bal_sampler_create(&s, &(bal_sampling){.top_p = 1.0f}, VOCAB, &err));
    assert_int_equal(bal_sampler_next(&s, logits), 3);
    bal_sampler_destroy(&s);
}

/* Against the definition on two outcomes; equal logits have none, whatever the rounding; NaN is not
 * taken for a perfect match. */
static void test_kl(void **state)
{
    (void)state;
    const float p[] = {logf(0.25f), logf(0.75f)}, q[] = {3.0f, 3.0f}, bad[] = {NAN, 0.0f};
    const double want = 0.25 * log(0.25 / 0.5) + 0.75 * log(0.75 / 0.5);
    assert_true(fabs(bal_kl(p, q, bal_log_sum_exp(q, 2), 2) - want) < 1e-6);
    const double same = bal_kl(p, p, bal_log_sum_exp(p, 2), 2);
    assert_true(same >= 0.0 && same < 1e-15);
    const float never[] = {-INFINITY, 0.0f};
    assert_true(fabs(bal_kl(never, q, bal_log_sum_exp(q, 2), 2) - log(2.0)) < 1e-6);
    assert_true(isnan(bal_kl(bad, q, bal_log_sum_exp(q, 2), 2)));
    assert_true(isnan(bal_kl(p, bad, bal_log_sum_exp(bad, 2), 2)));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_what_is_defined),
        cmocka_unit_test(test_greedy_takes_the_first_of_equals),
        cmocka_unit_test(test_kl),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
