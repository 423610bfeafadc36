/* SPDX-License-Identifier: MIT
 * Evaluation: reading the data, normalising answers, the bootstrap against cases worked out by
 * hand, and figures of tiny models against the plain way of getting them (one session per question,
 * no sharing). */
#include "check.h"

#include <math.h>

#include "run/sampler.h"
#include "image/image.h"
#include "run/evaluate.h"
#include "run/sequence.h"
#include "text/utf8.h"

/* ---- Data ------------------------------------------------------------------------------------ */

static const char GOOD[] =
    "{\"image\": \"b.png\", \"question\": \"What?\", \"answers\": [\"one\", \"1\"], \"id\": 7}\n"
    "\n"
    "{\"question\": \"Text only?\", \"answers\": [\"yes\"], \"type\": \"t\"}\n"
    "{\"images\": [\"a.png\", \"b.png\"], \"question\": \"Both?\", \"answers\": [\"no\"]}\n"
    "{\"image\": \"b.png\", \"question\": \"Again?\", \"answers\": [\"x\"], \"id\": \"z\"}\n"
    "{\"question\": \"Text only?\", \"answers\": [\"yes\"]}\n";

static void test_data(void **state)
{
    (void)state;
    static const size_t groups[] = {0, 1, 2, 0, 3}, order[] = {0, 3, 1, 2, 4};
    bal_error err = {0};
    bal_evaldata d;
    char path[256];
    ASSERT_OK(bal_evaldata_parse(&d, GOOD, sizeof GOOD - 1, "dir/sub/e.jsonl", &err));
    assert_int_equal(d.n, 5);
    assert_int_equal(d.n_groups, 4);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(d.questions[i].group, groups[i]);
        assert_int_equal(d.order[i], order[i]);
    }
    assert_string_equal(d.questions[0].id, "7");
    assert_int_equal(d.questions[1].line, 3);
    assert_string_equal(d.questions[1].type, "t");
    assert_int_equal(d.questions[2].n_images, 2);
    ASSERT_OK(bal_evaldata_image_path(&d, &d.questions[2], 1, path, sizeof path, &err));
    assert_string_equal(path, "dir/sub/b.png");
    bal_evaldata_close(&d);
}

static void check_refused(const char *text, const char *part)
{
    bal_error err = {0};
    bal_evaldata d;
    ASSERT_FAILS(BAL_E_FORMAT, part, bal_evaldata_parse(&d, text, strlen(text), "e.jsonl", &err));
    assert_null(d.questions);
}

static void test_data_errors(void **state)
{
    (void)state;
    static const char FINE[] = "{\"question\": \"q\", \"answers\": [\"a\"]}\n";
    char text[600];
    const char *const bad[][2] = {
        {"{\"answers\": [\"a\"]}", "question"},
        {"{\"question\": \"\", \"answers\": [\"a\"]}", "question"},
        {"{\"question\": \"q\"}", "answers"},
        {"{\"question\": \"q\", \"answers\": []}", "answers"},
        {"{\"question\": \"q\", \"answers\": \"a\"}", "answers"},
        {"{\"question\": \"q\", \"answers\": [\"a\", \"\"]}", "answers[1]"},
        {"{\"question\": \"q\", \"answers\": [3]}", "answers[0]"},
        {"{\"image\": 3, \"question\": \"q\", \"answers\": [\"a\"]}", "image"},
        {"{\"image\": \"\", \"question\": \"q\", \"answers\": [\"a\"]}", "image"},
        {"{\"image\": \"a\", \"images\": [\"b\"], \"question\": \"q\", \"answers\": [\"a\"]}",
         "both"},
        {"{\"type\": 3, \"question\": \"q\", \"answers\": [\"a\"]}", "type"},
        {"[]", "object"},
        {"{\"question\"", "line 3"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(text, sizeof text, "%s\n%s\n", FINE, bad[i][0]);
        check_refused(text, bad[i][1]);
        check_refused(text, "e.jsonl, line 3");
    }
    check_refused("", "no question");
    check_refused(" \n\n", "no question");
}

/* ---- Answers --------------------------------------------------------------------------------- */

static void test_normalise(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"Yes.", "yes"},
        {"  top LEFT \n", "top left"},
        {"\"No!\"", "no"},
        {"3", "3"},
        {"3.5", "35"},
        {"\xc3\x84hre", "\xc3\xa4hre"},       /* A umlaut */
        {"\xe3\x80\x80ok\xe3\x80\x82", "ok"}, /* ideographic space and full stop */
        {"a, b", "a b"},
        {"?!", ""},
        {"", ""},
        {". yes", "yes"},
        {"\xce\xa3\xe2\x80\x99", "\xcf\x83"}, /* sigma, closing quote */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bal_error err = {0};
        char *out;
        ASSERT_OK(bal_eval_normalise(&out, cases[i][0], &err));
        assert_string_equal(out, cases[i][1]);
        free(out);
    }
}

/* ---- Bootstrap ------------------------------------------------------------------------------- */

static void test_bootstrap_of_equals(void **state)
{
    (void)state;
    bal_error err = {0};
    const double top[4] = {1, 2, 3, 4}, bottom[4] = {2, 4, 6, 8};
    const bal_quotient half = {.top = top, .bottom = bottom};
    const bal_quotient zero = {top, bottom, top, bottom};
    bal_interval i;
    ASSERT_OK(bal_bootstrap(&i, &half, 4, 200, 1, &err));
    assert_true(i.value == 0.5 && i.lo == 0.5 && i.hi == 0.5);
    ASSERT_OK(bal_bootstrap(&i, &zero, 4, 200, 1, &err));
    assert_true(i.value == 0.0 && i.lo == 0.0 && i.hi == 0.0);
}

/* 400 coins, 100 of them heads: the spread of the mean is sqrt(p q / n) = 0.02165, so the interval
 * is 0.25 +- 0.0424 up to the noise of 2,000 draws. Paired with a copy in which 8 more are heads,
 * the gain is 0.02 +- 1.96 sqrt(0.02 * 0.98 / 400) = 0.0137 while each alone stays that wide. */
static void test_bootstrap_of_coins(void **state)
{
    (void)state;
    enum { N = 400 };
    bal_error err = {0};
    double heads[N], more[N], one[N];
    for (int i = 0; i < N; i++) {
        heads[i] = i % 4 == 0;
        more[i] = heads[i] != 0.0 || i % 50 == 1;
        one[i] = 1.0;
    }
    const bal_quotient alone = {.top = heads, .bottom = one};
    const bal_quotient gain = {more, one, heads, one};
    bal_interval a, again, g;
    ASSERT_OK(bal_bootstrap(&a, &alone, N, 2000, 5, &err));
    ASSERT_OK(bal_bootstrap(&again, &alone, N, 2000, 5, &err));
    ASSERT_OK(bal_bootstrap(&g, &gain, N, 2000, 5, &err));
    assert_memory_equal(&a, &again, sizeof a);
    assert_true(a.value == 0.25);
    assert_true(fabs(a.lo - 0.2076) < 0.006 && fabs(a.hi - 0.2924) < 0.006);
    assert_true(fabs(g.value - 0.02) < 1e-12);
    assert_true(fabs(g.lo - 0.0075) < 0.003 && fabs(g.hi - 0.0345) < 0.004);
}

/* Groups weigh by what they count: one group of 9 wrong and one of 1 right is 0.1, and a draw is
 * either 0, 0.1 or 1. */
static void test_bootstrap_of_groups(void **state)
{
    (void)state;
    bal_error err = {0};
    const double top[2] = {0, 1}, bottom[2] = {9, 1};
    const bal_quotient q = {.top = top, .bottom = bottom};
    bal_interval i;
    ASSERT_OK(bal_bootstrap(&i, &q, 2, 2000, 3, &err));
    assert_true(i.value == 0.1 && i.lo == 0.0 && i.hi == 1.0);
}

/* ---- Models ---------------------------------------------------------------------------------- */

enum { N_QUESTIONS = 7 };
static const char *const QUESTIONS[N_QUESTIONS][3] = {
    /* picture, question, answer */
    {"tests/golden/tiled/picture0_100x70.png", "What is it?", "a red circle"},
    {"tests/golden/calib/calib0_100x70.png", "How many?", "12"},
    {"tests/golden/tiled/picture0_100x70.png", "What colour?", "green"},
    {NULL, "Say yes", "yes"},
    {"tests/golden/tiled/picture0_100x70.png", "What is it, and where?", "x"},
    {NULL, "Say yes", "no way"},
    {"tests/golden/tiled/picture0_100x70.png", "What is it, and where?", "here"}, /* once more */
};

static void write_data(bal_evaldata *d)
{
    static char text[8192];
    bal_error err = {0};
    size_t n = 0;
    for (int i = 0; i < N_QUESTIONS; i++) {
        const char *const *q = QUESTIONS[i];
        n += (size_t)snprintf(text + n, sizeof text - n, "{\"question\": \"%s\", ", q[1]);
        if (q[0])
            n += (size_t)snprintf(text + n, sizeof text - n, "\"image\": \"%s\", ",
                                  source_path(q[0]));
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "\"answers\": [\"%s\"], \"type\": \"%s\"}\n", q[2],
                              q[0] ? "picture" : "text");
    }
    ASSERT_OK(bal_evaldata_parse(d, text, n, "/data.jsonl", &err));
}

static void open_engine(bal_engine *e, const char *model, int threads)
{
    bal_error err = {0};
    ASSERT_OK(bal_engine_open(e, source_path(model), threads, NULL, &err));
}

/* All logits rows of the whole sequence, prompt and answer, in one call of a session of its own. */
typedef struct plain_rows {
    float *rows;
    int vocab, first;
} plain_rows;

static void keep_row(void *ctx, int row, const float *logits)
{
    plain_rows *p = ctx;
    memcpy(p->rows + (size_t)(row - p->first) * (size_t)p->vocab, logits,
           (size_t)p->vocab * sizeof *logits);
}

/* Returns the number of positions; rows [positions][vocab] malloc'ed, targets into target[]. */
static int plain_logits(const bal_engine *e, const char *const *q, float **rows, int32_t *target)
{
    bal_error err = {0};
    const bal_chat_message m[2] = {
        {BAL_CHAT_USER, q[1], strlen(q[1]), q[0] != NULL},
        {BAL_CHAT_ASSISTANT, q[2], strlen(q[2]), 0},
    };
    bal_chat_tokens t;
    bal_sequence seq;
    bal_session s;
    bal_image image = {0};
    int size[1][2] = {{0, 0}}, n = 0;
    if (q[0]) ASSERT_OK(bal_image_open(&image, source_path(q[0]), NULL, &err));
    size[0][0] = image.width;
    size[0][1] = image.height;
    ASSERT_OK(bal_chat_encode(&t, e->tokenizer, e->chat, m, 2, false, &err));
    ASSERT_OK(bal_sequence_build(&seq, e, &t, (const int(*)[2])size, q[0] != NULL, BAL_VIEW_AUTO, 0,
                                 0, &err));
    ASSERT_OK(bal_session_create(&s, e, 512, &err));
    int first = 0;
    while (seq.info[first].modality != BAL_ANSWER) first++;
    for (int i = first; i < seq.n && seq.info[i].modality == BAL_ANSWER; i++)
        target[n++] = seq.info[i].id;
    const int vocab = e->model.config.text.vocab;
    plain_rows p = {malloc((size_t)n * (size_t)vocab * sizeof(float)), vocab, first - 1};
    float *embeds = malloc((size_t)seq.n * (size_t)e->model.config.text.hidden * sizeof *embeds);
    assert_true(p.rows && embeds);
    ASSERT_OK(bal_sequence_embed(&seq, e, &s.exec, &image, embeds, (bal_taps){0}, &err));
    ASSERT_OK(bal_session_append(&s, seq.info, embeds, first - 1 + n, first - 1, keep_row, &p,
                                 (bal_taps){0}, &err));
    *rows = p.rows;
    free(embeds);
    bal_image_free(&image);
    bal_session_destroy(&s);
    bal_sequence_free(&seq);
    bal_chat_tokens_deinit(&t);
    return n;
}

static double plain_log_p(const float *row, int vocab, int id)
{
    double sum = 0.0;
    for (int i = 0; i < vocab; i++) sum += exp((double)row[i]);
    return (double)row[id] - log(sum);
}

static void check_row(const bal_engine *reference, const bal_engine *model, int which,
                      const bal_eval_row *row)
{
    float *r, *m;
    int32_t target[64];
    double nll = 0.0, kl = 0.0;
    int agree = 0;
    const int n = plain_logits(reference, QUESTIONS[which], &r, target);
    assert_int_equal(plain_logits(model, QUESTIONS[which], &m, target), n);
    const int vocab = model->model.config.text.vocab;
    for (int i = 0; i < n; i++) {
        const float *a = r + (size_t)i * (size_t)vocab, *b = m + (size_t)i * (size_t)vocab;
        nll -= plain_log_p(b, vocab, target[i]);
        agree += bal_argmax(a, vocab) == bal_argmax(b, vocab);
        for (int v = 0; v < vocab; v++) {
            const double lp = plain_log_p(a, vocab, v);
            kl += exp(lp) * (lp - plain_log_p(b, vocab, v));
        }
    }
    assert_int_equal(row->n, n);
    assert_int_equal(row->n_agree, agree);
    assert_true(fabs(row->nll - nll) < 1e-9 * (1.0 + nll));
    assert_true(fabs(row->kl - kl) < 1e-9 * (1.0 + kl));
    free(r);
    free(m);
}

/* Two different models with the same tokenizer: a copy of one with another final norm would do,
 * but tiled and mha differ everywhere behind the tokenizer, which they share. */
static void test_figures(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine reference, model;
    bal_evaldata data;
    bal_eval_result result[2], of_reference;
    open_engine(&reference, "tests/golden/tiled/model", 2);
    open_engine(&model, "tests/golden/mha/model", 2);
    write_data(&data);
    const bal_engine *engines[2] = {&model, &reference};
    const bal_eval_opts opts = {.ctx = 512, .max_tokens = 6};
    ASSERT_OK(bal_eval_run(&reference, engines, 2, &data, &opts, result, &of_reference, &err));
    double nll = 0.0, kl = 0.0;
    int64_t n = 0, agree = 0;
    for (int i = 0; i < N_QUESTIONS; i++) {
        check_row(&reference, &model, i, &result[0].rows[i]);
        nll += result[0].rows[i].nll;
        kl += result[0].rows[i].kl;
        n += result[0].rows[i].n;
        agree += result[0].rows[i].n_agree;
    }
    assert_int_equal(result[0].n_positions, n);
    assert_int_equal(result[0].n_groups, 4);
    assert_true(fabs(result[0].nll.value - nll / (double)n) < 1e-12);
    assert_true(fabs(result[0].kl.value - kl / (double)n) < 1e-12 && kl > 0.0);
    assert_true(fabs(result[0].top1.value - (double)agree / (double)n) < 1e-12);
    assert_true(fabs(result[0].perplexity - exp(nll / (double)n)) < 1e-9);
    assert_true(fabs(result[0].nll_change.value - (result[0].nll.value - of_reference.nll.value)) <
                1e-12);
    assert_int_equal(result[0].n_types, 2);
    assert_string_equal(result[0].types[0].name, "picture");
    assert_int_equal(result[0].types[0].n, 5);
    /* against itself: nothing differs, to the last bit */
    assert_true(result[1].kl.value == 0.0 && result[1].kl.hi == 0.0);
    assert_true(result[1].top1.value == 1.0 && result[1].nll_change.hi == 0.0);
    assert_memory_equal(&result[1].nll, &of_reference.nll, sizeof of_reference.nll);
    assert_false(of_reference.compared);
    assert_true(result[1].shared_vision);
    assert_false(result[0].shared_vision || of_reference.shared_vision);
    bal_eval_result_free(&result[0]);
    bal_eval_result_free(&result[1]);
    bal_eval_result_free(&of_reference);
    bal_evaldata_close(&data);
    bal_engine_close(&model);
    bal_engine_close(&reference);
}

/* The greedy answer told from the target's positions is what a chat says. */
static void check_said(const bal_engine *e, int which, int max_tokens, const char *want)
{
    bal_error err = {0};
    const char *const *q = QUESTIONS[which];
    const bal_chat_message m = {BAL_CHAT_USER, q[1], strlen(q[1]), q[0] != NULL};
    bal_chat_tokens t;
    bal_sequence seq;
    bal_session s;
    bal_image image = {0};
    char said[1024] = "";
    if (q[0]) ASSERT_OK(bal_image_open(&image, source_path(q[0]), NULL, &err));
    const int size[1][2] = {{image.width, image.height}};
    ASSERT_OK(bal_chat_encode(&t, e->tokenizer, e->chat, &m, 1, true, &err));
    ASSERT_OK(bal_sequence_build(&seq, e, &t, size, q[0] != NULL, BAL_VIEW_AUTO, 0, 0, &err));
    ASSERT_OK(bal_session_create(&s, e, 512, &err));
    float *embeds = malloc((size_t)seq.n * (size_t)e->model.config.text.hidden * sizeof *embeds);
    assert_non_null(embeds);
    ASSERT_OK(bal_sequence_embed(&seq, e, &s.exec, &image, embeds, (bal_taps){0}, &err));
    ASSERT_OK(bal_session_append(&s, seq.info, embeds, seq.n, 0, NULL, NULL, (bal_taps){0}, &err));
    for (int i = 0; i < max_tokens; i++) {
        const int32_t id = bal_argmax(s.logits, e->model.config.text.vocab);
        if (bal_is_stop(&e->model.config, id)) break;
        const bal_token_view v = bal_tokenizer_decode(e->tokenizer, id, false);
        strncat(said, v.bytes ? v.bytes : "", v.n);
        ASSERT_OK(bal_session_push(&s, id, &err));
    }
    char *repaired;
    size_t n;
    ASSERT_OK(bal_utf8_repair(&repaired, &n, said, strlen(said), &err));
    assert_int_equal(n, strlen(want));
    assert_memory_equal(repaired, want, n);
    free(repaired);
    free(embeds);
    bal_image_free(&image);
    bal_session_destroy(&s);
    bal_sequence_free(&seq);
    bal_chat_tokens_deinit(&t);
}

static void evaluate_alone(bal_eval_result *r, const char *model, const bal_evaldata *d,
                           int threads)
{
    bal_error err = {0};
    bal_engine e;
    const bal_engine *one = &e;
    const bal_eval_opts opts = {.ctx = 512, .max_tokens = 7, .draws = 50};
    open_engine(&e, model, threads);
    ASSERT_OK(bal_eval_run(NULL, &one, 1, d, &opts, r, NULL, &err));
    if (threads == 1)
        for (int i = 0; i < N_QUESTIONS; i++) check_said(&e, i, 7, r->rows[i].said);
    bal_engine_close(&e);
}

static void test_threads_and_answers(void **state)
{
    (void)state;
    bal_evaldata d;
    bal_eval_result one, three;
    write_data(&d);
    evaluate_alone(&one, "tests/golden/tiled/model", &d, 1);
    evaluate_alone(&three, "tests/golden/tiled/model", &d, 3);
    for (int i = 0; i < N_QUESTIONS; i++) {
        assert_true(one.rows[i].nll == three.rows[i].nll);
        assert_string_equal(one.rows[i].said, three.rows[i].said);
    }
    assert_memory_equal(&one.nll, &three.nll, sizeof one.nll);
    assert_false(one.compared);
    bal_eval_result_free(&one);
    bal_eval_result_free(&three);
    bal_evaldata_close(&d);
}

/* Where the model leaves the target after some tokens, it goes on from there as it would alone. */
static void check_long_answers(const bal_engine *e, bal_evaldata *d)
{
    bal_error err = {0};
    bal_eval_result r;
    const bal_eval_opts opts = {.ctx = 512, .max_tokens = 7, .draws = 50};
    for (int i = 0; i < N_QUESTIONS; i++) {
        char longer[256];
        snprintf(longer, sizeof longer, "%s and more", d->questions[i].answers[0]);
        free(d->questions[i].answers[0]);
        d->questions[i].answers[0] = strdup(longer);
    }
    ASSERT_OK(bal_eval_run(NULL, &e, 1, d, &opts, &r, NULL, &err));
    for (int i = 0; i < N_QUESTIONS; i++) check_said(e, i, 7, r.rows[i].said);
    bal_eval_result_free(&r);
}

/* An answer that the model does give is right: what it says greedily becomes the answer. */
static void test_right_answers(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine e;
    const bal_engine *one = &e;
    bal_evaldata d;
    bal_eval_result first, second;
    const bal_eval_opts opts = {.ctx = 512, .max_tokens = 3, .draws = 50};
    int n_words = 0;
    open_engine(&e, "tests/golden/tiled/model", 2);
    write_data(&d);
    ASSERT_OK(bal_eval_run(NULL, &one, 1, &d, &opts, &first, NULL, &err));
    assert_int_equal(first.n_right, 0);
    for (int i = 0; i < N_QUESTIONS; i++) {
        char *normal;
        ASSERT_OK(bal_eval_normalise(&normal, first.rows[i].said, &err));
        n_words += normal[0] != 0;
        free(normal);
        if (!first.rows[i].said[0]) continue;
        free(d.questions[i].answers[0]);
        d.questions[i].answers[0] = strdup(first.rows[i].said);
    }
    assert_true(n_words > 0);
    ASSERT_OK(bal_eval_run(NULL, &one, 1, &d, &opts, &second, NULL, &err));
    for (int i = 0; i < N_QUESTIONS; i++) {
        assert_string_equal(second.rows[i].said, first.rows[i].said);
        if (first.rows[i].said[0]) assert_true(second.rows[i].right);
    }
    assert_true(second.n_right >= n_words);
    bal_eval_result_free(&first);
    bal_eval_result_free(&second);
    check_long_answers(&e, &d);
    bal_evaldata_close(&d);
    bal_engine_close(&e);
}

static bool stop_at_three(void *ctx, const bal_progress *p)
{
    (void)ctx;
    return p->done < 3;
}

static void test_refusals(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_engine a, b;
    bal_evaldata d, lost;
    bal_eval_result r;
    open_engine(&a, "tests/golden/tiled/model", 1);
    open_engine(&b, "tests/golden/two_images/model", 1);
    write_data(&d);
    const bal_engine *one = &a, *other = &b;
    bal_eval_opts opts = {.ctx = 512, .progress = stop_at_three};
    ASSERT_FAILS(BAL_E_CANCELLED, "3 of 7", bal_eval_run(NULL, &one, 1, &d, &opts, &r, NULL, &err));
    assert_null(r.rows);
    opts = (bal_eval_opts){.ctx = 64};
    ASSERT_FAILS(BAL_E_CAPACITY, "/data.jsonl, line 1",
                 bal_eval_run(NULL, &one, 1, &d, &opts, &r, NULL, &err));
    if (a.model.config.text.vocab != b.model.config.text.vocab)
        ASSERT_FAILS(BAL_E_ARG, "not comparable",
                     bal_eval_run(&a, &other, 1, &d, NULL, &r, NULL, &err));
    static const char GONE[] =
        "{\"question\": \"q\", \"answers\": [\"a\"], \"image\": \"/no/picture.png\"}";
    ASSERT_OK(bal_evaldata_parse(&lost, GONE, sizeof GONE - 1, "/gone.jsonl", &err));
    ASSERT_FAILS(BAL_E_IO, "/gone.jsonl, line 1: /no/picture.png",
                 bal_eval_run(NULL, &one, 1, &lost, NULL, &r, NULL, &err));
    opts = (bal_eval_opts){.ctx = 512, .limit = 2};
    ASSERT_OK(bal_eval_run(NULL, &one, 1, &d, &opts, &r, NULL, &err));
    assert_int_equal(r.n, 2);
    assert_int_equal(r.n_groups, 2);
    bal_eval_result_free(&r);
    bal_evaldata_close(&lost);
    bal_evaldata_close(&d);
    bal_engine_close(&a);
    bal_engine_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data),
        cmocka_unit_test(test_data_errors),
        cmocka_unit_test(test_normalise),
        cmocka_unit_test(test_bootstrap_of_equals),
        cmocka_unit_test(test_bootstrap_of_coins),
        cmocka_unit_test(test_bootstrap_of_groups),
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_threads_and_answers),
        cmocka_unit_test(test_right_answers),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
