/* SPDX-License-Identifier: MIT
 * What a run measured, as JSON: kept beside each block so that a resumed run reports all of it, and
 * put together into the document that report/ shows. One schema, docs/formats.md "The report". */
#ifndef BAL_QUANT_RECORD_H
#define BAL_QUANT_RECORD_H

#include "quant/block.h"

#include <jansson.h>

/* How far the quantized stream has drifted from the float stream behind a block, per modality. */
typedef struct bal_drift {
    double sq[BAL_MODALITIES], ref_sq[BAL_MODALITIES]; /* sums over elements */
    double count[BAL_MODALITIES];                      /* elements */
} bal_drift;

extern const char *const bal_modality_names[BAL_MODALITIES]; /* "prompt", "answer", "vision" */
extern const char *const bal_sub_names[BAL_SUBS];            /* "attn", "mlp" */
extern const char *const bal_group_names[BAL_GROUPS];        /* "qkv", "o", "gate_up", "down" */

/* New references; NULL when memory is short. Values that are not finite become null. */
json_t *bal_record_sensitivity(const bal_sensitivity *s);
json_t *bal_record_block(const bal_block_result *r, int index);
json_t *bal_record_drift(const bal_drift *d);

/* The inverse of bal_record_sensitivity, for resuming; the same doubles come back. `layers` must
 * agree. The caller frees *s with bal_sensitivity_free. */
bal_status bal_record_read_sensitivity(bal_sensitivity *s, const char *path, int layers,
                                       bal_error *err);

/* Writes JSON with 17 digits, so that doubles survive; whole or not at all. Reads it back. */
bal_status bal_record_save(const char *path, const json_t *value, bal_error *err);
bal_status bal_record_load(json_t **out, const char *path, bal_error *err);

#endif
