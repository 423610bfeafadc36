/* SPDX-License-Identifier: MIT
 * A step of the decoder on a device: what run/forward.h promises, with the rows, the blocks and the
 * logits in its memory. Owns work buffers there, and recordings of the steps that repeat: a few
 * rows, one of each sequence. Nothing is allocated after creation but those recordings. */
#ifndef BAL_RUN_FORWARD_DEVICE_H
#define BAL_RUN_FORWARD_DEVICE_H

#include "model/device_model.h"
#include "op/attention.h"

/* Rows of a recorded step, at most; and of how many powers of two of keys, from 64 on. */
enum { BAL_RECORD_ROWS = 16, BAL_RECORD_KEYS = 16 };

typedef struct bal_device_forward {
    bal_device_model *model;
    int max_rows, max_logits;
    size_t max_pages;              /* of all sequences of a step together */
    bal_dptr memory;               /* everything below but the step */
    bal_dptr h, qkv, ctx, gate_up; /* f32 [max_rows][...] */
    bal_dptr act, work;            /* of linears, of attention */
    bal_dptr picked, logits;       /* f32 [max_logits][...] */
    bal_dptr index, best, draws;   /* i32 [max_logits], and bal_device_draw */
    bal_dptr step;                 /* what `words` becomes there */
    int32_t *words;                /* a step's arrays as they are uploaded */
    bal_device_record *blocks[BAL_RECORD_ROWS + 1][BAL_RECORD_KEYS];
    bal_device_record *heads[BAL_RECORD_ROWS + 1];
    const bal_kv_layout *recorded_for; /* whose pages the recordings read */
} bal_device_forward;

bal_status bal_device_forward_create(bal_device_forward *f, bal_device_model *model, int max_rows,
                                     int max_logits, size_t max_pages, bal_error *err);
void bal_device_forward_destroy(bal_device_forward *f); /* idempotent; zeroed struct is fine */

/* As bal_forward_blocks: h [m][hidden] is read at once, or NULL: ids[m] are looked up in the
 * embedding table there, which has no small rank. modality [m], or NULL: no row is vision. Pages of
 * the spans are addresses on the device. Queued: failures are told by _logits. BAL_E_UNSUP: a
 * layout it cannot read. */
bal_status bal_device_forward_blocks(bal_device_forward *f, const bal_kv_layout *kv,
                                     const bal_kv_span *spans, int n_spans, int m, const float *h,
                                     const int32_t *ids, const int32_t (*pos)[3],
                                     const uint8_t *modality, bal_error *err);
/* As bal_forward_logits; waits for them. */
bal_status bal_device_forward_logits(bal_device_forward *f, const int *rows, int n, float *logits,
                                     bal_error *err);
/* The next token of each of those rows, drawn there as draws[n] say, NULL: the likeliest. i32
 * ids[n]; -1: a logit of the row is not finite. */
bal_status bal_device_forward_draw(bal_device_forward *f, const int *rows, int n,
                                   const bal_device_draw *draws, int32_t *ids, bal_error *err);

#endif
