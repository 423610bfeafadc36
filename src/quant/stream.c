/* SPDX-License-Identifier: MIT
 * Runs each sample through the float block and through the packed one, and sums up how far they
 * are apart. Memory holds one sample. */
#include "quant/stream.h"

#include "base/size.h"

#include <stdlib.h>

static bal_status create(bal_streamer *s, int max_len, bal_error *err)
{
    size_t n, n_bytes = 0;
    BAL_TRY(bal_pass_create(&s->pass, s->config, max_len, err));
    if (bal_size_mul((size_t)max_len, (size_t)s->config->hidden, &n) &&
        bal_size_mul(n, sizeof(float), &n_bytes)) {
        s->rows[0] = malloc(n_bytes);
        s->rows[1] = malloc(n_bytes);
    }
    return s->rows[0] && s->rows[1] ? BAL_OK : bal_nomem(err, 2 * n_bytes, "hidden states");
}

bal_status bal_streamer_create(bal_streamer *s, const bal_exec *e, const bal_text_config *c,
                               int max_len, bal_error *err)
{
    *s = (bal_streamer){.e = e, .config = c};
    const bal_status st = create(s, max_len, err);
    if (st < 0) bal_streamer_destroy(s);
    return st;
}

void bal_streamer_destroy(bal_streamer *s)
{
    bal_pass_destroy(&s->pass);
    free(s->rows[0]);
    free(s->rows[1]);
    *s = (bal_streamer){0};
}

/* Row sums first, then rows in order: the same additions for every thread count. */
static void add_drift(bal_drift *d, const bal_sample *sample, const float *want, const float *got,
                      size_t cols)
{
    for (int i = 0; i < sample->n; i++) {
        double sq = 0, ref = 0;
        const float *a = want + (size_t)i * cols, *b = got + (size_t)i * cols;
        for (size_t k = 0; k < cols; k++) {
            const double x = a[k], diff = (double)b[k] - x;
            sq += diff * diff;
            ref += x * x;
        }
        const uint8_t m = sample->modality[i];
        d->sq[m] += sq;
        d->ref_sq[m] += ref;
        d->count[m] += (double)cols;
    }
}

static bal_status advance_one(bal_streamer *s, bal_store *store, float *h,
                              const bal_decoder_layer *block, int sample, const bal_sample *tags,
                              int index, bal_error *err)
{
    BAL_TRY(bal_store_read(store, sample, h, err));
    bal_pass_place(&s->pass, tags);
    const bal_rows rows = bal_pass_rows(&s->pass, tags->n);
    bal_decoder_block(s->e, s->config, block, &rows, h, &s->pass.buf, index, (bal_taps){0});
    return bal_store_write(store, sample, h, err);
}

bal_status bal_stream_advance(bal_streamer *s, const bal_samples *samples, bal_store *in_float,
                              bal_store *in_quant, const bal_decoder_layer *block,
                              const bal_decoder_layer *packed, int index, bal_drift *drift,
                              bal_step_fn *step, void *step_ctx, bal_error *err)
{
    *drift = (bal_drift){0};
    for (int i = 0; i < samples->n; i++) {
        const bal_sample *sample = &samples->items[i];
        BAL_TRY(advance_one(s, in_float, s->rows[0], block, i, sample, index, err));
        BAL_TRY(advance_one(s, in_quant, s->rows[1], packed, i, sample, index, err));
        add_drift(drift, sample, s->rows[0], s->rows[1], (size_t)s->config->hidden);
        if (step && step(step_ctx, "streams", i + 1, samples->n))
            return bal_fail(err, BAL_E_CANCELLED, "cancelled in block %d", index);
    }
    return BAL_OK;
}
