/* SPDX-License-Identifier: MIT
 * Balancing that has nothing to balance is no balancing: with as many vision as answer tokens, no
 * others, and r = 1, MBQ's squared loss is twice AWQ's and its second moments are twice GPTQ's, so
 * exponents and codes are theirs. With counts that differ they are not. */
#include "quant_case.h"

#include <math.h>

static const double ones[BAL_SUBS] = {1, 1};

/* Alternating tags; an odd sample's last token goes to answers, and the next such to vision. The
 * odd one out, if there is any, is dropped from its sample. */
static void tag(quant_case *q, bool equal)
{
    int n = 0;
    for (int i = 0; i < q->samples.n; i++) n += q->items[i].n;
    if (n % 2) q->items[q->samples.n - 1].n--;
    n = 0;
    for (int i = 0; i < q->samples.n; i++)
        for (int t = 0; t < q->items[i].n; t++, n++)
            q->items[i].modality[t] = n % (equal ? 2 : 5) == 0 ? BAL_ANSWER : BAL_VISION;
}

static bal_recipe recipe_of(const char *name, const char *balance)
{
    bal_error err = {0};
    bal_recipe r;
    char set[32];
    snprintf(set, sizeof set, "balance=%s", balance);
    ASSERT_OK(bal_recipe_load(&r, name, &err));
    ASSERT_OK(bal_recipe_assign(&r, set, &err));
    ASSERT_OK(bal_recipe_assign(&r, "bits=3", &err));
    ASSERT_OK(bal_recipe_assign(&r, "group=32", &err));
    ASSERT_OK(bal_recipe_assign(&r, "loss=mse", &err));
    ASSERT_OK(bal_recipe_assign(&r, "arithmetic=f32", &err));
    return r;
}

static void solve(bal_block_result *out, quant_case *q, const bal_recipe *r)
{
    bal_error err = {0};
    ASSERT_OK(bal_block_solve(out, &q->exec, &q->model.config.text, &q->model.layers[0], 0,
                              &q->samples, &q->embeds, &q->embeds, ones, r, "/tmp", NULL, NULL,
                              &err));
}

static int flips(const bal_block_result *a, const bal_block_result *b)
{
    int n = 0;
    for (int i = 0; i < BAL_DECODER_LINEARS; i++)
        for (int c = 0; c < a->linear[i].n * a->linear[i].k; c++)
            n += a->linear[i].codes[c] != b->linear[i].codes[c];
    return n;
}

/* Largest departure of the losses from `times` the others', relative. */
static double departure(const bal_block_result *a, const bal_block_result *b, double times)
{
    double worst = 0;
    for (int g = 0; g < BAL_GROUPS; g++)
        for (int i = 0; a->group[g].searched && i < BAL_SCALE_POINTS; i++)
            worst = fmax(worst, fabs(a->group[g].loss[i] / (times * b->group[g].loss[i]) - 1));
    return worst;
}

static void check(const char *model, const char *recipe, bool equal)
{
    quant_case q;
    bal_block_result plain, balanced;
    const bal_recipe off = recipe_of(recipe, "off"), on = recipe_of(recipe, "gradient");
    case_open(&q, model, 1);
    tag(&q, equal);
    solve(&plain, &q, &off);
    solve(&balanced, &q, &on);
    const int differ = flips(&balanced, &plain);
    const double far = departure(&balanced, &plain, 2);
    printf("%s %s, %s counts: %d codes differ, losses %.1e\n", model, recipe,
           equal ? "equal" : "other", differ, far);
    if (equal)
        assert_true(differ == 0 && far < 1e-12);
    else
        assert_true(differ > 0 || far > 1e-3);
    bal_block_result_free(&plain);
    bal_block_result_free(&balanced);
    case_close(&q);
}

static void test_awq(void **state)
{
    (void)state;
    check("mha", "awq", true);
    check("tiled", "awq", true);
    check("mha", "awq", false);
}

static void test_gptq(void **state)
{
    (void)state;
    check("mha", "gptq", true);
    check("tiled", "gptq", true);
    check("mha", "gptq", false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_awq), cmocka_unit_test(test_gptq)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
