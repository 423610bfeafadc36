/* SPDX-License-Identifier: MIT
 * device/device.h on NVIDIA GPUs, or on the shim that plays one: devices, memory, order of work.
 * One stream per open device. What the runtime refuses is kept as a sentence and told at sync.
 * Host memory goes through pinned buffers, so that a step waits for nothing but its own results. */
#include "cuda/backend.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- Failures -------------------------------------------------------------------------------- */

void bal_cuda_keep(bal_device *d, cudaError_t e, const char *what)
{
    if (e == cudaSuccess || d->failed.status < 0) return;
    bal_fail(&d->failed, e == cudaErrorMemoryAllocation ? BAL_E_NOMEM : BAL_E_IO,
             "device cuda:%d: %s: %s (%s)", d->index, what, cudaGetErrorString(e),
             cudaGetErrorName(e));
}

/* The runtime's current device belongs to a thread. */
static bool enter(bal_device *d)
{
    bal_cuda_keep(d, cudaSetDevice(d->index), "choosing the device");
    return d->failed.status == BAL_OK;
}

/* ---- Devices --------------------------------------------------------------------------------- */

static bal_status driver_fault(cudaError_t e, bal_error *err)
{
    int have = 0, need = 0;
    cudaDriverGetVersion(&have);
    cudaRuntimeGetVersion(&need);
    if (have == 0) return bal_fail(err, BAL_E_UNSUP, "this machine has no NVIDIA driver");
    if (e == cudaErrorInsufficientDriver)
        return bal_fail(err, BAL_E_UNSUP,
                        "the NVIDIA driver serves CUDA %d.%d, this backend was built with %d.%d: a "
                        "newer driver is needed",
                        have / 1000, have % 1000 / 10, need / 1000, need % 1000 / 10);
    return bal_fail(err, BAL_E_UNSUP, "the NVIDIA driver answers: %s", cudaGetErrorString(e));
}

static bal_status count(int *n, bal_error *err)
{
    *n = 0;
    const cudaError_t e = cudaGetDeviceCount(n);
    if (e == cudaSuccess || e == cudaErrorNoDevice) return BAL_OK;
    *n = 0;
    return driver_fault(e, err);
}

static bal_status check_device(const bal_device *d, bal_error *err)
{
    if (d->major >= 8) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP, "%s has compute capability %d.%d, expected 8.0 or more",
                    d->name, d->major, d->minor);
}

static cudaError_t prepare(bal_device *d)
{
    cudaDeviceProp p;
    int version = 0;
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess) e = cudaGetDeviceProperties(&p, d->index);
    if (e != cudaSuccess) return e;
    snprintf(d->name, sizeof d->name, "%s", p.name);
    d->major = p.major;
    d->minor = p.minor;
    d->processors = p.multiProcessorCount;
    d->most_shared = p.sharedMemPerBlockOptin;
    if (p.major >= 8) e = bal_cuda_compiled_for(&version); /* older ones are refused by name */
    if (e != cudaSuccess) return e;
    d->early = p.major >= 9 && version >= 90; /* of code for 8.0, kernels wait for nothing */
    e = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaMallocHost((void **)&d->up, BAL_PINNED);
    if (e == cudaSuccess) e = cudaMallocHost((void **)&d->down, BAL_PINNED);
    for (int i = 0; i < 2 && e == cudaSuccess; i++) e = cudaEventCreate(&d->laps[i]);
    return e;
}

static void close_device(bal_device *d)
{
    if (!d) return;
    cudaSetDevice(d->index);
    if (d->stream) cudaStreamSynchronize(d->stream);
    for (int i = 0; i < 2; i++)
        if (d->laps[i]) cudaEventDestroy(d->laps[i]);
    bal_cuda_linears_close(d);
    cudaFreeHost(d->up);
    cudaFreeHost(d->down);
    if (d->stream) cudaStreamDestroy(d->stream);
    free(d);
}

static bal_status open_device(bal_device **out, int index, bal_error *err)
{
    *out = NULL;
    bal_device *d = (bal_device *)calloc(1, sizeof *d);
    if (!d) return bal_nomem(err, sizeof *d, "a device");
    d->index = index;
    const cudaError_t e = prepare(d);
    bal_status st = BAL_OK;
    if (e != cudaSuccess)
        st = bal_fail(err, BAL_E_UNSUP, "the device cannot be used: %s", cudaGetErrorString(e));
    if (st == BAL_OK) st = check_device(d, err);
    if (st == BAL_OK) st = bal_cuda_linears_open(d, err);
    if (st < 0)
        close_device(d);
    else
        *out = d;
    return st;
}

static void describe(bal_device *d, bal_device_info *info)
{
    memset(info, 0, sizeof *info);
    snprintf(info->name, sizeof info->name, "%.127s", d->name);
    info->major = d->major;
    info->minor = d->minor;
    info->processors = d->processors;
    if (enter(d)) bal_cuda_keep(d, cudaMemGetInfo(&info->free_memory, &info->memory), "memory");
}

/* ---- Memory ---------------------------------------------------------------------------------- */

bal_status bal_cuda_alloc(bal_device *d, bal_dptr *out, size_t n, const char *what, bal_error *err)
{
    void *p = NULL;
    size_t have = 0, all = 0;
    *out = 0;
    cudaError_t e = cudaSetDevice(d->index);
    if (e == cudaSuccess) e = cudaMalloc(&p, n ? n : 1);
    *out = (bal_dptr)(uintptr_t)p;
    if (e == cudaSuccess) return BAL_OK;
    cudaGetLastError(); /* what could not be had is no failure of the device */
    cudaMemGetInfo(&have, &all);
    *out = 0;
    return bal_fail(err, BAL_E_NOMEM,
                    "out of device memory: %zu bytes for %s, %zu of %zu are free (%s)", n, what,
                    have, all, cudaGetErrorString(e));
}

void bal_cuda_release(bal_device *d, bal_dptr p)
{
    if (!p || cudaSetDevice(d->index) != cudaSuccess) return;
    cudaStreamSynchronize(d->stream);
    cudaFree((void *)(uintptr_t)p);
}

/* n bytes of the pinned buffer that no queued copy reads any more. */
unsigned char *bal_cuda_pinned(bal_device *d, size_t n)
{
    if (d->up_used + n > BAL_PINNED) {
        bal_cuda_keep(d, cudaStreamSynchronize(d->stream), "waiting for uploads");
        d->up_used = 0;
    }
    unsigned char *p = d->up + d->up_used;
    d->up_used += (n + 255) / 256 * 256;
    return p;
}

void bal_cuda_upload(bal_device *d, bal_dptr to, const void *from, size_t n)
{
    if (!enter(d)) return;
    for (size_t at = 0, part; at < n; at += part) {
        part = n - at < BAL_PINNED / 4 ? n - at : BAL_PINNED / 4;
        unsigned char *room = bal_cuda_pinned(d, part);
        memcpy(room, (const unsigned char *)from + at, part);
        bal_cuda_keep(d,
                      cudaMemcpyAsync((void *)(uintptr_t)(to + at), room, part,
                                      cudaMemcpyHostToDevice, d->stream),
                      "upload");
    }
}

/* What has arrived in the pinned buffer goes where it belongs. */
static void deliver(bal_device *d)
{
    for (int i = 0; i < d->n_pending; i++)
        memcpy(d->pending[i].to, d->pending[i].from, d->pending[i].n);
    d->n_pending = 0;
    d->down_used = 0;
}

static void wait(bal_device *d)
{
    bal_cuda_keep(d, cudaStreamSynchronize(d->stream), "running the queue");
    d->up_used = 0;
    if (d->failed.status == BAL_OK) deliver(d);
    d->n_pending = 0;
}

static void download(bal_device *d, void *to, bal_dptr from, size_t n)
{
    for (size_t at = 0, part; at < n && enter(d); at += part) {
        part = n - at < BAL_PINNED / 4 ? n - at : BAL_PINNED / 4;
        if (d->n_pending == BAL_PENDING || d->down_used + part > BAL_PINNED) wait(d);
        unsigned char *room = d->down + d->down_used;
        d->down_used += (part + 255) / 256 * 256;
        d->pending[d->n_pending].to = (unsigned char *)to + at;
        d->pending[d->n_pending].from = room;
        d->pending[d->n_pending++].n = part;
        bal_cuda_keep(d,
                      cudaMemcpyAsync(room, (const void *)(uintptr_t)(from + at), part,
                                      cudaMemcpyDeviceToHost, d->stream),
                      "download");
    }
}

static void copy(bal_device *d, bal_dptr to, bal_dptr from, size_t n)
{
    if (enter(d))
        bal_cuda_keep(d,
                      cudaMemcpyAsync((void *)(uintptr_t)to, (const void *)(uintptr_t)from, n,
                                      cudaMemcpyDeviceToDevice, d->stream),
                      "copy");
}

static bal_cuda_queue queue_of(const bal_device *d)
{
    const bal_cuda_queue q = {d->stream, d->early};
    return q;
}

/* ---- Ops ------------------------------------------------------------------------------------- */

static void stage(bal_device *d, const bal_stage_args *a)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_stage(a, queue_of(d)), "staging");
}

static void linear(bal_device *d, const bal_device_linear_args *a)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_linear_run(d, a), "a linear");
}

static void embed(bal_device *d, const bal_device_weight *w, bal_dptr ids, int m, bal_dptr h)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_embed(w, ids, m, h, queue_of(d)), "embedding");
}

static void hadamard(bal_device *d, bal_dptr x, size_t n, int block)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_hadamard(x, n, block, queue_of(d)), "mixing");
}

static void rotate(bal_device *d, const bal_rotate_args *a)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_rotate(a, queue_of(d)), "rotation");
}

static size_t attend_bytes(const bal_device *d, int m, int heads, int dim)
{
    return bal_cuda_attend_bytes(m, heads, dim, d->most_shared);
}

static void attend(bal_device *d, const bal_attend_args *a)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_attend(a, queue_of(d)), "attention");
}

static void gather(bal_device *d, bal_dptr x, size_t k, bal_dptr index, int n, bal_dptr out)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_gather(x, k, index, n, out, queue_of(d)), "gathering");
}

static void argmax(bal_device *d, bal_dptr x, int m, int n, bal_dptr out)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_argmax(x, m, n, out, queue_of(d)), "the largest");
}

static void draw(bal_device *d, bal_dptr x, int m, int n, bal_dptr draws, bal_dptr out)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_draw(x, m, n, draws, out, queue_of(d)), "drawing");
}

static void norm(bal_device *d, const bal_norm_args *a)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_norm(a, queue_of(d)), "a norm");
}

static void gelu(bal_device *d, bal_device_gelu kind, bal_dptr x, size_t n)
{
    if (enter(d))
        bal_cuda_keep(d, bal_cuda_gelu(kind, x, n, d->processors, queue_of(d)), "an activation");
}

static void gate(bal_device *d, bal_dptr x, size_t ld, int m, int k)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_gate(x, ld, m, k, queue_of(d)), "a gate");
}

static void add_scaled(bal_device *d, bal_dptr h, bal_dptr x, bal_dptr scale, int m, int k)
{
    if (enter(d))
        bal_cuda_keep(d, bal_cuda_add_scaled(h, x, scale, m, k, queue_of(d)), "a residual");
}

static void read_all(bal_device *d, bal_dptr x, size_t n)
{
    if (enter(d)) bal_cuda_keep(d, bal_cuda_read(x, n, d->processors, queue_of(d)), "reading");
}

/* ---- Recording ------------------------------------------------------------------------------- */

struct bal_device_record {
    cudaGraphExec_t run;
};

static void record_begin(bal_device *d)
{
    if (enter(d))
        bal_cuda_keep(d, cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal),
                      "recording");
}

static void record_destroy(bal_device *d, bal_device_record *r)
{
    if (!r) return;
    cudaSetDevice(d->index);
    cudaStreamSynchronize(d->stream);
    cudaGraphExecDestroy(r->run);
    free(r);
}

/* A failed op leaves a capture that ends in an error of its own, so the first sentence is kept. */
static bal_status record_end(bal_device *d, bal_device_record **out, bal_error *err)
{
    cudaGraph_t graph = NULL;
    bal_device_record *r = (bal_device_record *)calloc(1, sizeof *r);
    *out = NULL;
    cudaSetDevice(d->index);
    bal_cuda_keep(d, cudaStreamEndCapture(d->stream, &graph), "recording");
    if (r && d->failed.status == BAL_OK)
        bal_cuda_keep(d, cudaGraphInstantiate(&r->run, graph, 0), "recording");
    if (graph) cudaGraphDestroy(graph);
    if (r && d->failed.status == BAL_OK) {
        *out = r;
        return BAL_OK;
    }
    free(r);
    if (!r) return bal_nomem(err, sizeof *r, "a recording");
    if (err) *err = d->failed;
    return d->failed.status;
}

static void replay(bal_device *d, bal_device_record *r)
{
    if (enter(d)) bal_cuda_keep(d, cudaGraphLaunch(r->run, d->stream), "a recorded step");
}

/* ---- Waiting --------------------------------------------------------------------------------- */

static bal_status sync_all(bal_device *d, bal_error *err)
{
    if (enter(d)) wait(d);
    if (d->failed.status < 0 && err) *err = d->failed;
    return d->failed.status;
}

static double lap(bal_device *d)
{
    float ms = 0.0f;
    if (!enter(d)) return 0.0;
    bal_cuda_keep(d, cudaEventRecord(d->laps[1], d->stream), "timing");
    bal_cuda_keep(d, cudaEventSynchronize(d->laps[1]), "timing");
    if (d->has_lap) bal_cuda_keep(d, cudaEventElapsedTime(&ms, d->laps[0], d->laps[1]), "timing");
    cudaEvent_t swap = d->laps[0];
    d->laps[0] = d->laps[1];
    d->laps[1] = swap;
    d->has_lap = true;
    return (double)ms * 1e-3;
}

/* ---- The table ------------------------------------------------------------------------------- */

static const bal_device_api *make_table()
{
    static bal_device_api t;
    t.abi = BAL_DEVICE_ABI;
    t.size = sizeof t;
    t.name = "cuda";
    t.count = count;
    t.open = open_device;
    t.close = close_device;
    t.describe = describe;
    t.alloc = bal_cuda_alloc;
    t.release = bal_cuda_release;
    t.weight_create = bal_cuda_weight_create;
    t.weight_destroy = bal_cuda_weight_destroy;
    t.act_bytes = bal_cuda_act_bytes;
    t.attend_bytes = attend_bytes;
    t.upload = bal_cuda_upload;
    t.download = download;
    t.copy = copy;
    t.embed = embed;
    t.stage = stage;
    t.linear = linear;
    t.hadamard = hadamard;
    t.rotate = rotate;
    t.attend = attend;
    t.norm = norm;
    t.gelu = gelu;
    t.gate = gate;
    t.add_scaled = add_scaled;
    t.gather = gather;
    t.argmax = argmax;
    t.draw = draw;
    t.read = read_all;
    t.record_begin = record_begin;
    t.record_end = record_end;
    t.replay = replay;
    t.record_destroy = record_destroy;
    t.sync = sync_all;
    t.lap = lap;
    return &t;
}

extern "C" __attribute__((visibility("default"))) const bal_device_api *
bal_device_entry(uint32_t abi)
{
    static const bal_device_api *const table = make_table();
    return abi == BAL_DEVICE_ABI ? table : NULL;
}
