/* SPDX-License-Identifier: MIT
 * What answers are compared by. See run/evaluate.h. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "run/evaluate.h"
#include "text/utf8.h"

static bool is_space(int32_t cp)
{
    const utf8proc_category_t c = utf8proc_category(cp);
    return (cp >= '\t' && cp <= '\r') || c == UTF8PROC_CATEGORY_ZS || c == UTF8PROC_CATEGORY_ZL ||
           c == UTF8PROC_CATEGORY_ZP;
}

static bool is_kept(int32_t cp)
{
    switch (utf8proc_category(cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return true;
    default: return is_space(cp);
    }
}

bal_status bal_eval_normalise(char **out, const char *text, bal_error *err)
{
    const size_t n = strlen(text);
    size_t at = 0, end = 0; /* end: behind the last character that is no space */
    *out = malloc(4 * n + 1);
    if (!*out) return bal_nomem(err, 4 * n + 1, "a normalised answer");
    for (size_t i = 0; i < n;) {
        const bal_utf8_char c = bal_utf8_next(text + i, n - i);
        const int32_t cp = (int32_t)c.cp;
        i += c.n_bytes;
        if (!is_kept(cp) || (end == 0 && is_space(cp))) continue;
        at += bal_utf8_put((uint32_t)utf8proc_tolower(cp), *out + at);
        if (!is_space(cp)) end = at;
    }
    (*out)[end] = 0;
    return BAL_OK;
}
