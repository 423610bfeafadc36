/* SPDX-License-Identifier: MIT
 * Ballast, public API: open a model, look at pictures, generate.
 * ballast_quant.h is the other half: measure, balance, quantize, write.
 *
 * Every function that can fail returns bal_status: 0 is success, negative is failure, positive
 * values mean "succeeded, and also ...". A sentence that names the culprit goes into the caller's
 * bal_error (which may be NULL). The library never prints, never exits. */
#ifndef BALLAST_H
#define BALLAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status -------------------------------------------------------------------------------- */

#define BAL_STATUS_LIST(X)                                                                         \
    X(OK, 0, "success")                                                                            \
    X(E_ARG, -1, "argument out of range")                                                          \
    X(E_NOMEM, -2, "out of memory")                                                                \
    X(E_IO, -3, "file could not be read or written")                                               \
    X(E_FORMAT, -4, "input is damaged or not of this format")                                      \
    X(E_UNSUP, -5, "valid, but not supported by this build")                                       \
    X(E_CAPACITY, -6, "context window is full")                                                    \
    X(E_CANCELLED, -7, "cancelled by the caller")                                                  \
    X(E_EXISTS, -8, "output exists already")                                                       \
    X(E_NUMERIC, -9, "NaN, Inf or underflow where a number was needed")

typedef enum bal_status {
#define X(id, v, text) BAL_##id = (v),
    BAL_STATUS_LIST(X)
#undef X
} bal_status;

/* Optional detail, filled only on failure. Lives in the caller's frame. */
typedef struct bal_error {
    bal_status status;
    char text[400]; /* names the file, tensor, key or argument at fault */
} bal_error;

const char *bal_status_text(bal_status status);

#ifdef __cplusplus
}
#endif
#endif
