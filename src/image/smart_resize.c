/* SPDX-License-Identifier: MIT
 * Python's round is half to even, as rint in the default rounding mode; its // and ceil of floats
 * are floor and ceil of doubles. Sides up to 2^20 keep every product exact in int64,
 * and neither way leads above that: an area below 2^31 of a ratio up to 200 has sides below 2^20,
 * and a side that rounds to nothing makes an area below the lower limit, so it grows. */
#include "image/smart_resize.h"

#include <math.h>

static bal_status check(int w, int h, int factor, int64_t lo, int64_t hi, bal_error *err)
{
    if (w < 1 || h < 1 || w > BAL_IMAGE_MAX_SIDE || h > BAL_IMAGE_MAX_SIDE)
        return bal_fail(err, BAL_E_ARG, "a picture of %d x %d pixels", w, h);
    if (factor < 1 || factor > 4096 || lo < 1 || hi < lo || hi > INT32_MAX)
        return bal_fail(err, BAL_E_ARG, "min_pixels %lld, max_pixels %lld, multiples of %d",
                        (long long)lo, (long long)hi, factor);
    const int64_t longer = w > h ? w : h, shorter = w > h ? h : w;
    if (longer > BAL_SMART_MAX_ASPECT * shorter)
        return bal_fail(err, BAL_E_ARG,
                        "a picture of %d x %d pixels is too long: this model takes a ratio of its "
                        "sides of at most %d",
                        w, h, (int)BAL_SMART_MAX_ASPECT);
    return BAL_OK;
}

/* floor(side / beta / factor) * factor, at least one factor */
static int64_t shrink(int side, double beta, int factor)
{
    const int64_t n = (int64_t)floor((double)side / beta / factor);
    return (n < 1 ? 1 : n) * factor;
}

static int64_t grow(int side, double beta, int factor)
{
    return (int64_t)ceil((double)side * beta / factor) * factor;
}

bal_status bal_smart_resize(int image_w, int image_h, int factor, int64_t min_pixels,
                            int64_t max_pixels, int *width, int *height, bal_error *err)
{
    *width = *height = 0;
    BAL_TRY(check(image_w, image_h, factor, min_pixels, max_pixels, err));
    const double area = (double)image_w * (double)image_h;
    int64_t w = (int64_t)rint((double)image_w / factor) * factor;
    int64_t h = (int64_t)rint((double)image_h / factor) * factor;
    if (w * h > max_pixels) {
        const double beta = sqrt(area / (double)max_pixels);
        w = shrink(image_w, beta, factor);
        h = shrink(image_h, beta, factor);
    } else if (w * h < min_pixels) {
        const double beta = sqrt((double)min_pixels / area);
        w = grow(image_w, beta, factor);
        h = grow(image_h, beta, factor);
    }
    *width = (int)w;
    *height = (int)h;
    return BAL_OK;
}

static void normalise(const bal_image *img, int c, float mean, float std, float *out)
{
    const size_t n = (size_t)img->width * (size_t)img->height;
    float value[256];
    for (int v = 0; v < 256; v++) value[v] = ((float)(v * (1.0 / 255.0)) - mean) / std;
    for (size_t i = 0; i < n; i++) out[i] = value[img->rgb[3 * i + (size_t)c]];
}

bal_status bal_smart_pixels(const bal_image *image, int width, int height, const float mean[3],
                            const float std[3], bal_filter filter, float *out, bal_error *err)
{
    bal_image fitted;
    for (int c = 0; c < 3; c++)
        if (!isfinite(mean[c]) || !(std[c] > 0.0f) || !isfinite(std[c]))
            return bal_fail(err, BAL_E_ARG, "image_mean[%d] = %g, image_std[%d] = %g", c,
                            (double)mean[c], c, (double)std[c]);
    BAL_TRY(bal_image_resize(&fitted, image, width, height, filter, err));
    const size_t plane = (size_t)width * (size_t)height;
    for (int c = 0; c < 3; c++) normalise(&fitted, c, mean[c], std[c], out + (size_t)c * plane);
    bal_image_free(&fitted);
    return BAL_OK;
}
