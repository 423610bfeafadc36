/* SPDX-License-Identifier: MIT
 * What a forward pass of one whole calibration sample through decoder blocks needs: work buffers,
 * one layer's worth of key and value pages, rotary tables of the sample at hand. */
#ifndef BAL_QUANT_PASS_H
#define BAL_QUANT_PASS_H

#include "model/decoder.h"
#include "quant/sample.h"

typedef struct bal_pass {
    int max_len;
    bal_decoder_buf buf;
    bal_kv_layout kv; /* of one layer, f32 */
    uint8_t **pages;
    uint8_t *page_memory;
    bal_kv_span span; /* the sample of the last bal_pass_rows */
    const bal_text_config *config;
    bool placed;      /* the tables are of a sample's own positions, else of 0 .. max_len - 1 */
    float *cos, *sin; /* [max_len][head_dim / 2] */
    const uint8_t *modality; /* of the sample's rows, borrowed; NULL before the first */
} bal_pass;

/* c is borrowed. The tables are of positions 0, 1, 2, ... */
bal_status bal_pass_create(bal_pass *p, const bal_text_config *c, int max_len, bal_error *err);
void bal_pass_destroy(bal_pass *p); /* idempotent; zeroed struct is fine */

/* Makes the tables and modalities those of the sample, until the next call; every use of them
 * follows one. */
void bal_pass_place(bal_pass *p, const bal_sample *s);
/* The rows of a sample of n <= max_len positions; borrows p's tables and pages until the next call.
 */
bal_rows bal_pass_rows(bal_pass *p, int n);

/* First NaN or Inf among n floats, or -1. */
long bal_first_not_finite(const float *x, size_t n);

#endif
