/* SPDX-License-Identifier: MIT
 * Writes the wire format of protocol buffers into a fixed buffer, for tests that need a
 * tokenizer.model of their own making. */
#ifndef BAL_TESTS_PB_WRITER_H
#define BAL_TESTS_PB_WRITER_H

#include "check.h"

typedef struct pb_writer {
    uint8_t *data;
    size_t n, cap;
} pb_writer;

static inline void pb_raw(pb_writer *w, const void *data, size_t n)
{
    assert_true(n <= w->cap - w->n);
    if (n) memcpy(w->data + w->n, data, n);
    w->n += n;
}

static inline void pb_varint(pb_writer *w, uint64_t v)
{
    uint8_t b[10];
    size_t n = 0;
    for (; v > 0x7f; v >>= 7) b[n++] = (uint8_t)(v | 0x80);
    b[n++] = (uint8_t)v;
    pb_raw(w, b, n);
}

static inline void pb_number(pb_writer *w, uint32_t field, uint64_t v)
{
    pb_varint(w, field << 3);
    pb_varint(w, v);
}

static inline void pb_bytes(pb_writer *w, uint32_t field, const void *data, size_t n)
{
    pb_varint(w, field << 3 | 2);
    pb_varint(w, n);
    pb_raw(w, data, n);
}

static inline void pb_float(pb_writer *w, uint32_t field, float x)
{
    pb_varint(w, field << 3 | 5);
    pb_raw(w, &x, 4); /* little-endian, as the machines these tests run on */
}

/* A piece of a SentencePiece model: types 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused,
 * 6 byte. */
static inline void pb_piece(pb_writer *w, const void *text, size_t n, float score, int type)
{
    uint8_t own[512];
    pb_writer p = {own, 0, sizeof own};
    pb_bytes(&p, 1, text, n);
    pb_float(&p, 2, score);
    pb_number(&p, 3, (uint64_t)type);
    pb_bytes(w, 1, own, p.n);
}

static inline void pb_byte_pieces(pb_writer *w)
{
    char text[8];
    for (int b = 0; b < 256; b++) {
        snprintf(text, sizeof text, "<0x%02X>", b);
        pb_piece(w, text, 6, 0, 6);
    }
}

/* trainer_spec and normalizer_spec as Llama 2 has them, with four settings to break. */
static inline void pb_specs(pb_writer *w, int type, bool fallback, bool squeeze, const char *rules)
{
    uint8_t own[512];
    pb_writer p = {own, 0, sizeof own};
    pb_number(&p, 3, (uint64_t)type);
    pb_number(&p, 35, fallback);
    pb_bytes(w, 2, own, p.n);
    p.n = 0;
    pb_bytes(&p, 2, rules, strlen(rules));
    pb_number(&p, 3, true);
    pb_number(&p, 4, squeeze);
    pb_bytes(w, 3, own, p.n);
}

#endif
