/* SPDX-License-Identifier: MIT
 * store=float: the same weights as plain floats, what a storage of their format would take, and
 * what is refused. */
#include "quantize_case.h"

#include "base/size.h"
#include "model/model.h"
#include "quant/quantizer.h"

#include <math.h>
#include <sys/stat.h>

enum { LINEARS = BAL_DECODER_LINEARS, WIDEST = 512, MOST_SET = 8 };

/* How many of the weights of two linears are the same, in thousandths. */
static int same_weights(const bal_linear *a, const bal_linear *b)
{
    float x[WIDEST], y[WIDEST];
    long same = 0;
    assert_true(a->n == b->n && a->k == b->k && a->k <= WIDEST);
    for (int r = 0; r < a->n; r++) {
        bal_linear_row(a, r, x);
        bal_linear_row(b, r, y);
        for (int c = 0; c < a->k; c++) same += memcmp(&x[c], &y[c], sizeof *x) == 0;
    }
    return (int)(1000 * same / ((long)a->n * a->k));
}

/* Two files, of which the second has floats: all weights of the first blocks, nearly all of the
 * others. */
static void assert_same_weights(const char *packed, const char *plain, int blocks)
{
    bal_model a, b;
    bal_error err;
    ASSERT_OK(bal_model_load(&a, packed, &err));
    ASSERT_OK(bal_model_load(&b, plain, &err));
    assert_string_equal(bal_tensor_meta(&b.tensors, "ballast_format"), "1.0");
    for (int layer = 0; layer < a.config.text.layers; layer++)
        for (int i = 0; i < LINEARS; i++) {
            const bal_linear *x = bal_decoder_linear(&a.layers[layer], i);
            const bal_linear *y = bal_decoder_linear(&b.layers[layer], i);
            assert_int_equal(y->type, BAL_TYPE_F32);
            assert_int_not_equal(x->type, BAL_TYPE_F32);
            assert_in_range(same_weights(x, y), layer < blocks ? 1000 : 900, 1000);
        }
    assert_memory_equal(a.layers[0].mlp_norm, b.layers[0].mlp_norm,
                        (size_t)a.config.text.hidden * sizeof(float));
    bal_model_unload(&a);
    bal_model_unload(&b);
}

/* Of the linears of a file's blocks against the checkpoint's. */
static double squared_error(const char *path)
{
    double sum = 0.0;
    bal_model m, source;
    bal_error err;
    ASSERT_OK(bal_model_load(&m, path, &err));
    ASSERT_OK(bal_model_load(&source, source_path(MODEL), &err));
    for (int layer = 0; layer < m.config.text.layers; layer++)
        for (int i = 0; i < LINEARS; i++) {
            const bal_linear *a = bal_decoder_linear(&m.layers[layer], i);
            const bal_linear *b = bal_decoder_linear(&source.layers[layer], i);
            float x[WIDEST], y[WIDEST];
            for (int r = 0; r < a->n; r++) {
                bal_linear_row(a, r, x);
                bal_linear_row(b, r, y);
                for (int c = 0; c < a->k; c++) sum += pow((double)x[c] - (double)y[c], 2);
            }
        }
    bal_model_unload(&m);
    bal_model_unload(&source);
    return sum;
}

/* The plan says the file's size before there is one, and how few bits the format takes. */
static void assert_planned(const char *plain, const bal_quant_opts *o, double least, double most)
{
    bal_quant_plan plan;
    bal_error err;
    struct stat st;
    assert_int_equal(stat(plain, &st), 0);
    ASSERT_OK(bal_quantize_plan(&plan, source_path(MODEL), NULL, o, &err));
    assert_int_equal(plan.file_bytes, st.st_size);
    assert_true(plan.linear_bits_per_weight == 32.0);
    if (!(plan.format_bits_per_weight >= least && plan.format_bits_per_weight <= most))
        fail_msg("%.4f bits per weight, %.4f to %.4f expected", plan.format_bits_per_weight, least,
                 most);
}

/* In every block where its inputs are those of the float model; in the first, where they are those
 * of the blocks before it, which as packed weights read integers. */
static void test_same_weights(void **state)
{
    (void)state;
    static const struct {
        const char *recipe, *set[MOST_SET];
        size_t n;
        int blocks;
        double bits; /* without scales of rows and a table */
    } cases[] = {
        {"rtn", {"bits=3", "group=32"}, 2, 3, 3.75},
        {"rtn", {"bits=4", "group=64", "grid=sym"}, 3, 3, 4.375},
        {"rtn", {"bits=2", "group=32", "grid=table"}, 3, 3, 2.125},
        {"rtn", {"bits=4", "group=32", "grid=two-level"}, 3, 3, 4.5},
        {"gptq", {"bits=3", "group=32", "grid=table", "inputs=float"}, 4, 3, 3.125},
        {"awq+gptq", {"bits=2", "group=32"}, 2, 1, 2.75},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *set[MOST_SET + 1];
        char name[40];
        const char *packed = scratch("packed.safetensors");
        bal_quant_opts o = case_options(cases[i].recipe, cases[i].set, cases[i].n);
        o.force = true;
        make(packed, &o);
        memcpy(set, cases[i].set, sizeof cases[i].set);
        set[cases[i].n] = "store=float";
        o.set = set;
        o.n_set++;
        snprintf(name, sizeof name, "plain%zu.safetensors", i);
        const char *plain = scratch(name);
        make(plain, &o);
        assert_same_weights(packed, plain, cases[i].blocks);
        assert_planned(plain, &o, cases[i].bits, cases[i].bits + 0.75); /* rows of 48 and more */
    }
}

/* They cost what they should and are nearer to the checkpoint than groups of 32. */
static void test_groups_of_16(void **state)
{
    (void)state;
    static const char *const grids[] = {"grid=asym", "grid=table"};
    for (int i = 0; i < 2; i++) {
        const char *set[] = {"bits=3", "store=float", grids[i], "group=16"};
        double error[2];
        for (int wide = 0; wide < 2; wide++) {
            if (wide) set[3] = "group=32";
            bal_quant_opts o = case_options("rtn", set, 4);
            o.force = true;
            const char *plain = scratch("groups.safetensors");
            make(plain, &o);
            error[wide] = squared_error(plain);
            const double side = i ? 4.0 : 24.0, group = wide ? 32.0 : 16.0;
            assert_planned(plain, &o, 3.0 + side / group, 3.0 + side / group + 0.75);
        }
        printf("%s: %.3f of groups of 32\n", grids[i], error[0] / error[1]);
        assert_true(error[0] < 0.95 * error[1]);
    }
}

/* The second table costs a bit a group and leaves less. */
static void test_two_tables(void **state)
{
    (void)state;
    const char *set[] = {"bits=3", "store=float", "grid=table", "group=32", "tables=2"};
    double error[2];
    for (int one = 0; one < 2; one++) {
        if (one) set[4] = "tables=1";
        bal_quant_opts o = case_options("rtn", set, 5);
        o.force = true;
        const char *plain = scratch("tables.safetensors");
        make(plain, &o);
        error[one] = squared_error(plain);
        const double bits = 3.0 + (one ? 4.0 : 5.0) / 32.0;
        assert_planned(plain, &o, bits, bits + 0.6);
    }
    printf("two tables: %.3f of one\n", error[0] / error[1]);
    assert_true(error[0] < 0.98 * error[1]);
}

/* The whole run with a trellis, whatever the threads. */
static void test_trellis(void **state)
{
    (void)state;
    static const char *const set[] = {"bits=2", "store=float", "group=32", "grid=trellis"};
    const bal_quant_opts o = case_options("gptq", set, 4);
    const char *plain = scratch("trellis.safetensors"), *two = scratch("threads.safetensors");
    make(plain, &o);
    assert_planned(plain, &o, 2.5, 2.55); /* the last group of 152 inputs is of 24 */
    bal_quant_opts more = o;
    more.threads = 2;
    make(two, &more);
    assert_same_file(plain, two);
}

/* A run that was cut off goes on from blocks of floats. */
static void test_resumes(void **state)
{
    (void)state;
    static const char *const set[] = {"bits=3", "group=32", "store=float"};
    bal_quant_opts o = case_options("rtn", set, 3);
    const char *whole = scratch("whole.safetensors"), *cut = scratch("cut.safetensors");
    make(whole, &o);
    kill_in_stage(cut, &o, (killer){"blocks", 2000});
    o.resume = true;
    make(cut, &o);
    assert_same_file(whole, cut);
}

/* Where a format has a storage, the figure is its size, provided that nothing is padded. */
static void test_format_bytes(void **state)
{
    (void)state;
    static const bal_recipe recipes[] = {
        {.bits = 3, .group = 128},
        {.bits = 8, .group = 0},
        {.bits = 2, .group = 64, .grid = BAL_GRID_SYM},
        {.bits = 4, .group = 32, .grid = BAL_GRID_TABLE},
        {.bits = 4, .group = 128, .grid = BAL_GRID_TWO_LEVEL},
    };
    const int sizes[][2] = {{64, 512}, {256, 128}, {64, 704}};
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        for (int s = 0; s < 3; s++) {
            bal_packed_layout l;
            bal_error err;
            ASSERT_OK(bal_packed_layout_of(&l, bal_recipe_format(&recipes[i], 0),
                                           (size_t)sizes[s][0], (size_t)sizes[s][1], &err));
            assert_int_equal(bal_format_bytes(&recipes[i], 0, sizes[s][0], sizes[s][1]), l.n_bytes);
        }
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"rtn", "act=a8", "act=a8 is for packed weights"},
        {"gptq", "hadamard=down", "store=float needs hadamard=none"},
        {"gptq", "rank=4", "store=float needs rank=0"},
        {"hawq", "target_bpw=4", "store=float needs bits=2, 3, 4, 6 or 8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bal_recipe r;
        bal_error err;
        ASSERT_OK(bal_recipe_load(&r, cases[i][0], &err));
        ASSERT_OK(bal_recipe_assign(&r, cases[i][1], &err));
        ASSERT_OK(bal_recipe_check(&r, &err));
        ASSERT_OK(bal_recipe_assign(&r, "store=float", &err));
        ASSERT_FAILS(BAL_E_ARG, cases[i][2], bal_recipe_check(&r, &err));
    }
}

/* Formats without a storage say what they need. */
static void test_needs_float(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"gptq", "group=16", "group=16 has no storage and no kernel: it needs store=float"},
        {"table", "tables=2", "tables=2 has no storage and no kernel: it needs store=float"},
        {"table", "group=16", "group=16 has no storage and no kernel: it needs store=float"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bal_recipe r;
        bal_error err;
        ASSERT_OK(bal_recipe_load(&r, cases[i][0], &err));
        ASSERT_OK(bal_recipe_assign(&r, cases[i][1], &err));
        ASSERT_FAILS(BAL_E_ARG, cases[i][2], bal_recipe_check(&r, &err));
        ASSERT_OK(bal_recipe_assign(&r, "store=float", &err));
        ASSERT_OK(bal_recipe_check(&r, &err));
    }
    bal_recipe r;
    bal_error err;
    ASSERT_OK(bal_recipe_load(&r, "rtn", &err));
    ASSERT_OK(bal_recipe_assign(&r, "group=16", &err));
    ASSERT_OK(bal_recipe_assign(&r, "store=float", &err));
    ASSERT_OK(bal_recipe_assign(&r, "projector=8", &err));
    ASSERT_FAILS(BAL_E_ARG, "group=16 needs projector=float", bal_recipe_check(&r, &err));
    ASSERT_OK(bal_recipe_assign(&r, "projector=float", &err));
    ASSERT_OK(bal_recipe_assign(&r, "tables=2", &err));
    ASSERT_FAILS(BAL_E_ARG, "tables=2 needs grid=table", bal_recipe_check(&r, &err));
}

/* What works on codes one by one has nothing to do with a trellis. */
static void test_trellis_refuses(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"store=packed", "store=float", "grid=trellis needs store=float"},
        {"bits=6", "bits=4", "grid=trellis needs bits=2, 3 or 4"},
        {"solver=descent", "solver=gptq", "grid=trellis needs solver=gptq"},
        {"polish=sweep", "polish=none", "grid=trellis needs polish=none"},
        {"clip=diag", "clip=none", "grid=trellis needs clip=none"},
        {"scale=search", "scale=smooth", "grid=trellis needs scale=none or smooth"},
    };
    bal_recipe r;
    bal_error err;
    ASSERT_OK(bal_recipe_load(&r, "gptq", &err));
    ASSERT_OK(bal_recipe_assign(&r, "store=float", &err));
    ASSERT_OK(bal_recipe_assign(&r, "grid=trellis", &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ASSERT_OK(bal_recipe_assign(&r, cases[i][0], &err));
        ASSERT_FAILS(BAL_E_ARG, cases[i][2], bal_recipe_check(&r, &err));
        ASSERT_OK(bal_recipe_assign(&r, cases[i][1], &err));
        ASSERT_OK(bal_recipe_check(&r, &err));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_weights),    cmocka_unit_test(test_groups_of_16),
        cmocka_unit_test(test_two_tables),      cmocka_unit_test(test_trellis),
        cmocka_unit_test(test_resumes),         cmocka_unit_test(test_format_bytes),
        cmocka_unit_test(test_refused),         cmocka_unit_test(test_needs_float),
        cmocka_unit_test(test_trellis_refuses),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
