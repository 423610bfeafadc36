/* SPDX-License-Identifier: MIT
 * What every cmocka test includes first: cmocka itself, the paths of the source tree and of the
 * third-party data, and a macro that prints the library's sentence when a call fails. */
#ifndef BAL_TESTS_CHECK_H
#define BAL_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"

/* A path inside the source tree, in one of 8 rotating static buffers. */
static inline const char *source_path(const char *relative)
{
    static char buf[8][1024];
    static unsigned turn;
    char *b = buf[turn++ % 8];
    const char *root = getenv("BALLAST_SOURCE_DIR");
    snprintf(b, sizeof buf[0], "%s/%s", root ? root : ".", relative);
    return b;
}

/* A path inside the third-party data ($BALLAST_TEST_DATA, default ../shared/data beside the
 * project), or NULL when that is absent: then the test says so and skips. */
static inline const char *data_path(const char *relative)
{
    static char buf[8][1024];
    static unsigned turn;
    char *b = buf[turn++ % 8];
    const char *env = getenv("BALLAST_TEST_DATA");
    snprintf(b, sizeof buf[0], "%s/%s", env ? env : source_path("../shared/data"), relative);
    return bal_path_exists(b) ? b : NULL;
}

#define SKIP_WITHOUT(path, what)                                                                   \
    do {                                                                                           \
        if (!(path)) {                                                                             \
            printf("skipped: third-party data %s is absent (set BALLAST_TEST_DATA)\n", what);      \
            skip();                                                                                \
        }                                                                                          \
    } while (0)

/* err must be a local bal_error */
#define ASSERT_OK(expr)                                                                            \
    do {                                                                                           \
        if ((expr) < 0) fail_msg("%s: %s", #expr, err.text);                                       \
    } while (0)

#define ASSERT_FAILS(expected, part_of_text, expr)                                                 \
    do {                                                                                           \
        err.text[0] = 0;                                                                           \
        const bal_status got_ = (expr);                                                            \
        if (got_ != (expected) || !strstr(err.text, part_of_text))                                 \
            fail_msg("%s: status %d, text '%s', wanted %d and '%s'", #expr, (int)got_, err.text,   \
                     (int)(expected), part_of_text);                                               \
    } while (0)

#endif
