/* SPDX-License-Identifier: MIT
 * What a solution leaves of a linear's outputs, by the definition. */
#ifndef BAL_TESTS_OUTPUT_ERROR_H
#define BAL_TESTS_OUTPUT_ERROR_H

#include "check.h"

#include "quant/quantizer.h"

/* tr((W^ - T) H (W^ - T)^T): target [n][k], h [k][k]. */
static inline double output_error(const bal_quantized_linear *q, const float *target,
                                  const float *h)
{
    const int k = q->k;
    double sum = 0.0, *d = malloc((size_t)k * sizeof *d);
    float *row = malloc((size_t)k * sizeof *row);
    assert_true(d && row);
    for (int r = 0; r < q->n; r++) {
        bal_quantized_row(q, r, row);
        for (int c = 0; c < k; c++) d[c] = (double)row[c] - (double)target[r * k + c];
        for (int i = 0; i < k; i++)
            for (int c = 0; c < k; c++) sum += d[i] * (double)h[i * k + c] * d[c];
    }
    free(d);
    free(row);
    return sum;
}

#endif
