/* SPDX-License-Identifier: MIT
 * Pictures: 8-bit RGB in memory, read from JPEG, PNG and WebP bytes that nobody vouches for.
 * Orientation from EXIF is applied, transparency is resolved, so that everything behind this
 * header sees upright opaque RGB. A damaged or cut-off file is an error, never half a picture.
 * Colour profiles and gamma are ignored, as Pillow's convert("RGB") ignores them.
 * Resizing is in image/resize.h, the views of LLaVA-OneVision in image/anyres.h. */
#ifndef BAL_IMAGE_IMAGE_H
#define BAL_IMAGE_IMAGE_H

#include "base/status.h"

enum {
    BAL_IMAGE_MAX_SIDE = 1 << 20,        /* of any picture, in pixels */
    BAL_IMAGE_MAX_PIXELS = 64 * 1000000, /* default of bal_image_opts.max_pixels */
};

/* height rows of width pixels of 3 bytes, without gaps. Owned. */
typedef struct bal_image {
    uint8_t *rgb;
    int width, height;
} bal_image;

typedef enum bal_alpha {
    BAL_ALPHA_WHITE, /* what users expect: lay the picture on white (as Pillow's alpha_composite) */
    BAL_ALPHA_DROP,  /* what transformers' convert("RGB") does: colour under transparency shows */
} bal_alpha;

typedef struct bal_image_opts {
    bal_alpha alpha;
    size_t max_pixels;           /* width * height claimed by the header; 0: BAL_IMAGE_MAX_PIXELS */
    const char *max_pixels_flag; /* what raises it, for the sentence that refuses; NULL: nothing */
} bal_image_opts;

/* Decodes a whole file's bytes; the format is told by its first bytes, not by a name.
 *   JPEG  baseline, progressive, arithmetic; gray, YCbCr, RGB, CMYK and YCCK. Four-component
 *         files are taken as inverted (Adobe), as Pillow takes them. ISLOW, fancy upsampling
 *   PNG   every colour type and depth, interlace, tRNS; of 16 bits the upper 8 are kept. That
 *         holds for 16-bit gray too, where Pillow clips at 255 and turns the picture white
 *   WebP  lossy and lossless; of an animation the first frame, on a transparent canvas
 * opts may be NULL. On failure *img is empty: BAL_E_FORMAT for damaged, unknown or too large
 * files, BAL_E_UNSUP for sound files of a kind that is not read, BAL_E_NOMEM. */
bal_status bal_image_decode(bal_image *img, const uint8_t *data, size_t n_bytes,
                            const bal_image_opts *opts, bal_error *err);

/* The same for a file of at most 256 MiB; errors name it. */
bal_status bal_image_open(bal_image *img, const char *path, const bal_image_opts *opts,
                          bal_error *err);

/* An image of that size with undefined pixels; BAL_E_ARG outside 1..BAL_IMAGE_MAX_SIDE. */
bal_status bal_image_create(bal_image *img, int width, int height, bal_error *err);

void bal_image_free(bal_image *img); /* idempotent; zeroed struct is fine */

#endif
