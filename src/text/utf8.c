/* SPDX-License-Identifier: MIT */
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

#define REPLACEMENT 0xfffdu

/* What a lead byte promises: continuation bytes, the range of the first of them, its own bits. */
typedef struct lead {
    unsigned n_more, low, high, bits;
} lead;

static lead lead_of(unsigned b)
{
    if (b < 0xc2 || b > 0xf4) return (lead){0}; /* continuation, overlong or beyond U+10FFFF */
    if (b < 0xe0) return (lead){1, 0x80, 0xbf, b & 0x1f};
    if (b < 0xf0) return (lead){2, b == 0xe0 ? 0xa0 : 0x80, b == 0xed ? 0x9f : 0xbf, b & 0x0f};
    return (lead){3, b == 0xf0 ? 0x90 : 0x80, b == 0xf4 ? 0x8f : 0xbf, b & 0x07};
}

bal_utf8_char bal_utf8_next(const char *s, size_t n)
{
    const unsigned first = (unsigned char)s[0];
    if (first < 0x80) return (bal_utf8_char){first, 1, BAL_UTF8_GOOD};
    const lead l = lead_of(first);
    if (!l.n_more) return (bal_utf8_char){REPLACEMENT, 1, BAL_UTF8_BAD};
    uint32_t cp = l.bits;
    for (uint32_t i = 1; i <= l.n_more; i++) {
        if (i == n) return (bal_utf8_char){REPLACEMENT, i, BAL_UTF8_CUT};
        const unsigned b = (unsigned char)s[i];
        const unsigned low = i == 1 ? l.low : 0x80, high = i == 1 ? l.high : 0xbf;
        if (b < low || b > high) return (bal_utf8_char){REPLACEMENT, i, BAL_UTF8_BAD};
        cp = cp << 6 | (b & 0x3f);
    }
    return (bal_utf8_char){cp, l.n_more + 1, BAL_UTF8_GOOD};
}

size_t bal_utf8_put(uint32_t cp, char out[4])
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    const size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, cp >>= 6) out[i] = (char)(0x80 | (cp & 0x3f));
    const unsigned mark[] = {0, 0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(mark[n] | cp);
    return n;
}

bool bal_utf8_valid(const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        const bal_utf8_char c = bal_utf8_next(text + i, n - i);
        if (c.kind != BAL_UTF8_GOOD) return false;
        i += c.n_bytes;
    }
    return true;
}

bal_status bal_utf8_repair(char **out, size_t *n_out, const char *text, size_t n, bal_error *err)
{
    *out = NULL;
    *n_out = 0;
    size_t room = 0;
    if (!bal_size_mul(n, 3, &room) || !(*out = malloc(room + 1)))
        return bal_nomem(err, room, "a repaired text");
    char *p = *out;
    for (size_t i = 0; i < n;) {
        const bal_utf8_char c = bal_utf8_next(text + i, n - i);
        p += bal_utf8_put(c.cp, p);
        i += c.n_bytes;
    }
    *n_out = (size_t)(p - *out);
    return BAL_OK;
}

int bal_utf8_fit(const char *s, size_t n, int max)
{
    if (n <= (size_t)max) return (int)n;
    while (max > 0 && ((unsigned char)s[max] & 0xc0) == 0x80) max--;
    return max;
}

/* Writes what the held bytes have become and keeps what may still grow. */
static size_t settle(bal_utf8_stream *s, char *out)
{
    size_t n_out = 0;
    while (s->n_held) {
        const bal_utf8_char c = bal_utf8_next(s->held, s->n_held);
        if (c.kind == BAL_UTF8_CUT) break;
        n_out += bal_utf8_put(c.cp, out + n_out);
        s->n_held = (uint8_t)(s->n_held - c.n_bytes);
        memmove(s->held, s->held + c.n_bytes, s->n_held);
    }
    return n_out;
}

size_t bal_utf8_stream_push(bal_utf8_stream *s, const char *bytes, size_t n, char *out)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++) {
        s->held[s->n_held++] = bytes[i]; /* a held CUT is at most 3 bytes */
        n_out += settle(s, out + n_out);
    }
    return n_out;
}

size_t bal_utf8_stream_flush(bal_utf8_stream *s, char *out)
{
    const size_t n_out = s->n_held ? bal_utf8_put(REPLACEMENT, out) : 0;
    *s = (bal_utf8_stream){0};
    return n_out;
}
