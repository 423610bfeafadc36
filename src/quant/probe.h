/* SPDX-License-Identifier: MIT
 * The forward pass of calibration: the same sub-modules as model/decoder.h on f32 weights that are
 * kept transposed. Twenty candidates a group are nearly all of the time of a quantization, and
 * products that broadcast activations over [k][n] weights run 2 to 3 times as fast as the row by
 * row dot products that inference needs; results differ from those in the last places only, and
 * depend on nothing but their own row. */
#ifndef BAL_QUANT_PROBE_H
#define BAL_QUANT_PROBE_H

#include "quant/actsim.h"
#include "quant/pass.h"

typedef struct bal_wide {
    int n, k, ld;
    const float *w;    /* [k][ld], of which n columns are used */
    const float *bias; /* [n] or NULL */
    /* rank > 0: rows of vision get (x A^T) B^T besides, x as it is; A [rank][k], B [n][rank], f16,
     * borrowed */
    int rank;
    const uint16_t *low_a, *low_b;
} bal_wide;

enum { BAL_WIDE_INPUTS = 4 }; /* of a block's linears, as BAL_GROUPS counts them */

/* The linears of a block, transposed. Norms and biases are borrowed. */
typedef struct bal_wide_layer {
    bal_wide w[BAL_DECODER_LINEARS]; /* q k v o gate up down */
    const float *attn_norm, *mlp_norm, *q_norm, *k_norm;
    /* how the linears that read one input read it: {q,k,v}, {o}, {gate,up}, {down} */
    bal_act act[BAL_WIDE_INPUTS];
    int hadamard[BAL_WIDE_INPUTS]; /* of {o} and {down}, as the layer this was made like */
    float *rows;                   /* inputs after that; NULL: `act` must be a16 */
    float *memory[BAL_DECODER_LINEARS];
    float *lanes; /* [pool size][BAL_WIDE_PANEL + 1][widest] */
    int widest;   /* inputs */
} bal_wide_layer;

enum { BAL_WIDE_PANEL = 16 }; /* rows of a weight that one lane transposes at a time */

/* Memory for layers of the shape of `like`; contents are undefined. */
bal_status bal_wide_layer_create(bal_wide_layer *l, const bal_exec *e,
                                 const bal_decoder_layer *like, bal_error *err);
/* Room for max_rows inputs, without which every `act` is a16. */
bal_status bal_wide_layer_rows(bal_wide_layer *l, int max_rows, bal_error *err);
void bal_wide_layer_destroy(bal_wide_layer *l); /* idempotent; zeroed struct is fine */
/* (BAL_WIDE_PANEL + 1) * widest floats of one lane. */
float *bal_wide_lane(const bal_wide_layer *l, int lane);

/* Makes row r of a weight: out [k]; work [k] is scratch. */
typedef void bal_wide_row_fn(const void *ctx, int r, float *out, float *work);

/* Linear i gets rows from fn, called from any lane in any order, and nothing besides. */
void bal_wide_fill(bal_wide_layer *l, const bal_exec *e, int i, bal_wide_row_fn *fn,
                   const void *ctx);

/* All linears with norms and biases as the float layer `from` has them, reading inputs as they are.
 */
void bal_wide_copy_all(bal_wide_layer *l, const bal_exec *e, const bal_decoder_layer *from);
/* Norms and biases alone. */
void bal_wide_copy_rest(bal_wide_layer *l, const bal_decoder_layer *from);

enum { BAL_PROBE_ROWS = 64 }; /* queries of one work item of attention */

typedef struct bal_probe {
    int max_len;
    float *keys;   /* [kv_heads * head_dim][max_len]: transposed */
    float *scores; /* [pool size][BAL_PROBE_ROWS][max_len] */
} bal_probe;

bal_status bal_probe_create(bal_probe *p, const bal_exec *e, const bal_text_config *c, int max_len,
                            bal_error *err);
void bal_probe_destroy(bal_probe *p); /* idempotent; zeroed struct is fine */

/* y [m][n] = x [m][k] w + bias; what rows of vision get besides is left out */
void bal_probe_linear(const bal_exec *e, const bal_wide *w, const float *x, int m, float *y);
/* t [cols][rows] = x [rows][cols], of row stride ldx */
void bal_probe_transpose(const bal_exec *e, const float *x, size_t ldx, int rows, int cols,
                         float *t);

/* x [m][hidden], already normed -> out [m][hidden]; linears read their inputs as l->act says.
 * Afterwards pass->buf.ctx and .act hold the inputs of o_proj and down_proj before that, but
 * through their Hadamard transform. */
void bal_probe_attn(const bal_exec *e, const bal_text_config *c, const bal_wide_layer *l, int m,
                    const float *x, bal_probe *p, bal_pass *pass, float *out);
void bal_probe_mlp(const bal_exec *e, const bal_text_config *c, const bal_wide_layer *l, int m,
                   const float *x, bal_pass *pass, float *out);

/* The whole block with its norms and residual sums, h [m][hidden] -> out, which may be h; mid
 * [m][hidden]: the stream behind attention. pass must be placed at the sample. */
void bal_probe_block(const bal_exec *e, const bal_text_config *c, const bal_wide_layer *l, int m,
                     const float *h, bal_probe *p, bal_pass *pass, float *mid, float *out);

/* How much each position of a sample of m is attended to, out [m]: softmax weights of the attention
 * that bal_probe_attn last made, summed over queries, as a mean over heads. The weights of one
 * query sum to 1, so all sum to m. sums [heads][m] is scratch. */
void bal_probe_attended(const bal_exec *e, const bal_text_config *c, int m, bal_probe *p,
                        const bal_pass *pass, double *sums, float *out);

#endif
