/* SPDX-License-Identifier: MIT
 * The matrix B A of small rank that takes most of the error of a linear: with D = T - W^ what a
 * solution lacks, B A minimises tr((D - B A) H (D - B A)^T). Its left side spans the leading
 * eigenvectors of D H D^T, B orthonormal, A = B^T D; no inverse and no root of H is needed. Found
 * by subspace iteration from a fixed start, so the same on every run (docs/numerics.md). */
#ifndef BAL_QUANT_LOWRANK_H
#define BAL_QUANT_LOWRANK_H

#include "op/exec.h"

/* Of `rank`, what a linear of n outputs and k inputs can use: at most half of either. */
int bal_lowrank_of(int rank, int n, int k);

/* d [n][k], h [k][k] symmetric. a [rank][k] and b [n][rank] in f16, each column of b and row of a
 * scaled by a power of two and its inverse, so that both keep their digits. A d of zeros gives
 * zeros. */
bal_status bal_lowrank_fit(const bal_exec *e, const float *d, const float *h, int n, int k,
                           int rank, uint16_t *a, uint16_t *b, bal_error *err);

#endif
