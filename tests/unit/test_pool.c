/* SPDX-License-Identifier: MIT */
#include "check.h"

#include "base/pool.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct counters {
    atomic_int hits[1000];
    atomic_int lane_busy[8];
    atomic_int overlap, bad_lane, bad_piece;
    size_t most; /* items of a piece, where each begins at a multiple of that; 0: not checked */
} counters;

static void count(void *ctx, size_t begin, size_t end, int lane)
{
    counters *c = ctx;
    if (lane < 0 || lane >= 8) {
        atomic_fetch_add(&c->bad_lane, 1);
        return;
    }
    if (c->most && (begin % c->most != 0 || end <= begin || end - begin > c->most))
        atomic_fetch_add(&c->bad_piece, 1);
    if (atomic_fetch_add(&c->lane_busy[lane], 1) != 0) atomic_fetch_add(&c->overlap, 1);
    for (size_t i = begin; i < end; i++) atomic_fetch_add(&c->hits[i], 1);
    atomic_fetch_sub(&c->lane_busy[lane], 1);
}

static void each_item_once(void **state)
{
    (void)state;
    bal_error err;
    const int sizes[] = {1, 2, 7};
    for (int s = 0; s < 3; s++) {
        bal_pool *p;
        ASSERT_OK(bal_pool_create(&p, sizes[s], &err));
        assert_int_equal(bal_pool_size(p), sizes[s]);
        assert_int_equal(bal_pool_size_of(sizes[s]), sizes[s]);
        for (size_t n = 0; n <= 1000; n += 37)
            for (size_t grain = 1; grain < 60; grain += 13) {
                static counters c;
                memset(&c, 0, sizeof c);
                c.most = sizes[s] > 1 ? grain : 0;
                bal_pool_run(p, count, &c, n, grain);
                for (size_t i = 0; i < 1000; i++) assert_int_equal(c.hits[i], i < n ? 1 : 0);
                assert_int_equal(c.overlap, 0);
                assert_int_equal(c.bad_piece, 0);
                assert_int_equal(c.bad_lane, 0);
            }
        bal_pool_destroy(p);
    }
}

static void *run_many(void *arg)
{
    static counters shared;
    for (int i = 0; i < 200; i++) bal_pool_run(arg, count, &shared, 50, 1);
    return NULL;
}

static void callers_queue(void **state)
{
    (void)state;
    bal_error err;
    bal_pool *p;
    pthread_t t[3];
    ASSERT_OK(bal_pool_create(&p, 3, &err));
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&t[i], NULL, run_many, p), 0);
    for (int i = 0; i < 3; i++) pthread_join(t[i], NULL);
    bal_pool_destroy(p);
}

static void sizes_are_checked(void **state)
{
    (void)state;
    bal_error err;
    bal_pool *p;
    ASSERT_FAILS(BAL_E_ARG, "threads: -1", bal_pool_create(&p, -1, &err));
    ASSERT_FAILS(BAL_E_ARG, "threads: 1000", bal_pool_create(&p, 1000, &err));
    assert_null(p);
    ASSERT_OK(bal_pool_create(&p, 0, &err));
    assert_true(bal_pool_size(p) >= 1);
    assert_int_equal(bal_pool_size_of(0), bal_pool_size(p));
    bal_pool_destroy(p);
    bal_pool_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_item_once),
        cmocka_unit_test(callers_queue),
        cmocka_unit_test(sizes_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
