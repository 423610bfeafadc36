/* SPDX-License-Identifier: MIT
 * The forms of the linear kernel, one file per width since they take long to compile. */
#ifndef BAL_CUDA_LINEAR_FORMS_CUH
#define BAL_CUDA_LINEAR_FORMS_CUH

#include "cuda/linear.cuh"

struct bal_linear_form {
    void (*kernel)(bal_k_linear_args);
    size_t shared; /* bytes */
    int cols;      /* inputs of a unit */
};

/* The form for up to 8 nt rows, nt 1 or 2, and `subs` groups per unit: 1, 2 or 4. */
typedef bal_linear_form bal_linear_form_fn(int nt, int subs);
bal_linear_form_fn bal_linear_form_w2, bal_linear_form_w3, bal_linear_form_w4, bal_linear_form_w6,
    bal_linear_form_w8, bal_linear_form_f16;

template <int bits, int nt, int subs> bal_linear_form bal_linear_form_make()
{
    using sizes = bal_linear_sizes<bits, nt, subs>;
    return {bal_k_linear<bits, nt, subs>, sizes::shared, sizes::cols};
}

template <int bits, int nt> bal_linear_form bal_linear_form_of(int subs)
{
    if constexpr (bits < 16)
        if (subs == 2) return bal_linear_form_make<bits, nt, 2>();
    if constexpr (bits < 8)
        if (subs == 4) return bal_linear_form_make<bits, nt, 4>();
    return bal_linear_form_make<bits, nt, 1>();
}

template <int bits> bal_linear_form bal_linear_form_of(int nt, int subs)
{
    return nt == 1 ? bal_linear_form_of<bits, 1>(subs) : bal_linear_form_of<bits, 2>(subs);
}

#endif
