/* SPDX-License-Identifier: MIT
 * Inside op/ only: how much of its lane's scratch each op uses, so that exec can size it. */
#ifndef BAL_OP_SCRATCH_H
#define BAL_OP_SCRATCH_H

#include "op/attention.h"

#include <stddef.h>

enum {
    BAL_GRAD_TILE = 64, /* rows and columns of W converted at a time in the backward pass */
    BAL_QUERY_TILE = 64,
};
#define BAL_GRAD_SCRATCH ((size_t)BAL_GRAD_TILE * BAL_GRAD_TILE * sizeof(float))
/* scores [BAL_QUERY_TILE][64]; queries, a page's output, output [BAL_QUERY_TILE][head_dim]; keys or
 * values [64][head_dim] */
#define BAL_ATTENTION_SCRATCH                                                                      \
    (((size_t)BAL_QUERY_TILE * (64 + 3 * BAL_MAX_HEAD_DIM) + 64 * BAL_MAX_HEAD_DIM) * sizeof(float))

#endif
