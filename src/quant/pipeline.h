/* SPDX-License-Identifier: MIT
 * Quantizing a checkpoint, start to end: measure, then block by block solve, pack, write, and run
 * both streams on; then one file. Knows how a run is interrupted and continued; knows no
 * arithmetic. */
#ifndef BAL_QUANT_PIPELINE_H
#define BAL_QUANT_PIPELINE_H

#include "quant/artifact.h"
#include "quant/rank.h"
#include "quant/select.h"

#include <jansson.h>

/* Receives what a run measured (the "report" document of docs/formats.md), borrowed for the call,
 * when the file is complete but not yet in its place; a failure keeps it from getting there, and
 * `resume` comes back to this point. */
typedef bal_status bal_record_fn(void *ctx, const json_t *record, bal_error *err);

typedef struct bal_pipeline_opts {
    const char *model; /* folder of the checkpoint */
    const char *out;   /* the file to make; not looked at when only planning */
    const bal_recipe *recipe;
    const char *calib;         /* data file, NULL for a recipe that needs none */
    const char *chat_template; /* name; NULL: the model's */
    int samples;               /* conversations; 0: all */
    int shots;                 /* records that make one conversation; 0: 1 */
    bal_select select;
    uint64_t seed;        /* of the choice of samples, and of rotations */
    int threads;          /* 0: one per CPU */
    const char *isa;      /* NULL: what the CPU has */
    int image_max_tokens; /* of a calibration picture (bal_engine_limit_images); 0: the model's */
    bool resume, force;
    bal_step_fn *step; /* may be NULL */
    void *step_ctx;
    bal_record_fn *record; /* may be NULL */
    void *record_ctx;
    bal_rank *rank; /* of several that make the file together, which all get the same options; the
                       first writes it. NULL: alone */
} bal_pipeline_opts;

typedef struct bal_pipeline_plan {
    int layers, bits, group; /* bits 0: auto, and sizes are the most there can be; group 0: row */
    int side[BAL_SIDES];     /* bits beside the decoder's blocks, 0: as they are, BAL_SIDE_AUTO */
    bool needs_data;
    int samples;     /* that would be used, 0 without data */
    int blocks_done; /* of an interrupted run to the same output */
    bal_artifact_sizes sizes;
    uint64_t source_bytes;
    uint64_t ram_bytes;  /* beside the mapped checkpoint; an estimate */
    uint64_t disk_bytes; /* of OUT.partial; an estimate */
    double seconds;      /* estimate.h; with `resume` without blocks_done */
} bal_pipeline_plan;

/* Reads the checkpoint's header, the data file and its pictures, and measures this machine's speed
 * for a moment; writes nothing. */
bal_status bal_pipeline_plan_make(bal_pipeline_plan *p, const bal_pipeline_opts *o, bal_error *err);

/* Makes o->out. A weight anywhere in the checkpoint that is NaN or Inf is BAL_E_NUMERIC.
 *
 * Stages given to o->step: "rotation" (blocks), "tower", "pictures", "sensitivity" (samples),
 * "widths" and "plans" (blocks), "blocks" (thousandths of a block); a non-zero return stops with
 * BAL_E_CANCELLED. After a stop, a kill or an error, OUT.partial/ holds the finished pieces; with
 * `resume` they are used if build, isa, model, data, samples, seed and recipe are all the same, and
 * the result has the same bytes as an uninterrupted run. Without it a folder that holds pieces is
 * BAL_E_EXISTS, and `force` throws them away. `force` also replaces an existing OUT. */
bal_status bal_pipeline_run(const bal_pipeline_opts *o, bal_error *err);

#endif
