/* SPDX-License-Identifier: MIT
 * From calibration records to what the solvers read: token ids with modalities, and the decoder
 * input embeddings of every sample in a store. The vision tower runs once per picture. */
#ifndef BAL_QUANT_GATHER_H
#define BAL_QUANT_GATHER_H

#include "base/hash.h"
#include "quant/calib.h"
#include "quant/select.h"
#include "quant/sensitivity.h"
#include "run/engine.h"

typedef struct bal_gathered {
    bal_samples samples;
    bal_store embeds;               /* [positions][hidden] */
    char sha256[BAL_SHA256_HEX];    /* of the data file and of the pictures in use, in order */
    int64_t tokens[BAL_MODALITIES]; /* of all samples */
    int n_images;
    uint8_t (*digests)[BAL_SHA256_BYTES]; /* [n_images] of the pictures, in order */
} bal_gathered;

/* What choosing looks at, of one record: *c, and feature [2][hidden], the mean embedding of its
 * text tokens and of what the model sees (one view per picture; zeros without). A record that
 * cannot be used is broken, not an error. */
bal_status bal_gather_look(bal_prospect *c, float *feature, const bal_calib *calib,
                           const bal_calib_record *r, const bal_engine *engine,
                           const bal_exec *exec, const bal_recipe *recipe, bal_error *err);

/* What the model sees of a record, each picture in one view: *rows [*n][hidden], malloc'ed. */
bal_status bal_gather_see(float **rows, int *n, const bal_calib *calib, const bal_calib_record *r,
                          const bal_engine *engine, const bal_exec *exec, const bal_recipe *recipe,
                          bal_error *err);

/* First half: order[n] are indices of records. Every picture is opened, hashed and laid out, so an
 * unreadable one is found at once; errors name record, file and picture. The recipe says template,
 * turns and views. On failure *g is empty. */
bal_status bal_gather_layout(bal_gathered *g, const bal_calib *calib, const size_t *order, size_t n,
                             const bal_engine *engine, const bal_recipe *recipe, bal_error *err);
/* Second half, with the same arguments: runs the vision tower and makes the store in tmp_dir. A
 * picture whose bytes are not those of the first half is BAL_E_IO. On failure *g is empty. */
bal_status bal_gather_encode(bal_gathered *g, const bal_calib *calib, const size_t *order,
                             const bal_engine *engine, const bal_exec *exec,
                             const bal_recipe *recipe, const char *tmp_dir, bal_step_fn *step,
                             void *step_ctx, bal_error *err);
void bal_gathered_free(bal_gathered *g); /* idempotent; a zeroed struct is fine */

#endif
