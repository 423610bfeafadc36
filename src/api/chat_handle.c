/* SPDX-License-Identifier: MIT
 * Chats behind their handles: arguments and lifetimes are checked here, run/generate.c does the
 * work. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "api/context.h"

enum { DEFAULT_CONTEXT = 16384 };

/* ---- Lifetime -------------------------------------------------------------------------------- */

static bal_status create(bal_chat *c, const bal_engine *e, const bal_chat_opts *o, bal_error *err)
{
    const int max = e->model.config.text.max_positions;
    const bal_sampling sampling = {.temperature = o->temperature,
                                   .top_k = o->top_k,
                                   .top_p = o->top_p == 0.0f ? 1.0f : o->top_p,
                                   .seed = o->seed};
    if (o->alpha != BAL_ALPHA_ON_WHITE && o->alpha != BAL_ALPHA_DROPPED)
        return bal_fail(err, BAL_E_ARG, "bal_chat_opts.alpha: %d", (int)o->alpha);
    c->image_opts.alpha = o->alpha == BAL_ALPHA_ON_WHITE ? BAL_ALPHA_WHITE : BAL_ALPHA_DROP;
    const int ctx = o->context ? o->context : max < DEFAULT_CONTEXT ? max : DEFAULT_CONTEXT;
    return bal_dialog_create(&c->dialog, e, ctx, &sampling, err);
}

bal_status bal_chat_open(bal_chat **out, bal_context *model, const bal_chat_opts *opts,
                         bal_error *err)
{
    bal_chat_opts o;
    if (!out || !model) return bal_fail(err, BAL_E_ARG, "bal_chat_open: out or model is NULL");
    *out = NULL;
    BAL_TRY(bal_opts_read(&o, sizeof o, sizeof o, opts, "bal_chat_opts", err));
    bal_chat *c = calloc(1, sizeof *c);
    if (!c) return bal_nomem(err, sizeof *c, "chat handle");
    const bal_status st = create(c, &model->engine, &o, err);
    if (st < 0)
        bal_chat_close(c);
    else
        *out = c;
    return st;
}

void bal_chat_close(bal_chat *chat)
{
    if (!chat) return;
    bal_dialog_destroy(&chat->dialog);
    free(chat);
}

void bal_chat_clear(bal_chat *chat)
{
    if (chat) bal_dialog_clear(&chat->dialog);
}

/* ---- Pictures -------------------------------------------------------------------------------- */

int32_t bal_chat_n_pictures(const bal_chat *chat)
{
    return chat ? chat->dialog.n_images : 0;
}

bal_status bal_chat_picture(const bal_chat *chat, int32_t index, bal_picture_info *info,
                            bal_error *err)
{
    if (!chat || !info) return bal_fail(err, BAL_E_ARG, "bal_chat_picture: chat or info is NULL");
    BAL_TRY(bal_result_check(info, sizeof *info, "bal_picture_info", err));
    bal_view_plan plan;
    BAL_TRY(bal_dialog_plan(&chat->dialog, index, &plan, err));
    const bal_picture_info all = {.width = plan.image_w,
                                  .height = plan.image_h,
                                  .rows = plan.rows,
                                  .cols = plan.cols,
                                  .views = plan.n_views,
                                  .tokens = plan.n_tokens,
                                  .resized_width = plan.square_side ? 0 : plan.resized_w,
                                  .resized_height = plan.square_side ? 0 : plan.resized_h,
                                  .memory = bal_sequence_look_bytes(chat->dialog.engine, &plan)};
    bal_result_write(info, &all, sizeof all);
    return BAL_OK;
}

/* Adds a decoded picture, which is freed if that fails. */
static bal_status add(bal_chat *c, bal_image *image, bal_picture_info *info, bal_error *err)
{
    bal_status st = bal_dialog_add(&c->dialog, image, err);
    bal_image_free(image);
    if (st == BAL_OK && info) st = bal_chat_picture(c, c->dialog.n_images - 1, info, err);
    return st;
}

bal_status bal_chat_add_image_file(bal_chat *chat, const char *path, bal_picture_info *info,
                                   bal_error *err)
{
    bal_image image;
    if (!chat || !path)
        return bal_fail(err, BAL_E_ARG, "bal_chat_add_image_file: chat or path is NULL");
    BAL_TRY(bal_result_check(info, sizeof *info, "bal_picture_info", err));
    BAL_TRY(bal_image_open(&image, path, &chat->image_opts, err));
    const bal_status st = add(chat, &image, info, err);
    return st < 0 ? bal_fail_in(err, st, "%s", path) : st;
}

bal_status bal_chat_add_image_bytes(bal_chat *chat, const void *data, size_t n_bytes,
                                    bal_picture_info *info, bal_error *err)
{
    bal_image image;
    if (!chat || (!data && n_bytes))
        return bal_fail(err, BAL_E_ARG, "bal_chat_add_image_bytes: chat or data is NULL");
    BAL_TRY(bal_result_check(info, sizeof *info, "bal_picture_info", err));
    BAL_TRY(bal_image_decode(&image, data, n_bytes, &chat->image_opts, err));
    return add(chat, &image, info, err);
}

bal_status bal_chat_add_image_rgb(bal_chat *chat, const uint8_t *rgb, int32_t width, int32_t height,
                                  size_t stride_bytes, bal_picture_info *info, bal_error *err)
{
    bal_image image;
    if (!chat || !rgb)
        return bal_fail(err, BAL_E_ARG, "bal_chat_add_image_rgb: chat or rgb is NULL");
    BAL_TRY(bal_result_check(info, sizeof *info, "bal_picture_info", err));
    BAL_TRY(bal_image_create(&image, width, height, err));
    const size_t row = 3 * (size_t)width;
    if (stride_bytes < row) {
        bal_image_free(&image);
        return bal_fail(err, BAL_E_ARG, "stride_bytes: %zu, a row of %d pixels has %zu",
                        stride_bytes, width, row);
    }
    for (size_t y = 0; y < (size_t)height; y++)
        memcpy(image.rgb + y * row, rgb + y * stride_bytes, row);
    return add(chat, &image, info, err);
}

/* ---- Questions ------------------------------------------------------------------------------- */

bal_status bal_chat_ask(bal_chat *chat, const char *text, const bal_ask_opts *opts,
                        bal_ask_result *result, bal_error *err)
{
    bal_ask_opts o;
    bal_ask_result r = {0};
    if (!chat || !text) return bal_fail(err, BAL_E_ARG, "bal_chat_ask: chat or text is NULL");
    BAL_TRY(bal_opts_read(&o, sizeof o, sizeof o, opts, "bal_ask_opts", err));
    BAL_TRY(bal_result_check(result, sizeof *result, "bal_ask_result", err));
    if (o.max_tokens < 0)
        return bal_fail(err, BAL_E_ARG, "bal_ask_opts.max_tokens: %d", o.max_tokens);
    if (o.max_tokens == 0) o.max_tokens = BAL_DIALOG_MAX_TOKENS;
    const bal_status st = bal_dialog_ask(&chat->dialog, text, strlen(text), &o, &r, err);
    bal_result_write(result, &r, sizeof r);
    return st;
}
