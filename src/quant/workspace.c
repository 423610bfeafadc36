/* SPDX-License-Identifier: MIT
 * OUT.partial/ as a folder among other people's files: removes only names that a run gives, and
 * only while it holds the lock; refuses folders with anything else in them, symbolic links
 * included. What stands in the pieces is not its business. */
#include "quant/workspace.h"

#include "quant/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char LOCK[] = "lock", RUN[] = "run.json", SENSITIVITY[] = "sensitivity.json",
                  WIDTHS[] = "widths.json", SIDES[] = "sides.json";
static const char OUTPUT[] = "out.safetensors", STORE[] = "ballast-store-";

bal_status bal_workspace_path(const bal_workspace *w, char *out, size_t size, const char *name,
                              bal_error *err)
{
    return bal_path_join(out, size, w->output.partial, name, err);
}

/* prefix digits ending */
static bool is_numbered(const char *name, const char *prefix, const char *ending)
{
    const size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0) return false;
    const size_t digits = strspn(name + n, "0123456789");
    return digits >= 3 && strcmp(name + n + digits, ending) == 0;
}

static bool is_block(const char *name, const char *ending)
{
    return is_numbered(name, "block_", ending);
}

/* A record of a finished piece, as against the run's own and half-written ones. */
static bool is_piece(const char *name)
{
    return strcmp(name, SENSITIVITY) == 0 || strcmp(name, WIDTHS) == 0 ||
           strcmp(name, SIDES) == 0 || is_block(name, ".json");
}

static bool is_whole(const char *name)
{
    return is_piece(name) || is_block(name, ".safetensors") ||
           is_numbered(name, "tower_", ".safetensors") ||
           is_numbered(name, "rotated_", ".safetensors") || strcmp(name, LOCK) == 0 ||
           strcmp(name, RUN) == 0 || strcmp(name, OUTPUT) == 0 ||
           strncmp(name, STORE, sizeof STORE - 1) == 0;
}

/* Names that a run gives: nothing else in the folder is ever removed. */
static bool is_ours(const char *name)
{
    char stem[64];
    const size_t n = strlen(name);
    if (n <= 4 || n - 4 >= sizeof stem || strcmp(name + n - 4, ".tmp") != 0) return is_whole(name);
    memcpy(stem, name, n - 4);
    stem[n - 4] = 0;
    return is_whole(stem);
}

static bool is_file(int dir, const char *name)
{
    struct stat sb;
    return fstatat(dir, name, &sb, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(sb.st_mode);
}

typedef bool name_test(const char *name);

static bool is_block_record(const char *name)
{
    return is_block(name, ".json");
}

static int count(const char *folder, name_test *test)
{
    DIR *d = opendir(folder);
    int n = 0;
    if (!d) return 0;
    for (struct dirent *e; (e = readdir(d));) n += test(e->d_name);
    closedir(d);
    return n;
}

int bal_workspace_pieces(const bal_workspace *w)
{
    return count(w->output.partial, is_piece);
}

int bal_workspace_blocks(const bal_workspace *w)
{
    return count(w->output.partial, is_block_record);
}

int bal_workspace_left(const char *out)
{
    char folder[sizeof((bal_output *)0)->partial];
    const int n = snprintf(folder, sizeof folder, "%s.partial", out);
    return n > 0 && (size_t)n < sizeof folder ? count(folder, is_block_record) : 0;
}

/* A folder with anything else in it is somebody's, whatever its name is. */
static bal_status refuse_foreign(const bal_workspace *w, bal_error *err)
{
    DIR *d = opendir(w->output.partial);
    bal_status st = BAL_OK;
    if (!d)
        return bal_fail(err, BAL_E_IO, "%s: cannot list the folder: %s", w->output.partial,
                        strerror(errno));
    for (struct dirent *e; st == BAL_OK && (e = readdir(d));) {
        const char *name = e->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        /* one that vanishes meanwhile belongs to a run at work: the lock tells */
        if (is_ours(name) && (is_file(dirfd(d), name) || faccessat(dirfd(d), name, F_OK, 0) != 0))
            continue;
        st = bal_fail(err, BAL_E_EXISTS,
                      "%s: holds %.80s, which no run of ballast made; move it away or choose "
                      "another output",
                      w->output.partial, name);
    }
    closedir(d);
    return st;
}

static void wipe(const bal_workspace *w)
{
    DIR *d = opendir(w->output.partial);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));)
        if (is_ours(e->d_name) && strcmp(e->d_name, LOCK) != 0) unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
}

/* The end of a folder that nobody needs any more, while its lock is held. */
static void clear(bal_workspace *w)
{
    char path[1100];
    wipe(w);
    if (bal_workspace_path(w, path, sizeof path, LOCK, NULL) == BAL_OK) unlink(path);
    bal_output_abort(&w->output);
}

/* Between opening a lock and holding it another run may end and remove it. */
static bool still_there(int fd)
{
    struct stat sb;
    return fstat(fd, &sb) == 0 && S_ISREG(sb.st_mode) && sb.st_nlink > 0;
}

static bal_status take_lock(bal_workspace *w, bal_error *err)
{
    char path[1100];
    BAL_TRY(bal_workspace_path(w, path, sizeof path, LOCK, err));
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return bal_fail(err, BAL_E_IO, "%s: cannot create: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && still_there(fd)) {
        w->lock = fd + 1;
        return BAL_OK;
    }
    close(fd);
    return bal_fail(err, BAL_E_EXISTS, "%s: another run is at work there", w->output.partial);
}

static bal_status settle(bal_workspace *w, bool resume, bool force, bal_error *err)
{
    const int pieces = bal_workspace_pieces(w);
    char run[1100];
    BAL_TRY(bal_workspace_path(w, run, sizeof run, RUN, err));
    if (pieces && resume && bal_path_exists(run)) return BAL_OK;
    if (pieces && resume)
        return bal_fail(err, BAL_E_EXISTS,
                        "%s holds finished pieces, but no %s that says of which run; without "
                        "--resume, --force starts over",
                        w->output.partial, RUN);
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
    bal_status st = refuse_foreign(w, err);
    if (st == BAL_OK) st = take_lock(w, err);
    if (st == BAL_OK) st = settle(w, resume, force, err);
    if (st < 0) bal_workspace_close(w);
    return st;
}

bal_status bal_workspace_enter(bal_workspace *w, const char *out, bool resume, bool force,
                               bal_rank *rank, bal_error *err)
{
    bal_status st = BAL_OK;
    *w = (bal_workspace){0};
    if (bal_rank_is_first(rank)) st = bal_workspace_open(w, out, resume, force, err);
    st = bal_rank_agree(rank, st, err);
    if (st >= 0 && !bal_rank_is_first(rank)) st = bal_output_begin(&w->output, out, force, err);
    w->rank = rank;
    return st;
}

bal_status bal_workspace_has(const bal_workspace *w, const char *name, bool *has, bal_error *err)
{
    char path[1100];
    *has = false;
    if (bal_rank_is_first(w->rank)) {
        BAL_TRY(bal_workspace_path(w, path, sizeof path, name, err));
        *has = bal_path_exists(path);
    }
    return bal_rank_share(w->rank, has, sizeof *has, 0, err);
}

void bal_workspace_close(bal_workspace *w)
{
    if (w->lock) {
        if (!w->done && bal_workspace_pieces(w) == 0) clear(w);
        close(w->lock - 1);
    }
    *w = (bal_workspace){0};
}

bal_status bal_workspace_commit(bal_workspace *w, const char *part_name, bal_error *err)
{
    BAL_TRY(bal_output_commit(&w->output, part_name, err));
    w->done = true;
    clear(w); /* only now: had the renaming failed, --resume would need the pieces */
    return BAL_OK;
}

static bal_status differs(const bal_workspace *w, const char *part, const char *key,
                          const json_t *was, const json_t *is, bal_error *err)
{
    const size_t flags = JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(10);
    char *a = was ? json_dumps(was, flags) : NULL, *b = is ? json_dumps(is, flags) : NULL;
    bal_fail(err, BAL_E_EXISTS,
             "%.120s was made with %s%s %.80s, this run has %.80s; without --resume, --force "
             "starts over",
             w->output.partial, part, key, a ? a : "nothing", b ? b : "nothing");
    free(a);
    free(b);
    return BAL_E_EXISTS;
}

/* Recipes are long: name the option that differs, not the whole. part: "calibration ", "recipe "
 * or nothing. Sums of data come last: they differ with what else says why. */
static bal_status compare(const bal_workspace *w, const char *part, const json_t *was,
                          const json_t *is, bal_error *err)
{
    char inner[40];
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)is, key, value)
    {
        const json_t *old = json_object_get(was, key);
        if (strcmp(key, "sha256") == 0) continue;
        if (json_is_object(value) && json_is_object(old)) {
            snprintf(inner, sizeof inner, "%s ", key);
            BAL_TRY(compare(w, inner, old, value, err));
        } else if (!json_equal(old, value))
            return differs(w, part, key, old, value, err);
    }
    json_object_foreach((json_t *)(uintptr_t)was, key, value)
    {
        if (!json_object_get(is, key)) return differs(w, part, key, value, NULL, err);
    }
    const json_t *sum = json_object_get(is, "sha256"), *old = json_object_get(was, "sha256");
    return !sum || json_equal(sum, old) ? BAL_OK : differs(w, part, "sha256", old, sum, err);
}

/* What takes long to find out. */
static void drop_sums(json_t *identity)
{
    json_object_del(identity, "model_sha256");
    json_object_del(json_object_get(identity, "calibration"), "sha256");
}

bal_status bal_workspace_compare(const char *out, const json_t *identity, bal_error *err)
{
    bal_workspace w = {0};
    char path[1100];
    json_t *was, *is;
    snprintf(w.output.partial, sizeof w.output.partial, "%s.partial", out);
    BAL_TRY(bal_workspace_path(&w, path, sizeof path, RUN, err));
    if (!bal_workspace_pieces(&w) || !bal_path_exists(path)) return BAL_OK;
    BAL_TRY(bal_record_load(&was, path, err));
    is = json_deep_copy(identity);
    drop_sums(was);
    drop_sums(is);
    const bal_status st = compare(&w, "", was, is, err);
    json_decref(was);
    json_decref(is);
    return st;
}

bal_status bal_workspace_bind(bal_workspace *w, const json_t *identity, bal_error *err)
{
    char path[1100];
    json_t *was;
    BAL_TRY(bal_workspace_path(w, path, sizeof path, RUN, err));
    if (!bal_path_exists(path)) return bal_record_save(path, identity, err);
    BAL_TRY(bal_record_load(&was, path, err));
    const bal_status st = compare(w, "", was, identity, err);
    json_decref(was);
    return st;
}
