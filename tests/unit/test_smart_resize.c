/* SPDX-License-Identifier: MIT
 * Sizes of Qwen2-VL's pictures against the original's rule, with the published token counts, and
 * its pixels. */
#include "image_check.h"

#include "image/smart_resize.h"

enum { FACTOR = 28, MIN = 3136, MAX = 12845056 };

static void resize_line(const char *line)
{
    int v[7], w, h;
    bal_error err;
    assert_int_equal(
        sscanf(line, "%d %d %d %d %d %d %d", v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6), 7);
    const bal_status st = bal_smart_resize(v[1], v[0], v[2], v[3], v[4], &w, &h, &err);
    if (v[5] == 0 ? st != BAL_E_ARG : st != BAL_OK || h != v[5] || w != v[6])
        fail_msg("'%s': status %d, %d x %d", line, (int)st, h, w);
}

static void test_against_original(void **state)
{
    (void)state;
    assert_int_equal(for_each_line("anyres/smart_resize.txt", resize_line), 885);
}

/* height, width of the picture, then of its tower, then tokens */
static void test_token_counts(void **state)
{
    (void)state;
    static const int c[][5] = {
        {384, 384, 392, 392, 196},
        {336, 336, 336, 336, 144},
        {480, 640, 476, 644, 391},
        {899, 1024, 896, 1036, 1184},
        {1000, 1000, 1008, 1008, 1296},
        {1080, 1920, 1092, 1932, 2691},
        {3024, 4032, 3024, 4032, 15552},
        {100, 2000, 112, 1988, 284},
        {2000, 100, 1988, 112, 284},
        {42, 70, 56, 56, 4},
        {28, 28, 56, 56, 4},
    };
    static const int limited[][5] = {{1080, 1920, 728, 1316, 1222}, {3024, 4032, 840, 1148, 1230}};
    bal_error err;
    int w, h;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        ASSERT_OK(bal_smart_resize(c[i][1], c[i][0], FACTOR, MIN, MAX, &w, &h, &err));
        assert_int_equal(h, c[i][2]);
        assert_int_equal(w, c[i][3]);
        assert_int_equal(w * h / (FACTOR * FACTOR), c[i][4]);
    }
    for (size_t i = 0; i < 2; i++) {
        const int *l = limited[i];
        ASSERT_OK(bal_smart_resize(l[1], l[0], FACTOR, MIN, 1003520, &w, &h, &err));
        assert_int_equal(h, l[2]);
        assert_int_equal(w, l[3]);
        assert_int_equal(w * h / (FACTOR * FACTOR), l[4]);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    bal_error err;
    int w, h;
    ASSERT_OK(bal_smart_resize(2000, 10, FACTOR, MIN, MAX, &w, &h, &err));
    ASSERT_FAILS(BAL_E_ARG, "2001 x 10 pixels is too long",
                 bal_smart_resize(2001, 10, FACTOR, MIN, MAX, &w, &h, &err));
    assert_int_equal(w, 0);
    ASSERT_FAILS(BAL_E_ARG, "at most 200",
                 bal_smart_resize(3, 601, FACTOR, MIN, MAX, &w, &h, &err));
    ASSERT_FAILS(BAL_E_ARG, "0 x 5 pixels", bal_smart_resize(0, 5, FACTOR, MIN, MAX, &w, &h, &err));
    ASSERT_FAILS(BAL_E_ARG, "pixels",
                 bal_smart_resize(BAL_IMAGE_MAX_SIDE + 1, 1 << 19, FACTOR, MIN, MAX, &w, &h, &err));
    ASSERT_FAILS(BAL_E_ARG, "min_pixels 9, max_pixels 8",
                 bal_smart_resize(5, 5, FACTOR, 9, 8, &w, &h, &err));
    ASSERT_FAILS(BAL_E_ARG, "multiples of 0", bal_smart_resize(5, 5, 0, MIN, MAX, &w, &h, &err));
    /* the extremes of both ways stay within a picture's sides */
    ASSERT_OK(bal_smart_resize(1, 200, 1, INT32_MAX, INT32_MAX, &w, &h, &err));
    assert_true(w >= 1 && h <= BAL_IMAGE_MAX_SIDE);
    ASSERT_OK(bal_smart_resize(1 << 20, 1 << 20, 4096, MIN, INT32_MAX, &w, &h, &err));
    assert_true((int64_t)w * h <= INT32_MAX);
}

/* One colour stays one colour through any resize, so its normalised values are known. */
static void test_pixels(void **state)
{
    (void)state;
    static const float mean[3] = {0.5f, 0.25f, 0.0f}, std[3] = {0.5f, 0.25f, 1.0f};
    static const uint8_t colour[3] = {255, 51, 102};
    bal_error err;
    bal_image img;
    float out[3 * 8 * 4];
    ASSERT_OK(bal_image_create(&img, 5, 3, &err));
    for (size_t i = 0; i < 15; i++) memcpy(img.rgb + 3 * i, colour, 3);
    ASSERT_OK(bal_smart_pixels(&img, 8, 4, mean, std, BAL_FILTER_BICUBIC, out, &err));
    for (size_t i = 0; i < 96; i++) {
        const size_t c = i / 32;
        const float x = (float)(colour[c] * (1.0 / 255.0));
        assert_true(out[i] == (x - mean[c]) / std[c]);
    }
    static const float zero[3] = {1.0f, 0.0f, 1.0f};
    ASSERT_FAILS(BAL_E_ARG, "image_std[1]",
                 bal_smart_pixels(&img, 8, 4, mean, zero, BAL_FILTER_BICUBIC, out, &err));
    bal_image_free(&img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_original),
        cmocka_unit_test(test_token_counts),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_pixels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
