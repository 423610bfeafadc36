/* SPDX-License-Identifier: MIT
 * Codes on frozen grids that minimise tr((W^ - T) H (W^ - T)^T), the output error of a linear:
 * error feedback (GPTQ in its LDLQ form) and coordinate descent behind it. Rows are independent;
 * every row is solved in the same order of operations whatever the threads. Formulas and sources
 * in docs/numerics.md, "Error feedback". */
#ifndef BAL_QUANT_LDLQ_H
#define BAL_QUANT_LDLQ_H

#include "quant/factor.h"
#include "quant/quantizer.h"

/* Codes of target [n][k] on the scales and zero points that q has: along f's order,
 *   q_j = round to grid( v_j ),  v_j = t_j + sum over earlier i of (t_i - w^_i) M_ij.
 * drift: NULL, or P of bal_column_shift_create: each t_j is moved by the sum over earlier i of
 * v_i P_ij before. */
bal_status bal_ldlq(const bal_exec *e, const bal_factor *f, const bal_panels *drift,
                    const float *target, bal_quantized_linear *q, bal_error *err);

/* `sweeps` passes of coordinate descent over codes, each column to its best code with all others
 * held; with refit each pass is preceded by least squares of every group's scale. Nothing is
 * accepted that does not lower the error. h [k][k]. */
bal_status bal_polish(const bal_exec *e, const float *h, const float *target, int sweeps,
                      bool refit, bal_quantized_linear *q, bal_error *err);

/* Multiplies the scales of every row so that its output has slope 1 on the target's: least squares
 * leaves every row a little short, all of them together, and what is short together adds up where
 * noise does not. Rows whose target gives nothing, and slopes outside 1/2 .. 2, are left alone.
 * form: bal_form_create's. */
bal_status bal_unit_gain(const bal_exec *e, const bal_panels *form, const float *target,
                         bal_quantized_linear *q, bal_error *err);

#endif
