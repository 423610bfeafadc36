/* SPDX-License-Identifier: MIT
 * The linear kernel for codes of 3 bits that name levels of a table. */
#include "cuda/linear_forms.cuh"

bal_linear_form bal_linear_form_t3(int nt, int subs)
{
    return bal_linear_form_of<BAL_TABLE + 3>(nt, subs);
}
