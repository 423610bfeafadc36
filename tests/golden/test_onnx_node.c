/* SPDX-License-Identifier: MIT
 * Our ops against ONNX's published one-operator cases: every case that an op covers must pass,
 * every other one must be in the list of reasons below, and together they are all there are. */
#include "onnx_case.h"

#include "image/resize.h"
#include "op/attention.h"
#include "op/linear.h"
#include "op/pointwise.h"
#include "quant/grid.h"
#include "type/packed.h"

#include <dirent.h>
#include <fnmatch.h>
#include <math.h>

static bal_pool *pool;
static bal_kernels kernels;
static bal_exec exec;

static int setup(void **state)
{
    (void)state;
    bal_error err;
    bal_kernels_init(&kernels, bal_cpu_isa());
    if (bal_pool_create(&pool, 2, &err) < 0) return -1;
    return bal_exec_create(&exec, pool, &kernels, 64, &err);
}

static int teardown(void **state)
{
    (void)state;
    bal_exec_destroy(&exec);
    bal_pool_destroy(pool);
    return 0;
}

/* Fails unless |got - expected| <= absolute + relative |expected| everywhere. */
static void compare(const char *name, const float *got, const onnx_tensor *t, double absolute,
                    double relative)
{
    for (size_t i = 0; i < t->n; i++) {
        const double want = onnx_float(t, i), d = fabs((double)got[i] - want);
        if (!(d <= absolute + relative * fabs(want)))
            fail_msg("%s: element %zu is %.9g, expected %.9g", name, i, (double)got[i], want);
    }
}

/* Tolerance by the type that a case is stored in. */
static void compare_typed(const char *name, const float *got, const onnx_tensor *t)
{
    if (t->type == ONNX_F16)
        compare(name, got, t, 1e-3, 1e-3);
    else
        compare(name, got, t, 2e-6, 1e-5);
}

/* ---- Attention ----
 * Heads of unequal size are padded with zeros and another scale goes into the queries; neither
 * changes what is computed. */

typedef struct heads {
    int batch, n, len, dim;
    bool four; /* [batch][n][len][dim], else [batch][len][n * dim] */
} heads;

static heads shape_of(const onnx_tensor *t, int64_t n_heads)
{
    heads h = {(int)t->dims[0], (int)t->dims[1], (int)t->dims[2], 0, t->n_dims == 4};
    if (h.four) return h.dim = (int)t->dims[3], h;
    h.len = h.n;
    h.n = (int)n_heads;
    h.dim = (int)t->dims[2] / h.n;
    return h;
}

static size_t element(const heads *h, int b, int head, int at, int d)
{
    if (h->four) return (((size_t)b * h->n + head) * h->len + at) * h->dim + d;
    return (((size_t)b * h->len + at) * h->n + head) * h->dim + d;
}

/* Rows first .. of out [.][n * dim] of one batch item, each head padded to dim, times factor. */
static void put_rows(float *out, const onnx_tensor *t, const heads *h, int b, int first, int dim,
                     float factor)
{
    for (int at = 0; at < h->len; at++)
        for (int head = 0; head < h->n; head++)
            for (int d = 0; d < h->dim; d++)
                out[((size_t)(first + at) * h->n + head) * dim + d] =
                    onnx_float(t, element(h, b, head, at, d)) * factor;
}

enum { Q, K, V, MASK, PAST_K, PAST_V, NONPAD };

static void attention_item(const onnx_case *c, int b, const heads *q, const heads *k,
                           const heads *v, float *y)
{
    const int dim = k->dim > v->dim ? k->dim : v->dim;
    const bool past = c->in[PAST_K].type, nonpad = c->in[NONPAD].type;
    const heads pk = past ? shape_of(&c->in[PAST_K], 0) : (heads){0};
    const heads pv = past ? shape_of(&c->in[PAST_V], 0) : (heads){0};
    static float rows_q[64 * 128], rows_k[64 * 128], rows_v[64 * 128], rows_y[64 * 128];
    assert_true(q->n * dim <= 128 && k->n * dim <= 128 && pk.len + k->len <= 64 && q->len <= 64);
    memset(rows_q, 0, sizeof rows_q);
    memset(rows_k, 0, sizeof rows_k);
    memset(rows_v, 0, sizeof rows_v);
    const float scale = onnx_number(c, "scale", 1.0f / sqrtf((float)k->dim));
    put_rows(rows_q, &c->in[Q], q, b, 0, dim, scale * sqrtf((float)dim));
    if (past) put_rows(rows_k, &c->in[PAST_K], &pk, b, 0, dim, 1.0f);
    if (past) put_rows(rows_v, &c->in[PAST_V], &pv, b, 0, dim, 1.0f);
    put_rows(rows_k, &c->in[K], k, b, pk.len, dim, 1.0f);
    put_rows(rows_v, &c->in[V], v, b, pk.len, dim, 1.0f);
    const int n_keys = nonpad ? (int)onnx_int(&c->in[NONPAD], (size_t)b) : pk.len + k->len;
    const bal_attention_shape s = {q->n, k->n, dim, onnx_option(c, "is_causal", 0)};
    const bal_kv_page page = {rows_k, rows_v};
    bal_attention(&exec, &s, rows_q, q->len, nonpad ? n_keys - q->len : pk.len, &page, n_keys,
                  rows_y, NULL);
    const heads out = {q->batch, q->n, q->len, v->dim, q->four};
    for (int at = 0; at < q->len; at++)
        for (int head = 0; head < q->n; head++)
            for (int d = 0; d < v->dim; d++)
                y[element(&out, b, head, at, d)] = rows_y[((size_t)at * q->n + head) * dim + d];
}

static void run_attention(const char *name, const onnx_case *c)
{
    const heads q = shape_of(&c->in[Q], onnx_option(c, "q_num_heads", 0));
    const heads k = shape_of(&c->in[K], onnx_option(c, "kv_num_heads", 0));
    const heads v = shape_of(&c->in[V], onnx_option(c, "kv_num_heads", 0));
    assert_int_equal(c->in[MASK].type, 0);
    float *y = malloc((c->out[0].n + 1) * sizeof *y);
    for (int b = 0; b < q.batch; b++) attention_item(c, b, &q, &k, &v, y);
    compare_typed(name, y, &c->out[0]);
    free(y);
}

/* ---- Rotary positions, norms, activations ---- */

/* Where value d of a head stands in a case: neighbours that rotate together go to (i, i + d/2), the
 * order in which Hugging Face's checkpoints keep the rows of such models. */
static int rotary_dim(int d, int half, bool pairs)
{
    return !pairs ? d : d < half ? 2 * d : 2 * (d - half) + 1;
}

static void run_rotary(const char *name, const onnx_case *c)
{
    const heads h = shape_of(&c->in[0], onnx_option(c, "num_heads", 0));
    const int rotated = (int)onnx_option(c, "rotary_embedding_dim", 0);
    const int dim = rotated ? rotated : h.dim, half = dim / 2;
    const bool by_position = c->in[3].type;
    const bool pairs = onnx_option(c, "interleaved", 0);
    float *y = onnx_floats(&c->in[0]), x[64], co[32], si[32];
    for (int b = 0; b < h.batch; b++)
        for (int at = 0; at < h.len; at++) {
            const size_t i = (size_t)b * h.len + at;
            const size_t row = by_position ? (size_t)onnx_int(&c->in[3], i) : i;
            for (int d = 0; d < half; d++) {
                co[d] = onnx_float(&c->in[1], row * half + d);
                si[d] = onnx_float(&c->in[2], row * half + d);
            }
            assert_true(h.n * dim <= 64);
            for (int n = 0; n < h.n * dim; n++)
                x[n] = y[element(&h, b, n / dim, at, rotary_dim(n % dim, half, pairs))];
            bal_rope_apply(&exec, x, 1, h.n, dim, co, si, 1.0f);
            for (int n = 0; n < h.n * dim; n++)
                y[element(&h, b, n / dim, at, rotary_dim(n % dim, half, pairs))] = x[n];
        }
    compare(name, y, &c->out[0], 1e-6, 1e-6);
    free(y);
}

static void run_norm(const char *name, const onnx_case *c)
{
    const onnx_tensor *t = &c->in[0];
    const int64_t axis = onnx_option(c, "axis", -1);
    const float eps = onnx_number(c, "epsilon", 1e-5f);
    size_t n = 1;
    for (int i = (int)(axis < 0 ? axis + t->n_dims : axis); i < t->n_dims; i++)
        n *= (size_t)t->dims[i];
    float *x = onnx_floats(t), *w = onnx_floats(&c->in[1]), *b = onnx_floats(&c->in[2]);
    assert_int_equal(c->in[1].n, n);
    if (strcmp(c->op, "RMSNormalization") == 0)
        bal_rms_norm(&exec, x, w, eps, (int)(t->n / n), (int)n, x);
    else
        bal_layer_norm(&exec, x, w, b, eps, (int)(t->n / n), (int)n, x);
    compare(name, x, &c->out[0], 2e-6, 1e-5);
    free(x);
    free(w);
    free(b);
}

static void run_activation(const char *name, const onnx_case *c)
{
    const onnx_tensor *t = &c->in[0];
    float *x = onnx_floats(t), *u = onnx_floats(&c->in[1]);
    if (strcmp(c->op, "Gelu") == 0 && onnx_says(c, "approximate", "tanh"))
        bal_gelu_tanh(&exec, x, 1, (int)t->n);
    else if (strcmp(c->op, "Gelu") == 0)
        bal_gelu_erf(&exec, x, 1, (int)t->n);
    else { /* SwiGLU, and Swish as a gate of ones */
        if (!u) u = malloc(t->n * sizeof *u);
        for (size_t i = 0; !c->in[1].type && i < t->n; i++) u[i] = 1.0f;
        bal_silu_mul(&exec, x, u, 1, (int)t->n);
    }
    compare_typed(name, x, &c->out[0]);
    free(x);
    free(u);
}

/* Along any axis: elements of one line lie `stride` apart. */
static void run_softmax(const char *name, const onnx_case *c)
{
    const onnx_tensor *t = &c->in[0];
    int64_t axis = onnx_option(c, "axis", -1);
    if (axis < 0) axis += t->n_dims;
    size_t stride = 1;
    for (int i = (int)axis + 1; i < t->n_dims; i++) stride *= (size_t)t->dims[i];
    const size_t n = (size_t)t->dims[axis];
    float *x = onnx_floats(t), line[64];
    assert_true(n <= 64);
    for (size_t first = 0; first < t->n; first++) {
        if (first / stride % n) continue;
        for (size_t i = 0; i < n; i++) line[i] = x[first + i * stride];
        kernels.softmax_row(line, n);
        for (size_t i = 0; i < n; i++) x[first + i * stride] = line[i];
    }
    compare(name, x, &c->out[0], 1e-6, 1e-5);
    free(x);
}

/* ---- Linears ---- */

/* Matrix with rows and columns exchanged, malloc'ed. */
static float *exchanged(const float *x, size_t rows, size_t cols)
{
    float *y = malloc((rows * cols + 1) * sizeof *y);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) y[j * rows + i] = x[i * cols + j];
    return y;
}

static void run_gemm(const char *name, const onnx_case *c)
{
    const bool trans_a = onnx_option(c, "transA", 0), trans_b = onnx_option(c, "transB", 0);
    const int m = (int)c->out[0].dims[0], n = (int)c->out[0].dims[1];
    const int k = (int)c->in[0].dims[trans_a ? 0 : 1];
    float *a = onnx_floats(&c->in[0]), *b = onnx_floats(&c->in[1]), *bias = NULL;
    float *x = trans_a ? exchanged(a, (size_t)k, (size_t)m) : NULL;
    float *w = trans_b ? NULL : exchanged(b, (size_t)k, (size_t)n);
    float *y = malloc((size_t)(m * n) * sizeof *y);
    if (c->in[2].type) bias = malloc((size_t)n * sizeof *bias);
    for (int i = 0; bias && i < n; i++)
        bias[i] = onnx_float(&c->in[2], c->in[2].n == 1 ? 0 : (size_t)i);
    const bal_linear l = {.type = BAL_TYPE_F32, .n = n, .k = k, .w = w ? w : b, .bias = bias};
    bal_linear_forward(&exec, &l, x ? x : a, (size_t)k, m, y, (size_t)n);
    compare(name, y, &c->out[0], 2e-6, 1e-5);
    free(a);
    free(b);
    free(bias);
    free(x);
    free(w);
    free(y);
}

/* Batches of matrices of equal number. */
static void run_matmul(const char *name, const onnx_case *c)
{
    const onnx_tensor *ta = &c->in[0], *tb = &c->in[1];
    assert_int_equal(ta->n_dims, tb->n_dims);
    const size_t m = (size_t)ta->dims[ta->n_dims - 2], k = (size_t)ta->dims[ta->n_dims - 1];
    const size_t n = (size_t)tb->dims[tb->n_dims - 1], batches = ta->n / (m * k);
    assert_int_equal(tb->n, batches * k * n);
    float *a = onnx_floats(ta), *b = onnx_floats(tb), *y = malloc(batches * m * n * sizeof *y);
    for (size_t i = 0; i < batches; i++) {
        float *w = exchanged(b + i * k * n, k, n);
        const bal_linear l = {.type = BAL_TYPE_F32, .n = (int)n, .k = (int)k, .w = w};
        bal_linear_forward(&exec, &l, a + i * m * k, k, (int)m, y + i * m * n, n);
        free(w);
    }
    compare(name, y, &c->out[0], 2e-6, 1e-5);
    free(a);
    free(b);
    free(y);
}

/* ---- Storage ---- */

/* f16 and bf16 from and to f32, bit by bit; any NaN for a NaN. */
static void cast_floats(const char *name, const onnx_case *c)
{
    const onnx_tensor *from = &c->in[0], *to = &c->out[0];
    for (size_t i = 0; i < from->n; i++) {
        const float x = onnx_float(from, i), want = onnx_float(to, i);
        float got = x;
        if (to->type == ONNX_F16) got = bal_f16_to_f32(bal_f32_to_f16(x));
        if (to->type == ONNX_BF16) got = bal_bf16_to_f32(bal_f32_to_bf16(x));
        const bool same = bal_f32_bits(got) == bal_f32_bits(want) || (got != got && want != want);
        if (!same)
            fail_msg("%s: element %zu is %g, expected %g", name, i, (double)got, (double)want);
    }
}

/* Index of the scale of element i: one for all, one per index of `axis`, or one per block there. */
static size_t scale_of(const onnx_case *c, size_t i)
{
    const onnx_tensor *t = &c->in[0], *s = &c->in[1];
    if (s->n == 1) return 0;
    int64_t axis = onnx_option(c, "axis", 1);
    const int64_t block = onnx_option(c, "block_size", 0);
    size_t index = 0, below = t->n;
    for (int d = 0; d < t->n_dims; d++) {
        below /= (size_t)t->dims[d];
        const size_t at = i / below % (size_t)t->dims[d];
        if (block) index = index * (size_t)s->dims[d] + (d == axis ? at / (size_t)block : at);
        if (!block && d == axis) index = at;
    }
    return index;
}

enum { MAX_LINE = 128, RESIZE_UNIT = 14, ALL_CASES = 344, COVERED_CASES = 131 };

/* The elements that one scale serves: a row of its own, with codes from 0 on (codes with a sign
 * move up by half their range, and their zero point with them). */
typedef struct line {
    size_t n, where[MAX_LINE];
    uint16_t scale; /* f16 */
    uint8_t zero;
} line;

static int bits_of(int type)
{
    return type == ONNX_U8 || type == ONNX_I8 ? 8 : type == ONNX_U4 || type == ONNX_I4 ? 4 : 2;
}

static float move_of(int type)
{
    return type == ONNX_I8 ? 128 : type == ONNX_I4 ? 8 : type == ONNX_I2 ? 2 : 0;
}

/* A cast of codes is one with scale 1 and zero point 0. Scales are stored as f16; the codes of the
 * few cases with others do not depend on it. */
static line line_of(const onnx_case *c, size_t s, int type)
{
    const onnx_tensor *scales = &c->in[1], *zeros = &c->in[2];
    const float scale = scales->type ? onnx_float(scales, s) : 1.0f;
    const float zero = zeros->type ? onnx_float(zeros, zeros->n == 1 ? 0 : s) : 0;
    line l = {.scale = bal_f32_to_f16(scale), .zero = (uint8_t)(zero + move_of(type))};
    for (size_t i = 0; i < c->in[0].n; i++) {
        if (scales->type && scale_of(c, i) != s) continue;
        assert_true(l.n < MAX_LINE);
        l.where[l.n++] = i;
    }
    return l;
}

static void unpack_line(const line *l, int bits, const uint8_t *codes, float *row)
{
    static uint8_t packed[4096] __attribute__((aligned(64)));
    bal_error err;
    bal_packed_layout layout;
    bal_packed_view view;
    ASSERT_OK(bal_packed_layout_init(&layout, bits, 1, l->n, 0, &err));
    assert_true(layout.n_bytes <= sizeof packed);
    ASSERT_OK(bal_pack(&layout, codes, &l->scale, &l->zero, packed, &err));
    ASSERT_OK(bal_packed_view_init(&view, &layout, packed, layout.n_bytes, &err));
    bal_packed_row(&view, 0, row);
}

static void run_dequantize(const char *name, const onnx_case *c)
{
    const onnx_tensor *t = &c->in[0];
    const size_t n_scales = c->in[1].type ? c->in[1].n : 1;
    float *got = malloc((t->n + 1) * sizeof *got), row[MAX_LINE];
    for (size_t s = 0; s < n_scales; s++) {
        const line l = line_of(c, s, t->type);
        uint8_t codes[MAX_LINE];
        for (size_t i = 0; i < l.n; i++)
            codes[i] = (uint8_t)(onnx_float(t, l.where[i]) + move_of(t->type));
        unpack_line(&l, bits_of(t->type), codes, row);
        for (size_t i = 0; i < l.n; i++) got[l.where[i]] = row[i];
    }
    compare(name, got, &c->out[0], 0, 0);
    free(got);
}

static void run_cast(const char *name, const onnx_case *c)
{
    const int type = c->in[0].type;
    const bool floats = type == ONNX_F32 || type == ONNX_F16 || type == ONNX_BF16;
    if (floats)
        cast_floats(name, c);
    else
        run_dequantize(name, c);
}

/* Rounding on given scales and zero points, as solvers do it. */
static void run_quantize(const char *name, const onnx_case *c)
{
    const onnx_tensor *t = &c->in[0];
    const int type = c->out[0].type;
    float *got = malloc((t->n + 1) * sizeof *got), row[MAX_LINE];
    for (size_t s = 0; s < c->in[1].n; s++) {
        line l = line_of(c, s, type);
        uint8_t codes[MAX_LINE];
        bal_quantized_linear q = {.n = 1, .k = (int)l.n, .bits = bits_of(type), .codes = codes};
        q.scales = &l.scale;
        q.zeros = &l.zero;
        for (size_t i = 0; i < l.n; i++) row[i] = onnx_float(t, l.where[i]);
        bal_grid_round(pool, row, &q);
        for (size_t i = 0; i < l.n; i++) got[l.where[i]] = (float)codes[i] - move_of(type);
    }
    compare(name, got, &c->out[0], 0, 0);
    free(got);
}

/* ---- Pictures ---- */

/* Whether pixel i of n reads beyond the edge of `from` pixels: what lies there ONNX repeats and
 * Pillow leaves out. reach: of the filter, in pixels of the longer raster. */
static bool at_edge(int64_t i, int64_t n, int64_t from, double reach)
{
    const double scale = (double)from / (double)n, centre = ((double)i + 0.5) * scale;
    const double half = reach * (scale > 1 ? scale : 1);
    return centre - half < -0.5 || centre + half > (double)from + 0.5;
}

/* Bytes in and out: each pass rounds, so a value may be one off. */
static void run_resize(const char *name, const onnx_case *c)
{
    const onnx_tensor *t = &c->in[0], *to = &c->out[0];
    const int64_t h = to->dims[2], w = to->dims[3];
    const bool cubic = onnx_says(c, "mode", "cubic"), edges = !onnx_option(c, "antialias", 0);
    size_t compared = 0;
    bal_error err;
    bal_image from = {0}, image = {0};
    ASSERT_OK(bal_image_create(&from, (int)t->dims[3], (int)t->dims[2], &err));
    for (size_t i = 0; i < 3 * t->n; i++)
        from.rgb[i] = (uint8_t)(RESIZE_UNIT * onnx_float(t, i / 3));
    ASSERT_OK(bal_image_resize(&image, &from, (int)w, (int)h,
                               cubic ? BAL_FILTER_BICUBIC : BAL_FILTER_BILINEAR, &err));
    for (int64_t i = 0; i < h * w; i++) {
        const double want = RESIZE_UNIT * onnx_float(to, (size_t)i), got = image.rgb[3 * i];
        if (!edges && (at_edge(i / w, h, t->dims[2], 1) || at_edge(i % w, w, t->dims[3], 1)))
            continue;
        compared++;
        if (!(fabs(got - want) <= 1.01)) fail_msg("%s: %g at %d, not %g", name, got, (int)i, want);
    }
    assert_true(compared > 0);
    bal_image_free(&from);
    bal_image_free(&image);
}

static void run_decoder(const char *name, const onnx_case *c)
{
    bal_error err;
    bal_image image = {0};
    ASSERT_OK(bal_image_decode(&image, c->in[0].raw, c->in[0].n, NULL, &err));
    assert_int_equal(image.height, c->out[0].dims[0]);
    assert_int_equal(image.width, c->out[0].dims[1]);
    if (memcmp(image.rgb, c->out[0].raw, c->out[0].n) != 0) fail_msg("%s: other pixels", name);
    bal_image_free(&image);
}

/* ---- The list ---- */

/* The first pattern that fits a folder says why no op covers it. */
static const struct {
    const char *pattern, *reason;
} uncovered[] = {
    {"attention_4d_causal_nonpad_negative_offset*", "every query sees a key: its own"},
    {"attention*softcap*", "no family caps its scores"},
    {"attention*qk_matmul*", "scores are never stored"},
    {"resize*nearest*", "no family shrinks a picture without a filter"},
    {"resize_tf*", "pictures are resized whole"},
    {"resize*align_corners", "a pixel is an area, as in Pillow; no points on corners"},
    {"resize*asymmetric", "a pixel is an area, as in Pillow; no points on corners"},
    {"resize*_symmetric", "the ratio is that of the sizes, no other is given"},
    {"resize_downsample_scales_*antialias", "the ratio is that of the sizes, no other is given"},
    {"resize_downsample_scales_linear", "smaller is antialiased, as in Pillow"},
    {"resize_downsample_scales_cubic*", "smaller is antialiased, as in Pillow"},
    {"resize_downsample_sizes_cubic", "smaller is antialiased, as in Pillow"},
    {"resize_downsample_sizes_linear_pytorch*", "smaller is antialiased, as in Pillow"},
    {"resize_upsample_*_cubic", "Pillow's cubic has a = -0.5, these have -0.75"},
    {"resize_downsample_sizes_cubic_antialias", "Pillow's cubic has a = -0.5, these have -0.75"},
    {"cast*FLOAT8*", "no storage type of 8-bit floats"},
    {"cast*FLOAT4*", "no storage type of 4-bit floats"},
    {"cast_FLOAT*_to_*INT?", "codes come from a scale and a range, not from wrapping"},
    {"cast*DOUBLE*", "doubles are sums, never stored"},
    {"*quantizelinear_e?m*", "no storage type of 8-bit floats"},
    {"*quantizelinear_float4*", "no storage type of 4-bit floats"},
    {"*quantizelinear_*int16", "no storage type of 16-bit codes"},
    {"quantizelinear_blocked_symmetric", "no storage type of 16-bit codes"},
    {"dynamicquantizelinear*", "ranges of weights are not widened to hold 0"},
    {"qlinearmatmul*", "inputs are quantized inside a linear, and without a zero point"},
    {"matmulinteger", "inputs are quantized inside a linear, and without a zero point"},
    {"matmul_*1d*", "an input is a matrix of rows"},
    {"matmul_bcast", "one weight for each input"},
    {"gemm_all_attributes", "a linear has no factors"},
    {"gemm_alpha", "a linear has no factors"},
    {"gemm_beta", "a linear has no factors"},
    {"gemm_default_matrix_bias", "a bias is a row"},
    {"swiglu_alpha", "the gate has no factor"},
    {"image_decoder_decode_*bgr", "pictures are RGB"},
    {"image_decoder_decode_*grayscale", "pictures are RGB"},
    {"image_decoder_decode_bmp*", "pictures are JPEG, PNG or WebP"},
    {"image_decoder_decode_jpeg2k*", "pictures are JPEG, PNG or WebP"},
    {"image_decoder_decode_pnm*", "pictures are JPEG, PNG or WebP"},
    {"image_decoder_decode_tiff*", "pictures are JPEG, PNG or WebP"},
    {"argmax*", "the sampler's, over one row of logits only"},
    {"averagepool*", "no family pools"},
    {"basic_conv*", "the only convolution is over patches that do not overlap: a linear"},
    {"conv_*", "the only convolution is over patches that do not overlap: a linear"},
};

static const struct {
    const char *op;
    void (*run)(const char *name, const onnx_case *c);
} runners[] = {
    {"Attention", run_attention},
    {"RotaryEmbedding", run_rotary},
    {"LayerNormalization", run_norm},
    {"RMSNormalization", run_norm},
    {"Gelu", run_activation},
    {"Swish", run_activation},
    {"SwiGLU", run_activation},
    {"Softmax", run_softmax},
    {"Gemm", run_gemm},
    {"MatMul", run_matmul},
    {"Cast", run_cast},
    {"DequantizeLinear", run_dequantize},
    {"QuantizeLinear", run_quantize},
    {"Resize", run_resize},
    {"ImageDecoder", run_decoder},
};

/* NULL where the case is covered. */
static const char *reason_of(const char *name, const onnx_case *c)
{
    for (size_t i = 0; i < sizeof uncovered / sizeof *uncovered; i++)
        if (fnmatch(uncovered[i].pattern, name, 0) == 0) return uncovered[i].reason;
    if (strcmp(c->op, "Attention") == 0 && c->in[MASK].type) return "no mask but causality";
    return NULL;
}

static bool run_case(const char *root, const char *folder)
{
    char dir[1024];
    const char *name = folder + strlen("test_");
    onnx_case c;
    snprintf(dir, sizeof dir, "%s/%s", root, folder);
    onnx_open(&c, dir);
    const char *reason = reason_of(name, &c);
    size_t i = 0;
    while (i < sizeof runners / sizeof *runners && strcmp(runners[i].op, c.op) != 0) i++;
    if (!reason && i == sizeof runners / sizeof *runners)
        fail_msg("%s: no runner and no reason for operator %s", name, c.op);
    if (!reason) runners[i].run(name, &c);
    printf("%-60s %s\n", name, reason ? reason : "passed");
    onnx_close(&c);
    return !reason;
}

static int is_case(const struct dirent *e)
{
    return strncmp(e->d_name, "test_", 5) == 0;
}

/* Nothing is dropped in silence: the cases found are those counted here, and a pattern of reasons
 * that fits none of them is a mistake. */
static void test_cases(void **state)
{
    (void)state;
    const char *root = data_path("onnx_node");
    SKIP_WITHOUT(root, "onnx_node");
    struct dirent **found;
    const int all = scandir(root, &found, is_case, alphasort);
    int covered = 0;
    for (int i = 0; i < all; i++) covered += run_case(root, found[i]->d_name);
    printf("%d of %d cases covered\n", covered, all);
    for (size_t u = 0; u < sizeof uncovered / sizeof *uncovered; u++) {
        int i = 0;
        while (i < all && fnmatch(uncovered[u].pattern, found[i]->d_name + 5, 0) != 0) i++;
        if (i == all) fail_msg("no case is called %s", uncovered[u].pattern);
    }
    assert_int_equal(all, ALL_CASES);
    assert_int_equal(covered, COVERED_CASES);
    for (int i = 0; i < all; i++) free(found[i]);
    free(found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
