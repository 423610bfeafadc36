/* SPDX-License-Identifier: MIT */
#include "demo_kept.h"

#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "quant/record.h"

enum { PATH = 1100 };

static void name_of(char path[PATH], const char *base, const char *ending)
{
    snprintf(path, PATH, "%s%s", base, ending);
}

void demo_forget(const char *base)
{
    char path[PATH];
    name_of(path, base, ".cost.json");
    unlink(path);
}

bal_status demo_keep(const char *base, const json_t *identity, const bal_cost *cost, bal_error *err)
{
    char path[PATH];
    name_of(path, base, ".cost.json");
    json_t *all = json_pack("{s:O, s:f, s:f, s:f}", "identity", identity, "seconds", cost->seconds,
                            "cpu_seconds", cost->cpu_seconds, "mb", cost->mb);
    if (!all) return bal_nomem(err, sizeof path, "cost of a run");
    const bal_status st = bal_record_save(path, all, err);
    json_decref(all);
    return st;
}

static bool exists(const char *base, const char *ending)
{
    char path[PATH];
    name_of(path, base, ending);
    return bal_path_exists(path);
}

bool demo_kept(const char *base, const json_t *identity, bal_cost *cost)
{
    char path[PATH];
    json_t *all, *was;
    name_of(path, base, ".cost.json");
    if (!exists(base, ".cost.json") || !exists(base, ".safetensors") || !exists(base, ".json"))
        return false;
    if (bal_record_load(&all, path, NULL) < 0) return false;
    const bool same =
        json_unpack(all, "{s:o, s:F, s:F, s:F}", "identity", &was, "seconds", &cost->seconds,
                    "cpu_seconds", &cost->cpu_seconds, "mb", &cost->mb) == 0 &&
        json_equal(was, identity);
    json_decref(all);
    return same;
}
