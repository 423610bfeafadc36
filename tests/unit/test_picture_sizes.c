/* SPDX-License-Identifier: MIT
 * Pictures at their own size, with the limits that published checkpoints have: a photo of twelve
 * million pixels, the smallest square, a very long one. The plan says what they take; looking at
 * them takes that and no more, in memory as in time. Pictures: tests/data/sizes. */
#include "scratch.h"

#include "model/family.h"
#include "run/sequence.h"

#include <math.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

enum { PUBLISHED_PIXELS = 12845056 };

/* A tiny golden checkpoint with one number of one of its files exchanged for another text. */
static void copy_changed(const char *from, const char *to, const char *file, const char *key,
                         const char *value)
{
    static const char *const files[] = {
        "config.json",    "preprocessor_config.json", "generation_config.json",
        "tokenizer.json", "tokenizer_config.json",    "model.safetensors"};
    char path[1200];
    bal_error err = {0};
    mkdir(to, 0777);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        uint8_t *data;
        size_t n;
        snprintf(path, sizeof path, "%s/%s", from, files[i]);
        if (!bal_path_exists(path)) continue;
        ASSERT_OK(bal_read_file(&data, &n, path, 1 << 24, &err));
        snprintf(path, sizeof path, "%s/%s", to, files[i]);
        char *at = strcmp(files[i], file) == 0 ? strstr((char *)data, key) : NULL;
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        if (at) {
            at += strlen(key);
            const char *rest = at + strcspn(at, ",}");
            fwrite(data, 1, (size_t)(at - (char *)data), f);
            fputs(value, f);
            fputs(rest, f);
        } else
            fwrite(data, 1, n, f);
        assert_int_equal(fclose(f), 0);
        assert_true(at || strcmp(files[i], file) != 0);
        free(data);
    }
}

/* The tiny checkpoint of a family with the published limit of pixels. */
static void open_published(bal_engine *e, const char *family)
{
    char from[600], value[40];
    bal_error err = {0};
    snprintf(from, sizeof from, "%s/%s/small/model", source_path("tests/golden"), family);
    snprintf(value, sizeof value, "%d", PUBLISHED_PIXELS);
    copy_changed(from, scratch(family), "preprocessor_config.json", "\"max_pixels\": ", value);
    ASSERT_OK(bal_engine_open(e, scratch(family), 2, NULL, &err));
    assert_int_equal(e->model.config.max_pixels, PUBLISHED_PIXELS);
}

/* VmHWM in bytes, after starting to count anew. */
static double peak_memory(bool reset)
{
    char line[200];
    unsigned long kib = 0;
    if (reset) {
        FILE *f = fopen("/proc/self/clear_refs", "w");
        if (f) {
            fputs("5", f);
            fclose(f);
        }
    }
    FILE *f = fopen("/proc/self/status", "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        if (sscanf(line, reset ? "VmRSS: %lu" : "VmHWM: %lu", &kib) == 1) break;
    fclose(f);
    return 1024.0 * (double)kib;
}

/* Through the tower, whose memory is looked at. */
static void look(const bal_engine *e, const char *picture, const bal_view_plan *plan)
{
    const bal_model *m = &e->model;
    const bal_family_def *family = bal_family_of(&m->config);
    bal_error err = {0};
    bal_exec exec;
    bal_image image;
    char path[600];
    snprintf(path, sizeof path, "%s/%s", source_path("tests/data/sizes"), picture);
    ASSERT_OK(bal_image_open(&image, path, NULL, &err));
    assert_true(image.width == plan->image_w && image.height == plan->image_h);
    ASSERT_OK(bal_exec_create(&exec, e->pool, &e->kernels, bal_model_max_k(m), &err));
    const size_t n = (size_t)plan->n_tokens * (size_t)m->config.text.hidden;
    float *pixels = malloc(plan->n_floats * sizeof *pixels), *out = malloc(n * sizeof *out);
    assert_true(pixels && out);
    ASSERT_OK(family->pixels(&m->config, plan, &image, pixels, &err));
    memset(out, 0, n * sizeof *out);
    const double work = (double)bal_family_work(m, plan), before = peak_memory(true);
    ASSERT_OK(family->encode(&exec, m, plan, pixels, out, (bal_taps){0}, &err));
    const double used = peak_memory(false) - before;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        assert_true(isfinite(out[i]));
        sum += fabs((double)out[i]);
    }
    assert_true(sum > 0);
    printf("%s: %d tokens, %.1f MiB planned, %.1f MiB used\n", picture, plan->n_tokens,
           work / (1 << 20), used / (1 << 20));
    if (!SANITIZED) assert_true(used < work + (2 << 20)); /* and the threads' scratch */
    if (!SANITIZED && work > 1 << 24) assert_true(used > work * 0.8);
    free(out);
    free(pixels);
    bal_exec_destroy(&exec);
    bal_image_free(&image);
}

static void plan_of(const bal_engine *e, int w, int h, int tokens_w, int tokens_h, bal_view_plan *p)
{
    bal_error err = {0};
    ASSERT_OK(bal_sequence_plan(e, w, h, BAL_VIEW_ONE, p, &err));
    assert_int_equal(p->w0, tokens_w);
    assert_int_equal(p->h0, tokens_h);
    assert_int_equal(p->resized_w, 28 * tokens_w);
    assert_int_equal(p->resized_h, 28 * tokens_h);
    assert_int_equal(p->n_tokens, tokens_w * tokens_h);
}

/* Every block sees everything, so a photo at full size takes hours of test; its plan does not. */
static void test_qwen2_vl(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    bal_view_plan p;
    open_published(&e, "qwen2_vl");
    plan_of(&e, 4000, 3000, 143, 107, &p);
    const double photo = (double)bal_sequence_look_bytes(&e, &p);
    plan_of(&e, 2000, 1500, 71, 54, &p);
    const double quarter = (double)bal_sequence_look_bytes(&e, &p);
    assert_true(photo < 4.2 * quarter); /* a square law would be 16 */
    plan_of(&e, 28, 28, 2, 2, &p);
    look(&e, "picture_28x28.png", &p);
    plan_of(&e, 100, 2000, 4, 71, &p);
    look(&e, "picture_100x2000.png", &p);
    ASSERT_OK(bal_engine_limit_images(&e, 256, &err));
    plan_of(&e, 4000, 3000, 18, 13, &p);
    look(&e, "picture_4000x3000.png", &p);
    bal_engine_close(&e);
}

/* With windows everywhere a photo is no matter: all of its 15,301 tokens (of which sanitizers see a
 * fifth). */
static void test_qwen2_5_vl(void **state)
{
    (void)state;
    bal_engine e;
    bal_view_plan p;
    open_published(&e, "qwen2_5_vl");
    for (int i = 0; i < 32; i++) e.model.config.vision.full_blocks[i] = 0;
    plan_of(&e, 28, 28, 2, 2, &p);
    look(&e, "picture_28x28.png", &p);
    plan_of(&e, 100, 2000, 4, 71, &p);
    look(&e, "picture_100x2000.png", &p);
    plan_of(&e, 4000, 3000, 143, 107, &p);
    if (SANITIZED) {
        bal_error err = {0};
        ASSERT_OK(bal_engine_limit_images(&e, 3000, &err));
        plan_of(&e, 4000, 3000, 63, 47, &p);
    }
    look(&e, "picture_4000x3000.png", &p);
    bal_engine_close(&e);
}

/* A picture that does not fit says so before anything is computed. */
static void test_refusals(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    bal_view_plan p;
    open_published(&e, "qwen2_vl");
    assert_int_equal(bal_sequence_plan(&e, 28, 28 * 201, BAL_VIEW_ONE, &p, &err), BAL_E_ARG);
    assert_non_null(strstr(err.text, "200"));
    assert_int_equal(bal_engine_limit_images(&e, 3, &err), BAL_E_ARG);
    assert_non_null(strstr(err.text, "below 4"));
    bal_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qwen2_vl),
        cmocka_unit_test(test_qwen2_5_vl),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
