/* SPDX-License-Identifier: MIT
 * The upper triangle of a square f32 matrix in panels of rows, half the memory of the square and
 * still read by the plain matrix product: panel p holds rows 128 p .. and columns 128 p .. k - 1.
 * What stands below the diagonal within a panel's first 128 columns is the owner's business. */
#ifndef BAL_QUANT_PANELS_H
#define BAL_QUANT_PANELS_H

#include "quant/moments.h"

enum { BAL_TRI_PANEL = 128 };

typedef struct bal_panels {
    int k;
    float *data;
} bal_panels;

/* Contents start undefined. */
bal_status bal_panels_create(bal_panels *p, int k, bal_error *err);
void bal_panels_destroy(bal_panels *p); /* idempotent; zeroed struct is fine */

/* First element of panel `at`, which is element (128 at, 128 at); its rows are k - 128 at apart. */
static inline float *bal_panel_at(const bal_panels *p, size_t at)
{
    const size_t b = BAL_TRI_PANEL, k = (size_t)p->k;
    return p->data + (at ? b * (at * k - b * (at * (at - 1) / 2)) : 0);
}

/* Element (i, j) where j is not in a panel before i's. */
static inline float *bal_panels_element(const bal_panels *p, size_t i, size_t j)
{
    const size_t at = i / BAL_TRI_PANEL, first = at * BAL_TRI_PANEL;
    return bal_panel_at(p, at) + (i - first) * ((size_t)p->k - first) + (j - first);
}

/* H + damp mean(diag H) I as a form: blocks on the diagonal whole, those right of it doubled, so
 * that y = a P gives a H a^T = sum y_c a_c, and a H b^T = half of sum (a P)_c b_c + (b P)_c a_c. */
bal_status bal_form_create(bal_panels *p, const bal_exec *e, const bal_moments *m, double damp,
                           bal_error *err);

/* y [rows][k] = a [rows][k] P. Serial; the same bits for any number of rows. */
void bal_panels_times(const bal_exec *e, const bal_panels *p, size_t rows, const float *a,
                      float *y);

#endif
