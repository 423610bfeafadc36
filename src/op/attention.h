/* SPDX-License-Identifier: MIT
 * Softmax attention over lists of pages, with grouped query heads. Keys are reduced page by page in
 * order, always BAL_PAGE positions at a time, so a row's bits do not depend on how many rows are
 * computed together, nor on which of them share their first pages (online softmax: Milakov and
 * Gimelshein 2018; merge of (O, m, l): Dao 2022). */
#ifndef BAL_OP_ATTENTION_H
#define BAL_OP_ATTENTION_H

#include "op/exec.h"
#include "op/kv.h"

/* A page of plain f32: up to BAL_PAGE consecutive positions, k, v [BAL_PAGE][kv_heads * head_dim].
 */
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

/* Rows row .. row + m - 1 of a batch belong to one sequence and stand there at positions
 * first .. first + m - 1, counted in cached positions. Its pages hold at least first + m. The first
 * `shared` pages are those of the span before it in the list and lie before `first` of both: rows
 * of both are then computed together and the pages read once. 0 is always right. */
typedef struct bal_kv_span {
    int row, m, first, shared;
    uint8_t *const *pages;
} bal_kv_span;

/* Which pages take part, for computing in pieces. */
typedef struct bal_page_range {
    int begin, end;
} bal_page_range;

/* Causal attention of several sequences over cached pages of `layer`; heads queries for
 * layout->heads keys. q, out [rows of all spans][heads * dim]. With a range, `out` and `ml`
 * [rows][heads][2] are the state (O, m, l) of each row, O not divided by l: what was there before
 * is continued (O = 0, m = -inf, l = 0 to begin), so any cut into ranges, in order, gives the bits
 * of one call. Without one ml may be NULL. */
void bal_attention_cached(const bal_exec *e, int heads, const bal_kv_layout *layout, int layer,
                          const float *q, const bal_kv_span *spans, int n_spans,
                          const bal_page_range *range, float *out, float *ml);

/* Adds the state of further keys to that of n rows of dim values: o, from [n][dim]; ml [n][2].
 * Merging the states of single pages in their order gives the bits of one call. */
void bal_attention_merge(float *o, float *ml, const float *from, const float *from_ml, size_t n,
                         size_t dim);
/* out = O / l, in place. */
void bal_attention_finish(float *o, const float *ml, size_t n, size_t dim);

#endif
