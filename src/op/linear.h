/* SPDX-License-Identifier: MIT
 * y = x W^T + b for every way a weight may be stored. */
#ifndef BAL_OP_LINEAR_H
#define BAL_OP_LINEAR_H

#include "op/exec.h"
#include "type/act.h"
#include "type/packed.h"
#include "type/type.h"

enum { BAL_RANK_MOST = 64 };

/* W is [n outputs][k inputs]; borrowed memory. type says which of the two views is live. */
typedef struct bal_linear {
    bal_type type; /* F32, F16, BF16: `w`; W2, W3, W4, W6, W8: `packed` */
    int n, k;
    const void *w; /* row-major, k elements a row, any alignment */
    bal_packed_view packed;
    bal_act act;       /* how packed weights read their input */
    const float *bias; /* [n] or NULL */
    /* inputs that Hadamard's transform mixes before W reads them, 0: none. The caller does that
     * (bal_hadamard): forward takes inputs, and backward gives gradients, in W's own basis */
    int hadamard;
    /* of packed weights: y = x W^T + (x A^T) B^T, f16 at any alignment, A [rank][k], B [n][rank];
     * rank 0: there is none, else at most half of k and BAL_RANK_MOST */
    int rank;
    bool low_vision; /* rows of vision alone get it: it is no part of W */
    const void *low_a, *low_b;
} bal_linear;

/* Bytes of the weights as they lie in memory, the matrices of small rank counted, the bias not. */
uint64_t bal_linear_bytes(const bal_linear *w);

/* x [m][k], y [m][n] with row strides ldx, ldy in elements; y must not overlap x.
 * Each output depends on its own row of x only, and its bits on nothing else: not on m, threads or
 * tiles. Packed weights read x as integers, as `act` says (docs/numerics.md). */
void bal_linear_forward(const bal_exec *e, const bal_linear *w, const float *x, size_t ldx, int m,
                        float *y, size_t ldy);

/* The same with a modality [m] of each row, which says what scale of act.fixed it gets, and whether
 * what low_vision keeps for vision; NULL, as above: they are text. */
void bal_linear_forward_rows(const bal_exec *e, const bal_linear *w, const float *x, size_t ldx,
                             const uint8_t *modality, int m, float *y, size_t ldy);

typedef struct bal_linear_output {
    const bal_linear *w;
    float *y; /* [m][w->n], stride ldy; overlaps neither x nor another output */
    size_t ldy;
} bal_linear_output;

/* The same for n linears with as many inputs that read the same rows, with the same bits: of those
 * that follow each other and read rows as the same integers up to three share these and a job of
 * the pool, which goes by the largest of their grains. */
void bal_linear_forward_all(const bal_exec *e, const bal_linear_output *out, int n, const float *x,
                            size_t ldx, const uint8_t *modality, int m);

/* y [m][n] += (x A^T) B^T in the rows that get it, which is the small rank's part of the above, bit
 * for bit. Of w nothing is read but n, k and the small rank. */
void bal_linear_add_low(const bal_exec *e, const bal_linear *w, const float *x, size_t ldx,
                        const uint8_t *modality, int m, float *y, size_t ldy);

/* What forward does with m rows: what e->shapes says of the key, where it says something that these
 * kernels can do, else the rules. */
bal_shapes_key bal_linear_key(const bal_linear *w, size_t m);
bal_shapes_choice bal_linear_choice(const bal_exec *e, const bal_linear *w, size_t m);
/* Whether a kernel multiplies these weights here, and how the rules cut its work. */
bool bal_linear_takes(const bal_exec *e, const bal_linear *w, bal_shapes_kernel kernel);
bal_shapes_choice bal_linear_rule(const bal_exec *e, const bal_linear *w, bal_shapes_kernel kernel);

/* One row x[k] as bytes, as a linear with this a8 path reads it; out [ceil(k / 32)]. */
void bal_act_quantize(const bal_kernels *kernels, const bal_act *act, int modality, const float *x,
                      size_t k, bal_a8 *out);

/* dx [m][k] = dy [m][n] W, the activation gradient; float weights only. dx is overwritten, or
 * added to when `accumulate` is set. */
void bal_linear_backward(const bal_exec *e, const bal_linear *w, const float *dy, size_t lddy,
                         int m, float *dx, size_t lddx, bool accumulate);

/* Row r of W as f32 (an embedding look-up), with what is added to it for all rows of x. */
void bal_linear_row(const bal_linear *w, int r, float *out);

#endif
