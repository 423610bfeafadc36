/* SPDX-License-Identifier: MIT
 * Resizing, bit for bit as Pillow 13.0 does it: antialiased, two passes with 8-bit rounding between
 * them and weights of 22 fractional bits. Older Pillows give the same bytes except where 13.0
 * changed the order of the passes (see resize.c; then values differ by 1 or 2 of 255). Any size
 * to any size; nothing here is fast at the price of a bit. */
#ifndef BAL_IMAGE_RESIZE_H
#define BAL_IMAGE_RESIZE_H

#include "image/image.h"

typedef enum bal_filter { /* Pillow's numbers, as `resample` in preprocessor_config.json */
                          BAL_FILTER_LANCZOS = 1,
                          BAL_FILTER_BILINEAR = 2,
                          BAL_FILTER_BICUBIC = 3,
} bal_filter;

/* A picture standing at (x, y) in a width x height field of one colour. The picture must lie
 * inside. Lets a long picture be padded to a square without ever making that square. */
typedef struct bal_framed {
    const bal_image *image;
    int width, height, x, y;
    uint8_t colour[3];
} bal_framed;

/* *dst becomes a new image of width x height (1..BAL_IMAGE_MAX_SIDE each). On failure it is
 * empty: BAL_E_ARG for sizes and unknown filters, BAL_E_NOMEM. Memory beyond dst grows with
 * the sides, not with the area, of the source. */
bal_status bal_image_resize(bal_image *dst, const bal_image *src, int width, int height,
                            bal_filter filter, bal_error *err);
bal_status bal_framed_resize(bal_image *dst, const bal_framed *src, int width, int height,
                             bal_filter filter, bal_error *err);

#endif
