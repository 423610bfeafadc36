/* SPDX-License-Identifier: MIT
 * The linear kernel for float weights, held as f16. */
#include "cuda/linear_forms.cuh"

bal_linear_form bal_linear_form_f16(int nt, int subs)
{
    return bal_linear_form_of<16>(nt, subs);
}
