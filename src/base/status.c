/* SPDX-License-Identifier: MIT */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *bal_status_text(bal_status status)
{
    switch (status) {
#define X(id, v, text)                                                                             \
    case BAL_##id: return text;
        BAL_STATUS_LIST(X)
#undef X
    }
    return "unknown status";
}

/* Names from outside end up in messages and from there on terminals: no escape sequences. */
static void disarm(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

bal_status bal_fail(bal_error *err, bal_status status, const char *fmt, ...)
{
    if (!err) return status;
    err->status = status;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    disarm(err->text);
    return status;
}

bal_status bal_fail_in(bal_error *err, bal_status status, const char *fmt, ...)
{
    if (!err) return status;
    char old[sizeof err->text], prefix[sizeof err->text];
    memcpy(old, err->text, sizeof old);
    old[sizeof old - 1] = 0;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, ap);
    va_end(ap);
    err->status = status;
    const size_t n = strlen(prefix) < sizeof err->text - 3 ? strlen(prefix) : sizeof err->text - 3;
    memcpy(err->text, prefix, n);
    memcpy(err->text + n, ": ", 2);
    const size_t room = sizeof err->text - n - 3, rest = strlen(old) < room ? strlen(old) : room;
    memcpy(err->text + n + 2, old, rest);
    err->text[n + 2 + rest] = 0;
    disarm(err->text);
    return status;
}

bal_status bal_nomem(bal_error *err, size_t n_bytes, const char *what)
{
    return bal_fail(err, BAL_E_NOMEM, "out of memory: %zu bytes for %s", n_bytes, what);
}
