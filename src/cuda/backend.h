/* SPDX-License-Identifier: MIT
 * Inside src/cuda only: an open device, and what its files do for each other. */
#ifndef BAL_CUDA_BACKEND_H
#define BAL_CUDA_BACKEND_H

#include "cuda/ops.h"
#include "device/device.h"

#include <string.h>

extern "C" {
#include "base/status.h"
}

enum { BAL_PINNED = 16 << 20, BAL_PENDING = 16 };

struct bal_device {
    int index, major, minor, processors;
    char name[256];
    cudaStream_t stream;
    size_t most_shared;       /* bytes of shared memory of a block */
    bool early;               /* it can start kernels early */
    bal_error failed;         /* the first failure; everything after it does nothing */
    unsigned char *up, *down; /* pinned, BAL_PINNED each */
    size_t up_used, down_used;
    struct {
        void *to;
        const void *from;
        size_t n;
    } pending[BAL_PENDING]; /* downloads that wait for sync */
    int n_pending;
    cudaEvent_t laps[2];
    bool has_lap;
    struct bal_cuda_linears *linears; /* of linear.cu */
};

/* Keeps the first failure as a sentence. */
void bal_cuda_keep(bal_device *d, cudaError_t e, const char *what);

bal_status bal_cuda_alloc(bal_device *d, bal_dptr *out, size_t n, const char *what, bal_error *err);
void bal_cuda_release(bal_device *d, bal_dptr p);
void bal_cuda_upload(bal_device *d, bal_dptr to, const void *from, size_t n);
/* Room for n <= BAL_PINNED bytes that an asynchronous copy may read. */
unsigned char *bal_cuda_pinned(bal_device *d, size_t n);

/* Linears: weights as the kernels read them, staging, and work memory. */
bal_status bal_cuda_linears_open(bal_device *d, bal_error *err);
void bal_cuda_linears_close(bal_device *d);
bal_status bal_cuda_weight_create(bal_device *d, bal_device_weight **out,
                                  const bal_device_part *parts, int n_parts, size_t k, bool gated,
                                  bal_error *err);
void bal_cuda_weight_destroy(bal_device *d, bal_device_weight *w);
size_t bal_cuda_act_bytes(int m, size_t k);
cudaError_t bal_cuda_stage(const bal_stage_args *a, bal_cuda_queue queue);
/* The PTX version that the kernels on this device were compiled from: 80, 90 ... */
cudaError_t bal_cuda_compiled_for(int *version);
cudaError_t bal_cuda_linear_run(bal_device *d, const bal_device_linear_args *a);
cudaError_t bal_cuda_embed(const bal_device_weight *w, bal_dptr ids, int m, bal_dptr h,
                           bal_cuda_queue queue);

#endif
