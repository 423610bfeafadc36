/* SPDX-License-Identifier: MIT
 * Staging as an op: f32 rows, or what a norm or a gate makes of them, into the form linears read
 * (cuda/stage.h). */
#ifndef BAL_CUDA_STAGE_OP_H
#define BAL_CUDA_STAGE_OP_H

#include "cuda/port.cuh"
#include "cuda/stage.h"

/* Numbered as in device/device.h. */
enum bal_staged {
    BAL_STAGED_PLAIN, /* x */
    BAL_STAGED_RMS,   /* x / sqrt(mean x^2 + eps) * w */
    BAL_STAGED_LAYER, /* (x - mean) / sqrt(var + eps) * w + b */
    BAL_STAGED_SILU   /* silu(x[0 .. k)) * x[k .. 2 k): a row of gates and ups */
};

struct bal_stage_job {
    bal_staged kind;
    const float *x;     /* [m][ld] */
    const float *w, *b; /* [k], for norms; b may be NULL */
    void *out;          /* bal_stage_bytes(m, k), 16-byte aligned */
    size_t ld;
    int m, k;
    float eps;
    bal_act act; /* A8: rounded to bytes as kernel/quant_a8.h has it, in the form of bytes */
    bool early;  /* cuda/port.cuh */
    const int32_t *modality; /* [m] of bal_modality; NULL: no row is vision */
    bool vision_only;        /* other rows are staged as zeros */
};

/* The job as kernels read it, but for where rows go. */
struct bal_stage_source {
    const float *x, *w, *b;
    size_t ld;
    int kind, k;
    int group; /* of 8-bit activations: -1 none, 0 the row, else 32, 64 or 128 */
    float eps;
    const int32_t *modality;
    bool vision_only;
    bool fixed; /* group is 0, and scales are those of vision and of all other rows: */
    float of_vision, of_text;
};

bal_stage_source bal_stage_source_of(const bal_stage_job &job);

/* Can the kernel stage for this? 8-bit activations with one scale per row, found or fixed, or per
 * 32, 64 or 128. */
bool bal_stage_can(bal_act act, size_t k);

/* Queues it. Fails only as a launch does. */
cudaError_t bal_stage(const bal_stage_job &job, cudaStream_t s);

#endif
