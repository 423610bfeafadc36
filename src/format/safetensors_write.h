/* SPDX-License-Identifier: MIT
 * Writes safetensors files whose tensors can be used where they lie in a mapping: the header is
 * padded with spaces so that the data starts on 64 bytes, and tensors of 64-byte multiples come
 * first. Same input, same bytes. What may be in a file: safetensors.h. */
#ifndef BAL_FORMAT_SAFETENSORS_WRITE_H
#define BAL_FORMAT_SAFETENSORS_WRITE_H

#include "format/safetensors.h"

/* Order in the file: tensors whose n_bytes is a multiple of 64, as given; then the others, wider
 * elements first, else as given. So every tensor of the first kind stands on 64 bytes, every other
 * one on a multiple of its element, and there is no hole. Views borrow as usual; `file` is not
 * read. Metadata is written in the order given.
 *
 * Fails with BAL_E_ARG where n_bytes is not what shape and dtype need, a name or key is repeated,
 * reserved or not UTF-8, or the header would exceed what readers accept. */

/* Bytes that the file will have; nothing is written and `data` is not looked at. */
bal_status bal_safetensors_size(uint64_t *n_bytes, const bal_tensor_view *tensors, size_t n_tensors,
                                const bal_st_meta *meta, size_t n_meta, bal_error *err);

/* Creates or replaces `path` in place and syncs it; on failure the file is removed again (a device
 * is not). For output that must be whole or absent, write inside bal_output's folder. */
bal_status bal_safetensors_write(const char *path, const bal_tensor_view *tensors, size_t n_tensors,
                                 const bal_st_meta *meta, size_t n_meta, bal_error *err);

/* The same for tensors that do not fit memory: those with data NULL come from `fill`, piece by
 * piece in file order. */
typedef bal_status bal_st_fill_fn(void *ctx, const bal_tensor_view *t, uint64_t offset, void *out,
                                  size_t n_bytes, bal_error *err);
bal_status bal_safetensors_stream(const char *path, const bal_tensor_view *tensors,
                                  size_t n_tensors, const bal_st_meta *meta, size_t n_meta,
                                  bal_st_fill_fn *fill, void *ctx, bal_error *err);

#endif
