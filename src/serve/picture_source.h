/* SPDX-License-Identifier: MIT
 * Where the pictures of a request come from: data URLs always; files below one folder and
 * http(s) URLs where the owner of the server says so. Bytes in, decoded upright pictures out. */
#ifndef BAL_SERVE_PICTURE_SOURCE_H
#define BAL_SERVE_PICTURE_SOURCE_H

#include "serve/fetch.h"
#include "serve/request.h"

typedef struct bal_picture_rules {
    const char *media_dir; /* NULL: no files */
    bal_fetch_rules fetch; /* n_allow 0: no URLs. Its max_bytes holds for files too */
    bal_image_opts image;
} bal_picture_rules;

/* Whether reading it waits for another server. */
bool bal_picture_is_remote(const bal_image_ref *ref);
/* The bytes it stands for (malloc'ed), then the picture in them. Refusals name it (ref->param) and
 * what is wrong with it. */
bal_status bal_picture_read(uint8_t **out, size_t *n, const bal_image_ref *ref,
                            const bal_picture_rules *rules, bal_refusal *f);
bal_status bal_picture_decode(bal_image *out, const uint8_t *bytes, size_t n,
                              const bal_image_ref *ref, const bal_picture_rules *rules,
                              bal_refusal *f);

/* The bytes of "data:image/...;base64,..."; *out is malloc'ed. */
bal_status bal_data_url_decode(uint8_t **out, size_t *n, const char *url, size_t n_url,
                               const char *param, bal_refusal *f);

/* Whether files can be reached below `dir`, before anybody asks. BAL_E_IO; the sentence begins with
 * `flag` and the folder. */
bal_status bal_media_dir_check(const char *dir, const char *flag, bal_error *err);
/* The bytes of a file below `dir`. `path` is relative to it, or absolute and then begins with it;
 * ".." and symbolic links are refused at every step. *out is malloc'ed. */
bal_status bal_media_file_read(uint8_t **out, size_t *n, const char *dir, const char *path,
                               size_t max_bytes, const char *param, bal_refusal *f);

#endif
