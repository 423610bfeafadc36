/* SPDX-License-Identifier: MIT
 * Many requests on one model: the tokens of each are its own, whatever runs beside it, is cached,
 * is cut or is cancelled; a picture is encoded once; nothing is lost in random histories; what
 * cannot run is refused or ended with a sentence while the others go on. */
#include "scratch.h"

#include "ballast_quant.h"

#include "run/scheduler.h"
#include "run/sequence.h"

#include <math.h>
#include <pthread.h>

static const char MODEL[] = "tests/golden/tiled/model";
static const char PICTURE[] = "tests/golden/tiled/picture0_100x70.png";
static const char OTHER[] = "tests/golden/two_images/picture0_90x60.png";

enum { CTX = 512, MAX_SAID = CTX + 1, PAIRS = 16 };

/* ---- What a request brought ------------------------------------------------------------------ */

typedef struct heard {
    int32_t ids[MAX_SAID], top[MAX_SAID];
    float logprob[MAX_SAID];
    int n, n_done, n_prompt_events;
    float prompt_logprob[CTX];
    bool prompt_known[CTX];
    bal_finish finish;
    int32_t stop_id;
    bal_usage usage;
    bal_error error;
    int step_of_first; /* when the first token came, in steps of the test */
    int *step;
    bal_scheduler *cancel_on; /* cancels itself after cancel_after tokens */
    int cancel_after;
} heard;

static void hear(void *ctx, const bal_request_event *e)
{
    heard *h = ctx;
    assert_int_equal(h->n_done, 0); /* DONE is the last */
    switch (e->kind) {
    case BAL_EVENT_PROMPT_TOKEN:
        assert_int_equal(e->index, h->n_prompt_events++);
        h->prompt_logprob[e->index] = e->logprob;
        h->prompt_known[e->index] = e->has_logprob;
        return;
    case BAL_EVENT_TOKEN:
        assert_int_equal(e->index, h->n);
        assert_true(h->n < MAX_SAID);
        if (h->n == 0 && h->step) h->step_of_first = *h->step;
        if (e->n_top) h->top[h->n] = e->top[0].id;
        if (e->has_logprob) h->logprob[h->n] = e->logprob;
        h->ids[h->n++] = e->id;
        if (h->cancel_on && h->n == h->cancel_after) bal_scheduler_cancel(h->cancel_on, e->request);
        return;
    case BAL_EVENT_DONE:
        h->n_done++;
        h->finish = e->finish;
        h->stop_id = e->stop_id;
        h->usage = e->usage;
        if (e->error) h->error = *e->error;
    }
}

/* ---- Requests -------------------------------------------------------------------------------- */

static bal_picture *open_picture(const char *path)
{
    bal_error err;
    bal_image image;
    bal_picture *p;
    ASSERT_OK(bal_image_open(&image, source_path(path), NULL, &err));
    ASSERT_OK(bal_picture_create(&p, &image, &err));
    assert_null(image.rgb);
    return p;
}

static bal_engine open_model(int threads)
{
    bal_error err;
    bal_engine e;
    ASSERT_OK(bal_engine_open(&e, source_path(MODEL), threads, NULL, &err));
    return e;
}

typedef struct question {
    char text[400];
    bal_chat_tokens tokens;
    bal_picture *picture; /* borrowed; NULL: text only */
    bal_request request;
} question;

static void make_question(question *q, const bal_engine *e, bal_picture *picture, const char *text)
{
    bal_error err;
    snprintf(q->text, sizeof q->text, "%s", text);
    q->picture = picture;
    const bal_chat_message m = {BAL_CHAT_USER, q->text, strlen(q->text), picture != NULL};
    ASSERT_OK(bal_chat_encode(&q->tokens, e->tokenizer, e->chat, &m, 1, true, &err));
    q->request = (bal_request){.tokens = q->tokens,
                               .pictures = &q->picture,
                               .n_pictures = picture != NULL,
                               .sampling = {.top_p = 1.0f},
                               .max_tokens = 12,
                               .logprobs = true,
                               .n_top_logprobs = 1,
                               .ignore_eos = true,
                               .on_event = hear};
}

static uint64_t submit(bal_scheduler *s, question *q, heard *h)
{
    bal_error err;
    uint64_t id;
    q->request.event_ctx = h;
    ASSERT_OK(bal_scheduler_submit(s, &q->request, &id, &err));
    return id;
}

static void drain(bal_scheduler *s)
{
    for (int i = 0; bal_scheduler_step(s); i++)
        if (i > 100000) fail_msg("%s", "the scheduler does not come to an end");
}

static bal_scheduler *open_scheduler(const bal_engine *e, bal_scheduler_opts opts)
{
    bal_error err;
    bal_scheduler *s;
    if (!opts.ctx) opts.ctx = CTX;
    ASSERT_OK(bal_scheduler_create(&s, e, &opts, &err));
    return s;
}

static bal_scheduler_stats stats_of(bal_scheduler *s)
{
    bal_scheduler_stats st;
    bal_scheduler_get_stats(s, &st);
    return st;
}

/* Sixteen that differ in everything: length, picture, sampling, penalties. Several begin alike. */
static void make_questions(question *q, const bal_engine *e, bal_picture *a, bal_picture *b)
{
    static const char *const ends[] = {"What is it?", "How many are red, and where do they stand?",
                                       "1", "Say what you see in all detail, from left to right."};
    for (int i = 0; i < PAIRS; i++) {
        char text[400];
        snprintf(text, sizeof text, "%s%s%d",
                 i % 8 >= 6
                     ? "A long beginning that two of them share, so that their pages are the "
                       "same for more than one page of sixty-four tokens in a tiny "
                       "vocabulary where every letter is nearly a token of its own. "
                     : "",
                 ends[i % 4], i);
        make_question(&q[i], e, i % 3 == 0 ? a : i % 5 == 1 ? b : NULL, text);
        bal_request *r = &q[i].request;
        if (i % 2)
            r->sampling = (bal_sampling){.temperature = 0.9f,
                                         .top_p = i % 4 == 1 ? 0.9f : 1.0f,
                                         .top_k = 40,
                                         .seed = (uint64_t)i};
        if (i % 4 == 2) r->repetition_penalty = 1.3f;
        if (i % 4 == 3) r->frequency_penalty = 0.5f, r->presence_penalty = 0.2f;
        r->max_tokens = 9 + 5 * (i % 7);
    }
}

static void free_questions(question *q, int n)
{
    for (int i = 0; i < n; i++) bal_chat_tokens_deinit(&q[i].tokens);
}

static void same_answer(const heard *got, const heard *want, const char *way, int i)
{
    if (got->n_done != 1) fail_msg("%s: request %d has %d ends", way, i, got->n_done);
    if (got->n != want->n || memcmp(got->ids, want->ids, (size_t)want->n * sizeof *want->ids) != 0)
        fail_msg("%s: request %d says other tokens", way, i);
    if (memcmp(got->logprob, want->logprob, (size_t)want->n * sizeof *want->logprob) != 0)
        fail_msg("%s: request %d has other log-probabilities", way, i);
    assert_int_equal(got->finish, want->finish);
}

/* ---- The same tokens however it is run ------------------------------------------------------- */

/* Each alone, without any cache. */
static void alone(question *q, const bal_engine *e, bal_kv_type type, heard *want)
{
    for (int i = 0; i < PAIRS; i++) {
        bal_scheduler *s =
            open_scheduler(e, (bal_scheduler_opts){.kv_type = type, .no_prefix_cache = true});
        want[i] = (heard){0};
        submit(s, &q[i], &want[i]);
        drain(s);
        assert_int_equal(want[i].n, q[i].request.max_tokens);
        assert_int_equal(want[i].finish, BAL_FINISH_LENGTH);
        assert_int_equal(want[i].usage.n_cached, 0);
        bal_scheduler_destroy(s);
    }
}

/* All together, in two rounds: the second finds what the first has left. */
static bal_scheduler_stats together(question *q, const bal_engine *e, bal_scheduler_opts opts,
                                    const heard *want, const char *way)
{
    static heard got[2][PAIRS];
    bal_scheduler *s = open_scheduler(e, opts);
    memset(got, 0, sizeof got);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < PAIRS; i++)
            submit(s, &q[(i * 5) % PAIRS], &got[round][(i * 5) % PAIRS]);
        drain(s);
        for (int i = 0; i < PAIRS; i++) same_answer(&got[round][i], &want[i], way, i);
    }
    const bal_scheduler_stats st = stats_of(s);
    assert_int_equal(st.running + st.waiting, 0);
    assert_int_equal(st.pages_used, 0);
    bal_scheduler_destroy(s);
    return st;
}

static void same_tokens_however_run(void **state)
{
    (void)state;
    static question q[PAIRS];
    static heard want[PAIRS];
    bal_picture *a = open_picture(PICTURE), *b = open_picture(OTHER);
    for (int type = BAL_KV_F32; type < BAL_KV_TYPES; type++) {
        const bal_kv_type kv = (bal_kv_type)type;
        bal_engine e = open_model(2), one = open_model(1), many = open_model(3);
        bal_scheduler_stats st;
        make_questions(q, &e, a, b);
        alone(q, &e, kv, want);
        st = together(q, &e, (bal_scheduler_opts){.kv_type = kv}, want, "batch");
        assert_true(st.prefix_hits > 1000);
        assert_int_equal(st.encodes, 2); /* two pictures, thirty-two requests */
        assert_int_equal(st.preempted, 0);
        together(q, &one, (bal_scheduler_opts){.kv_type = kv, .step_tokens = 16, .max_running = 16},
                 want, "small steps, one thread");
        /* threads beyond the cores take long: for one format only */
        together(q, kv == BAL_KV_I8 ? &many : &e,
                 (bal_scheduler_opts){.kv_type = kv, .step_tokens = 97, .max_running = 5}, want,
                 "odd steps, three threads");
        st = together(
            q, &e, (bal_scheduler_opts){.kv_type = kv, .no_prefix_cache = true, .picture_bytes = 1},
            want, "no caches");
        assert_true(st.prefix_hits == 0 && st.encodes > 2);
        together(q, &e, (bal_scheduler_opts){.kv_type = kv, .kv_bytes = 9 * st.page_bytes}, want,
                 "pages for one context");
        free_questions(q, PAIRS);
        bal_engine_close(&e);
        bal_engine_close(&one);
        bal_engine_close(&many);
    }
    bal_picture_release(a);
    bal_picture_release(b);
}

/* Makes the scales that vision tokens have in a file 0, so that linears read nothing of them. */
static void blind(const char *path)
{
    char bytes[1 << 15];
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    const size_t n = fread(bytes, 1, sizeof bytes, f);
    int found = 0;
    for (size_t i = 0; i + 20 < n; i++)
        if (memcmp(bytes + i, "\"a8s", 4) == 0 && bytes[i + 12] == 'v') {
            memset(bytes + i + 13, '0', 8);
            found++;
        }
    assert_true(found > 0 && fseek(f, 0, SEEK_SET) == 0);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}

/* Where a row's bits depend on its modality, small steps mix pictures' rows with others; and the
 * scale of pictures' rows is theirs alone. */
static void same_tokens_with_fixed_scales(void **state)
{
    (void)state;
    static question q[PAIRS];
    static heard want[PAIRS], other[PAIRS];
    bal_error err = {0};
    bal_engine e;
    char path[1024];
    const char *set[] = {"bits=4", "group=32", "act=a8", "act_scale=static-modality"};
    const bal_quant_opts opts = {.size = sizeof opts,
                                 .recipe = "rtn",
                                 .set = set,
                                 .n_set = 4,
                                 .calib = source_path("tests/golden/calib/calib.jsonl"),
                                 .force = true};
    bal_picture *a = open_picture(PICTURE), *b = open_picture(OTHER);
    snprintf(path, sizeof path, "%s", scratch("fixed.safetensors"));
    ASSERT_OK(bal_quantize(source_path(MODEL), path, &opts, &err));
    ASSERT_OK(bal_engine_open(&e, path, 2, NULL, &err));
    make_questions(q, &e, a, b);
    alone(q, &e, BAL_KV_F32, want);
    together(q, &e,
             (bal_scheduler_opts){.kv_type = BAL_KV_F32, .step_tokens = 29, .max_running = 7}, want,
             "fixed scales");
    bal_engine_close(&e);
    blind(path);
    ASSERT_OK(bal_engine_open(&e, path, 2, NULL, &err));
    alone(q, &e, BAL_KV_F32, other);
    for (int i = 0; i < PAIRS; i++)
        assert_true((memcmp(other[i].logprob, want[i].logprob, sizeof want[i].logprob) == 0) ==
                    !q[i].picture);
    free_questions(q, PAIRS);
    bal_engine_close(&e);
    bal_picture_release(a);
    bal_picture_release(b);
}

/* Answers that outgrow the pool are put aside and taken up again, and nobody notices. */
static void put_aside_and_taken_up(void **state)
{
    (void)state;
    enum { N = 5 };
    static question q[PAIRS];
    static heard want[N], got[N];
    bal_engine e = open_model(2);
    bal_picture *a = open_picture(PICTURE), *b = open_picture(OTHER);
    make_questions(q, &e, a, b);
    for (int cached = 0; cached < 2; cached++) {
        bal_scheduler_opts opts = {.no_prefix_cache = !cached};
        for (int i = 0; i < N; i++) {
            q[i].request.max_tokens = 250 - i;
            bal_scheduler *s = open_scheduler(&e, opts);
            want[i] = got[i] = (heard){0};
            opts.kv_bytes = 9 * stats_of(s).page_bytes;
            submit(s, &q[i], &want[i]);
            drain(s);
            bal_scheduler_destroy(s);
        }
        bal_scheduler *s = open_scheduler(&e, opts);
        for (int i = 0; i < N; i++) submit(s, &q[i], &got[i]);
        drain(s);
        assert_true(stats_of(s).preempted > 2);
        assert_int_equal(stats_of(s).pages_used, 0);
        for (int i = 0; i < N; i++) same_answer(&got[i], &want[i], "put aside", i);
        bal_scheduler_destroy(s);
    }
    free_questions(q, PAIRS);
    bal_picture_release(a);
    bal_picture_release(b);
    bal_engine_close(&e);
}

/* What runs beside it may be cancelled at any time. */
static void cancelled_neighbours(void **state)
{
    (void)state;
    static question q[PAIRS];
    static heard want[PAIRS], got[PAIRS];
    bal_engine e = open_model(2);
    bal_picture *a = open_picture(PICTURE), *b = open_picture(OTHER);
    make_questions(q, &e, a, b);
    alone(q, &e, BAL_KV_F16, want);
    for (int after = 0; after < 6; after++) {
        bal_scheduler *s = open_scheduler(&e, (bal_scheduler_opts){.step_tokens = 64});
        uint64_t id[PAIRS];
        memset(got, 0, sizeof got);
        for (int i = 0; i < PAIRS; i++) {
            if (i % 4 == 1) got[i].cancel_on = s, got[i].cancel_after = 2; /* from the callback */
            id[i] = submit(s, &q[i], &got[i]);
        }
        for (int i = 0; i < after; i++) bal_scheduler_step(s);
        for (int i = 0; i < PAIRS; i += 4) bal_scheduler_cancel(s, id[i]);
        drain(s);
        for (int i = 0; i < PAIRS; i++) {
            if (i % 4 > 1)
                same_answer(&got[i], &want[i], "beside a cancelled one", i);
            else
                assert_true(got[i].n_done == 1 && got[i].finish == BAL_FINISH_CANCELLED);
            if (i % 4 == 1) assert_int_equal(got[i].n, 2);
        }
        const bal_scheduler_stats st = stats_of(s);
        assert_int_equal(st.pages_used, 0);
        assert_int_equal(st.cancelled, 8);
        bal_scheduler_destroy(s);
    }
    free_questions(q, PAIRS);
    bal_picture_release(a);
    bal_picture_release(b);
    bal_engine_close(&e);
}

/* The scheduler's tokens are those of a session with the same cache, logits included. */
static void a_session_says_the_same(void **state)
{
    (void)state;
    question q = {0};
    bal_error err;
    bal_engine e = open_model(2);
    bal_picture *a = open_picture(PICTURE);
    make_question(&q, &e, a, "What is it?");
    for (int type = BAL_KV_F32; type < BAL_KV_TYPES; type++) {
        bal_scheduler *s = open_scheduler(&e, (bal_scheduler_opts){.kv_type = (bal_kv_type)type});
        static heard h;
        bal_session session;
        bal_sequence seq;
        h = (heard){0};
        q.request.prompt_logprobs = true;
        submit(s, &q, &h);
        drain(s);
        const bal_image *image = bal_picture_image(a);
        const int size[1][2] = {{image->width, image->height}};
        const int vocab = e.model.config.text.vocab;
        ASSERT_OK(bal_sequence_build(&seq, &e, &q.tokens, size, 1, BAL_VIEW_AUTO, 0, 0, &err));
        ASSERT_OK(bal_session_create_kv(&session, &e, CTX, (bal_kv_type)type, &err));
        float *embeds = malloc((size_t)seq.n * (size_t)e.model.config.text.hidden * sizeof *embeds);
        ASSERT_OK(bal_sequence_embed(&seq, &e, &session.exec, image, embeds, (bal_taps){0}, &err));
        assert_int_equal(h.n_prompt_events, seq.n);
        assert_int_equal(h.usage.n_prompt, seq.n);
        assert_int_equal(h.usage.n_image, seq.plans[0].n_tokens);
        assert_int_equal(h.usage.n_pictures_encoded, 1);
        for (int i = 0; i < seq.n; i++) {
            const bool known = i > 0 && seq.info[i].modality != BAL_VISION;
            assert_int_equal(h.prompt_known[i], known);
            if (known) {
                const double want =
                    (double)session.logits[seq.info[i].id] - bal_log_sum_exp(session.logits, vocab);
                assert_true(h.prompt_logprob[i] == (float)want);
            }
            ASSERT_OK(bal_session_append(&session, seq.info + i,
                                         embeds + i * e.model.config.text.hidden, 1, 0, NULL, NULL,
                                         (bal_taps){0}, &err));
        }
        for (int i = 0; i < h.n; i++) {
            assert_int_equal(h.ids[i], bal_argmax(session.logits, vocab));
            assert_int_equal(h.top[i], h.ids[i]);
            const double want =
                (double)session.logits[h.ids[i]] - bal_log_sum_exp(session.logits, vocab);
            assert_true(h.logprob[i] == (float)want);
            ASSERT_OK(bal_session_push(&session, h.ids[i], &err));
        }
        free(embeds);
        bal_sequence_free(&seq);
        bal_session_destroy(&session);
        bal_scheduler_destroy(s);
    }
    free_questions(&q, 1);
    bal_picture_release(a);
    bal_engine_close(&e);
}

/* ---- Sharing --------------------------------------------------------------------------------- */

static void one_picture_many_questions(void **state)
{
    (void)state;
    enum { N = 32 };
    static question q[N];
    static heard h[N];
    bal_engine e = open_model(2);
    bal_picture *a = open_picture(PICTURE);
    bal_scheduler *s = open_scheduler(&e, (bal_scheduler_opts){0});
    memset(h, 0, sizeof h);
    int prompts = 0, most = 0;
    for (int i = 0; i < N; i++) {
        char text[64];
        snprintf(text, sizeof text, "Question %d about it?", i);
        make_question(&q[i], &e, a, text);
        submit(s, &q[i], &h[i]);
    }
    for (bool more = true; more;) {
        more = bal_scheduler_step(s);
        const bal_scheduler_stats st = stats_of(s);
        most = st.pages_used > most ? st.pages_used : most;
    }
    const bal_scheduler_stats st = stats_of(s);
    for (int i = 0; i < N; i++) prompts += h[i].usage.n_prompt;
    assert_int_equal(st.encodes, 1);
    assert_int_equal(st.picture_queries, N);
    assert_int_equal(st.picture_hits, N - 1);
    /* each but the first runs what is behind the last full page that it shares, at most */
    assert_true((int)st.prompt_tokens <= prompts - (N - 1) * BAL_PAGE);
    assert_int_equal(st.prompt_tokens + st.cached_tokens, prompts);
    const int pages = (h[0].usage.n_prompt + 12 + BAL_PAGE - 1) / BAL_PAGE;
    assert_true(most <=
                (h[0].usage.n_image / BAL_PAGE) + N * (pages - h[0].usage.n_image / BAL_PAGE));
    for (int i = 0; i < N; i++) assert_int_equal(h[i].finish, BAL_FINISH_LENGTH);
    bal_scheduler_destroy(s);
    free_questions(q, N);
    bal_picture_release(a);
    bal_engine_close(&e);
}

/* Same text, other picture: nothing of the first may be used. */
static void pictures_are_not_mixed_up(void **state)
{
    (void)state;
    static question q[2];
    static heard h[2], want;
    bal_engine e = open_model(2);
    bal_error err;
    bal_picture *a = open_picture(PICTURE);
    bal_image twin;
    ASSERT_OK(bal_image_open(&twin, source_path(PICTURE), NULL, &err));
    twin.rgb[3 * (twin.width * twin.height / 2)] ^= 1; /* one bit of one pixel */
    bal_picture *b;
    ASSERT_OK(bal_picture_create(&b, &twin, &err));
    assert_memory_not_equal(bal_picture_digest(a), bal_picture_digest(b), BAL_SHA256_BYTES);
    make_question(&q[0], &e, a, "What is it?");
    make_question(&q[1], &e, b, "What is it?");
    memset(h, 0, sizeof h);
    want = (heard){0};
    bal_scheduler *s = open_scheduler(&e, (bal_scheduler_opts){0});
    submit(s, &q[1], &want);
    drain(s);
    bal_scheduler_destroy(s);
    s = open_scheduler(&e, (bal_scheduler_opts){0});
    submit(s, &q[0], &h[0]);
    drain(s);
    submit(s, &q[1], &h[1]);
    drain(s);
    assert_int_equal(stats_of(s).encodes, 2);
    assert_true(h[1].usage.n_cached < BAL_PAGE); /* only what stands before the picture */
    same_answer(&h[1], &want, "behind a twin", 1);
    bal_scheduler_destroy(s);
    free_questions(q, 2);
    bal_picture_release(a);
    bal_picture_release(b);
    bal_engine_close(&e);
}

/* The next turn of a conversation finds the pages of the one before, its answer included. */
/* What was counted is forgotten, what is kept is not. */
static void counters_begin_again(void **state)
{
    (void)state;
    static question q;
    static heard h[2];
    bal_engine e = open_model(2);
    bal_picture *a = open_picture(PICTURE);
    make_question(&q, &e, a, "What is it?");
    memset(h, 0, sizeof h);
    bal_scheduler *s = open_scheduler(&e, (bal_scheduler_opts){0});
    submit(s, &q, &h[0]);
    drain(s);
    const bal_scheduler_stats before = stats_of(s);
    assert_true(before.encodes == 1 && before.generated_tokens == 12 && before.requests == 1);
    bal_scheduler_reset_counters(s);
    bal_scheduler_stats st = stats_of(s); /* at once, though the engine has not run */
    assert_true(st.requests == 0 && st.finished == 0 && st.steps == 0 && st.prompt_tokens == 0);
    assert_true(st.encodes == 0 && st.picture_queries == 0 && st.generated_tokens == 0);
    assert_true(st.vision_s == 0.0 && st.step_s == 0.0 && st.prefix_queries == 0);
    assert_int_equal(st.pictures_cached, before.pictures_cached);
    assert_int_equal(st.pages_cached, before.pages_cached);
    submit(s, &q, &h[1]);
    drain(s);
    st = stats_of(s);
    assert_true(st.requests == 1 && st.finished == 1 && st.generated_tokens == 12);
    assert_true(st.encodes == 0 && st.picture_hits == 1 && st.cached_tokens > 0);
    same_answer(&h[1], &h[0], "counted anew", 1);
    bal_scheduler_destroy(s);
    bal_chat_tokens_deinit(&q.tokens);
    bal_picture_release(a);
    bal_engine_close(&e);
}

static void a_conversation_goes_on(void **state)
{
    (void)state;
    static question q;
    static heard first, second;
    bal_engine e = open_model(2);
    bal_picture *a = open_picture(PICTURE);
    bal_scheduler *s = open_scheduler(&e, (bal_scheduler_opts){0});
    first = second = (heard){0};
    make_question(&q, &e, a, "What is it?");
    submit(s, &q, &first);
    drain(s);
    const size_t n = q.tokens.n + (size_t)first.n;
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    uint8_t *tags = malloc(n + 1);
    memcpy(ids, q.tokens.ids, q.tokens.n * sizeof *ids);
    memcpy(tags, q.tokens.tags, q.tokens.n);
    memcpy(ids + q.tokens.n, first.ids, (size_t)first.n * sizeof *ids);
    memset(tags + q.tokens.n, BAL_TAG_ANSWER, (size_t)first.n);
    ids[n] = 7;
    tags[n] = BAL_TAG_PROMPT;
    q.request.tokens = (bal_chat_tokens){ids, tags, n + 1};
    submit(s, &q, &second);
    drain(s);
    /* all but the last token of the answer, which was never run, and the new one */
    assert_int_equal(second.usage.n_cached, second.usage.n_prompt - 2);
    assert_int_equal(second.usage.n_pictures_encoded, 0);
    free(ids);
    free(tags);
    bal_scheduler_destroy(s);
    free_questions(&q, 1);
    bal_picture_release(a);
    bal_engine_close(&e);
}

/* ---- Rules and ends -------------------------------------------------------------------------- */

typedef struct mask_ctx {
    int calls;
    size_t words;
} mask_ctx;

static bal_status even_only(void *ctx, const int32_t *ids, int n, uint64_t *allowed, bal_error *err)
{
    mask_ctx *m = ctx;
    assert_int_equal(n, m->calls++);
    for (int i = 0; i < n; i++) assert_int_equal(ids[i] % 2, 0);
    if (n == 5) return bal_fail(err, BAL_E_UNSUP, "five is enough");
    for (size_t i = 0; i < m->words; i++) allowed[i] &= 0x5555555555555555u;
    return BAL_OK;
}

static bal_status nothing(void *ctx, const int32_t *ids, int n, uint64_t *allowed, bal_error *err)
{
    const mask_ctx *m = ctx;
    (void)ids;
    (void)n;
    (void)err;
    memset(allowed, 0, m->words * sizeof *allowed);
    return BAL_OK;
}

static void run_one(bal_scheduler *s, question *q, heard *h)
{
    *h = (heard){0};
    submit(s, q, h);
    drain(s);
    assert_int_equal(h->n_done, 1);
}

static void rules_and_ends(void **state)
{
    (void)state;
    static question q;
    static heard h, plain;
    bal_engine e = open_model(1);
    bal_scheduler *s = open_scheduler(&e, (bal_scheduler_opts){0});
    make_question(&q, &e, NULL, "hello");
    run_one(s, &q, &plain);
    assert_int_equal(plain.n, 12);
    assert_int_equal(plain.usage.n_generated, 12);

    const int32_t stop[] = {plain.ids[3]};
    q.request.stop_ids = stop;
    q.request.n_stop_ids = 1;
    run_one(s, &q, &h);
    assert_int_equal(h.finish, BAL_FINISH_END);
    assert_int_equal(h.stop_id, stop[0]);
    assert_true(h.n <= 3 && h.usage.n_generated == h.n + 1);
    assert_memory_equal(h.ids, plain.ids, (size_t)h.n * sizeof *h.ids);
    q.request.n_stop_ids = 0;

    const bal_logit_bias ban[] = {{plain.ids[0], -100.0f}, {17, 50.0f}};
    q.request.bias = ban;
    q.request.n_bias = 2;
    run_one(s, &q, &h);
    for (int i = 0; i < h.n; i++) assert_int_equal(h.ids[i], 17);
    assert_true(h.logprob[0] < plain.logprob[0]); /* told without the bias */
    q.request.frequency_penalty = 5.0f;           /* the bias is used up at some time */
    run_one(s, &q, &h);
    assert_true(h.ids[0] == 17 && h.ids[11] != 17);
    q.request.frequency_penalty = 0.0f;
    q.request.n_bias = 0;

    mask_ctx mask = {0, bal_rules_words(e.model.config.text.vocab)};
    q.request.mask = even_only;
    q.request.mask_ctx = &mask;
    run_one(s, &q, &h);
    assert_int_equal(h.n, 5);
    assert_int_equal(h.finish, BAL_FINISH_ERROR);
    assert_int_equal(h.error.status, BAL_E_UNSUP);
    assert_string_equal(h.error.text, "five is enough");
    q.request.mask = nothing;
    run_one(s, &q, &h);
    assert_true(h.finish == BAL_FINISH_ERROR && strstr(h.error.text, "no token may follow"));
    q.request.mask = NULL;

    q.request.max_tokens = 0;
    run_one(s, &q, &h);
    assert_int_equal(h.finish, BAL_FINISH_CONTEXT);
    assert_int_equal(h.usage.n_prompt + h.n, CTX + 1); /* the last token is not run */
    assert_int_equal(stats_of(s).failed, 2);
    bal_scheduler_destroy(s);
    free_questions(&q, 1);
    bal_engine_close(&e);
}

/* Penalties by their definitions, on logits that are easy to follow. */
static void penalties_are_as_defined(void **state)
{
    (void)state;
    bal_error err;
    uint64_t bits[1];
    const bal_token_info prompt[] = {{.id = 0}, {.id = 5, .modality = BAL_VISION}, {.id = 1}};
    const int32_t said[] = {2, 2, 3};
    float x[6] = {2, -2, 2, 2, 2, 2};
    const bal_rules r = {
        .repetition_penalty = 2, .frequency_penalty = 0.25f, .presence_penalty = 0.5f};
    ASSERT_OK(bal_rules_apply(&r, prompt, 3, said, 3, x, 6, bits, &err));
    const float want[6] = {1, -4, 1 - 0.5f - 0.5f, 1 - 0.25f - 0.5f, 2, 2};
    assert_memory_equal(x, want, sizeof want);
    bal_token_prob top[3];
    bal_top_tokens(x, 6, 3, top);
    assert_true(top[0].id == 4 && top[1].id == 5 && top[2].id == 0);
    double sum = 0;
    for (int i = 0; i < 6; i++) sum += exp((double)want[i]);
    assert_true(fabs((double)top[2].logprob - (1 - log(sum))) < 1e-6);
}

/* ---- Refusals -------------------------------------------------------------------------------- */

static void what_cannot_run_is_refused(void **state)
{
    (void)state;
    static question q, seen;
    static heard h[8];
    bal_error err;
    uint64_t id;
    bal_usage usage;
    bal_engine e = open_model(1);
    bal_picture *a = open_picture(PICTURE);
    bal_scheduler *s;
    ASSERT_FAILS(BAL_E_ARG, "this model takes",
                 bal_scheduler_create(&s, &e, &(bal_scheduler_opts){.ctx = 1 << 20}, &err));
    ASSERT_FAILS(BAL_E_ARG, "rows a step",
                 bal_scheduler_create(&s, &e, &(bal_scheduler_opts){.step_tokens = 3}, &err));
    ASSERT_FAILS(
        BAL_E_ARG, "needs 5",
        bal_scheduler_create(&s, &e, &(bal_scheduler_opts){.ctx = 200, .kv_bytes = 1}, &err));
    assert_null(s);
    s = open_scheduler(&e, (bal_scheduler_opts){.ctx = 128, .max_running = 2, .max_waiting = 3});
    make_question(&q, &e, NULL, "hello");
    make_question(&seen, &e, a, "hello");
    q.request.event_ctx = seen.request.event_ctx = h;
    memset(h, 0, sizeof h);
    const bal_request good = q.request;
#define REFUSED(part, ...)                                                                         \
    do {                                                                                           \
        bal_request r = good;                                                                      \
        __VA_ARGS__;                                                                               \
        ASSERT_FAILS(BAL_E_ARG, part, bal_scheduler_submit(s, &r, &id, &err));                     \
        assert_int_equal(id, 0);                                                                   \
    } while (0)
    const int32_t huge[1] = {1 << 20};
    const uint8_t tag[1] = {BAL_TAG_PROMPT};
    const bal_logit_bias far[] = {{-1, 0}};
    REFUSED("temperature", r.sampling.temperature = -1);
    REFUSED("top_p", r.sampling.top_p = 0);
    REFUSED("repetition_penalty", r.repetition_penalty = -1);
    REFUSED("penalty", r.presence_penalty = NAN);
    REFUSED("token -1", r.bias = far, r.n_bias = 1);
    REFUSED("stop tokens", r.n_stop_ids = BAL_MAX_STOP_IDS + 1);
    REFUSED("top_logprobs: 21", r.n_top_logprobs = 21);
    REFUSED("max_tokens", r.max_tokens = -1);
    REFUSED("is empty", r.tokens.n = 0);
    REFUSED("token 1048576 at 0", r.tokens = ((bal_chat_tokens){(int32_t *)(uintptr_t)huge,
                                                                (uint8_t *)(uintptr_t)tag, 1}));
    REFUSED("0 pictures for 1", r = seen.request, r.n_pictures = 0);
    REFUSED("on_event", r.on_event = NULL);
    char text[400];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    bal_chat_tokens_deinit(&seen.tokens);
    make_question(&seen, &e, NULL, text);
    ASSERT_OK(bal_scheduler_measure(s, &seen.request, &usage, &err));
    assert_true(usage.n_prompt > 128);
    REFUSED("context here is 128", r = seen.request);

    for (int i = 0; i < 5; i++) submit(s, &q, &h[i]);
    ASSERT_FAILS(BAL_E_CAPACITY, "queue is full", bal_scheduler_submit(s, &q.request, &id, &err));
    assert_int_equal(stats_of(s).waiting, 5);
    drain(s);
    bal_scheduler_stop(s, false);
    ASSERT_FAILS(BAL_E_CAPACITY, "stopping", bal_scheduler_submit(s, &q.request, &id, &err));
    const bal_scheduler_stats st = stats_of(s);
    assert_true(st.refused == 2 && st.requests == 5 && st.finished == 5);
    bal_scheduler_destroy(s);
    free_questions(&q, 1);
    free_questions(&seen, 1);
    bal_picture_release(a);
    bal_engine_close(&e);
}

/* ---- Fairness -------------------------------------------------------------------------------- */

/* Short prompts behind a huge one get their first tokens long before it, and it is not starved. */
static void short_ones_pass_a_huge_one(void **state)
{
    (void)state;
    enum { N = 6 };
    static question q[N + 1];
    static heard h[N + 1];
    int step = 0;
    bal_engine e = open_model(1);
    bal_scheduler *s =
        open_scheduler(&e, (bal_scheduler_opts){.step_tokens = 64, .max_running = 16});
    char text[400];
    memset(h, 0, sizeof h);
    for (size_t i = 0; i < 350; i++) text[i] = (char)('a' + i * 7 % 23);
    text[350] = 0;
    make_question(&q[0], &e, NULL, text);
    for (int i = 0; i <= N; i++) {
        if (i) make_question(&q[i], &e, NULL, i % 2 ? "hi" : "you");
        q[i].request.max_tokens = i ? 40 : 1;
        h[i].step = &step;
        submit(s, &q[i], &h[i]);
    }
    while (bal_scheduler_step(s)) step++;
    assert_true(h[0].usage.n_prompt > 300);
    for (int i = 1; i <= N; i++) assert_true(h[i].step_of_first < h[0].step_of_first / 2);
    assert_true(h[0].step_of_first <
                2 * h[0].usage.n_prompt / (64 - N)); /* gets what is left over */
    bal_scheduler_destroy(s);
    free_questions(q, N + 1);
    bal_engine_close(&e);
}

/* ---- Random histories ------------------------------------------------------------------------ */

/* Submits and cancels at random, in a pool that is too small: every request ends once, those that
 * are not cancelled as they would alone, and every page comes back. */
static void nothing_is_lost(void **state)
{
    (void)state;
    enum { N = 160 };
    static question q[PAIRS];
    static heard want[PAIRS], h[N];
    uint64_t id[N];
    bal_engine e = open_model(2);
    bal_picture *a = open_picture(PICTURE), *b = open_picture(OTHER);
    bal_rng r;
    make_questions(q, &e, a, b);
    alone(q, &e, BAL_KV_I8, want);
    bal_rng_seed(&r, 4242);
    bal_scheduler *s =
        open_scheduler(&e, (bal_scheduler_opts){.kv_type = BAL_KV_I8, .max_running = 8});
    const size_t page = stats_of(s).page_bytes;
    bal_scheduler_destroy(s);
    s = open_scheduler(&e, (bal_scheduler_opts){.kv_type = BAL_KV_I8,
                                                .max_running = 8,
                                                .max_waiting = N,
                                                .step_tokens = 40,
                                                .kv_bytes = 11 * page,
                                                .picture_bytes = 40000});
    memset(h, 0, sizeof h);
    for (int i = 0; i < N; i++) {
        const int which = i % PAIRS;
        q[which].request.no_cache = bal_rng_below(&r, 8) == 0;
        id[i] = submit(s, &q[which], &h[i]);
        for (uint64_t steps = bal_rng_below(&r, 6); steps > 0; steps--) bal_scheduler_step(s);
        if (bal_rng_below(&r, 3) == 0)
            bal_scheduler_cancel(s, id[bal_rng_below(&r, (uint64_t)i + 1)]);
        const bal_scheduler_stats st = stats_of(s);
        assert_true(st.pages_used <= st.pages_total && st.running <= 8);
    }
    drain(s);
    int n_cancelled = 0;
    for (int i = 0; i < N; i++) {
        assert_int_equal(h[i].n_done, 1);
        if (h[i].finish == BAL_FINISH_CANCELLED)
            n_cancelled++;
        else
            same_answer(&h[i], &want[i % PAIRS], "random history", i);
    }
    const bal_scheduler_stats st = stats_of(s);
    assert_true(n_cancelled > 10 && n_cancelled < N / 2);
    assert_int_equal(st.pages_used, 0);
    assert_int_equal(st.finished, N);
    assert_true(st.picture_bytes_used <= st.picture_bytes_total);
    bal_scheduler_destroy(s);
    free_questions(q, PAIRS);
    bal_picture_release(a);
    bal_picture_release(b);
    bal_engine_close(&e);
}

/* ---- Threads --------------------------------------------------------------------------------- */

typedef struct client {
    bal_scheduler *s;
    question *q;
    heard *h;
    int n;
    uint64_t seed;
} client;

static void *loop(void *ctx)
{
    bal_scheduler_run(ctx);
    return NULL;
}

static void *ask(void *ctx)
{
    client *c = ctx;
    bal_rng r;
    bal_rng_seed(&r, c->seed);
    for (int i = 0; i < c->n; i++) {
        bal_error err;
        uint64_t id;
        bal_request request = c->q[i].request;
        request.event_ctx = &c->h[i];
        if (bal_scheduler_submit(c->s, &request, &id, &err) < 0) abort();
        if (bal_rng_below(&r, 4) == 0) bal_scheduler_cancel(c->s, id);
        bal_scheduler_stats st;
        bal_scheduler_get_stats(c->s, &st);
    }
    return NULL;
}

static void other_threads_ask(void **state)
{
    (void)state;
    enum { CLIENTS = 3 };
    static question q[PAIRS];
    static heard want[PAIRS], h[CLIENTS][PAIRS];
    bal_engine e = open_model(2);
    bal_picture *a = open_picture(PICTURE), *b = open_picture(OTHER);
    pthread_t engine, threads[CLIENTS];
    client clients[CLIENTS];
    make_questions(q, &e, a, b);
    alone(q, &e, BAL_KV_DEFAULT, want);
    bal_scheduler *s = open_scheduler(&e, (bal_scheduler_opts){0});
    memset(h, 0, sizeof h);
    assert_int_equal(pthread_create(&engine, NULL, loop, s), 0);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = (client){s, q, h[i], PAIRS, (uint64_t)i};
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &clients[i]), 0);
    }
    for (int i = 0; i < CLIENTS; i++) pthread_join(threads[i], NULL);
    bal_scheduler_stop(s, false); /* lets them finish */
    pthread_join(engine, NULL);
    for (int i = 0; i < CLIENTS; i++)
        for (int j = 0; j < PAIRS; j++)
            if (h[i][j].finish != BAL_FINISH_CANCELLED)
                same_answer(&h[i][j], &want[j], "from another thread", j);
            else
                assert_int_equal(h[i][j].n_done, 1);
    assert_int_equal(stats_of(s).pages_used, 0);
    bal_scheduler_destroy(s);
    free_questions(q, PAIRS);
    bal_picture_release(a);
    bal_picture_release(b);
    bal_engine_close(&e);
}

/* Requests that are there when everything ends get their DONE. */
static void stop_now_and_destroy(void **state)
{
    (void)state;
    static question q;
    static heard h[3];
    bal_engine e = open_model(1);
    bal_scheduler *s = open_scheduler(&e, (bal_scheduler_opts){.max_running = 1});
    memset(h, 0, sizeof h);
    make_question(&q, &e, NULL, "hello");
    submit(s, &q, &h[0]);
    submit(s, &q, &h[1]);
    for (int i = 0; i < 3; i++) bal_scheduler_step(s);
    assert_true(h[0].n > 0 && h[1].n == 0);
    bal_scheduler_stop(s, true);
    bal_scheduler_run(s);
    assert_true(h[0].finish == BAL_FINISH_CANCELLED && h[1].finish == BAL_FINISH_CANCELLED);
    assert_true(h[0].n_done == 1 && h[1].n_done == 1);
    bal_scheduler_destroy(s);
    s = open_scheduler(&e, (bal_scheduler_opts){0});
    submit(s, &q, &h[2]);
    bal_scheduler_destroy(s);
    assert_true(h[2].n_done == 1 && h[2].finish == BAL_FINISH_CANCELLED);
    free_questions(&q, 1);
    bal_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_tokens_however_run),
        cmocka_unit_test(same_tokens_with_fixed_scales),
        cmocka_unit_test(put_aside_and_taken_up),
        cmocka_unit_test(cancelled_neighbours),
        cmocka_unit_test(a_session_says_the_same),
        cmocka_unit_test(one_picture_many_questions),
        cmocka_unit_test(pictures_are_not_mixed_up),
        cmocka_unit_test(counters_begin_again),
        cmocka_unit_test(a_conversation_goes_on),
        cmocka_unit_test(rules_and_ends),
        cmocka_unit_test(penalties_are_as_defined),
        cmocka_unit_test(what_cannot_run_is_refused),
        cmocka_unit_test(short_ones_pass_a_huge_one),
        cmocka_unit_test(nothing_is_lost),
        cmocka_unit_test(other_threads_ask),
        cmocka_unit_test(stop_now_and_destroy),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
