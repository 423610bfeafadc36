/* SPDX-License-Identifier: MIT
 * What the end-to-end tests of quantizing share: the tiny golden model with its conversations,
 * making a file of it, comparing two files byte by byte. Which recipe with which options is each
 * test's own. */
#ifndef BAL_TESTS_QUANTIZE_CASE_H
#define BAL_TESTS_QUANTIZE_CASE_H

#include "scratch.h"

#include "ballast_quant.h"
#include "base/file.h"

#include <signal.h>
#include <sys/wait.h>

#define MODEL "tests/golden/tiled/model"
#define DATA  "tests/golden/calib/calib.jsonl"

static inline void make(const char *out, const bal_quant_opts *o)
{
    bal_error err;
    ASSERT_OK(bal_quantize(source_path(MODEL), out, o, &err));
}

/* One thread, all golden conversations. */
static inline bal_quant_opts case_options(const char *recipe, const char *const *set, size_t n_set)
{
    return (bal_quant_opts){.size = sizeof(bal_quant_opts),
                            .threads = 1,
                            .recipe = recipe,
                            .set = set,
                            .n_set = n_set,
                            .calib = source_path(DATA),
                            .samples = -1};
}

/* Made by the first call, at `path`, for others to compare with; nothing is left beside it. */
static inline const char *made_once(char path[600], const char *name, const bal_quant_opts *o)
{
    char partial[700];
    if (path[0]) return path;
    snprintf(path, 600, "%s", scratch(name));
    make(path, o);
    snprintf(partial, sizeof partial, "%s.partial", path);
    assert_false(bal_path_exists(partial));
    return path;
}

static inline void assert_same_file(const char *a, const char *b)
{
    bal_mapping x, y;
    bal_error err;
    ASSERT_OK(bal_map_open(&x, a, &err));
    ASSERT_OK(bal_map_open(&y, b, &err));
    assert_int_equal(x.n_bytes, y.n_bytes);
    assert_memory_equal(x.data, y.data, x.n_bytes);
    bal_map_close(&x);
    bal_map_close(&y);
}

/* Ends the process in that stage, as a power cut would. */
typedef struct killer {
    const char *stage;
    uint64_t at;
} killer;

static inline bool die_in_stage(void *ctx, const bal_progress *p)
{
    const killer *k = ctx;
    if (strcmp(p->stage, k->stage) == 0 && p->done >= k->at) raise(SIGKILL);
    return true;
}

static inline void kill_in_stage(const char *out, const bal_quant_opts *opts, killer k)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        bal_quant_opts o = *opts;
        o.progress = die_in_stage;
        o.progress_ctx = &k;
        bal_quantize(source_path(MODEL), out, &o, NULL);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

#endif
