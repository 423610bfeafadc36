/* SPDX-License-Identifier: MIT */
#include "gpu_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"

/* A tensor core may cut sums off instead of rounding them. */
#define WIDER 8.0

/* ---- Weights --------------------------------------------------------------------------------- */

static void fill(uint8_t *p, size_t n, int part)
{
    uint64_t x = 88172645463325252u + (uint64_t)part;
    for (size_t i = 0; i + 8 <= n; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        memcpy(p + i, &x, 8);
    }
}

/* Scales near 2^-6 and zero points within the codes: products of ordinary size. */
static bal_status make_packed(weights *w, int i, int bits, bal_error *err)
{
    bal_packed_layout l;
    bal_device_part *part = &w->parts[i];
    BAL_TRY(bal_packed_layout_init(&l, bits, part->n, w->k, 128, err));
    uint8_t *p = w->memory[i] = aligned_alloc(64, l.n_bytes);
    if (!p) return bal_nomem(err, l.n_bytes, "weights");
    fill(p, l.n_bytes, i);
    for (size_t at = l.scales_offset; at < l.zeros_offset; at += 2) p[at + 1] = 0x24;
    for (size_t at = l.zeros_offset; at < l.n_bytes; at++) p[at] &= (uint8_t)((1 << bits) - 1);
    BAL_TRY(bal_packed_view_init(&part->packed, &l, p, l.n_bytes, err));
    w->bytes += (double)l.n_bytes;
    return bal_type_from_bits(&part->type, bits, err);
}

static bal_status make_float(weights *w, int i, bal_error *err)
{
    bal_device_part *part = &w->parts[i];
    const size_t bytes = part->n * w->k * 2;
    uint8_t *p = w->memory[i] = malloc(bytes);
    if (!p) return bal_nomem(err, bytes, "weights");
    fill(p, bytes, i);
    for (size_t at = 1; at < bytes; at += 2) p[at] = (uint8_t)(0x3c | (p[at] & 0x80));
    part->type = BAL_TYPE_BF16;
    part->w = p;
    w->bytes += (double)bytes;
    return BAL_OK;
}

bal_status weights_make(weights *w, const shape *s, int bits, bal_act act, bal_error *err)
{
    *w = (weights){.n_parts = s->gated ? 2 : 1, .k = s->k};
    w->row = malloc(s->k * sizeof *w->row);
    if (!w->row) return bal_nomem(err, s->k * sizeof *w->row, "a row");
    for (int i = 0; i < w->n_parts; i++) {
        w->parts[i].n = s->n;
        w->parts[i].act = act;
        BAL_TRY(bits == 16 ? make_float(w, i, err) : make_packed(w, i, bits, err));
    }
    return BAL_OK;
}

void weights_free(weights *w)
{
    for (int i = 0; i < w->n_parts; i++) free(w->memory[i]);
    free(w->row);
}

/* ---- What is expected ------------------------------------------------------------------------ */

static void decode_row(const bal_device_part *p, size_t n, size_t k, float *out)
{
    if (bal_type_get(p->type)->packed) {
        bal_packed_row(&p->packed, n, out);
        return;
    }
    const uint16_t *w = (const uint16_t *)p->w + n * k;
    for (size_t i = 0; i < k; i++) out[i] = bal_bf16_to_f32(w[i]);
}

/* The scale of input i's group; 0 for float weights. */
static double scale_of(const bal_device_part *p, size_t n, size_t i)
{
    if (!bal_type_get(p->type)->packed) return 0.0;
    const bal_packed_layout *l = &p->packed.layout;
    const size_t group = i / BAL_UNIT / l->units_per_group;
    return (double)bal_f16_to_f32(
        bal_packed_scales(&p->packed, n / BAL_PANEL)[group * BAL_PANEL + n % BAL_PANEL]);
}

static double largest(const float *x, size_t n)
{
    float most = 0.0f;
    for (size_t i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    return (double)most;
}

/* Inputs of 16 bits: rounding of x, f32 sums of shifted codes, what is too small for f16. */
static expectation expect_halves(weights *w, const bal_device_part *p, const float *x, size_t n)
{
    const double shift = bal_type_get(p->type)->bits == 8 ? 512 : 128;
    expectation e = {0, 0};
    double most = 0.0;
    for (size_t i = 0; i < w->k; i++) {
        if (i % 128 == 0) most = largest(x + i, w->k - i < 128 ? w->k - i : 128);
        const double v = (double)x[i], weight = (double)w->row[i];
        const double shifted = scale_of(p, n, i) * shift;
        e.y += weight * v;
        e.bound += WIDER * (0x1p-11 * fabs(weight * v) + 0x1p-20 * shifted * fabs(v) +
                            0x1p-37 * (fabs(weight) + shifted) * most);
    }
    return e;
}

/* Inputs as bytes with one scale: integers are exact, and a group costs one f32 rounding, or two.
 */
static expectation expect_bytes(weights *w, const bal_device_part *p, const float *x)
{
    const float most = (float)largest(x, w->k), scale = most / 127.0f, inverse = 127.0f / most;
    const double each = 0x1p-24 * (double)(2 * p->packed.layout.groups + 4);
    expectation e = {0, 0};
    for (size_t i = 0; i < w->k; i++) {
        const double v = (double)w->row[i] * (double)rintf(x[i] * inverse) * (double)scale;
        e.y += v;
        e.bound += each * fabs(v);
    }
    return e;
}

static expectation expect_part(weights *w, int part, const float *x, size_t n)
{
    const bal_device_part *p = &w->parts[part];
    decode_row(p, n, w->k, w->row);
    return p->act.kind == BAL_ACT_A8 ? expect_bytes(w, p, x) : expect_halves(w, p, x, n);
}

/* silu's slope is at most 1.1; the device's exponential is good to 2^-16 of what comes out. */
expectation weights_expect(weights *w, const float *x, size_t n)
{
    const expectation gate = expect_part(w, 0, x, n);
    if (w->n_parts == 1) return gate;
    const expectation up = expect_part(w, 1, x, n);
    const double silu = gate.y / (1.0 + exp(-gate.y)), y = silu * up.y;
    return (expectation){y, 1.1 * gate.bound * (fabs(up.y) + up.bound) + fabs(silu) * up.bound +
                                0x1p-16 * fabs(y) + 1e-30};
}
