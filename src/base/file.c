/* SPDX-License-Identifier: MIT */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bal_status open_regular(int *fd, size_t *n_bytes, const char *path, bal_error *err)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */
    if (*fd < 0) return bal_fail(err, BAL_E_IO, "%s: cannot open: %s", path, strerror(errno));
    struct stat sb;
    const bool good = fstat(*fd, &sb) == 0;
    if (good && S_ISREG(sb.st_mode) && sb.st_size >= 0) {
        *n_bytes = (size_t)sb.st_size;
        return BAL_OK;
    }
    const char *why = !good ? strerror(errno) : "not a regular file";
    bal_fail(err, BAL_E_IO, "%s: %s", path, why);
    close(*fd);
    return BAL_E_IO;
}

bal_status bal_map_open(bal_mapping *m, const char *path, bal_error *err)
{
    *m = (bal_mapping){0};
    int fd = -1;
    size_t n = 0;
    BAL_TRY(open_regular(&fd, &n, path, err));
    if (n == 0) {
        close(fd);
        m->data = (const uint8_t *)"";
        return BAL_OK;
    }
    void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    const int e = errno;
    close(fd);
    if (p == MAP_FAILED) return bal_fail(err, BAL_E_IO, "%s: cannot map: %s", path, strerror(e));
    m->data = p;
    m->n_bytes = n;
    return BAL_OK;
}

void bal_map_close(bal_mapping *m)
{
    if (m->n_bytes) munmap((void *)(uintptr_t)m->data, m->n_bytes);
    *m = (bal_mapping){0};
}

static bal_status read_exact(int fd, uint8_t *buf, size_t n, const char *path, bal_error *err)
{
    for (size_t done = 0; done < n;) {
        const ssize_t got = read(fd, buf + done, n - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return bal_fail(err, BAL_E_IO, "%s: cannot read: %s", path, strerror(errno));
        if (got == 0) return bal_fail(err, BAL_E_IO, "%s: shrank while being read", path);
        done += (size_t)got;
    }
    return BAL_OK;
}

bal_status bal_read_file(uint8_t **out, size_t *n_bytes, const char *path, size_t max_bytes,
                         bal_error *err)
{
    *out = NULL;
    *n_bytes = 0;
    int fd = -1;
    size_t n = 0;
    BAL_TRY(open_regular(&fd, &n, path, err));
    bal_status st = BAL_OK;
    uint8_t *buf = NULL;
    if (n > max_bytes)
        st = bal_fail(err, BAL_E_FORMAT, "%s: %zu bytes, more than the %zu allowed", path, n,
                      max_bytes);
    else if (!(buf = malloc(n + 1)))
        st = bal_nomem(err, n + 1, path);
    else
        st = read_exact(fd, buf, n, path, err);
    close(fd);
    if (st < 0) {
        free(buf);
        return st;
    }
    buf[n] = 0;
    *out = buf;
    *n_bytes = n;
    return BAL_OK;
}

bool bal_path_exists(const char *path)
{
    struct stat sb;
    return lstat(path, &sb) == 0;
}

bool bal_path_is_dir(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}

bal_status bal_path_join(char *out, size_t out_size, const char *dir, const char *name,
                         bal_error *err)
{
    const int n = name[0] == '/' ? snprintf(out, out_size, "%s", name)
                                 : snprintf(out, out_size, "%s/%s", dir, name);
    if (n >= 0 && (size_t)n < out_size) return BAL_OK;
    return bal_fail(err, BAL_E_ARG, "path too long: %.100s/%.100s", dir, name);
}

bal_status bal_path_dir(char *out, size_t out_size, const char *path, bal_error *err)
{
    const char *slash = strrchr(path, '/');
    const size_t n = slash ? (size_t)(slash - path) : 1;
    if (n + 2 > out_size) return bal_fail(err, BAL_E_ARG, "path too long: %.200s", path);
    memcpy(out, slash ? path : ".", n);
    out[n] = 0;
    if (n == 0) memcpy(out, "/", 2);
    return BAL_OK;
}

bal_status bal_write_all(int fd, const void *data, size_t n_bytes, const char *path, bal_error *err)
{
    const uint8_t *p = data;
    for (size_t done = 0; done < n_bytes;) {
        const ssize_t w = write(fd, p + done, n_bytes - done);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return bal_fail(err, BAL_E_IO, "%s: cannot write: %s", path, strerror(errno));
        done += (size_t)w;
    }
    return BAL_OK;
}

static bal_status sync_path(const char *path, int flags, bal_error *err)
{
    const int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0) return bal_fail(err, BAL_E_IO, "%s: cannot open: %s", path, strerror(errno));
    const int rc = fsync(fd), e = errno;
    close(fd);
    if (rc == 0 || e == EINVAL) return BAL_OK; /* some file systems cannot sync folders */
    return bal_fail(err, BAL_E_IO, "%s: cannot sync: %s", path, strerror(e));
}

bal_status bal_write_file(const char *path, const void *data, size_t n_bytes, bal_error *err)
{
    char tmp[1100];
    if (snprintf(tmp, sizeof tmp, "%s.tmp", path) >= (int)sizeof tmp)
        return bal_fail(err, BAL_E_ARG, "path too long: %.200s", path);
    const int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return bal_fail(err, BAL_E_IO, "%s: cannot create: %s", tmp, strerror(errno));
    bal_status st = bal_write_all(fd, data, n_bytes, tmp, err);
    if (st == BAL_OK && fsync(fd) != 0)
        st = bal_fail(err, BAL_E_IO, "%s: cannot sync: %s", tmp, strerror(errno));
    if (close(fd) != 0 && st == BAL_OK)
        st = bal_fail(err, BAL_E_IO, "%s: cannot close: %s", tmp, strerror(errno));
    if (st == BAL_OK && rename(tmp, path) != 0)
        st = bal_fail(err, BAL_E_IO, "%s: cannot rename: %s", tmp, strerror(errno));
    if (st < 0) unlink(tmp);
    return st;
}

bal_status bal_output_check(const char *path, bool force, bal_error *err)
{
    char dir[1024];
    struct stat sb;
    BAL_TRY(bal_path_dir(dir, sizeof dir, path, err));
    if (!bal_path_is_dir(dir))
        return bal_fail(err, BAL_E_IO, "%s: the folder %s does not exist", path, dir);
    if (stat(path, &sb) != 0) return BAL_OK;
    if (S_ISDIR(sb.st_mode))
        return bal_fail(err, BAL_E_EXISTS, "%s: is a folder, a file was expected", path);
    if (!S_ISREG(sb.st_mode)) /* renaming over a device would replace it for everybody */
        return bal_fail(err, BAL_E_EXISTS, "%s: exists and is not a regular file", path);
    if (!force) return bal_fail(err, BAL_E_EXISTS, "%s: exists already; --force replaces it", path);
    return BAL_OK;
}

bal_status bal_output_begin(bal_output *o, const char *path, bool force, bal_error *err)
{
    *o = (bal_output){.force = force};
    if (snprintf(o->path, sizeof o->path, "%s", path) >= (int)sizeof o->path)
        return bal_fail(err, BAL_E_ARG, "path too long: %.200s", path);
    snprintf(o->partial, sizeof o->partial, "%s.partial", path);
    BAL_TRY(bal_output_check(path, force, err));
    if (mkdir(o->partial, 0777) != 0 && errno != EEXIST)
        return bal_fail(err, BAL_E_IO, "%s: cannot create: %s", o->partial, strerror(errno));
    struct stat sb;
    if (lstat(o->partial, &sb) == 0 && S_ISDIR(sb.st_mode)) return BAL_OK;
    return bal_fail(err, BAL_E_EXISTS, "%s: exists and is not a folder", o->partial);
}

/* Without force a file that appeared since begin() is left alone: link fails where rename would
 * replace. File systems without hard links get a last look instead. */
static bal_status move_into_place(const bal_output *o, const char *part, bal_error *err)
{
    int rc = -1;
    if (!o->force) {
        rc = link(part, o->path);
        if (rc == 0) unlink(part);
        if (rc != 0 && (errno == EEXIST || bal_path_exists(o->path)))
            return bal_fail(err, BAL_E_EXISTS, "%s: exists already; --force replaces it", o->path);
    }
    if (rc != 0 && rename(part, o->path) != 0)
        return bal_fail(err, BAL_E_IO, "%s: cannot rename to %s: %s", part, o->path,
                        strerror(errno));
    return BAL_OK;
}

bal_status bal_output_commit(bal_output *o, const char *part_name, bal_error *err)
{
    char part[1400], dir[1024];
    BAL_TRY(bal_path_join(part, sizeof part, o->partial, part_name, err));
    BAL_TRY(bal_path_dir(dir, sizeof dir, o->path, err));
    BAL_TRY(sync_path(part, O_RDONLY, err));
    BAL_TRY(move_into_place(o, part, err));
    BAL_TRY(sync_path(dir, O_RDONLY | O_DIRECTORY, err));
    bal_output_abort(o);
    return BAL_OK;
}

void bal_output_abort(bal_output *o)
{
    rmdir(o->partial);
}
