/* SPDX-License-Identifier: MIT
 * Stop strings on streamed text: what could still become a stop string is held back, what cannot
 * goes out. The result does not depend on how the text is cut into pieces: the stop string that
 * ends first ends the text, and of those that end together the longest. */
#ifndef BAL_SERVE_STOP_TEXT_H
#define BAL_SERVE_STOP_TEXT_H

#include "base/status.h"

/* Zero-initialise, then init; deinit is idempotent. Strings are borrowed. */
typedef struct bal_stop_text {
    const char *const *stops; /* [n_stops], not empty */
    int n_stops;
    char *held; /* the end of the text; its first n_given bytes went out with the last call */
    size_t n_held, n_given, cap;
    bool stopped;
} bal_stop_text;

void bal_stop_text_init(bal_stop_text *t, const char *const *stops, int n_stops);
void bal_stop_text_deinit(bal_stop_text *t);

/* Adds n bytes of whole characters; *out (valid until the next call) are the *n_out bytes that are
 * certain now. After a stop string t->stopped is set and nothing comes any more. last: the text
 * ends here, so nothing is held back. BAL_E_NOMEM. */
bal_status bal_stop_text_push(bal_stop_text *t, const char *bytes, size_t n, bool last,
                              const char **out, size_t *n_out, bal_error *err);

#endif
