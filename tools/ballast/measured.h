/* SPDX-License-Identifier: MIT
 * Quantizing in a process of its own, so that what it took is its own: memory that an earlier run
 * left in the heap is not counted. */
#ifndef BAL_TOOLS_MEASURED_H
#define BAL_TOOLS_MEASURED_H

#include "ballast_quant.h"

typedef struct bal_cost {
    double seconds, cpu_seconds; /* of the clock; of the processor, over all threads */
    double mb;                   /* 10^6 bytes resident at most, mapped files included */
} bal_cost;

/* bal_quantize; its progress callback runs in that process. To be called without other threads.
 * BAL_E_IO: the process could not be started or came to no end of its own. */
bal_status bal_quantize_measured(const char *model, const char *out, const bal_quant_opts *opts,
                                 bal_cost *cost, bal_error *err);

#endif
