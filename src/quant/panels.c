/* SPDX-License-Identifier: MIT
 * Panels: memory, the form of second moments, the product. Refuses sizes that do not fit into
 * memory. */
#include "quant/panels.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

bal_status bal_panels_create(bal_panels *p, int k, bal_error *err)
{
    const size_t n = (size_t)k, b = BAL_TRI_PANEL, panels = bal_ceil_div(n, b);
    size_t floats, bytes = 0;
    *p = (bal_panels){.k = k};
    /* whole panels before the last, which has the rows that are left */
    if (bal_size_mul(b * (panels - 1), n, &floats)) {
        floats -= b * b * ((panels - 1) * (panels - 2) / 2);
        const size_t left = n - b * (panels - 1);
        floats += left * left;
        if (bal_size_mul(floats, sizeof(float), &bytes)) p->data = malloc(bytes);
    }
    return p->data ? BAL_OK : bal_nomem(err, bytes, "a triangle of second moments");
}

void bal_panels_destroy(bal_panels *p)
{
    free(p->data);
    *p = (bal_panels){0};
}

typedef struct form_job {
    bal_panels *p;
    const bal_moments *m;
    double add;
} form_job;

static void form_panels(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const form_job *j = ctx;
    const size_t k = (size_t)j->p->k;
    for (size_t at = begin; at < end; at++) {
        const size_t first = at * BAL_TRI_PANEL, stop = bal_min(first + BAL_TRI_PANEL, k);
        const size_t ld = k - first;
        float *to = bal_panel_at(j->p, at);
        for (size_t i = first; i < stop; i++)
            for (size_t c = first; c < stop; c++)
                to[(i - first) * ld + (c - first)] =
                    (float)(bal_moments_at(j->m, (int)i, (int)c) + (i == c ? j->add : 0.0));
        for (size_t c = stop; c < k; c++) {
            const double *row = j->m->tri + c * (c + 1) / 2;
            for (size_t i = first; i < stop; i++)
                to[(i - first) * ld + (c - first)] = (float)(2.0 * row[i]);
        }
    }
}

bal_status bal_form_create(bal_panels *p, const bal_exec *e, const bal_moments *m, double damp,
                           bal_error *err)
{
    BAL_TRY(bal_panels_create(p, m->k, err));
    form_job j = {p, m, damp * bal_moments_mean(m)};
    bal_pool_run(e->pool, form_panels, &j, bal_ceil_div((size_t)m->k, BAL_TRI_PANEL), 1);
    return BAL_OK;
}

void bal_panels_times(const bal_exec *e, const bal_panels *p, size_t rows, const float *a, float *y)
{
    const size_t k = (size_t)p->k;
    for (size_t first = 0, at = 0; first < k; first += BAL_TRI_PANEL, at++) {
        const size_t n = bal_min((size_t)BAL_TRI_PANEL, k - first);
        e->kernels->gemm_nn_f32(rows, n, k - first, a + first, k, bal_panel_at(p, at), k - first,
                                y + first, k, at > 0);
    }
}
