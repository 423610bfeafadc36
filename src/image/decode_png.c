/* SPDX-License-Identifier: MIT
 * PNG through libpng, always as 8-bit RGBA. Broken files (a bad checksum in a critical chunk,
 * missing or short image data, no end chunk) are errors; a bad ancillary chunk is passed over.
 * Gamma and background chunks are ignored on purpose: Pillow ignores them. */
#include "image/decode.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <png.h>

typedef struct png_job {
    png_structp png;
    png_infop info;
    jmp_buf jump;
    const uint8_t *data;
    size_t n, at;
    bal_pixels *px;
    uint8_t **rows;
    bal_status status;
    bal_error *err;
} png_job;

static void on_error(png_structp png, png_const_charp text)
{
    png_job *job = png_get_error_ptr(png);
    job->status =
        bal_fail(job->err, BAL_E_FORMAT, "PNG: %s (near byte %zu of %zu)", text, job->at, job->n);
    longjmp(job->jump, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static void on_read(png_structp png, png_bytep to, size_t n)
{
    png_job *job = png_get_io_ptr(png);
    if (n > job->n - job->at) png_error(png, "the file ends early");
    memcpy(to, job->data + job->at, n);
    job->at += n;
}

/* Whatever the file holds becomes 8-bit RGBA. tRNS is compared at full depth before the lower
 * byte of 16-bit samples is dropped. */
static void ask_for_rgba8(png_job *job)
{
    png_set_expand(job->png);
    png_set_strip_16(job->png);
    png_set_gray_to_rgb(job->png);
    png_set_add_alpha(job->png, 255, PNG_FILLER_AFTER);
}

static bal_status read_rows(png_job *job)
{
    bal_pixels *px = job->px;
    const size_t n = (size_t)px->height, stride = (size_t)px->width * 4;
    job->rows = malloc(n * sizeof *job->rows);
    if (!job->rows) return bal_nomem(job->err, n * sizeof *job->rows, "PNG row pointers");
    for (size_t y = 0; y < n; y++) job->rows[y] = px->data + y * stride;
    png_read_update_info(job->png, job->info);
    if (png_get_rowbytes(job->png, job->info) != stride) png_error(job->png, "odd row length");
    png_read_image(job->png, job->rows);
    png_read_end(job->png, job->info);
    return BAL_OK;
}

static void read_orientation(png_job *job)
{
    png_uint_32 n = 0;
    png_bytep exif = NULL;
    if (png_get_eXIf_1(job->png, job->info, &n, &exif))
        job->px->orientation = bal_exif_orientation(exif, n);
}

/* Everything that may longjmp; the caller cleans up. */
static bal_status decode_guarded(png_job *job, size_t max_pixels)
{
    if (setjmp(job->jump)) return job->status;
    job->info = png_create_info_struct(job->png);
    if (!job->info) return bal_nomem(job->err, 0, "the PNG decoder");
    png_set_read_fn(job->png, job, on_read);
    png_set_user_limits(job->png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* claim() has the limit */
    png_read_info(job->png, job->info);
    BAL_TRY(bal_pixels_claim(job->px, png_get_image_width(job->png, job->info),
                             png_get_image_height(job->png, job->info), 4, max_pixels, "PNG",
                             job->err));
    ask_for_rgba8(job);
    BAL_TRY(read_rows(job));
    read_orientation(job);
    return BAL_OK;
}

bal_status bal_png_decode(bal_pixels *px, const uint8_t *data, size_t n_bytes, size_t max_pixels,
                          bal_error *err)
{
    png_job *job = calloc(1, sizeof *job);
    if (!job) return bal_nomem(err, sizeof *job, "the PNG decoder");
    job->data = data;
    job->n = n_bytes;
    job->px = px;
    job->err = err;
    job->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, job, on_error, on_warning);
    const bal_status st =
        job->png ? decode_guarded(job, max_pixels) : bal_nomem(err, 0, "the PNG decoder");
    png_destroy_read_struct(&job->png, &job->info, NULL);
    free(job->rows);
    free(job);
    if (st < 0) {
        free(px->data);
        px->data = NULL;
    }
    return st;
}
