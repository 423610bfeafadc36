/* SPDX-License-Identifier: MIT
 * Stands in for the CUDA toolkit's header of this name when kernels and host code are built with a
 * C++ compiler: the part of the runtime's interface that Ballast uses, the device functions of
 * CUDA C++, and the host half of cuda/port.cuh. A thread of a block is a fiber; shim.cpp runs them
 * in random order and is as unkind as the rules allow (shim.h has the list).
 * What is not here is not used; what the shim cannot do fails to compile. */
#ifndef BAL_SHIM_CUDA_RUNTIME_H
#define BAL_SHIM_CUDA_RUNTIME_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#include "base/half.h"

#define BAL_CUDA_SHIM 1

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((unused))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __shared__ static_assert(false, "shared memory is bal_shared()");

/* ---- Vector types -----------------------------------------------------------------------------
 */

#define BAL_SHIM_VECTOR2(T, name, bytes)                                                           \
    struct alignas(bytes) name {                                                                   \
        T x, y;                                                                                    \
    };                                                                                             \
    static inline __attribute__((unused)) name make_##name(T x, T y)                               \
    {                                                                                              \
        return {x, y};                                                                             \
    }
#define BAL_SHIM_VECTOR4(T, name, bytes)                                                           \
    struct alignas(bytes) name {                                                                   \
        T x, y, z, w;                                                                              \
    };                                                                                             \
    static inline __attribute__((unused)) name make_##name(T x, T y, T z, T w)                     \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
BAL_SHIM_VECTOR2(float, float2, 8)
BAL_SHIM_VECTOR2(int, int2, 8)
BAL_SHIM_VECTOR2(unsigned, uint2, 8)
BAL_SHIM_VECTOR4(float, float4, 16)
BAL_SHIM_VECTOR4(int, int4, 16)
BAL_SHIM_VECTOR4(unsigned, uint4, 16)
BAL_SHIM_VECTOR4(unsigned char, uchar4, 4)
BAL_SHIM_VECTOR4(signed char, char4, 4)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

/* ---- Host interface ---------------------------------------------------------------------------
 */

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900
};
enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed
};
enum cudaDeviceAttr {
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
    cudaDevAttrL2CacheSize
};
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0 };

typedef struct bal_shim_stream *cudaStream_t;
typedef struct bal_shim_event *cudaEvent_t;
typedef struct bal_shim_graph *cudaGraph_t;
typedef struct bal_shim_graph *cudaGraphExec_t;

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    int major, minor, multiProcessorCount, l2CacheSize;
    size_t sharedMemPerBlockOptin;
};

struct cudaFuncAttributes {
    int ptxVersion;
};

/* Of any kernel: those of the newest code. */
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *kernel);

const char *cudaGetErrorString(cudaError_t e);
const char *cudaGetErrorName(cudaError_t e);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr a, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaDeviceSynchronize();

cudaError_t cudaMalloc(void **p, size_t n);
template <class T> cudaError_t cudaMalloc(T **p, size_t n)
{
    return cudaMalloc((void **)p, n);
}
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t n);
template <class T> cudaError_t cudaMallocHost(T **p, size_t n)
{
    return cudaMallocHost((void **)p, n);
}
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpy(void *to, const void *from, size_t n, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind kind,
                            cudaStream_t s = nullptr);
cudaError_t cudaMemset(void *to, int byte, size_t n);
cudaError_t cudaMemsetAsync(void *to, int byte, size_t n, cudaStream_t s = nullptr);

cudaError_t cudaStreamCreate(cudaStream_t *s);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamQuery(cudaStream_t s);
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags = 0);
cudaError_t cudaEventCreate(cudaEvent_t *e);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t e);
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t e);
cudaError_t cudaEventQuery(cudaEvent_t e);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to);

cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x);

/* What bal_launch of cuda/port.cuh comes down to: `thread` is run once for each thread. */
cudaError_t bal_shim_launch(dim3 grid, unsigned threads, size_t shared, cudaStream_t s, bool early,
                            std::function<void()> thread);

/* ---- Inside of a kernel -----------------------------------------------------------------------
 */

/* The running thread. */
struct bal_shim_place {
    dim3 thread, block, threads, grid;
    unsigned lane;
    unsigned char *shared;
};
extern const bal_shim_place *bal_shim_here;
#define threadIdx (bal_shim_here->thread)
#define blockIdx  (bal_shim_here->block)
#define blockDim  (bal_shim_here->threads)
#define gridDim   (bal_shim_here->grid)

/* A place in the source, to tell collectives apart. */
#define BAL_SHIM_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

void bal_shim_barrier(const char *file, int line);
/* All 32 lanes meet; the last one calls all(lanes, arguments of lane 0 ... 31). */
void bal_shim_meet(unsigned mask, void (*all)(void **lanes), void *mine, const char *file,
                   int line);
uint32_t bal_shim_shuffle(unsigned mask, uint32_t v, unsigned from, const char *file, int line);
uint32_t bal_shim_ballot(unsigned mask, bool p, const char *file, int line);

static inline void __syncthreads(BAL_SHIM_SITE)
{
    bal_shim_barrier(file, line);
}

static inline void __syncwarp(unsigned mask = 0xffffffffu, BAL_SHIM_SITE)
{
    bal_shim_ballot(mask, false, file, line);
}

template <class T>
T bal_shim_shuffle_any(unsigned mask, T v, unsigned from, const char *file, int line)
{
    static_assert(sizeof(T) == 4, "shuffles move 32 bits");
    uint32_t u;
    memcpy(&u, &v, 4);
    u = bal_shim_shuffle(mask, u, from, file, line);
    memcpy(&v, &u, 4);
    return v;
}

template <class T> T __shfl_sync(unsigned mask, T v, int from, int width = 32, BAL_SHIM_SITE)
{
    const unsigned w = (unsigned)width, lane = bal_shim_here->lane;
    return bal_shim_shuffle_any(mask, v, (lane & ~(w - 1)) | ((unsigned)from & (w - 1)), file,
                                line);
}

template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32, BAL_SHIM_SITE)
{
    const unsigned lane = bal_shim_here->lane, from = lane ^ (unsigned)bits;
    return bal_shim_shuffle_any(mask, v, (from ^ lane) < (unsigned)width ? from : lane, file, line);
}

template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, BAL_SHIM_SITE)
{
    const unsigned w = (unsigned)width, lane = bal_shim_here->lane;
    return bal_shim_shuffle_any(mask, v, (lane & (w - 1)) + by < w ? lane + by : lane, file, line);
}

template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, BAL_SHIM_SITE)
{
    const unsigned w = (unsigned)width, lane = bal_shim_here->lane;
    return bal_shim_shuffle_any(mask, v, (lane & (w - 1)) >= by ? lane - by : lane, file, line);
}

static inline unsigned __ballot_sync(unsigned mask, bool p, BAL_SHIM_SITE)
{
    return bal_shim_ballot(mask, p, file, line);
}

static inline bool __any_sync(unsigned mask, bool p, BAL_SHIM_SITE)
{
    return bal_shim_ballot(mask, p, file, line) != 0;
}

static inline bool __all_sync(unsigned mask, bool p, BAL_SHIM_SITE)
{
    return bal_shim_ballot(mask, p, file, line) == 0xffffffffu;
}

/* One thread runs at a time, so atomics are plain. */
template <class T> T atomicAdd(T *p, T v)
{
    const T old = *p;
    *p = old + v;
    return old;
}

template <class T> T atomicMax(T *p, T v)
{
    const T old = *p;
    if (v > old) *p = v;
    return old;
}

template <class T> T atomicExch(T *p, T v)
{
    const T old = *p;
    *p = v;
    return old;
}

static inline void __threadfence()
{
}

template <class T> T __ldg(const T *p)
{
    return *p;
}

template <class T> T __ldcg(const T *p)
{
    return *p;
}

template <class T> T __ldcs(const T *p)
{
    return *p;
}

template <class T> void __stcg(T *p, T v)
{
    *p = v;
}

static inline uint32_t __float_as_uint(float x)
{
    return bal_f32_bits(x);
}

static inline float __uint_as_float(uint32_t u)
{
    return bal_f32_from_bits(u);
}

static inline int __float_as_int(float x)
{
    return (int)bal_f32_bits(x);
}

static inline float __int_as_float(int u)
{
    return bal_f32_from_bits((uint32_t)u);
}

static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

#define __expf(x) expf(x) /* the C library has names like these of its own */
#define __logf(x) logf(x)

static inline float __fdividef(float a, float b)
{
    return a / b;
}

static inline int __float2int_rn(float x)
{
    return (int)rintf(x);
}

/* Never fused into one another. */
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}

static inline float __fadd_rn(float a, float b)
{
    return a + b;
}

static inline float __fsub_rn(float a, float b)
{
    return a - b;
}

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

template <class T> T min(T a, T b)
{
    return b < a ? b : a;
}

template <class T> T max(T a, T b)
{
    return a < b ? b : a;
}

/* The byte of the pair {hi, lo} that each nibble of `pick` names. */
static inline uint32_t __byte_perm(uint32_t lo, uint32_t hi, uint32_t pick)
{
    const uint64_t pair = (uint64_t)hi << 32 | lo;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned which = pick >> 4 * i & 7;
        uint32_t byte = (uint32_t)(pair >> 8 * which) & 0xff;
        if (pick >> 4 * i & 8) byte = byte & 0x80 ? 0xff : 0;
        r |= byte << 8 * i;
    }
    return r;
}

/* ---- The host half of cuda/port.cuh: contracts stand there ------------------------------------
 */

static inline unsigned char *bal_shared()
{
    return bal_shim_here->shared;
}

static inline uint32_t bal_and_or(uint32_t w, uint32_t mask, uint32_t bits)
{
    return (w & mask) | bits;
}

static inline uint32_t bal_f16_pair(float lo, float hi)
{
    return (uint32_t)bal_f32_to_f16(hi) << 16 | bal_f32_to_f16(lo);
}

static inline uint32_t bal_bf16_pair(float lo, float hi)
{
    return (uint32_t)bal_f32_to_bf16(hi) << 16 | bal_f32_to_bf16(lo);
}

static inline uint16_t bal_f16(float x)
{
    return bal_f32_to_f16(x);
}

static inline uint16_t bal_bf16(float x)
{
    return bal_f32_to_bf16(x);
}

static inline float bal_f16_float(uint32_t h)
{
    return bal_f16_to_f32((uint16_t)h);
}

static inline float bal_bf16_float(uint32_t h)
{
    return bal_bf16_to_f32((uint16_t)h);
}

void bal_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4],
                 BAL_SHIM_SITE);
void bal_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4],
                  BAL_SHIM_SITE);
void bal_mma_u8s8(int d[4], const uint32_t a[4], const uint32_t b[2], const int c[4],
                  BAL_SHIM_SITE);
void bal_ldmatrix_x4(uint32_t r[4], const void *shared, BAL_SHIM_SITE);
void bal_ldmatrix_x4_trans(uint32_t r[4], const void *shared, BAL_SHIM_SITE);

void bal_cp_async16(void *shared, const void *global);
static inline void bal_cp_async16_policy(void *shared, const void *global, uint64_t)
{
    bal_cp_async16(shared, global);
}

static inline uint64_t bal_policy_stream()
{
    return 0;
}

static inline uint64_t bal_policy_keep()
{
    return 0;
}

void bal_cp_commit();
void bal_shim_cp_wait(int n);
template <int n> void bal_cp_wait()
{
    bal_shim_cp_wait(n);
}

void bal_grid_wait();
static inline void bal_grid_release()
{
}

#endif
