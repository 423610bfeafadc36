/* SPDX-License-Identifier: MIT
 * What the tile formats of the cache cost on the embedded model: prompts with pictures, fed the
 * answers that transformers gave in f32 (demo_greedy.json). KL between caches at the positions of
 * the answers, and whether the likeliest tokens stay those of transformers. Prints the figures.
 * Takes each seventh of the 50 prompts; `test_kv_types all` takes them all. */
#include "check.h"

#include "format/json.h"
#include "run/sampler.h"
#include "run/scheduler.h"
#include "run/sequence.h"

#include <math.h>

enum { CTX = 1024, MAX_OUT = 48, MAX_PROMPTS = 64, MAX_PICTURES = 8 };
/* As in test_generate: nearer than this, transformers' two best tokens are a tie. */
static const double NEAR_TIE = 1e-3;

typedef struct prompt {
    bal_chat_tokens tokens;
    bal_picture *pictures[MAX_PICTURES];
    int n_pictures;
    int want[MAX_OUT], n_want;
    double gaps[MAX_OUT];
} prompt;

static void open_prompt(prompt *p, const bal_engine *e, const bal_json *row)
{
    bal_error err = {0};
    const char *question, *name;
    size_t n;
    ASSERT_OK(bal_json_str(row, "question", &question, &err));
    const bal_json images = bal_json_get(row, "images");
    p->n_pictures = (int)bal_json_len(&images);
    assert_true(p->n_pictures <= MAX_PICTURES);
    for (int i = 0; i < p->n_pictures; i++) {
        const bal_json item = bal_json_at(&images, (size_t)i);
        char path[512];
        bal_image image;
        ASSERT_OK(bal_json_as_str(&item, &name, &err));
        snprintf(path, sizeof path, "demo/data/%s", name);
        ASSERT_OK(bal_image_open(&image, source_path(path), NULL, &err));
        ASSERT_OK(bal_picture_create(&p->pictures[i], &image, &err));
    }
    const bal_chat_message m = {BAL_CHAT_USER, question, strlen(question), (size_t)p->n_pictures};
    ASSERT_OK(bal_chat_encode(&p->tokens, e->tokenizer, e->chat, &m, 1, true, &err));
    ASSERT_OK(bal_json_ints(row, "output_ids", 0, 1 << 30, p->want, MAX_OUT, &n, &err));
    p->n_want = (int)n;
    ASSERT_OK(bal_json_f64s(row, "gaps", 0, 1e9, p->gaps, MAX_OUT, &n, &err));
}

static void close_prompt(prompt *p)
{
    for (int i = 0; i < p->n_pictures; i++) bal_picture_release(p->pictures[i]);
    bal_chat_tokens_deinit(&p->tokens);
}

/* ---- Teacher-forced logits ------------------------------------------------------------------- */

typedef struct seen {
    float *logits; /* [MAX_OUT][vocab] */
    int vocab, n;
} seen;

static void see(void *ctx, int row, const float *logits)
{
    seen *s = ctx;
    (void)row;
    memcpy(s->logits + (size_t)s->n++ * (size_t)s->vocab, logits,
           (size_t)s->vocab * sizeof *logits);
}

static void force_one(bal_session *s, const bal_sequence *seq, const float *embeds, const prompt *p,
                      seen *out)
{
    bal_error err = {0};
    bal_session_truncate(s, 0);
    out->n = 0;
    ASSERT_OK(bal_session_append(s, seq->info, embeds, seq->n, seq->n - 1, see, out, (bal_taps){0},
                                 &err));
    for (int i = 0; i + 1 < p->n_want; i++) {
        ASSERT_OK(bal_session_push(s, p->want[i], &err));
        see(out, 0, s->logits);
    }
}

/* One embedding of the prompt, then every format reads it and its answer. */
static void force(const bal_engine *e, bal_session *sessions, const prompt *p, seen *out)
{
    bal_error err = {0};
    int sizes[MAX_PICTURES][2];
    bal_image images[MAX_PICTURES];
    bal_sequence seq;
    for (int i = 0; i < p->n_pictures; i++) {
        images[i] = *bal_picture_image(p->pictures[i]);
        sizes[i][0] = images[i].width;
        sizes[i][1] = images[i].height;
    }
    ASSERT_OK(bal_sequence_build(&seq, e, &p->tokens, (const int(*)[2])sizes, p->n_pictures,
                                 BAL_VIEW_AUTO, 0, 0, &err));
    float *embeds = malloc((size_t)seq.n * (size_t)e->model.config.text.hidden * sizeof *embeds);
    assert_non_null(embeds);
    ASSERT_OK(bal_sequence_embed(&seq, e, &sessions[BAL_KV_F32].exec, images, embeds, (bal_taps){0},
                                 &err));
    for (int t = BAL_KV_F32; t < BAL_KV_TYPES; t++)
        force_one(&sessions[t], &seq, embeds, p, &out[t]);
    free(embeds);
    bal_sequence_free(&seq);
}

static double divergence(const float *p, const float *q, int n)
{
    const double lp = bal_log_sum_exp(p, n), lq = bal_log_sum_exp(q, n);
    double sum = 0;
    for (int i = 0; i < n; i++) {
        const double a = (double)p[i] - lp;
        sum += exp(a) * (a - ((double)q[i] - lq));
    }
    return sum > 0 ? sum : 0;
}

typedef struct figures {
    double kl[BAL_KV_TYPES], worst[BAL_KV_TYPES]; /* to the format before it in the list */
    int n, left[BAL_KV_TYPES];                    /* positions; tokens that left transformers' */
} figures;

static void add_prompt(figures *f, const prompt *p, seen out[BAL_KV_TYPES])
{
    for (int i = 0; i < p->n_want; i++, f->n++)
        for (int t = BAL_KV_F32; t < BAL_KV_TYPES; t++) {
            const size_t at = (size_t)i * (size_t)out[t].vocab;
            f->left[t] += bal_argmax(out[t].logits + at, out[t].vocab) != p->want[i] &&
                          p->gaps[i] >= NEAR_TIE;
            if (t == BAL_KV_F32) continue;
            const double kl = divergence(out[t - 1].logits + at, out[t].logits + at, out[t].vocab);
            f->kl[t] += kl;
            f->worst[t] = kl > f->worst[t] ? kl : f->worst[t];
        }
}

/* ---- The default in a batch ------------------------------------------------------------------ */

typedef struct said {
    int ids[MAX_OUT], n, done;
} said;

static void hear(void *ctx, const bal_request_event *e)
{
    said *s = ctx;
    if (e->kind == BAL_EVENT_TOKEN && s->n < MAX_OUT) s->ids[s->n++] = e->id;
    if (e->kind == BAL_EVENT_DONE && e->finish == BAL_FINISH_END && s->n < MAX_OUT)
        s->ids[s->n++] = e->stop_id;
    s->done += e->kind == BAL_EVENT_DONE;
}

/* All prompts at once; returns how many answers left transformers' where that is no tie. */
static int ask_all(const bal_engine *e, prompt *p, int n)
{
    static said said_of[MAX_PROMPTS];
    bal_error err = {0};
    bal_scheduler *s;
    uint64_t id;
    int left = 0;
    memset(said_of, 0, sizeof said_of);
    ASSERT_OK(bal_scheduler_create(&s, e, &(bal_scheduler_opts){.ctx = CTX}, &err));
    for (int i = 0; i < n; i++) {
        const bal_request r = {.tokens = p[i].tokens,
                               .pictures = p[i].pictures,
                               .n_pictures = p[i].n_pictures,
                               .sampling = {.top_p = 1.0f},
                               .max_tokens = MAX_OUT,
                               .on_event = hear,
                               .event_ctx = &said_of[i]};
        ASSERT_OK(bal_scheduler_submit(s, &r, &id, &err));
    }
    while (bal_scheduler_step(s)) {
    }
    for (int i = 0; i < n; i++) {
        int at = 0;
        assert_int_equal(said_of[i].done, 1);
        while (at < p[i].n_want && at < said_of[i].n && said_of[i].ids[at] == p[i].want[at]) at++;
        left += at < p[i].n_want && p[i].gaps[at] >= NEAR_TIE;
    }
    bal_scheduler_destroy(s);
    return left;
}

static void what_formats_cost(void **state)
{
    const int *stride = *state;
    static prompt prompts[MAX_PROMPTS];
    bal_error err = {0};
    bal_json_doc doc;
    bal_engine e;
    bal_session session[BAL_KV_TYPES];
    seen out[BAL_KV_TYPES];
    figures f = {0};
    const char *golden = source_path("tests/golden/demo_greedy.json");
    if (!bal_path_exists(golden) || !bal_path_exists(source_path("demo/model/config.json"))) {
        printf("skipped: tests/golden/demo_greedy.json or demo/model is absent\n");
        skip();
    }
    ASSERT_OK(bal_json_load(&doc, golden, 1 << 24, &err));
    ASSERT_OK(bal_engine_open(&e, source_path("demo/model"), 2, NULL, &err));
    const int vocab = e.model.config.text.vocab;
    for (int t = BAL_KV_F32; t < BAL_KV_TYPES; t++) {
        ASSERT_OK(bal_session_create_kv(&session[t], &e, CTX, (bal_kv_type)t, &err));
        out[t] = (seen){malloc((size_t)(MAX_OUT * vocab) * sizeof(float)), vocab, 0};
        assert_non_null(out[t].logits);
    }
    const bal_json rows = bal_json_root(&doc);
    int n = 0;
    for (size_t i = 0; i < bal_json_len(&rows); i += (size_t)*stride, n++) {
        const bal_json row = bal_json_at(&rows, i);
        assert_true(n < MAX_PROMPTS);
        open_prompt(&prompts[n], &e, &row);
        force(&e, session, &prompts[n], out);
        add_prompt(&f, &prompts[n], out);
    }
    assert_true(n > 5);
    const int left = ask_all(&e, prompts, n);
    for (int t = BAL_KV_F16; t < BAL_KV_TYPES; t++)
        printf("%d positions of %d answers: KL(%s || %s) mean %.3g, largest %.3g nats\n", f.n, n,
               bal_kv_type_name((bal_kv_type)(t - 1)), bal_kv_type_name((bal_kv_type)t),
               f.kl[t] / f.n, f.worst[t]);
    for (int t = BAL_KV_F32; t < BAL_KV_TYPES; t++)
        printf("%s: %d of %d tokens are not transformers', near ties apart\n",
               bal_kv_type_name((bal_kv_type)t), f.left[t], f.n);
    printf("all prompts in one batch, %s: %d answers are not transformers'\n",
           bal_kv_type_name(BAL_KV_DEFAULT), left);
    assert_true(f.left[BAL_KV_F32] == 0 && f.left[BAL_KV_F16] == 0 && left == 0);
    assert_true(f.kl[BAL_KV_F16] / f.n < 1e-6 && f.kl[BAL_KV_I8] / f.n < 1e-3);
    assert_true(f.kl[BAL_KV_I8] > 10 * f.kl[BAL_KV_F16]); /* the formats do differ */
    for (int t = BAL_KV_F32; t < BAL_KV_TYPES; t++) {
        bal_session_destroy(&session[t]);
        free(out[t].logits);
    }
    for (int i = 0; i < n; i++) close_prompt(&prompts[i]);
    bal_engine_close(&e);
    bal_json_close(&doc);
}

int main(int argc, char **argv)
{
    int stride = argc > 1 && strcmp(argv[1], "all") == 0 ? 1 : 7;
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(what_formats_cost, &stride)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
