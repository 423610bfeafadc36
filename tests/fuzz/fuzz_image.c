/* SPDX-License-Identifier: MIT
 * Any bytes as a picture: decoding must end in a picture within the limit or a sentence, and
 * whatever decodes must have a plan and, if small, views. */
#include "image/anyres.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const int pinpoints[][2] = {{28, 28}, {28, 56}, {56, 28}, {56, 56}, {84, 28}, {28, 84}};

static void plan_and_view(const bal_image *img)
{
    static const bal_norm norm = {{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}};
    bal_view_plan tiled, square;
    if (bal_anyres_plan(&tiled, img->width, img->height, pinpoints, 6, 28, 2, 2, NULL) < 0) return;
    if (tiled.n_tokens != 4 + tiled.h1 * (tiled.w1 + 1)) abort();
    if ((size_t)img->width * (size_t)img->height > 1 << 14) return;
    float *out = malloc((size_t)tiled.n_views * 3 * 28 * 28 * sizeof *out);
    if (!out || bal_anyres_pixels(&tiled, img, &norm, BAL_FILTER_BICUBIC, out, NULL) < 0) abort();
    if (bal_square_plan(&square, img->width, img->height, 28, 2, NULL) == BAL_OK &&
        square.square_side <= 1024 &&
        bal_square_pixels(&square, img, &norm, BAL_FILTER_LANCZOS, out, NULL) < 0)
        abort();
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const bal_image_opts opts = {.alpha = size & 1 ? BAL_ALPHA_DROP : BAL_ALPHA_WHITE,
                                 .max_pixels = 1 << 20};
    bal_error err = {0};
    bal_image img;
    if (bal_image_decode(&img, data, size, &opts, &err) < 0) {
        if (!err.text[0] || img.rgb) abort();
        return 0;
    }
    if ((size_t)img.width * (size_t)img.height > opts.max_pixels) abort();
    plan_and_view(&img);
    bal_image_free(&img);
    return 0;
}
