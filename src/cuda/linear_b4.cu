/* SPDX-License-Identifier: MIT
 * The linear kernel for codes of 4 bits and 8-bit activations. */
#include "cuda/linear_forms.cuh"

bal_linear_form bal_linear_bytes_w4(int nt, int subs)
{
    return bal_linear_bytes_of<4>(nt, subs);
}
