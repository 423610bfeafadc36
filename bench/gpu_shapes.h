/* SPDX-License-Identifier: MIT
 * Linears of published decoders, as gpu_kernels and its peers measure them, and how often one is
 * launched for a figure. */
#ifndef BENCH_GPU_SHAPES_H
#define BENCH_GPU_SHAPES_H

#include <stdbool.h>
#include <stddef.h>

typedef struct shape {
    const char *name;
    size_t n, k;
    bool gated; /* n gate rows and n up rows */
} shape;

static const shape real_shapes[] = {
    {"7b qkv", 4608, 3584, false},     {"7b o", 3584, 3584, false},
    {"7b gate up", 18944, 3584, true}, {"7b down", 3584, 18944, false},
    {"7b head", 152064, 3584, false},  {"0.5b qkv", 1152, 896, false},
    {"0.5b o", 896, 896, false},       {"0.5b gate up", 4864, 896, true},
    {"0.5b down", 896, 4864, false},
};
/* the last one's inputs are shared by several blocks */
static const shape tiny_shapes[] = {
    {"tiny", 64, 160, false}, {"tiny gate up", 48, 128, true}, {"tiny down", 32, 2304, false}};

/* Rows of x: decoding alone and in company, and prompts, which the head never sees. */
static const int shape_rows[] = {1, 2, 4, 8, 16, 32, 64, 256, 1024};

enum { MOST_ROWS = 1024, MOST_HEAD_ROWS = 64, HEAD_OUTPUTS = 100000 };

static inline int shape_most_rows(const shape *s)
{
    return s->n < HEAD_OUTPUTS ? MOST_ROWS : MOST_HEAD_ROWS;
}

static inline bool shape_has_rows(const shape *s, int rows, bool tiny)
{
    if (tiny) return rows == 1 || rows == 16 || (rows == 32 && s->k < 1000);
    return rows <= shape_most_rows(s);
}

/* ---- How often (gpu_torch.py has the same) --------------------------------------------------- */

enum { ROUNDS = 7, LEAST_LAUNCHES = 24, MOST_LAUNCHES = 4096, MOST_COPIES = 1024, TINY_COPIES = 2 };

#define TOUCHED   192e6 /* bytes of weights in turn: no L2 cache holds them */
#define RECORD_S  5e-3  /* of a recording at least: the host's launch of it takes some 20 us */
#define WARM_S    50e-3 /* of replaying first, so that clocks are up */
#define MOST_READ 8e12  /* bytes and operations per second that no card exceeds: */
#define MOST_OPS  5e15  /* a recording that is sized by them takes longer, not shorter */

/* Copies of weights of so many bytes. */
static inline int shape_copies(double bytes, bool tiny)
{
    const double n = TOUCHED / bytes;
    if (tiny) return TINY_COPIES;
    return n > MOST_COPIES ? MOST_COPIES : (int)n + ((double)(int)n < n);
}

/* Launches of a recording: all copies, equally often. (Kernels of the smallest shapes take far
 * longer than reading their weights would, so MOST_LAUNCHES of them are enough.) */
static inline int shape_launches(const shape *s, int rows, double bytes, int copies, bool tiny)
{
    const double ops = 2.0 * (double)(s->gated ? 2 * s->n : s->n) * (double)s->k * rows;
    const double read_s = bytes / MOST_READ, ops_s = ops / MOST_OPS;
    const double wanted = RECORD_S / (read_s > ops_s ? read_s : ops_s);
    int n = wanted < MOST_LAUNCHES ? (int)wanted : MOST_LAUNCHES;
    if (n < LEAST_LAUNCHES) n = LEAST_LAUNCHES;
    if (tiny) n = 1;
    n = (n + copies - 1) / copies * copies;
    return n > MOST_LAUNCHES ? MOST_LAUNCHES / copies * copies : n;
}

#endif
