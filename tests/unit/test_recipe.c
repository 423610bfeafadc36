/* SPDX-License-Identifier: MIT
 * Recipes: the compiled-in ones, inheritance, overrides, and what is refused. */
#include "check.h"
#include "unit/scratch.h"

#include "quant/recipe.h"

static const char *write_text(const char *name, const char *text)
{
    const char *p = scratch(name);
    bal_error err;
    ASSERT_OK(bal_write_file(p, text, strlen(text), &err));
    return p;
}

static void test_published_mbq(void **state)
{
    (void)state;
    bal_recipe r;
    bal_error err;
    ASSERT_OK(bal_recipe_load(&r, "mbq", &err));
    assert_string_equal(r.name, "mbq");
    assert_int_equal(r.bits, 3);
    assert_int_equal(r.group, 128);
    assert_int_equal(r.grid, BAL_GRID_ASYM);
    assert_int_equal(r.scale, BAL_SCALE_SEARCH);
    assert_int_equal(r.balance, BAL_BALANCE_GRADIENT);
    assert_int_equal(r.loss, BAL_LOSS_MAE);
    assert_int_equal(r.floor, BAL_FLOOR_MEDIAN);
    assert_int_equal(r.average, BAL_AVERAGE_SAMPLE);
    assert_int_equal(r.statistic, BAL_STATISTIC_PLAIN);
    assert_int_equal(r.language, BAL_LANGUAGE_ANSWER);
    assert_int_equal(r.gradient, BAL_GRADIENT_F16);
    assert_int_equal(r.arithmetic, BAL_ARITH_MODEL);
    assert_false(r.distort);
    assert_int_equal(r.clip, BAL_CLIP_NONE);
    assert_int_equal(r.chat_template, BAL_TEMPLATE_CHAT);
    assert_int_equal(r.views, BAL_VIEWS_ANYRES);
}

/* Every recipe of the tree is compiled in, loads, and equals what its file loads to. */
static void test_builtin(void **state)
{
    (void)state;
    size_t n = 0;
    for (const bal_recipe_text *t = bal_recipe_builtin; t->name; t++, n++) {
        bal_recipe a, b;
        bal_error err;
        char relative[80], *ja, *jb;
        snprintf(relative, sizeof relative, "recipes/%s.json", t->name);
        ASSERT_OK(bal_recipe_load(&a, t->name, &err));
        ASSERT_OK(bal_recipe_load(&b, source_path(relative), &err));
        ASSERT_OK(bal_recipe_to_json(&a, &ja, &err));
        ASSERT_OK(bal_recipe_to_json(&b, &jb, &err));
        assert_string_equal(ja, jb);
        free(ja);
        free(jb);
    }
    assert_int_equal(n, scratch_count(source_path("recipes")));
    bal_recipe r1, plus;
    bal_error err;
    ASSERT_OK(bal_recipe_load(&r1, "mbq-r1", &err));
    assert_int_equal(r1.balance, BAL_BALANCE_ONE);
    assert_int_equal(r1.loss, BAL_LOSS_MAE);
    ASSERT_OK(bal_recipe_load(&plus, "mbq+", &err));
    assert_int_equal(plus.gradient, BAL_GRADIENT_F32);
    assert_int_equal(plus.clip, BAL_CLIP_BLOCK);
    assert_int_equal(plus.statistic, BAL_STATISTIC_BALANCED);
}

static void test_canonical(void **state)
{
    (void)state;
    bal_recipe r;
    bal_error err;
    char *json;
    ASSERT_OK(bal_recipe_load(&r, "rtn", &err));
    ASSERT_OK(bal_recipe_assign(&r, "group=row", &err));
    ASSERT_OK(bal_recipe_assign(&r, "distort=on", &err));
    ASSERT_OK(bal_recipe_to_json(&r, &json, &err));
    assert_string_equal(
        json,
        "{\"name\":\"rtn\",\"bits\":3,\"group\":\"row\",\"group_bits\":\"alike\","
        "\"vision\":\"float\",\"projector\":"
        "\"float\",\"head\":\"float\",\"vision_act\":\"a16\",\"grid\":\"asym\",\"tables\":1,"
        "\"range\":"
        "\"zero\",\"act\":\"a16\","
        "\"act_group\":\"row\",\"act_scale\":\"dynamic\",\"act_clip\":\"max\","
        "\"spikes\":\"keep\",\"spike_rule\":\"mean\",\"rotate\":"
        "\"none\",\"hadamard\":\"none\","
        "\"scale\":\"none\","
        "\"alpha\":\"0.5\","
        "\"balance\":\"off\",\"loss\":\"mse\",\"objective\":\"output\",\"floor\":\"none\","
        "\"average\":\"sample\","
        "\"statistic\":\"plain\",\"language\":\"answer\",\"gradient\":\"f32\","
        "\"arithmetic\":\"f32\",\"distort\":\"on\",\"clip\":\"none\","
        "\"solver\":\"round\",\"inputs\":\"float\",\"hessian\":\"balanced\","
        "\"row_groups\":1,\"damp\":\"0.01\",\"order\":\"diag\",\"shift\":\"off\",\"ridge\":\"0.1\","
        "\"shift_part\":1,"
        "\"polish\":\"none\",\"gain\":\"off\",\"rank\":0,\"rank_rows\":\"all\",\"undo\":\"off\","
        "\"allocate\":\"score\",\"turns\":\"all\","
        "\"template\":\"chat\",\"views\":\"anyres\",\"absent\":\"refuse\",\"store\":\"packed\"}");
    free(json);
    r.bits = 5;
    ASSERT_FAILS(BAL_E_ARG, "bits", bal_recipe_to_json(&r, &json, &err));
    assert_null(json);
}

/* Every word of the table is accepted, lands in the struct and is printed again. */
/* --help-recipes: every built-in recipe says what it is, in whole (longer ones would be cut) */
static void test_abouts(void **state)
{
    (void)state;
    const char *name;
    char about[400];
    size_t n = 0;
    for (; bal_recipe_about(n, &name, about); n++) {
        assert_string_equal(name, bal_recipe_builtin[n].name);
        assert_in_range(strlen(about), 20, sizeof about - 2);
        assert_int_equal(about[strlen(about) - 1], '.');
    }
    assert_null(bal_recipe_builtin[n].name);
    assert_null(name);
}

static void test_every_word(void **state)
{
    (void)state;
    const char *key, *help;
    char words[120];
    size_t n = 0, numbers = 0;
    for (; bal_recipe_describe(n, &key, words, &help); n++) {
        assert_true(strlen(help) > 10);
        if (strcmp(words, "NUMBER") == 0 || strcmp(words, "BYTES") == 0) {
            snprintf(words, sizeof words, "3.25");
            numbers++;
        }
        for (char *save, *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
            bal_recipe r;
            bal_error err;
            char *json, want[100], quoted[100];
            ASSERT_OK(bal_recipe_load(&r, "mbq", &err));
            ASSERT_OK(bal_recipe_set(&r, key, w, &err));
            ASSERT_OK(bal_recipe_to_json(&r, &json, &err));
            snprintf(want, sizeof want, "\"%s\":%s", key, w);
            snprintf(quoted, sizeof quoted, "\"%s\":\"%s\"", key, w);
            assert_true(strstr(json, want) || strstr(json, quoted));
            free(json);
        }
    }
    assert_int_equal(n, 56);
    assert_int_equal(numbers, 5);
}

static void test_fractions(void **state)
{
    (void)state;
    bal_recipe r;
    bal_error err;
    ASSERT_OK(bal_recipe_load(
        &r, write_text("f.json", "{\"extends\": \"gptq\", \"damp\": 0.025, \"ridge\": 1}"), &err));
    assert_int_equal(r.damp, 25);
    assert_int_equal(r.ridge, 1000);
    ASSERT_FAILS(BAL_E_ARG, "0.001, 0.01, 0.025", bal_recipe_set(&r, "damp", "0.02", &err));
    /* values are numbers, however they are written */
    ASSERT_OK(bal_recipe_set(&r, "shift_part", ".25", &err));
    assert_int_equal(r.shift_part, 25);
    ASSERT_OK(bal_recipe_set(&r, "shift_part", "0.500", &err));
    assert_int_equal(r.shift_part, 50);
    ASSERT_OK(bal_recipe_set(&r, "bits", "4.0", &err));
    assert_int_equal(r.bits, 4);
    ASSERT_FAILS(BAL_E_ARG, "damp must be", bal_recipe_set(&r, "damp", "0.01x", &err));
    ASSERT_FAILS(BAL_E_ARG, "damp must be", bal_recipe_set(&r, "damp", ".", &err));
    ASSERT_FAILS(BAL_E_ARG, "bits must be", bal_recipe_set(&r, "bits", "4.0.1", &err));
}

static void test_contradictions(void **state)
{
    (void)state;
    bal_recipe r;
    bal_error err;
    for (const bal_recipe_text *t = bal_recipe_builtin; t->name; t++) {
        ASSERT_OK(bal_recipe_load(&r, t->name, &err));
        if (r.bits == BAL_BITS_AUTO) r.target_bpw = 4.0; /* whoever uses it says how much */
        ASSERT_OK(bal_recipe_check(&r, &err));
    }
    static const struct {
        const char *set, *says;
    } cases[] = {{"grid=two-level", "grid=two-level has 4 bits, found bits=3"},
                 {"shift=inputs", "shift needs inputs=quantized"},
                 {"polish=sweep", "polish needs solver=gptq"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ASSERT_OK(bal_recipe_load(&r, "rtn", &err));
        ASSERT_OK(bal_recipe_assign(&r, cases[i].set, &err));
        ASSERT_FAILS(BAL_E_ARG, cases[i].says, bal_recipe_check(&r, &err));
    }
    ASSERT_OK(bal_recipe_assign(&r, "polish=none", &err));
    ASSERT_OK(bal_recipe_assign(&r, "shift=inputs", &err));
    ASSERT_OK(bal_recipe_assign(&r, "inputs=quantized", &err));
    ASSERT_FAILS(BAL_E_ARG, "shift needs solver=gptq", bal_recipe_check(&r, &err));
    ASSERT_OK(bal_recipe_assign(&r, "solver=gptq", &err));
    ASSERT_OK(bal_recipe_check(&r, &err));
    ASSERT_OK(bal_recipe_assign(&r, "clip=awq", &err));
    ASSERT_FAILS(BAL_E_ARG, "clip=diag, block, inverse or pivot", bal_recipe_check(&r, &err));
    ASSERT_OK(bal_recipe_load(&r, "awq+clip", &err));
    ASSERT_OK(bal_recipe_assign(&r, "rank=8", &err));
    ASSERT_FAILS(BAL_E_ARG, "a solver and rank need ranges", bal_recipe_check(&r, &err));
}

/* What a recipe asks for and would not get is refused. */
static void test_idle(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"mbq", "gain=row", "gain=row needs solver=gptq"},
        {"lqer", "gain=row", "gain=row needs solver=gptq"},
        {"awq", "undo=on", "undo=on needs solver=gptq"},
        {"awq", "hessian=grad2", "hessian by gradients of tokens or attention needs solver=gptq"}};
    bal_recipe r;
    bal_error err;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ASSERT_OK(bal_recipe_load(&r, cases[i][0], &err));
        ASSERT_OK(bal_recipe_assign(&r, cases[i][1], &err));
        ASSERT_FAILS(BAL_E_ARG, cases[i][2], bal_recipe_check(&r, &err));
        ASSERT_OK(bal_recipe_assign(&r, "solver=gptq", &err));
        ASSERT_OK(bal_recipe_check(&r, &err));
    }
    ASSERT_OK(bal_recipe_assign(&r, "rank_rows=vision", &err));
    ASSERT_FAILS(BAL_E_ARG, "rank_rows=vision needs rank=4", bal_recipe_check(&r, &err));
    ASSERT_OK(bal_recipe_assign(&r, "rank=8", &err));
    ASSERT_OK(bal_recipe_check(&r, &err));
}

static void load_with(bal_recipe *r, const char *name, const char *const *set)
{
    bal_error err;
    ASSERT_OK(bal_recipe_load(r, name, &err));
    for (; *set; set++) ASSERT_OK(bal_recipe_assign(r, *set, &err));
    bal_recipe_drop_idle(r);
}

/* Parts of a choice that was inherited go with it; those that the user set are refused. */
static void test_parts(void **state)
{
    (void)state;
    write_text("spiky.json", "{\"extends\": \"w4a8\", \"act_group\": 128, \"spikes\": \"a16\","
                             "\"spike_rule\": \"tail\"}");
    write_text("budget.json", "{\"extends\": \"gptq\", \"bits\": \"auto\", \"target_bpw\": 3.5,"
                              "\"allocate\": \"rules\"}");
    static const struct {
        const char *name, *set[4], *says;
    } cases[] = {
        {"gptaq", {"shift=off"}, NULL},
        {"vlmq", {"shift=off"}, NULL},
        {"guidedquant", {"hessian=balanced"}, NULL},
        {"lqer", {"rank_rows=vision", "rank=0"}, "rank_rows=vision needs rank=4"},
        {"gptaq",
         {"shift_part=0.25", "shift=off"},
         "shift_part=0.25 needs shift=inputs, residual or column, found shift=off: without that it "
         "changes nothing"},
        {"guidedquant", {"hessian=balanced", "row_groups=2"}, "row_groups=2 needs hessian=grad2"},
        {"spiky.json", {"act=a16"}, NULL},
        {"spiky.json", {"act=a16", "act_group=32"}, "act_group=32 needs act=a8"},
        {"budget.json", {"bits=3"}, NULL},
        {"budget.json", {"bits=3", "target_bpw=3"}, "target_bpw needs bits=auto"},
        {"gptq", {"ridge=1"}, "ridge=1 needs shift=inputs or residual, found shift=off"},
        {"gptaq", {"ridge=1"}, "found shift=column"},
        {"gptq", {"alpha=0.7"}, "alpha=0.7 needs scale=smooth"},
        {"gptq", {"act_group=32"}, "act_group=32 needs act=a8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const bool file = strchr(cases[i].name, '.');
        bal_recipe r;
        bal_error err;
        load_with(&r, file ? scratch(cases[i].name) : cases[i].name, cases[i].set);
        if (cases[i].says)
            ASSERT_FAILS(BAL_E_ARG, cases[i].says, bal_recipe_check(&r, &err));
        else
            ASSERT_OK(bal_recipe_check(&r, &err));
    }
}

/* A file stands to what it extends as overrides do to a recipe. */
static void test_parts_of_files(void **state)
{
    (void)state;
    bal_recipe r;
    bal_error err;
    const char *p = write_text("off.json", "{\"extends\": \"gptaq\", \"shift\": \"off\"}");
    ASSERT_OK(bal_recipe_load(&r, p, &err));
    ASSERT_OK(bal_recipe_check(&r, &err));
    assert_int_equal(r.shift_part, 100);
    p = write_text("own.json", "{\"extends\": \"gptaq\", \"shift\": \"off\", \"shift_part\": 0.5}");
    ASSERT_OK(bal_recipe_load(&r, p, &err));
    ASSERT_FAILS(BAL_E_ARG, "recipe own: shift_part=0.5 needs shift=inputs",
                 bal_recipe_check(&r, &err));
    load_with(&r, "gptaq", (const char *const[]){"shift=inputs", NULL});
    assert_int_equal(r.shift_part, 25); /* still of use */
}

static void assert_title(const bal_recipe *r, const char *want)
{
    char *json, title[BAL_RECIPE_TITLE];
    bal_error err;
    ASSERT_OK(bal_recipe_to_json(r, &json, &err));
    bal_recipe_title_of(json, title);
    assert_string_equal(title, want);
    free(json);
}

/* What was changed of a recipe is read from what a file says of it. */
static void test_titles(void **state)
{
    (void)state;
    bal_recipe r, again;
    bal_error err;
    for (const bal_recipe_text *t = bal_recipe_builtin; t->name; t++) {
        ASSERT_OK(bal_recipe_load(&r, t->name, &err));
        assert_title(&r, t->name);
    }
    load_with(&r, "gptq", (const char *const[]){"shift=column", "hessian=local", "bits=3", NULL});
    assert_title(&r, "gptq, with hessian=local shift=column");
    load_with(&r, "hawq", (const char *const[]){"target_bpw=3.2", NULL});
    assert_title(&r, "hawq, with target_bpw=3.2");
    load_with(&r, "mbq", (const char *const[]){"arithmetic=f16", NULL});
    assert_title(&r, "mbq"); /* which the run did by itself */
    const char *own = write_text("own.json", "{\"extends\": \"gptq\", \"bits\": 2}");
    ASSERT_OK(bal_recipe_load(&r, own, &err));
    assert_title(&r, "own");
    char title[BAL_RECIPE_TITLE];
    bal_recipe_title_of("{\"name\": \"mbq\", \"bits\": 4, \"of a later version\": 1}", title);
    assert_string_equal(title, "mbq, with bits=4");
    bal_recipe_title_of("[]", title);
    assert_string_equal(title, "");
    ASSERT_OK(bal_recipe_parse(&again, "{\"name\": \"own\", \"solver\": \"gptq\"}", &err));
    assert_int_equal(again.solver, BAL_SOLVER_GPTQ);
    assert_string_equal(again.name, "own");
}

/* Weights and shifts that do not go with the rest. */
static void test_weights(void **state)
{
    (void)state;
    static const struct {
        const char *set[3], *says;
    } cases[] = {{{"row_groups=4"}, "row_groups=4 needs hessian=grad2"},
                 {{"row_groups=4", "hessian=attention"}, "row_groups=4 needs hessian=grad2"},
                 {{"row_groups=2", "hessian=grad2", "clip=block"}, "looks at whole linears"},
                 {{"row_groups=2", "hessian=grad2", "rank=8"}, "needs rank=0"},
                 {{"hessian=local", "inputs=float"}, "hessian=local needs inputs=quantized"},
                 {{"hessian=local", "clip=block"}, "all linears of a group"},
                 {{"hessian=local", "rank=8"}, "needs rank=0"},
                 {{"shift=column", "solver=descent"}, "shift=column needs solver=gptq"},
                 {{"shift=column", "polish=sweep"}, "needs polish=none and rank=0"},
                 {{"shift=column", "rank=4"}, "needs polish=none and rank=0"},
                 {{"shift=column", "row_groups=4", "hessian=grad2-raw"}, NULL},
                 {{"hessian=local", "shift=inputs"}, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bal_recipe r;
        bal_error err;
        ASSERT_OK(bal_recipe_load(&r, "gptq", &err));
        for (int k = 0; k < 3 && cases[i].set[k]; k++)
            ASSERT_OK(bal_recipe_assign(&r, cases[i].set[k], &err));
        if (cases[i].says)
            ASSERT_FAILS(BAL_E_ARG, cases[i].says, bal_recipe_check(&r, &err));
        else
            ASSERT_OK(bal_recipe_check(&r, &err));
    }
}

/* A budget that a recipe has can be taken back. */
static void test_no_target(void **state)
{
    (void)state;
    bal_recipe r;
    bal_error err;
    ASSERT_OK(bal_recipe_load(&r, "gptq", &err));
    ASSERT_OK(bal_recipe_assign(&r, "bits=auto", &err));
    ASSERT_OK(bal_recipe_assign(&r, "target_bpw=3.2", &err));
    ASSERT_OK(bal_recipe_check(&r, &err));
    ASSERT_OK(bal_recipe_assign(&r, "bits=3", &err));
    ASSERT_FAILS(BAL_E_ARG, "target_bpw needs bits=auto", bal_recipe_check(&r, &err));
    ASSERT_FAILS(BAL_E_ARG, "from 1 to 16, or 0 for none",
                 bal_recipe_assign(&r, "target_bpw=0.5", &err));
    ASSERT_OK(bal_recipe_assign(&r, "target_bpw=0", &err));
    ASSERT_OK(bal_recipe_check(&r, &err));
}

/* Grids with steps have no other bits, clips and activations than those they say. */
static void test_steps(void **state)
{
    (void)state;
    bal_recipe r;
    bal_error err;
    ASSERT_OK(bal_recipe_load(&r, "table", &err));
    assert_false(bal_recipe_format(&r, 0).kind != BAL_PACKED_TABLE);
    static const struct {
        const char *set, *back, *says;
    } cases[] = {{"bits=6", "bits=2", "grid=table has 2, 3 or 4 bits, found bits=6"},
                 {"act=a8", "act=a16", "grid=table needs act=a16"},
                 {"clip=block", "clip=pivot", "clip=diag, inverse or pivot; found clip=block"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ASSERT_OK(bal_recipe_assign(&r, cases[i].set, &err));
        ASSERT_FAILS(BAL_E_ARG, cases[i].says, bal_recipe_check(&r, &err));
        ASSERT_OK(bal_recipe_assign(&r, cases[i].back, &err));
        ASSERT_OK(bal_recipe_check(&r, &err));
    }
    ASSERT_OK(bal_recipe_assign(&r, "bits=auto", &err));
    ASSERT_OK(bal_recipe_assign(&r, "target_bpw=3", &err));
    ASSERT_OK(bal_recipe_check(&r, &err));
    ASSERT_OK(bal_recipe_load(&r, "dgq", &err));
    ASSERT_OK(bal_recipe_assign(&r, "bits=auto", &err));
    ASSERT_OK(bal_recipe_assign(&r, "target_bpw=3", &err));
    ASSERT_FAILS(BAL_E_ARG, "grid=two-level has 4 bits, found bits=auto",
                 bal_recipe_check(&r, &err));
    ASSERT_OK(bal_recipe_load(&r, "dgq", &err));
    assert_true(bal_recipe_solves(&r));
    assert_int_equal(bal_recipe_format(&r, 0).kind, BAL_PACKED_TWO_LEVEL);
}

static void test_names(void **state)
{
    (void)state;
    bal_recipe r;
    bal_error err;
    /* only an ending is an ending; a long name is cut between characters */
    ASSERT_OK(bal_recipe_load(&r, write_text("odd.json.bak", "{\"extends\": \"rtn\"}"), &err));
    assert_string_equal(r.name, "odd.json.bak");
    char longer[80] = "";
    for (int i = 0; i < 32; i++) strcat(longer, "\xc3\xa4");
    strcat(longer, ".json");
    ASSERT_OK(bal_recipe_load(&r, write_text(longer, "{\"extends\": \"rtn\"}"), &err));
    assert_int_equal(strlen(r.name), 62);
}

static void test_extends_file(void **state)
{
    (void)state;
    bal_recipe r;
    bal_error err;
    write_text("base.json", "{\"extends\": \"mbq\", \"bits\": 4, \"distort\": true}");
    const char *top = write_text("top.json", "{\"extends\": \"base.json\", \"group\": 64}");
    ASSERT_OK(bal_recipe_load(&r, top, &err));
    assert_string_equal(r.name, "top");
    assert_int_equal(r.bits, 4);
    assert_int_equal(r.group, 64);
    assert_true(r.distort);
    assert_int_equal(r.balance, BAL_BALANCE_GRADIENT);
}

static void test_refused(void **state)
{
    (void)state;
    bal_recipe r;
    bal_error err;
    ASSERT_FAILS(BAL_E_ARG, "rtn", bal_recipe_load(&r, "nonesuch", &err));
    assert_non_null(strstr(err.text, "mbq+"));
    ASSERT_OK(bal_recipe_load(&r, "mbq", &err));
    ASSERT_FAILS(BAL_E_ARG, "2, 3, 4, 6, 8", bal_recipe_assign(&r, "bits=5", &err));
    ASSERT_FAILS(BAL_E_ARG, "32, 64, 128, row", bal_recipe_assign(&r, "group=100", &err));
    ASSERT_FAILS(BAL_E_ARG, "statistic", bal_recipe_assign(&r, "colour=red", &err));
    assert_non_null(strstr(err.text, "target_bpw_SIDE")); /* the list is whole */
    ASSERT_FAILS(BAL_E_ARG, "KEY=VALUE", bal_recipe_assign(&r, "bits", &err));
    ASSERT_FAILS(BAL_E_ARG, "KEY=VALUE", bal_recipe_assign(&r, "=4", &err));
    ASSERT_FAILS(BAL_E_ARG, "found \"\"", bal_recipe_assign(&r, "bits=", &err));
    assert_int_equal(r.bits, 3);

    const char *p = write_text("key.json", "{\"extends\": \"mbq\", \"bitz\": 4}");
    ASSERT_FAILS(BAL_E_FORMAT, "bitz", bal_recipe_load(&r, p, &err));
    assert_non_null(strstr(err.text, "or target_bpw_head"));
    assert_int_equal(r.bits, 0);
    p = write_text("value.json", "{\"extends\": \"mbq\", \"bits\": 7}");
    ASSERT_FAILS(BAL_E_ARG, "value.json: bits", bal_recipe_load(&r, p, &err));
    p = write_text("type.json", "{\"extends\": \"mbq\", \"bits\": [3]}");
    ASSERT_FAILS(BAL_E_FORMAT, "bits", bal_recipe_load(&r, p, &err));
    p = write_text("part.json", "{\"bits\": 3}");
    ASSERT_FAILS(BAL_E_FORMAT, "\"group\" is missing", bal_recipe_load(&r, p, &err));
    p = write_text("self.json", "{\"extends\": \"self.json\"}");
    ASSERT_FAILS(BAL_E_FORMAT, "extend each other", bal_recipe_load(&r, p, &err));
    p = write_text("list.json", "[1]");
    ASSERT_FAILS(BAL_E_FORMAT, "list.json", bal_recipe_load(&r, p, &err));
    ASSERT_FAILS(BAL_E_IO, "absent.json", bal_recipe_load(&r, "/nowhere/absent.json", &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_mbq), cmocka_unit_test(test_builtin),
        cmocka_unit_test(test_canonical),     cmocka_unit_test(test_every_word),
        cmocka_unit_test(test_fractions),     cmocka_unit_test(test_contradictions),
        cmocka_unit_test(test_names),         cmocka_unit_test(test_extends_file),
        cmocka_unit_test(test_steps),         cmocka_unit_test(test_abouts),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_idle),
        cmocka_unit_test(test_no_target),     cmocka_unit_test(test_weights),
        cmocka_unit_test(test_parts),         cmocka_unit_test(test_parts_of_files),
        cmocka_unit_test(test_titles),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
