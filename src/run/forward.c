/* SPDX-License-Identifier: MIT */
#include "run/forward.h"

#include "base/size.h"
#include "model/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t row_bytes(const bal_text_config *c, size_t rows, size_t picks)
{
    const size_t hidden = bal_round_up((size_t)c->hidden, 16);
    const size_t floats = rows * hidden + picks * hidden +
                          picks * bal_round_up((size_t)c->vocab, 16) + bal_round_up(3 * rows, 16) +
                          bal_round_up(rows, 64) / sizeof(float);
    return floats * sizeof(float);
}

size_t bal_forward_bytes(const bal_text_config *c, int max_rows, int max_logits)
{
    size_t sum;
    const size_t own = row_bytes(c, (size_t)max_rows, (size_t)max_logits);
    return bal_size_add(own, bal_decoder_buf_bytes(c, max_rows), &sum) ? sum : SIZE_MAX;
}

static bal_status allocate(bal_forward *f, bal_error *err)
{
    const bal_text_config *c = &f->engine->model.config.text;
    const size_t rows = (size_t)f->max_rows, picks = (size_t)f->max_logits;
    const size_t hidden = bal_round_up((size_t)c->hidden, 16);
    const size_t bytes = row_bytes(c, rows, picks);
    float *p = aligned_alloc(64, bytes);
    if (!p) return bal_nomem(err, bytes, "rows of the decoder");
    f->memory = f->h = p;
    f->picked = f->h + rows * hidden;
    f->logits = f->picked + picks * hidden;
    f->pos = (int32_t(*)[3])(void *)(f->logits + picks * bal_round_up((size_t)c->vocab, 16));
    f->modality = (uint8_t *)f->memory + bytes - bal_round_up(rows, 64);
    return f->engine->on_device ? BAL_OK : bal_decoder_buf_create(&f->buf, c, f->max_rows, err);
}

bal_status bal_forward_create(bal_forward *f, const bal_engine *engine, const bal_exec *exec,
                              int max_rows, int max_logits, size_t max_pages, bal_error *err)
{
    *f = (bal_forward){
        .engine = engine, .exec = exec, .max_rows = max_rows, .max_logits = max_logits};
    bal_status st = allocate(f, err);
    if (st == BAL_OK && engine->on_device)
        st = bal_device_forward_create(&f->device, engine->on_device, max_rows, max_logits,
                                       max_pages, err);
    if (st < 0) bal_forward_destroy(f);
    return st;
}

void bal_forward_destroy(bal_forward *f)
{
    bal_device_forward_destroy(&f->device);
    bal_decoder_buf_destroy(&f->buf);
    free(f->memory);
    *f = (bal_forward){0};
}

bal_status bal_forward_blocks(bal_forward *f, const bal_kv_layout *kv, const bal_kv_span *spans,
                              int n_spans, int m, bal_taps taps, bal_error *err)
{
    if (f->engine->on_device)
        return bal_device_forward_blocks(&f->device, kv, spans, n_spans, m, f->h, NULL,
                                         (const int32_t(*)[3])f->pos, f->modality, err);
    const bal_model *model = &f->engine->model;
    const bal_text_config *c = &model->config.text;
    bal_rope_angles(c, (const int32_t(*)[3])f->pos, m, f->buf.cos, f->buf.sin);
    bal_rows rows = {.m = m,
                     .cos = f->buf.cos,
                     .sin = f->buf.sin,
                     .modality = f->modality,
                     .kv = kv,
                     .spans = spans,
                     .n_spans = n_spans};
    for (int l = 0; l < c->layers; l++) {
        rows.layer = l;
        bal_decoder_block(f->exec, c, &model->layers[l], &rows, f->h, &f->buf, l, taps);
    }
    return BAL_OK;
}

bal_status bal_forward_logits(bal_forward *f, const int *rows, int n, bal_taps taps, bal_error *err)
{
    if (f->engine->on_device) return bal_device_forward_logits(&f->device, rows, n, f->logits, err);
    const size_t hidden = (size_t)f->engine->model.config.text.hidden;
    for (int i = 0; i < n; i++)
        memcpy(f->picked + (size_t)i * hidden, f->h + (size_t)rows[i] * hidden,
               hidden * sizeof *f->h);
    bal_decoder_logits(f->exec, &f->engine->model, f->picked, n, &f->buf, f->logits, taps);
    return BAL_OK;
}

bal_status bal_logits_check(const float *logits, int n, int position, bal_error *err)
{
    for (int i = 0; i < n; i++)
        if (!isfinite(logits[i]))
            return bal_fail(err, BAL_E_NUMERIC, "logit %d at position %d is %f", i, position,
                            (double)logits[i]);
    return BAL_OK;
}
