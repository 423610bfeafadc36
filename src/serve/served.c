/* SPDX-License-Identifier: MIT */
#include "serve/served.h"

#include "run/sequence.h"
#include "serve/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- Figures --------------------------------------------------------------------------------- */

static void storage_name(char out[48], const bal_linear *l)
{
    const bal_type_info *t = bal_type_get(l->type);
    if (t->packed)
        bal_packed_layout_id(&l->packed.layout, out);
    else
        snprintf(out, 48, "%s", t->name);
}

static bool ends_with(const char *s, const char *suffix)
{
    const size_t n = strlen(s), m = strlen(suffix);
    return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* Weights outside packed tensors, which stand for more than their bytes and are added apart;
 * matrices of small rank stand for none. */
static uint64_t plain_weights(const bal_tensor_set *set)
{
    uint64_t n = 0;
    for (size_t i = 0; i < set->n_tensors; i++) {
        uint64_t count = 0;
        const bal_tensor_view *t = &set->tensors[i];
        if (ends_with(t->name, ".packed") || ends_with(t->name, ".low_a") ||
            ends_with(t->name, ".low_b") || strncmp(t->name, "ballast.", 8) == 0)
            continue;
        if (bal_st_count(t->shape, t->n_dims, &count)) n += count;
    }
    return n;
}

static uint64_t packed_weights(const bal_linear *l)
{
    return bal_type_get(l->type)->packed ? (uint64_t)l->n * (uint64_t)l->k : 0;
}

/* In the vision tower and the projector. */
static uint64_t packed_in_front(bal_model *m)
{
    uint64_t n = packed_weights(&m->projector[0]) + packed_weights(&m->projector[1]);
    for (int i = 0; i < m->config.vision.layers; i++)
        for (int j = 0; j < BAL_VISION_LINEARS; j++)
            n += packed_weights(bal_vision_linear(&m->vision_layers[i], j));
    return n;
}

static void measure(bal_served *m)
{
    bal_model *model = &m->engine.model;
    uint64_t n_bytes = 0, weights = 0, packed = 0;
    for (int i = 0; i < model->config.text.layers; i++)
        for (int j = 0; j < BAL_DECODER_LINEARS; j++) {
            const bal_linear *l = bal_decoder_linear(&model->layers[i], j);
            const uint64_t n = (uint64_t)l->n * (uint64_t)l->k;
            char name[48];
            storage_name(name, l);
            if (!weights) memcpy(m->storage, name, sizeof name);
            if (strcmp(m->storage, name) != 0) snprintf(m->storage, sizeof m->storage, "mixed");
            weights += n;
            n_bytes += bal_linear_bytes(l);
            packed += packed_weights(l);
        }
    m->weights = plain_weights(&model->tensors) + packed + packed_in_front(model);
    m->n_bytes = model->tensors.n_file_bytes;
    m->linear_bits = weights ? 8.0 * (double)n_bytes / (double)weights : 0.0;
    m->file_bits = m->weights ? 8.0 * (double)m->n_bytes / (double)m->weights : 0.0;
}

static json_t *meta_json(const bal_served *m)
{
    const bal_config *c = &m->engine.model.config;
    bal_scheduler_stats stats;
    bal_scheduler_get_stats(m->scheduler, &stats);
    return json_pack("{s:s, s:f, s:f, s:s, s:I, s:I, s:i, s:i, s:s, s:i, s:I, s:I}", "family",
                     bal_family_of(c)->model_type, "bits_per_weight_linears", m->linear_bits,
                     "bits_per_weight_file", m->file_bits, "storage", m->storage, "weights",
                     (json_int_t)m->weights, "bytes", (json_int_t)m->n_bytes, "vocabulary",
                     c->text.vocab, "threads", bal_pool_size(m->engine.pool), "isa",
                     bal_isa_name(m->engine.isa), "page_tokens", stats.page_tokens,
                     "kv_bytes_per_token", (json_int_t)stats.kv_bytes_per_token, "kv_bytes_total",
                     (json_int_t)stats.kv_bytes_total);
}

json_t *bal_served_json(const bal_served *m)
{
    json_t *modalities = json_pack("[s]", "text");
    if (m->engine.model.config.has_vision) json_array_append_new(modalities, json_string("image"));
    return json_pack("{s:s, s:s, s:I, s:s, s:i, s:o, s:o}", "id", m->name, "object", "model",
                     "created", (json_int_t)m->created, "owned_by", "ballast", "max_model_len",
                     m->ctx, "input_modalities", modalities, "meta", meta_json(m));
}

bal_picture_view bal_served_view(const bal_served *m, int w, int h, int n_pictures)
{
    int32_t id = m->engine.model.config.image_token;
    uint8_t tag = BAL_TAG_IMAGE_SLOT;
    const bal_chat_tokens slot = {&id, &tag, 1};
    const int size[1][2] = {{w, h}};
    const bal_view_mode mode = n_pictures > 1 ? BAL_VIEW_MANY : BAL_VIEW_ONE;
    bal_picture_view v = {.width = w, .height = h};
    bal_sequence s;
    if (bal_sequence_build(&s, &m->engine, &slot, size, 1, mode, 0, 0, NULL) < 0) return v;
    v.rows = s.plans[0].rows;
    v.cols = s.plans[0].cols;
    v.views = s.plans[0].n_views;
    v.tokens = s.n;
    bal_sequence_free(&s);
    return v;
}

/* ---- Lifetime -------------------------------------------------------------------------------- */

static void name_after(bal_served *m, const char *path, const char *name)
{
    static const char suffix[] = ".safetensors";
    if (name) {
        snprintf(m->name, sizeof m->name, "%s", name);
        return;
    }
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t at = n;
    while (at > 0 && path[at - 1] != '/') at--;
    if (n - at > sizeof suffix - 1 &&
        strncmp(path + n - (sizeof suffix - 1), suffix, sizeof suffix - 1) == 0)
        n -= sizeof suffix - 1;
    snprintf(m->name, sizeof m->name, "%.*s", (int)(n - at), path + at);
}

static bal_status open_vocab(bal_served *m, bal_error *err)
{
    const bal_config *c = &m->engine.model.config;
    int32_t ends[BAL_MAX_EOS + 1];
    memcpy(ends, c->eos, (size_t)c->n_eos * sizeof *ends);
    BAL_TRY(bal_engine_check_chat(&m->engine, err));
    BAL_TRY(bal_chat_stop_id(m->engine.tokenizer, m->engine.chat, &ends[c->n_eos], err));
    return bal_vocab_create(&m->vocab, m->engine.tokenizer, c->text.vocab, ends, c->n_eos + 1, err);
}

static bal_status open_all(bal_served *m, const char *path, const bal_served_opts *opts,
                           bal_error *err)
{
    BAL_TRY(bal_metrics_init(&m->metrics, err));
    m->has_metrics = true;
    BAL_TRY(bal_engine_open(&m->engine, path, opts->threads, opts->isa, err));
    BAL_TRY(bal_engine_use_chat(&m->engine, opts->chat_template, err));
    BAL_TRY(bal_engine_limit_images(&m->engine, opts->image_max_tokens, err));
    BAL_TRY(bal_engine_use_shapes(&m->engine, opts->shapes, err));
    BAL_TRY(bal_engine_use_device(&m->engine, opts->device, err));
    measure(m);
    BAL_TRY(open_vocab(m, err));
    BAL_TRY(bal_scheduler_create(&m->scheduler, &m->engine, &opts->scheduler, err));
    bal_scheduler_stats stats;
    bal_scheduler_get_stats(m->scheduler, &stats);
    m->ctx = stats.ctx;
    m->created = (int64_t)time(NULL);
    return BAL_OK;
}

bal_status bal_served_open(bal_served *m, const char *path, const char *name,
                           const bal_served_opts *opts, bal_error *err)
{
    *m = (bal_served){0};
    name_after(m, path, name);
    const bal_status st = open_all(m, path, opts, err);
    if (st < 0) bal_served_close(m);
    return st;
}

static void *engine_thread(void *ctx)
{
    bal_scheduler_run(((bal_served *)ctx)->scheduler);
    return NULL;
}

bal_status bal_served_start(bal_served *m, bal_error *err)
{
    if (pthread_create(&m->thread, NULL, engine_thread, m) != 0)
        return bal_fail(err, BAL_E_NOMEM, "the engine's thread cannot be started");
    m->has_thread = true;
    return BAL_OK;
}

void bal_served_close(bal_served *m)
{
    if (m->has_thread) {
        bal_scheduler_stop(m->scheduler, true);
        pthread_join(m->thread, NULL);
    }
    bal_scheduler_destroy(m->scheduler);
    bal_vocab_destroy(&m->vocab);
    bal_engine_close(&m->engine);
    if (m->has_metrics) bal_metrics_deinit(&m->metrics);
    *m = (bal_served){0};
}

/* ---- Warm-up --------------------------------------------------------------------------------- */

static bal_status gray_picture(bal_picture **out, bal_error *err)
{
    enum { SIDE = 64 };
    bal_image image;
    BAL_TRY(bal_image_create(&image, SIDE, SIDE, err));
    memset(image.rgb, 0x80, (size_t)3 * SIDE * SIDE);
    const bal_status st = bal_picture_create(out, &image, err);
    bal_image_free(&image);
    return st;
}

static bal_status wait_for_end(bal_exchange *x, bal_error *err)
{
    bal_status st = BAL_OK;
    while (!bal_exchange_is_over(x)) {
        bal_note *n = bal_exchange_take(x, 1.0);
        if (n && n->event.kind == BAL_EVENT_DONE && n->event.error)
            st = bal_fail(err, n->event.error->status, "warm-up: %s", n->event.error->text);
        free(n);
    }
    return st;
}

static bal_status warm_up(bal_served *m, bal_exchange *x, bal_picture *picture, bal_error *err)
{
    const bal_chat_message hello = {
        .role = BAL_CHAT_USER, .text = "Hello", .n = 5, .n_images = picture ? 1 : 0};
    bal_exchange_port port = {x, 0};
    uint64_t id;
    bal_request r = {.pictures = &picture,
                     .n_pictures = picture ? 1 : 0,
                     .sampling = {.top_p = 1.0f},
                     .max_tokens = 4,
                     .ignore_eos = true,
                     .no_cache = true,
                     .on_event = bal_exchange_event,
                     .event_ctx = &port};
    BAL_TRY(bal_chat_encode(&r.tokens, m->engine.tokenizer, m->engine.chat, &hello, 1, true, err));
    bal_exchange_opened(x);
    bal_status st = bal_scheduler_submit(m->scheduler, &r, &id, err);
    if (st < 0)
        bal_exchange_closed(x);
    else
        st = wait_for_end(x, err);
    bal_chat_tokens_deinit(&r.tokens);
    return st;
}

bal_status bal_served_warm_up(bal_served *m, bal_error *err)
{
    bal_picture *picture = NULL;
    bal_exchange x;
    BAL_TRY(bal_exchange_init(&x, err));
    bal_status st = BAL_OK;
    if (m->engine.model.config.has_vision) st = gray_picture(&picture, err);
    if (st == BAL_OK) st = warm_up(m, &x, picture, err);
    if (st == BAL_E_ARG && picture) st = warm_up(m, &x, NULL, err); /* no room for a picture */
    if (st == BAL_OK) bal_scheduler_reset_counters(m->scheduler);
    bal_picture_release(picture);
    bal_exchange_deinit(&x);
    return st;
}
