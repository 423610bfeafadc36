/* SPDX-License-Identifier: MIT
 * Progressive JPEG files that repeat a scan: a few bytes each, and each goes over the whole
 * picture. */
#include "check.h"

#include "image/image.h"

#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

/* A gray square as a progressive file; malloc'ed by libjpeg. */
static unsigned char *gray_square(unsigned side, unsigned long *n)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr mgr;
    unsigned char *out = NULL, *row = malloc(side);
    assert_non_null(row);
    memset(row, 128, side);
    c.err = jpeg_std_error(&mgr);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &out, n);
    c.image_width = c.image_height = side;
    c.input_components = 1;
    c.in_color_space = JCS_GRAYSCALE;
    jpeg_set_defaults(&c);
    jpeg_simple_progression(&c);
    jpeg_start_compress(&c, TRUE);
    while (c.next_scanline < side) jpeg_write_scanlines(&c, &row, 1);
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    free(row);
    return out;
}

/* Where the segment that begins at `at` ends, entropy-coded data included. */
static size_t segment_end(const unsigned char *d, size_t n, size_t at)
{
    size_t end = at + 2 + ((size_t)d[at + 2] << 8 | d[at + 3]);
    if (d[at + 1] != 0xda) return end;
    while (end + 1 < n && !(d[end] == 0xff && d[end + 1] != 0)) end++;
    return end;
}

/* The file with its second scan, the first of AC coefficients, `times` over. */
static bal_status decode_repeated(unsigned side, int times, bal_error *err)
{
    unsigned long n = 0;
    unsigned char *d = gray_square(side, &n);
    size_t at = 2, end = 2;
    for (int scans = 0; scans < 2; at = end) {
        end = segment_end(d, n, at);
        scans += d[at + 1] == 0xda;
        if (scans == 2) break;
    }
    const size_t scan = end - at, rest = n - end;
    unsigned char *long_file = malloc(n + scan * (size_t)times);
    assert_non_null(long_file);
    memcpy(long_file, d, at);
    for (int i = 0; i < times; i++) memcpy(long_file + at + (size_t)i * scan, d + at, scan);
    memcpy(long_file + at + (size_t)times * scan, d + end, rest);
    bal_image image = {0};
    const bal_status st =
        bal_image_decode(&image, long_file, at + (size_t)times * scan + rest, NULL, err);
    bal_image_free(&image);
    free(long_file);
    free(d);
    return st;
}

static void scans_are_counted(void **state)
{
    (void)state;
    bal_error err;
    ASSERT_OK(decode_repeated(64, 1, &err));
    ASSERT_OK(decode_repeated(64, 400, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "501 scans of 64 x 64 pixels are too many",
                 decode_repeated(64, 600, &err));
}

static void large_pictures_get_fewer(void **state)
{
    (void)state;
    bal_error err;
    ASSERT_OK(decode_repeated(1000, 100, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "36 scans of 7800 x 7800 pixels are too many",
                 decode_repeated(7800, 100, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scans_are_counted),
        cmocka_unit_test(large_pictures_get_fewer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
