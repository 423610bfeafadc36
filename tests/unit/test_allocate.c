/* SPDX-License-Identifier: MIT
 * The allocator against all allocations of small problems, its bound and budget on large ones, and
 * what it refuses. */
#include "check.h"

#include "base/rng.h"
#include "quant/allocate.h"

#include <math.h>

enum { UNITS = 6, OPTIONS = 5, LARGE = 196 };

/* Widths 2, 3, 4, 6, 8 of tensors of different sizes, errors that fall about fourfold a bit: what
 * real problems look like. `wild`: anything, rising costs included. */
static void make_problem(bal_rng *rng, int units, bool wild, bal_alloc_option *o)
{
    static const int bits[OPTIONS] = {2, 3, 4, 6, 8};
    for (int u = 0; u < units; u++) {
        const uint64_t size = 64 * (1 + bal_rng_u64(rng) % (wild ? 5 : 40));
        const double harm = exp(4.0 * (double)bal_rng_f32(rng));
        for (int i = 0; i < OPTIONS; i++)
            o[u * OPTIONS + i] = (bal_alloc_option){
                size * (uint64_t)bits[i],
                wild ? (double)bal_rng_f32(rng)
                     : harm * (double)size * pow(0.25, bits[i]) * (0.7 + (double)bal_rng_f32(rng))};
    }
}

static uint64_t bytes_of(const bal_alloc_problem *p, const int *choice)
{
    uint64_t sum = 0;
    for (int u = 0; u < p->units; u++) sum += p->option[u * OPTIONS + choice[u]].n_bytes;
    return sum;
}

static double cost_of(const bal_alloc_problem *p, const int *choice)
{
    double sum = 0.0;
    for (int u = 0; u < p->units; u++) sum += p->option[u * OPTIONS + choice[u]].cost;
    return sum;
}

/* The least cost of all 5^6 allocations within the budget. */
static double by_force(const bal_alloc_problem *p)
{
    double best = INFINITY;
    int all = 1;
    for (int u = 0; u < UNITS; u++) all *= OPTIONS;
    for (int code = 0; code < all; code++) {
        int choice[UNITS], rest = code;
        for (int u = 0; u < UNITS; u++, rest /= OPTIONS) choice[u] = rest % OPTIONS;
        if (bytes_of(p, choice) <= p->budget) best = fmin(best, cost_of(p, choice));
    }
    return best;
}

static void test_against_all(void **state)
{
    (void)state;
    bal_rng rng;
    bal_error err = {0};
    bal_rng_seed(&rng, 5);
    for (int round = 0; round < 60; round++) {
        bal_alloc_option o[UNITS * OPTIONS];
        bal_alloc_result r;
        int choice[UNITS];
        make_problem(&rng, UNITS, round % 3 == 2, o);
        bal_alloc_problem p = {UNITS, OPTIONS, o, 0};
        const uint64_t least = bal_alloc_least(&p), most = bal_alloc_most(&p);
        p.budget = least + (uint64_t)((double)bal_rng_f32(&rng) * 1.1 * (double)(most - least));
        ASSERT_OK(bal_allocate(choice, &r, &p, &err));
        assert_true(r.proved);
        assert_true(r.n_bytes == bytes_of(&p, choice) && r.n_bytes <= p.budget);
        assert_true(r.cost == cost_of(&p, choice));
        const double want = by_force(&p);
        if (fabs(r.cost - want) > 1e-11 * want)
            fail_msg("round %d: cost %.17g, the best of all is %.17g", round, r.cost, want);
        assert_true(r.bound <= want * (1.0 + 1e-11));
    }
}

/* As many tensors as a 7B has: within the budget, and close to what nothing can beat. */
static void test_large(void **state)
{
    (void)state;
    static bal_alloc_option o[LARGE * OPTIONS];
    bal_rng rng;
    bal_error err = {0};
    bal_rng_seed(&rng, 9);
    make_problem(&rng, LARGE, false, o);
    bal_alloc_problem p = {LARGE, OPTIONS, o, 0};
    double before = INFINITY;
    for (int percent = 5; percent <= 95; percent += 30) {
        int choice[LARGE], again[LARGE];
        bal_alloc_result r;
        p.budget = bal_alloc_least(&p) +
                   (bal_alloc_most(&p) - bal_alloc_least(&p)) / 100 * (uint64_t)percent;
        ASSERT_OK(bal_allocate(choice, &r, &p, &err));
        assert_true(bytes_of(&p, choice) <= p.budget);
        if (!(r.bound <= r.cost && r.cost <= 1.005 * r.bound))
            fail_msg("%d %%: cost %.9g, bound %.9g", percent, r.cost, r.bound);
        assert_true(r.cost < before);
        before = r.cost;
        ASSERT_OK(bal_allocate(again, &r, &p, &err));
        assert_memory_equal(choice, again, sizeof choice);
    }
}

/* Nothing to decide: all the least, all the best, and equal costs, which take the fewest bytes. */
static void test_ends(void **state)
{
    (void)state;
    bal_alloc_option o[2 * OPTIONS] = {{10, 4.0}, {20, 2.0}, {30, 1.0}, {35, 0.5}, {40, 0.0},
                                       {10, 1.0}, {20, 1.0}, {30, 1.0}, {35, 1.0}, {40, 1.0}};
    bal_alloc_problem p = {2, OPTIONS, o, 20};
    bal_alloc_result r;
    bal_error err = {0};
    int choice[2];
    ASSERT_OK(bal_allocate(choice, &r, &p, &err));
    assert_true(choice[0] == 0 && choice[1] == 0 && r.n_bytes == 20);
    p.budget = UINT64_MAX;
    ASSERT_OK(bal_allocate(choice, &r, &p, &err));
    assert_true(choice[0] == 4 && choice[1] == 0 && r.n_bytes == 50 && r.cost == 1.0);
}

static void test_refused(void **state)
{
    (void)state;
    bal_alloc_option o[2 * OPTIONS] = {{10, 4.0}, {20, 2.0}, {30, 1.0}, {35, 0.5}, {40, 0.0},
                                       {10, 1.0}, {20, 1.0}, {30, 1.0}, {35, 1.0}, {40, 1.0}};
    bal_alloc_problem p = {2, OPTIONS, o, 19};
    bal_alloc_result r;
    bal_error err = {0};
    int choice[2];
    ASSERT_FAILS(BAL_E_ARG, "a budget of 19 bytes; the least possible is 20",
                 bal_allocate(choice, &r, &p, &err));
    p.budget = 100;
    o[2].cost = NAN;
    ASSERT_FAILS(BAL_E_NUMERIC, "unit 0, option 2: a cost of", bal_allocate(choice, &r, &p, &err));
    o[2] = (bal_alloc_option){20, 1.0};
    ASSERT_FAILS(BAL_E_ARG, "unit 0, option 2 is not larger", bal_allocate(choice, &r, &p, &err));
    p.units = 0;
    ASSERT_FAILS(BAL_E_ARG, "0 units", bal_allocate(choice, &r, &p, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_all),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
