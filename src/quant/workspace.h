/* SPDX-License-Identifier: MIT
 * OUT.partial/, where a run lives until its file is complete: a lock against a second run, the
 * identity of the run (run.json), and the finished pieces, each with a JSON record that is written
 * last and vouches for it. */
#ifndef BAL_QUANT_WORKSPACE_H
#define BAL_QUANT_WORKSPACE_H

#include "base/file.h"
#include "quant/rank.h"

#include <jansson.h>

typedef struct bal_workspace {
    bal_output output;
    int lock;  /* descriptor + 1, 0 when none */
    bool done; /* committed: the folder is not ours any more */
    bal_rank *rank;
} bal_workspace;

/* Makes or enters the folder and locks it. Finished pieces of an earlier run are kept with
 * `resume`, thrown away with `force`, and otherwise BAL_E_EXISTS; so is anything in the folder that
 * no run makes, whatever the flags, and pieces to resume from that no run.json vouches for. */
bal_status bal_workspace_open(bal_workspace *w, const char *out, bool resume, bool force,
                              bal_error *err);
/* Several ranks: the first opens it as above, the others may then use it, and write nothing there
 * but files without a name. Collective; all must see the same folder. */
bal_status bal_workspace_enter(bal_workspace *w, const char *out, bool resume, bool force,
                               bal_rank *rank, bal_error *err);
/* Leaves the folder; removes it unless it holds finished pieces. Idempotent; zeroed is fine. */
void bal_workspace_close(bal_workspace *w);

/* Ties the folder to a run. Where it is tied already, the first member that differs, or that only
 * one of both has, fails with BAL_E_EXISTS and both values. */
bal_status bal_workspace_bind(bal_workspace *w, const json_t *identity, bal_error *err);

/* The same for what a run to `out` has left, if anything, but for the sums of model and data, which
 * take long. */
bal_status bal_workspace_compare(const char *out, const json_t *identity, bal_error *err);

/* Whether the folder holds a file of that name, as the first rank sees it. Collective. */
bal_status bal_workspace_has(const bal_workspace *w, const char *name, bool *has, bal_error *err);

/* "OUT.partial/name" */
bal_status bal_workspace_path(const bal_workspace *w, char *out, size_t size, const char *name,
                              bal_error *err);
/* Makes `part_name` of the folder the output and removes the folder; on failure all stays. */
bal_status bal_workspace_commit(bal_workspace *w, const char *part_name, bal_error *err);

/* Number of finished pieces, and of those that are blocks. */
int bal_workspace_pieces(const bal_workspace *w);
int bal_workspace_blocks(const bal_workspace *w);
/* Finished blocks in OUT.partial of an output that no run of this process works on; 0 where there
 * is no such folder. */
int bal_workspace_left(const char *out);

#endif
