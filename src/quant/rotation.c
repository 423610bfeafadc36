/* SPDX-License-Identifier: MIT
 * A row is a grid of p x m: Hadamard's butterflies run down its columns, C_m along its rows. */
#include "quant/rotation.h"

#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

static void fill_mix(double *mix, int m)
{
    for (int i = 0; i < m; i++)
        for (int j = 0; j < m; j++) {
            const double t = 2.0 * pi * (double)(i * j % m) / m;
            mix[i * m + j] = (cos(t) + sin(t)) / sqrt((double)m);
        }
}

bal_status bal_rotation_create(bal_rotation *r, int n, uint64_t seed, bal_error *err)
{
    bal_rng rng;
    *r = (bal_rotation){.n = n, .p = n & -n};
    r->m = n / r->p;
    if (r->m > BAL_ROTATION_MAX_ODD)
        return bal_fail(err, BAL_E_UNSUP, "no rotation for rows of %d: its odd part %d is above %d",
                        n, r->m, BAL_ROTATION_MAX_ODD);
    const size_t square = (size_t)r->m * (size_t)r->m;
    r->sign = malloc((size_t)n * sizeof *r->sign);
    if (r->m > 1) r->mix = malloc(square * sizeof *r->mix);
    if (!r->sign || (r->m > 1 && !r->mix)) {
        bal_rotation_destroy(r);
        return bal_nomem(err, square * sizeof *r->mix, "a rotation");
    }
    if (r->mix) fill_mix(r->mix, r->m);
    bal_rng_seed(&rng, seed);
    for (int i = 0; i < n; i++) r->sign[i] = bal_rng_below(&rng, 2) ? -1.0 : 1.0;
    return BAL_OK;
}

void bal_rotation_destroy(bal_rotation *r)
{
    free(r->mix);
    free(r->sign);
    *r = (bal_rotation){0};
}

/* Rows of the grid through C_m, by way of work. */
static void mix_rows(const bal_rotation *r, double *x, double *work)
{
    const int m = r->m;
    memcpy(work, x, (size_t)r->n * sizeof *x);
    memset(x, 0, (size_t)r->n * sizeof *x);
    for (int at = 0; at < r->n; at += m)
        for (int i = 0; i < m; i++)
            for (int j = 0; j < m; j++) x[at + j] += work[at + i] * r->mix[i * m + j];
}

/* Columns of the grid through H_p; half: elements between two that meet. */
static void butterflies(double *x, int n, int half)
{
    for (int at = 0; at < n; at += 2 * half)
        for (int i = at; i < at + half; i++) {
            const double a = x[i], b = x[i + half];
            x[i] = a + b;
            x[i + half] = a - b;
        }
}

void bal_rotation_row(const bal_rotation *r, double *x, double *work)
{
    const double norm = 1.0 / sqrt((double)r->p);
    for (int i = 0; i < r->n; i++) x[i] *= r->sign[i] * norm;
    if (r->mix) mix_rows(r, x, work);
    for (int half = r->m; half < r->n; half *= 2) butterflies(x, r->n, half);
}
