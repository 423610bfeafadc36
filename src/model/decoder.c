/* SPDX-License-Identifier: MIT */
#include "model/decoder.h"

#include "base/size.h"
#include "op/pointwise.h"

#include <stdlib.h>
#include <string.h>

static void look(bal_taps t, bal_tap tap, int layer, const float *data, int rows, int cols)
{
    if (t.fn) t.fn(t.ctx, tap, layer, data, rows, cols);
}

enum { SLOTS = 10 };

/* Floats of a row in each buffer, in the order of bal_decoder_buf; returns their sum. */
static size_t row_widths(const bal_text_config *c, size_t width[SLOTS])
{
    const size_t hidden = (size_t)c->hidden, inter = (size_t)c->intermediate;
    const size_t q = (size_t)c->heads * (size_t)c->head_dim;
    const size_t kv = (size_t)c->kv_heads * (size_t)c->head_dim, half = (size_t)c->head_dim / 2;
    const size_t real[SLOTS] = {hidden, q, kv, kv, q, inter, inter, hidden, half, half};
    size_t sum = 0;
    for (int i = 0; i < SLOTS; i++) {
        width[i] = bal_round_up(real[i], 16);
        sum += width[i];
    }
    return sum;
}

size_t bal_decoder_buf_bytes(const bal_text_config *c, int max_m)
{
    size_t width[SLOTS];
    const size_t row = row_widths(c, width) * sizeof(float), m = (size_t)max_m;
    return m <= SIZE_MAX / row ? m * row : SIZE_MAX; /* rows are multiples of 64 bytes */
}

bal_status bal_decoder_buf_create(bal_decoder_buf *b, const bal_text_config *c, int max_m,
                                  bal_error *err)
{
    *b = (bal_decoder_buf){.max_m = max_m};
    float **const slot[SLOTS] = {&b->norm, &b->q,  &b->k,   &b->v,   &b->ctx,
                                 &b->act,  &b->up, &b->out, &b->cos, &b->sin};
    size_t width[SLOTS];
    const size_t bytes = bal_decoder_buf_bytes(c, max_m);
    row_widths(c, width);
    float *p = bytes < SIZE_MAX ? aligned_alloc(64, bytes) : NULL;
    if (!p) return bal_nomem(err, bytes, "decoder buffers");
    b->memory = p;
    for (int i = 0; i < SLOTS; i++) {
        *slot[i] = p;
        p += (size_t)max_m * width[i];
    }
    return BAL_OK;
}

void bal_decoder_buf_destroy(bal_decoder_buf *b)
{
    free(b->memory);
    *b = (bal_decoder_buf){0};
}

static void store_kv(const bal_rows *r, const float *k, const float *v, size_t width)
{
    for (int i = 0; i < r->n_spans; i++) {
        const bal_kv_span *s = &r->spans[i];
        for (int row = s->row, at = s->first; row < s->row + s->m; row++, at++)
            bal_kv_write(r->kv, s->pages[at / BAL_PAGE], r->layer, at % BAL_PAGE,
                         k + (size_t)row * width, v + (size_t)row * width);
    }
}

void bal_decoder_rotate(const bal_exec *e, const bal_text_config *c, const float *q_norm,
                        const float *k_norm, int m, const float *cosine, const float *sine,
                        float *q, float *k)
{
    if (q_norm) bal_rms_norm(e, q, q_norm, c->rms_eps, m * c->heads, c->head_dim, q);
    if (k_norm) bal_rms_norm(e, k, k_norm, c->rms_eps, m * c->kv_heads, c->head_dim, k);
    bal_rope_apply(e, q, m, c->heads, c->head_dim, cosine, sine, 1.0f);
    bal_rope_apply(e, k, m, c->kv_heads, c->head_dim, cosine, sine, 1.0f);
}

static bal_linear_output output_of(const bal_linear *w, float *y)
{
    return (bal_linear_output){w, y, (size_t)w->n};
}

/* Of n linears with the same inputs. */
static void multiply(const bal_exec *e, const bal_linear_output *out, int n, const bal_rows *r,
                     const float *x)
{
    bal_linear_forward_all(e, out, n, x, (size_t)out->w->k, r->modality, r->m);
}

void bal_decoder_attn(const bal_exec *e, const bal_text_config *c, const bal_decoder_layer *l,
                      const bal_rows *r, const float *x, bal_decoder_buf *b, float *out)
{
    const bal_linear_output qkv[] = {output_of(&l->q, b->q), output_of(&l->k, b->k),
                                     output_of(&l->v, b->v)};
    const bal_linear_output o = output_of(&l->o, out);
    multiply(e, qkv, 3, r, x);
    bal_decoder_rotate(e, c, l->q_norm, l->k_norm, r->m, r->cos, r->sin, b->q, b->k);
    store_kv(r, b->k, b->v, (size_t)l->k.n);
    bal_attention_cached(e, c->heads, r->kv, r->layer, b->q, r->spans, r->n_spans, NULL, b->ctx,
                         NULL);
    if (l->o.hadamard) bal_hadamard(e, b->ctx, r->m, l->o.k, l->o.hadamard);
    multiply(e, &o, 1, r, b->ctx);
}

void bal_decoder_mlp(const bal_exec *e, const bal_text_config *c, const bal_decoder_layer *l,
                     const bal_rows *r, const float *x, bal_decoder_buf *b, float *out)
{
    const bal_linear_output wide[] = {output_of(&l->gate, b->act), output_of(&l->up, b->up)};
    const bal_linear_output down = output_of(&l->down, out);
    multiply(e, wide, 2, r, x);
    bal_silu_mul(e, b->act, b->up, r->m, c->intermediate);
    if (l->down.hadamard) bal_hadamard(e, b->act, r->m, l->down.k, l->down.hadamard);
    multiply(e, &down, 1, r, b->act);
}

void bal_decoder_block(const bal_exec *e, const bal_text_config *c, const bal_decoder_layer *l,
                       const bal_rows *r, float *h, bal_decoder_buf *b, int index, bal_taps taps)
{
    const size_t n = (size_t)r->m * (size_t)c->hidden;
    bal_rms_norm(e, h, l->attn_norm, c->rms_eps, r->m, c->hidden, b->norm);
    bal_decoder_attn(e, c, l, r, b->norm, b, b->out);
    look(taps, BAL_TAP_ATTN, index, b->out, r->m, c->hidden);
    bal_add(e, h, b->out, n);
    bal_rms_norm(e, h, l->mlp_norm, c->rms_eps, r->m, c->hidden, b->norm);
    bal_decoder_mlp(e, c, l, r, b->norm, b, b->out);
    look(taps, BAL_TAP_MLP, index, b->out, r->m, c->hidden);
    bal_add(e, h, b->out, n);
    look(taps, BAL_TAP_BLOCK, index, h, r->m, c->hidden);
}

void bal_decoder_logits(const bal_exec *e, const bal_model *model, const float *h, int m,
                        bal_decoder_buf *b, float *logits, bal_taps taps)
{
    const bal_text_config *c = &model->config.text;
    bal_rms_norm(e, h, model->final_norm, c->rms_eps, m, c->hidden, b->norm);
    look(taps, BAL_TAP_NORM, -1, b->norm, m, c->hidden);
    bal_linear_forward(e, &model->head, b->norm, (size_t)c->hidden, m, logits, (size_t)c->vocab);
    look(taps, BAL_TAP_LOGITS, -1, logits, m, c->vocab);
}
