/* SPDX-License-Identifier: MIT
 * UTF-8 as the decoders of Python (errors="replace") and the WHATWG read it: an ill-formed
 * sequence becomes one U+FFFD per maximal subpart (Unicode 15, section 3.9, table 3-8). Owns
 * decoding, repair of whole texts and the stream that turns token bytes into whole characters.
 * Nothing here refuses text. */
#ifndef BAL_TEXT_UTF8_H
#define BAL_TEXT_UTF8_H

#include "base/status.h"

typedef enum bal_utf8_kind {
    BAL_UTF8_GOOD, /* a character */
    BAL_UTF8_BAD,  /* bytes that cannot begin or continue one; cp is U+FFFD */
    BAL_UTF8_CUT,  /* the text ends inside what could become one; cp is U+FFFD */
} bal_utf8_kind;

typedef struct bal_utf8_char {
    uint32_t cp;
    uint32_t n_bytes; /* taken from the text, 1 to 4 */
    bal_utf8_kind kind;
} bal_utf8_char;

/* The character at s[0..n), n >= 1. */
bal_utf8_char bal_utf8_next(const char *s, size_t n);
/* Writes cp (a Unicode scalar value) into out, returns the 1 to 4 bytes it took. */
size_t bal_utf8_put(uint32_t cp, char out[4]);
bool bal_utf8_valid(const char *text, size_t n);
/* A copy of text with every ill-formed sequence replaced; the caller frees *out. */
bal_status bal_utf8_repair(char **out, size_t *n_out, const char *text, size_t n, bal_error *err);
/* The longest length <= max that does not cut a character of s[0..n), for "%.*s" in messages. */
int bal_utf8_fit(const char *s, size_t n, int max);

/* ---- Stream --------------------------------------------------------------------------------
 * Token bytes in, whole characters out; zero-initialise. What comes out in all is the repaired
 * form of all bytes that went in, wherever they were split. */
typedef struct bal_utf8_stream {
    char held[4]; /* the beginning of a character that has not ended yet */
    uint8_t n_held;
} bal_utf8_stream;

/* Bytes `out` must have room for: every byte may become a U+FFFD, the held ones included. */
#define BAL_UTF8_STREAM_ROOM(n) (3 * ((size_t)(n) + 4))

/* Both return the bytes written to out. flush needs room for BAL_UTF8_STREAM_ROOM(0). */
size_t bal_utf8_stream_push(bal_utf8_stream *s, const char *bytes, size_t n, char *out);
size_t bal_utf8_stream_flush(bal_utf8_stream *s, char *out);

#endif
