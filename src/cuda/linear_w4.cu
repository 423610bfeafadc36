/* SPDX-License-Identifier: MIT
 * The linear kernel for codes of 4 bits. */
#include "cuda/linear_forms.cuh"

bal_linear_form bal_linear_form_w4(int nt, int subs)
{
    return bal_linear_form_of<4>(nt, subs);
}
