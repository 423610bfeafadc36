/* SPDX-License-Identifier: MIT
 * What a kernel may use besides plain CUDA: the PTX instructions of sm_80 and later behind small
 * functions, and the one way to launch. Each function exists twice, as inline assembly for nvcc and
 * as host code of the shim (tests/cuda/shim), so that every kernel also builds with g++ and is
 * checked without a GPU. Refuses nothing: preconditions are the caller's.
 *
 * How a kernel is written (.cu and .cuh files, C++17, C-like):
 *   - #include "cuda/port.cuh" and nothing else of CUDA.
 *   - It takes one plain struct by value:
 *         __global__ void __launch_bounds__(256) bal_k_add(const bal_k_add_args a)
 *     and is launched by bal_launch(bal_k_add, shape, args), never by <<<>>>. Names start with
 *     bal_k_. Blocks are one-dimensional, a multiple of 32 threads.
 *   - Shared memory is dynamic: bal_shared() is the block's first byte (16-byte aligned), its size
 *     is in the launch. No __shared__ variables: the shim poisons and bounds-checks the buffer.
 *   - threadIdx, blockIdx, blockDim, gridDim, __syncthreads, __syncwarp, __shfl_*_sync,
 * __ballot_sync, atomicAdd, __threadfence, fmaf, expf, float4 ... are written as in CUDA. All warp
 * collectives name the whole warp (0xffffffff). PTX is reached through the functions below only; no
 * asm in kernels.
 *   - Global memory is read through ordinary pointers, vectors through uint4, float4 ... at their
 *     alignment, so that AddressSanitizer sees every access.
 *   - f16 and bf16 are uint16_t, pairs uint32_t with the lower index in the low half. */
#ifndef BAL_CUDA_PORT_CUH
#define BAL_CUDA_PORT_CUH

#include <cuda_runtime.h> /* of the toolkit, or of the shim */
#include <stddef.h>
#include <stdint.h>

#define BAL_DEVICE static __device__ __forceinline__
#define BAL_WARP   0xffffffffu /* the mask of warp collectives */

/* Where and how a kernel runs. early: it may start before the kernel in front of it in the stream
 * has ended (programmatic dependent launch, compute capability 9 and later) and then calls
 * bal_grid_wait() before it touches anything but constant data. */
struct bal_launch_shape {
    dim3 grid;
    unsigned threads; /* of a block */
    size_t shared;    /* bytes of shared memory */
    cudaStream_t stream;
    bool early;
};

#ifdef BAL_CUDA_SHIM
#define BAL_UNROLL
#else
#define BAL_UNROLL _Pragma("unroll")
#endif

#ifdef BAL_CUDA_SHIM

template <class Args>
cudaError_t bal_launch(void (*kernel)(Args), const bal_launch_shape &s, const Args &args)
{
    return bal_shim_launch(s.grid, s.threads, s.shared, s.stream, s.early,
                           [kernel, args] { kernel(args); });
}

#else

/* Per cent of what a processor can have as shared memory, the rest of its memory is first cache:
 * the same for all kernels, since those that want it cut differently cannot overlap. Two thirds
 * hold two blocks of most forms of the linear kernel on compute capability 8.0 and 9.0, one of the
 * others and on 8.6 and 8.9, and leave activations a cache. */
enum { BAL_CARVEOUT = 66 };

/* As much shared memory as a block can have: the same for each launch of a kernel, since what one
 * thread sets lower would hold for what another launches, and for recordings. */
static inline cudaError_t bal_allow_shared(const void *kernel)
{
    int device = 0, most = 0;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (e != cudaSuccess) return e;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}

template <class Args>
cudaError_t bal_launch(void (*kernel)(Args), const bal_launch_shape &s, const Args &args)
{
    cudaError_t e = cudaFuncSetAttribute(
        (const void *)kernel, cudaFuncAttributePreferredSharedMemoryCarveout, BAL_CARVEOUT);
    if (e == cudaSuccess && s.shared > 48 * 1024) e = bal_allow_shared((const void *)kernel);
    if (e != cudaSuccess) return e;
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = s.grid;
    config.blockDim = dim3(s.threads);
    config.dynamicSmemBytes = s.shared;
    config.stream = s.stream;
    config.attrs = &attribute;
    config.numAttrs = s.early ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, args);
}

BAL_DEVICE unsigned char *bal_shared()
{
    extern __shared__ uint4 bal_shared_bytes[];
    return (unsigned char *)bal_shared_bytes;
}

/* (w & mask) | bits, in one instruction: left to itself the compiler takes two where both are
 * constants. */
BAL_DEVICE uint32_t bal_and_or(uint32_t w, uint32_t mask, uint32_t bits)
{
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(w), "r"(mask), "r"(bits));
    return r;
}

/* ---- 16-bit floats ------------------------------------------------------------------------------
 * Rounding is to nearest even; beyond the range is infinity. */

BAL_DEVICE uint32_t bal_f16_pair(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

BAL_DEVICE uint32_t bal_bf16_pair(float lo, float hi)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

BAL_DEVICE uint16_t bal_f16(float x)
{
    uint16_t r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
    return r;
}

BAL_DEVICE uint16_t bal_bf16(float x)
{
    uint16_t r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x));
    return r;
}

BAL_DEVICE float bal_f16_float(uint32_t h) /* of the low 16 bits */
{
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"((uint16_t)h));
    return r;
}

BAL_DEVICE float bal_bf16_float(uint32_t h)
{
    return __uint_as_float(h << 16);
}

/* ---- Tensor cores -------------------------------------------------------------------------------
 * D = A B + C over a warp; fragments as PTX documents them. With g = lane / 4, t = lane % 4:
 * m16n8k16, 16-bit floats, f32 sums
 *   a[0] row g, k 2t and 2t + 1    a[1] row g + 8    a[2] row g, k + 8    a[3] row g + 8, k + 8
 *   b[0] column g, k 2t and 2t + 1    b[1] k + 8
 *   c, d: [0] row g, column 2t    [1] column 2t + 1    [2], [3] row g + 8
 * m16n8k32, unsigned bytes in A and signed ones in B, exact int32 sums
 *   a[0] row g, k 4t .. 4t + 3    a[1] row g + 8    a[2] row g, k + 16    a[3] row g + 8, k + 16
 *   b[0] column g, k 4t .. 4t + 3    b[1] k + 16;    c, d as above */

BAL_DEVICE void bal_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
}

BAL_DEVICE void bal_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
}

BAL_DEVICE void bal_mma_u8s8(int d[4], const uint32_t a[4], const uint32_t b[2], const int c[4])
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(c[0]), "r"(c[1]),
          "r"(c[2]), "r"(c[3]));
}

/* Four 8 x 8 matrices of 16-bit elements from shared memory: lane i gives the address (16-byte
 * aligned) of row i % 8 of matrix i / 8; r[j] is elements 2t, 2t + 1 of row g of matrix j. The
 * transposed form gives rows 2t, 2t + 1 of column g. */
BAL_DEVICE void bal_ldmatrix_x4(uint32_t r[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(shared))
                 : "memory");
}

BAL_DEVICE void bal_ldmatrix_x4_trans(uint32_t r[4], const void *shared)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(shared))
                 : "memory");
}

/* ---- Memory -------------------------------------------------------------------------------------
 * cp.async: 16 bytes from global to shared memory, both 16-byte aligned. They are there when a wait
 * has returned that leaves at most n younger groups of this thread open, and for other threads
 * behind a barrier after it. Until then neither source nor destination may be touched. */

BAL_DEVICE void bal_cp_async16(void *shared, const void *global)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(global)
                 : "memory");
}

/* The same with a wish about L2, of bal_policy_stream or bal_policy_keep. */
BAL_DEVICE void bal_cp_async16_policy(void *shared, const void *global, uint64_t policy)
{
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(global), "l"(policy)
                 : "memory");
}

/* For data that is read once: first to leave L2. */
BAL_DEVICE uint64_t bal_policy_stream()
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* For weights that many blocks read: no preference. */
BAL_DEVICE uint64_t bal_policy_keep()
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

BAL_DEVICE void bal_cp_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int n> BAL_DEVICE void bal_cp_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

/* ---- Order of kernels ---------------------------------------------------------------------------
 * bal_grid_wait: everything the kernels in front wrote is there (see bal_launch_shape.early).
 * bal_grid_release: the kernel behind may start. Both do nothing before compute capability 9. */

BAL_DEVICE void bal_grid_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

BAL_DEVICE void bal_grid_release()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
#endif
