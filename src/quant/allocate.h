/* SPDX-License-Identifier: MIT
 * Which width each tensor gets under a budget of bytes: a multiple-choice knapsack, solved by a
 * Lagrangian sweep over the lower convex hull of every tensor's (bytes, cost), then by exchange,
 * then by branch and bound for as many nodes as are allowed. Knows nothing of tensors; what a
 * choice costs is measured elsewhere (price.h). */
#ifndef BAL_QUANT_ALLOCATE_H
#define BAL_QUANT_ALLOCATE_H

#include "base/status.h"

enum { BAL_ALLOC_MAX_OPTIONS = 8 };

typedef struct bal_alloc_option {
    uint64_t n_bytes;
    double cost; /* finite */
} bal_alloc_option;

typedef struct bal_alloc_problem {
    int units, options;
    const bal_alloc_option *option; /* [units][options]; bytes rise with the option */
    uint64_t budget;                /* bytes of all units together */
} bal_alloc_problem;

typedef struct bal_alloc_result {
    uint64_t n_bytes;
    double cost;
    double bound; /* no allocation within the budget costs less (Lagrangian bound) */
    bool proved;  /* nothing cheaper exists: the search came to its end */
} bal_alloc_result;

/* choice[units]: the option of every unit. A budget below the least possible is BAL_E_ARG, and the
 * sentence gives the least; costs that are not finite are BAL_E_NUMERIC. The same problem gives the
 * same choice, whatever machine or thread count. */
bal_status bal_allocate(int *choice, bal_alloc_result *r, const bal_alloc_problem *p,
                        bal_error *err);

/* Of all units at their choice together. */
uint64_t bal_alloc_bytes(const bal_alloc_problem *p, const int *choice);
double bal_alloc_cost(const bal_alloc_problem *p, const int *choice);

/* Bytes of the first, and of the last, option of every unit together. */
uint64_t bal_alloc_least(const bal_alloc_problem *p);
uint64_t bal_alloc_most(const bal_alloc_problem *p);

#endif
