/* SPDX-License-Identifier: MIT
 * The Ballast file, put together: packed blocks, everything else of the checkpoint untouched under
 * canonical names, compiled config and tokenizer, and where it all came from. Layout of the file:
 * docs/formats.md. The same inputs give the same bytes: no time, no path, no thread count in it. */
#ifndef BAL_QUANT_ARTIFACT_H
#define BAL_QUANT_ARTIFACT_H

#include "base/hash.h"
#include "quant/part.h"
#include "quant/tower.h"
#include "quant/transform.h"
#include "run/engine.h"

/* 1.1 has activation paths, 1.2 weights with steps; files without are 1.0. 2.0 has transforms at
 * run time or matrices of small rank, without which its weights mean something else; 2.1 fixed
 * scales, 2.2 matrices for vision rows alone. */
#define BAL_ARTIFACT_FORMAT       "1.0"
#define BAL_ARTIFACT_FORMAT_ACTS  "1.1"
#define BAL_ARTIFACT_FORMAT_STEPS "1.2"
#define BAL_ARTIFACT_FORMAT_MIXED "2.0"
#define BAL_ARTIFACT_FORMAT_FIXED "2.1"
#define BAL_ARTIFACT_FORMAT_PATCH "2.2"

typedef struct bal_artifact_origin {
    const bal_recipe *recipe;
    const bal_linear_bits *bits;    /* [layers] where the recipe's bits are auto */
    const char *isa;                /* name of the level that computed it */
    const char *source;             /* name of the checkpoint's folder, without path */
    const char *model_sha256;       /* of the checkpoint, bal_artifact_hash_model */
    const char *calibration;        /* JSON text, NULL when no data was used */
    const bal_tower *tower;         /* what is packed in front of the decoder, or will be */
    const bal_transform *transform; /* what is in another basis, or will be */
} bal_artifact_origin;

/* What a file would be, without any data; where spikes decide about activation paths, up to two
 * bytes a linear more than it will have. */
typedef struct bal_artifact_sizes {
    uint64_t n_bytes;        /* of the file */
    uint64_t linear_weights; /* in the linears of the decoder blocks */
    uint64_t linear_bytes;   /* what they take, scales, zeros and padding counted */
    uint64_t format_bytes;   /* with store=float what a storage of their format would take; or 0 */
    uint64_t all_weights;    /* of the checkpoint */
} bal_artifact_sizes;

bal_status bal_artifact_size(bal_artifact_sizes *s, const bal_engine *engine,
                             const bal_artifact_origin *origin, bal_error *err);

/* parts[layers of the model] are open. Writes `path` whole and synced, or removes it. */
bal_status bal_artifact_write(const char *path, const bal_engine *engine, const bal_part *parts,
                              const bal_artifact_origin *origin, bal_error *err);

/* SHA-256 over names and contents of the files of m's folder that opening it reads, as hex: what
 * else lies there does not matter. Which ones, and in what order: docs/formats.md. */
bal_status bal_artifact_hash_model(char out[BAL_SHA256_HEX], const bal_model *m, bal_error *err);

/* 8 * n_bytes / weights; 0 without weights. */
double bal_bits_per_weight(uint64_t n_bytes, uint64_t weights);

#endif
