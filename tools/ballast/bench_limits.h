/* SPDX-License-Identifier: MIT
 * What this machine can do at most, at an instruction-set level and a number of threads: read
 * memory, multiply and add floats, multiply and add bytes. Loops with nothing in them but that. */
#ifndef BAL_TOOL_BENCH_LIMITS_H
#define BAL_TOOL_BENCH_LIMITS_H

#include "base/pool.h"

typedef enum bal_limit {
    BAL_LIMIT_READ, /* bytes read from memory, in order, all lanes at once */
    BAL_LIMIT_FMA,  /* fused multiply-adds of f32 in registers; scalar level: a multiply, an add */
    BAL_LIMIT_INT8, /* multiply-adds of two bytes into 16-bit sums in registers (vpmaddubsw and
                       vpaddw, what packed weights are multiplied with); scalar level: plain C */
    BAL_LIMITS
} bal_limit;

const char *bal_limit_name(bal_limit limit); /* "read", "fma", "int8" */

/* Contents of any kind to read; at least 256 MiB or it measures a cache. A multiple of 1 MiB. */
typedef struct bal_limit_buffer {
    const uint8_t *data;
    size_t n_bytes;
} bal_limit_buffer;

/* Runs the loop once on all lanes of the pool; isa is the name of a level this processor has.
 * Returns how many bytes or multiply-adds that were. */
double bal_limit_run(bal_limit limit, const char *isa, bal_pool *pool, bal_limit_buffer buffer);

double bal_bench_now(void); /* seconds of a monotonic clock */

#endif
