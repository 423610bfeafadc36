/* SPDX-License-Identifier: MIT */
#include "image/views.h"

#include <math.h>

bal_status bal_norm_check(const bal_norm *norm, bal_error *err)
{
    for (int c = 0; c < 3; c++)
        if (!isfinite(norm->mean[c]) || !(norm->std[c] > 0.0) || !isfinite(norm->std[c]))
            return bal_fail(err, BAL_E_ARG, "image_mean[%d] = %g, image_std[%d] = %g", c,
                            norm->mean[c], c, norm->std[c]);
    return BAL_OK;
}

void bal_norm_table_init(bal_norm_table *t, const bal_norm *norm)
{
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            t->of[c][v] = ((float)(v * (1.0 / 255.0)) - (float)norm->mean[c]) / (float)norm->std[c];
}

void bal_view_normalise(float *out, const bal_image *img, int x0, int y0, int view_size,
                        const bal_norm_table *t)
{
    const size_t plane = (size_t)view_size * (size_t)view_size;
    const int lo = x0 < 0 ? -x0 : 0;
    const int hi = img->width - x0 < view_size ? img->width - x0 : view_size;
    for (int y = 0; y < view_size; y++)
        for (int c = 0; c < 3; c++) {
            float *to = out + (size_t)c * plane + (size_t)y * (size_t)view_size;
            const bool outside = y + y0 < 0 || y + y0 >= img->height || hi <= lo;
            const int first = outside ? view_size : lo, end = outside ? view_size : hi;
            for (int x = 0; x < first; x++) to[x] = t->of[c][0];
            for (int x = first; x < end; x++)
                to[x] = t->of[c][img->rgb[((ptrdiff_t)(y + y0) * img->width + x + x0) * 3 + c]];
            for (int x = end; x < view_size; x++) to[x] = t->of[c][0];
        }
}
