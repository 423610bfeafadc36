/* SPDX-License-Identifier: MIT
 * Hidden states of the calibration samples on their way through the decoder: two streams, one
 * through the float blocks, one through the packed blocks, sample by sample in place on disk. */
#ifndef BAL_QUANT_STREAM_H
#define BAL_QUANT_STREAM_H

#include "quant/pass.h"
#include "quant/record.h"

/* Work memory for one sample at a time. */
typedef struct bal_streamer {
    const bal_exec *e;
    const bal_text_config *config;
    bal_pass pass;
    float *rows[2]; /* [max_len][hidden] */
} bal_streamer;

bal_status bal_streamer_create(bal_streamer *s, const bal_exec *e, const bal_text_config *c,
                               int max_len, bal_error *err);
void bal_streamer_destroy(bal_streamer *s); /* idempotent; a zeroed struct is fine */

/* Every sample through `block` (float stream) and `packed` (quantized stream), in place; *drift is
 * the difference behind them. `step` is called once a sample and may cancel. */
bal_status bal_stream_advance(bal_streamer *s, const bal_samples *samples, bal_store *in_float,
                              bal_store *in_quant, const bal_decoder_layer *block,
                              const bal_decoder_layer *packed, int index, bal_drift *drift,
                              bal_step_fn *step, void *step_ctx, bal_error *err);

#endif
