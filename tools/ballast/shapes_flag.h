/* SPDX-License-Identifier: MIT
 * Which shape table a command computes by (run/shapes_file.h). */
#ifndef BAL_TOOL_SHAPES_FLAG_H
#define BAL_TOOL_SHAPES_FLAG_H

#include "args.h"

/* Where the table stands: what --shapes says, else $BALLAST_SHAPES, else ballast/shapes.json in the
 * user's cache (XDG Base Directory Specification: $XDG_CACHE_HOME, else ~/.cache). NULL: there is
 * none, by "none", by an empty variable, or without a home. *named: not the cache. The text lives
 * as long as *common. */
const char *bal_shapes_place(bal_common *common, bool *named);

/* -1 to go on: common->shapes is then the file of a table that holds here, or NULL. One that is
 * damaged, or of another machine or version, is ignored with a line; one that was named and cannot
 * be read gives the exit status, the sentence is printed already. */
int bal_shapes_check(const char *command, bal_common *common);

#endif
