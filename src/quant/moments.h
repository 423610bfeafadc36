/* SPDX-License-Identifier: MIT
 * Full second moments of one linear input over the calibration set, streamed: memory is a packed
 * triangle of doubles and a strip of floats, whatever the number of tokens. Rows arrive weighed;
 * who weighs what is job.h's business. */
#ifndef BAL_QUANT_MOMENTS_H
#define BAL_QUANT_MOMENTS_H

#include "op/exec.h"
#include "quant/rank.h"

typedef struct bal_moments {
    int k, n_out;
    double *tri;      /* H = sum u u^T: row i holds columns 0 .. i from i (i + 1) / 2 on */
    double *cross;    /* [k][k] C = sum (f - u) u^T, or NULL */
    double *residual; /* [n_out][k] E = sum r u^T, or NULL */
    float *lanes;     /* products of one strip of rows, per lane */
    int lane_floats;
    bal_rank *rank; /* set behind create: this rank adds up its own rows of the sums only */
} bal_moments;

/* n_out 0: no residual. Contents start at zero. */
bal_status bal_moments_create(bal_moments *m, const bal_exec *e, int k, bool cross, int n_out,
                              bal_error *err);
void bal_moments_destroy(bal_moments *m); /* idempotent; zeroed struct is fine */

/* Rows of one sample, each already times the root of its weight: u [rows][k]; d = f - u and r
 * [rows][n_out] are NULL where they are not kept. work [rows][max(k, n_out)]. Products of a sample
 * are summed in f32, samples in double; parallel over rows of the result. */
void bal_moments_add(bal_moments *m, const bal_exec *e, const float *u, const float *d,
                     const float *r, int rows, float *work);

/* Collective: the rows of all ranks come together. */
bal_status bal_moments_join(bal_moments *m, bal_error *err);

/* H_ij */
static inline double bal_moments_at(const bal_moments *m, int i, int j)
{
    const size_t a = (size_t)(i > j ? i : j), b = (size_t)(i > j ? j : i);
    return m->tri[a * (a + 1) / 2 + b];
}

/* Mean of the diagonal, 1 when it is 0: the size that damping and ridges are fractions of. */
double bal_moments_mean(const bal_moments *m);

#endif
