/* SPDX-License-Identifier: MIT
 * The device contract in plain C: what each op means, in f32 on host memory and as slowly as it
 * likes. Tests load it in a GPU's place, so that what the host does around the ops (rows, pages,
 * recordings, failures) is held against the CPU's results without one. Work really is queued: ops
 * run at sync, replay or download, not when they are called.
 *
 * PLAIN_DEVICE says how to misbehave: "none" no device, "old" an old driver, "abi" a table of
 * another version, "memory=N" only N bytes, "heads=N" no heads of more values, "late" the first op
 * fails when it runs, "wrong" linears are. */
#include "device/device.h"

#include "base/half.h"
#include "base/weight.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PARTS = 3, COUNT = 2 };

struct bal_device_weight {
    bool gated;
    size_t n, k;
    float *w, *bias; /* [n][k], [n] */
};

typedef enum op_kind {
    UPLOAD,
    DOWNLOAD,
    COPY,
    EMBED,
    STAGE,
    LINEAR,
    HADAMARD,
    ROTATE,
    ATTEND,
    NORM,
    GELU,
    GATE,
    ADD_SCALED,
    GATHER,
    ARGMAX,
    DRAW
} op_kind;

typedef struct op {
    op_kind kind;
    bal_dptr to, from, index;
    void *host; /* of downloads; of uploads a copy, which the op owns */
    size_t n, k, ld;
    const bal_device_weight *w;
    union {
        bal_stage_args stage;
        bal_device_linear_args linear;
        bal_rotate_args rotate;
        bal_attend_args attend;
        bal_norm_args norm;
        bal_device_gelu gelu;
    } u;
} op;

struct bal_device_record {
    op *ops;
    size_t n, cap;
};

struct bal_device {
    int index;
    size_t used, most;
    bal_device_record queue, *recording;
    bal_error failed;
    bool late;
};

static const char *mood(void)
{
    const char *s = getenv("PLAIN_DEVICE");
    return s ? s : "";
}

/* Addresses are host addresses behind a mask, so that nobody on the host can follow one. */
static const bal_dptr MASK = (bal_dptr)0xa5 << 56;

static void *at(bal_dptr p)
{
    return (void *)(uintptr_t)(p ^ MASK);
}

static float *floats(bal_dptr p)
{
    return at(p);
}

/* ---- Devices and memory ---------------------------------------------------------------------- */

static bal_status count(int *n, bal_error *err)
{
    *n = strcmp(mood(), "none") == 0 ? 0 : COUNT;
    if (strcmp(mood(), "old") == 0) return bal_fail(err, BAL_E_UNSUP, "the driver is too old");
    return BAL_OK;
}

static bal_status open_device(bal_device **out, int index, bal_error *err)
{
    *out = calloc(1, sizeof **out);
    if (!*out) return bal_nomem(err, sizeof **out, "a device");
    (*out)->index = index;
    (*out)->late = strcmp(mood(), "late") == 0;
    (*out)->most = (size_t)1 << 40;
    sscanf(mood(), "memory=%zu", &(*out)->most);
    return BAL_OK;
}

static void clear(bal_device_record *r)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->ops[i].kind == UPLOAD) free(r->ops[i].host);
    free(r->ops);
    *r = (bal_device_record){0};
}

static void close_device(bal_device *d)
{
    if (!d) return;
    if (d->used) abort(); /* somebody forgot to give memory back */
    clear(&d->queue);
    free(d);
}

static void describe(bal_device *d, bal_device_info *info)
{
    *info = (bal_device_info){.memory = d->most, .free_memory = d->most - d->used};
    snprintf(info->name, sizeof info->name, "plain C, number %d", d->index);
}

enum { HEADER = 256 };

static bal_status alloc(bal_device *d, bal_dptr *out, size_t n, const char *what, bal_error *err)
{
    uint8_t *p = NULL;
    *out = 0;
    if (n <= d->most - d->used) p = aligned_alloc(256, (n + HEADER + 255) / 256 * 256);
    if (!p)
        return bal_fail(err, BAL_E_NOMEM, "out of device memory: %zu bytes for %s, %zu are free", n,
                        what, d->most - d->used);
    memcpy(p, &n, sizeof n);
    memset(p + HEADER, 0xff, n); /* NaN, for whoever reads what nobody wrote */
    d->used += n;
    *out = (bal_dptr)(uintptr_t)(p + HEADER) ^ MASK;
    return BAL_OK;
}

static void run_all(bal_device *d);

static void release(bal_device *d, bal_dptr p)
{
    if (!p) return;
    run_all(d);
    uint8_t *base = (uint8_t *)at(p) - HEADER;
    size_t n;
    memcpy(&n, base, sizeof n);
    d->used -= n;
    free(base);
}

/* ---- Weights --------------------------------------------------------------------------------- */

static void read_row(const bal_device_part *p, size_t r, size_t k, float *out)
{
    if (bal_type_get(p->type)->packed) {
        bal_packed_row(&p->packed, r, out);
        return;
    }
    const uint8_t *row = (const uint8_t *)p->w + r * k * (size_t)bal_type_get(p->type)->bits / 8;
    for (size_t i = 0; i < k; i++) {
        uint16_t h;
        memcpy(&h, row + 2 * i, sizeof h);
        if (p->type == BAL_TYPE_F32)
            memcpy(&out[i], row + 4 * i, sizeof *out);
        else
            out[i] = p->type == BAL_TYPE_F16 ? bal_f16_to_f32(h) : bal_bf16_to_f32(h);
    }
}

static void weight_destroy(bal_device *d, bal_device_weight *w)
{
    if (!w) return;
    d->used -= w->n * w->k;
    free(w->w);
    free(w->bias);
    free(w);
}

static bal_status weight_create(bal_device *d, bal_device_weight **out,
                                const bal_device_part *parts, int n_parts, size_t k, bool gated,
                                bal_error *err)
{
    *out = NULL;
    size_t n = 0, at_row = 0;
    for (int i = 0; i < n_parts; i++) n += parts[i].n;
    if (n_parts > MAX_PARTS || n * k > d->most - d->used)
        return bal_fail(err, BAL_E_NOMEM,
                        "out of device memory: %zu bytes for weights, %zu are free", n * k,
                        d->most - d->used);
    bal_device_weight *w = calloc(1, sizeof *w);
    if (!w) return bal_nomem(err, sizeof *w, "a weight");
    *w = (bal_device_weight){gated, n, k, malloc(n * k * sizeof(float)), calloc(n, sizeof(float))};
    d->used += n * k;
    if (!w->w || !w->bias) {
        weight_destroy(d, w);
        return bal_nomem(err, n * k, "a weight");
    }
    for (int i = 0; i < n_parts; i++)
        for (size_t r = 0; r < parts[i].n; r++, at_row++) {
            read_row(&parts[i], r, k, w->w + at_row * k);
            if (parts[i].bias) w->bias[at_row] = parts[i].bias[r];
        }
    *out = w;
    return BAL_OK;
}

/* ---- What ops mean --------------------------------------------------------------------------- */

static size_t act_bytes(int m, size_t k)
{
    return (size_t)m * k * sizeof(float);
}

static size_t attend_bytes(const bal_device *d, int m, int heads, int dim)
{
    int widest = BAL_DEVICE_PAGE * 1024;
    (void)d, (void)m, (void)heads;
    sscanf(mood(), "heads=%d", &widest);
    return dim <= widest ? 256 : 0;
}

static void norm_row(const float *x, const float *w, const float *b, float eps, bool layer, int k,
                     float *out)
{
    double mean = 0.0, square = 0.0;
    for (int i = 0; layer && i < k; i++) mean += (double)x[i] / k;
    for (int i = 0; i < k; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean) / k;
    const double s = 1.0 / sqrt(square + (double)eps);
    for (int i = 0; i < k; i++)
        out[i] = (float)(((double)x[i] - mean) * s * (double)w[i] + (b ? (double)b[i] : 0.0));
}

/* Bytes with one scale per token or group, and back. */
static void round_to_bytes(float *x, size_t k, size_t group)
{
    if (group == 0) group = k;
    for (size_t g = 0; g < k; g += group) {
        const size_t end = g + group < k ? g + group : k;
        float top = 0.0f;
        for (size_t i = g; i < end; i++) top = fmaxf(top, fabsf(x[i]));
        for (size_t i = g; i < end && top > 0.0f; i++)
            x[i] = rintf(x[i] * (127.0f / top)) * (top / 127.0f);
    }
}

/* The same with a scale that was fixed before. */
static void saturate_to_bytes(float *x, size_t k, float scale)
{
    const float by = scale < 0x1p-100f ? 0.0f : 1.0f / scale;
    for (size_t i = 0; i < k; i++) x[i] = rintf(fminf(fmaxf(x[i] * by, -127.0f), 127.0f)) * scale;
}

static bool sees(const bal_stage_args *a, int row)
{
    return a->modality && ((const int32_t *)at(a->modality))[row] == BAL_VISION;
}

static void stage(const bal_stage_args *a)
{
    for (int r = 0; r < a->m; r++) {
        const float *x = floats(a->x) + (size_t)r * a->ld;
        float *out = floats(a->out) + (size_t)r * (size_t)a->k;
        if (a->vision_only && !sees(a, r)) {
            memset(out, 0, (size_t)a->k * sizeof *out);
            continue;
        }
        if (a->kind == BAL_STAGE_RMS || a->kind == BAL_STAGE_LAYER)
            norm_row(x, at(a->w), a->b ? at(a->b) : NULL, a->eps, a->kind == BAL_STAGE_LAYER, a->k,
                     out);
        else
            for (int i = 0; i < a->k; i++)
                out[i] =
                    a->kind == BAL_STAGE_PLAIN ? x[i] : x[i] / (1.0f + expf(-x[i])) * x[a->k + i];
        if (a->act.kind == BAL_ACT_A8 && a->act.scale == BAL_ACT_DYNAMIC)
            round_to_bytes(out, (size_t)a->k, a->act.group);
        else if (a->act.kind == BAL_ACT_A8)
            saturate_to_bytes(out, (size_t)a->k,
                              a->act.fixed[sees(a, r) ? BAL_ACT_VISION : BAL_ACT_TEXT]);
    }
}

static double output(const bal_device_weight *w, const float *x, size_t n)
{
    double sum = (double)w->bias[n];
    for (size_t k = 0; k < w->k; k++) sum += (double)x[k] * (double)w->w[n * w->k + k];
    return sum;
}

static void linear(const bal_device_linear_args *a)
{
    const bal_device_weight *w = a->w;
    const size_t n_out = w->gated ? w->n / 2 : w->n;
    for (int r = 0; r < a->m; r++) {
        const float *x = floats(a->x) + (size_t)r * w->k;
        float *y = floats(a->y) + (size_t)r * a->ld;
        for (size_t n = 0; n < n_out; n++) {
            double v = output(w, x, n);
            if (w->gated) v = v / (1.0 + exp(-v)) * output(w, x, n + n_out);
            if (strcmp(mood(), "wrong") == 0) v += 100.0;
            y[n] = (float)(v + (a->add ? (double)y[n] : 0.0));
        }
    }
}

static void rotate_head(const bal_rotate_args *a, float *x, bal_dptr norm, const int32_t *pos)
{
    const int dim = a->cache.dim, half = dim / 2;
    const int32_t *axis = at(a->axis);
    if (norm) norm_row(x, at(norm), NULL, a->eps, false, dim, x);
    for (int i = 0; i < half; i++) {
        const float angle = (float)pos[axis[i]] * floats(a->frequency)[i];
        const float c = cosf(angle) * a->magnitude, s = sinf(angle) * a->magnitude;
        const float u = x[i], v = x[i + half];
        x[i] = u * c - v * s;
        x[i + half] = v * c + u * s;
    }
}

/* Element i of row `row` of a tile. */
static uint8_t *tile_of(const bal_device_cache *c, const bal_device_rows *rows, int r, int position,
                        int layer, int part, int head)
{
    const bal_dptr *pages =
        (const bal_dptr *)at(rows->pages) + ((const int32_t *)at(rows->list))[r];
    uint8_t *page = at(pages[position / BAL_DEVICE_PAGE]);
    return page + (size_t)layer * c->layer_bytes + (size_t)(part * c->heads + head) * c->tile_bytes;
}

static void put(const bal_device_cache *c, uint8_t *tile, int row, const float *x)
{
    const size_t from = (size_t)row * (size_t)c->dim;
    float top = 0.0f;
    for (int i = 0; i < c->dim; i++) top = fmaxf(top, fabsf(x[i]));
    for (size_t i = 0; i < (size_t)c->dim; i++) {
        if (c->element == 4) ((float *)(void *)tile)[from + i] = x[i];
        if (c->element == 2) ((uint16_t *)(void *)tile)[from + i] = bal_f32_to_f16(x[i]);
        if (c->element == 1)
            ((int8_t *)tile)[from + i] = top > 0.0f ? (int8_t)rintf(x[i] / (top / 127.0f)) : 0;
    }
    if (c->element == 1)
        ((float *)(void *)(tile + BAL_DEVICE_PAGE * (size_t)c->dim))[row] = top / 127.0f;
}

static float get(const bal_device_cache *c, const uint8_t *tile, int row, int i)
{
    const size_t e = (size_t)row * (size_t)c->dim + (size_t)i;
    if (c->element == 4) return ((const float *)(const void *)tile)[e];
    if (c->element == 2) return bal_f16_to_f32(((const uint16_t *)(const void *)tile)[e]);
    return (float)((const int8_t *)tile)[e] *
           ((const float *)(const void *)(tile + BAL_DEVICE_PAGE * (size_t)c->dim))[row];
}

static void rotate(const bal_rotate_args *a)
{
    const bal_device_cache *c = &a->cache;
    const int32_t *where = at(a->rows.at);
    const int32_t(*pos)[3] = at(a->rows.pos);
    for (int r = 0; r < a->m; r++) {
        float *x = floats(a->qkv) + (size_t)r * (size_t)((a->heads + 2 * c->heads) * c->dim);
        for (int h = 0; h < a->heads + c->heads; h++)
            rotate_head(a, x + h * c->dim, h < a->heads ? a->q_norm : a->k_norm, pos[r]);
        for (int p = 0; p < 2; p++)
            for (int h = 0; h < c->heads; h++)
                put(c, tile_of(c, &a->rows, r, where[r], a->layer, p, h),
                    where[r] % BAL_DEVICE_PAGE, x + (a->heads + p * c->heads + h) * c->dim);
    }
}

static void attend_head(const bal_attend_args *a, int r, int head, const float *q, float *out)
{
    const bal_device_cache *c = &a->cache;
    const int kv = head / (a->heads / c->heads), last = ((const int32_t *)at(a->rows.at))[r];
    double top = -INFINITY, sum = 0.0, scale = 1.0 / sqrt((double)c->dim);
    if (last >= a->keys) abort(); /* the launch was sized for fewer */
    double *o = calloc((size_t)c->dim, sizeof *o);
    for (int j = 0; o && j <= last; j++) {
        const uint8_t *keys = tile_of(c, &a->rows, r, j, a->layer, 0, kv);
        const uint8_t *values = tile_of(c, &a->rows, r, j, a->layer, 1, kv);
        const int row = j % BAL_DEVICE_PAGE;
        double s = 0.0;
        for (int i = 0; i < c->dim; i++) s += (double)q[i] * (double)get(c, keys, row, i);
        s *= scale;
        const double next = fmax(top, s), keep = exp(top - next), p = exp(s - next);
        for (int i = 0; i < c->dim; i++) o[i] = o[i] * keep + p * (double)get(c, values, row, i);
        sum = sum * keep + p;
        top = next;
    }
    for (int i = 0; o && i < c->dim; i++) out[i] = (float)(o[i] / sum);
    free(o);
}

static void attend(const bal_attend_args *a)
{
    const int32_t(*tiles)[2] = at(a->tiles);
    for (int t = 0; t < a->n_tiles; t++)
        for (int r = tiles[t][0]; r < tiles[t][0] + tiles[t][1]; r++)
            for (int h = 0; h < a->heads; h++)
                attend_head(a, r, h, floats(a->q) + (size_t)r * a->ld + h * a->cache.dim,
                            floats(a->out) + (size_t)(r * a->heads + h) * (size_t)a->cache.dim);
}

static void norm(const bal_norm_args *a)
{
    for (int r = 0; r < a->m; r++) {
        float *x = floats(a->x) + (size_t)r * a->ld;
        norm_row(x, at(a->w), a->b ? at(a->b) : NULL, a->eps, a->layer, a->k, x);
    }
}

static float gelu(bal_device_gelu kind, float v)
{
    const double x = (double)v, z = 0.79788456080286536 * (x + 0.044715 * x * x * x);
    if (kind == BAL_DEVICE_GELU) return (float)(0.5 * x * (1.0 + erf(x * M_SQRT1_2)));
    if (kind == BAL_DEVICE_QUICK_GELU) return (float)(x / (1.0 + exp(-1.702 * x)));
    return (float)(0.5 * x * (1.0 + tanh(z)));
}

static void gate(float *x, size_t ld, size_t m, size_t k)
{
    for (size_t r = 0; r < m; r++, x += ld)
        for (size_t i = 0; i < k; i++) x[i] = x[i] / (1.0f + expf(-x[i])) * x[k + i];
}

static void add_scaled(float *h, const float *x, const float *scale, size_t m, size_t k)
{
    for (size_t i = 0; i < m * k; i++) h[i] += x[i] * scale[i % k];
}

static int32_t best_of(const float *x, size_t n)
{
    size_t best = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return -1;
        if (x[i] > x[best]) best = i;
    }
    return (int32_t)best;
}

/* Tokens of a row that are likelier than i, or as likely with a lower id. */
static size_t rank_of(const float *x, size_t n, size_t i)
{
    size_t rank = 0;
    for (size_t j = 0; j < n; j++) rank += x[j] > x[i] || (x[j] == x[i] && j < i);
    return rank;
}

static int32_t draw(const bal_device_draw *how, const float *x, size_t n)
{
    const int32_t best = best_of(x, n);
    if (best < 0) return -1;
    uint64_t *by_rank = calloc(n, sizeof *by_rank), mass = 0, sum = 0;
    size_t *rank = calloc(n, sizeof *rank), kept = how->top_k ? (size_t)how->top_k : n;
    if (!by_rank || !rank) abort();
    for (size_t i = 0; i < n; i++) {
        rank[i] = rank_of(x, n, i);
        by_rank[rank[i]] = bal_weight_of(x[i], x[best], how->scale);
    }
    if (kept > n) kept = n;
    for (size_t i = 0; i < kept; i++) mass += by_rank[i];
    if (how->top_p < 1.0f) {
        const uint64_t enough = bal_weight_enough(how->top_p, mass);
        for (kept = 0, mass = 0; mass < enough; kept++) mass += by_rank[kept];
    }
    const uint64_t point = bal_weight_point(how->random, mass);
    int32_t id = 0;
    for (size_t i = 0; i < n && sum <= point; i++)
        if (rank[i] < kept) {
            sum += by_rank[rank[i]];
            id = (int32_t)i;
        }
    free(by_rank);
    free(rank);
    return id;
}

static void hadamard(float *x, size_t n, size_t block)
{
    for (size_t half = 1; half < block; half *= 2)
        for (size_t i = 0; i < n; i++) {
            if (i & half) continue;
            const float a = x[i], b = x[i + half];
            x[i] = a + b;
            x[i + half] = a - b;
        }
    for (size_t i = 0; i < n; i++) x[i] *= 1.0f / sqrtf((float)block);
}

static void run(const op *o)
{
    const size_t row = o->k * sizeof(float);
    switch (o->kind) {
    case UPLOAD: memcpy(at(o->to), o->host, o->n); break;
    case DOWNLOAD: memcpy(o->host, at(o->from), o->n); break;
    case COPY: memmove(at(o->to), at(o->from), o->n); break;
    case STAGE: stage(&o->u.stage); break;
    case LINEAR:
        if (o->u.linear.input == BAL_INPUT_FRESH) stage(&o->u.linear.stage);
        linear(&o->u.linear);
        break;
    case HADAMARD: hadamard(floats(o->to), o->n, o->k); break;
    case ROTATE: rotate(&o->u.rotate); break;
    case ATTEND: attend(&o->u.attend); break;
    case NORM: norm(&o->u.norm); break;
    case GELU:
        for (size_t i = 0; i < o->n; i++) floats(o->to)[i] = gelu(o->u.gelu, floats(o->to)[i]);
        break;
    case GATE: gate(floats(o->to), o->ld, o->n, o->k); break;
    case ADD_SCALED:
        add_scaled(floats(o->to), floats(o->from), floats(o->index), o->n, o->k);
        break;
    case EMBED:
    case GATHER:
        for (size_t i = 0; i < o->n; i++) {
            const size_t from = (size_t)((const int32_t *)at(o->index))[i];
            memcpy(floats(o->to) + i * o->k, (o->w ? o->w->w : floats(o->from)) + from * o->k, row);
        }
        break;
    case ARGMAX:
        for (size_t i = 0; i < o->n; i++)
            ((int32_t *)at(o->to))[i] = best_of(floats(o->from) + i * o->k, o->k);
        break;
    case DRAW:
        for (size_t i = 0; i < o->n; i++)
            ((int32_t *)at(o->to))[i] =
                draw((const bal_device_draw *)at(o->index) + i, floats(o->from) + i * o->k, o->k);
        break;
    }
}

/* ---- Queue ----------------------------------------------------------------------------------- */

static void run_record(bal_device *d, const bal_device_record *r)
{
    for (size_t i = 0; i < r->n && d->failed.status == BAL_OK; i++) {
        if (d->late && r->ops[i].kind == ATTEND)
            bal_fail(&d->failed, BAL_E_IO, "the device fell off the bus");
        else
            run(&r->ops[i]);
    }
}

static void run_all(bal_device *d)
{
    run_record(d, &d->queue);
    clear(&d->queue);
}

static void push(bal_device *d, op o)
{
    bal_device_record *r = d->recording ? d->recording : &d->queue;
    if (r->n == r->cap) {
        r->cap = 2 * r->cap + 16;
        op *ops = realloc(r->ops, r->cap * sizeof *ops);
        if (!ops) abort();
        r->ops = ops;
    }
    r->ops[r->n++] = o;
}

static void upload(bal_device *d, bal_dptr to, const void *from, size_t n)
{
    op o = {.kind = UPLOAD, .to = to, .host = malloc(n ? n : 1), .n = n};
    if (!o.host || d->recording) abort();
    memcpy(o.host, from, n);
    push(d, o);
}

static void download(bal_device *d, void *to, bal_dptr from, size_t n)
{
    if (d->recording) abort();
    push(d, (op){.kind = DOWNLOAD, .host = to, .from = from, .n = n});
}

static void copy(bal_device *d, bal_dptr to, bal_dptr from, size_t n)
{
    push(d, (op){.kind = COPY, .to = to, .from = from, .n = n});
}

static void embed(bal_device *d, const bal_device_weight *w, bal_dptr ids, int m, bal_dptr h)
{
    push(d, (op){.kind = EMBED, .w = w, .index = ids, .n = (size_t)m, .k = w->k, .to = h});
}

static void push_stage(bal_device *d, const bal_stage_args *a)
{
    push(d, (op){.kind = STAGE, .u.stage = *a});
}

static void push_linear(bal_device *d, const bal_device_linear_args *a)
{
    push(d, (op){.kind = LINEAR, .u.linear = *a});
}

static void push_hadamard(bal_device *d, bal_dptr x, size_t n, int block)
{
    push(d, (op){.kind = HADAMARD, .to = x, .n = n, .k = (size_t)block});
}

static void push_rotate(bal_device *d, const bal_rotate_args *a)
{
    push(d, (op){.kind = ROTATE, .u.rotate = *a});
}

static void push_attend(bal_device *d, const bal_attend_args *a)
{
    push(d, (op){.kind = ATTEND, .u.attend = *a});
}

static void push_norm(bal_device *d, const bal_norm_args *a)
{
    push(d, (op){.kind = NORM, .u.norm = *a});
}

static void push_gelu(bal_device *d, bal_device_gelu kind, bal_dptr x, size_t n)
{
    push(d, (op){.kind = GELU, .to = x, .n = n, .u.gelu = kind});
}

static void push_gate(bal_device *d, bal_dptr x, size_t ld, int m, int k)
{
    push(d, (op){.kind = GATE, .to = x, .n = (size_t)m, .k = (size_t)k, .ld = ld});
}

static void push_add_scaled(bal_device *d, bal_dptr h, bal_dptr x, bal_dptr scale, int m, int k)
{
    push(d, (op){.kind = ADD_SCALED,
                 .to = h,
                 .from = x,
                 .index = scale,
                 .n = (size_t)m,
                 .k = (size_t)k});
}

static void gather(bal_device *d, bal_dptr x, size_t k, bal_dptr index, int n, bal_dptr out)
{
    push(d, (op){.kind = GATHER, .from = x, .index = index, .n = (size_t)n, .k = k, .to = out});
}

static void argmax(bal_device *d, bal_dptr x, int m, int n, bal_dptr out)
{
    push(d, (op){.kind = ARGMAX, .from = x, .n = (size_t)m, .k = (size_t)n, .to = out});
}

static void push_draw(bal_device *d, bal_dptr x, int m, int n, bal_dptr draws, bal_dptr out)
{
    push(d,
         (op){.kind = DRAW, .from = x, .index = draws, .n = (size_t)m, .k = (size_t)n, .to = out});
}

static void read_all(bal_device *d, bal_dptr x, size_t n)
{
    push(d, (op){.kind = COPY, .to = x, .from = x, .n = n});
}

static void record_begin(bal_device *d)
{
    d->recording = calloc(1, sizeof *d->recording);
    if (!d->recording) abort();
}

static bal_status record_end(bal_device *d, bal_device_record **out, bal_error *err)
{
    (void)err;
    *out = d->recording;
    d->recording = NULL;
    return BAL_OK;
}

static void replay(bal_device *d, bal_device_record *r)
{
    run_all(d);
    run_record(d, r);
}

static void record_destroy(bal_device *d, bal_device_record *r)
{
    (void)d;
    if (r) clear(r);
    free(r);
}

static bal_status sync_all(bal_device *d, bal_error *err)
{
    run_all(d);
    if (d->failed.status < 0 && err) *err = d->failed;
    return d->failed.status;
}

static double lap(bal_device *d)
{
    run_all(d);
    return 0.0;
}

static bal_device_api table = {
    .abi = BAL_DEVICE_ABI,
    .size = sizeof table,
    .name = "cuda",
    .count = count,
    .open = open_device,
    .close = close_device,
    .describe = describe,
    .alloc = alloc,
    .release = release,
    .weight_create = weight_create,
    .weight_destroy = weight_destroy,
    .act_bytes = act_bytes,
    .attend_bytes = attend_bytes,
    .upload = upload,
    .download = download,
    .copy = copy,
    .embed = embed,
    .stage = push_stage,
    .linear = push_linear,
    .hadamard = push_hadamard,
    .rotate = push_rotate,
    .attend = push_attend,
    .norm = push_norm,
    .gelu = push_gelu,
    .gate = push_gate,
    .add_scaled = push_add_scaled,
    .gather = gather,
    .argmax = argmax,
    .draw = push_draw,
    .read = read_all,
    .record_begin = record_begin,
    .record_end = record_end,
    .replay = replay,
    .record_destroy = record_destroy,
    .sync = sync_all,
    .lap = lap,
};

bal_device_entry_fn bal_device_entry;
const bal_device_api *bal_device_entry(uint32_t abi)
{
    table.abi = strcmp(mood(), "abi") == 0 ? abi + 6 : BAL_DEVICE_ABI;
    return &table;
}
