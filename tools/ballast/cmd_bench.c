/* SPDX-License-Identifier: MIT
 * ballast bench: what this machine can do at most, and how much of that the kernels reach. Timings
 * are those of the moment: compare rows of one run, which are taken in turn. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "bench_kernels.h"
#include "commands.h"
#include "console.h"

enum { MAX_SIDE = 1 << 20, MAX_ROWS = 4096 };

/* "3584x18944": outputs x inputs */
static bool parse_shape(const char *text, size_t *n, size_t *k)
{
    char tail;
    if (sscanf(text, "%7zux%7zu%c", n, k, &tail) != 2) return false;
    return *n >= 1 && *n <= MAX_SIDE && *k >= 1 && *k <= MAX_SIDE;
}

static json_t *row_json(const bal_bench_row *r)
{
    json_t *j = json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:i, s:i, s:f, s:f, s:f, s:f}", "name",
                          r->name, "isa", r->isa, "bits", r->bits, "group", (json_int_t)r->group,
                          "n", (json_int_t)r->n, "k", (json_int_t)r->k, "rows", r->rows, "threads",
                          r->threads, "weights_per_s", r->weights_per_s, "bytes_per_s",
                          r->bytes_per_s, "slowest", r->slowest, "fastest", r->fastest);
    json_object_set_new(j, "limit", r->limit ? json_string(r->limit) : json_null());
    json_object_set_new(j, "limit_per_s", r->limit ? json_real(r->limit_per_s) : json_null());
    json_object_set_new(j, "fraction", r->limit ? json_real(r->fraction) : json_null());
    return j;
}

static void print_row(const bal_bench_row *r)
{
    char shape[32] = "", rate[32] = "", share[32] = "";
    if (r->n) snprintf(shape, sizeof shape, "%zux%zu", r->n, r->k);
    if (r->weights_per_s > 0) snprintf(rate, sizeof rate, "%.2f", r->weights_per_s * 1e-9);
    if (r->limit) snprintf(share, sizeof share, "%.0f %% of %s", 100 * r->fraction, r->limit);
    printf("%-13s %-7s %-12s %5d %7d %10s %8.2f %6.2f-%-5.2f %s\n", r->name, r->isa, shape, r->rows,
           r->threads, rate, r->bytes_per_s * 1e-9, r->slowest, r->fastest, share);
}

static int print_rows(const bal_bench_row *rows, int n, bool as_json)
{
    if (as_json) {
        json_t *list = json_array();
        for (int i = 0; i < n; i++) json_array_append_new(list, row_json(&rows[i]));
        return bal_print_json("bench", json_pack("{s:o}", "rows", list));
    }
    printf("%-13s %-7s %-12s %5s %7s %10s %8s %12s\n", "name", "isa", "shape", "rows", "threads",
           "Gweights/s", "GB/s", "spread");
    for (int i = 0; i < n; i++) print_row(&rows[i]);
    printf("\nmedians of the rounds; spread: the slowest and the fastest round over the median\n");
    return 0;
}

int bal_cmd_bench(int argc, char **argv)
{
    bool limits = false, kernels = false;
    const char *shape = "3584x18944";
    int group = 128, rows = 64, repeats = 9;
    const bal_arg args[] = {
        {"--limits", 0, BAL_ARG_BOOL, &limits, "",
         "read bandwidth, multiply-add peak of floats and of bytes", 0, 0},
        {"--kernels", 0, BAL_ARG_BOOL, &kernels, "",
         "matrix kernels beside those limits (the default)", 0, 0},
        {"--shape", 0, BAL_ARG_STRING, &shape, "NxK", "outputs x inputs (3584x18944)", 0, 0},
        {"--group", 'g', BAL_ARG_INT, &group, "G", "group of packed weights, 0: the row (128)", 0,
         MAX_SIDE},
        {"--rows", 0, BAL_ARG_INT, &rows, "M", "tokens of the second half; 1: none (64)", 1,
         MAX_ROWS},
        {"--repeats", 0, BAL_ARG_INT, &repeats, "R", "rounds over all cases (9)", 1, 101},
    };
    const bal_command cmd = {"bench",
                             "",
                             "Measures this machine and the kernels on it.",
                             args,
                             sizeof args / sizeof *args,
                             0,
                             0,
                             false};
    bal_common common = {0};
    int n_operands = 0;
    const int done = bal_args_read(&cmd, &common, argc, argv, NULL, &n_operands);
    if (done >= 0) return done;
    if (limits && kernels) return bal_usage("bench", "--limits and --kernels exclude each other");

    bal_error err = {0};
    unsigned isa = bal_cpu_isa();
    if (common.isa && bal_isa_from_name(&isa, common.isa, &err) < 0)
        return bal_usage("bench", "--isa: %s", err.text);
    isa &= bal_cpu_isa();
    bal_kernels table;
    bal_kernels_init(&table, isa);
    bal_bench_plan plan = {.kernels = &table, .isa = bal_isa_name(isa), .rows = rows};
    plan.group = (size_t)group, plan.repeats = repeats;
    if (!parse_shape(shape, &plan.n, &plan.k))
        return bal_usage("bench", "--shape is '%s'; expected NxK with both from 1 to %d", shape,
                         MAX_SIDE);
    if (bal_pool_create(&plan.pool, common.threads, &err) < 0)
        return bal_failure("bench", "%s", err.text);
    bal_bench_row out[BAL_BENCH_ROWS];
    int n = 0;
    const bal_status st =
        limits ? bal_bench_limits(&plan, out, &n, &err) : bal_bench_kernels(&plan, out, &n, &err);
    bal_pool_destroy(plan.pool);
    if (st < 0) return bal_failure("bench", "%s", err.text);
    const int status = print_rows(out, n, common.json);
    return status ? status : bal_finish("bench", 0);
}
