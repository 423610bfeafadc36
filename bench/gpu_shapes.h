/* SPDX-License-Identifier: MIT
 * Linears of published decoders, as gpu_kernels and its peers measure them. */
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
static const shape tiny_shapes[] = {{"tiny", 64, 160, false}, {"tiny gate up", 48, 128, true}};

/* Rows of x: decoding alone and in company, and prompts, which the head never sees. */
static const int shape_rows[] = {1, 2, 4, 8, 16, 32, 64, 256, 1024};

enum { MOST_ROWS = 1024, MOST_HEAD_ROWS = 64, HEAD_OUTPUTS = 100000 };

static inline int shape_most_rows(const shape *s)
{
    return s->n < HEAD_OUTPUTS ? MOST_ROWS : MOST_HEAD_ROWS;
}

static inline bool shape_has_rows(const shape *s, int rows, bool tiny)
{
    if (tiny) return rows == 1 || rows == 16;
    return rows <= shape_most_rows(s);
}

#endif
