/* SPDX-License-Identifier: MIT
 * Any bytes as a model's config: a compiled blob, or config.json and, behind a zero byte,
 * preprocessor_config.json. What is accepted must compile to a blob that reads back the same, and
 * its family must plan pictures of any size: a count of tokens, or a refusal. */
#include "base/file.h"
#include "model/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void remove_dir(void)
{
    char path[128];
    static const char *const names[] = {"config.json", "preprocessor_config.json"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void write_file(const char *name, const uint8_t *data, size_t n)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0) abort();
}

static bal_status read_folder(bal_config *c, const uint8_t *data, size_t size)
{
    bal_error err;
    if (!dir[0]) {
        strcpy(dir, "/tmp/ballast_fuzz_XXXXXX");
        if (!mkdtemp(dir)) abort();
        atexit(remove_dir);
    }
    const uint8_t *zero = memchr(data, 0, size), *end = data + size;
    write_file("config.json", data, zero ? (size_t)(zero - data) : size);
    write_file("preprocessor_config.json", zero ? zero + 1 : end,
               zero ? (size_t)(end - zero - 1) : 0);
    return bal_config_read(c, dir, &err);
}

static void check_plans(const bal_config *c)
{
    static const int sizes[][2] = {{1, 1},      {28, 28},       {640, 480},        {4000, 3000},
                                   {2000, 100}, {100, 2000},    {1, 200},          {3, 1000},
                                   {16384, 9},  {65536, 65536}, {1 << 20, 1 << 20}};
    const bal_family_def *f = bal_family_of(c);
    bal_view_plan p;
    bal_error err;
    for (size_t i = 0; f->plan && i < sizeof sizes / sizeof *sizes; i++)
        for (bal_view_mode mode = BAL_VIEW_ONE; mode <= BAL_VIEW_SINGLE; mode++)
            if (f->plan(c, sizes[i][0], sizes[i][1], mode, &p, &err) == BAL_OK &&
                (p.n_tokens < 1 || p.n_views < 1 || p.n_floats < 1))
                abort();
}

static void check_blob(const bal_config *c)
{
    bal_config back;
    bal_error err;
    uint8_t *bytes;
    size_t n;
    if (bal_config_blob(c, &bytes, &n, &err) < 0 ||
        bal_config_from_blob(&back, bytes, n, &err) < 0 || memcmp(c, &back, sizeof back) != 0)
        abort();
    free(bytes);
}

/* What is left of a picture's tokens is a config as good as before. */
static void check_limits(const bal_config *c)
{
    const bal_family_def *f = bal_family_of(c);
    bal_error err;
    for (int n = 1; f->limit && n < 1 << 20; n *= 7) {
        bal_config limited = *c;
        if (f->limit(&limited, n, &err) < 0) continue;
        check_blob(&limited);
        check_plans(&limited);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bal_config c;
    bal_error err;
    const bool blob = size >= 3 && memcmp(data, "BLC", 3) == 0;
    const bal_status st =
        blob ? bal_config_from_blob(&c, data, size, &err) : read_folder(&c, data, size);
    if (st < 0) return 0;
    check_blob(&c);
    check_plans(&c);
    check_limits(&c);
    return 0;
}
