/* SPDX-License-Identifier: MIT
 * Resizing against Pillow, byte for byte: twelve hashes from Pillow 9.4 and a table from Pillow
 * 13.0 (tests/golden/make/make_images.py). */
#include "image_check.h"

#include "image/resize.h"

static void check_resize(int w, int h, int new_w, int new_h, int filter, const char *want)
{
    bal_error err;
    char got[33];
    bal_image src = pattern_image(w, h), dst;
    ASSERT_OK(bal_image_resize(&dst, &src, new_w, new_h, (bal_filter)filter, &err));
    assert_int_equal(dst.width, new_w);
    assert_int_equal(dst.height, new_h);
    image_hash(got, &dst);
    if (strcmp(got, want))
        fail_msg("%dx%d -> %dx%d filter %d: %s, wanted %s", w, h, new_w, new_h, filter, got, want);
    bal_image_free(&dst);
    bal_image_free(&src);
}

static void test_pillow_9_hashes(void **state)
{
    (void)state;
    static const struct {
        int w, h, new_w, new_h;
        const char *bilinear, *bicubic, *lanczos;
    } c[] = {
        {640, 480, 384, 384, "16b08db662a93aabc66b0b071e3b6d12", "144dc3fc7a8b4217923585bccb58c2e7",
         "a6390896d99c83e07ccc5209b51c5ed4"},
        {100, 75, 448, 448, "1767d375a4e91f375868d73e7c3e19cb", "b81d7cdef3b4fd1e0f6a83c0e5569e01",
         "9104a1222548f01d8849f56ab28a6b0d"},
        {1024, 899, 728, 640, "cdc20efd97db70917b998cf9c823238b",
         "309a931d2e3ad335954333c8c2797dd0", "ac8cb66882425923c167e18816335614"},
        {33, 57, 56, 84, "7dbf561e9d7c4af1fc93feabf8d01897", "fcaacd504c845510defa2534210060b9",
         "a4e114ab514d40a7aecef698ee5e7dd4"},
    };
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        check_resize(c[i].w, c[i].h, c[i].new_w, c[i].new_h, BAL_FILTER_BILINEAR, c[i].bilinear);
        check_resize(c[i].w, c[i].h, c[i].new_w, c[i].new_h, BAL_FILTER_BICUBIC, c[i].bicubic);
        check_resize(c[i].w, c[i].h, c[i].new_w, c[i].new_h, BAL_FILTER_LANCZOS, c[i].lanczos);
    }
}

static void table_line(const char *line)
{
    int w, h, new_w, new_h, filter;
    char want[33];
    assert_int_equal(sscanf(line, "%d %d %d %d %d %32s", &w, &h, &new_w, &new_h, &filter, want), 6);
    check_resize(w, h, new_w, new_h, filter, want);
}

static void test_pillow_13_table(void **state)
{
    (void)state;
    assert_int_equal(for_each_line("anyres/resize.txt", table_line), 168);
}

/* The frame as an image of its own. */
static bal_image painted(const bal_framed *f)
{
    bal_error err;
    bal_image out;
    ASSERT_OK(bal_image_create(&out, f->width, f->height, &err));
    for (int y = 0; y < f->height; y++)
        for (int x = 0; x < f->width; x++) {
            const int ix = x - f->x, iy = y - f->y;
            const bool in = ix >= 0 && iy >= 0 && ix < f->image->width && iy < f->image->height;
            const uint8_t *from = in ? f->image->rgb + 3 * (iy * f->image->width + ix) : f->colour;
            memcpy(out.rgb + 3 * (y * f->width + x), from, 3);
        }
    return out;
}

static void test_frame_equals_painted_frame(void **state)
{
    (void)state;
    bal_error err;
    static const int sizes[][4] = {
        {40, 40, 0, 9}, {40, 60, 0, 11}, {71, 22, 30, 0}, {90, 90, 7, 60}};
    bal_image img = pattern_image(40, 22);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const bal_framed f = {.image = &img,
                              .width = sizes[i][0],
                              .height = sizes[i][1],
                              .x = sizes[i][2],
                              .y = sizes[i][3],
                              .colour = {122, 7, 250}};
        bal_image whole = painted(&f), want, got;
        for (int w = 20; w <= 90; w += 10) {
            ASSERT_OK(bal_image_resize(&want, &whole, w, 40, BAL_FILTER_BICUBIC, &err));
            ASSERT_OK(bal_framed_resize(&got, &f, w, 40, BAL_FILTER_BICUBIC, &err));
            assert_memory_equal(got.rgb, want.rgb, (size_t)w * 40 * 3);
            bal_image_free(&want);
            bal_image_free(&got);
        }
        bal_image_free(&whole);
    }
    bal_image_free(&img);
}

/* Neither memory nor time may run away, whatever the shape. */
static void test_extreme_shapes(void **state)
{
    (void)state;
    bal_error err;
    static const int shapes[][4] = {{1, 10000, 384, 384},   {10000, 1, 384, 384},
                                    {1, 1000000, 384, 384}, {1000000, 1, 384, 384},
                                    {1, 1, 2304, 2304},     {1000, 1000, 1, 1}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        bal_image src, dst;
        ASSERT_OK(bal_image_create(&src, shapes[i][0], shapes[i][1], &err));
        memset(src.rgb, 255, (size_t)src.width * (size_t)src.height * 3);
        ASSERT_OK(
            bal_image_resize(&dst, &src, shapes[i][2], shapes[i][3], BAL_FILTER_LANCZOS, &err));
        for (int k = 0; k < dst.width * dst.height * 3; k++)
            if (dst.rgb[k] < 254) fail_msg("shape %zu: white became %d", i, dst.rgb[k]);
        bal_image_free(&src);
        bal_image_free(&dst);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    bal_error err;
    bal_image src = pattern_image(4, 4), dst, none = {0};
    ASSERT_FAILS(BAL_E_ARG, "filter 0", bal_image_resize(&dst, &src, 2, 2, (bal_filter)0, &err));
    ASSERT_FAILS(BAL_E_ARG, "0 x 2", bal_image_resize(&dst, &src, 0, 2, BAL_FILTER_BICUBIC, &err));
    ASSERT_FAILS(BAL_E_ARG, "1048577",
                 bal_image_resize(&dst, &src, 2, 1048577, BAL_FILTER_BICUBIC, &err));
    assert_null(dst.rgb);
    ASSERT_FAILS(BAL_E_ARG, "0 x 0 image",
                 bal_image_resize(&dst, &none, 2, 2, BAL_FILTER_BICUBIC, &err));
    bal_framed f = {.image = &src, .width = 6, .height = 6, .x = 3};
    ASSERT_FAILS(BAL_E_ARG, "at (3, 0) in a 6 x 6",
                 bal_framed_resize(&dst, &f, 2, 2, BAL_FILTER_BICUBIC, &err));
    f.x = -1;
    ASSERT_FAILS(BAL_E_ARG, "at (-1, 0)",
                 bal_framed_resize(&dst, &f, 2, 2, BAL_FILTER_BICUBIC, &err));
    bal_image_free(&src);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pillow_9_hashes),
        cmocka_unit_test(test_pillow_13_table),
        cmocka_unit_test(test_frame_equals_painted_frame),
        cmocka_unit_test(test_extreme_shapes),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
