/* SPDX-License-Identifier: MIT
 * The linear kernel for codes of 6 bits and 8-bit activations. */
#include "cuda/linear_forms.cuh"

bal_linear_form bal_linear_bytes_w6(int nt, int subs)
{
    return bal_linear_bytes_of<6>(nt, subs);
}
