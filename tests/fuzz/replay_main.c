/* SPDX-License-Identifier: MIT
 * Runs a fuzz target over its kept corpus: each argument is a file or a folder of files. */
#include "base/file.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    bal_error err;
    uint8_t *buf;
    size_t n;
    if (bal_read_file(&buf, &n, path, (size_t)1 << 26, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return -1;
    }
    /* an exact-size copy, so that a sanitizer sees the first byte past the end */
    uint8_t *exact = malloc(n ? n : 1);
    if (!exact) return free(buf), -1;
    for (size_t i = 0; i < n; i++) exact[i] = buf[i];
    free(buf);
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    return 1;
}

static int replay(const char *path)
{
    if (!bal_path_is_dir(path)) return replay_file(path);
    DIR *d = opendir(path);
    if (!d) return -1;
    int count = 0;
    char file[4096];
    for (struct dirent *e; count >= 0 && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        count = replay_file(file) < 0 ? -1 : count + 1;
    }
    closedir(d);
    return count;
}

int main(int argc, char **argv)
{
    int total = 0;
    for (int i = 1; i < argc; i++) {
        const int n = replay(argv[i]);
        if (n < 0) return 1;
        total += n;
    }
    printf("%d inputs replayed\n", total);
    return total > 0 ? 0 : 1;
}
