/* SPDX-License-Identifier: MIT
 * Decoders: own small pictures against Pillow byte for byte, with both ways to treat transparency;
 * PngSuite against its bitmaps; the eight EXIF orientations; limits; every cut-off file. */
#include "image_check.h"

#include "image/decode.h"

#include <dirent.h>

static const char *picture_path(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "tests/fuzz/corpus/fuzz_image/%s", name);
    return source_path(path);
}

static void check_hash(const char *name, const bal_image_opts *opts, int w, int h, const char *want)
{
    bal_error err;
    char got[33];
    bal_image img;
    ASSERT_OK(bal_image_open(&img, picture_path(name), opts, &err));
    image_hash(got, &img);
    if (img.width != w || img.height != h || strcmp(got, want))
        fail_msg("%s, alpha mode %d: %d x %d, %s; wanted %d x %d, %s", name, opts ? opts->alpha : 0,
                 img.width, img.height, got, w, h, want);
    bal_image_free(&img);
}

static void expected_line(const char *line)
{
    char name[64], white[33], drop[33];
    int w, h;
    assert_int_equal(sscanf(line, "%63s %d %d %32s %32s", name, &w, &h, white, drop), 5);
    if (!strcmp(white, "refused")) {
        bal_error err;
        bal_image img;
        ASSERT_FAILS(bal_image_open(&img, picture_path(name), NULL, NULL), name,
                     bal_image_open(&img, picture_path(name), NULL, &err));
        assert_true(err.status < 0);
        assert_null(img.rgb);
        return;
    }
    check_hash(name, NULL, w, h, white);
    check_hash(name, &(bal_image_opts){.alpha = BAL_ALPHA_DROP}, w, h, drop);
}

static void test_own_pictures(void **state)
{
    (void)state;
    assert_int_equal(for_each_line("image/expected.txt", expected_line), 47);
}

static void test_refusals_say_why(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text;
        bal_status status;
    } c[] = {
        {"huge.png",
         "50000 x 50000 pixels, more than the limit of 64000000 (and 1048576 a side); scale the "
         "picture down",
         BAL_E_FORMAT},
        {"long.png", "2147483647", BAL_E_FORMAT},
        {"bad_crc.png", "CRC error", BAL_E_FORMAT},
        {"bad_zlib.png", "incorrect data check", BAL_E_FORMAT},
        {"no_data.png", "PNG: ", BAL_E_FORMAT},
        {"cut.png", "ends early", BAL_E_FORMAT},
        {"cut.jpg", "JPEG: ", BAL_E_FORMAT},
        {"cut.webp", "announces", BAL_E_FORMAT},
        {"empty.bin", "empty", BAL_E_FORMAT},
        {"gif.bin", "this is GIF", BAL_E_UNSUP},
        {"text.bin", "not a JPEG, PNG or WebP", BAL_E_FORMAT},
        {"absent.png", "absent.png", BAL_E_IO},
    };
    bal_error err;
    bal_image img;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        ASSERT_FAILS(c[i].status, c[i].text,
                     bal_image_open(&img, picture_path(c[i].name), NULL, &err));
}

/* The limit holds for each format, to the pixel, whatever the orientation. */
static void test_pixel_limit(void **state)
{
    (void)state;
    static const char *const names[] = {"turn6.jpg", "turn6.png", "turn8.webp", "animated.webp",
                                        "cmyk.jpg",  "rgb16.png", "rgba.png"};
    bal_error err;
    bal_image img;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const bal_image_opts low = {.max_pixels = 13 * 9 - 1}, enough = {.max_pixels = 13 * 9};
        ASSERT_FAILS(BAL_E_FORMAT, "limit of 116",
                     bal_image_open(&img, picture_path(names[i]), &low, &err));
        ASSERT_OK(bal_image_open(&img, picture_path(names[i]), &enough, &err));
        bal_image_free(&img);
    }
}

/* Every beginning of a file is refused, and read from memory of exactly that size. */
static void test_every_prefix(void **state)
{
    (void)state;
    static const char *const names[] = {"turn6.jpg",     "progressive.jpg", "cmyk.jpg",
                                        "turn6.png",     "adam7.png",       "palette_trns.png",
                                        "lossy.webp",    "turn8.webp",      "lossless_alpha.webp",
                                        "animated.webp", "lossy_alpha.webp"};
    bal_error err;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        uint8_t *whole;
        size_t n;
        ASSERT_OK(bal_read_file(&whole, &n, picture_path(names[i]), 1 << 20, &err));
        for (size_t cut = 0; cut < n; cut++) {
            uint8_t *part = malloc(cut ? cut : 1);
            assert_non_null(part);
            memcpy(part, whole, cut);
            bal_image img;
            if (bal_image_decode(&img, part, cut, NULL, &err) >= 0)
                fail_msg("%s: %zu of %zu bytes were taken for a picture", names[i], cut, n);
            assert_null(img.rgb);
            free(part);
        }
        free(whole);
    }
}

/* ---- EXIF ---------------------------------------------------------------------------------- */

static void test_exif_blocks(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
        int want;
    } c[] = {
        {"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", 22, 6},
        {"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0", 22, 3},
        {"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0", 28, 8},
        {"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x05", 22, 5},   /* LONG */
        {"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0", 22, 1},   /* 9 means nothing */
        {"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01\0\x03\0\0", 22, 1},   /* text */
        {"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x02\0\x03\0\0", 22, 1},   /* two values */
        {"MM\0*\xff\xff\xff\xfe\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03", 20, 1}, /* far away */
        {"MM\0*\0\0\0\x08\xff\xff\x01\x10\0\x03\0\0\0\x01\0\x03\0\0", 22, 1}, /* cut directory */
        {"XX\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0", 22, 1},
        {"", 0, 1},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        uint8_t *exact = malloc(c[i].n + (c[i].n == 0));
        assert_non_null(exact);
        memcpy(exact, c[i].bytes, c[i].n);
        assert_int_equal(bal_exif_orientation(exact, c[i].n), c[i].want);
        for (size_t cut = 0; cut < c[i].n; cut++) {
            const int o = bal_exif_orientation(exact + c[i].n - cut, cut);
            assert_in_range(o, 1, 8);
        }
        free(exact);
    }
}

/* Mean absolute difference per sample. */
static double distance(const bal_image *a, const bal_image *b)
{
    if (a->width != b->width || a->height != b->height) return 255.0;
    const size_t n = (size_t)a->width * (size_t)a->height * 3;
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += abs(a->rgb[i] - b->rgb[i]);
    return sum / (double)n;
}

static void check_photographs(const char *kind)
{
    bal_error err;
    bal_image first, img;
    char name[64];
    for (int i = 0; i <= 8; i++) {
        snprintf(name, sizeof name, "exif/%s_%d.jpg", kind, i);
        const char *path = data_path(name);
        SKIP_WITHOUT(path, name);
        ASSERT_OK(bal_image_open(&img, path, NULL, &err));
        if (i == 0) {
            first = img;
            continue;
        }
        /* Each file was turned, compressed anew and has its own number drawn in it: 1.7 to 4.3.
         * A wrong turn differs by more than 60. */
        const double d = distance(&first, &img);
        if (d > 6.0) fail_msg("%s is %d x %d, differs by %.2f", name, img.width, img.height, d);
        bal_image_free(&img);
    }
    bal_image_free(&first);
}

static void test_exif_photographs(void **state)
{
    (void)state;
    check_photographs("Landscape");
    check_photographs("Portrait");
}

/* ---- PngSuite ------------------------------------------------------------------------------ */

static uint32_t le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The suite's references: bitmaps of 32 bits, B G R A. The program that made them gave invisible
 * pixels another colour (tbbn0g04), so what counts is the picture on white. */
static bal_image read_bmp(const char *path)
{
    bal_error err;
    uint8_t *file;
    size_t n;
    ASSERT_OK(bal_read_file(&file, &n, path, 1 << 24, &err));
    assert_true(n > 54 && file[28] == 32);
    const int w = (int)le32(file + 18), h = abs((int)le32(file + 22));
    const bool top_down = (int)le32(file + 22) < 0;
    const uint8_t *px = file + le32(file + 10);
    bal_image img;
    ASSERT_OK(bal_image_create(&img, w, h, &err));
    assert_true(le32(file + 10) + (size_t)w * (size_t)h * 4 <= n);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            const uint8_t *p = px + 4 * ((top_down ? y : h - 1 - y) * w + x);
            for (int c = 0; c < 3; c++)
                img.rgb[3 * (y * w + x) + c] =
                    (uint8_t)((p[2 - c] * p[3] + 255 * (255 - p[3]) + 127) / 255);
        }
    free(file);
    return img;
}

static void check_suite_file(const char *png, const char *bmp, const char *name)
{
    bal_error err;
    bal_image img;
    ASSERT_OK(bal_image_open(&img, png, NULL, &err));
    bal_image want = read_bmp(bmp);
    if (img.width != want.width || img.height != want.height)
        fail_msg("%s is %d x %d", name, img.width, img.height);
    /* the references of 16-bit gray are neither rounded nor cut, but 1 off either here and there */
    const int slack = strstr(name, "0g16") ? 1 : 0;
    for (int i = 0; i < img.width * img.height * 3; i++)
        if (abs(img.rgb[i] - want.rgb[i]) > slack)
            fail_msg("%s: sample %d is %d, wanted %d", name, i, img.rgb[i], want.rgb[i]);
    bal_image_free(&img);
    bal_image_free(&want);
}

static void test_pngsuite(void **state)
{
    (void)state;
    const char *found = data_path("pngsuite/png");
    SKIP_WITHOUT(found, "pngsuite/png");
    char folder[1024]; /* data_path's buffers go round */
    snprintf(folder, sizeof folder, "%s", found);
    DIR *d = opendir(folder);
    assert_non_null(d);
    int n_good = 0, n_bad = 0;
    for (struct dirent *e; (e = readdir(d));) {
        char png[2048], bmp[2048], relative[512];
        const size_t len = strlen(e->d_name);
        if (len < 5 || strcmp(e->d_name + len - 4, ".png")) continue;
        snprintf(png, sizeof png, "%s/%s", folder, e->d_name);
        snprintf(relative, sizeof relative, "pngsuite/bmp/%.*s.bmp", (int)(len - 4), e->d_name);
        bal_error err;
        bal_image img;
        if (e->d_name[0] == 'x') {
            if (bal_image_open(&img, png, NULL, &err) >= 0) fail_msg("%s was taken", e->d_name);
            n_bad++;
            continue;
        }
        assert_non_null(data_path(relative));
        snprintf(bmp, sizeof bmp, "%s", data_path(relative));
        check_suite_file(png, bmp, e->d_name);
        n_good++;
    }
    closedir(d);
    assert_int_equal(n_bad, 14);
    assert_int_equal(n_good, 161);
}

/* ---- libjpeg-turbo's own pictures ---------------------------------------------------------- */

static void test_jpeg_suite(void **state)
{
    (void)state;
    static const char *const names[] = {"testorig.jpg", "testimgint.jpg", "testimgari.jpg"};
    bal_error err;
    bal_image img;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[64];
        snprintf(name, sizeof name, "jpeg/%s", names[i]);
        const char *path = data_path(name);
        SKIP_WITHOUT(path, name);
        ASSERT_OK(bal_image_open(&img, path, NULL, &err));
        assert_int_equal(img.width, 227);
        assert_int_equal(img.height, 149);
        bal_image_free(&img);
    }
    const char *deep = data_path("jpeg/monkey12.jpg");
    SKIP_WITHOUT(deep, "jpeg/monkey12.jpg");
    ASSERT_FAILS(BAL_E_UNSUP, "precision", bal_image_open(&img, deep, NULL, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_own_pictures), cmocka_unit_test(test_refusals_say_why),
        cmocka_unit_test(test_pixel_limit),  cmocka_unit_test(test_every_prefix),
        cmocka_unit_test(test_exif_blocks),  cmocka_unit_test(test_exif_photographs),
        cmocka_unit_test(test_pngsuite),     cmocka_unit_test(test_jpeg_suite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
