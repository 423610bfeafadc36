/* SPDX-License-Identifier: MIT
 * Plans of the families that cut pictures into tiles: InternVL's grid, the rows and columns of
 * Idefics3 and SmolVLM, LLaVA-1.5's centre crop. Tiles and tokens of eleven sizes by the published
 * rules, what is refused, and where a pixel of the picture ends up. */
#include "image_check.h"

#include "image/tiles.h"

/* height, width; then what the rule makes of it */
typedef struct size_case {
    int h, w, cols, rows, views;
} size_case;

/* InternVL: 448 pixels, 1 to 12 tiles, an overview behind several; 256 tokens a view */
static void test_grid_counts(void **state)
{
    (void)state;
    static const size_case c[] = {
        {384, 384, 1, 1, 1},    {336, 336, 1, 1, 1},    {480, 640, 4, 3, 13},
        {899, 1024, 3, 3, 10},  {1000, 1000, 3, 3, 10}, {1080, 1920, 4, 2, 9},
        {3024, 4032, 4, 3, 13}, {100, 2000, 12, 1, 13}, {2000, 100, 1, 12, 13},
        {42, 70, 3, 2, 7},      {28, 28, 1, 1, 1},
    };
    bal_error err;
    bal_view_plan p;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        ASSERT_OK(bal_grid_plan(&p, c[i].w, c[i].h, 448, 16, 1, 12, true, &err));
        assert_int_equal(p.cols, c[i].cols);
        assert_int_equal(p.rows, c[i].rows);
        assert_int_equal(p.n_views, c[i].views);
        assert_int_equal(p.n_tokens, 256 * c[i].views);
        assert_int_equal(p.overview, c[i].views > 1 ? 1 : 0);
        ASSERT_OK(bal_grid_plan(&p, c[i].w, c[i].h, 448, 16, 1, 1, true, &err));
        assert_int_equal(p.n_tokens, 256);
    }
}

/* SmolVLM: long side 2048, views of 512 pixels and 64 tokens, an overview behind */
static void test_rows_counts(void **state)
{
    (void)state;
    static const size_case c[] = {
        {384, 384, 4, 4, 17},   {336, 336, 4, 4, 17},   {480, 640, 4, 3, 13},
        {899, 1024, 4, 4, 17},  {1000, 1000, 4, 4, 17}, {1080, 1920, 4, 3, 13},
        {3024, 4032, 4, 3, 13}, {100, 2000, 4, 1, 5},   {2000, 100, 1, 4, 5},
        {42, 70, 4, 3, 13},     {28, 28, 4, 4, 17},
    };
    bal_error err;
    bal_view_plan p;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        ASSERT_OK(bal_rows_plan(&p, c[i].w, c[i].h, 2048, 512, 8, true, &err));
        assert_int_equal(p.cols, c[i].cols);
        assert_int_equal(p.rows, c[i].rows);
        assert_int_equal(p.n_views, c[i].views);
        assert_int_equal(p.n_tokens, 64 * c[i].views);
        ASSERT_OK(bal_rows_plan(&p, c[i].w, c[i].h, 2048, 512, 8, false, &err));
        assert_int_equal(p.n_views, 1);
        assert_int_equal(p.rows * p.cols, 0);
    }
}

/* LLaVA-1.5: one view of 576 tokens, whatever the picture */
static void test_crop_counts(void **state)
{
    (void)state;
    static const int sizes[][2] = {{384, 384}, {640, 480}, {4032, 3024}, {2000, 100}, {28, 28}};
    bal_error err;
    bal_view_plan p;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ASSERT_OK(bal_crop_plan(&p, sizes[i][0], sizes[i][1], 336, 336, 24, &err));
        assert_int_equal(p.n_views, 1);
        assert_int_equal(p.n_tokens, 576);
    }
}

static void test_refusals(void **state)
{
    (void)state;
    bal_error err;
    bal_view_plan p;
    ASSERT_FAILS(BAL_E_ARG, "0 x 5", bal_grid_plan(&p, 0, 5, 448, 16, 1, 12, true, &err));
    ASSERT_FAILS(BAL_E_ARG, "5 x 0", bal_rows_plan(&p, 5, 0, 2048, 512, 8, true, &err));
    ASSERT_FAILS(BAL_E_ARG, "-1 x 5", bal_crop_plan(&p, -1, 5, 336, 336, 24, &err));
    ASSERT_FAILS(BAL_E_UNSUP, "too extreme", bal_crop_plan(&p, 1 << 20, 1, 336, 336, 24, &err));
    ASSERT_OK(bal_rows_plan(&p, 1 << 20, 1, 2048, 512, 8, true, &err));
    ASSERT_OK(bal_grid_plan(&p, 1, 1 << 20, 448, 16, 1, 12, true, &err));
}

static bal_norm plain_norm(void)
{
    return (bal_norm){.mean = {0, 0, 0}, .std = {1, 1, 1}};
}

/* A picture of exactly 3 x 2 tiles of one grey each: views come row by row, the overview last. */
static void test_order_of_tiles(void **state)
{
    (void)state;
    enum { S = 8 };
    bal_error err;
    bal_view_plan p;
    bal_image img;
    ASSERT_OK(bal_image_create(&img, 3 * S, 2 * S, &err));
    for (int y = 0; y < 2 * S; y++)
        for (int x = 0; x < 3 * S; x++)
            memset(img.rgb + 3 * (y * 3 * S + x), 40 * (y / S * 3 + x / S) + 5, 3);
    ASSERT_OK(bal_grid_plan(&p, 3 * S, 2 * S, S, 1, 1, 6, true, &err));
    assert_int_equal(p.n_views, 7);
    assert_int_equal(p.n_floats, 7 * 3 * S * S);
    float *out = malloc(p.n_floats * sizeof *out);
    assert_non_null(out);
    const bal_norm norm = plain_norm();
    ASSERT_OK(bal_tiles_pixels(&p, &img, &norm, BAL_FILTER_BICUBIC, out, &err));
    for (int t = 0; t < 6; t++)
        for (size_t i = 0; i < 3 * S * S; i++)
            assert_true(out[(size_t)t * 3 * S * S + i] == (float)((40 * t + 5) * (1.0 / 255.0)));
    assert_true(out[6 * 3 * S * S] < out[7 * 3 * S * S - 1]); /* dark to bright as the picture */
    free(out);
    bal_image_free(&img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grid_counts),    cmocka_unit_test(test_rows_counts),
        cmocka_unit_test(test_crop_counts),    cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_order_of_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
