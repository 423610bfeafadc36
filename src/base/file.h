/* SPDX-License-Identifier: MIT
 * Files: read-only mappings, whole-file reads with a cap, and output that appears complete or not
 * at all. Nothing here looks inside a file. */
#ifndef BAL_BASE_FILE_H
#define BAL_BASE_FILE_H

#include "base/status.h"

/* A read-only mapping. An empty file maps to data = "" and n_bytes = 0. */
typedef struct bal_mapping {
    const uint8_t *data;
    size_t n_bytes;
} bal_mapping;

bal_status bal_map_open(bal_mapping *m, const char *path, bal_error *err);
void bal_map_close(bal_mapping *m); /* idempotent; zeroed struct is fine */

/* Reads a whole regular file into *out (malloc, one extra NUL byte after the data); the caller
 * frees. A file larger than max_bytes is refused before anything is allocated. */
bal_status bal_read_file(uint8_t **out, size_t *n_bytes, const char *path, size_t max_bytes,
                         bal_error *err);

bool bal_path_exists(const char *path);
bool bal_path_is_dir(const char *path);
/* dir + "/" + name into out; fails with BAL_E_ARG when it does not fit */
bal_status bal_path_join(char *out, size_t out_size, const char *dir, const char *name,
                         bal_error *err);
/* the folder part of `path` into out ("." if there is none) */
bal_status bal_path_dir(char *out, size_t out_size, const char *path, bal_error *err);

/* ---- Output that is whole or absent -----------------------------------------------------------
 * begin() makes OUT.partial/ (kept by an earlier, interrupted run if it is there); the caller
 * writes files inside it, and removes them again but for PART; commit() syncs PART, renames it to
 * OUT and removes the folder. An existing OUT fails with BAL_E_EXISTS unless force is set, at
 * begin() and again at commit(); it is replaced only there. */
typedef struct bal_output {
    char path[1024];    /* OUT */
    char partial[1040]; /* OUT.partial */
    bool force;
} bal_output;

/* A symbolic link or a file in the place of the folder is BAL_E_EXISTS. */
/* What begin() refuses without writing anything: a path in no folder, one that is a folder, a
 * device or another thing that is no regular file, and without force one that exists. */
bal_status bal_output_check(const char *path, bool force, bal_error *err);
bal_status bal_output_begin(bal_output *o, const char *path, bool force, bal_error *err);
bal_status bal_output_commit(bal_output *o, const char *part_name, bal_error *err);
/* Removes the folder if it is empty; the files in it are the caller's. */
void bal_output_abort(bal_output *o);

/* Writes the whole buffer or fails naming `path` and the reason (full disk among them). */
bal_status bal_write_all(int fd, const void *data, size_t n_bytes, const char *path,
                         bal_error *err);
/* A small file at once: written to "path.tmp", synced, renamed. */
bal_status bal_write_file(const char *path, const void *data, size_t n_bytes, bal_error *err);

#endif
