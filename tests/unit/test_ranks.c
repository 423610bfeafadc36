/* SPDX-License-Identifier: MIT
 * Several ranks make the file of one, byte by byte, with every kind of step; what fails on one rank
 * fails on all with one sentence, nobody waits for ever, and an interrupted run goes on with
 * another number of ranks. Ranks are forked processes here; tests/cli/test_quantize_mpi.sh has
 * MPI's. */
#include "fork_ranks.h"
#include "quantize_case.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { RECORDS = 17, MOST_SET = 9 };

/* More conversations than the golden ones: enough for held-out samples, ranks with unequal shares,
 * text alone and several turns. */
static const char *data(void)
{
    static char path[600];
    static const char *const pictures[] = {"calib0_100x70", "calib1_60x90", "calib2_48x48"};
    static const char *const words[] = {"the red one", "yes", "a dog", "no", "three of them"};
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s", scratch("data.jsonl"));
    char dir[PATH_MAX];
    assert_non_null(realpath(source_path("tests/golden/calib"), dir));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < RECORDS; i++) {
        const bool sees = i % 4 != 3;
        if (sees) fprintf(f, "{\"image\": \"%s/%s.png\", ", dir, pictures[i % 3]);
        fprintf(
            f,
            "%s\"conversations\": [{\"from\": \"human\", \"value\": \"%sWhat is it, %d?\"}, "
            "{\"from\": \"gpt\", \"value\": \"%s\"}, {\"from\": \"human\", \"value\": \"Sure?\"},"
            " {\"from\": \"gpt\", \"value\": \"%s.\"}]}\n",
            sees ? "" : "{", sees ? "<image>\\n" : "", i, words[i % 5], words[i * 2 % 5]);
    }
    assert_int_equal(fclose(f), 0);
    return path;
}

/* One run on one of several ranks; what differs for one of them, to make it fail. */
typedef struct job {
    bal_quant_opts opts;
    const char *out;
    int odd;            /* the rank that differs, -1: none */
    const char *calib;  /* its data */
    int stop_at;        /* block after which it cancels; 0: never */
    size_t file_bytes;  /* most that it may write to a file; 0: no limit */
    int samples;        /* its choice; 0: the same */
    const char *recipe; /* its recipe */
} job;

static bool stop(void *ctx, const bal_progress *p)
{
    const job *j = ctx;
    return strcmp(p->stage, "blocks") != 0 || p->done < 1000 * (uint64_t)j->stop_at;
}

static bal_status on_rank(bal_rank *rank, void *ctx, bal_error *err)
{
    job *j = ctx;
    bal_quant_opts o = j->opts;
    o.rank = rank;
    if (rank->index == j->odd) {
        if (j->calib) o.calib = j->calib;
        if (j->samples) o.samples = j->samples;
        if (j->recipe) o.recipe = j->recipe;
        if (j->stop_at) {
            o.progress = stop;
            o.progress_ctx = j;
        }
        if (j->file_bytes) {
            const struct rlimit most = {j->file_bytes, j->file_bytes};
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &most);
        }
    }
    return bal_quantize(source_path(MODEL), j->out, &o, err);
}

static bal_quant_opts options(const char *recipe, const char *const set[MOST_SET])
{
    bal_quant_opts o = {.size = sizeof o,
                        .threads = 1,
                        .recipe = recipe,
                        .set = set,
                        .calib = data(),
                        .samples = -1};
    while (set && o.n_set < MOST_SET && set[o.n_set]) o.n_set++;
    return o;
}

static void make_on(int ranks, job *j)
{
    bal_status status[FORK_MOST];
    bal_error error[FORK_MOST];
    fork_ranks(ranks, on_rank, j, status, error);
    for (int i = 0; i < ranks; i++) {
        if (status[i] < 0) print_error("rank %d of %d: %s\n", i, ranks, error[i].text);
        assert_int_equal(status[i], BAL_OK);
    }
}

/* ---- The same bytes ----------------------------------------------------------------------------
 */

static const struct {
    int ranks,
        samples; /* samples -1: all, of which every eighth is held out where steps are judged */
    const char *recipe, *set[MOST_SET];
} METHODS[] = {
    {3, 4, "rtn", {"group=32"}},
    {2, 3, "gptq", {"group=32", "rotate=residual", "hadamard=down"}},
    {2, 5, "mbq", {"group=32"}},
    {3, 4, "mbq+", {"group=32", "bits=2", "distort=on"}},
    {2, 4, "awq+clip", {"group=32"}},
    {3, 5, "awq+gptq", {"group=32", "act=a8", "spikes=fine", "spike_rule=tail"}},
    {2,
     5,
     "awq+gptq",
     {"group=32", "act=a8", "act_scale=static-modality", "act_clip=mse", "distort=on"}},
    {2, 5, "gptq", {"group=32", "scale=search", "loss=mse", "objective=moments", "clip=pivot"}},
    {3,
     4,
     "gptq",
     {"bits=auto", "target_bpw=4.5", "group=32", "vision=auto", "target_bpw_vision=8",
      "clip=diag"}},
    {3, 4, "gptq", {"bits=auto", "target_bpw=4.2", "group=32", "allocate=verified"}},
    {2, 4, "gptq", {"group=32", "store=float", "group_bits=mixed"}},
    {3,
     -1,
     "gptq",
     {"group=32", "hessian=grad2", "inputs=quantized", "shift=residual", "undo=on", "polish=refit",
      "gain=row", "clip=block"}},
    {2, 4, "gptq", {"group=32", "hessian=attention"}},
    {3, 4, "gptq", {"group=32", "hessian=grad2", "row_groups=4", "shift=inputs"}},
    {2, 3, "gptq", {"group=32", "hessian=local", "shift=column", "shift_part=0.25"}},
    {2, 3, "table", {"bits=2", "clip=inverse", "polish=refit", "gain=row"}},
    {3, 4, "lqer", {"group=32"}},
    {3, 4, "gptq", {"group=32", "rank=4", "rank_rows=vision"}},
    {2, 3, "quantease", {"group=32", "order=diag", "shift=inputs", "inputs=quantized"}},
};

static void test_same_bytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof METHODS / sizeof METHODS[0]; i++) {
        bal_quant_opts o = options(METHODS[i].recipe, METHODS[i].set);
        o.samples = METHODS[i].samples;
        o.force = true;
        const char *one = scratch("one.safetensors");
        make(one, &o);
        job j = {.opts = o, .out = scratch("many.safetensors"), .odd = -1};
        make_on(METHODS[i].ranks, &j);
        assert_same_file(one, j.out);
    }
}

/* Choosing records looks at candidates, each rank at its own. */
static void test_selection(void **state)
{
    (void)state;
    static const char *const set[MOST_SET] = {"group=32"};
    bal_quant_opts o = options("rtn", set);
    o.samples = 3;
    o.shots = 2;
    o.select = "diverse";
    o.force = true;
    const char *one = scratch("one.safetensors");
    make(one, &o);
    job j = {.opts = o, .out = scratch("many.safetensors"), .odd = -1};
    make_on(3, &j);
    assert_same_file(one, j.out);
}

/* More ranks than samples: some have nothing to do, and still take part. */
static void test_idle_ranks(void **state)
{
    (void)state;
    static const char *const set[MOST_SET] = {"group=32"};
    bal_quant_opts o = options("gptq", set);
    o.samples = 2;
    o.force = true;
    const char *one = scratch("one.safetensors");
    make(one, &o);
    job j = {.opts = o, .out = scratch("many.safetensors"), .odd = -1};
    make_on(4, &j);
    assert_same_file(one, j.out);
}

/* ---- Failures ----------------------------------------------------------------------------------
 */

/* All ranks say the same, which names the rank and holds `words`; no file is left. */
static void assert_all_fail(int ranks, job *j, bal_status want, const char *words)
{
    bal_status status[FORK_MOST];
    bal_error error[FORK_MOST];
    fork_ranks(ranks, on_rank, j, status, error);
    for (int i = 0; i < ranks; i++) {
        assert_int_equal(status[i], want);
        assert_string_equal(error[i].text, error[0].text);
    }
    if (!strstr(error[0].text, words)) print_error("said: %s\n", error[0].text);
    assert_non_null(strstr(error[0].text, words));
    assert_false(bal_path_exists(j->out));
}

static job failing(int odd)
{
    static const char *const set[MOST_SET] = {"group=32"};
    job j = {.opts = options("gptq", set), .out = scratch("failed.safetensors"), .odd = odd};
    j.opts.samples = 4;
    return j;
}

static void test_refused_alone(void **state)
{
    (void)state;
    job j = failing(1);
    j.calib = "/nowhere/data.jsonl";
    assert_all_fail(3, &j, BAL_E_IO, "rank 1: ");
    j.odd = 0;
    assert_all_fail(2, &j, BAL_E_IO, "/nowhere/data.jsonl");
    j = failing(2);
    j.recipe = "nonesuch";
    assert_all_fail(3, &j, BAL_E_ARG, "rank 2: ");
}

static void test_other_runs(void **state)
{
    (void)state;
    job j = failing(1);
    j.samples = 3;
    assert_all_fail(2, &j, BAL_E_ARG, "rank 1: calibration is not that of rank 0");
    j = failing(1);
    j.recipe = "rtn";
    assert_all_fail(2, &j, BAL_E_ARG, "rank 1: ");
}

static void test_full_disk_of_one(void **state)
{
    (void)state;
    for (int odd = 0; odd < 2; odd++) {
        job j = failing(odd);
        j.file_bytes = 100000;
        assert_all_fail(2, &j, BAL_E_IO, "temporary store");
    }
}

/* Cancelled by one rank, continued with more and with fewer. */
static void test_resume(void **state)
{
    (void)state;
    static const struct {
        int before, after;
    } counts[] = {{2, 3}, {3, 1}};
    job whole = failing(-1);
    whole.out = scratch("whole.safetensors");
    make_on(1, &whole);
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        job j = failing(counts[i].before - 1);
        j.opts.force = true;
        j.stop_at = 2;
        assert_all_fail(counts[i].before, &j, BAL_E_CANCELLED, "after ");
        j = failing(-1);
        j.opts.resume = true;
        make_on(counts[i].after, &j);
        assert_same_file(whole.out, j.out);
        unlink(j.out);
    }
}

/* ---- Shares ------------------------------------------------------------------------------------
 */

static void test_shares(void **state)
{
    (void)state;
    for (int count = 1; count <= 7; count++)
        for (size_t n = 0; n <= 100; n += 9) {
            bal_rank r = {.count = count};
            size_t row = 0, triangle = 0;
            for (int i = 0; i < count; i++) {
                const bal_range a = bal_rank_rows_of(&r, i, n, 16);
                const bal_range b = bal_rank_triangle_of(&r, i, n, 16);
                assert_int_equal(a.begin, row);
                assert_int_equal(b.begin, triangle);
                assert_true(a.begin % 16 == 0 || a.begin == n);
                row = a.end;
                triangle = b.end;
            }
            assert_int_equal(row, n);
            assert_int_equal(triangle, n);
        }
    bal_rank r = {.count = 2};
    const bal_range first = bal_rank_triangle_of(&r, 0, 1600, 16);
    const double area = (double)first.end * (double)first.end / (1600.0 * 1600.0);
    assert_true(area > 0.45 && area < 0.55);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_selection),
        cmocka_unit_test(test_idle_ranks), cmocka_unit_test(test_refused_alone),
        cmocka_unit_test(test_other_runs), cmocka_unit_test(test_full_disk_of_one),
        cmocka_unit_test(test_resume),     cmocka_unit_test(test_shares),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
