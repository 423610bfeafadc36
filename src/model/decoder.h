/* SPDX-License-Identifier: MIT
 * The shared decoder: a straight line of ops per block. The two halves of a block are callable on
 * their own, because calibration searches scales through them. */
#ifndef BAL_MODEL_DECODER_H
#define BAL_MODEL_DECODER_H

#include "model/model.h"
#include "op/attention.h"

/* Points at which a caller may look at intermediate values; data is [rows][cols], valid during the
 * call only. `layer` is -1 where it makes no sense. */
typedef enum bal_tap {
    BAL_TAP_VISION_EMBED, /* after patch embedding and positions */
    BAL_TAP_VISION_LAYER, /* output of vision block `layer`; on a device data is NULL */
    BAL_TAP_VISION_OUT,   /* what enters the projector */
    BAL_TAP_PROJECTOR,    /* projector output, all views */
    BAL_TAP_IMAGE,        /* packed image features with newlines */
    BAL_TAP_EMBED,        /* decoder input embeddings */
    BAL_TAP_ATTN,         /* attention output (after o_proj), before the residual add */
    BAL_TAP_MLP,          /* MLP output (after down_proj), before the residual add */
    BAL_TAP_BLOCK,        /* block output */
    BAL_TAP_NORM,         /* after the final norm */
    BAL_TAP_LOGITS,
} bal_tap;

typedef void bal_tap_fn(void *ctx, bal_tap tap, int layer, const float *data, int rows, int cols);
typedef struct bal_taps {
    bal_tap_fn *fn; /* NULL: nobody looks */
    void *ctx;
} bal_taps;

/* The rows that pass through a block together, of one sequence or of several: spans cover rows
 * 0 .. m - 1 in order. Keys and values of the rows are written into the spans' pages. */
typedef struct bal_rows {
    int m;
    const float *cos, *sin;  /* [m][head_dim / 2], bal_rope_angles */
    const uint8_t *modality; /* [m] bal_modality, or NULL: all are text */
    const bal_kv_layout *kv; /* what the pages look like, */
    int layer;               /* and which layer of theirs is used */
    const bal_kv_span *spans;
    int n_spans;
} bal_rows;

/* Work buffers for up to max_m rows. After a call, q (rotated), ctx (input of o_proj) and act
 * (input of down_proj) may be read; of linears with mixed inputs, these are the mixed ones. */
typedef struct bal_decoder_buf {
    int max_m;
    float *norm;      /* [m][hidden] */
    float *q;         /* [m][heads * head_dim] */
    float *k, *v;     /* [m][kv_heads * head_dim] */
    float *ctx;       /* [m][heads * head_dim] */
    float *act;       /* [m][intermediate]: silu(gate) * up */
    float *up;        /* [m][intermediate] */
    float *out;       /* [m][hidden] */
    float *cos, *sin; /* [m][head_dim / 2] */
    void *memory;
} bal_decoder_buf;

bal_status bal_decoder_buf_create(bal_decoder_buf *b, const bal_text_config *c, int max_m,
                                  bal_error *err);
/* What that allocates; SIZE_MAX: more than a size_t counts. */
size_t bal_decoder_buf_bytes(const bal_text_config *c, int max_m);
void bal_decoder_buf_destroy(bal_decoder_buf *b);

/* Norms of q and k (where the layer has them) and rotation, in place: q [m][heads * head_dim],
 * k [m][kv_heads * head_dim], cos and sin [m][head_dim / 2]. */
void bal_decoder_rotate(const bal_exec *e, const bal_text_config *c, const float *q_norm,
                        const float *k_norm, int m, const float *cosine, const float *sine,
                        float *q, float *k);
/* x [m][hidden], already normed -> out [m][hidden], the o_proj output. */
void bal_decoder_attn(const bal_exec *e, const bal_text_config *c, const bal_decoder_layer *l,
                      const bal_rows *r, const float *x, bal_decoder_buf *b, float *out);
/* x [m][hidden], already normed -> out [m][hidden], the down_proj output. */
void bal_decoder_mlp(const bal_exec *e, const bal_text_config *c, const bal_decoder_layer *l,
                     const bal_rows *r, const float *x, bal_decoder_buf *b, float *out);
/* h [m][hidden] in place through block `index`. */
void bal_decoder_block(const bal_exec *e, const bal_text_config *c, const bal_decoder_layer *l,
                       const bal_rows *r, float *h, bal_decoder_buf *b, int index, bal_taps taps);

/* Final norm of m rows of h (into b->norm) and their logits [m][vocab]. */
void bal_decoder_logits(const bal_exec *e, const bal_model *model, const float *h, int m,
                        bal_decoder_buf *b, float *logits, bal_taps taps);

#endif
