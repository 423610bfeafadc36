/* SPDX-License-Identifier: MIT
 * Plans and views of LLaVA-OneVision against transformers' processor: token counts, grids, and
 * pixel values bit for bit (tests/golden/make/make_images.py). */
#include "image_check.h"

#include "image/anyres.h"

static int n_points;
static int points[64][2];

/* All (height, width) of 1..most views a side, in the order of the published config. */
static void set_pinpoints(int view, int most)
{
    n_points = 0;
    for (int r = 1; r <= most; r++)
        for (int c = 1; c <= most; c++, n_points++) {
            points[n_points][0] = r * view;
            points[n_points][1] = c * view;
        }
}

static bal_status make_plan(bal_view_plan *p, int w, int h, int view, int patches, int most,
                            int max_tiles, bal_error *err)
{
    set_pinpoints(view, most);
    return bal_anyres_plan(p, w, h, (const int(*)[2])points, (size_t)n_points, view, patches,
                           max_tiles, err);
}

/* The published counts: 384-pixel views of 27 x 27, anyres_max_9. */
static void test_token_counts(void **state)
{
    (void)state;
    static const int c[][3] = {{384, 384, 1485},   {336, 336, 1485},   {480, 640, 2929},
                               {899, 1024, 6551},  {1000, 1000, 7371}, {1080, 1920, 7269},
                               {3024, 4032, 7309}, {100, 2000, 2196},  {2000, 100, 2349},
                               {42, 70, 1205},     {28, 28, 1485}};
    bal_error err;
    bal_view_plan p;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++) {
        ASSERT_OK(make_plan(&p, c[i][1], c[i][0], 384, 27, 6, 9, &err));
        assert_int_equal(p.n_tokens, c[i][2]);
    }
    ASSERT_OK(bal_square_plan(&p, 640, 480, 384, 27, &err));
    assert_int_equal(p.n_tokens, 730);
    assert_int_equal(p.n_views, 1);
    assert_int_equal(p.pad_y, 80);
}

static void plan_line(const char *line)
{
    int v[15];
    const int n =
        sscanf(line, "%d %d %d %d %d %d %d %d %d %d %d %d %d %d %d", v, v + 1, v + 2, v + 3, v + 4,
               v + 5, v + 6, v + 7, v + 8, v + 9, v + 10, v + 11, v + 12, v + 13, v + 14);
    assert_int_equal(n, 15);
    bal_error err;
    bal_view_plan p;
    ASSERT_OK(make_plan(&p, v[0], v[1], v[2], v[3], v[4], v[5], &err));
    const int got[] = {p.rows * v[2], p.cols * v[2], p.resized_h, p.resized_w, p.h0,
                       p.h0 * p.w0,   p.h1,          p.h1 * p.w1, p.n_tokens};
    for (int i = 0; i < 9; i++)
        if (got[i] != v[6 + i]) fail_msg("'%s': number %d is %d", line, 7 + i, got[i]);
    assert_int_equal(p.n_views, 1 + p.rows * p.cols);
    assert_int_equal(p.h0 + 2 * p.crop_y, p.rows * v[3]);
    assert_int_equal(p.w0 + 2 * p.crop_x, p.cols * v[3]);
    assert_int_equal(p.pad_x, (p.cols * v[2] - p.resized_w) / 2);
    assert_int_equal(p.pad_y, (p.rows * v[2] - p.resized_h) / 2);
}

static void test_plans(void **state)
{
    (void)state;
    assert_int_equal(for_each_line("anyres/plans.txt", plan_line), 321);
}

/* Two resolutions that keep and waste the same: the config's order decides. */
static void test_first_of_equals(void **state)
{
    (void)state;
    static const int wide_first[][2] = {{28, 56}, {56, 28}}, tall_first[][2] = {{56, 28}, {28, 56}};
    bal_error err;
    bal_view_plan p;
    ASSERT_OK(bal_anyres_plan(&p, 10, 10, wide_first, 2, 28, 2, 9, &err));
    assert_int_equal(p.cols, 2);
    ASSERT_OK(bal_anyres_plan(&p, 10, 10, tall_first, 2, 28, 2, 9, &err));
    assert_int_equal(p.cols, 1);
}

/* Views of one picture by the rules of one or of several; the caller frees. */
static float *make_views(bal_view_plan *p, const char *how, int w, int h, int view, int most,
                         const char *norm)
{
    static const bal_norm half = {{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}},
                          clip = {{0.48145466, 0.4578275, 0.40821073},
                                  {0.26862954, 0.26130258, 0.27577711}};
    const bal_norm *use = strcmp(norm, "half") ? &clip : &half;
    const bool square = !strcmp(how, "square");
    bal_error err;
    bal_image img = pattern_image(w, h);
    if (square)
        ASSERT_OK(bal_square_plan(p, w, h, view, view / 14, &err));
    else
        ASSERT_OK(make_plan(p, w, h, view, view / 14, most, 9, &err));
    float *out = malloc((size_t)p->n_views * 3 * (size_t)(view * view) * sizeof *out);
    assert_non_null(out);
    ASSERT_OK((square ? bal_square_pixels : bal_anyres_pixels)(p, &img, use, BAL_FILTER_BICUBIC,
                                                               out, &err));
    bal_image_free(&img);
    return out;
}

static void pixels_line(const char *line)
{
    char how[16], norm[16], want[33], got[33];
    int w, h, view, most, n_views;
    assert_int_equal(sscanf(line, "%15s %d %d %d %d %15s %d %32s", how, &w, &h, &view, &most, norm,
                            &n_views, want),
                     8);
    bal_view_plan p;
    float *out = make_views(&p, how, w, h, view, most, norm);
    assert_int_equal(p.n_views, n_views);
    short_hash(got, out, (size_t)p.n_views * 3 * (size_t)(view * view) * sizeof *out);
    if (strcmp(got, want)) fail_msg("'%s': got %s", line, got);
    free(out);
}

static void test_pixels(void **state)
{
    (void)state;
    assert_int_equal(for_each_line("anyres/pixels.txt", pixels_line), 13);
}

/* One case in full, so that a difference can be looked at. */
static void test_pixels_one_by_one(void **state)
{
    (void)state;
    bal_error err;
    uint8_t *file;
    size_t n;
    ASSERT_OK(
        bal_read_file(&file, &n, source_path("tests/golden/anyres/view28.f32"), 1 << 20, &err));
    bal_view_plan p;
    float *out = make_views(&p, "anyres", 60, 40, 28, 3, "clip");
    assert_int_equal(n, (size_t)p.n_views * 3 * 28 * 28 * sizeof *out);
    for (size_t i = 0; i < n / sizeof *out; i++) {
        float want;
        memcpy(&want, file + i * sizeof want, sizeof want);
        if (out[i] != want)
            fail_msg("view %zu channel %zu row %zu column %zu: %.9g, wanted %.9g", i / 2352,
                     i / 784 % 3, i / 28 % 28, i % 28, (double)out[i], (double)want);
    }
    free(out);
    free(file);
}

/* The thinnest pictures: every plan must stand, and its pixels be makeable. */
static void test_extreme_shapes(void **state)
{
    (void)state;
    static const int shapes[][2] = {{1, 1}, {1, 10000}, {10000, 1}, {1, 1048576}, {1048576, 1}};
    bal_error err;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int patches = 1; patches <= 6; patches++) {
            bal_view_plan p;
            const int w = shapes[i][0], h = shapes[i][1];
            ASSERT_OK(make_plan(&p, w, h, 28, patches, 3, 9, &err));
            assert_true(p.h0 >= 0 && p.w0 >= 0 && p.resized_w >= 1 && p.resized_h >= 1);
            assert_int_equal(p.n_tokens, patches * patches + p.h1 * (p.w1 + 1));
            float *out = make_views(&p, "anyres", w, h, 28, 3, "half");
            free(out);
        }
}

static void test_plan_refusals(void **state)
{
    (void)state;
    bal_error err;
    bal_view_plan p;
    const int odd[][2] = {{384, 384}, {384, 700}}, big[][2] = {{384, 384 * 65}},
              neg[][2] = {{-384, 384}};
    ASSERT_FAILS(BAL_E_ARG, "0 x 5", make_plan(&p, 0, 5, 384, 27, 6, 9, &err));
    ASSERT_FAILS(BAL_E_ARG, "1048577", make_plan(&p, 5, 1048577, 384, 27, 6, 9, &err));
    ASSERT_FAILS(BAL_E_ARG, "view of 0", make_plan(&p, 5, 5, 0, 27, 6, 9, &err));
    ASSERT_FAILS(BAL_E_ARG, "5000 patches", make_plan(&p, 5, 5, 384, 5000, 6, 9, &err));
    ASSERT_FAILS(BAL_E_ARG, "anyres_max_0", make_plan(&p, 5, 5, 384, 27, 6, 0, &err));
    ASSERT_FAILS(BAL_E_ARG, "is empty", bal_anyres_plan(&p, 5, 5, odd, 0, 384, 27, 9, &err));
    ASSERT_FAILS(BAL_E_ARG, "[1] is (384, 700)",
                 bal_anyres_plan(&p, 5, 5, odd, 2, 384, 27, 9, &err));
    ASSERT_FAILS(BAL_E_ARG, "[0] is (384, 24960)",
                 bal_anyres_plan(&p, 5, 5, big, 1, 384, 27, 9, &err));
    ASSERT_FAILS(BAL_E_ARG, "(-384, 384)", bal_anyres_plan(&p, 5, 5, neg, 1, 384, 27, 9, &err));
    ASSERT_FAILS(BAL_E_ARG, "16384", bal_square_plan(&p, 16385, 5, 384, 27, &err));
    const int strip[][2] = {{28, 28 * 60}};
    ASSERT_FAILS(BAL_E_UNSUP, "cannot shrink",
                 bal_anyres_plan(&p, 60, 1, strip, 1, 28, 1, 1, &err));
    assert_int_equal(p.n_views, 0);
}

static void test_pixel_refusals(void **state)
{
    (void)state;
    bal_error err;
    bal_view_plan p, none = {0};
    bal_image img = pattern_image(30, 20);
    bal_norm norm = {{0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}};
    ASSERT_OK(make_plan(&p, 30, 21, 28, 2, 3, 9, &err));
    ASSERT_FAILS(BAL_E_ARG, "30 x 21 pixels, the picture has 30 x 20",
                 bal_anyres_pixels(&p, &img, &norm, BAL_FILTER_BICUBIC, NULL, &err));
    ASSERT_FAILS(BAL_E_ARG, "bal_square_plan",
                 bal_square_pixels(&p, &img, &norm, BAL_FILTER_BICUBIC, NULL, &err));
    ASSERT_FAILS(BAL_E_ARG, "bal_anyres_plan",
                 bal_anyres_pixels(&none, &img, &norm, BAL_FILTER_BICUBIC, NULL, &err));
    ASSERT_OK(make_plan(&p, 30, 20, 28, 2, 3, 9, &err));
    norm.std[1] = 0.0;
    ASSERT_FAILS(BAL_E_ARG, "image_std[1] = 0",
                 bal_anyres_pixels(&p, &img, &norm, BAL_FILTER_BICUBIC, NULL, &err));
    bal_image_free(&img);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_counts),      cmocka_unit_test(test_plans),
        cmocka_unit_test(test_first_of_equals),   cmocka_unit_test(test_pixels),
        cmocka_unit_test(test_pixels_one_by_one), cmocka_unit_test(test_extreme_shapes),
        cmocka_unit_test(test_plan_refusals),     cmocka_unit_test(test_pixel_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
