/* SPDX-License-Identifier: MIT */
#include "device/load.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char FILE_NAME[] = "ballast_cuda.so";
static const char VARIABLE[] = "BALLAST_CUDA_LIB";

/* ---- Names ----------------------------------------------------------------------------------- */

/* "" or ":N" */
static bool read_index(const char *text, int *index)
{
    *index = 0;
    if (!*text) return true;
    char *end;
    if (text[0] != ':' || text[1] < '0' || text[1] > '9') return false;
    errno = 0;
    const long n = strtol(text + 1, &end, 10);
    *index = (int)n;
    return !*end && !errno && n <= 9999;
}

bal_status bal_device_parse(const char *name, bal_device_choice *out, bal_error *err)
{
    *out = (bal_device_choice){0};
    if (!name || strcmp(name, "cpu") == 0) return BAL_OK;
    if (strcmp(name, "auto") == 0) {
        *out = (bal_device_choice){.device = true};
        return BAL_OK;
    }
    if (strncmp(name, "cuda", 4) == 0 && read_index(name + 4, &out->index)) {
        out->device = out->insist = true;
        return BAL_OK;
    }
    *out = (bal_device_choice){0};
    return bal_fail(err, BAL_E_ARG, "device '%.60s', expected cpu, cuda:N or auto", name);
}

/* ---- The shared object ----------------------------------------------------------------------- */

/* The program's folder with a slash behind it. */
static bool program_folder(char *out, size_t size)
{
    const ssize_t n = readlink("/proc/self/exe", out, size - 1);
    if (n < 1) return false;
    out[n] = 0;
    char *slash = strrchr(out, '/');
    if (!slash) return false;
    slash[1] = 0;
    return true;
}

/* The first place that has the file. */
static bal_status find_library(char *out, size_t size, bal_error *err)
{
    const char *named = getenv(VARIABLE);
    char folder[PATH_MAX];
    if (named && *named) {
        if ((size_t)snprintf(out, size, "%s", named) < size && access(out, R_OK) == 0)
            return BAL_OK;
        return bal_fail(err, BAL_E_UNSUP, "%s: %.300s: %s", VARIABLE, named, strerror(errno));
    }
    if (!program_folder(folder, sizeof folder))
        return bal_fail(err, BAL_E_UNSUP, "the program's own folder is not known; set %s to %s",
                        VARIABLE, FILE_NAME);
    static const char *const places[] = {"", "../lib/ballast/"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if ((size_t)snprintf(out, size, "%s%s%s", folder, places[i], FILE_NAME) < size &&
            access(out, R_OK) == 0)
            return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP,
                    "there is no %s in %.200s or its ../lib/ballast; bench/gpu.sh builds one, and "
                    "%s names one elsewhere",
                    FILE_NAME, folder, VARIABLE);
}

static bal_status check_table(const char *path, const bal_device_api *api, bal_error *err)
{
    if (api && api->abi == BAL_DEVICE_ABI && api->size == sizeof *api) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP,
                    "%.250s is not of this build: it speaks version %u of the device contract, "
                    "expected %d",
                    path, api ? api->abi : 0u, BAL_DEVICE_ABI);
}

static bal_status load(bal_device_handle *h, bal_error *err)
{
    char path[PATH_MAX + 64];
    BAL_TRY(find_library(path, sizeof path, err));
    /* never unmapped: a GPU's runtime leaves handlers behind that run at exit */
    h->library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (!h->library) return bal_fail(err, BAL_E_UNSUP, "%.350s", dlerror());
    bal_device_entry_fn *entry;
    void *symbol = dlsym(h->library, BAL_DEVICE_ENTRY);
    if (!symbol)
        return bal_fail(err, BAL_E_UNSUP, "%.300s has no %s: it is no backend of Ballast", path,
                        BAL_DEVICE_ENTRY);
    memcpy(&entry, &symbol, sizeof entry); /* a function's address, as dlsym gives it */
    const bal_device_api *api = entry(BAL_DEVICE_ABI);
    BAL_TRY(check_table(path, api, err));
    h->api = api;
    return BAL_OK;
}

/* ---- The device ------------------------------------------------------------------------------ */

static bal_status open_index(bal_device_handle *h, int index, bal_error *err)
{
    int n = 0;
    BAL_TRY(h->api->count(&n, err));
    if (n < 1) return bal_fail(err, BAL_E_UNSUP, "this machine has no %s device", h->api->name);
    if (index >= n)
        return bal_fail(err, BAL_E_UNSUP, "this machine has %d %s device%s, the last is %s:%d", n,
                        h->api->name, n == 1 ? "" : "s", h->api->name, n - 1);
    return h->api->open(&h->device, index, err);
}

bal_status bal_device_open(bal_device_handle *h, int index, bal_error *err)
{
    *h = (bal_device_handle){0};
    bal_status st = load(h, err);
    if (st == BAL_OK) st = open_index(h, index, err);
    if (st == BAL_OK) return BAL_OK;
    bal_device_close(h);
    return bal_fail_in(err, st, "device cuda:%d", index);
}

void bal_device_close(bal_device_handle *h)
{
    if (h->api) h->api->close(h->device);
    if (h->library) dlclose(h->library);
    *h = (bal_device_handle){0};
}
