/* SPDX-License-Identifier: MIT */
#include "text/protobuf.h"

#include <string.h>

bool bal_pb_varint(bal_pb_reader *r, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 64 && r->at < r->n; shift += 7) {
        const uint8_t b = r->data[r->at++];
        *value |= (uint64_t)(b & 0x7f) << shift; /* of the tenth byte only one bit has room */
        if (b < 0x80) return true;
    }
    return false;
}

static bool read_fixed(bal_pb_reader *r, size_t n, uint64_t *value)
{
    *value = 0;
    if (r->n - r->at < n) return false;
    for (size_t i = 0; i < n; i++) *value |= (uint64_t)r->data[r->at + i] << 8 * i;
    r->at += n;
    return true;
}

static bool read_bytes(bal_pb_reader *r, bal_pb_field *f)
{
    uint64_t n = 0;
    if (!bal_pb_varint(r, &n) || n > r->n - r->at) return false;
    f->bytes = r->data + r->at;
    f->n = (size_t)n;
    r->at += f->n;
    return true;
}

static bool read_value(bal_pb_reader *r, bal_pb_field *f)
{
    switch (f->kind) {
    case BAL_PB_VARINT: return bal_pb_varint(r, &f->value);
    case BAL_PB_FIXED64: return read_fixed(r, 8, &f->value);
    case BAL_PB_BYTES: return read_bytes(r, f);
    case BAL_PB_FIXED32: return read_fixed(r, 4, &f->value);
    }
    return false;
}

bool bal_pb_next(bal_pb_reader *r, bal_pb_field *f, bal_status *st, bal_error *err)
{
    const size_t begin = r->at;
    uint64_t key = 0;
    *st = BAL_OK;
    *f = (bal_pb_field){0};
    if (r->at == r->n) return false;
    if (bal_pb_varint(r, &key) && key >> 3 > 0 && key >> 3 < 1u << 29) {
        f->number = (uint32_t)(key >> 3);
        f->kind = (bal_pb_kind)(key & 7);
        if (read_value(r, f)) return true;
    }
    *st = bal_fail(err, BAL_E_FORMAT, "no field of a protocol buffer at byte %zu of %zu", begin,
                   r->n);
    return false;
}

float bal_pb_float(const bal_pb_field *f)
{
    const uint32_t bits = (uint32_t)f->value;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
