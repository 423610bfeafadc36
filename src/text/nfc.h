/* SPDX-License-Identifier: MIT
 * Unicode normalisation form C over utf8proc's tables. utf8proc's own whole-string function sorts
 * combining marks by neighbour swaps, which is quadratic on hostile text; here runs of marks are
 * sorted in linear time and only the tables and the composition are utf8proc's. */
#ifndef BAL_TEXT_NFC_H
#define BAL_TEXT_NFC_H

#include "base/status.h"

/* True when a glance shows that text (valid UTF-8) is in NFC: nothing at or above U+0300. */
bool bal_nfc_is_plain(const char *text, size_t n);
/* The NFC of text (valid UTF-8, any length); the caller frees *out. Fails for memory only. */
bal_status bal_nfc(char **out, size_t *n_out, const char *text, size_t n, bal_error *err);

#endif
