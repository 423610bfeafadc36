// SPDX-License-Identifier: MIT
// Devices, memory, streams, events and graphs of the shim.
#include "block.h"
#include "shim.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <set>
#include <vector>

namespace
{

struct op {
    std::shared_ptr<bal_shim_kernel> kernel; /* or */
    std::function<void()> act;
};

double now()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

} // namespace

struct bal_shim_graph {
    std::vector<op> ops;
};

struct bal_shim_stream {
    std::deque<op> queue;
    bool blocking = true; /* waits for the default stream, and it for this one */
    bal_shim_graph *capture = nullptr;
};

struct bal_shim_event {
    bal_shim_stream *stream = nullptr;
    uint64_t recorded = 0, reached = 0; /* how many times */
    double time = 0;
};

namespace
{

struct machine {
    std::map<uintptr_t, size_t> device, pinned;
    std::set<bal_shim_stream *> streams;
    bal_shim_stream first; /* the default one */
    size_t limit, used = 0;
    int devices, driver, current = 0;
    cudaError_t last = cudaSuccess;

    machine()
    {
        const auto number = [](const char *name, unsigned long long none) {
            const char *s = getenv(name);
            return s ? strtoull(s, nullptr, 10) : none;
        };
        limit = (size_t)number("BAL_SHIM_MEMORY", 1ull << 30);
        devices = (int)number("BAL_SHIM_DEVICES", 1);
        driver = (int)number("BAL_SHIM_DRIVER", 13000);
        bal_shim_seed(number("BAL_SHIM_SEED", 1));
    }
};

machine &m()
{
    static machine it;
    return it;
}

cudaError_t result(cudaError_t e)
{
    if (bal_shim_faulty()) e = cudaErrorLaunchFailure;
    if (e != cudaSuccess) m().last = e;
    return e;
}

/* Runs the oldest queued op of a stream. */
void advance(bal_shim_stream *s)
{
    op o = std::move(s->queue.front());
    s->queue.pop_front();
    if (bal_shim_faulty()) return;
    if (!o.kernel) {
        o.act();
        return;
    }
    if (!s->queue.empty()) {
        const op &next = s->queue.front();
        if (next.kernel && next.kernel->early) bal_shim_kernel_begin(next.kernel.get());
    }
    bal_shim_kernel_run(o.kernel.get());
}

void drain(bal_shim_stream *s)
{
    while (!s->queue.empty()) advance(s);
}

void drain_blocking()
{
    for (bal_shim_stream *s : m().streams)
        if (s->blocking) drain(s);
}

void drain_all()
{
    for (bal_shim_stream *s : m().streams) drain(s);
}

cudaError_t enqueue(bal_shim_stream *s, op o)
{
    m();
    if (s && s->capture) {
        s->capture->ops.push_back(std::move(o));
        return result(cudaSuccess);
    }
    if (s) {
        s->queue.push_back(std::move(o));
        return result(cudaSuccess);
    }
    drain_blocking();
    m().first.queue.push_back(std::move(o));
    drain(&m().first);
    return result(cudaSuccess);
}

/* Bytes from p to the end of the allocation that holds it, 0 if none does. */
size_t room(const std::map<uintptr_t, size_t> &all, const void *p)
{
    auto i = all.upper_bound((uintptr_t)p);
    if (i == all.begin()) return 0;
    --i;
    const size_t at = (uintptr_t)p - i->first;
    return at < i->second ? i->second - at : 0;
}

bool on_device(const void *p)
{
    return room(m().device, p) > 0;
}

/* Do the sides of a copy lie where `kind` says, and are they long enough? */
bool copy_fits(const void *to, const void *from, size_t n, cudaMemcpyKind kind)
{
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (n == 0) return true;
    if (kind != cudaMemcpyDefault && (to_device != on_device(to) || from_device != on_device(from)))
        return false;
    return (!on_device(to) || room(m().device, to) >= n) &&
           (!on_device(from) || room(m().device, from) >= n);
}

cudaError_t copy_checked(void *to, const void *from, size_t n, cudaMemcpyKind kind,
                         bal_shim_stream *s)
{
    if (!copy_fits(to, from, n, kind)) {
        bal_shim_fault(
            "a copy of %zu bytes to %p from %p (kind %d) lies outside of what was allocated", n, to,
            from, (int)kind);
        return result(cudaErrorInvalidValue);
    }
    if (n && !on_device(from) && !room(m().pinned, from) && !(s && s->capture)) {
        /* pageable memory is read before the call returns */
        auto bytes =
            std::make_shared<std::vector<char>>((const char *)from, (const char *)from + n);
        return enqueue(s, {nullptr, [=] { memcpy(to, bytes->data(), n); }});
    }
    return enqueue(s, {nullptr, [=] { memmove(to, from, n); }});
}

} // namespace

void bal_shim_memory_limit(size_t n_bytes)
{
    m().limit = n_bytes;
}

size_t bal_shim_memory_used()
{
    return m().used;
}

/* ---- Errors and devices -----------------------------------------------------------------------
 */

const char *cudaGetErrorString(cudaError_t e)
{
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    }
    return "unrecognized error code";
}

const char *cudaGetErrorName(cudaError_t e)
{
    return cudaGetErrorString(e);
}

cudaError_t cudaPeekAtLastError()
{
    return bal_shim_faulty() ? cudaErrorLaunchFailure : m().last;
}

cudaError_t cudaGetLastError()
{
    const cudaError_t e = cudaPeekAtLastError();
    m().last = cudaSuccess;
    return e;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = m().driver;
    return result(cudaSuccess);
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return result(cudaSuccess);
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = 0;
    if (m().driver < 13000) return result(cudaErrorInsufficientDriver);
    *n = m().devices;
    return result(*n ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= m().devices) return result(cudaErrorInvalidDevice);
    m().current = device;
    return result(cudaSuccess);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = m().current;
    return result(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device)
{
    if (device < 0 || device >= m().devices) return result(cudaErrorInvalidDevice);
    *p = {};
    snprintf(p->name, sizeof p->name, "shim");
    p->totalGlobalMem = m().limit;
    p->major = 9;
    p->multiProcessorCount = 4;
    p->l2CacheSize = 1 << 20;
    p->sharedMemPerBlockOptin = 227 << 10;
    return result(cudaSuccess);
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr a, int device)
{
    cudaDeviceProp p;
    const cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e != cudaSuccess) return e;
    switch (a) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    }
    return e;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *)
{
    a->ptxVersion = 90;
    return result(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *total = m().limit;
    *free_bytes = m().limit - m().used;
    return result(cudaSuccess);
}

cudaError_t cudaDeviceSynchronize()
{
    drain_all();
    return result(cudaSuccess);
}

/* ---- Memory -----------------------------------------------------------------------------------
 */

cudaError_t cudaMalloc(void **p, size_t n)
{
    *p = nullptr;
    if (n == 0) return result(cudaSuccess);
    if (n > m().limit - m().used) return result(cudaErrorMemoryAllocation);
    *p = bal_shim_alloc(n);
    if (!*p) return result(cudaErrorMemoryAllocation);
    m().device[(uintptr_t)*p] = n;
    m().used += n;
    return result(cudaSuccess);
}

cudaError_t cudaFree(void *p)
{
    if (!p) return result(cudaSuccess);
    drain_all();
    const auto i = m().device.find((uintptr_t)p);
    if (i == m().device.end()) return result(cudaErrorInvalidValue);
    const size_t n = i->second;
    m().used -= n;
    m().device.erase(i);
    if (!bal_shim_release(p, n))
        bal_shim_fault("a kernel wrote behind %zu bytes of device memory", n);
    return result(cudaSuccess);
}

cudaError_t cudaMallocHost(void **p, size_t n)
{
    *p = malloc(n ? n : 1);
    if (!*p) return result(cudaErrorMemoryAllocation);
    memset(*p, 0xff, n);
    m().pinned[(uintptr_t)*p] = n;
    return result(cudaSuccess);
}

cudaError_t cudaFreeHost(void *p)
{
    drain_all();
    if (p && !m().pinned.erase((uintptr_t)p)) return result(cudaErrorInvalidValue);
    free(p);
    return result(cudaSuccess);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind,
                            cudaStream_t s)
{
    return copy_checked(to, from, n, kind, s);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind kind)
{
    return copy_checked(to, from, n, kind, nullptr);
}

cudaError_t cudaMemsetAsync(void *to, int byte, size_t n, cudaStream_t s)
{
    if (n && room(m().device, to) < n) {
        bal_shim_fault("setting %zu bytes at %p lies outside of what was allocated", n, to);
        return result(cudaErrorInvalidValue);
    }
    return enqueue(s, {nullptr, [=] { memset(to, byte, n); }});
}

cudaError_t cudaMemset(void *to, int byte, size_t n)
{
    return cudaMemsetAsync(to, byte, n, nullptr);
}

/* ---- Streams and events -----------------------------------------------------------------------
 */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    *s = new bal_shim_stream;
    (*s)->blocking = flags != cudaStreamNonBlocking;
    m().streams.insert(*s);
    return result(cudaSuccess);
}

cudaError_t cudaStreamCreate(cudaStream_t *s)
{
    return cudaStreamCreateWithFlags(s, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    if (!m().streams.erase(s)) return result(cudaErrorInvalidValue);
    drain(s);
    delete s;
    return result(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    if (!s)
        drain_blocking();
    else if (s->capture)
        return result(cudaErrorStreamCaptureUnsupported);
    else
        drain(s);
    return result(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    return result(s && !s->queue.empty() ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    *e = new bal_shim_event;
    return result(cudaSuccess);
}

cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    return cudaEventCreateWithFlags(e, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    if (e && e->stream && m().streams.count(e->stream)) drain(e->stream);
    delete e;
    return result(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    if (s && s->capture) return result(cudaErrorStreamCaptureUnsupported);
    e->stream = s;
    e->recorded++;
    return enqueue(s, {nullptr, [e] {
                           e->reached++;
                           e->time = now();
                       }});
}

static void reach(bal_shim_event *e, uint64_t which)
{
    while (e->reached < which && m().streams.count(e->stream) && !e->stream->queue.empty())
        advance(e->stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    const uint64_t which = e->recorded;
    return enqueue(s, {nullptr, [=] { reach(e, which); }});
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    reach(e, e->recorded);
    return result(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    return result(e->reached < e->recorded ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    if (from->reached < from->recorded || to->reached < to->recorded)
        return result(cudaErrorNotReady);
    *ms = (float)((to->time - from->time) * 1e3);
    return result(cudaSuccess);
}

/* ---- Graphs and launches ----------------------------------------------------------------------
 */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode)
{
    if (!s || s->capture) return result(cudaErrorStreamCaptureUnsupported);
    s->capture = new bal_shim_graph;
    return result(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g)
{
    if (!s || !s->capture) return result(cudaErrorStreamCaptureUnsupported);
    *g = s->capture;
    s->capture = nullptr;
    return result(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long)
{
    *x = new bal_shim_graph(*g);
    return result(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    for (const op &o : x->ops)
        enqueue(s, {o.kernel ? std::make_shared<bal_shim_kernel>(*o.kernel) : nullptr, o.act});
    return result(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t g)
{
    delete g;
    return result(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    delete x;
    return result(cudaSuccess);
}

cudaError_t bal_shim_launch(dim3 grid, unsigned threads, size_t shared, cudaStream_t s, bool early,
                            std::function<void()> thread)
{
    if (!grid.x || !grid.y || !grid.z || !threads || threads % 32 || threads > 1024 ||
        shared > 227 << 10 || grid.y > 65535 || grid.z > 65535)
        return result(cudaErrorInvalidValue);
    auto k = std::make_shared<bal_shim_kernel>();
    k->grid = grid;
    k->threads = threads;
    k->shared = shared;
    k->early = early;
    k->thread = std::move(thread);
    return enqueue(s, {k, nullptr});
}
