/* SPDX-License-Identifier: MIT
 * The ops of device/device.h but linears and staging, each queued on a stream by a function that
 * chooses its launch. Addresses are the device's. They return what the launch returned. */
#ifndef BAL_CUDA_OPS_H
#define BAL_CUDA_OPS_H

#include "cuda/port.cuh"
#include "device/device.h"

/* early: kernels may start before the one in front has ended (cuda/port.cuh), and all of them wait
 * before they touch memory. */
struct bal_cuda_queue {
    cudaStream_t stream;
    bool early;
};

/* Decode steps of at most so many rows are split over keys, each page range a block of its own. */
enum { BAL_SPLIT_ROWS = 64, BAL_SPLITS = 64 };
/* Widest head that tensor cores attend with; wider ones take the other kernel. */
enum { BAL_MMA_DIM = 128 };

/* most_shared: bytes of shared memory that a block can have. 0: heads of dim need more. */
size_t bal_cuda_attend_bytes(int m, int heads, int dim, size_t most_shared);
cudaError_t bal_cuda_attend(const bal_attend_args *a, bal_cuda_queue queue);
cudaError_t bal_cuda_rotate(const bal_rotate_args *a, bal_cuda_queue queue);
cudaError_t bal_cuda_hadamard(bal_dptr x, size_t n, int block, bal_cuda_queue queue);
cudaError_t bal_cuda_gather(bal_dptr x, size_t k, bal_dptr index, int n, bal_dptr out,
                            bal_cuda_queue queue);
cudaError_t bal_cuda_read(bal_dptr x, size_t n, int processors, bal_cuda_queue queue);
cudaError_t bal_cuda_argmax(bal_dptr x, int m, int n, bal_dptr out, bal_cuda_queue queue);
cudaError_t bal_cuda_draw(bal_dptr x, int m, int n, bal_dptr draws, bal_dptr out,
                          bal_cuda_queue queue);
/* Between the linears of a vision tower; gate also in the decoder. */
cudaError_t bal_cuda_norm(const bal_norm_args *a, bal_cuda_queue queue);
cudaError_t bal_cuda_gelu(bal_device_gelu kind, bal_dptr x, size_t n, int processors,
                          bal_cuda_queue queue);
cudaError_t bal_cuda_gate(bal_dptr x, size_t ld, int m, int k, bal_cuda_queue queue);
cudaError_t bal_cuda_add_scaled(bal_dptr h, bal_dptr x, bal_dptr scale, int m, int k,
                                bal_cuda_queue queue);

#endif
