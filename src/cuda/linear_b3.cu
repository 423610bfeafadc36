/* SPDX-License-Identifier: MIT
 * The linear kernel for codes of 3 bits and 8-bit activations. */
#include "cuda/linear_forms.cuh"

bal_linear_form bal_linear_bytes_w3(int nt, int subs)
{
    return bal_linear_bytes_of<3>(nt, subs);
}
