/* SPDX-License-Identifier: MIT
 * What the tests of kernels share: cmocka in C++, arrays in the shim's device memory, and the
 * sentence a fault must contain. */
#ifndef BAL_TEST_CUDA_CHECK_H
#define BAL_TEST_CUDA_CHECK_H

#include "cuda/port.cuh"
#include "shim/shim.h"

#include <csetjmp>
#include <cstdarg>
#include <cstdio>
#include <vector>
extern "C" {
#include <cmocka.h>
}

/* A copy of host values on the device. */
template <class T> struct device_array {
    T *p = nullptr;
    size_t n;

    explicit device_array(size_t n_) : n(n_)
    {
        assert_int_equal(cudaMalloc(&p, n * sizeof(T)), cudaSuccess);
    }
    explicit device_array(const std::vector<T> &v) : device_array(v.size())
    {
        assert_int_equal(cudaMemcpy(p, v.data(), n * sizeof(T), cudaMemcpyHostToDevice),
                         cudaSuccess);
    }
    device_array(const device_array &) = delete;
    ~device_array()
    {
        cudaFree(p);
    }
    std::vector<T> values() const
    {
        std::vector<T> v(n);
        cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost);
        return v;
    }
};

/* What tests of planted bugs put in a barrier's or a wait's place. */
static inline void no_barrier()
{
}

/* A kernel in front that fills `to` late, so that who does not wait for it reads poison. */
struct fill_args {
    float *to;
    const float *from;
    int n;
};

__global__ inline void fill(const fill_args a)
{
    bal_grid_wait();
    for (int i = (int)threadIdx.x; i < a.n; i += 32) a.to[i] = a.from[i];
}

/* Waits, and says whether the shim found `words` to complain about. */
static inline bool faulted(const char *words)
{
    cudaDeviceSynchronize();
    const char *fault = bal_shim_take_fault();
    cudaGetLastError();
    if (!fault) return false;
    if (!strstr(fault, words)) print_message("unexpected fault: %s\n", fault);
    return strstr(fault, words) != nullptr;
}

/* Waits; no fault may have happened. */
static inline void assert_sound()
{
    const cudaError_t e = cudaDeviceSynchronize();
    const char *fault = bal_shim_take_fault();
    if (fault) print_message("fault: %s\n", fault);
    assert_null(fault);
    assert_int_equal(e, cudaSuccess);
}

#endif
