/* SPDX-License-Identifier: MIT
 * ballast bench --shapes-make: measures the choices for a model's linears, shows what came of them
 * and puts what was better than the rules into the shape table. */
#ifndef BAL_TOOL_MAKE_SHAPES_H
#define BAL_TOOL_MAKE_SHAPES_H

#include "args.h"
#include "ballast.h"

typedef struct bal_make_shapes_plan {
    const char *model, *title; /* a folder or file, and what it is called */
    bal_common *common;        /* as read, before bal_shapes_check */
    int repeats;
    bal_progress_fn *progress;
    void *ctx;
} bal_make_shapes_plan;

/* The exit status; sentences are printed. The file, where bal_shapes_place says, appears or changes
 * as a whole or not at all; entries of other linears that it has for this machine stay. A named
 * file that is something else is left alone. */
int bal_make_shapes(const bal_make_shapes_plan *plan);

#endif
