/* SPDX-License-Identifier: MIT
 * Softmax attention over a list of pages, with grouped query heads. Keys are reduced page by page
 * in order, always BAL_PAGE positions at a time, so a row's bits do not depend on how many rows are
 * computed together (online softmax: Milakov and Gimelshein 2018; merge of (O, m, l): Dao 2022). */
#ifndef BAL_OP_ATTENTION_H
#define BAL_OP_ATTENTION_H

#include "op/exec.h"
#include "op/kv.h"

/* A page holds up to BAL_PAGE consecutive positions: k, v [BAL_PAGE][kv_heads * head_dim]. */
typedef struct bal_kv_page {
    float *k, *v;
} bal_kv_page;

typedef struct bal_attention_shape {
    int heads, kv_heads, head_dim;
    bool causal;
} bal_attention_shape;

/* q, out [m][heads * head_dim]. The pages hold n_keys positions; query row i stands at position
 * first + i and, when causal, sees keys 0 .. first + i; otherwise all n_keys.
 * scale is 1 / sqrt(head_dim). ml, if not NULL, receives [m][heads][2] = (max, sum) so that partial
 * results over disjoint key ranges can be merged. */
void bal_attention(const bal_exec *e, const bal_attention_shape *s, const float *q, int m,
                   int first, const bal_kv_page *pages, int n_keys, float *out, float *ml);

#endif
