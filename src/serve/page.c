/* SPDX-License-Identifier: MIT */
#include "serve/page.h"

#include "base/hash.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

/* base64 of the SHA-256 of what stands between the first `open` and the first `close` behind it. */
static bal_status hash_between(char out[48], const char *html, size_t n, const char *open,
                               const char *close, bal_error *err)
{
    uint8_t digest[BAL_SHA256_BYTES];
    const char *from = memmem(html, n, open, strlen(open));
    if (from) from += strlen(open);
    const char *to = from ? memmem(from, n - (size_t)(from - html), close, strlen(close)) : NULL;
    if (!to) return bal_fail(err, BAL_E_FORMAT, "the page has no %s...%s", open, close);
    BAL_TRY(bal_sha256_bytes(digest, from, (size_t)(to - from), err));
    EVP_EncodeBlock((unsigned char *)out, digest, sizeof digest);
    return BAL_OK;
}

bal_status bal_page_policy(char *out, size_t size, const char *html, size_t n, bal_error *err)
{
    char script[48], style[48];
    BAL_TRY(hash_between(script, html, n, "<script>", "</script>", err));
    BAL_TRY(hash_between(style, html, n, "<style>", "</style>", err));
    snprintf(out, size,
             "default-src 'none'; script-src 'sha256-%s'; style-src 'sha256-%s'; img-src data: "
             "blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors "
             "'none'",
             script, style);
    return BAL_OK;
}
