/* SPDX-License-Identifier: MIT
 * JPEG through libjpeg-turbo with its defaults, which are Pillow's. libjpeg leaves by longjmp;
 * everything it could leak hangs on one struct that the outer function cleans up. Warnings that
 * mean lost picture data (the file ends early, a code is wrong) are errors here. */
#include "image/decode.h"

#include <stdio.h> /* jpeglib.h needs size_t and FILE */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <jpeglib.h>
#include <jerror.h>

/* A progressive file may repeat scans without end; libjpeg-turbo's own advice is 500. Each goes
 * over the whole picture, so large ones get fewer: 33 of 64 megapixels. Programs write about ten.
 */
enum { MAX_SCANS = 500, ALWAYS_SCANS = 20 };
static const uint64_t MAX_SCANNED = (uint64_t)1 << 31; /* pixels, times scans */

typedef struct jpeg_job {
    struct jpeg_decompress_struct c;
    struct jpeg_error_mgr mgr;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    bal_pixels *px;
    uint8_t *cmyk_row;
    bal_status status;
    bal_error *err;
} jpeg_job;

static bal_status status_of(int code)
{
    switch (code) {
    case JERR_OUT_OF_MEMORY: return BAL_E_NOMEM;
    case JERR_BAD_PRECISION:
    case JERR_SOF_UNSUPPORTED:
    case JERR_CONVERSION_NOTIMPL: return BAL_E_UNSUP;
    default: return BAL_E_FORMAT;
    }
}

static void leave(j_common_ptr c)
{
    jpeg_job *job = c->client_data;
    char text[JMSG_LENGTH_MAX];
    c->err->format_message(c, text);
    job->status = bal_fail(job->err, status_of(c->err->msg_code), "JPEG: %s", text);
    longjmp(job->jump, 1);
}

static void on_message(j_common_ptr c, int level)
{
    if (level >= 0) return; /* traces */
    switch (c->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC: leave(c);
    }
}

static void on_progress(j_common_ptr c)
{
    jpeg_job *job = c->client_data;
    const int scans = job->c.input_scan_number;
    const uint64_t pixels = (uint64_t)job->c.image_width * job->c.image_height;
    if (scans <= ALWAYS_SCANS) return;
    if (scans <= MAX_SCANS && (uint64_t)scans * pixels <= MAX_SCANNED) return;
    job->status = bal_fail(job->err, BAL_E_FORMAT, "JPEG: %d scans of %u x %u pixels are too many",
                           scans, job->c.image_width, job->c.image_height);
    longjmp(job->jump, 1);
}

static void read_orientation(jpeg_job *job)
{
    for (jpeg_saved_marker_ptr m = job->c.marker_list; m; m = m->next)
        if (m->data_length >= 6 && !memcmp(m->data, "Exif\0\0", 6)) {
            job->px->orientation = bal_exif_orientation(m->data, m->data_length);
            return;
        }
}

/* Inverted CMYK to RGB in Pillow's integers: black first, then each ink scaled by what is left. */
static void cmyk_to_rgb(uint8_t *rgb, const uint8_t *cmyk, int width)
{
    for (int x = 0; x < width; x++, rgb += 3, cmyk += 4)
        for (int c = 0; c < 3; c++) {
            const int light = cmyk[3];
            const int product = (255 - cmyk[c]) * light + 128;
            const int ink = ((product >> 8) + product) >> 8;
            rgb[c] = (uint8_t)(light > ink ? light - ink : 0);
        }
}

static bool choose_colours(jpeg_job *job)
{
    const int n = job->c.num_components;
    job->c.out_color_space = n == 4 ? JCS_CMYK : JCS_RGB;
    if (n == 1 || n == 3 || n == 4) return true;
    job->status =
        bal_fail(job->err, BAL_E_UNSUP, "JPEG: %d colour components, 1, 3 or 4 are read", n);
    return false;
}

static void read_rows(jpeg_job *job)
{
    bal_pixels *px = job->px;
    while (job->c.output_scanline < job->c.output_height) {
        uint8_t *to = px->data + (size_t)job->c.output_scanline * (size_t)px->width * 3;
        JSAMPROW row = job->cmyk_row ? job->cmyk_row : to;
        if (jpeg_read_scanlines(&job->c, &row, 1) == 1 && job->cmyk_row)
            cmyk_to_rgb(to, job->cmyk_row, px->width);
    }
}

/* Everything that may longjmp; the caller cleans up. */
static bal_status decode_guarded(jpeg_job *job, const uint8_t *data, size_t n_bytes,
                                 size_t max_pixels)
{
    if (setjmp(job->jump)) return job->status;
    jpeg_create_decompress(&job->c);
    job->c.client_data = job;
    job->c.progress = &job->progress;
    jpeg_mem_src(&job->c, data, n_bytes);
    jpeg_save_markers(&job->c, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(&job->c, TRUE);
    read_orientation(job);
    if (!choose_colours(job)) return job->status;
    BAL_TRY(bal_pixels_claim(job->px, job->c.image_width, job->c.image_height, 3, max_pixels,
                             "JPEG", job->err));
    if (job->c.num_components == 4) {
        job->cmyk_row = malloc((size_t)job->c.image_width * 4);
        if (!job->cmyk_row) return bal_nomem(job->err, job->c.image_width * 4, "a CMYK row");
    }
    jpeg_start_decompress(&job->c);
    read_rows(job);
    jpeg_finish_decompress(&job->c);
    return BAL_OK;
}

bal_status bal_jpeg_decode(bal_pixels *px, const uint8_t *data, size_t n_bytes, size_t max_pixels,
                           bal_error *err)
{
    jpeg_job *job = calloc(1, sizeof *job);
    if (!job) return bal_nomem(err, sizeof *job, "the JPEG decoder");
    job->px = px;
    job->err = err;
    job->c.err = jpeg_std_error(&job->mgr);
    job->c.client_data = job; /* kept by jpeg_create_decompress, which may fail already */
    job->mgr.error_exit = leave;
    job->mgr.emit_message = on_message;
    job->progress.progress_monitor = on_progress;
    const bal_status st = decode_guarded(job, data, n_bytes, max_pixels);
    jpeg_destroy_decompress(&job->c);
    free(job->cmyk_row);
    free(job);
    if (st < 0) {
        free(px->data);
        px->data = NULL;
    }
    return st;
}
