/* SPDX-License-Identifier: MIT
 * What the three decoders owe to image.c: raw pixels and an orientation, or an error and nothing
 * left behind. Internal to src/image. */
#ifndef BAL_IMAGE_DECODE_H
#define BAL_IMAGE_DECODE_H

#include "image/image.h"

/* Pixels as they lie in the file. data is owned (malloc), rows without gaps. */
typedef struct bal_pixels {
    uint8_t *data;
    int width, height;
    int channels;                /* 3: RGB, 4: RGBA, alpha not premultiplied */
    int orientation;             /* EXIF, 1..8; 1 is upright */
    const char *max_pixels_flag; /* as in bal_image_opts */
} bal_pixels;

/* `px` is zeroed by the caller, but for orientation 1 and the flag. On failure px->data is NULL.
 * The header's size is checked with bal_pixels_claim before memory is taken for it. */
bal_status bal_jpeg_decode(bal_pixels *px, const uint8_t *data, size_t n_bytes, size_t max_pixels,
                           bal_error *err);
bal_status bal_png_decode(bal_pixels *px, const uint8_t *data, size_t n_bytes, size_t max_pixels,
                          bal_error *err);
bal_status bal_webp_decode(bal_pixels *px, const uint8_t *data, size_t n_bytes, size_t max_pixels,
                           bal_error *err);

/* Checks a size that a header claims against BAL_IMAGE_MAX_SIDE and max_pixels, then sets width,
 * height and channels and allocates zeroed data. `format` begins the error sentence. */
bal_status bal_pixels_claim(bal_pixels *px, uint64_t width, uint64_t height, int channels,
                            size_t max_pixels, const char *format, bal_error *err);

/* Tag 0x0112 of the first directory of an EXIF block (TIFF header, with or without "Exif\0\0" in
 * front). Returns 1..8; 1 also for an absent, damaged or nonsensical block, because a picture is
 * worth showing without it. */
int bal_exif_orientation(const uint8_t *exif, size_t n_bytes);

#endif
