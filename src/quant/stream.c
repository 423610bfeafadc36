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

/* Of one position, over its channels. */
typedef struct row_drift {
    double sq, ref_sq;
} row_drift;

/* Row sums first, then rows in order: the same additions for every number of threads and ranks. */
static void measure(row_drift *out, int rows, const float *want, const float *got, size_t cols)
{
    for (size_t i = 0; i < (size_t)rows; i++) {
        const float *a = want + i * cols, *b = got + i * cols;
        out[i] = (row_drift){0};
        for (size_t k = 0; k < cols; k++) {
            const double x = a[k], diff = (double)b[k] - x;
            out[i].sq += diff * diff;
            out[i].ref_sq += x * x;
        }
    }
}

static void add_drift(bal_drift *d, const bal_sample *sample, const row_drift *row, size_t cols)
{
    for (int i = 0; i < sample->n; i++) {
        const uint8_t m = sample->modality[i];
        d->sq[m] += row[i].sq;
        d->ref_sq[m] += row[i].ref_sq;
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

typedef struct advance_job {
    bal_streamer *s;
    const bal_samples *samples;
    bal_store *in_float, *in_quant;
    const bal_decoder_layer *block, *packed;
    int index;
    row_drift *rows; /* of all samples */
    bal_step_fn *step;
    void *step_ctx;
} advance_job;

static bal_status advance_all(const advance_job *j, bal_error *err)
{
    bal_streamer *s = j->s;
    const size_t *row0 = j->in_float->row0;
    for (int i = 0; i < j->samples->n; i++) {
        const bal_sample *sample = &j->samples->items[i];
        if (!bal_rank_owns(j->samples->rank, i)) continue;
        BAL_TRY(advance_one(s, j->in_float, s->rows[0], j->block, i, sample, j->index, err));
        BAL_TRY(advance_one(s, j->in_quant, s->rows[1], j->packed, i, sample, j->index, err));
        measure(j->rows + row0[i], sample->n, s->rows[0], s->rows[1], (size_t)s->config->hidden);
        if (j->step && j->step(j->step_ctx, "streams", i + 1, j->samples->n))
            return bal_fail(err, BAL_E_CANCELLED, "cancelled in block %d", j->index);
    }
    BAL_TRY(bal_store_join(j->in_float, j->samples->rank, s->rows[0], err));
    BAL_TRY(bal_store_join(j->in_quant, j->samples->rank, s->rows[0], err));
    return bal_rank_join_samples(j->samples->rank, j->rows, row0, j->samples->n, sizeof *j->rows,
                                 err);
}

bal_status bal_stream_advance(bal_streamer *s, const bal_samples *samples, bal_store *in_float,
                              bal_store *in_quant, const bal_decoder_layer *block,
                              const bal_decoder_layer *packed, int index, bal_drift *drift,
                              bal_step_fn *step, void *step_ctx, bal_error *err)
{
    advance_job j = {.s = s,
                     .samples = samples,
                     .in_float = in_float,
                     .in_quant = in_quant,
                     .block = block,
                     .packed = packed,
                     .index = index,
                     .step = step,
                     .step_ctx = step_ctx};
    *drift = (bal_drift){0};
    const size_t rows = in_float->row0[samples->n];
    j.rows = malloc((rows + 1) * sizeof *j.rows);
    if (!j.rows) return bal_nomem(err, rows * sizeof *j.rows, "drift of rows");
    const bal_status st = advance_all(&j, err);
    for (int i = 0; st >= 0 && i < samples->n; i++)
        add_drift(drift, &samples->items[i], j.rows + in_float->row0[i], (size_t)s->config->hidden);
    free(j.rows);
    return st;
}
