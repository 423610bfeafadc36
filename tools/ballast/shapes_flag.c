/* SPDX-License-Identifier: MIT */
#include "shapes_flag.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/pool.h"
#include "run/shapes_file.h"

/* The specification has paths that are not absolute ignored. */
static bool is_absolute(const char *path)
{
    return path && path[0] == '/';
}

static const char *cache_file(bal_common *c)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const bool own = is_absolute(cache);
    if (!own && !is_absolute(home)) return NULL;
    const int n = snprintf(c->shapes_path, sizeof c->shapes_path, "%s%s/ballast/shapes.json",
                           own ? cache : home, own ? "" : "/.cache");
    return n > 0 && (size_t)n < sizeof c->shapes_path ? c->shapes_path : NULL;
}

const char *bal_shapes_place(bal_common *common, bool *named)
{
    const char *path = common->shapes ? common->shapes : getenv("BALLAST_SHAPES");
    *named = path != NULL;
    if (!path) return cache_file(common);
    return path[0] && strcmp(path, "none") != 0 ? path : NULL;
}

/* The ISA level in use, as far as it is one: opening a model refuses others. */
static unsigned isa_of(const bal_common *c)
{
    unsigned isa;
    return c->isa && bal_isa_from_name(&isa, c->isa, NULL) == BAL_OK ? isa : bal_cpu_isa();
}

int bal_shapes_check(const char *command, bal_common *common)
{
    bool named;
    bal_error err;
    bal_shapes table;
    const char *path = bal_shapes_place(common, &named);
    common->shapes = NULL;
    if (!path || (!named && !bal_path_exists(path))) return -1;
    const bal_shapes_host here = bal_shapes_here(isa_of(common), bal_pool_size_of(common->threads));
    const bal_status st = bal_shapes_read(&table, path, &here, &err);
    bal_shapes_free(&table);
    if (st == BAL_OK)
        common->shapes = path;
    else if (st == BAL_E_IO && named)
        return bal_failure(command, "%s", err.text);
    else if (!common->quiet)
        fprintf(stderr, "ballast %s: %s; this shape table is ignored\n", command, err.text);
    return -1;
}
