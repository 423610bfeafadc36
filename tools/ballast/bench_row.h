/* SPDX-License-Identifier: MIT
 * One line of a benchmark, whatever was measured: the schema of `ballast bench --json`. */
#ifndef BAL_TOOL_BENCH_ROW_H
#define BAL_TOOL_BENCH_ROW_H

#include <stddef.h>

/* weights_per_s counts a weight once per call whatever the rows; of limits it is multiply-adds,
 * cycles ("clock") or jobs ("barrier"), and 0 of those that read. bytes_per_s counts weights with
 * their scales and zero points, and in the rows of a model the keys and values that are read. */
typedef struct bal_bench_row {
    char name[24];
    const char *isa;
    int bits;           /* of a limit: of what it multiplies, else 0 */
    size_t group, n, k; /* 0 where it does not apply */
    int rows, threads;
    double weights_per_s, bytes_per_s;
    double products_per_s;   /* of a model: multiply-adds of weights, else 0 */
    double seconds;          /* of a call, the median of the rounds */
    double slowest, fastest; /* of the rounds, relative to the median */
    double tokens_per_s;     /* of a model, else 0 */
    const char *limit;  /* "read" (bytes), "fma", "int8" (multiply-adds), "int8+fma" (each for what
                           is multiplied so), or NULL for what has none */
    double limit_per_s; /* bytes or multiply-adds; for "int8+fma" tokens */
    double fraction;
} bal_bench_row;

/* Sorts seconds[n] and fills the row's median, slowest and fastest. */
void bal_bench_set_seconds(bal_bench_row *row, double *seconds, int n);

#endif
