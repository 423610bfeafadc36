/* SPDX-License-Identifier: MIT
 * What this machine can do at most, at an instruction-set level and a number of threads: read
 * memory and cache, multiply and add floats and bytes, start a job on all threads. Loops with
 * nothing in them but that. */
#ifndef BAL_TOOL_BENCH_LIMITS_H
#define BAL_TOOL_BENCH_LIMITS_H

#include <stdbool.h>

#include "base/pool.h"

typedef enum bal_limit {
    BAL_LIMIT_READ,  /* bytes read from memory, in order, all lanes at once */
    BAL_LIMIT_FMA,   /* fused multiply-adds of f32 in registers; scalar level: a multiply, an add */
    BAL_LIMIT_INT8,  /* multiply-adds of two bytes in registers: what packed weights are multiplied
                        with (vpdpbusd; without it vpmaddubsw and vpaddw); scalar level: plain C */
    BAL_LIMIT_BF16,  /* multiply-adds of two bf16 (vdpbf16ps); no work where there is none */
    BAL_LIMIT_CACHE, /* bytes read from 512 KiB that each lane has for itself */
    BAL_LIMIT_CLOCK, /* core cycles: dependent multiplications, three cycles each on every x86-64
                        of the last ten years; no work on other processors */
    BAL_LIMIT_BARRIER, /* jobs of the pool with nothing in them, one piece a lane */
    BAL_LIMITS
} bal_limit;

const char *bal_limit_name(bal_limit limit); /* "read", "fma", "int8", "bf16", ... */
int bal_limit_bits(bal_limit limit);         /* of what is multiplied, else 0 */
bool bal_limit_reads(bal_limit limit);       /* its work is bytes */
/* Whether there is such a limit at a level that this processor has. */
bool bal_limit_exists(bal_limit limit, const char *isa);

/* Contents of any kind to read; at least 256 MiB or it measures a cache. A multiple of 1 MiB. */
typedef struct bal_limit_buffer {
    const uint8_t *data;
    size_t n_bytes;
} bal_limit_buffer;

/* Runs the loop once on all lanes of the pool; isa is the name of a level this processor has.
 * Returns how many bytes, multiply-adds, cycles or jobs that were. */
double bal_limit_run(bal_limit limit, const char *isa, bal_pool *pool, bal_limit_buffer buffer);

double bal_bench_now(void); /* seconds of a monotonic clock */

#endif
