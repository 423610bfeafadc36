/* SPDX-License-Identifier: MIT
 * Inside image/ only: from 8-bit pixels to the normalised floats of one view. */
#ifndef BAL_IMAGE_VIEWS_H
#define BAL_IMAGE_VIEWS_H

#include "image/image.h"
#include "image/plan.h"

/* A pixel value has 256 possible results per channel. */
typedef struct bal_norm_table {
    float of[3][256];
} bal_norm_table;

/* Finite means, finite deviations above 0, or BAL_E_ARG. */
bal_status bal_norm_check(const bal_norm *norm, bal_error *err);
/* (float(u8 * (1 / 255)) - float(mean)) / float(std), the product in double. */
void bal_norm_table_init(bal_norm_table *t, const bal_norm *norm);

/* One view from the view_size square of `img` whose corner is (x0, y0); black outside `img`.
 * out: [3][view_size][view_size]. */
void bal_view_normalise(float *out, const bal_image *img, int x0, int y0, int view_size,
                        const bal_norm_table *t);

#endif
