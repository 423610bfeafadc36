/* SPDX-License-Identifier: MIT */
#include "serve/stop_text.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

void bal_stop_text_init(bal_stop_text *t, const char *const *stops, int n_stops)
{
    *t = (bal_stop_text){.stops = stops, .n_stops = n_stops};
}

void bal_stop_text_deinit(bal_stop_text *t)
{
    free(t->held);
    *t = (bal_stop_text){0};
}

/* Length of the longest stop string that ends at held[end], 0 where none does. */
static size_t ends_at(const bal_stop_text *t, size_t end)
{
    size_t longest = 0;
    for (int i = 0; i < t->n_stops; i++) {
        const size_t n = strlen(t->stops[i]);
        if (n <= end && n > longest && memcmp(t->held + end - n, t->stops[i], n) == 0) longest = n;
    }
    return longest;
}

/* Bytes at the end of the text that are the beginning of a stop string. */
static size_t undecided(const bal_stop_text *t)
{
    size_t longest = 0;
    for (int i = 0; i < t->n_stops; i++) {
        const size_t n = strlen(t->stops[i]);
        for (size_t m = bal_min(n - 1, t->n_held); m > longest; m--)
            if (memcmp(t->held + t->n_held - m, t->stops[i], m) == 0) longest = m;
    }
    return longest;
}

static bal_status append(bal_stop_text *t, const char *bytes, size_t n, bal_error *err)
{
    size_t need = 0;
    if (!bal_size_add(t->n_held, n, &need)) return bal_nomem(err, n, "an answer");
    if (need > t->cap) {
        char *more = realloc(t->held, need);
        if (!more) return bal_nomem(err, need, "an answer");
        t->held = more;
        t->cap = need;
    }
    if (n) memcpy(t->held + t->n_held, bytes, n);
    t->n_held = need;
    return BAL_OK;
}

/* What was given by the last call stands in front of what is held: it is dropped first. */
bal_status bal_stop_text_push(bal_stop_text *t, const char *bytes, size_t n, bool last,
                              const char **out, size_t *n_out, bal_error *err)
{
    *out = "";
    *n_out = 0;
    if (t->stopped) return BAL_OK;
    if (t->n_given) memmove(t->held, t->held + t->n_given, t->n_held -= t->n_given);
    t->n_given = 0;
    const size_t before = t->n_held;
    BAL_TRY(append(t, bytes, n, err));
    for (size_t end = before + 1; end <= t->n_held; end++) {
        const size_t length = ends_at(t, end);
        if (!length) continue;
        t->stopped = true;
        t->n_given = end - length;
        *out = t->held;
        *n_out = t->n_given;
        return BAL_OK;
    }
    t->n_given = t->n_held - (last ? 0 : undecided(t));
    if (t->n_given) *out = t->held;
    *n_out = t->n_given;
    return BAL_OK;
}
