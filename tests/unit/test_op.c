/* SPDX-License-Identifier: MIT
 * Ops against plain definitions in double, and the promise that a row's bits depend on nothing but
 * that row: not on how many rows go together, on threads or on the ISA level. */
#include "check.h"

#include "base/half.h"
#include "base/rng.h"
#include "op/attention.h"
#include "op/linear.h"
#include "op/pointwise.h"

#include <math.h>

typedef struct setup {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec e;
} setup;

static void open_setup(setup *s, int threads, unsigned isa, int max_k)
{
    bal_error err;
    ASSERT_OK(bal_pool_create(&s->pool, threads, &err));
    bal_kernels_init(&s->kernels, isa);
    ASSERT_OK(bal_exec_create(&s->e, s->pool, &s->kernels, max_k, &err));
}

static void close_setup(setup *s)
{
    bal_exec_destroy(&s->e);
    bal_pool_destroy(s->pool);
}

static float *noise(bal_rng *r, size_t n, float scale)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) x[i] = (bal_rng_f32(r) * 2.0f - 1.0f) * scale;
    return x;
}

static double worst_error(const float *got, const float *x, const float *w, const float *bias,
                          int m, int n, int k)
{
    double worst = 0;
    for (int i = 0; i < m; i++)
        for (int f = 0; f < n; f++) {
            double sum = bias ? (double)bias[f] : 0, scale = 0;
            for (int c = 0; c < k; c++) {
                const double p = (double)x[i * k + c] * (double)w[f * k + c];
                sum += p;
                scale += fabs(p);
            }
            const double d = fabs((double)got[i * n + f] - sum) / (scale + 1e-30);
            worst = d > worst ? d : worst;
        }
    return worst;
}

static void linear_float_types(void **state)
{
    (void)state;
    enum { N = 37, K = 83, M = 301 }; /* two packed chunks, the last block not full */
    setup s;
    bal_rng r;
    bal_rng_seed(&r, 5);
    open_setup(&s, 2, bal_cpu_isa(), K);
    float *x = noise(&r, M * K, 2.0f), *w = noise(&r, N * K, 1.0f), *bias = noise(&r, N, 1.0f);
    static uint16_t half[N * K];
    static float y[M * N], one[N], row[K];
    const bal_type types[] = {BAL_TYPE_F32, BAL_TYPE_BF16, BAL_TYPE_F16};
    for (int t = 0; t < 3; t++) {
        for (int i = 0; i < N * K; i++) {
            half[i] = types[t] == BAL_TYPE_BF16 ? bal_f32_to_bf16(w[i]) : bal_f32_to_f16(w[i]);
            if (types[t] == BAL_TYPE_BF16) w[i] = bal_bf16_to_f32(half[i]);
            if (types[t] == BAL_TYPE_F16) w[i] = bal_f16_to_f32(half[i]);
        }
        const bal_linear l = {.type = types[t],
                              .n = N,
                              .k = K,
                              .w = types[t] == BAL_TYPE_F32 ? (void *)w : (void *)half,
                              .bias = bias};
        bal_linear_forward(&s.e, &l, x, K, M, y, N);
        assert_true(worst_error(y, x, w, bias, M, N, K) < 1e-6);
        for (int i = 0; i < M; i++) { /* a row alone has the bits it has in a batch */
            bal_linear_forward(&s.e, &l, x + i * K, K, 1, one, N);
            assert_memory_equal(one, y + i * N, sizeof one);
        }
        bal_linear_row(&l, 3, row);
        assert_memory_equal(row, w + 3 * K, sizeof row);
    }
    free(x);
    free(w);
    free(bias);
    close_setup(&s);
}

static void make_packed(bal_rng *r, int bits, int n, int k, size_t group, bal_linear *l,
                        uint8_t **bytes)
{
    bal_error err;
    bal_packed_layout layout;
    ASSERT_OK(bal_packed_layout_init(&layout, bits, (size_t)n, (size_t)k, group, &err));
    uint8_t *codes = malloc((size_t)n * (size_t)k), *zeros = malloc((size_t)n * layout.groups);
    uint16_t *scales = malloc((size_t)n * layout.groups * 2);
    for (size_t i = 0; i < (size_t)n * (size_t)k; i++)
        codes[i] = (uint8_t)bal_rng_below(r, 1u << bits);
    for (size_t i = 0; i < (size_t)n * layout.groups; i++) {
        zeros[i] = (uint8_t)bal_rng_below(r, 1u << bits);
        scales[i] = bal_f32_to_f16(0.01f + bal_rng_f32(r) * 0.1f);
    }
    *bytes = aligned_alloc(64, layout.n_bytes);
    ASSERT_OK(bal_pack(&layout, codes, scales, zeros, *bytes, &err));
    *l = (bal_linear){.n = n, .k = k};
    ASSERT_OK(bal_type_from_bits(&l->type, bits, &err));
    ASSERT_OK(bal_packed_view_init(&l->packed, &layout, *bytes, layout.n_bytes, &err));
    free(codes);
    free(zeros);
    free(scales);
}

/* Packed weights read activations as int16: the result must still be that of the same weights in
 * float, far below the 1e-3 that a model may lose by it. */
static void linear_packed(void **state)
{
    (void)state;
    const int bits[] = {2, 3, 4, 6, 8}, shapes[][2] = {{16, 32}, {37, 100}, {5, 704}, {50, 33}};
    const size_t groups[] = {32, 64, 128, 0};
    setup s;
    bal_rng r;
    bal_rng_seed(&r, 6);
    open_setup(&s, 2, bal_cpu_isa(), 704);
    for (int b = 0; b < 5; b++)
        for (int sh = 0; sh < 4; sh++) {
            const int n = shapes[sh][0], k = shapes[sh][1], m = 67;
            bal_linear l;
            uint8_t *bytes;
            make_packed(&r, bits[b], n, k, groups[sh], &l, &bytes);
            float *x = noise(&r, (size_t)(m * k), 3.0f), *w = malloc((size_t)(n * k) * sizeof *w);
            float *y = malloc((size_t)(m * n) * sizeof *y), *one = malloc((size_t)n * sizeof *one);
            for (int i = 0; i < n; i++) bal_linear_row(&l, i, w + i * k);
            bal_linear_forward(&s.e, &l, x, (size_t)k, m, y, (size_t)n);
            assert_true(worst_error(y, x, w, NULL, m, n, k) < 3e-5);
            for (int i = 0; i < m; i += 11) {
                bal_linear_forward(&s.e, &l, x + i * k, (size_t)k, 1, one, (size_t)n);
                assert_memory_equal(one, y + i * n, (size_t)n * sizeof *one);
            }
            free(x);
            free(w);
            free(y);
            free(one);
            free(bytes);
        }
    close_setup(&s);
}

/* Rows that fill more than one chunk of tiles, the last tile not full, with all that stands beside
 * the product: bias, matrices of small rank, and scales that depend on the row's modality. */
static void linear_many_rows(void **state)
{
    (void)state;
    enum { N = 53, K = 100, M = 257, RANK = 3 };
    const bal_act acts[] = {
        {.kind = BAL_ACT_A16},
        {.kind = BAL_ACT_A8, .scale = BAL_ACT_DYNAMIC},
        {.kind = BAL_ACT_A8, .scale = BAL_ACT_STATIC_MODALITY, .fixed = {0.02f, 0.05f}}};
    static uint16_t low_a[RANK * K], low_b[N * RANK];
    static uint8_t modality[M];
    static float y[M * N], one[N];
    setup s;
    bal_rng r;
    bal_linear l;
    uint8_t *bytes;
    bal_rng_seed(&r, 8);
    open_setup(&s, 2, bal_cpu_isa(), K);
    make_packed(&r, 3, N, K, 32, &l, &bytes);
    float *x = noise(&r, M * K, 3.0f), *bias = noise(&r, N, 1.0f);
    for (int i = 0; i < RANK * K; i++) low_a[i] = bal_f32_to_f16(bal_rng_f32(&r) - 0.5f);
    for (int i = 0; i < N * RANK; i++) low_b[i] = bal_f32_to_f16(bal_rng_f32(&r) - 0.5f);
    for (int i = 0; i < M; i++) modality[i] = i % 5 ? BAL_VISION : BAL_PROMPT;
    l.bias = bias, l.rank = RANK, l.low_a = low_a, l.low_b = low_b;
    for (size_t a = 0; a < sizeof acts / sizeof *acts; a++) {
        l.act = acts[a];
        bal_linear_forward_rows(&s.e, &l, x, K, modality, M, y, N);
        for (int i = 0; i < M; i++) {
            bal_linear_forward_rows(&s.e, &l, x + i * K, K, modality + i, 1, one, N);
            assert_memory_equal(one, y + i * N, sizeof one);
        }
    }
    free(x);
    free(bias);
    free(bytes);
    close_setup(&s);
}

/* Linears that read the same rows: together they give the bits that each gives alone, whether they
 * share integers (three at a time) or differ from the one before in one thing. */
static void linear_together(void **state)
{
    (void)state;
    enum { K = 100, M = 257, RANK = 3, LINEARS = 12, MOST_N = 85 };
    const bal_act row = {.kind = BAL_ACT_A8}, by_32 = {.kind = BAL_ACT_A8, .group = 32};
    const bal_act fixed = {
        .kind = BAL_ACT_A8, .scale = BAL_ACT_STATIC_MODALITY, .fixed = {0.02f, 0.02f}};
    const bal_act other = {
        .kind = BAL_ACT_A8, .scale = BAL_ACT_STATIC_MODALITY, .fixed = {0.02f, 0.05f}};
    const struct {
        int bits, n;
        bal_act act;
    } kinds[LINEARS] = {{3, 53, row},   {4, 16, row},   {2, 85, row}, {3, 37, row},
                        {3, 37, by_32}, {0, 37, {0}},   {8, 53, {0}}, {2, 20, {0}},
                        {4, 85, fixed}, {4, 53, other}, {2, 20, row}, {3, 16, {0}}};
    const int counts[] = {1, 5, 12, 67, M};
    static uint16_t low_a[RANK * K], low_b[MOST_N * RANK];
    static uint8_t modality[M];
    static float got[LINEARS][M * (MOST_N + 1)], want[M * (MOST_N + 1)];
    bal_linear l[LINEARS];
    bal_linear_output out[LINEARS];
    uint8_t *bytes[LINEARS] = {0};
    bal_rng r;
    bal_rng_seed(&r, 9);
    float *x = noise(&r, M * K, 3.0f), *bias = noise(&r, MOST_N, 1.0f);
    float *plain = noise(&r, MOST_N * K, 1.0f);
    for (int i = 0; i < RANK * K; i++) low_a[i] = bal_f32_to_f16(bal_rng_f32(&r) - 0.5f);
    for (int i = 0; i < MOST_N * RANK; i++) low_b[i] = bal_f32_to_f16(bal_rng_f32(&r) - 0.5f);
    for (int i = 0; i < M; i++) modality[i] = i % 5 ? BAL_VISION : BAL_PROMPT;
    for (int i = 0; i < LINEARS; i++) {
        l[i] = (bal_linear){.type = BAL_TYPE_F32, .n = kinds[i].n, .k = K, .w = plain};
        if (kinds[i].bits)
            make_packed(&r, kinds[i].bits, kinds[i].n, K, i % 3 ? 32 : 64, &l[i], &bytes[i]);
        l[i].act = kinds[i].act;
        if (i % 2) l[i].bias = bias;
        if (i == 1 || i == 6) l[i].rank = RANK, l[i].low_a = low_a, l[i].low_b = low_b;
        out[i] = (bal_linear_output){&l[i], got[i], (size_t)l[i].n + (size_t)i % 2};
    }
    for (int threads = 1; threads <= 3; threads++) {
        setup s;
        open_setup(&s, threads, bal_cpu_isa(), K);
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            const int m = counts[c];
            memset(got, 0xff, sizeof got);
            bal_linear_forward_all(&s.e, out, LINEARS, x, K, modality, m);
            for (int i = 0; i < LINEARS; i++) {
                memset(want, 0xff, sizeof want);
                bal_linear_forward_rows(&s.e, &l[i], x, K, modality, m, want, out[i].ldy);
                assert_memory_equal(got[i], want, sizeof want);
            }
        }
        close_setup(&s);
    }
    for (int i = 0; i < LINEARS; i++) free(bytes[i]);
    free(x);
    free(bias);
    free(plain);
}

enum { LOW_N = 53, LOW_K = 100, LOW_M = 257, LOW_RANK = 3 };

/* A linear with a matrix of small rank, and what is the same for all that read it. */
typedef struct low_case {
    bal_linear l;
    uint8_t *bytes, modality[LOW_M];
    uint16_t a[LOW_RANK * LOW_K], b[LOW_N * LOW_RANK];
    float *x, *bias, y[LOW_M * LOW_N], plain[LOW_M * LOW_N], all[LOW_M * LOW_N];
} low_case;

/* Of vision: one run longer than a chunk, short ones, and the last row. */
static void make_low(low_case *c)
{
    bal_rng r;
    bal_rng_seed(&r, 9);
    make_packed(&r, 4, LOW_N, LOW_K, 32, &c->l, &c->bytes);
    c->x = noise(&r, LOW_M * LOW_K, 3.0f);
    c->bias = noise(&r, LOW_N, 1.0f);
    for (int i = 0; i < LOW_RANK * LOW_K; i++) c->a[i] = bal_f32_to_f16(bal_rng_f32(&r) - 0.5f);
    for (int i = 0; i < LOW_N * LOW_RANK; i++) c->b[i] = bal_f32_to_f16(bal_rng_f32(&r) - 0.5f);
    for (int i = 0; i < LOW_M; i++) {
        const bool vision = (i > 40 && i < 140) || (i > 150 && i % 5 < 2) || i == LOW_M - 1;
        c->modality[i] = vision ? BAL_VISION : i % 2 ? BAL_PROMPT : BAL_ANSWER;
    }
    c->l.bias = c->bias, c->l.low_a = c->a, c->l.low_b = c->b;
}

/* What is added to output f of row i, in double. */
static double low_of(const low_case *c, int i, int f)
{
    double sum = 0;
    for (int j = 0; j < LOW_RANK; j++) {
        double z = 0;
        for (int k = 0; k < LOW_K; k++)
            z += (double)bal_f16_to_f32(c->a[j * LOW_K + k]) * (double)c->x[i * LOW_K + k];
        sum += (double)bal_f16_to_f32(c->b[f * LOW_RANK + j]) * z;
    }
    return sum;
}

/* Rows of vision are those of a matrix that all rows get, the others those without any. */
static void check_low_rows(const low_case *c)
{
    for (int i = 0; i < LOW_M; i++) {
        const bool vision = c->modality[i] == BAL_VISION;
        const float *y = c->y + i * LOW_N, *plain = c->plain + i * LOW_N;
        assert_memory_equal(y, (vision ? c->all : c->plain) + i * LOW_N, LOW_N * sizeof *y);
        for (int f = 0; vision && f < LOW_N; f++) {
            const double want = (double)plain[f] + low_of(c, i, f);
            assert_true(fabs((double)y[f] - want) < 1e-5 * (fabs(want) + 10.0));
        }
    }
}

static void run_low(const setup *s, low_case *c, int rank, bool vision, float *y)
{
    c->l.rank = rank;
    c->l.low_vision = vision;
    bal_linear_forward_rows(&s->e, &c->l, c->x, LOW_K, c->modality, LOW_M, y, LOW_N);
}

/* A matrix of small rank for rows of vision alone, however many rows go together and whatever the
 * number of threads; apart from the product it is the same to the bit. */
static void linear_low_vision(void **state)
{
    (void)state;
    const bal_act acts[] = {{.kind = BAL_ACT_A16}, {.kind = BAL_ACT_A8}};
    static low_case c;
    static float first[LOW_M * LOW_N], one[LOW_N], row[2][LOW_K];
    make_low(&c);
    for (int t = 0; t < 4; t++) {
        setup s;
        open_setup(&s, t % 2 ? 3 : 1, bal_cpu_isa(), LOW_K);
        c.l.act = acts[t / 2];
        run_low(&s, &c, 0, false, c.plain);
        run_low(&s, &c, LOW_RANK, false, c.all);
        run_low(&s, &c, LOW_RANK, true, c.y);
        check_low_rows(&c);
        if (t % 2) assert_memory_equal(c.y, first, sizeof first);
        memcpy(first, c.y, sizeof first);
        for (int i = 0; i < LOW_M; i += 3) {
            bal_linear_forward_rows(&s.e, &c.l, c.x + i * LOW_K, LOW_K, c.modality + i, 1, one,
                                    LOW_N);
            assert_memory_equal(one, c.y + i * LOW_N, sizeof one);
        }
        bal_linear_add_low(&s.e, &c.l, c.x, LOW_K, c.modality, LOW_M, c.plain, LOW_N);
        assert_memory_equal(c.plain, c.y, sizeof c.y);
        run_low(&s, &c, 0, false, c.plain);
        c.l.rank = LOW_RANK, c.l.low_vision = true;
        bal_linear_forward(&s.e, &c.l, c.x, LOW_K, LOW_M, c.y, LOW_N); /* text */
        assert_memory_equal(c.plain, c.y, sizeof c.y);
        close_setup(&s);
    }
    bal_linear_row(&c.l, 7, row[0]);
    bal_packed_row(&c.l.packed, 7, row[1]);
    assert_memory_equal(row[0], row[1], sizeof row[0]);
    free(c.bytes);
    free(c.x);
    free(c.bias);
}

static void linear_gradient(void **state)
{
    (void)state;
    enum { N = 70, K = 90, M = 9 };
    setup s;
    bal_rng r;
    bal_rng_seed(&r, 7);
    open_setup(&s, 2, bal_cpu_isa(), K);
    float *dy = noise(&r, M * N, 1.0f), *w = noise(&r, N * K, 1.0f), *dx = noise(&r, M * K, 1.0f);
    static float start[M * K];
    memcpy(start, dx, sizeof start);
    const bal_linear l = {.type = BAL_TYPE_F32, .n = N, .k = K, .w = w};
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        memcpy(dx, start, sizeof start);
        bal_linear_backward(&s.e, &l, dy, N, M, dx, K, accumulate != 0);
        for (int i = 0; i < M; i++)
            for (int c = 0; c < K; c++) {
                double want = accumulate ? (double)start[i * K + c] : 0;
                for (int f = 0; f < N; f++) want += (double)dy[i * N + f] * (double)w[f * K + c];
                assert_true(fabs(want - (double)dx[i * K + c]) < 1e-4);
            }
    }
    free(dy);
    free(w);
    free(dx);
    close_setup(&s);
}

enum { HEADS = 4, KV_HEADS = 2, DIM = 20, KEYS = 150, PAGES = 3 };

typedef struct attention_data {
    float *k, *v, *q;
    bal_kv_page pages[PAGES];
} attention_data;

static void make_attention(attention_data *a, bal_rng *r)
{
    const size_t page = BAL_PAGE * KV_HEADS * DIM;
    a->k = noise(r, PAGES * page, 1.0f);
    a->v = noise(r, PAGES * page, 1.0f);
    a->q = noise(r, KEYS * HEADS * DIM, 4.0f);
    for (size_t i = 0; i < PAGES; i++)
        a->pages[i] = (bal_kv_page){a->k + i * page, a->v + i * page};
}

static void naive_attention(const attention_data *a, int row, int head, int keys, double *out)
{
    double score[KEYS], max = -INFINITY, sum = 0;
    const int kv = head / (HEADS / KV_HEADS);
    for (int t = 0; t < keys; t++) {
        score[t] = 0;
        for (int d = 0; d < DIM; d++)
            score[t] += (double)a->q[(row * HEADS + head) * DIM + d] *
                        (double)a->k[(t * KV_HEADS + kv) * DIM + d];
        score[t] /= sqrt(DIM);
        max = score[t] > max ? score[t] : max;
    }
    memset(out, 0, DIM * sizeof *out);
    for (int t = 0; t < keys; t++) sum += exp(score[t] - max);
    for (int t = 0; t < keys; t++)
        for (int d = 0; d < DIM; d++)
            out[d] += exp(score[t] - max) / sum * (double)a->v[(t * KV_HEADS + kv) * DIM + d];
}

static void attention_is_softmax(void **state)
{
    (void)state;
    setup s;
    bal_rng r;
    attention_data a;
    bal_rng_seed(&r, 8);
    make_attention(&a, &r);
    open_setup(&s, 2, bal_cpu_isa(), 64);
    static float out[KEYS * HEADS * DIM], one[HEADS * DIM], ml[KEYS * HEADS * 2];
    double want[DIM];
    for (int causal = 0; causal < 2; causal++) {
        const bal_attention_shape shape = {HEADS, KV_HEADS, DIM, causal != 0};
        bal_attention(&s.e, &shape, a.q, KEYS, 0, a.pages, KEYS, out, ml);
        for (int row = 0; row < KEYS; row++) {
            for (int h = 0; h < HEADS; h++) {
                naive_attention(&a, row, h, causal ? row + 1 : KEYS, want);
                for (int d = 0; d < DIM; d++)
                    assert_true(fabs(want[d] - (double)out[(row * HEADS + h) * DIM + d]) < 1e-5);
            }
            /* the same row alone, as in decoding */
            bal_attention(&s.e, &shape, a.q + row * HEADS * DIM, 1, row, a.pages,
                          causal ? row + 1 : KEYS, one, NULL);
            assert_memory_equal(one, out + row * HEADS * DIM, sizeof one);
        }
    }
    free(a.k);
    free(a.v);
    free(a.q);
    close_setup(&s);
}

/* (O, m, l) of two disjoint key ranges merge into the result over both. */
static void attention_parts_merge(void **state)
{
    (void)state;
    setup s;
    bal_rng r;
    attention_data a;
    bal_rng_seed(&r, 9);
    make_attention(&a, &r);
    open_setup(&s, 1, bal_cpu_isa(), 64);
    const bal_attention_shape shape = {HEADS, KV_HEADS, DIM, false};
    static float all[HEADS * DIM], o[2][HEADS * DIM], ml[2][HEADS * 2];
    bal_attention(&s.e, &shape, a.q, 1, 0, a.pages, KEYS, all, NULL);
    bal_attention(&s.e, &shape, a.q, 1, 0, a.pages, BAL_PAGE, o[0], ml[0]);
    bal_attention(&s.e, &shape, a.q, 1, 0, a.pages + 1, KEYS - BAL_PAGE, o[1], ml[1]);
    for (int h = 0; h < HEADS; h++) {
        const double top = fmax((double)ml[0][2 * h], (double)ml[1][2 * h]);
        const double w0 = exp((double)ml[0][2 * h] - top) * (double)ml[0][2 * h + 1];
        const double w1 = exp((double)ml[1][2 * h] - top) * (double)ml[1][2 * h + 1];
        for (int d = 0; d < DIM; d++) {
            const int i = h * DIM + d;
            const double merged = ((double)o[0][i] * w0 + (double)o[1][i] * w1) / (w0 + w1);
            assert_true(fabs(merged - (double)all[i]) < 1e-5);
        }
    }
    free(a.k);
    free(a.v);
    free(a.q);
    close_setup(&s);
}

static void rope_turns_back(void **state)
{
    (void)state;
    enum { M = 5, D = 16 };
    setup s;
    bal_rng r;
    bal_rng_seed(&r, 10);
    open_setup(&s, 1, bal_cpu_isa(), 64);
    float cosine[M * D / 2], sine[M * D / 2];
    const int32_t pos[M] = {0, 1, 7, 100, 4000};
    float *x = noise(&r, M * 2 * D, 1.0f), before[M * 2 * D];
    memcpy(before, x, sizeof before);
    bal_rope_table(pos, M, D, 10000.0f, cosine, sine);
    bal_rope_apply(&s.e, x, M, 2, D, cosine, sine, 1.0f);
    assert_memory_equal(x, before, 2 * D * sizeof *x); /* position 0 is left alone */
    assert_true(fabsf(x[2 * D] - (before[2 * D] * cosf(1) - before[2 * D + D / 2] * sinf(1))) <
                1e-6f);
    bal_rope_apply(&s.e, x, M, 2, D, cosine, sine, -1.0f);
    for (int i = 0; i < M * 2 * D; i++) assert_true(fabsf(x[i] - before[i]) < 1e-6f);
    free(x);
    close_setup(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_float_types),   cmocka_unit_test(linear_packed),
        cmocka_unit_test(linear_many_rows),     cmocka_unit_test(linear_together),
        cmocka_unit_test(linear_low_vision),    cmocka_unit_test(linear_gradient),
        cmocka_unit_test(attention_is_softmax), cmocka_unit_test(attention_parts_merge),
        cmocka_unit_test(rope_turns_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
