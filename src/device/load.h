/* SPDX-License-Identifier: MIT
 * Finding a backend and opening a device of it. Every way this can fail is a sentence of its own;
 * nothing here needs a GPU's toolkit, and a program that never asks loads nothing.
 *
 * Where ballast_cuda.so is looked for: the file that BALLAST_CUDA_LIB names, and nowhere else if it
 * is set; else beside the program, then in ../lib/ballast from there. */
#ifndef BAL_DEVICE_LOAD_H
#define BAL_DEVICE_LOAD_H

#include "device/device.h"

#include <stdbool.h>

/* What a user asked for. */
typedef struct bal_device_choice {
    bool device; /* false: the CPU, and nothing is loaded */
    bool insist; /* false: the CPU where no device can be had */
    int index;
} bal_device_choice;

/* NULL or "cpu"; "cuda", "cuda:N"; "auto": the first device if there is one that works. BAL_E_ARG
 * names what else was found. */
bal_status bal_device_parse(const char *name, bal_device_choice *out, bal_error *err);

/* A loaded backend with a device open. Zeroed: none. */
typedef struct bal_device_handle {
    const bal_device_api *api; /* NULL: none */
    bal_device *device;
    void *library;
} bal_device_handle;

/* BAL_E_UNSUP: no backend, one of another version, no device, an index out of range, an old driver.
 * On failure *h is empty. */
bal_status bal_device_open(bal_device_handle *h, int index, bal_error *err);
void bal_device_close(bal_device_handle *h); /* idempotent; zeroed struct is fine */

#endif
