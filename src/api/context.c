/* SPDX-License-Identifier: MIT
 * Models behind their handles, and the reading of structs that may grow. */
#include "api/context.h"

#include "model/family.h"

#include <stdlib.h>
#include <string.h>

const char *bal_version(void)
{
    return BALLAST_VERSION;
}

/* ---- Versioned structs ----------------------------------------------------------------------- */

static uint32_t size_of(const void *given)
{
    uint32_t size;
    memcpy(&size, given, sizeof size);
    return size;
}

bal_status bal_result_check(const void *given, size_t first, const char *name, bal_error *err)
{
    if (!given || size_of(given) >= first) return BAL_OK;
    return bal_fail(err, BAL_E_ARG, "%s.size: %u, expected sizeof(%s), at least %zu", name,
                    size_of(given), name, first);
}

bal_status bal_opts_read(void *known, size_t n_known, size_t first, const void *given,
                         const char *name, bal_error *err)
{
    memset(known, 0, n_known);
    if (!given) return BAL_OK;
    BAL_TRY(bal_result_check(given, first, name, err));
    const size_t size = size_of(given);
    const uint8_t *bytes = given;
    for (size_t i = n_known; i < size; i++)
        if (bytes[i])
            return bal_fail(err, BAL_E_ARG, "%s.size: %zu, this library knows %zu bytes of it",
                            name, size, n_known);
    memcpy(known, given, size < n_known ? size : n_known);
    return BAL_OK;
}

void bal_result_write(void *given, const void *known, size_t n_known)
{
    if (!given) return;
    const size_t size = size_of(given), skip = sizeof(uint32_t);
    memcpy((uint8_t *)given + skip, (const uint8_t *)known + skip,
           (size < n_known ? size : n_known) - skip);
}

/* ---- Model ----------------------------------------------------------------------------------- */

static bal_status open_checked(bal_context **out, const char *path, const bal_open_opts *opts,
                               bal_error *err)
{
    bal_open_opts o;
    BAL_TRY(bal_opts_read(&o, sizeof o, sizeof o, opts, "bal_open_opts", err));
    if (o.threads > 256) return bal_fail(err, BAL_E_ARG, "threads: %u, at most 256", o.threads);
    bal_device_choice choice;
    BAL_TRY(bal_device_parse(o.device, &choice, err));
    bal_context *c = calloc(1, sizeof *c);
    if (!c) return bal_nomem(err, sizeof *c, "model handle");
    bal_status st = bal_engine_open(&c->engine, path, (int)o.threads, o.isa, err);
    if (st == BAL_OK) st = bal_engine_use_chat(&c->engine, o.chat_template, err);
    if (st == BAL_OK) st = bal_engine_limit_images(&c->engine, o.image_max_tokens, err);
    if (st == BAL_OK) st = bal_engine_use_shapes(&c->engine, o.shapes, err);
    if (st == BAL_OK) st = bal_engine_use_device(&c->engine, o.device, err);
    if (st < 0)
        bal_close(c);
    else
        *out = c;
    return st;
}

bal_status bal_open(bal_context **out, const char *path, const bal_open_opts *opts, bal_error *err)
{
    if (!out || !path) return bal_fail(err, BAL_E_ARG, "bal_open: out or path is NULL");
    *out = NULL;
    return open_checked(out, path, opts, err);
}

void bal_close(bal_context *model)
{
    if (!model) return;
    bal_engine_close(&model->engine);
    free(model);
}

bal_status bal_get_info(const bal_context *model, bal_model_info *info, bal_error *err)
{
    if (!model || !info) return bal_fail(err, BAL_E_ARG, "bal_get_info: model or info is NULL");
    BAL_TRY(bal_result_check(info, sizeof *info, "bal_model_info", err));
    const bal_engine *e = &model->engine;
    const bal_model_info all = {
        .max_context = e->model.config.text.max_positions,
        .has_vision = e->model.config.has_vision,
        .vocabulary = e->model.config.text.vocab,
        .family = bal_family_of(&e->model.config)->model_type,
        .isa = bal_isa_name(e->isa),
        .threads = bal_pool_size(e->pool),
        .n_shapes = (int32_t)e->shapes.n,
        .chat_template = e->chat < BAL_CHAT_N_FAMILIES ? bal_chat_family_name(e->chat) : NULL};
    bal_result_write(info, &all, sizeof all);
    return BAL_OK;
}
