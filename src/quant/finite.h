/* SPDX-License-Identifier: MIT
 * A look at every float of a checkpoint before hours are spent on it: decoder blocks are looked at
 * again when they are solved, but embeddings, vision tower, projector and head go into the file
 * unseen. */
#ifndef BAL_QUANT_FINITE_H
#define BAL_QUANT_FINITE_H

#include "format/safetensors.h"

/* BAL_E_NUMERIC names file, tensor and element of the first NaN or Inf among the F32, F16 and BF16
 * tensors of the set; others are not looked at. */
bal_status bal_check_finite(const bal_tensor_set *set, bal_error *err);

#endif
