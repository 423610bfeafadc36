/* SPDX-License-Identifier: MIT
 * What a run will take, from the sizes of the model, the tokens of the data and two speeds measured
 * on the spot: memory, disk, time. Counts multiplications where they are many and allows for what
 * they wait for; within a factor of two of what is then measured on an idle machine. */
#ifndef BAL_QUANT_ESTIMATE_H
#define BAL_QUANT_ESTIMATE_H

#include "op/exec.h"
#include "quant/recipe.h"
#include "quant/sample.h"

#include "model/config.h"

typedef struct bal_speed {
    double f32, f64; /* floating point operations per second of all lanes, large products */
} bal_speed;

/* A tenth of a second of each. */
bal_status bal_speed_measure(bal_speed *s, const bal_exec *e, bal_error *err);

typedef struct bal_estimate {
    uint64_t ram_bytes;   /* anonymous memory at its peak */
    uint64_t spill_bytes; /* intermediate data on disk */
    double seconds;       /* without the vision tower and the writing of the file */
    double block_seconds; /* of them, all blocks; the rest is measuring in front of them */
} bal_estimate;

/* samples: laid out; n 0 without data. lanes: threads. */
bal_estimate bal_estimate_make(const bal_text_config *c, const bal_samples *samples,
                               const bal_recipe *r, bool gradients, bal_speed speed, int lanes);

#endif
