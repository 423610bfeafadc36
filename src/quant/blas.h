/* SPDX-License-Identifier: MIT
 * Matrix products, triangular solves and Cholesky's factor of row-major doubles, products of
 * floats. All BLAS and LAPACK of the program is behind this file, and may be called from any number
 * of threads at once: OpenBLAS without threads of its own is not made for that (two callers can get
 * the same work memory, and both a wrong result), so that there, which is found out when it is
 * first used, one call waits for another. Sums have one order: OpenBLAS's own threads are off. */
#ifndef BAL_QUANT_BLAS_H
#define BAL_QUANT_BLAS_H

#include <stdbool.h>
#include <stddef.h>

/* What library it is and how it was built, as it says itself. */
const char *bal_blas_name(void);

/* c [m][n] = alpha a [m][k] b + beta c; b is [k][n], or [n][k] where it is transposed. Strides of
 * rows in elements; every size fits an int. */
void bal_blas_gemm(bool transposed, size_t m, size_t n, size_t k, double alpha, const double *a,
                   size_t lda, const double *b, size_t ldb, double beta, double *c, size_t ldc);

/* y [m][n] = x w^T of floats, w [n][k]: what a linear is compared with. */
void bal_blas_gemm_f32(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w,
                       size_t ldw, float *y, size_t ldy);

/* Solves for x in place of b [m][n], l being lower triangular. */
typedef enum bal_blas_side {
    BAL_BLAS_LX,  /* l x = b, l [m][m] */
    BAL_BLAS_XL,  /* x l = b, l [n][n] */
    BAL_BLAS_XLT, /* x l^T = b */
} bal_blas_side;
void bal_blas_solve(bal_blas_side side, size_t m, size_t n, const double *l, size_t ldl, double *b,
                    size_t ldb);

/* The lower triangle of a [n][n] becomes its Cholesky factor; false if it is not positive definite.
 */
bool bal_blas_factor(size_t n, double *a, size_t lda);

#endif
