/* SPDX-License-Identifier: MIT
 * From file bytes to an upright opaque picture: which decoder, which way up, over which colour. */
#include "image/decode.h"

#include "base/file.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 256 << 20 };

/* ---- Memory -------------------------------------------------------------------------------- */

bal_status bal_image_create(bal_image *img, int width, int height, bal_error *err)
{
    *img = (bal_image){0};
    if (width < 1 || height < 1 || width > BAL_IMAGE_MAX_SIDE || height > BAL_IMAGE_MAX_SIDE)
        return bal_fail(err, BAL_E_ARG, "image size %d x %d, each side must be 1 to %d", width,
                        height, BAL_IMAGE_MAX_SIDE);
    const size_t n = (size_t)width * (size_t)height * 3;
    img->rgb = malloc(n);
    if (!img->rgb) return bal_nomem(err, n, "an image");
    img->width = width;
    img->height = height;
    return BAL_OK;
}

void bal_image_free(bal_image *img)
{
    free(img->rgb);
    *img = (bal_image){0};
}

bal_status bal_pixels_claim(bal_pixels *px, uint64_t width, uint64_t height, int channels,
                            size_t max_pixels, const char *format, bal_error *err)
{
    if (width < 1 || height < 1)
        return bal_fail(err, BAL_E_FORMAT, "%s: no pixels, the header says %llu x %llu", format,
                        (unsigned long long)width, (unsigned long long)height);
    if (width > BAL_IMAGE_MAX_SIDE || height > BAL_IMAGE_MAX_SIDE || width * height > max_pixels)
        return bal_fail(err, BAL_E_FORMAT,
                        "%s: %llu x %llu pixels, more than the limit of %zu%s%s (and %d a side); "
                        "scale the picture down first",
                        format, (unsigned long long)width, (unsigned long long)height, max_pixels,
                        px->max_pixels_flag ? ", which is set by " : "",
                        px->max_pixels_flag ? px->max_pixels_flag : "", BAL_IMAGE_MAX_SIDE);
    const size_t n = (size_t)width * (size_t)height * (size_t)channels;
    px->data = calloc(n, 1);
    if (!px->data) return bal_nomem(err, n, "the pixels of an image");
    px->width = (int)width;
    px->height = (int)height;
    px->channels = channels;
    return BAL_OK;
}

/* ---- Transparency -------------------------------------------------------------------------- */

static uint8_t over_white(unsigned value, unsigned alpha)
{
    return (uint8_t)((value * alpha + 255u * (255u - alpha) + 127u) / 255u);
}

/* RGBA to RGB in place; the tail of the buffer is given back. */
static void flatten(bal_pixels *px, bal_alpha mode)
{
    if (px->channels == 3) return;
    const size_t n = (size_t)px->width * (size_t)px->height;
    for (size_t i = 0; i < n; i++) {
        const uint8_t *from = px->data + 4 * i;
        const unsigned a = mode == BAL_ALPHA_DROP ? 255 : from[3];
        for (size_t c = 0; c < 3; c++) px->data[3 * i + c] = over_white(from[c], a);
    }
    px->channels = 3;
    uint8_t *smaller = realloc(px->data, 3 * n);
    if (smaller) px->data = smaller;
}

/* ---- Orientation --------------------------------------------------------------------------- */

/* EXIF says which picture corner the first stored pixel is; reading the stored rows (or, when
 * `swap`, the stored columns) forwards or backwards gives the upright picture. */
static const struct {
    bool swap, back_x, back_y; /* back_*: along stored x, y */
} turns[9] = {[2] = {false, true, false}, [3] = {false, true, true}, [4] = {false, false, true},
              [5] = {true, false, false}, [6] = {true, false, true}, [7] = {true, true, true},
              [8] = {true, true, false}};

static bal_status turn_upright(bal_image *img, const bal_pixels *px, bal_error *err)
{
    const bool swap = turns[px->orientation].swap;
    BAL_TRY(
        bal_image_create(img, swap ? px->height : px->width, swap ? px->width : px->height, err));
    ptrdiff_t step_x = 3, step_y = 3 * (ptrdiff_t)px->width;
    const uint8_t *start = px->data;
    if (turns[px->orientation].back_x) {
        start += (px->width - 1) * step_x;
        step_x = -step_x;
    }
    if (turns[px->orientation].back_y) {
        start += (px->height - 1) * step_y;
        step_y = -step_y;
    }
    const ptrdiff_t along = swap ? step_y : step_x, down = swap ? step_x : step_y;
    uint8_t *to = img->rgb;
    for (ptrdiff_t y = 0; y < img->height; y++)
        for (ptrdiff_t x = 0; x < img->width; x++, to += 3)
            memcpy(to, start + y * down + x * along, 3);
    return BAL_OK;
}

/* ---- Formats ------------------------------------------------------------------------------- */

typedef bal_status decode_fn(bal_pixels *px, const uint8_t *data, size_t n_bytes, size_t max_pixels,
                             bal_error *err);

/* `magic` stands at `at`; decode NULL: known, so that the sentence can say what it is. */
static const struct {
    const char *name, *magic;
    size_t at, n_magic;
    decode_fn *decode;
} formats[] = {
    {"JPEG", "\xff\xd8\xff", 0, 3, bal_jpeg_decode},
    {"PNG", "\x89PNG\r\n\x1a\n", 0, 8, bal_png_decode},
    {"WebP", "WEBP", 8, 4, bal_webp_decode},
    {"GIF", "GIF8", 0, 4, NULL},
    {"BMP", "BM", 0, 2, NULL},
    {"TIFF", "II*\0", 0, 4, NULL},
    {"TIFF", "MM\0*", 0, 4, NULL},
    {"HEIF or AVIF", "ftyp", 4, 4, NULL},
    {"JPEG XL", "\0\0\0\x0cJXL ", 0, 8, NULL},
    {"PDF", "%PDF", 0, 4, NULL},
};

static bal_status decode_pixels(bal_pixels *px, const uint8_t *data, size_t n_bytes,
                                size_t max_pixels, bal_error *err)
{
    if (n_bytes == 0) return bal_fail(err, BAL_E_FORMAT, "the image file is empty");
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        const size_t at = formats[i].at, n = formats[i].n_magic;
        if (n_bytes < at + n || memcmp(data + at, formats[i].magic, n)) continue;
        if (formats[i].decode) return formats[i].decode(px, data, n_bytes, max_pixels, err);
        return bal_fail(err, BAL_E_UNSUP, "this is %s; JPEG, PNG and WebP are read",
                        formats[i].name);
    }
    return bal_fail(err, BAL_E_FORMAT, "not a JPEG, PNG or WebP image (%zu bytes)", n_bytes);
}

bal_status bal_image_decode(bal_image *img, const uint8_t *data, size_t n_bytes,
                            const bal_image_opts *opts, bal_error *err)
{
    *img = (bal_image){0};
    const bal_image_opts o = opts ? *opts : (bal_image_opts){0};
    bal_pixels px = {.orientation = 1, .max_pixels_flag = o.max_pixels_flag};
    BAL_TRY(
        decode_pixels(&px, data, n_bytes, o.max_pixels ? o.max_pixels : BAL_IMAGE_MAX_PIXELS, err));
    flatten(&px, o.alpha);
    if (px.orientation == 1) {
        *img = (bal_image){px.data, px.width, px.height};
        return BAL_OK;
    }
    const bal_status st = turn_upright(img, &px, err);
    free(px.data);
    return st;
}

bal_status bal_image_open(bal_image *img, const char *path, const bal_image_opts *opts,
                          bal_error *err)
{
    *img = (bal_image){0};
    uint8_t *data;
    size_t n_bytes;
    BAL_TRY(bal_read_file(&data, &n_bytes, path, MAX_FILE, err));
    const bal_status st = bal_image_decode(img, data, n_bytes, opts, err);
    free(data);
    return st < 0 ? bal_fail_in(err, st, "%s", path) : BAL_OK;
}
