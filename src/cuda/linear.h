/* SPDX-License-Identifier: MIT
 * y = W x: weights are tiles (cuda/tiles.h) of any width, x is staged (cuda/stage.h). Up to 8 rows
 * of x read nothing but the weights from memory, up to 16 their own values again from L2; more are
 * multiplied 16 or 32 at a time with the same result, bit for bit. Host side: sizes of the
 * workspace, and the launch. */
#ifndef BAL_CUDA_LINEAR_H
#define BAL_CUDA_LINEAR_H

#include "cuda/port.cuh"
#include "cuda/stage_op.h"
#include "cuda/tiles.h"
#include "type/act.h"

enum { BAL_LINEAR_ROWS = 16 }; /* rows of x that count as few */

/* A weight on the device. */
struct bal_linear_weight {
    bal_tiles tiles;
    const void *codes, *meta; /* 256-byte aligned */
    const float *bias;        /* [n], in the order of the parts, or NULL */
    bal_act act;              /* how its rows are staged; A8 for packed weights only, and as
                                 bal_stage_can has it */
};

struct bal_linear_job {
    const bal_linear_weight *w;
    const void *x; /* staged, m rows of tiles.k */
    float *y;      /* [m][ld]; n values a row, n / 2 for paired tiles: silu(gate) * up */
    size_t ld;
    int m;          /* any; more than 16 are blocks of 16 or 32, which read the weights again */
    bool add;       /* y += instead of y = */
    void *work;     /* bal_linear_work_bytes, its first BAL_LINEAR_ZEROED bytes 0 before first use;
                       not shared by launches that may overlap */
    int processors; /* of the device */
    int splits;     /* 0: bal_linear_splits */
    bool early;     /* cuda/port.cuh */
    const bal_stage_job *own; /* NULL, or with m = 1 what x is to be staged from, and x is nothing:
                                 y does not overlap what it reads */
};

/* How many blocks share the inputs of a row block. Depends on the shape alone, and so does the
 * order of every sum: a row's result is the same beside any others. */
int bal_linear_splits(const bal_tiles *t);

/* Bytes of workspace for a weight; one of the largest serves all, one after the other. Launches
 * leave the zeroed bytes zero. splits: 0, or those of the job. */
enum { BAL_LINEAR_ZEROED = 64 << 10 };
size_t bal_linear_work_bytes(const bal_tiles *t, int splits);

/* Queues it. Fails only as a launch does. */
cudaError_t bal_linear(const bal_linear_job &job, cudaStream_t s);

#endif
