/* SPDX-License-Identifier: MIT
 * The fast objective of the scale search. Where a group's own output is what the exact one compares
 * ({o}, {down}) the two are the same number; elsewhere the fast one's choice must be one that the
 * exact one finds better than none. */
#include "quant_case.h"

#include "quant/fold.h"

#include <math.h>

static const double third[BAL_SUBS] = {0.3, 0.4};

static void search(bal_block_result *out, const char *model, int threads, bal_objective objective,
                   const char *balance)
{
    bal_error err = {0};
    quant_case q;
    bal_recipe r;
    case_open(&q, model, threads);
    ASSERT_OK(bal_recipe_load(&r, "awq", &err));
    ASSERT_OK(bal_recipe_set(&r, "balance", balance, &err));
    ASSERT_OK(bal_recipe_set(&r, "group", "32", &err));
    r.objective = objective;
    ASSERT_OK(bal_block_solve(out, &q.exec, &q.model.config.text, &q.model.layers[0], 0, &q.samples,
                              &q.embeds, NULL, third, &r, "/tmp", NULL, NULL, &err));
    case_close(&q);
}

static void check_same(const bal_group_log *a, const bal_group_log *b, double per)
{
    assert_true(a->searched && b->searched);
    for (int i = 0; i < BAL_SCALE_POINTS; i++)
        if (fabs(a->loss[i] / per / b->loss[i] - 1.0) > 1e-4)
            fail_msg("point %d: %.9g by moments, %.9g by output", i, a->loss[i] / per, b->loss[i]);
}

static void check(const char *model, const char *balance, int hidden, bool mha)
{
    bal_block_result fast, exact;
    search(&fast, model, 1, BAL_OBJECTIVE_MOMENTS, balance);
    search(&exact, model, 1, BAL_OBJECTIVE_OUTPUT, balance);
    check_same(&fast.group[BAL_GROUP_DOWN], &exact.group[BAL_GROUP_DOWN], hidden);
    if (mha) check_same(&fast.group[BAL_GROUP_O], &exact.group[BAL_GROUP_O], hidden);
    for (int g = 0; g < BAL_GROUPS; g++) {
        const bal_group_log *a = &fast.group[g], *b = &exact.group[g];
        if (!a->searched) continue;
        assert_true(a->loss[a->best] <= a->loss[0]);
        assert_true(b->loss[a->best] <= b->loss[0] * 1.02);
    }
    bal_block_result_free(&fast);
    bal_block_result_free(&exact);
}

static void test_same_number(void **state)
{
    (void)state;
    check("tiled", "off", 64, false);
    check("tiled", "gradient", 64, false);
    check("mha", "one", 64, true);
}

static void test_threads(void **state)
{
    (void)state;
    bal_block_result a, b;
    search(&a, "tiled", 1, BAL_OBJECTIVE_MOMENTS, "gradient");
    search(&b, "tiled", 3, BAL_OBJECTIVE_MOMENTS, "gradient");
    for (int g = 0; g < BAL_GROUPS; g++)
        assert_memory_equal(a.group[g].loss, b.group[g].loss, sizeof a.group[g].loss);
    bal_block_result_free(&a);
    bal_block_result_free(&b);
}

static void test_needs_squares(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_recipe r;
    ASSERT_OK(bal_recipe_load(&r, "mbq", &err));
    ASSERT_OK(bal_recipe_set(&r, "objective", "moments", &err));
    ASSERT_FAILS(BAL_E_ARG, "needs loss=mse, found loss=mae", bal_recipe_check(&r, &err));
    ASSERT_OK(bal_recipe_set(&r, "loss", "mse", &err));
    ASSERT_OK(bal_recipe_check(&r, &err));
    ASSERT_OK(bal_recipe_set(&r, "act", "a8", &err));
    ASSERT_FAILS(BAL_E_ARG, "act=a8 needs objective=output", bal_recipe_check(&r, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_number),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_needs_squares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
