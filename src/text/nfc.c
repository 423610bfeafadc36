/* SPDX-License-Identifier: MIT */
#include "text/nfc.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/size.h"
#include "text/utf8.h"

#define OPTIONS (UTF8PROC_STABLE | UTF8PROC_COMPOSE)
/* runs up to here are sorted by insertion: nearly all of them are of one or two marks */
#define SHORT_RUN 16

bool bal_nfc_is_plain(const char *text, size_t n)
{
    unsigned highest = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned b = (unsigned char)text[i];
        highest = b > highest ? b : highest;
    }
    return highest < 0xcc; /* U+0300 begins with CC; continuation bytes end at BF */
}

/* Code points of the full canonical decomposition, unordered. Returns how many, or -1. At most 3
 * come from a character of 2 bytes and 4 from longer ones, so `room` = 2 n is enough. */
static utf8proc_ssize_t decompose(utf8proc_int32_t *out, size_t room, const char *text, size_t n)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n;) {
        const bal_utf8_char c = bal_utf8_next(text + i, n - i);
        i += c.n_bytes;
        int boundary = 0;
        const utf8proc_ssize_t left = (utf8proc_ssize_t)(room - n_out);
        const utf8proc_ssize_t got =
            utf8proc_decompose_char((utf8proc_int32_t)c.cp, out + n_out, left, OPTIONS, &boundary);
        if (got < 0 || got > left) return -1;
        n_out += (size_t)got;
    }
    return (utf8proc_ssize_t)n_out;
}

static unsigned class_of(utf8proc_int32_t cp)
{
    return (unsigned)utf8proc_get_property(cp)->combining_class & 0xff;
}

static void sort_short(utf8proc_int32_t *run, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        const utf8proc_int32_t cp = run[i];
        size_t j = i;
        for (; j > 0 && class_of(run[j - 1]) > class_of(cp); j--) run[j] = run[j - 1];
        run[j] = cp;
    }
}

/* Counting sort by class; stable, as the standard wants. `room` holds n code points. */
static void sort_long(utf8proc_int32_t *run, size_t n, utf8proc_int32_t *room)
{
    size_t begin[257] = {0};
    for (size_t i = 0; i < n; i++) begin[class_of(run[i]) + 1]++;
    for (size_t c = 0; c < 256; c++) begin[c + 1] += begin[c];
    for (size_t i = 0; i < n; i++) room[begin[class_of(run[i])]++] = run[i];
    memcpy(run, room, n * sizeof *run);
}

/* Canonical ordering. `room` holds n code points. */
static void order_marks(utf8proc_int32_t *cps, size_t n, utf8proc_int32_t *room)
{
    for (size_t i = 0; i < n;) {
        size_t end = i;
        while (end < n && class_of(cps[end]) != 0) end++;
        if (end - i > SHORT_RUN)
            sort_long(cps + i, end - i, room);
        else
            sort_short(cps + i, end - i);
        i = end + 1;
    }
}

static bal_status to_utf8(char **out, size_t *n_out, const utf8proc_int32_t *cps, size_t n,
                          bal_error *err)
{
    char unit[4];
    size_t n_bytes = 0;
    for (size_t i = 0; i < n; i++) n_bytes += bal_utf8_put((uint32_t)cps[i], unit);
    if (!(*out = malloc(n_bytes + 4))) return bal_nomem(err, n_bytes, "a normalised text");
    char *p = *out;
    for (size_t i = 0; i < n; i++) p += bal_utf8_put((uint32_t)cps[i], p);
    *n_out = n_bytes;
    return BAL_OK;
}

bal_status bal_nfc(char **out, size_t *n_out, const char *text, size_t n, bal_error *err)
{
    *out = NULL;
    *n_out = 0;
    size_t n_bytes = 0;
    utf8proc_int32_t *cps = NULL;
    /* two halves: the code points, and as much again for sorting */
    if (!bal_size_mul(n + 1, 4 * sizeof *cps, &n_bytes) || !(cps = malloc(n_bytes)))
        return bal_nomem(err, n_bytes, "normalising a text");
    const size_t half = 2 * (n + 1);
    utf8proc_ssize_t n_cps = decompose(cps, half, text, n);
    if (n_cps >= 0) {
        order_marks(cps, (size_t)n_cps, cps + half);
        n_cps = utf8proc_normalize_utf32(cps, n_cps, OPTIONS);
    }
    const bal_status st = n_cps < 0 ? bal_fail(err, BAL_E_FORMAT, "text cannot be normalised")
                                    : to_utf8(out, n_out, cps, (size_t)n_cps, err);
    free(cps);
    return st;
}
