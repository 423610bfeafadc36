/* SPDX-License-Identifier: MIT
 * Sessions on a tiny random checkpoint: the same bits however a sequence is cut, whatever the
 * number of threads and the ISA level; tags in the cache; capacity; sampling. */
#include "check.h"

#include "run/sampler.h"
#include "run/session.h"

#include <malloc.h>
#include <math.h>

enum { N = 200 };

static bal_engine open_tiny(int threads, const char *isa)
{
    bal_error err;
    bal_engine e;
    ASSERT_OK(bal_engine_open(&e, source_path("tests/golden/tiled/model"), threads, isa, &err));
    return e;
}

static void make_input(const bal_engine *e, bal_token_info *info, float *embeds)
{
    const bal_text_config *c = &e->model.config.text;
    for (int i = 0; i < N; i++) {
        info[i] = (bal_token_info){.id = (i * 37) % 300,
                                   .pos = {i, i, i},
                                   .image = i < 50 ? 0 : -1,
                                   .modality = i < 50 ? BAL_VISION : BAL_PROMPT};
        bal_linear_row(&e->model.embed, info[i].id, embeds + i * c->hidden);
    }
}

typedef struct rows_seen {
    float *logits;
    int vocab, n;
} rows_seen;

static void see(void *ctx, int row, const float *logits)
{
    rows_seen *r = ctx;
    (void)row;
    memcpy(r->logits + r->n++ * r->vocab, logits, (size_t)r->vocab * sizeof *logits);
}

/* All logits of the sequence, appended in pieces of `step`. */
static float *logits_of(const bal_engine *e, int step)
{
    bal_error err;
    const int vocab = e->model.config.text.vocab, hidden = e->model.config.text.hidden;
    bal_token_info info[N];
    float *embeds = malloc((size_t)(N * hidden) * sizeof *embeds);
    rows_seen seen = {malloc((size_t)(N * vocab) * sizeof(float)), vocab, 0};
    bal_session s;
    make_input(e, info, embeds);
    ASSERT_OK(bal_session_create(&s, e, 256, &err));
    for (int i = 0; i < N; i += step) {
        const int n = step < N - i ? step : N - i;
        ASSERT_OK(bal_session_append(&s, info + i, embeds + i * hidden, n, 0, see, &seen,
                                     (bal_taps){0}, &err));
    }
    assert_int_equal(seen.n, N);
    assert_int_equal(s.n, N);
    assert_int_equal(s.info[10].modality, BAL_VISION);
    assert_int_equal(s.info[10].image, 0);
    assert_int_equal(s.info[60].image, -1);
    assert_memory_equal(s.logits, seen.logits + (N - 1) * vocab, (size_t)vocab * sizeof(float));
    ASSERT_OK(bal_session_push(&s, 5, &err));
    assert_int_equal(s.info[N].modality, BAL_ANSWER);
    assert_int_equal(s.info[N].pos[0], N);
    bal_session_destroy(&s);
    free(embeds);
    return seen.logits;
}

static void same_bits_however_run(void **state)
{
    (void)state;
    const struct {
        int threads, step;
        const char *isa;
    } ways[] = {{1, N, NULL}, {2, 1, NULL}, {7, 64, NULL}, {2, 33, NULL}, {2, N, "scalar"}};
    float *want = NULL;
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        bal_engine e = open_tiny(ways[w].threads, ways[w].isa);
        float *got = logits_of(&e, ways[w].step);
        const size_t bytes = (size_t)(N * e.model.config.text.vocab) * sizeof *got;
        if (!want)
            want = got;
        else {
            if (memcmp(got, want, bytes) != 0) fail_msg("way %zu gives other bits", w);
            free(got);
        }
        bal_engine_close(&e);
    }
    free(want);
}

static void capacity(void **state)
{
    (void)state;
    bal_error err;
    bal_engine e = open_tiny(1, NULL);
    bal_session s;
    bal_token_info info[N];
    float *embeds = malloc((size_t)(N * e.model.config.text.hidden) * sizeof *embeds);
    make_input(&e, info, embeds);
    ASSERT_FAILS(BAL_E_ARG, "0 positions", bal_session_create(&s, &e, 0, &err));
    ASSERT_FAILS(BAL_E_ARG, "this model takes", bal_session_create(&s, &e, 1 << 20, &err));
    ASSERT_OK(bal_session_create(&s, &e, 100, &err));
    assert_int_equal(s.ctx, 100);
    ASSERT_FAILS(BAL_E_CAPACITY, "context is full",
                 bal_session_append(&s, info, embeds, N, 0, NULL, NULL, (bal_taps){0}, &err));
    assert_int_equal(s.n, 0);
    ASSERT_OK(bal_session_append(&s, info, embeds, 100, 0, NULL, NULL, (bal_taps){0}, &err));
    ASSERT_FAILS(BAL_E_CAPACITY, "--ctx", bal_session_push(&s, 1, &err));
    bal_session_truncate(&s, 64);
    ASSERT_OK(bal_session_push(&s, 1, &err));
    assert_int_equal(s.n, 65);
    bal_session_destroy(&s);
    free(embeds);
    bal_engine_close(&e);
}

static void nan_is_an_error(void **state)
{
    (void)state;
    bal_error err;
    bal_engine e = open_tiny(1, NULL);
    bal_session s;
    bal_token_info info[N];
    float *embeds = malloc((size_t)(N * e.model.config.text.hidden) * sizeof *embeds);
    make_input(&e, info, embeds);
    embeds[3] = NAN;
    ASSERT_OK(bal_session_create(&s, &e, 256, &err));
    ASSERT_FAILS(BAL_E_NUMERIC, "position 3",
                 bal_session_append(&s, info, embeds, 4, 0, NULL, NULL, (bal_taps){0}, &err));
    assert_int_equal(s.n, 0);
    bal_session_destroy(&s);
    free(embeds);
    bal_engine_close(&e);
}

static void sampling(void **state)
{
    (void)state;
    bal_error err;
    bal_sampler s;
    const float logits[6] = {0.0f, 2.0f, 1.0f, 2.0f, -5.0f, -40.0f};
    const bal_sampling bad[] = {{-1, 0, 1, 0}, {1, -1, 1, 0}, {1, 0, 0, 0}, {1, 0, 1.5f, 0}};
    for (int i = 0; i < 4; i++)
        assert_int_equal(bal_sampler_create(&s, &bad[i], 6, &err), BAL_E_ARG);
    ASSERT_OK(bal_sampler_create(&s, &(bal_sampling){0, 0, 1, 1}, 6, &err));
    assert_int_equal(bal_sampler_next(&s, logits), 1); /* of equal ones the lowest id */
    bal_sampler_destroy(&s);

    /* frequencies follow the softmax; top-k and top-p cut the tail */
    const struct {
        bal_sampling opts;
        double want[6];
    } cases[] = {
        {{1, 0, 1, 3}, {0.0540, 0.3993, 0.1469, 0.3993, 0.0004, 0}},
        {{1, 2, 1, 3}, {0, 0.5, 0, 0.5, 0, 0}},
        {{1, 0, 0.9f, 3}, {0, 0.4223, 0.1554, 0.4223, 0, 0}},
        {{0.5f, 3, 1, 3}, {0, 0.4683, 0.0634, 0.4683, 0, 0}},
    };
    for (int c = 0; c < 4; c++) {
        int hits[6] = {0};
        ASSERT_OK(bal_sampler_create(&s, &cases[c].opts, 6, &err));
        for (int i = 0; i < 20000; i++) hits[bal_sampler_next(&s, logits)]++;
        for (int i = 0; i < 6; i++) assert_true(fabs(hits[i] / 20000.0 - cases[c].want[i]) < 0.015);
        bal_sampler_destroy(&s);
    }
}

/* The plan of a session is what it allocates: the heap grows by that, and by a little more for the
 * names of things. */
static void test_plan(void **state)
{
    (void)state;
    bal_error err;
    bal_engine e = open_tiny(2, NULL);
    size_t small, large, planned;
    ASSERT_OK(bal_session_bytes(&small, &e, 64, BAL_KV_F32, &err));
    ASSERT_OK(bal_session_bytes(&large, &e, 256, BAL_KV_F32, &err));
    const bal_text_config *c = &e.model.config.text;
    const size_t position = (size_t)(c->layers * 2 * c->kv_heads * c->head_dim) * sizeof(float);
    assert_true(large - small >= 192 * position && large - small < 192 * (position + 256));
    ASSERT_OK(bal_session_bytes(&planned, &e, 256, BAL_KV_F16, &err));
    assert_true(planned < large);
    assert_int_equal(bal_session_bytes(&planned, &e, 0, BAL_KV_F32, &err), BAL_E_ARG);
    assert_int_equal(bal_session_bytes(&planned, &e, 1 << 24, BAL_KV_F32, &err), BAL_E_ARG);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    bal_session s;
    const struct mallinfo2 before = mallinfo2();
    ASSERT_OK(bal_session_create(&s, &e, 256, &err));
    const struct mallinfo2 after = mallinfo2();
    const size_t used = after.uordblks + after.hblkhd - before.uordblks - before.hblkhd;
    assert_true(used >= large && used < large + (1 << 16));
    bal_session_destroy(&s);
#endif
    bal_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan), cmocka_unit_test(same_bits_however_run),
        cmocka_unit_test(capacity),  cmocka_unit_test(nan_is_an_error),
        cmocka_unit_test(sampling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
