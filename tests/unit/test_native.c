/* SPDX-License-Identifier: MIT
 * Pictures at their own resolution: order of windows, rotary angles of patches, three-dimensional
 * positions of sequences and of what is generated behind them, and a photo's memory. */
#include "check.h"

#include <math.h>
#include <sys/resource.h>

#include "model/rope.h"
#include "model/vision_native.h"
#include "run/sequence.h"

#define MODEL "tests/golden/qwen2_vl/small/model"

/* ---- Windows -----------------------------------------------------------------------------------
 */

static void test_window_order(void **state)
{
    (void)state;
    static const int32_t want[] = {0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14};
    static const int begin[] = {0, 4, 8, 10, 12, 14, 15};
    int32_t order[15];
    int starts[16];
    assert_int_equal(bal_window_count(3, 5, 2), 6);
    assert_int_equal(bal_window_order(3, 5, 2, order, starts), 6);
    assert_memory_equal(order, want, sizeof want);
    assert_memory_equal(starts, begin, sizeof begin);
    assert_int_equal(bal_window_order(3, 5, 0, order, starts), 1);
    for (int i = 0; i < 15; i++) assert_int_equal(order[i], i);
    assert_int_equal(starts[1], 15);
    assert_int_equal(bal_window_count(8, 8, 4), 4); /* no empty windows where it divides */
    assert_int_equal(bal_window_order(1, 3, 4, order, starts), 1);
}

/* ---- Angles of patches --------------------------------------------------------------------------
 */

static void test_vision_rope(void **state)
{
    (void)state;
    enum { DIM = 8, HALF = DIM / 2, COLS = 3, MERGE = 2 };
    static const int32_t order[] = {4, 0}; /* tokens at (1, 1) and (0, 0) */
    static const int at[8][2] = {{2, 2}, {2, 3}, {3, 2}, {3, 3}, {0, 0}, {0, 1}, {1, 0}, {1, 1}};
    float c[8 * HALF], s[8 * HALF];
    bal_vision_rope(order, 2, COLS, MERGE, DIM, c, s);
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < HALF; j++) {
            const double inv = j % 2 ? 0.01 : 1.0, angle = at[i][j / 2] * inv;
            assert_true(fabs((double)c[i * HALF + j] - cos(angle)) < 1e-6);
            assert_true(fabs((double)s[i * HALF + j] - sin(angle)) < 1e-6);
        }
}

/* ---- Positions ----------------------------------------------------------------------------------
 */

/* Sections are contiguous: t, then h, then w. */
static void test_sections(void **state)
{
    (void)state;
    const bal_text_config c = {.head_dim = 16, .rope_theta = 1e6f, .mrope = {2, 3, 3}};
    const int32_t pos[1][3] = {{5, 7, 11}};
    float cosine[8], sine[8];
    bal_rope_angles(&c, pos, 1, cosine, sine);
    for (int i = 0; i < 8; i++) {
        const int p = i < 2 ? 5 : i < 5 ? 7 : 11;
        const float angle = (float)p * bal_rope_frequency(&c, i);
        assert_true(cosine[i] == cosf(angle) && sine[i] == sinf(angle));
    }
}

static void build(bal_sequence *s, const bal_engine *e, const uint8_t *tags, int n,
                  const int (*sizes)[2], int n_images, int first)
{
    bal_error err = {0};
    int32_t ids[16] = {0};
    uint8_t copy[16];
    memcpy(copy, tags, (size_t)n);
    const bal_chat_tokens tokens = {ids, copy, (size_t)n};
    ASSERT_OK(bal_sequence_build(s, e, &tokens, sizes, n_images, BAL_VIEW_AUTO, first, 0, &err));
}

static void expect(const bal_sequence *s, int at, int t, int h, int w)
{
    const int32_t *p = s->info[at].pos;
    if (p[0] != t || p[1] != h || p[2] != w)
        fail_msg("position %d: (%d, %d, %d), wanted (%d, %d, %d)", at, p[0], p[1], p[2], t, h, w);
}

/* The worked example: 3 of text, 2 x 3 of a picture, 2 of text. */
static void test_positions(void **state)
{
    (void)state;
    static const uint8_t tags[] = {0, 0, 0, BAL_TAG_IMAGE_SLOT, 0, 0};
    static const int sizes[][2] = {{84, 56}};
    bal_error err = {0};
    bal_engine e;
    bal_sequence s;
    ASSERT_OK(bal_engine_open(&e, source_path(MODEL), 1, NULL, &err));
    build(&s, &e, tags, 6, sizes, 1, 0);
    assert_int_equal(s.n, 11);
    for (int i = 0; i < 3; i++) expect(&s, i, i, i, i);
    for (int i = 0; i < 6; i++) expect(&s, 3 + i, 3, 3 + i / 3, 3 + i % 3);
    expect(&s, 9, 6, 6, 6);
    expect(&s, 10, 7, 7, 7);
    bal_sequence_free(&s);
    build(&s, &e, tags, 6, sizes, 1, 40); /* a later turn */
    expect(&s, 5, 43, 43, 45);
    expect(&s, 10, 47, 47, 47);
    bal_sequence_free(&s);
    bal_engine_close(&e);
}

/* Two pictures of unlike shapes, one behind the other. */
static void test_two_pictures(void **state)
{
    (void)state;
    static const uint8_t tags[] = {0, BAL_TAG_IMAGE_SLOT, BAL_TAG_IMAGE_SLOT, 0};
    static const int sizes[][2] = {{56, 112}, {140, 56}}; /* 4 x 2 and 2 x 5 tokens */
    bal_error err = {0};
    bal_engine e;
    bal_sequence s;
    ASSERT_OK(bal_engine_open(&e, source_path(MODEL), 1, NULL, &err));
    build(&s, &e, tags, 4, sizes, 2, 0);
    assert_int_equal(s.n, 1 + 8 + 10 + 1);
    expect(&s, 1, 1, 1, 1);
    expect(&s, 8, 1, 4, 2);
    expect(&s, 9, 5, 5, 5);
    expect(&s, 18, 5, 6, 9);
    expect(&s, 19, 10, 10, 10);
    assert_int_equal(s.info[8].image, 0);
    assert_int_equal(s.info[9].image, 1);
    bal_sequence_free(&s);
    bal_engine_close(&e);
}

/* What is generated stands at index + delta, whatever the last appended position was. */
static void test_decode_offset(void **state)
{
    (void)state;
    static const uint8_t text[] = {0, 0, 0, BAL_TAG_IMAGE_SLOT, 0, 0},
                         picture_last[] = {0, BAL_TAG_IMAGE_SLOT};
    static const int sizes[][2] = {{84, 56}};
    bal_error err = {0};
    bal_engine e;
    bal_sequence s;
    bal_session session;
    ASSERT_OK(bal_engine_open(&e, source_path(MODEL), 1, NULL, &err));
    const size_t hidden = (size_t)e.model.config.text.hidden;
    float *rows = calloc(16 * hidden, sizeof *rows);
    assert_non_null(rows);
    ASSERT_OK(bal_session_create(&session, &e, 64, &err));
    build(&s, &e, text, 6, sizes, 1, 0);
    ASSERT_OK(bal_session_append(&session, s.info, rows, s.n, 0, NULL, NULL, (bal_taps){0}, &err));
    bal_sequence_free(&s);
    assert_int_equal(bal_session_next_pos(&session), 11 - 3);
    ASSERT_OK(bal_session_push(&session, 1, &err));
    assert_int_equal(session.info[11].pos[2], 8);
    assert_int_equal(bal_session_next_pos(&session), 9);
    bal_session_truncate(&session, 0);
    build(&s, &e, picture_last, 2, sizes, 1, 0);
    ASSERT_OK(bal_session_append(&session, s.info, rows, s.n, 0, NULL, NULL, (bal_taps){0}, &err));
    bal_sequence_free(&s);
    assert_int_equal(bal_session_next_pos(&session), 1 + 3);
    free(rows);
    bal_session_destroy(&session);
    bal_engine_close(&e);
}

/* ---- Large, small and long pictures
 * -------------------------------------------------------------- */

static long peak_mib(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_maxrss >> 10;
}

/* A picture through plan, pixels and tower with the published limits; returns its tokens. Windows
 * in every block, because attention over a whole photo takes minutes. */
static int see(int w, int h)
{
    bal_error err = {0};
    bal_engine e;
    bal_exec exec;
    bal_image image;
    bal_view_plan plan;
    ASSERT_OK(
        bal_engine_open(&e, source_path("tests/golden/qwen2_5_vl/small/model"), 2, NULL, &err));
    e.model.config.max_pixels = 12845056;
    memset(e.model.config.vision.full_blocks, 0, sizeof e.model.config.vision.full_blocks);
    ASSERT_OK(bal_exec_create(&exec, e.pool, &e.kernels, bal_model_max_k(&e.model), &err));
    ASSERT_OK(bal_image_create(&image, w, h, &err));
    for (size_t i = 0; i < 3 * (size_t)w * (size_t)h; i++) image.rgb[i] = (uint8_t)(i * 37 >> 3);
    ASSERT_OK(bal_sequence_plan(&e, w, h, BAL_VIEW_ONE, &plan, &err));
    const size_t n = (size_t)plan.n_tokens * (size_t)e.model.config.text.hidden;
    float *out = malloc(n * sizeof *out);
    assert_non_null(out);
    ASSERT_OK(bal_sequence_look(&e, &exec, &plan, &image, out, (bal_taps){0}, &err));
    for (size_t i = 0; i < n; i++) assert_true(isfinite(out[i]));
    free(out);
    bal_image_free(&image);
    bal_exec_destroy(&exec);
    bal_engine_close(&e);
    return plan.n_tokens;
}

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(see(28, 28), 4);
    assert_int_equal(see(100, 2000), 284);
    const long before = peak_mib();
    assert_int_equal(see(4000, 3000), 15301);
    const long grown = peak_mib() - before;
    printf("a picture of 4000 x 3000: %ld MiB at the peak\n", grown);
#ifndef __SANITIZE_ADDRESS__
    /* picture and resized picture 34 + 34, its floats 137, tower of 32 channels 23 + 15, table of
     * the resize's intermediate rows, features 4 */
    assert_true(grown < 320);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_window_order), cmocka_unit_test(test_vision_rope),
        cmocka_unit_test(test_sections),     cmocka_unit_test(test_positions),
        cmocka_unit_test(test_two_pictures), cmocka_unit_test(test_decode_offset),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
