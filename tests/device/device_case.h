/* SPDX-License-Identifier: MIT
 * A model on the CPU beside the same model on a device: logits of one sequence, prefilled in
 * uneven pieces and then token by token, and the largest difference as a part of the logits'
 * deviation. And the answers of several requests that run together. */
#ifndef BAL_TESTS_DEVICE_CASE_H
#define BAL_TESTS_DEVICE_CASE_H

#include "check.h"

#include "ballast_quant.h"

#include "run/sampler.h"
#include "run/scheduler.h"
#include "run/sequence.h"
#include "run/session.h"

#include <math.h>

enum { DEVICE_CASE_MAX = 256 };

typedef struct device_rows {
    float *data; /* [n][vocab] */
    int vocab, n;
} device_rows;

static inline void device_see(void *ctx, int row, const float *logits)
{
    device_rows *r = ctx;
    (void)row;
    memcpy(r->data + (size_t)r->n++ * (size_t)r->vocab, logits, (size_t)r->vocab * sizeof *logits);
}

/* Three coordinates that part ways, as a picture's do; every other pair of rows is a picture's. */
static inline bal_token_info device_token(const bal_text_config *c, int i)
{
    const bool three = c->mrope[0] > 0;
    return (bal_token_info){.id = (i * 131 + 7) % (c->vocab - 10),
                            .pos = {i, three ? i + i % 3 : i, three ? i + i % 5 : i},
                            .image = -1,
                            .modality = i % 4 > 1 ? BAL_VISION : BAL_PROMPT};
}

/* The model as an artifact, solved with the calibration set where the recipe needs it. */
static inline void device_quantize(const char *model, const char *out, const char *recipe,
                                   const char *const set[], size_t n_set)
{
    bal_error err = {0};
    const char *all[16] = {"absent=allow"};
    assert_true(n_set < 15);
    memcpy(all + 1, set, n_set * sizeof *set);
    const bal_quant_opts opts = {.size = sizeof opts,
                                 .recipe = recipe,
                                 .set = all,
                                 .n_set = n_set + 1,
                                 .calib = source_path("tests/golden/calib/calib.jsonl"),
                                 .force = true};
    ASSERT_OK(bal_quantize(source_path(model), out, &opts, &err));
}

/* n positions: pieces of 3, 70 and what is left but `single`, then those one by one. */
static inline device_rows device_run(const bal_engine *e, bal_kv_type kv, int n, int single)
{
    bal_error err = {0};
    const bal_text_config *c = &e->model.config.text;
    device_rows out = {malloc((size_t)(n * c->vocab) * sizeof(float)), c->vocab, 0};
    float *embeds = malloc((size_t)(n * c->hidden) * sizeof *embeds);
    bal_token_info info[DEVICE_CASE_MAX];
    bal_session s;
    for (int i = 0; i < n; i++) {
        info[i] = device_token(c, i);
        bal_linear_row(&e->model.embed, info[i].id, embeds + i * c->hidden);
    }
    ASSERT_OK(bal_session_create_kv(&s, e, n, kv, &err));
    for (int at = 0, piece = 3; at < n; at += piece, piece = at == 3 ? 70 : n) {
        const int most = n - single - at;
        piece = most < 1 ? 1 : piece < most ? piece : most;
        ASSERT_OK(bal_session_append(&s, info + at, embeds + at * c->hidden, piece, 0, device_see,
                                     &out, (bal_taps){0}, &err));
    }
    bal_session_destroy(&s);
    free(embeds);
    assert_int_equal(out.n, n);
    return out;
}

/* Largest difference over the deviation of all. */
static inline double device_distance(const device_rows *a, const device_rows *b)
{
    double sum = 0, square = 0, worst = 0;
    const size_t n = (size_t)a->n * (size_t)a->vocab;
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < n; i++) {
        sum += (double)a->data[i];
        square += (double)a->data[i] * (double)a->data[i];
        worst = fmax(worst, fabs((double)a->data[i] - (double)b->data[i]));
        if (!isfinite(b->data[i])) return INFINITY;
    }
    const double mean = sum / (double)n;
    return worst / sqrt(square / (double)n - mean * mean);
}

/* Positions whose likeliest token is the same. */
static inline int device_agree(const device_rows *a, const device_rows *b)
{
    int same = 0;
    for (int i = 0; i < a->n; i++)
        same += bal_argmax(a->data + (size_t)i * (size_t)a->vocab, a->vocab) ==
                bal_argmax(b->data + (size_t)i * (size_t)b->vocab, b->vocab);
    return same;
}

/* n greedy tokens behind three others: chosen on the device, if there is one. */
static inline void device_greedy(const bal_engine *e, int32_t *ids, int n)
{
    bal_error err = {0};
    bal_session s;
    ASSERT_OK(bal_session_create(&s, e, n + 4, &err));
    for (int i = 0; i < 3; i++) ASSERT_OK(bal_session_push(&s, 40 + i, &err));
    ids[0] = bal_argmax(s.logits, e->model.config.text.vocab);
    for (int i = 1; i < n; i++) ASSERT_OK(bal_session_next(&s, ids[i - 1], NULL, &ids[i], &err));
    assert_int_equal(s.n, 3 + n - 1);
    assert_int_equal(s.info[s.n - 1].modality, BAL_ANSWER);
    bal_session_destroy(&s);
}

/* n sampled tokens behind three others: drawn where the model runs, or by the host from the logits
 * that come back. */
static inline void device_sampled(const bal_engine *e, bool by_host, int32_t *ids, int n)
{
    bal_error err = {0};
    bal_session s;
    bal_sampler how;
    const bal_sampling opts = {.temperature = 1.3f, .top_k = 60, .top_p = 0.97f, .seed = 5};
    const int vocab = e->model.config.text.vocab;
    ASSERT_OK(bal_session_create(&s, e, n + 4, &err));
    ASSERT_OK(bal_sampler_create(&how, &opts, vocab, &err));
    for (int i = 0; i < 3; i++) ASSERT_OK(bal_session_push(&s, 40 + i, &err));
    ids[0] = bal_sampler_next(&how, s.logits);
    for (int i = 1; i < n; i++) {
        if (!by_host) {
            ASSERT_OK(bal_session_next(&s, ids[i - 1], &how, &ids[i], &err));
            continue;
        }
        ASSERT_OK(bal_session_push(&s, ids[i - 1], &err));
        ids[i] = bal_sampler_next(&how, s.logits);
    }
    bal_sampler_destroy(&how);
    bal_session_destroy(&s);
}

/* Both ways, on the device of an engine. */
static inline void device_draws_as_the_host(const bal_engine *e)
{
    enum { N = 24 };
    int32_t drawn[N], host[N];
    device_sampled(e, false, drawn, N);
    device_sampled(e, true, host, N);
    assert_memory_equal(drawn, host, sizeof drawn);
    int others = 0;
    for (int i = 1; i < N; i++) others += drawn[i] != drawn[0];
    assert_true(others > N / 2); /* no greedy loop */
}

/* What the tower makes of a made-up picture of w x h pixels: features [tokens][hidden] as `data`,
 * `vocab` wide. The layers that taps heard of go into *layers. */
static inline void device_count_layers(void *ctx, bal_tap tap, int layer, const float *data,
                                       int rows, int cols)
{
    int *layers = ctx;
    (void)data, (void)rows, (void)cols;
    if (tap == BAL_TAP_VISION_LAYER && layer + 1 > *layers) *layers = layer + 1;
}

static inline device_rows device_look(const bal_engine *e, int w, int h, int *layers)
{
    bal_error err = {0};
    bal_exec exec;
    bal_view_plan plan;
    bal_image image = {.width = w, .height = h, .rgb = malloc((size_t)(3 * w * h))};
    uint32_t x = 12345;
    for (int i = 0; i < 3 * w * h; i++) {
        x = x * 1664525u + 1013904223u;
        image.rgb[i] = (uint8_t)((i / 3 % w * 2 + i / (3 * w) + (int)(x >> 28)) & 255);
    }
    ASSERT_OK(bal_exec_create(&exec, e->pool, &e->kernels, bal_model_max_k(&e->model), &err));
    ASSERT_OK(bal_sequence_plan(e, w, h, BAL_VIEW_ONE, &plan, &err));
    device_rows out = {.vocab = e->model.config.text.hidden, .n = plan.n_tokens};
    out.data = malloc((size_t)(out.n * out.vocab) * sizeof *out.data);
    *layers = 0;
    ASSERT_OK(bal_sequence_look(e, &exec, &plan, &image, out.data,
                                (bal_taps){device_count_layers, layers}, &err));
    bal_exec_destroy(&exec);
    free(image.rgb);
    return out;
}

/* The device that a real backend is checked on (bench/gpu.sh --device). */
static inline const char *device_under_test(void)
{
    const char *name = getenv("BALLAST_TEST_DEVICE");
    return name ? name : "cuda:0";
}

/* Distance of the features on CPU and device, which the engine has then. */
static inline double device_looks_with(bal_engine *e, const char *path, int w, int h)
{
    bal_error err = {0};
    int layers[2];
    device_rows cpu = device_look(e, w, h, &layers[0]);
    ASSERT_OK(bal_engine_use_device(e, device_under_test(), &err));
    assert_non_null(e->on_device->vision);
    device_rows device = device_look(e, w, h, &layers[1]);
    const double d = device_distance(&cpu, &device);
    printf("%s, %d x %d, %d features: %.2g of the deviation\n", path, w, h, cpu.n, d);
    assert_int_equal(layers[0], layers[1]);
    assert_int_equal(layers[0], e->model.config.vision.layers);
    free(cpu.data);
    free(device.data);
    return d;
}

/* The same, in an engine of its own. */
static inline double device_looks(const char *path, int w, int h)
{
    bal_error err = {0};
    bal_engine e;
    ASSERT_OK(bal_engine_open(&e, path, 2, NULL, &err));
    const double d = device_looks_with(&e, path, w, h);
    bal_engine_close(&e);
    return d;
}

/* Requests that run together; their answers. */
enum { DEVICE_REQUESTS = 5, DEVICE_ANSWER = 9 };

typedef struct device_told {
    int32_t id[DEVICE_REQUESTS][DEVICE_ANSWER];
    int n[DEVICE_REQUESTS], done, failed;
    char why[1000];
} device_told;

typedef struct device_listener {
    device_told *t;
    int index;
} device_listener;

static inline void device_event(void *ctx, const bal_request_event *ev)
{
    const device_listener *l = ctx;
    if (ev->kind == BAL_EVENT_TOKEN) l->t->id[l->index][l->t->n[l->index]++] = ev->id;
    if (ev->kind != BAL_EVENT_DONE) return;
    l->t->done++;
    if (ev->finish != BAL_FINISH_ERROR) return;
    l->t->failed++;
    snprintf(l->t->why, sizeof l->t->why, "%s", ev->error->text);
}

/* Prompts that begin alike, of different lengths, so that pages are shared and copied. sampled:
 * every second answer is. */
static inline void device_ask(bal_engine *e, device_told *t, bool sampled)
{
    bal_error err = {0};
    bal_scheduler *s;
    const bal_scheduler_opts opts = {.ctx = 256, .max_running = 3, .step_tokens = 40};
    device_listener listeners[DEVICE_REQUESTS];
    *t = (device_told){0};
    ASSERT_OK(bal_scheduler_create(&s, e, &opts, &err));
    for (int i = 0; i < DEVICE_REQUESTS; i++) {
        int32_t ids[128];
        uint8_t tags[128] = {0};
        uint64_t id;
        const size_t n = 70 + 11 * (size_t)i;
        for (size_t k = 0; k < n; k++) ids[k] = (int32_t)(k * 29 % 280) + (k > 75 ? i : 0);
        listeners[i] = (device_listener){t, i};
        const bal_request r = {.tokens = {ids, tags, n},
                               .sampling = {.top_p = 1.0f,
                                            .temperature = sampled && i % 2 ? 0.9f : 0.0f,
                                            .seed = (uint64_t)i},
                               .ignore_eos = true,
                               .max_tokens = DEVICE_ANSWER,
                               .on_event = device_event,
                               .event_ctx = &listeners[i]};
        ASSERT_OK(bal_scheduler_submit(s, &r, &id, &err));
    }
    while (bal_scheduler_step(s)) {
    }
    bal_scheduler_destroy(s);
    assert_int_equal(t->done, DEVICE_REQUESTS);
}

#endif
