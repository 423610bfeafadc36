/* SPDX-License-Identifier: MIT
 * The wire format of protocol buffers, read field by field from bytes that nobody has checked: no
 * schema, no allocation, nothing is followed beyond the end. Groups (an abandoned part of the
 * format) are refused. Source: the encoding chapter of the Protocol Buffers documentation. */
#ifndef BAL_TEXT_PROTOBUF_H
#define BAL_TEXT_PROTOBUF_H

#include "base/status.h"

typedef enum bal_pb_kind {
    BAL_PB_VARINT = 0,
    BAL_PB_FIXED64 = 1,
    BAL_PB_BYTES = 2, /* a string, bytes, a packed list or a message within */
    BAL_PB_FIXED32 = 5,
} bal_pb_kind;

typedef struct bal_pb_field {
    uint32_t number; /* 1 to 2^29 - 1 */
    bal_pb_kind kind;
    uint64_t value;       /* VARINT, FIXED64, FIXED32; 0 for BYTES */
    const uint8_t *bytes; /* BYTES: n of them, borrowed; else NULL */
    size_t n;
} bal_pb_field;

/* A message of n bytes being read; `at` starts at 0. */
typedef struct bal_pb_reader {
    const uint8_t *data;
    size_t n, at;
} bal_pb_reader;

/* The next field; false at the end, *st then says whether it is a clean one (BAL_E_FORMAT with the
 * offset in err if not). */
bool bal_pb_next(bal_pb_reader *r, bal_pb_field *f, bal_status *st, bal_error *err);
/* One varint, as packed lists hold them. False when the bytes end inside it. */
bool bal_pb_varint(bal_pb_reader *r, uint64_t *value);
/* What a FIXED32 means as a float. */
float bal_pb_float(const bal_pb_field *f);

#endif
