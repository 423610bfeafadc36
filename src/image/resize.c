/* SPDX-License-Identifier: MIT
 * Pillow's convolution resize. The recipe and the hashes that prove it stand in
 * tests/unit/test_image_resize.c. Rows flow through a ring just tall enough for one output row,
 * so nothing of the source's height is kept. Needs -ffp-contract=off, as the whole tree has. */
#include "image/resize.h"

#include "base/size.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { PRECISION = 22, HALF = 1 << (PRECISION - 1), CHUNK = 768 };

/* ---- Weights ------------------------------------------------------------------------------- */

static double bilinear(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
    return 0.0;
}

static double sinc(double x)
{
    if (x == 0.0) return 1.0;
    x *= 3.14159265358979323846;
    return sin(x) / x;
}

static double lanczos(double x)
{
    return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
}

typedef double curve_fn(double x);

static const struct {
    curve_fn *curve;
    double radius;
} filters[] = {
    [BAL_FILTER_LANCZOS] = {lanczos, 3.0},
    [BAL_FILTER_BILINEAR] = {bilinear, 1.0},
    [BAL_FILTER_BICUBIC] = {bicubic, 2.0},
};

/* For each of n outputs along one axis: the inputs [start, start + count) and their weights. */
typedef struct taps {
    int *start, *count;
    int32_t *weight; /* [n][width], fixed point */
    size_t width;    /* the largest count possible */
} taps;

static void taps_free(taps *t)
{
    free(t->start);
    free(t->count);
    free(t->weight);
    *t = (taps){0};
}

static bal_status taps_create(taps *t, int n, double support, bal_error *err)
{
    t->width = (size_t)ceil(support) * 2 + 1;
    size_t n_weights;
    if (!bal_size_mul((size_t)n * sizeof(int32_t), t->width, &n_weights))
        return bal_fail(err, BAL_E_ARG, "resize: weights of %d outputs overflow", n);
    t->start = malloc((size_t)n * sizeof *t->start);
    t->count = malloc((size_t)n * sizeof *t->count);
    t->weight = malloc(n_weights);
    return t->start && t->count && t->weight ? BAL_OK : bal_nomem(err, n_weights, "resize weights");
}

/* One output's window and weights. `row` holds t->width doubles of scratch. */
static void taps_fill(taps *t, int i, int n_in, double scale, bal_filter filter, double *row)
{
    const double stretch = scale < 1.0 ? 1.0 : scale, support = filters[filter].radius * stretch;
    const double center = (i + 0.5) * scale, shrink = 1.0 / stretch;
    const int first = (int)(center - support + 0.5), last = (int)(center + support + 0.5);
    const int lo = first < 0 ? 0 : first, hi = last > n_in ? n_in : last;
    double sum = 0.0;
    for (int k = 0; k < hi - lo; k++) {
        row[k] = filters[filter].curve((k + lo - center + 0.5) * shrink);
        sum += row[k];
    }
    int32_t *w = t->weight + (size_t)i * t->width;
    for (int k = 0; k < hi - lo; k++) {
        const double share = sum != 0.0 ? row[k] / sum : row[k];
        w[k] = (int32_t)(share * (1 << PRECISION) + (share < 0.0 ? -0.5 : 0.5));
    }
    t->start[i] = lo;
    t->count[i] = hi - lo;
}

static bal_status taps_init(taps *t, int n_in, int n_out, bal_filter filter, bal_error *err)
{
    const double scale = (double)n_in / n_out;
    BAL_TRY(taps_create(t, n_out, filters[filter].radius * (scale < 1.0 ? 1.0 : scale), err));
    double *row = malloc(t->width * sizeof *row);
    if (!row) return bal_nomem(err, t->width * sizeof *row, "resize weights");
    for (int i = 0; i < n_out; i++) taps_fill(t, i, n_in, scale, filter, row);
    free(row);
    return BAL_OK;
}

/* ---- The two passes ------------------------------------------------------------------------ */

static inline uint8_t clip8(int32_t acc)
{
    const int32_t v = acc >> PRECISION;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

static void pass_across(uint8_t *to, const uint8_t *from, const taps *t, int width)
{
    for (int x = 0; x < width; x++, to += 3) {
        const uint8_t *p = from + (size_t)t->start[x] * 3;
        const int32_t *w = t->weight + (size_t)x * t->width;
        int32_t r = HALF, g = HALF, b = HALF;
        for (int k = 0; k < t->count[x]; k++, p += 3) {
            r += w[k] * p[0];
            g += w[k] * p[1];
            b += w[k] * p[2];
        }
        to[0] = clip8(r);
        to[1] = clip8(g);
        to[2] = clip8(b);
    }
}

/* Output row y of n bytes; source row i stands in ring row i modulo ring_rows. */
static void pass_down(uint8_t *to, const uint8_t *ring, size_t ring_rows, const taps *t, int y,
                      size_t n)
{
    const int32_t *w = t->weight + (size_t)y * t->width;
    const size_t start = (size_t)t->start[y], count = (size_t)t->count[y];
    for (size_t at = 0; at < n; at += CHUNK) {
        int32_t acc[CHUNK];
        const size_t m = bal_min(n - at, CHUNK);
        for (size_t i = 0; i < m; i++) acc[i] = HALF;
        for (size_t k = 0; k < count; k++) {
            const uint8_t *row = ring + (start + k) % ring_rows * n + at;
            const int32_t wk = w[k];
            for (size_t i = 0; i < m; i++) acc[i] += wk * row[i];
        }
        for (size_t i = 0; i < m; i++) to[at + i] = clip8(acc[i]);
    }
}

/* ---- The flow of rows ---------------------------------------------------------------------- */

typedef struct resizer {
    const bal_framed *src;
    bal_image *dst;
    taps across, down; /* width 0: that pass changes nothing and is left out */
    bool down_first;
    uint8_t *row;      /* one source row between its margins */
    uint8_t *down_row; /* one row that has passed down but not across */
    uint8_t *margin;   /* a row of the frame's colour, as the ring holds rows */
    uint8_t *ring;     /* [ring_rows][n_ring]: source rows, resized across unless down_first */
    size_t ring_rows, n_ring;
} resizer;

/* The first pass rounds to 8 bits, so the order shows in the pixels. Until version 12 Pillow always
 * went across first; since 13.0 it goes down first if the height shrinks by more than twice as many
 * pixels as the width (found by asking Pillow 13.0 for 2,284 sizes). */
static bool goes_down_first(const bal_framed *f, const bal_image *dst)
{
    return dst->height < f->height &&
           (int64_t)f->height - dst->height > 2 * ((int64_t)f->width - dst->width);
}

static void paint(uint8_t *to, const bal_framed *f)
{
    for (int x = 0; x < f->width; x++) memcpy(to + 3 * (size_t)x, f->colour, 3);
}

static void across(const resizer *r, uint8_t *to, const uint8_t *from)
{
    if (r->across.width)
        pass_across(to, from, &r->across, r->dst->width);
    else
        memcpy(to, from, (size_t)r->dst->width * 3);
}

/* Source row y with its margins, ready for the ring. */
static void make_row(const resizer *r, uint8_t *to, int y)
{
    const bal_framed *f = r->src;
    if (y < f->y || y >= f->y + f->image->height) {
        memcpy(to, r->margin, r->n_ring);
        return;
    }
    const size_t n = (size_t)f->image->width * 3;
    const uint8_t *from = f->image->rgb + (size_t)(y - f->y) * n;
    if (f->width != f->image->width) {
        memcpy(r->row + (size_t)f->x * 3, from, n);
        from = r->row;
    }
    if (r->down_first)
        memcpy(to, from, r->n_ring);
    else
        across(r, to, from);
}

/* Output row y; the ring holds the source rows it needs. */
static void finish_row(const resizer *r, uint8_t *to, int y)
{
    uint8_t *down = r->down_first ? r->down_row : to;
    pass_down(down, r->ring, r->ring_rows, &r->down, y, r->n_ring);
    if (r->down_first) across(r, to, down);
}

static void run(const resizer *r)
{
    int next = 0; /* source rows below it have been made */
    for (int y = 0; y < r->dst->height; y++) {
        uint8_t *to = r->dst->rgb + (size_t)y * (size_t)r->dst->width * 3;
        if (!r->down.width) {
            make_row(r, to, y);
            continue;
        }
        const int start = r->down.start[y], end = start + r->down.count[y];
        for (next = next < start ? start : next; next < end; next++)
            make_row(r, r->ring + (size_t)next % r->ring_rows * r->n_ring, next);
        finish_row(r, to, y);
    }
}

static bal_status allocate_rows(resizer *r, bal_error *err)
{
    const size_t n_in = (size_t)r->src->width * 3, n_out = (size_t)r->dst->width * 3;
    r->n_ring = r->down_first ? n_in : n_out;
    r->ring_rows = bal_max(bal_min(r->down.width, (size_t)r->src->height), 1);
    size_t n;
    if (!bal_size_mul(r->ring_rows, r->n_ring, &n))
        return bal_fail(err, BAL_E_ARG, "resize: %zu rows of %zu bytes overflow", r->ring_rows,
                        r->n_ring);
    r->row = malloc(n_in);
    r->down_row = malloc(n_in);
    r->margin = malloc(r->n_ring);
    r->ring = malloc(n);
    return r->row && r->down_row && r->margin && r->ring ? BAL_OK
                                                         : bal_nomem(err, n, "resize rows");
}

static bal_status prepare(resizer *r, bal_filter filter, bal_error *err)
{
    const bal_framed *f = r->src;
    r->down_first = goes_down_first(f, r->dst);
    if (f->width != r->dst->width)
        BAL_TRY(taps_init(&r->across, f->width, r->dst->width, filter, err));
    if (f->height != r->dst->height)
        BAL_TRY(taps_init(&r->down, f->height, r->dst->height, filter, err));
    BAL_TRY(allocate_rows(r, err));
    paint(r->row, f);
    if (r->down_first)
        memcpy(r->margin, r->row, r->n_ring);
    else
        across(r, r->margin, r->row);
    return BAL_OK;
}

static bal_status check(const bal_framed *f, bal_filter filter, bal_error *err)
{
    if (filter != BAL_FILTER_BILINEAR && filter != BAL_FILTER_BICUBIC &&
        filter != BAL_FILTER_LANCZOS)
        return bal_fail(err, BAL_E_ARG, "resize filter %d; 1 lanczos, 2 bilinear, 3 bicubic",
                        (int)filter);
    const bal_image *img = f->image;
    if (img->width < 1 || img->height < 1 || f->x < 0 || f->y < 0 ||
        f->width > BAL_IMAGE_MAX_SIDE || f->height > BAL_IMAGE_MAX_SIDE ||
        img->width > f->width - f->x || img->height > f->height - f->y)
        return bal_fail(err, BAL_E_ARG, "resize: a %d x %d image at (%d, %d) in a %d x %d frame",
                        img->width, img->height, f->x, f->y, f->width, f->height);
    return BAL_OK;
}

bal_status bal_framed_resize(bal_image *dst, const bal_framed *src, int width, int height,
                             bal_filter filter, bal_error *err)
{
    *dst = (bal_image){0};
    BAL_TRY(check(src, filter, err));
    BAL_TRY(bal_image_create(dst, width, height, err));
    resizer r = {.src = src, .dst = dst};
    const bal_status st = prepare(&r, filter, err);
    if (st == BAL_OK) run(&r);
    taps_free(&r.across);
    taps_free(&r.down);
    free(r.row);
    free(r.down_row);
    free(r.margin);
    free(r.ring);
    if (st < 0) bal_image_free(dst);
    return st;
}

bal_status bal_image_resize(bal_image *dst, const bal_image *src, int width, int height,
                            bal_filter filter, bal_error *err)
{
    const bal_framed whole = {.image = src, .width = src->width, .height = src->height};
    return bal_framed_resize(dst, &whole, width, height, filter, err);
}
