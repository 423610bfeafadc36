/* SPDX-License-Identifier: MIT
 * Error feedback with its intermediate data on disk: killed at any step of a block and resumed it
 * gives the bytes of a run in one piece, and a disk that fills up there is a sentence, after which
 * the run can go on. */
#include "quantize_case.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static const char *const SET[] = {"group=32", "objective=moments"};

static bal_quant_opts options(void)
{
    return case_options("ballast", SET, 2);
}

static const char *reference(void)
{
    static char path[600];
    const bal_quant_opts o = options();
    return made_once(path, "reference.safetensors", &o);
}

static bool die(void *ctx, const bal_progress *p)
{
    if (strcmp(p->stage, "blocks") == 0 && p->done >= *(uint64_t *)ctx) raise(SIGKILL);
    return true;
}

static void kill_at(const char *out, uint64_t unit)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bal_quant_opts o = options();
        o.progress = die;
        o.progress_ctx = &unit;
        bal_quantize(source_path(MODEL), out, &o, NULL);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_false(bal_path_exists(out));
}

/* In the search, behind moments, factors and codes, and while both streams move on. */
static void test_kill_and_resume(void **state)
{
    (void)state;
    static const uint64_t units[] = {1100, 1790, 1850, 1899, 1960};
    const char *out = scratch("kill.safetensors");
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        bal_quant_opts o = options();
        kill_at(out, units[i]);
        o.resume = true;
        o.threads = 1 + (uint32_t)(i % 3);
        make(out, &o);
        assert_same_file(reference(), out);
        assert_int_equal(unlink(out), 0);
    }
}

/* A limit on the size of files stands for a full disk: at once, and when a block's inputs are
 * written, which are the widest. */
static void test_full_disk(void **state)
{
    (void)state;
    static const rlim_t limits[] = {3000, 40000};
    const char *out = scratch("disk.safetensors");
    struct rlimit old, small;
    bal_error err;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    for (int i = 0; i < 2; i++) {
        bal_quant_opts o = options();
        small = old;
        small.rlim_cur = limits[i];
        setrlimit(RLIMIT_FSIZE, &small);
        const bal_status st = bal_quantize(source_path(MODEL), out, &o, &err);
        setrlimit(RLIMIT_FSIZE, &old);
        assert_int_equal(st, BAL_E_IO);
        assert_non_null(strstr(err.text, "temporary store in "));
        assert_non_null(strstr(err.text, "disk.safetensors.partial, sample "));
        assert_non_null(strstr(err.text, ": File too large"));
        assert_false(bal_path_exists(out));
        o.resume = true;
        make(out, &o);
        assert_same_file(reference(), out);
        unlink(out);
    }
}

static void test_threads(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    o.threads = 3;
    const char *out = scratch("t3.safetensors");
    make(out, &o);
    assert_same_file(reference(), out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill_and_resume),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
