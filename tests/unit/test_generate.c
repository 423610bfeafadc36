/* SPDX-License-Identifier: MIT
 * Conversations: turns appended to the cache equal the whole conversation rendered at once, bit
 * for bit; failed and cancelled questions leave a usable chat; the public handles check their
 * arguments. With the demo model: the tokens that transformers generates greedily. */
#include "check.h"

#include "format/json.h"
#include "run/generate.h"
#include "text/utf8.h"

static const char TILED[] = "tests/golden/tiled/model";
static const char TILED_PICTURE[] = "tests/golden/tiled/picture0_100x70.png";
static const char PAIR[] = "tests/golden/two_images/model";
static const char PAIR_PICTURES[2][64] = {"tests/golden/two_images/picture0_90x60.png",
                                          "tests/golden/two_images/picture1_50x80.png"};

/* ---- What the callbacks saw ------------------------------------------------------------------ */

typedef struct heard {
    char text[4096];
    size_t n;
    int stop_after; /* pieces; 0: never */
    int pieces;
    const char *stop_stage; /* cancel when this stage is reported */
    bool whole_characters;
} heard;

static bool hear(void *ctx, const char *text, size_t n)
{
    heard *h = ctx;
    if (!bal_utf8_valid(text, n)) h->whole_characters = false;
    assert_true(h->n + n < sizeof h->text);
    memcpy(h->text + h->n, text, n);
    h->n += n;
    h->text[h->n] = 0;
    h->pieces++;
    return h->pieces != h->stop_after;
}

static bool watch(void *ctx, const bal_progress *p)
{
    heard *h = ctx;
    assert_true(p->done <= p->total);
    return !h->stop_stage || strcmp(p->stage, h->stop_stage) != 0;
}

static bal_status ask(bal_dialog *d, const char *text, int max_tokens, heard *h, bal_ask_result *r,
                      bal_error *err)
{
    const bal_ask_opts opts = {.max_tokens = max_tokens, .text = hear, .progress = watch, .ctx = h};
    h->whole_characters = true;
    return bal_dialog_ask(d, text, strlen(text), &opts, r, err);
}

static void open_dialog(bal_engine *e, bal_dialog *d, const char *model, int ctx, int threads)
{
    bal_error err = {0};
    const bal_sampling greedy = {.top_p = 1.0f};
    ASSERT_OK(bal_engine_open(e, source_path(model), threads, NULL, &err));
    ASSERT_OK(bal_dialog_create(d, e, ctx, &greedy, &err));
}

static void add_picture(bal_dialog *d, const char *path)
{
    bal_error err = {0};
    bal_image image;
    ASSERT_OK(bal_image_open(&image, source_path(path), NULL, &err));
    ASSERT_OK(bal_dialog_add(d, &image, &err));
    assert_null(image.rgb);
}

/* ---- The whole conversation at once ---------------------------------------------------------- */

/* Everything that stands in the dialog's session, run from nothing in one call: positions and
 * logits must be the same bits. The dialog's last answer has one token, which is not run. */
static void check_one_shot(const bal_dialog *d)
{
    bal_error err = {0};
    const bal_engine *e = d->engine;
    int sizes[8][2];
    for (int i = 0; i < d->n_images; i++) {
        sizes[i][0] = d->images[i].width;
        sizes[i][1] = d->images[i].height;
    }
    const bal_chat_tokens cached = {d->text.ids, d->text.tags, d->n_cached};
    bal_sequence seq;
    bal_session s;
    ASSERT_OK(bal_sequence_build(&seq, e, &cached, (const int(*)[2])sizes, d->n_images,
                                 BAL_VIEW_AUTO, 0, 0, &err));
    ASSERT_OK(bal_session_create(&s, e, 512, &err));
    float *embeds = malloc((size_t)seq.n * (size_t)e->model.config.text.hidden * sizeof *embeds);
    assert_non_null(embeds);
    ASSERT_OK(bal_sequence_embed(&seq, e, &s.exec, d->images, embeds, (bal_taps){0}, &err));
    ASSERT_OK(bal_session_append(&s, seq.info, embeds, seq.n, 0, NULL, NULL, (bal_taps){0}, &err));
    assert_int_equal(s.n, d->session.n);
    for (int i = 0; i < s.n; i++) {
        const bal_token_info *a = &s.info[i], *b = &d->session.info[i];
        assert_int_equal(a->id, b->id);
        assert_int_equal(a->pos[0], b->pos[0]);
        assert_int_equal(a->image, b->image);
        assert_int_equal(a->modality, b->modality);
    }
    assert_memory_equal(s.logits, d->session.logits,
                        (size_t)e->model.config.text.vocab * sizeof *s.logits);
    free(embeds);
    bal_session_destroy(&s);
    bal_sequence_free(&seq);
}

static void test_turns_equal_one_shot(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    bal_dialog d;
    bal_ask_result r = {0};
    heard h = {0};
    open_dialog(&e, &d, TILED, 512, 2);
    add_picture(&d, TILED_PICTURE);
    ASSERT_OK(ask(&d, "What is it?", 5, &h, &r, &err));
    assert_int_equal(r.n_vision, 70);
    assert_true(h.whole_characters);
    ASSERT_OK(ask(&d, "And now?", 3, &h, &r, &err));
    assert_int_equal(r.n_vision, 0); /* the picture is in the cache */
    ASSERT_OK(ask(&d, "Sure?", 1, &h, &r, &err));
    check_one_shot(&d);
    bal_dialog_destroy(&d);
    bal_engine_close(&e);
}

/* The first picture is tiled while it is alone, and one square as soon as there are two. */
static void test_second_picture_changes_the_first(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    bal_dialog d;
    bal_view_plan plan;
    bal_ask_result r = {0};
    heard h = {0};
    open_dialog(&e, &d, PAIR, 512, 2);
    add_picture(&d, PAIR_PICTURES[0]);
    ASSERT_OK(bal_dialog_plan(&d, 0, &plan, &err));
    assert_true(plan.rows > 0);
    ASSERT_OK(ask(&d, "One?", 4, &h, &r, &err));
    add_picture(&d, PAIR_PICTURES[1]);
    ASSERT_OK(bal_dialog_plan(&d, 0, &plan, &err));
    assert_int_equal(plan.rows, 0);
    ASSERT_OK(ask(&d, "Two?", 1, &h, &r, &err));
    check_one_shot(&d);
    ASSERT_OK(ask(&d, "Go on", 2, &h, &r, &err));
    assert_int_equal(r.n_vision, 0);
    add_picture(&d, PAIR_PICTURES[0]);
    ASSERT_OK(ask(&d, "Three?", 1, &h, &r, &err));
    assert_int_equal(r.n_vision, plan.n_tokens); /* only the new one is seen */
    check_one_shot(&d);
    bal_dialog_destroy(&d);
    bal_engine_close(&e);
}

/* What the template gives for the conversation with its answers as text. */
static bool equals_template(const bal_dialog *d, const char *q1, const char *a1, const char *q2)
{
    bal_error err = {0};
    const bal_chat_message m[3] = {{BAL_CHAT_USER, q1, strlen(q1), 0},
                                   {BAL_CHAT_ASSISTANT, a1, strlen(a1), 0},
                                   {BAL_CHAT_USER, q2, strlen(q2), 0}};
    bal_chat_tokens t;
    ASSERT_OK(bal_chat_encode(&t, d->engine->tokenizer, d->engine->chat, m, 3, true, &err));
    const bool same = t.n == d->n_cached && memcmp(t.ids, d->text.ids, t.n * sizeof *t.ids) == 0 &&
                      memcmp(t.tags, d->text.tags, t.n) == 0;
    bal_chat_tokens_deinit(&t);
    return same;
}

/* Answers of a random model are seldom what the tokenizer would make of their text, so several
 * questions are tried; an answer cut off after one token lacks its closing mark until the next
 * question brings it. */
static void test_turns_equal_the_template(void **state)
{
    (void)state;
    static const char *const questions[] = {"hi", "What is it?", "a", "the", "1", "red or blue"};
    bal_error err = {0};
    bal_engine e;
    bal_dialog d;
    int n_equal = 0;
    open_dialog(&e, &d, TILED, 256, 1);
    for (size_t i = 0; i < sizeof questions / sizeof questions[0]; i++) {
        bal_ask_result r = {0};
        heard h = {0}, ignored = {0};
        bal_dialog_clear(&d);
        ASSERT_OK(ask(&d, questions[i], 1, &h, &r, &err));
        ASSERT_OK(ask(&d, "more", 1, &ignored, &r, &err));
        n_equal += equals_template(&d, questions[i], h.text, "more");
    }
    assert_true(n_equal >= 2);
    bal_dialog_destroy(&d);
    bal_engine_close(&e);
}

/* ---- Failures leave a usable chat ------------------------------------------------------------ */

static void test_full_context_rolls_back(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    bal_dialog d;
    bal_ask_result r = {0};
    heard h = {0}, again = {0}, after = {0};
    char longer[2000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    open_dialog(&e, &d, TILED, 128, 2);
    ASSERT_OK(ask(&d, "hi", 3, &h, &r, &err));
    const size_t n_text = d.text.n;
    const int n = d.session.n;
    ASSERT_FAILS(BAL_E_CAPACITY, "does not fit", ask(&d, longer, 3, &again, &r, &err));
    assert_int_equal(d.text.n, n_text);
    assert_int_equal(d.session.n, n);
    assert_int_equal(again.n, 0);
    ASSERT_OK(ask(&d, "more", 1, &after, &r, &err));
    check_one_shot(&d);
    /* an answer that reaches the end of the context stops there */
    ASSERT_OK(ask(&d, "and", 4000, &after, &r, &err));
    if (r.stop != BAL_STOP_END) {
        assert_int_equal(r.stop, BAL_STOP_CONTEXT);
        assert_int_equal(r.n_context, d.session.ctx);
        ASSERT_FAILS(BAL_E_CAPACITY, "does not fit", ask(&d, "hi", 3, &after, &r, &err));
    }
    bal_dialog_destroy(&d);
    bal_engine_close(&e);
}

/* A picture that makes the cache start anew must not lose the conversation when it fails. */
static void test_failure_while_starting_anew(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    bal_dialog d;
    bal_ask_result r = {0};
    heard h = {0}, stopped = {.stop_stage = "prefill"};
    open_dialog(&e, &d, PAIR, 512, 2);
    add_picture(&d, PAIR_PICTURES[0]);
    ASSERT_OK(ask(&d, "One?", 4, &h, &r, &err));
    const size_t n_text = d.text.n;
    add_picture(&d, PAIR_PICTURES[1]);
    ASSERT_FAILS(BAL_E_CANCELLED, "prefill", ask(&d, "Two?", 1, &stopped, &r, &err));
    assert_int_equal(r.n_generated, 0);
    assert_int_equal(d.text.n, n_text);
    ASSERT_OK(ask(&d, "Two?", 1, &h, &r, &err));
    check_one_shot(&d);
    bal_dialog_destroy(&d);
    bal_engine_close(&e);
}

static void test_cancelled_answer_stays(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    bal_dialog d;
    bal_ask_result r = {0};
    heard stopped = {.stop_after = 1}, h = {0}, seen = {.stop_stage = "vision"};
    open_dialog(&e, &d, TILED, 512, 2);
    add_picture(&d, TILED_PICTURE);
    ASSERT_FAILS(BAL_E_CANCELLED, "pictures", ask(&d, "x", 9, &seen, &r, &err));
    assert_int_equal(d.text.n, 0);
    ASSERT_FAILS(BAL_E_CANCELLED, "answer", ask(&d, "What?", 9, &stopped, &r, &err));
    assert_int_equal(r.stop, BAL_STOP_CANCELLED);
    assert_true(r.n_generated > 0 && r.n_generated < 9);
    assert_int_equal(d.n_shown, 1);
    assert_int_equal(d.text.n, d.n_cached + 1); /* the question and its answer stay */
    ASSERT_OK(ask(&d, "And?", 1, &h, &r, &err));
    check_one_shot(&d);
    bal_dialog_destroy(&d);
    bal_engine_close(&e);
}

/* ---- The public handles ---------------------------------------------------------------------- */

static void open_chat(bal_context **model, bal_chat **chat, int threads, float temperature)
{
    bal_error err = {0};
    const bal_open_opts open = {.size = sizeof open, .threads = (uint32_t)threads};
    const bal_chat_opts opts = {
        .size = sizeof opts, .context = 256, .temperature = temperature, .seed = 7};
    ASSERT_OK(bal_open(model, source_path(TILED), &open, &err));
    ASSERT_OK(bal_chat_open(chat, *model, &opts, &err));
}

static void ask_chat(bal_chat *chat, const char *text, heard *h)
{
    bal_error err = {0};
    const bal_ask_opts opts = {.size = sizeof opts, .max_tokens = 24, .text = hear, .ctx = h};
    bal_ask_result r = {.size = sizeof r};
    h->n = 0;
    ASSERT_OK(bal_chat_ask(chat, text, &opts, &r, &err));
    assert_true(r.n_generated > 0 && r.n_context > 0 && r.decode_s >= 0.0);
}

/* Same seed, same words: after clear, in another chat, with other thread counts; another seed or
 * no temperature gives others. */
static void test_sampling_repeats(void **state)
{
    (void)state;
    heard a = {0}, b = {0}, c = {0};
    for (int threads = 1; threads <= 3; threads++) {
        bal_context *model;
        bal_chat *chat;
        open_chat(&model, &chat, threads, 1.5f);
        ask_chat(chat, "hello", threads == 1 ? &a : &b);
        if (threads > 1) assert_string_equal(a.text, b.text);
        bal_chat_clear(chat);
        ask_chat(chat, "hello", &b);
        assert_string_equal(a.text, b.text);
        bal_chat_close(chat);
        bal_close(model);
    }
    bal_context *model;
    bal_chat *chat;
    open_chat(&model, &chat, 1, 0.0f);
    ask_chat(chat, "hello", &c);
    assert_string_not_equal(a.text, c.text);
    bal_chat_close(chat);
    bal_close(model);
}

/* The same picture as file, bytes and pixels gives the same answer. */
static void test_picture_forms(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_context *model;
    bal_chat *chat;
    bal_image image;
    uint8_t *bytes;
    size_t n;
    heard h[3] = {0};
    bal_picture_info info[3] = {
        {.size = sizeof info[0]}, {.size = sizeof info[0]}, {.size = sizeof info[0]}};
    const char *path = source_path(TILED_PICTURE);
    ASSERT_OK(bal_read_file(&bytes, &n, path, 1 << 20, &err));
    ASSERT_OK(bal_image_open(&image, path, NULL, &err));
    const size_t row = 3 * (size_t)image.width, stride = row + 5;
    uint8_t *rgb = malloc(stride * (size_t)image.height);
    assert_non_null(rgb);
    for (size_t y = 0; y < (size_t)image.height; y++)
        memcpy(rgb + y * stride, image.rgb + y * row, row);
    open_chat(&model, &chat, 2, 0.0f);
    ASSERT_OK(bal_chat_add_image_file(chat, path, &info[0], &err));
    ask_chat(chat, "What is it?", &h[0]);
    bal_chat_clear(chat);
    assert_int_equal(bal_chat_n_pictures(chat), 0);
    ASSERT_OK(bal_chat_add_image_bytes(chat, bytes, n, &info[1], &err));
    ask_chat(chat, "What is it?", &h[1]);
    bal_chat_clear(chat);
    ASSERT_OK(bal_chat_add_image_rgb(chat, rgb, image.width, image.height, stride, &info[2], &err));
    ask_chat(chat, "What is it?", &h[2]);
    for (int i = 1; i < 3; i++) {
        assert_string_equal(h[0].text, h[i].text);
        assert_memory_equal(&info[0], &info[i], sizeof info[0]);
    }
    assert_int_equal(info[0].tokens, 70);
    assert_int_equal(info[0].views, 5);
    ASSERT_FAILS(BAL_E_ARG, "stride_bytes",
                 bal_chat_add_image_rgb(chat, rgb, image.width, image.height, row - 1, NULL, &err));
    ASSERT_FAILS(BAL_E_ARG, "0", bal_chat_add_image_rgb(chat, rgb, 0, 5, row, NULL, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "", bal_chat_add_image_bytes(chat, bytes, 40, NULL, &err));
    assert_int_equal(bal_chat_n_pictures(chat), 1);
    ASSERT_FAILS(BAL_E_ARG, "picture 1 of 1", bal_chat_picture(chat, 1, &info[0], &err));
    free(rgb);
    free(bytes);
    bal_image_free(&image);
    bal_chat_close(chat);
    bal_close(model);
}

static void test_arguments(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_context *model;
    bal_chat *chat, *none;
    ASSERT_FAILS(BAL_E_IO, "nowhere", bal_open(&model, "nowhere", NULL, &err));
    assert_null(model);
    ASSERT_FAILS(BAL_E_ARG, "NULL", bal_open(&model, NULL, NULL, &err));
    const bal_open_opts no_size = {.threads = 1};
    const bal_open_opts gpu = {.size = sizeof gpu, .device = "cuda:0"};
    const bal_open_opts isa = {.size = sizeof isa, .isa = "mmx"};
    const char *path = source_path(TILED);
    ASSERT_FAILS(BAL_E_ARG, "bal_open_opts.size: 0", bal_open(&model, path, &no_size, &err));
    setenv("BALLAST_CUDA_LIB", "nowhere.so", 1);
    ASSERT_FAILS(BAL_E_UNSUP, "cuda:0", bal_open(&model, path, &gpu, &err));
    unsetenv("BALLAST_CUDA_LIB");
    ASSERT_FAILS(BAL_E_ARG, "mmx", bal_open(&model, path, &isa, &err));
    open_chat(&model, &chat, 1, 0.0f);
    /* a newer caller's struct: fine while the part unknown here is zero */
    struct {
        bal_chat_opts known;
        uint64_t later;
    } newer = {.known = {.size = sizeof newer, .context = 64}};
    ASSERT_OK(bal_chat_open(&none, model, &newer.known, &err));
    bal_chat_close(none);
    newer.later = 1;
    ASSERT_FAILS(BAL_E_ARG, "this library knows", bal_chat_open(&none, model, &newer.known, &err));
    assert_null(none);
    const bal_chat_opts cold = {.size = sizeof cold, .temperature = -1.0f};
    const bal_chat_opts wide = {.size = sizeof wide, .context = 1 << 30};
    ASSERT_FAILS(BAL_E_ARG, "temperature", bal_chat_open(&none, model, &cold, &err));
    ASSERT_FAILS(BAL_E_ARG, "context", bal_chat_open(&none, model, &wide, &err));
    const bal_ask_opts negative = {.size = sizeof negative, .max_tokens = -1};
    ASSERT_FAILS(BAL_E_ARG, "max_tokens", bal_chat_ask(chat, "hi", &negative, NULL, &err));
    ASSERT_FAILS(BAL_E_ARG, "NULL", bal_chat_ask(chat, NULL, NULL, NULL, &err));
    bal_model_info info = {.size = sizeof info};
    ASSERT_OK(bal_get_info(model, &info, &err));
    assert_int_equal(info.threads, 1);
    assert_int_equal(info.has_vision, 1);
    bal_chat_close(chat);
    bal_chat_close(NULL);
    bal_close(model);
    bal_close(NULL);
}

/* ---- The demo model -------------------------------------------------------------------------- */

enum { DEMO_TOKENS = 48 };
/* Where transformers' two best logits are nearer than this, either may win. Sums in another order
 * move a logit of this model by about 5e-6; a two-hundredfold leaves room for long answers. */
static const double NEAR_TIE = 1e-3;

static int ids_of(const bal_json *row, const char *key, int out[], int max)
{
    bal_error err = {0};
    size_t n;
    ASSERT_OK(bal_json_ints(row, key, 0, 1 << 30, out, (size_t)max, &n, &err));
    return (int)n;
}

/* Returns 1 if the answer left transformers' at a near tie, else 0; fails at any other place. */
static int check_row(bal_dialog *d, const bal_json *row)
{
    bal_error err = {0};
    static int want[4096];
    double gaps[DEMO_TOKENS];
    size_t n_gaps;
    const char *question, *name;
    bal_ask_result r = {0};
    static heard h;
    char path[512];
    h = (heard){0};
    bal_dialog_clear(d);
    ASSERT_OK(bal_json_str(row, "question", &question, &err));
    const bal_json images = bal_json_get(row, "images");
    for (size_t i = 0; i < bal_json_len(&images); i++) {
        const bal_json item = bal_json_at(&images, i);
        ASSERT_OK(bal_json_as_str(&item, &name, &err));
        snprintf(path, sizeof path, "demo/data/%s", name);
        add_picture(d, path);
    }
    ASSERT_OK(ask(d, question, DEMO_TOKENS, &h, &r, &err));
    assert_int_equal(ids_of(row, "input_ids", want, 4096), r.n_prompt);
    for (int i = 0; i < r.n_prompt; i++) assert_int_equal(d->session.info[i].id, want[i]);
    const int n = ids_of(row, "output_ids", want, DEMO_TOKENS);
    ASSERT_OK(bal_json_f64s(row, "gaps", 0, 1e9, gaps, DEMO_TOKENS, &n_gaps, &err));
    assert_int_equal(n, n_gaps);
    const int n_own = r.n_generated - (r.stop == BAL_STOP_END);
    const int32_t *own = d->text.ids + d->text.n - n_own;
    for (int i = 0; i < n; i++) {
        const int32_t id = i < n_own ? own[i] : d->stop_id;
        if (id == want[i]) continue;
        if (gaps[i] < NEAR_TIE) return 1;
        fail_msg("'%s': token %d is %d, transformers has %d, %.4g ahead of the next", question, i,
                 id, want[i], gaps[i]);
    }
    return 0;
}

static void test_demo_greedy(void **state)
{
    (void)state;
    bal_error err = {0};
    const char *golden = source_path("tests/golden/demo_greedy.json");
    if (!bal_path_exists(golden) || !bal_path_exists(source_path("demo/model/config.json"))) {
        printf("skipped: tests/golden/demo_greedy.json or demo/model is absent\n");
        skip();
    }
    bal_json_doc doc;
    bal_engine e;
    bal_dialog d;
    ASSERT_OK(bal_json_load(&doc, golden, 1 << 24, &err));
    open_dialog(&e, &d, "demo/model", 1024, 2);
    const bal_json rows = bal_json_root(&doc);
    int n_ties = 0;
    const int n = (int)bal_json_len(&rows);
    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        const bal_json row = bal_json_at(&rows, (size_t)i);
        n_ties += check_row(&d, &row);
    }
    printf("demo model: %d prompts, %d left transformers' answer at a near tie\n", n, n_ties);
    assert_true(n_ties <= n / 10);
    bal_dialog_destroy(&d);
    bal_engine_close(&e);
    bal_json_close(&doc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns_equal_one_shot),
        cmocka_unit_test(test_second_picture_changes_the_first),
        cmocka_unit_test(test_turns_equal_the_template),
        cmocka_unit_test(test_full_context_rolls_back),
        cmocka_unit_test(test_failure_while_starting_anew),
        cmocka_unit_test(test_cancelled_answer_stays),
        cmocka_unit_test(test_sampling_repeats),
        cmocka_unit_test(test_picture_forms),
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_demo_greedy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
