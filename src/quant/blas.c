/* SPDX-License-Identifier: MIT
 * OpenBLAS. Its state is the process's own, and so is the lock in front of a build that has none.
 */
#include "quant/blas.h"

#include <cblas.h>
#include <lapacke.h>
#include <pthread.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool one_at_a_time;

static void look(void)
{
    openblas_set_num_threads(1);
    one_at_a_time = openblas_get_parallel() != OPENBLAS_THREAD;
}

static void enter(void)
{
    pthread_once(&once, look);
    if (one_at_a_time) pthread_mutex_lock(&lock);
}

static void leave(void)
{
    if (one_at_a_time) pthread_mutex_unlock(&lock);
}

static blasint narrow(size_t n)
{
    return (blasint)n;
}

const char *bal_blas_name(void)
{
    return openblas_get_config();
}

void bal_blas_gemm(bool transposed, size_t m, size_t n, size_t k, double alpha, const double *a,
                   size_t lda, const double *b, size_t ldb, double beta, double *c, size_t ldc)
{
    enter();
    cblas_dgemm(CblasRowMajor, CblasNoTrans, transposed ? CblasTrans : CblasNoTrans, narrow(m),
                narrow(n), narrow(k), alpha, a, narrow(lda), b, narrow(ldb), beta, c, narrow(ldc));
    leave();
}

void bal_blas_gemm_f32(size_t m, size_t n, size_t k, const float *x, size_t ldx, const float *w,
                       size_t ldw, float *y, size_t ldy)
{
    enter();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, narrow(m), narrow(n), narrow(k), 1.0f, x,
                narrow(ldx), w, narrow(ldw), 0.0f, y, narrow(ldy));
    leave();
}

void bal_blas_solve(bal_blas_side side, size_t m, size_t n, const double *l, size_t ldl, double *b,
                    size_t ldb)
{
    enter();
    cblas_dtrsm(CblasRowMajor, side == BAL_BLAS_LX ? CblasLeft : CblasRight, CblasLower,
                side == BAL_BLAS_XLT ? CblasTrans : CblasNoTrans, CblasNonUnit, narrow(m),
                narrow(n), 1.0, l, narrow(ldl), b, narrow(ldb));
    leave();
}

/* Always one at a time: LAPACK may stand on another build of BLAS than the one asked in look().
 * Rows of a lower triangle are columns of an upper one. */
bool bal_blas_factor(size_t n, double *a, size_t lda)
{
    pthread_once(&once, look);
    pthread_mutex_lock(&lock);
    const lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', narrow(n), a, narrow(lda));
    pthread_mutex_unlock(&lock);
    return info == 0;
}
