/* SPDX-License-Identifier: MIT
 * A device through its contract: the bandwidth of reading, and the linears of decoding in the
 * shapes of published models as a part of it, in the same run. One line of CSV per measurement:
 *   what,device,shape,bits,group,n,k,rows,us,gb_per_s,fraction
 * what: read; linear; linear a8, of 8-bit activations with one scale per row.
 * Weights are random and lie there in so many copies that the L2 cache cannot hold them; launches
 * are recorded and replayed, so that the host's part is not in the figures; medians of 7.
 *   gpu_kernels [--tiny] [N]     device cuda:N; tiny: shapes for a GPU that is played by the host
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "device/load.h"
#include "gpu_shapes.h"

enum { ROUNDS = 7, LAUNCHES = 24, MOST_COPIES = 128 };

typedef struct bench {
    bal_device_handle h;
    const bal_device_api *api;
    bal_device *d;
    bool tiny;
    int index;
    double read; /* bytes per second */
    char device[128];
    bal_error err;
} bench;

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of what was recorded, the median. */
static bal_status time_record(bench *b, bal_device_record *r, double *seconds)
{
    double laps[ROUNDS];
    const int rounds = b->tiny ? 1 : ROUNDS;
    b->api->replay(b->d, r);
    BAL_TRY(b->api->sync(b->d, &b->err));
    for (int i = 0; i < rounds; i++) {
        b->api->lap(b->d);
        b->api->replay(b->d, r);
        laps[i] = b->api->lap(b->d);
    }
    qsort(laps, (size_t)rounds, sizeof *laps, by_size);
    *seconds = laps[rounds / 2];
    return b->api->sync(b->d, &b->err);
}

static void print_row(const bench *b, const char *what, const shape *s, int bits, int group,
                      int rows, double seconds, double bytes)
{
    const double rate = seconds > 0 ? bytes / seconds : 0.0;
    printf("%s,%s,%s,%d,%d,%zu,%zu,%d,%.3f,%.1f,%.4f\n", what, b->device, s->name, bits, group,
           s->n, s->k, rows, seconds * 1e6, rate * 1e-9, b->read > 0 ? rate / b->read : 1.0);
    fflush(stdout);
}

/* ---- Reading --------------------------------------------------------------------------------- */

static bal_status measure_read(bench *b)
{
    const size_t n = b->tiny ? (size_t)1 << 16 : (size_t)1 << 30;
    const shape s = {"stream", 1, n, false};
    bal_device_record *r = NULL;
    bal_dptr p = 0;
    double seconds = 0.0;
    BAL_TRY(b->api->alloc(b->d, &p, n, "a buffer to read", &b->err));
    b->api->record_begin(b->d);
    for (int i = 0; i < 4; i++) b->api->read(b->d, p, n);
    bal_status st = b->api->record_end(b->d, &r, &b->err);
    if (st == BAL_OK) st = time_record(b, r, &seconds);
    b->api->record_destroy(b->d, r);
    b->api->release(b->d, p);
    if (st < 0) return st;
    print_row(b, "read", &s, 0, 0, 0, seconds / 4, (double)n);
    b->read = seconds > 0 ? 4.0 * (double)n / seconds : 0.0;
    return BAL_OK;
}

/* ---- Weights --------------------------------------------------------------------------------- */

typedef struct weights {
    bal_device_part parts[2];
    int n_parts;
    void *memory[2];
    double bytes; /* of all parts in the file's form: codes, scales, zero points */
} weights;

static void fill(uint8_t *p, size_t n)
{
    uint64_t x = 88172645463325252u;
    for (size_t i = 0; i + 8 <= n; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(p + i, &x, 8);
    }
}

/* Scales near 2^-6 and zero points within the codes: products of ordinary size. */
static bal_status make_packed(weights *w, int i, const shape *s, int bits, bal_error *err)
{
    bal_packed_layout l;
    bal_packed_view *v = &w->parts[i].packed;
    BAL_TRY(bal_packed_layout_init(&l, bits, s->n, s->k, 128, err));
    uint8_t *p = w->memory[i] = aligned_alloc(64, l.n_bytes);
    if (!p) return bal_nomem(err, l.n_bytes, "weights");
    fill(p, l.n_bytes);
    for (size_t at = l.scales_offset; at < l.zeros_offset; at += 2) p[at + 1] = 0x24;
    for (size_t at = l.zeros_offset; at < l.n_bytes; at++) p[at] &= (uint8_t)((1 << bits) - 1);
    BAL_TRY(bal_packed_view_init(v, &l, p, l.n_bytes, err));
    w->bytes += (double)l.n_bytes;
    return bal_type_from_bits(&w->parts[i].type, bits, err);
}

static bal_status make_float(weights *w, int i, const shape *s, bal_error *err)
{
    const size_t bytes = s->n * s->k * 2;
    uint8_t *p = w->memory[i] = malloc(bytes);
    if (!p) return bal_nomem(err, bytes, "weights");
    fill(p, bytes);
    for (size_t at = 1; at < bytes; at += 2) p[at] = (uint8_t)(0x3c | (p[at] & 0x80));
    w->parts[i].type = BAL_TYPE_BF16;
    w->parts[i].w = p;
    w->bytes += (double)bytes;
    return BAL_OK;
}

static bal_status make_weights(weights *w, const shape *s, int bits, bal_act act, bal_error *err)
{
    *w = (weights){.n_parts = s->gated ? 2 : 1};
    for (int i = 0; i < w->n_parts; i++) {
        w->parts[i].n = s->n;
        w->parts[i].act = act;
        BAL_TRY(bits == 16 ? make_float(w, i, s, err) : make_packed(w, i, s, bits, err));
    }
    return BAL_OK;
}

/* ---- Linears --------------------------------------------------------------------------------- */

typedef struct linear_case {
    bal_device_weight *copies[MOST_COPIES];
    int n_copies;
    bal_dptr x, act, y;
} linear_case;

static bal_status upload(bench *b, linear_case *c, const weights *w, const shape *s)
{
    const double room = b->tiny ? 1 : 192e6;
    int n = 1 + (int)(room / w->bytes);
    if (n > MOST_COPIES) n = MOST_COPIES;
    for (; c->n_copies < n; c->n_copies++)
        BAL_TRY(b->api->weight_create(b->d, &c->copies[c->n_copies], w->parts, w->n_parts, s->k,
                                      s->gated, &b->err));
    const size_t most = (size_t)shape_most_rows(s), x_bytes = most * s->k * sizeof(float);
    BAL_TRY(b->api->alloc(b->d, &c->x, x_bytes, "inputs", &b->err));
    BAL_TRY(b->api->alloc(b->d, &c->act, b->api->act_bytes((int)most, s->k), "inputs", &b->err));
    BAL_TRY(b->api->alloc(b->d, &c->y, most * s->n * sizeof(float), "outputs", &b->err));
    float *x = malloc(x_bytes);
    if (!x) return bal_nomem(&b->err, x_bytes, "inputs");
    for (size_t i = 0; i < most * s->k; i++) x[i] = (float)((i * 7919) % 997) / 997.0f - 0.5f;
    b->api->upload(b->d, c->x, x, x_bytes);
    free(x);
    return b->api->sync(b->d, &b->err);
}

static bal_status measure_rows(bench *b, linear_case *c, const shape *s, bal_act act, int rows,
                               double *seconds)
{
    const bal_stage_args stage = {
        .x = c->x, .out = c->act, .ld = s->k, .m = rows, .k = (int)s->k, .act = act};
    bal_device_record *r = NULL;
    b->api->stage(b->d, &stage);
    BAL_TRY(b->api->sync(b->d, &b->err));
    const int launches = b->tiny ? 1 : LAUNCHES;
    b->api->record_begin(b->d);
    for (int i = 0; i < launches; i++) {
        const bal_device_linear_args a = {
            .w = c->copies[i % c->n_copies], .x = c->act, .y = c->y, .ld = s->n, .m = rows};
        b->api->linear(b->d, &a);
    }
    bal_status st = b->api->record_end(b->d, &r, &b->err);
    if (st == BAL_OK) st = time_record(b, r, seconds);
    b->api->record_destroy(b->d, r);
    *seconds /= launches;
    return st;
}

static void release(bench *b, linear_case *c)
{
    for (int i = 0; i < c->n_copies; i++) b->api->weight_destroy(b->d, c->copies[i]);
    b->api->release(b->d, c->x);
    b->api->release(b->d, c->act);
    b->api->release(b->d, c->y);
}

static bal_status measure_shape(bench *b, const shape *s, int bits, bal_act act)
{
    weights w;
    linear_case c = {.n_copies = 0};
    bal_status st = make_weights(&w, s, bits, act, &b->err);
    if (st == BAL_OK) st = upload(b, &c, &w, s);
    for (size_t i = 0; i < sizeof shape_rows / sizeof *shape_rows && st == BAL_OK; i++) {
        const int rows = shape_rows[i];
        double seconds = 0.0;
        if (!shape_has_rows(s, rows, b->tiny)) continue;
        st = measure_rows(b, &c, s, act, rows, &seconds);
        if (st == BAL_OK)
            print_row(b, act.kind == BAL_ACT_A8 ? "linear a8" : "linear", s, bits,
                      bits == 16 ? 0 : 128, rows, seconds, w.bytes);
    }
    release(b, &c);
    for (int i = 0; i < w.n_parts; i++) free(w.memory[i]);
    return st;
}

static bal_status measure(bench *b)
{
    static const struct {
        int bits;
        bal_act act;
    } forms[] = {{16, {.kind = BAL_ACT_A16}}, {8, {.kind = BAL_ACT_A16}},
                 {4, {.kind = BAL_ACT_A16}},  {3, {.kind = BAL_ACT_A16}},
                 {2, {.kind = BAL_ACT_A16}},  {8, {.kind = BAL_ACT_A8}},
                 {4, {.kind = BAL_ACT_A8}}};
    const shape *shapes = b->tiny ? tiny_shapes : real_shapes;
    const size_t n = b->tiny ? sizeof tiny_shapes / sizeof *tiny_shapes
                             : sizeof real_shapes / sizeof *real_shapes;
    bal_device_info info;
    BAL_TRY(bal_device_open(&b->h, b->index, &b->err));
    b->api = b->h.api;
    b->d = b->h.device;
    b->api->describe(b->d, &info);
    snprintf(b->device, sizeof b->device, "%s", info.name);
    for (char *p = b->device; *p; p++)
        if (*p == ',') *p = ' ';
    puts("what,device,shape,bits,group,n,k,rows,us,gb_per_s,fraction");
    BAL_TRY(measure_read(b));
    for (size_t s = 0; s < n; s++)
        for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
            BAL_TRY(measure_shape(b, &shapes[s], forms[i].bits, forms[i].act));
    return BAL_OK;
}

int main(int argc, char **argv)
{
    bench b = {.tiny = argc > 1 && strcmp(argv[1], "--tiny") == 0};
    if (argc > 1 + b.tiny) b.index = atoi(argv[1 + b.tiny]);
    const bal_status st = measure(&b);
    bal_device_close(&b.h);
    if (st < 0) fprintf(stderr, "gpu_kernels: %s\n", b.err.text);
    return st < 0;
}
