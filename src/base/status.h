/* SPDX-License-Identifier: MIT
 * Status and error text, as every room uses them. Read include/ballast.h first. */
#ifndef BAL_BASE_STATUS_H
#define BAL_BASE_STATUS_H

#include "ballast.h"

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BAL_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define BAL_PRINTF(fmt, args)
#endif

/* Fills *err (if any) with `status` and the formatted sentence and returns `status`, so that a
 * failing line reads  return bal_fail(err, BAL_E_FORMAT, "%s: header is %zu bytes", path, n); */
bal_status bal_fail(bal_error *err, bal_status status, const char *fmt, ...) BAL_PRINTF(3, 4);

/* Puts "prefix: " in front of the text that *err holds already; returns err's status. */
bal_status bal_fail_in(bal_error *err, bal_status status, const char *fmt, ...) BAL_PRINTF(3, 4);

/* Out of memory, naming what was asked for. */
bal_status bal_nomem(bal_error *err, size_t n_bytes, const char *what);

/* Pass a failure through. */
#define BAL_TRY(expr)                                                                              \
    do {                                                                                           \
        const bal_status bal_try_status_ = (expr);                                                 \
        if (bal_try_status_ < 0) return bal_try_status_;                                           \
    } while (0)

/* Pass a failure through a clean-up label; needs a local `bal_status st`. */
#define BAL_GOTO(expr, label)                                                                      \
    do {                                                                                           \
        st = (expr);                                                                               \
        if (st < 0) goto label;                                                                    \
    } while (0)

#ifdef __cplusplus
}
#endif

#endif
