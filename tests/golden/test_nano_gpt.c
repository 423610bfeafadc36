/* SPDX-License-Identifier: MIT
 * A trained GPT of 85,000 parameters that sorts letters (nano_gpt_sort, published with its
 * activations): our ops, one behind the other, against every activation that was recorded. No
 * family here has such a block (LayerNorm, learned positions, fused q, k, v, no gate), so there is
 * no file to convert and the ops are called as a block would call them. One recording is not
 * compared: `att`, the masked scores, which our attention never stores as a whole; the softmax of
 * them is. */
#include "check.h"

#include "op/attention.h"
#include "op/linear.h"
#include "op/pointwise.h"

#include <jansson.h>
#include <math.h>

enum { SAMPLES = 3, LEN = 11, DIM = 48, HEADS = 3, HEAD = DIM / HEADS, LAYERS = 3, VOCAB = 3 };
enum { ROWS = SAMPLES * LEN, QKV = 3 * DIM, INNER = 4 * DIM };

typedef struct nano {
    json_t *weights, *recorded;
    bal_kernels kernels;
    bal_pool *pool;
    bal_exec exec;
    float *owned[128];
    int n_owned, compared;
    bool first; /* the block whose inner activations are recorded */
} nano;

/* ---- The files: {"shape": [...], "data": base64 of little-endian f32} ---- */

static unsigned digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = strchr(digits, c);
    assert_true(c && at);
    return (unsigned)(at - digits);
}

/* n floats of the member; they live as long as m. */
static const float *tensor(nano *m, const json_t *file, const char *name, size_t n)
{
    const json_t *o = json_object_get(file, name);
    const char *text = json_string_value(json_object_get(o, "data"));
    if (!text) fail_msg("no tensor %s", name);
    const size_t length = strlen(text), bytes = 4 * n;
    if (length != (bytes + 2) / 3 * 4) fail_msg("%s: %zu characters", name, length);
    uint8_t *out = malloc(length);
    assert_true(out && m->n_owned < 128);
    m->owned[m->n_owned++] = (float *)(void *)out;
    for (size_t i = 0, at = 0; i < length; i += 4) {
        uint32_t word = 0;
        for (size_t j = 0; j < 4; j++)
            word = word << 6 | (text[i + j] == '=' ? 0 : digit(text[i + j]));
        for (int shift = 16; shift >= 0; shift -= 8) out[at++] = (uint8_t)(word >> shift);
    }
    return (const float *)(const void *)out;
}

static const float *weight(nano *m, int layer, const char *name, size_t n)
{
    char path[96];
    if (layer < 0)
        snprintf(path, sizeof path, "%s", name);
    else
        snprintf(path, sizeof path, "transformer.h.%d.%s", layer, name);
    return tensor(m, m->weights, path, n);
}

/* ---- Comparing ---- */

/* Within 1e-5 of the recording's largest value. */
static void check(nano *m, const char *name, const float *got, size_t n)
{
    const float *want = tensor(m, m->recorded, name, n);
    float most = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        most = fmaxf(most, fabsf(want[i]));
        worst = fmaxf(worst, fabsf(got[i] - want[i]));
    }
    printf("%-10s %.1e of %.3g\n", name, (double)(worst / most), (double)most);
    if (!(worst <= 1e-5f * most)) fail_msg("%s is %g off", name, (double)worst);
    m->compared++;
}

static void check_inner(nano *m, const char *name, const float *got, size_t n)
{
    if (m->first) check(m, name, got, n);
}

/* q, k and v are recorded as [sample][head][position][value], ours stand in the rows of qkv. */
static void check_heads(nano *m, const char *name, const float *qkv, int part)
{
    static float own[ROWS * DIM];
    for (int i = 0; i < ROWS * DIM; i++) {
        const int d = i % HEAD, at = i / HEAD % LEN, h = i / HEAD / LEN % HEADS;
        const int sample = i / HEAD / LEN / HEADS;
        own[i] = qkv[(sample * LEN + at) * QKV + part * DIM + h * HEAD + d];
    }
    check_inner(m, name, own, ROWS * DIM);
}

/* ---- The model ---- */

static void norm(nano *m, int layer, const char *name, const float *x, float *y)
{
    char w[64], b[64];
    snprintf(w, sizeof w, "%s.weight", name);
    snprintf(b, sizeof b, "%s.bias", name);
    bal_layer_norm(&m->exec, x, weight(m, layer, w, DIM), weight(m, layer, b, DIM), 1e-5f, ROWS,
                   DIM, y);
}

static void linear(nano *m, int layer, const char *name, const float *x, int k, int n, float *y)
{
    char w[64], b[64];
    snprintf(w, sizeof w, "%s.weight", name);
    snprintf(b, sizeof b, "%s.bias", name);
    bal_linear l = {.type = BAL_TYPE_F32, .n = n, .k = k};
    l.w = weight(m, layer, w, (size_t)n * (size_t)k);
    if (layer >= 0) l.bias = weight(m, layer, b, (size_t)n);
    bal_linear_forward(&m->exec, &l, x, (size_t)k, ROWS, y, (size_t)n);
}

/* One sample: q, k, v out of the fused rows, then causal attention. */
static void attend(const nano *m, const float *qkv, float *y)
{
    static float q[64 * DIM], k[64 * DIM], v[64 * DIM];
    const bal_attention_shape shape = {HEADS, HEADS, HEAD, true};
    const bal_kv_page page = {k, v};
    for (int at = 0; at < LEN; at++) {
        memcpy(q + at * DIM, qkv + at * QKV, DIM * sizeof *q);
        memcpy(k + at * DIM, qkv + at * QKV + DIM, DIM * sizeof *k);
        memcpy(v + at * DIM, qkv + at * QKV + 2 * DIM, DIM * sizeof *v);
    }
    bal_attention(&m->exec, &shape, q, LEN, 0, &page, LEN, y, NULL);
}

static void block(nano *m, int layer, float *x)
{
    static float n[ROWS * DIM], qkv[ROWS * QKV], y[ROWS * DIM], out[ROWS * DIM], fc[ROWS * INNER];
    m->first = layer == 0;
    norm(m, layer, "ln_1", x, n);
    check_inner(m, "ln1", n, ROWS * DIM);
    linear(m, layer, "attn.c_attn", n, DIM, QKV, qkv);
    check_inner(m, "qkv", qkv, ROWS * QKV);
    check_heads(m, "q", qkv, 0);
    check_heads(m, "k", qkv, 1);
    check_heads(m, "v", qkv, 2);
    for (int s = 0; s < SAMPLES; s++) attend(m, qkv + s * LEN * QKV, y + s * LEN * DIM);
    check_inner(m, "y", y, ROWS * DIM);
    linear(m, layer, "attn.c_proj", y, DIM, DIM, out);
    check_inner(m, "yProj", out, ROWS * DIM);
    bal_add(&m->exec, x, out, ROWS * DIM);
    check_inner(m, "attnResid", x, ROWS * DIM);
    norm(m, layer, "ln_2", x, n);
    check_inner(m, "ln2", n, ROWS * DIM);
    linear(m, layer, "mlp.c_fc", n, DIM, INNER, fc);
    check_inner(m, "fc", fc, ROWS * INNER);
    bal_gelu_tanh(&m->exec, fc, ROWS, INNER);
    check_inner(m, "gelu", fc, ROWS * INNER);
    linear(m, layer, "mlp.c_proj", fc, INNER, DIM, out);
    check_inner(m, "mlp", out, ROWS * DIM);
    bal_add(&m->exec, x, out, ROWS * DIM);
    check_inner(m, "mlpResid", x, ROWS * DIM);
}

static void embed(nano *m, float *x)
{
    static float tokens[ROWS * DIM];
    const float *ids = tensor(m, m->recorded, "idx", ROWS);
    const bal_linear table = {.type = BAL_TYPE_F32,
                              .n = VOCAB,
                              .k = DIM,
                              .w = weight(m, -1, "transformer.wte.weight", VOCAB * DIM)};
    const float *places = weight(m, -1, "transformer.wpe.weight", LEN * DIM);
    for (int i = 0; i < ROWS; i++) {
        bal_linear_row(&table, (int)ids[i], tokens + i * DIM);
        memcpy(x + i * DIM, places + i % LEN * DIM, DIM * sizeof *x);
    }
    check(m, "tok_emb", tokens, ROWS * DIM);
    check(m, "pos_emb", x, LEN * DIM);
    bal_add(&m->exec, x, tokens, ROWS * DIM);
    check(m, "x", x, ROWS * DIM);
}

static void check_softmax(nano *m)
{
    float rows[SAMPLES * HEADS * LEN * LEN];
    const size_t n = sizeof rows / sizeof *rows;
    memcpy(rows, tensor(m, m->recorded, "att", n), sizeof rows);
    for (size_t i = 0; i < n; i += LEN) m->kernels.softmax_row(rows + i, LEN);
    check(m, "attSm", rows, n);
}

static void check_answers(nano *m, const float *x)
{
    static float n[ROWS * DIM], logits[ROWS * VOCAB];
    norm(m, -1, "transformer.ln_f", x, n);
    check(m, "ln_f", n, ROWS * DIM);
    linear(m, -1, "lm_head", n, DIM, VOCAB, logits);
    check(m, "lm_head", logits, ROWS * VOCAB);
    for (int i = 0; i < ROWS; i++) m->kernels.softmax_row(logits + i * VOCAB, VOCAB);
    check(m, "probs", logits, ROWS * VOCAB);
}

static void nano_open(nano *m, const char *dir)
{
    char path[1200];
    bal_error err = {0};
    *m = (nano){0};
    snprintf(path, sizeof path, "%s/gpt-nano-sort-model.json", dir);
    assert_non_null(m->weights = json_load_file(path, 0, NULL));
    snprintf(path, sizeof path, "%s/gpt-nano-sort-t0-partials.json", dir);
    assert_non_null(m->recorded = json_load_file(path, 0, NULL));
    bal_kernels_init(&m->kernels, bal_cpu_isa());
    ASSERT_OK(bal_pool_create(&m->pool, 2, &err));
    ASSERT_OK(bal_exec_create(&m->exec, m->pool, &m->kernels, INNER, &err));
}

static void nano_close(nano *m)
{
    for (int i = 0; i < m->n_owned; i++) free(m->owned[i]);
    bal_exec_destroy(&m->exec);
    bal_pool_destroy(m->pool);
    json_decref(m->weights);
    json_decref(m->recorded);
}

static void test_every_activation(void **state)
{
    (void)state;
    static nano m;
    static float x[ROWS * DIM];
    const char *dir = data_path("nano_gpt_sort");
    SKIP_WITHOUT(dir, "nano_gpt_sort");
    nano_open(&m, dir);
    embed(&m, x);
    for (int layer = 0; layer < LAYERS; layer++) {
        char name[16];
        block(&m, layer, x);
        snprintf(name, sizeof name, "block%d", layer);
        check(&m, name, x, ROWS * DIM);
    }
    check_softmax(&m);
    check_answers(&m, x);
    /* all members but config, idx and att */
    assert_int_equal(m.compared, json_object_size(m.recorded) - 3);
    nano_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_activation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
