/* SPDX-License-Identifier: MIT
 * Activation gradients of one decoder block and of the answer loss; weights get none. Everything
 * inside the block is recomputed from its two residual inputs, so a sample costs two hidden states
 * a layer. Formulas: docs/numerics.md, "Backward". */
#ifndef BAL_QUANT_BACKWARD_H
#define BAL_QUANT_BACKWARD_H

#include "quant/probe.h"
#include "quant/recipe.h"
#include "quant/sample.h"

/* How the gradient is held. scale multiplies the loss (1, or 1 / N as the published code divides
 * by the number of samples). f16 rounds every gradient tensor at each module boundary: logits, head
 * and norm inputs, both factors of SwiGLU, attention weights and products, rope, every linear's
 * input, every sum. The forward pass stays f32. */
typedef struct bal_backward_mode {
    double scale;
    bal_gradient arith;
} bal_backward_mode;

typedef struct bal_backward {
    int max_len;
    float *norm, *dnorm, *dpart; /* [n][hidden] */
    float *gate, *up, *dact;     /* [n][intermediate] */
    float *q, *dq, *dctx;        /* [n][heads * head_dim] */
    float *k, *v, *dk, *dv;      /* [n][kv_heads * head_dim] */
    float *kh, *vh, *dkh, *dvh;  /* [n][head_dim]: one head */
    float *kt, *vt;              /* [head_dim][n]: kh and vh transposed */
    float *qh, *dqh, *doh;       /* [BAL_BACKWARD_ROWS][head_dim]: some rows of one head */
    float *p, *dp, *t;           /* [BAL_BACKWARD_ROWS][n]; t transposed */
    void *memory;
} bal_backward;

enum { BAL_BACKWARD_ROWS = 128 }; /* queries at a time: memory does not grow with n^2 */

bal_status bal_backward_create(bal_backward *b, const bal_text_config *c, int max_len,
                               bal_error *err);
void bal_backward_destroy(bal_backward *b); /* idempotent; zeroed struct is fine */

/* l, wide: the block's weights, once as they are and once transposed for what is recomputed.
 * h [n][hidden]: input of the block; mid: h plus the attention output. dh enters as the gradient of
 * the block's output, which is also that of down_proj's output, and leaves as the gradient of h;
 * dmid receives the gradient of o_proj's output. rows: positions of the n rows. */
void bal_backward_block(const bal_exec *e, const bal_text_config *c, const bal_decoder_layer *l,
                        const bal_wide_layer *wide, const bal_rows *rows, bal_backward_mode mode,
                        const float *h, const float *mid, float *dh, float *dmid, bal_backward *b);

/* Attention alone: dout [n][hidden], the gradient of o_proj's output, leaves that of q's, k's and
 * v's outputs in b->dq, b->dk and b->dv and that of h through the norm in b->dnorm. */
void bal_backward_attn(const bal_exec *e, const bal_text_config *c, const bal_decoder_layer *l,
                       const bal_wide_layer *wide, const bal_rows *rows, bal_backward_mode mode,
                       const float *h, const float *dout, bal_backward *b);

/* Mean cross-entropy (nats) of predicting each ANSWER token from the position before it, and its
 * gradient dh [n][hidden] with respect to h, the output of the last block. A sample without an
 * answer token after position 0 fails with BAL_E_ARG. */
bal_status bal_backward_loss(const bal_exec *e, const bal_model *m, const bal_sample *sample,
                             bal_backward_mode mode, const float *h, double *loss, float *dh,
                             bal_decoder_buf *buf, bal_error *err);

#endif
