/* SPDX-License-Identifier: MIT
 * What stands behind the public handles, for the files of src/api only. */
#ifndef BAL_API_CONTEXT_H
#define BAL_API_CONTEXT_H

#include "run/generate.h"

struct bal_context {
    bal_engine engine;
};

struct bal_chat {
    bal_dialog dialog;
    bal_image_opts image_opts;
};

/* Copies a caller's versioned struct into `known` (n_known bytes, zeroed here): what the caller's
 * version lacks stays zero, what this library does not know must be zero. given NULL: all zero.
 * first: size of the struct in its first version. BAL_E_ARG names the struct. */
bal_status bal_opts_read(void *known, size_t n_known, size_t first, const void *given,
                         const char *name, bal_error *err);
/* Copies as much of `known` as the caller's struct has room for; its `size` stays. */
bal_status bal_result_check(const void *given, size_t first, const char *name, bal_error *err);
void bal_result_write(void *given, const void *known, size_t n_known);

#endif
