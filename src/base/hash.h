/* SPDX-License-Identifier: MIT
 * SHA-256 through libcrypto, for the hashes of model, calibration data and program that an
 * artifact carries. Identity of files only; nothing here is used to keep a secret. */
#ifndef BAL_BASE_HASH_H
#define BAL_BASE_HASH_H

#include "base/status.h"

enum { BAL_SHA256_BYTES = 32, BAL_SHA256_HEX = 65 /* with the NUL */ };

/* Streaming form: init, update any number of times, final. deinit in every case; it is idempotent
 * and a zeroed struct is fine. */
typedef struct bal_sha256 {
    void *ctx;
} bal_sha256;

bal_status bal_sha256_init(bal_sha256 *h, bal_error *err);
bal_status bal_sha256_update(bal_sha256 *h, const void *data, size_t n_bytes, bal_error *err);
bal_status bal_sha256_final(bal_sha256 *h, uint8_t digest[BAL_SHA256_BYTES], bal_error *err);
void bal_sha256_deinit(bal_sha256 *h);

/* The whole of a buffer or mapping, and of a file. */
bal_status bal_sha256_bytes(uint8_t digest[BAL_SHA256_BYTES], const void *data, size_t n_bytes,
                            bal_error *err);
bal_status bal_sha256_file(uint8_t digest[BAL_SHA256_BYTES], const char *path, bal_error *err);

/* n_bytes as lower-case hex and a NUL into out[2 * n_bytes + 1] */
void bal_hex(char *out, const uint8_t *bytes, size_t n_bytes);

#endif
