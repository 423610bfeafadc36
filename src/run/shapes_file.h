/* SPDX-License-Identifier: MIT
 * Files of shape tables (op/shapes.h): JSON with a head that says for which machine they were
 * measured. Untrusted: every number is checked, and a file that is damaged, or from another
 * machine, version, ISA level or number of threads, is refused as a whole. */
#ifndef BAL_RUN_SHAPES_FILE_H
#define BAL_RUN_SHAPES_FILE_H

#include "base/cpu.h"
#include "op/shapes.h"
#include "type/act.h"
#include "type/packed.h"

enum { BAL_SHAPES_VERSION = 1, BAL_SHAPES_MOST = 4096 /* entries of a file */ };

/* What a table is good for, beside this version of the program. */
typedef struct bal_shapes_host {
    char processor[BAL_CPU_NAME];
    const char *isa; /* name of the level in use */
    int threads;
} bal_shapes_host;

/* This machine with kernels of a level (BAL_ISA_* mask) and a pool of so many threads. */
bal_shapes_host bal_shapes_here(unsigned isa, int threads);

/* On success *out is the caller's, to be freed; else it is empty and the sentence names the file.
 * BAL_E_IO: it cannot be read. BAL_E_UNSUP: it was made for another host or version, and the
 * sentence says what differs. BAL_E_FORMAT: it is damaged. */
bal_status bal_shapes_read(bal_shapes *out, const char *path, const bal_shapes_host *host,
                           bal_error *err);
/* The same of bytes; `file` names them in sentences. */
bal_status bal_shapes_parse(bal_shapes *out, const void *bytes, size_t n_bytes, const char *file,
                            const bal_shapes_host *host, bal_error *err);
void bal_shapes_free(bal_shapes *t); /* idempotent; zeroed is fine */

/* Written beside `path` and renamed over it: whoever reads sees the old file or the new one.
 * BAL_E_CAPACITY: more than BAL_SHAPES_MOST entries. */
bal_status bal_shapes_save(const bal_shapes *t, const char *path, const bal_shapes_host *host,
                           bal_error *err);

/* Texts of a key's format, "f16" or "w3g128.p16u32.v1", of how packed weights read inputs, "a8g0"
 * (empty for floats), and of a kernel. */
void bal_shapes_format(const bal_shapes_key *key, char format[BAL_PACKED_ID_SIZE],
                       char act[BAL_ACT_ID_SIZE]);
const char *bal_shapes_kernel_name(int kernel);

#endif
