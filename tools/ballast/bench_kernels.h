/* SPDX-License-Identifier: MIT
 * Measures kernels against the limits of the machine they run on: sustained read bandwidth, fused
 * multiply-add peak and the peak of byte products. Cases are run in turn, round after round, so
 * that a busy neighbour hits all of them alike; a row reports the median round and the slowest and
 * fastest. A matrix is timed between two probes of its limit, and its fraction is the median of the
 * rounds' own. */
#ifndef BAL_TOOL_BENCH_KERNELS_H
#define BAL_TOOL_BENCH_KERNELS_H

#include "base/pool.h"
#include "bench_row.h"
#include "kernel/table.h"
#include "op/shapes.h"

/* What to measure. The shape is n outputs x k inputs; packed weights have groups of `group`. */
typedef struct bal_bench_plan {
    const bal_kernels *kernels;
    const char *isa; /* name of the level of `kernels` */
    bal_pool *pool;
    size_t n, k, group;
    const bal_shapes *shapes; /* a table for them, or NULL */
    int rows;                 /* tokens of the second set of cases; the first has one */
    int repeats;
    bool resident; /* one copy of the matrix, read again and again: what a cache gives */
} bal_bench_plan;

enum { BAL_BENCH_ROWS = 64 };

/* Fills rows[BAL_BENCH_ROWS] and *n_rows: the limits at every thread count up to the pool's. */
bal_status bal_bench_limits(const bal_bench_plan *plan, bal_bench_row *rows, int *n_rows,
                            bal_error *err);

/* The same, for the limits at the pool's size and the matrix kernels of the plan. */
bal_status bal_bench_kernels(const bal_bench_plan *plan, bal_bench_row *rows, int *n_rows,
                             bal_error *err);

#endif
