/* SPDX-License-Identifier: MIT */
#include "base/hash.h"

#include "base/file.h"

#include <openssl/evp.h>

static bal_status crypto_failed(bal_error *err)
{
    return bal_fail(err, BAL_E_UNSUP, "libcrypto refused to compute SHA-256");
}

bal_status bal_sha256_init(bal_sha256 *h, bal_error *err)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    h->ctx = ctx;
    if (!ctx) return bal_nomem(err, sizeof(void *), "a SHA-256 context");
    return EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1 ? BAL_OK : crypto_failed(err);
}

bal_status bal_sha256_update(bal_sha256 *h, const void *data, size_t n_bytes, bal_error *err)
{
    return EVP_DigestUpdate(h->ctx, data, n_bytes) == 1 ? BAL_OK : crypto_failed(err);
}

bal_status bal_sha256_final(bal_sha256 *h, uint8_t digest[BAL_SHA256_BYTES], bal_error *err)
{
    return EVP_DigestFinal_ex(h->ctx, digest, NULL) == 1 ? BAL_OK : crypto_failed(err);
}

void bal_sha256_deinit(bal_sha256 *h)
{
    EVP_MD_CTX_free(h->ctx);
    h->ctx = NULL;
}

bal_status bal_sha256_bytes(uint8_t digest[BAL_SHA256_BYTES], const void *data, size_t n_bytes,
                            bal_error *err)
{
    bal_sha256 h = {0};
    bal_status st;
    BAL_GOTO(bal_sha256_init(&h, err), done);
    BAL_GOTO(bal_sha256_update(&h, data, n_bytes, err), done);
    BAL_GOTO(bal_sha256_final(&h, digest, err), done);
done:
    bal_sha256_deinit(&h);
    return st;
}

bal_status bal_sha256_file(uint8_t digest[BAL_SHA256_BYTES], const char *path, bal_error *err)
{
    bal_mapping m;
    BAL_TRY(bal_map_open(&m, path, err));
    const bal_status st = bal_sha256_bytes(digest, m.data, m.n_bytes, err);
    bal_map_close(&m);
    return st;
}

void bal_hex(char *out, const uint8_t *bytes, size_t n_bytes)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n_bytes; i++) {
        out[2 * i] = digits[bytes[i] >> 4];
        out[2 * i + 1] = digits[bytes[i] & 15];
    }
    out[2 * n_bytes] = 0;
}
