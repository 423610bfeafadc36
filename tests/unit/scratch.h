/* SPDX-License-Identifier: MIT
 * A folder of its own for a test that writes files: made at set-up, removed with everything in it
 * at tear-down. Use both in cmocka_run_group_tests. */
#ifndef BAL_TESTS_SCRATCH_H
#define BAL_TESTS_SCRATCH_H

#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char scratch_dir[512];

static inline int scratch_setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(scratch_dir, sizeof scratch_dir, "%s/ballast_test_XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(scratch_dir) ? 0 : -1;
}

static inline void scratch_empty(const char *dir)
{
    DIR *d = opendir(dir);
    if (!d) return;
    char path[2048];
    for (struct dirent *e; (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (bal_path_join(path, sizeof path, dir, e->d_name, NULL) < 0) continue;
        if (unlink(path) == 0) continue;
        scratch_empty(path);
        rmdir(path);
    }
    closedir(d);
}

static inline int scratch_teardown(void **state)
{
    (void)state;
    scratch_empty(scratch_dir);
    return rmdir(scratch_dir);
}

/* A path in the folder, in one of 8 rotating static buffers. */
static inline const char *scratch(const char *name)
{
    static char buf[8][1024];
    static unsigned turn;
    char *b = buf[turn++ % 8];
    snprintf(b, sizeof buf[0], "%s/%s", scratch_dir, name);
    return b;
}

/* Entries of a folder, "." and ".." not counted; -1 where it is not one. */
static inline int scratch_count(const char *dir)
{
    DIR *d = opendir(dir);
    if (!d) return -1;
    int n = -2;
    while (readdir(d)) n++;
    closedir(d);
    return n;
}

static inline void scratch_write(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline void scratch_text(const char *path, const char *text)
{
    scratch_write(path, text, strlen(text));
}

/* The file with the first `from` in it replaced, which is as long. */
static inline void scratch_patch(const char *path, const char *from, const char *to)
{
    bal_mapping m;
    bal_error err;
    ASSERT_OK(bal_map_open(&m, path, &err));
    const size_t n = m.n_bytes;
    uint8_t *copy = malloc(n);
    assert_non_null(copy);
    memcpy(copy, m.data, n);
    bal_map_close(&m);
    uint8_t *at = memmem(copy, n, from, strlen(from));
    assert_non_null(at);
    memcpy(at, to, strlen(from));
    scratch_write(path, copy, n);
    free(copy);
}

#endif
