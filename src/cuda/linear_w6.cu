/* SPDX-License-Identifier: MIT
 * The linear kernel for codes of 6 bits. */
#include "cuda/linear_forms.cuh"

bal_linear_form bal_linear_form_w6(int nt, int subs)
{
    return bal_linear_form_of<6>(nt, subs);
}
