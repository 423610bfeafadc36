/* SPDX-License-Identifier: MIT
 * The forms of the linear kernel, one file per width since they take long to compile. */
#ifndef BAL_CUDA_LINEAR_FORMS_CUH
#define BAL_CUDA_LINEAR_FORMS_CUH

#include "cuda/linear.cuh"

struct bal_linear_form {
    void (*kernel)(bal_k_linear_args);
    void (*own)(bal_k_linear_own_args); /* of nt 1, else NULL */
    size_t shared;                      /* bytes */
    size_t own_tile;                    /* and of it for each tile of x that a block stages */
    int cols;                           /* inputs of a unit */
    int rows;                           /* of x in a block */
};

/* The form for up to 8 nt rows, nt 1 or 2, or for many (nt 0), and `subs` groups per unit: 1, 2, 4.
 * bytes: for 8-bit activations; subs are runs with one scale on both sides, 1 or as many as there
 * are 32 inputs in a unit. */
typedef bal_linear_form bal_linear_form_fn(int nt, int subs);
bal_linear_form_fn bal_linear_form_w2, bal_linear_form_w3, bal_linear_form_w4, bal_linear_form_w6,
    bal_linear_form_w8, bal_linear_form_f16, bal_linear_form_t2, bal_linear_form_t3,
    bal_linear_form_t4;
bal_linear_form_fn bal_linear_bytes_w2, bal_linear_bytes_w3, bal_linear_bytes_w4,
    bal_linear_bytes_w6, bal_linear_bytes_w8;

template <int bits, int subs, bool bytes> bal_linear_form bal_linear_form_make(int nt)
{
    using one = bal_linear_sizes<bits, 1, subs>;
    using two = bal_linear_sizes<bits, 2, subs>;
    using many = bal_linear_sizes<bits, bal_linear_many<subs> / 8, subs>;
    /* what a block may have on compute capability 8.6 and 8.9, the least of all */
    static_assert(one::shared <= 99 << 10 && two::shared <= 99 << 10 && many::shared <= 99 << 10,
                  "shared memory");
    if (nt == 1)
        return {bal_k_linear<bits, 1, subs, bytes>,
                bal_k_linear_own<bits, subs, bytes>,
                one::shared,
                bal_linear_own_bytes<bytes>,
                one::cols,
                8};
    if (nt == 2)
        return {bal_k_linear<bits, 2, subs, bytes>, nullptr, two::shared, 0, two::cols, 16};
    return {bal_k_linear_many<bits, subs, bytes>,
            nullptr,
            many::shared,
            0,
            many::cols,
            bal_linear_many<subs>};
}

template <int bits> bal_linear_form bal_linear_form_of(int nt, int subs)
{
    if constexpr (bits != 16)
        if (subs == 2) return bal_linear_form_make<bits, 2, false>(nt);
    if constexpr (bal_width<bits>::cols == 128)
        if (subs == 4) return bal_linear_form_make<bits, 4, false>(nt);
    return bal_linear_form_make<bits, 1, false>(nt);
}

template <int bits> bal_linear_form bal_linear_bytes_of(int nt, int subs)
{
    constexpr int most = bal_width<bits>::cols / 32;
    if (subs == 1) return bal_linear_form_make<bits, 1, true>(nt);
    return bal_linear_form_make<bits, most, true>(nt);
}

#endif
