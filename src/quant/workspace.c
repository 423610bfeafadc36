/* SPDX-License-Identifier: MIT */
#include "quant/workspace.h"

#include "quant/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const char LOCK[] = "lock", RUN[] = "run.json";

bal_status bal_workspace_path(const bal_workspace *w, char *out, size_t size, const char *name,
                              bal_error *err)
{
    return bal_path_join(out, size, w->output.partial, name, err);
}

/* A record of a finished piece, as against the run's own and half-written ones. */
static bool is_piece(const char *name)
{
    const size_t n = strlen(name);
    return n > 5 && strcmp(name + n - 5, ".json") == 0 && strcmp(name, RUN) != 0;
}

int bal_workspace_pieces(const bal_workspace *w)
{
    DIR *d = opendir(w->output.partial);
    int n = 0;
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));) n += is_piece(e->d_name);
    closedir(d);
    return n;
}

static void wipe(const bal_workspace *w)
{
    DIR *d = opendir(w->output.partial);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && strcmp(e->d_name, LOCK) != 0) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
}

static bal_status take_lock(bal_workspace *w, bal_error *err)
{
    char path[1100];
    BAL_TRY(bal_workspace_path(w, path, sizeof path, LOCK, err));
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return bal_fail(err, BAL_E_IO, "%s: cannot create: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        w->lock = fd + 1;
        return BAL_OK;
    }
    close(fd);
    return bal_fail(err, BAL_E_EXISTS, "%s: another run is at work there", w->output.partial);
}

static bal_status settle(bal_workspace *w, bool resume, bool force, bal_error *err)
{
    const int pieces = bal_workspace_pieces(w);
    if (pieces && resume) return BAL_OK;
    if (pieces && !force)
        return bal_fail(err, BAL_E_EXISTS,
                        "%s holds %d finished piece%s of an earlier run; --resume goes on from "
                        "there, --force starts over",
                        w->output.partial, pieces, pieces == 1 ? "" : "s");
    wipe(w);
    return BAL_OK;
}

bal_status bal_workspace_open(bal_workspace *w, const char *out, bool resume, bool force,
                              bal_error *err)
{
    *w = (bal_workspace){0};
    BAL_TRY(bal_output_begin(&w->output, out, force, err));
    bal_status st = take_lock(w, err);
    if (st == BAL_OK) st = settle(w, resume, force, err);
    if (st < 0) bal_workspace_close(w);
    return st;
}

void bal_workspace_close(bal_workspace *w)
{
    if (w->lock) {
        if (!w->done && bal_workspace_pieces(w) == 0) bal_output_abort(&w->output);
        close(w->lock - 1);
    }
    *w = (bal_workspace){0};
}

bal_status bal_workspace_commit(bal_workspace *w, const char *part_name, bal_error *err)
{
    const bal_status st = bal_output_commit(&w->output, part_name, err);
    w->done = st == BAL_OK;
    return st;
}

static bal_status differs(const bal_workspace *w, const char *key, const json_t *was,
                          const json_t *is, bal_error *err)
{
    const size_t flags = JSON_ENCODE_ANY | JSON_COMPACT;
    char *a = was ? json_dumps(was, flags) : NULL, *b = json_dumps(is, flags);
    bal_fail(err, BAL_E_EXISTS,
             "%.120s was made with %s %.60s, this run has %.60s; without --resume, --force starts "
             "over",
             w->output.partial, key, a ? a : "unknown", b ? b : "unknown");
    free(a);
    free(b);
    return BAL_E_EXISTS;
}

/* Recipes are long: name the option that differs, not the whole. */
static bal_status compare(const bal_workspace *w, const json_t *was, const json_t *is,
                          bal_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)is, key, value)
    {
        const json_t *old = json_object_get(was, key);
        if (json_is_object(value) && json_is_object(old))
            BAL_TRY(compare(w, old, value, err));
        else if (!json_equal(old, value))
            return differs(w, key, old, value, err);
    }
    return BAL_OK;
}

bal_status bal_workspace_bind(bal_workspace *w, const json_t *identity, bal_error *err)
{
    char path[1100];
    json_t *was;
    BAL_TRY(bal_workspace_path(w, path, sizeof path, RUN, err));
    if (!bal_path_exists(path)) return bal_record_save(path, identity, err);
    BAL_TRY(bal_record_load(&was, path, err));
    const bal_status st = compare(w, was, identity, err);
    json_decref(was);
    return st;
}
