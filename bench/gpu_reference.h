/* SPDX-License-Identifier: MIT
 * Random weights in every storage that gpu_kernels measures, and what products with them must be:
 * in double, within the bound of docs/numerics.md ("On a GPU"). */
#ifndef BENCH_GPU_REFERENCE_H
#define BENCH_GPU_REFERENCE_H

#include "device/device.h"
#include "gpu_shapes.h"

typedef struct weights {
    bal_device_part parts[2];
    int n_parts;
    size_t k;
    void *memory[2];
    float *row;   /* [k] scratch: a row of weights */
    double bytes; /* of all parts in the file's form: codes, scales, zero points */
} weights;

/* bits: of packed weights, or 16 for bf16. Free it even if this fails. */
bal_status weights_make(weights *w, const shape *s, int bits, bal_act act, bal_error *err);
void weights_free(weights *w);

/* An output, and how far from it a device's may be. */
typedef struct expectation {
    double y, bound;
} expectation;

/* Output n of inputs x [k]; of two parts silu(gate) * up. */
expectation weights_expect(weights *w, const float *x, size_t n);

#endif
