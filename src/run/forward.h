/* SPDX-License-Identifier: MIT
 * A step of the decoder: rows of one sequence or of many through all blocks, and logits of some of
 * them. Owns the work memory; nothing is allocated after creation. On the CPU a row's bits depend
 * neither on the rows beside it nor on their number. On a device nobody may look: taps are not
 * called there. */
#ifndef BAL_RUN_FORWARD_H
#define BAL_RUN_FORWARD_H

#include "run/engine.h"
#include "run/forward_device.h"

typedef struct bal_forward {
    const bal_engine *engine;
    const bal_exec *exec;
    bal_decoder_buf buf;
    int max_rows, max_logits;
    float *h;          /* [max_rows][hidden] in: embeddings; out: of the last block */
    int32_t (*pos)[3]; /* [max_rows] in: rotary positions */
    uint8_t *modality; /* [max_rows] in: bal_modality of each row */
    float *picked;     /* [max_logits][hidden] */
    float *logits;     /* [max_logits][vocab] */
    void *memory;
    bal_device_forward device; /* with engine->on_device, instead of buf and picked */
} bal_forward;

/* exec must outlive it and is used by its calls only while they run. max_pages: of all sequences of
 * a step together. */
bal_status bal_forward_create(bal_forward *f, const bal_engine *engine, const bal_exec *exec,
                              int max_rows, int max_logits, size_t max_pages, bal_error *err);
/* What that allocates on the CPU, or SIZE_MAX. */
size_t bal_forward_bytes(const bal_text_config *c, int max_rows, int max_logits);
void bal_forward_destroy(bal_forward *f); /* idempotent; zeroed struct is fine */

/* f->h, f->pos and f->modality hold m <= max_rows rows; spans cover them. Keys and values go to the
 * spans' pages, which are laid out as kv says. Fails on a device only. */
bal_status bal_forward_blocks(bal_forward *f, const bal_kv_layout *kv, const bal_kv_span *spans,
                              int n_spans, int m, bal_taps taps, bal_error *err);
/* Logits of n <= max_logits of those rows into f->logits. Fails on a device only, which tells here
 * what went wrong in the blocks. */
bal_status bal_forward_logits(bal_forward *f, const int *rows, int n, bal_taps taps,
                              bal_error *err);

/* BAL_E_NUMERIC names the logit and the position if one of n is not finite. */
bal_status bal_logits_check(const float *logits, int n, int position, bal_error *err);

#endif
