/* SPDX-License-Identifier: MIT
 * A device through its contract: the bandwidth of reading, and the linears of decoding in the
 * shapes of published models as a part of it, in the same run. One line of CSV per measurement:
 *   what,shape,bits,group,n,k,rows,us,gb_per_s,fraction,worst
 * what: read; linear; linear a8, of 8-bit activations with one scale per row. worst: the largest
 * error of some outputs as a part of its bound (gpu_reference.h); above 1 it is a failure, which is
 * a sentence and ends in exit status 4, while measuring goes on.
 * Weights are random and lie there in so many copies that no L2 cache can hold them. Launches of
 * all copies are recorded, and the recording is replayed: the host's part in a figure is one launch
 * in some milliseconds of work. Medians of 7, after replaying until clocks are up.
 *   gpu_kernels [--tiny] [N]     device cuda:N; tiny: shapes for a GPU that is played by the host
 *   gpu_kernels --name [N]       prints the device's name */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "device/load.h"
#include "gpu_reference.h"

enum { READS = 16, MOST_WARM = 64, OUTPUTS = 16, WRONG = 4 };

typedef struct bench {
    bal_device_handle h;
    const bal_device_api *api;
    bal_device *d;
    bool tiny;
    int index;
    double read;  /* bytes per second */
    int failures; /* linears with an output outside of its bound */
    bal_error err;
} bench;

/* One line. */
typedef struct figure {
    const char *what;
    const shape *s;
    int bits, rows;
    double seconds, bytes, worst;
} figure;

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Clocks of a card that had nothing to do take a while to rise. */
static void warm_up(bench *b, bal_device_record *r)
{
    double spent = 0.0;
    b->api->lap(b->d);
    for (int i = 0; i < (b->tiny ? 1 : MOST_WARM) && spent < WARM_S; i++) {
        b->api->replay(b->d, r);
        spent += b->api->lap(b->d);
    }
}

/* Seconds of what was recorded, the median. */
static bal_status time_record(bench *b, bal_device_record *r, double *seconds)
{
    double laps[ROUNDS];
    const int rounds = b->tiny ? 1 : ROUNDS;
    warm_up(b, r);
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

static void print_row(const bench *b, const figure *f)
{
    const double rate = f->seconds > 0 ? f->bytes / f->seconds : 0.0;
    printf("%s,%s,%d,%d,%zu,%zu,%d,%.3f,%.1f,", f->what, f->s->name, f->bits,
           f->bits && f->bits < 16 ? 128 : 0, f->s->n, f->s->k, f->rows, f->seconds * 1e6,
           rate * 1e-9);
    if (b->read > 0) printf("%.4f", rate / b->read);
    putchar(',');
    if (f->rows) printf("%.4f", f->worst);
    putchar('\n');
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
    for (int i = 0; i < READS; i++) b->api->read(b->d, p, n);
    bal_status st = b->api->record_end(b->d, &r, &b->err);
    if (st == BAL_OK) st = time_record(b, r, &seconds);
    b->api->record_destroy(b->d, r);
    b->api->release(b->d, p);
    if (st < 0) return st;
    seconds /= READS;
    b->read = seconds > 0 ? (double)n / seconds : 0.0;
    print_row(b, &(figure){.what = "read", .s = &s, .seconds = seconds, .bytes = (double)n});
    return BAL_OK;
}

/* ---- Linears --------------------------------------------------------------------------------- */

typedef struct linear_case {
    const shape *s;
    int bits;
    bal_act act;
    weights w;
    bal_device_weight *copies[MOST_COPIES];
    int n_copies;
    float *x, *y; /* on the host: all inputs; one row of outputs */
    bal_dptr on_x, on_act, on_y;
} linear_case;

static bal_status make_inputs(bench *b, linear_case *c)
{
    const size_t n = (size_t)shape_most_rows(c->s) * c->s->k;
    c->x = malloc(n * sizeof *c->x);
    c->y = malloc(c->s->n * sizeof *c->y);
    if (!c->x || !c->y) return bal_nomem(&b->err, n * sizeof *c->x, "inputs");
    for (size_t i = 0; i < n; i++) c->x[i] = (float)((i * 7919) % 997) / 997.0f - 0.5f;
    return BAL_OK;
}

static bal_status upload(bench *b, linear_case *c)
{
    const shape *s = c->s;
    const int copies = shape_copies(c->w.bytes, b->tiny);
    for (; c->n_copies < copies; c->n_copies++)
        BAL_TRY(b->api->weight_create(b->d, &c->copies[c->n_copies], c->w.parts, c->w.n_parts, s->k,
                                      s->gated, &b->err));
    const size_t most = (size_t)shape_most_rows(s), x_bytes = most * s->k * sizeof(float);
    BAL_TRY(b->api->alloc(b->d, &c->on_x, x_bytes, "inputs", &b->err));
    BAL_TRY(b->api->alloc(b->d, &c->on_act, b->api->act_bytes((int)most, s->k), "inputs", &b->err));
    BAL_TRY(b->api->alloc(b->d, &c->on_y, most * s->n * sizeof(float), "outputs", &b->err));
    b->api->upload(b->d, c->on_x, c->x, x_bytes);
    return b->api->sync(b->d, &b->err);
}

/* A single row is staged by each linear on its way, as in decoding, others are beforehand. */
static bal_status record_rows(bench *b, const linear_case *c, const bal_stage_args *stage,
                              int launches, bal_device_record **r)
{
    b->api->record_begin(b->d);
    for (int i = 0; i < launches; i++) {
        const bal_device_linear_args a = {.w = c->copies[i % c->n_copies],
                                          .x = c->on_act,
                                          .y = c->on_y,
                                          .ld = c->s->n,
                                          .m = stage->m,
                                          .input =
                                              stage->m == 1 ? BAL_INPUT_FRESH : BAL_INPUT_STAGED,
                                          .stage = *stage};
        b->api->linear(b->d, &a);
    }
    return b->api->record_end(b->d, r, &b->err);
}

static bal_status measure_rows(bench *b, const linear_case *c, int rows, double *seconds)
{
    const size_t k = c->s->k;
    const bal_stage_args stage = {
        .x = c->on_x, .out = c->on_act, .ld = k, .m = rows, .k = (int)k, .act = c->act};
    bal_device_record *r = NULL;
    b->api->stage(b->d, &stage);
    BAL_TRY(b->api->sync(b->d, &b->err));
    const int launches = shape_launches(c->s, rows, c->w.bytes, c->n_copies, b->tiny);
    bal_status st = record_rows(b, c, &stage, launches, &r);
    if (st == BAL_OK) st = time_record(b, r, seconds);
    b->api->record_destroy(b->d, r);
    *seconds /= launches;
    return st;
}

/* Some outputs of one row, the first and the last among them, beside what they must be. */
static bal_status check_row(bench *b, linear_case *c, int row, double *worst)
{
    const size_t n = c->s->n;
    const size_t at = (size_t)row * n * sizeof(float);
    b->api->download(b->d, c->y, c->on_y + at, n * sizeof(float));
    BAL_TRY(b->api->sync(b->d, &b->err));
    for (size_t i = 0; i < OUTPUTS; i++) {
        const size_t out = i * (n - 1) / (OUTPUTS - 1);
        const expectation e = weights_expect(&c->w, c->x + (size_t)row * c->s->k, out);
        const double off = fabs((double)c->y[out] - e.y) / e.bound;
        if (off <= *worst) continue;
        *worst = isfinite(off) ? off : 1e9;
        if (!(off <= 1.0))
            fprintf(stderr,
                    "gpu_kernels: %s, %d bits, row %d: output %zu is %g, expected %g "
                    "within %.2g\n",
                    c->s->name, c->bits, row, out, (double)c->y[out], e.y, e.bound);
    }
    return BAL_OK;
}

static bal_status measure_and_check(bench *b, linear_case *c, int rows)
{
    figure f = {.what = c->act.kind == BAL_ACT_A8 ? "linear a8" : "linear",
                .s = c->s,
                .bits = c->bits,
                .rows = rows,
                .bytes = c->w.bytes};
    BAL_TRY(measure_rows(b, c, rows, &f.seconds));
    BAL_TRY(check_row(b, c, 0, &f.worst));
    if (rows > 1) BAL_TRY(check_row(b, c, rows - 1, &f.worst));
    b->failures += f.worst > 1.0;
    print_row(b, &f);
    return BAL_OK;
}

static void release(bench *b, linear_case *c)
{
    for (int i = 0; i < c->n_copies; i++) b->api->weight_destroy(b->d, c->copies[i]);
    b->api->release(b->d, c->on_x);
    b->api->release(b->d, c->on_act);
    b->api->release(b->d, c->on_y);
    weights_free(&c->w);
    free(c->x);
    free(c->y);
}

static bal_status measure_shape(bench *b, const shape *s, int bits, bal_act act)
{
    linear_case c = {.s = s, .bits = bits, .act = act};
    bal_status st = weights_make(&c.w, s, bits, act, &b->err);
    if (st == BAL_OK) st = make_inputs(b, &c);
    if (st == BAL_OK) st = upload(b, &c);
    for (size_t i = 0; i < sizeof shape_rows / sizeof *shape_rows && st == BAL_OK; i++)
        if (shape_has_rows(s, shape_rows[i], b->tiny)) st = measure_and_check(b, &c, shape_rows[i]);
    release(b, &c);
    return st;
}

/* ---- All of it ------------------------------------------------------------------------------- */

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
    puts("what,shape,bits,group,n,k,rows,us,gb_per_s,fraction,worst");
    BAL_TRY(measure_read(b));
    for (size_t s = 0; s < n; s++)
        for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
            BAL_TRY(measure_shape(b, &shapes[s], forms[i].bits, forms[i].act));
    return BAL_OK;
}

/* A field of a CSV. */
static bal_status print_name(const bench *b)
{
    bal_device_info info;
    b->api->describe(b->d, &info);
    for (char *p = info.name; *p; p++)
        if (*p == ',') *p = ' ';
    puts(info.name);
    return BAL_OK;
}

int main(int argc, char **argv)
{
    const bool name = argc > 1 && strcmp(argv[1], "--name") == 0;
    bench b = {.tiny = argc > 1 && strcmp(argv[1], "--tiny") == 0};
    const int at = 1 + (name || b.tiny);
    if (argc > at) b.index = atoi(argv[at]);
    bal_status st = bal_device_open(&b.h, b.index, &b.err);
    b.api = b.h.api;
    b.d = b.h.device;
    if (st == BAL_OK) st = name ? print_name(&b) : measure(&b);
    bal_device_close(&b.h);
    if (st < 0) fprintf(stderr, "gpu_kernels: %s\n", b.err.text);
    if (b.failures) fprintf(stderr, "gpu_kernels: %d linears are out of bounds\n", b.failures);
    return st < 0 ? 1 : b.failures ? WRONG : 0;
}
