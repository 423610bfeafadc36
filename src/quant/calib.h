/* SPDX-License-Identifier: MIT
 * Calibration data in the LLaVA conversation form, a JSON array or one object per line:
 *   {"id": "...", "image": "a.png" or ["a.png", "b.png"],
 *    "conversations": [{"from": "human", "value": "<image>\nWhat is it?"},
 *                      {"from": "gpt", "value": "A red circle."}]}
 * Untrusted bytes: every record is checked before the first picture is opened. Refuses what would
 * silently spoil statistics: tags without pictures, pictures without tags, missing answers. */
#ifndef BAL_QUANT_CALIB_H
#define BAL_QUANT_CALIB_H

#include "base/hash.h"

typedef enum bal_calib_role {
    BAL_CALIB_SYSTEM,
    BAL_CALIB_USER,
    BAL_CALIB_ASSISTANT
} bal_calib_role;

/* One turn. The <image> tags are taken out of `text` with the newline behind each (or, at the very
 * end, in front of it), because chat templates put pictures in front of a message's text. */
typedef struct bal_calib_turn {
    bal_calib_role role;
    int n_images;
    char *text;
} bal_calib_turn;

typedef struct bal_calib_record {
    size_t number; /* place in the file, from 1 */
    char *id;      /* NULL if the record has none */
    int n_images, n_turns;
    char **images; /* as in the file; relative ones start from the file's folder */
    bal_calib_turn *turns;
} bal_calib_record;

typedef struct bal_calib {
    char *path;
    uint8_t sha256[BAL_SHA256_BYTES]; /* of the bytes that were parsed */
    size_t n;
    bal_calib_record *records;
} bal_calib;

/* "human" and "user", "gpt" and "assistant" mean the same; "system" may come first. Errors name
 * file, record and key. parse() takes the bytes of a file and its name for errors and folders. On
 * failure *c is empty. */
bal_status bal_calib_open(bal_calib *c, const char *path, bal_error *err);
bal_status bal_calib_parse(bal_calib *c, const char *bytes, size_t n_bytes, const char *path,
                           bal_error *err);
void bal_calib_close(bal_calib *c); /* idempotent; a zeroed struct is fine */

/* Which records to use: *order is malloc'ed, *n of them. All in file order when samples is 0 or not
 * below their number, else the first `samples` of a shuffle that depends on the seed only. */
bal_status bal_calib_choose(const bal_calib *c, int samples, uint64_t seed, size_t **order,
                            size_t *n, bal_error *err);

/* Makes conversations of several records: each `shots` in a row of order[*n] become one, the turns
 * and pictures of the others behind those of the first, whose system turn stays the only one; order
 * and *n are then of these. BAL_E_CAPACITY where that is more turns or pictures than a record has.
 */
bal_status bal_calib_join(bal_calib *c, size_t *order, size_t *n, int shots, bal_error *err);

/* Frees the contents of all records but records[order[0 .. n-1]]; indices stay as they are. */
void bal_calib_keep(bal_calib *c, const size_t *order, size_t n);

/* Path of picture i of a record, resolved from the data file's folder. */
bal_status bal_calib_image_path(const bal_calib *c, const bal_calib_record *r, int i, char *out,
                                size_t size, bal_error *err);

#endif
