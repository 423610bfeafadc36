/* SPDX-License-Identifier: MIT */
#include "run/engine.h"

#include "model/family.h"
#include "run/shapes_file.h"

static bal_status choose_kernels(bal_engine *e, const char *isa_name, bal_error *err)
{
    const unsigned have = bal_cpu_isa();
    e->isa = have;
    if (isa_name) {
        BAL_TRY(bal_isa_from_name(&e->isa, isa_name, err));
        if ((e->isa & have) != e->isa)
            return bal_fail(err, BAL_E_UNSUP, "isa %s: this machine has no more than %s", isa_name,
                            bal_isa_name(have));
    }
    bal_kernels_init(&e->kernels, e->isa);
    return BAL_OK;
}

static bal_status open_tokenizer(bal_engine *e, bal_error *err)
{
    if (!e->model.is_artifact) return bal_tokenizer_open_dir(&e->tokenizer, e->model.path, err);
    const bal_tensor_view *t;
    BAL_TRY(bal_tensor_get(&e->model.tensors, "ballast.tokenizer", &t, err));
    return bal_tokenizer_open_blob(&e->tokenizer, t->data, (size_t)t->n_bytes, err);
}

/* A config may leave the placeholder's id to the tokenizer; where both say it, they must agree, or
 * pictures would stand at another word. */
static bal_status find_image_token(bal_engine *e, bal_error *err)
{
    bal_config *c = &e->model.config;
    if (!c->has_vision) return BAL_OK;
    const char *text = bal_family_of(c)->image_token;
    const int32_t id = bal_tokenizer_token_id(e->tokenizer, text);
    if (c->image_token >= 0 && id >= 0 && id != c->image_token)
        return bal_fail(err, BAL_E_FORMAT,
                        "%s: image_token_id: the config says %d, but in the tokenizer %s, which "
                        "stands for pictures, is %d",
                        e->model.path, c->image_token, text, id);
    if (c->image_token >= 0) return BAL_OK;
    c->image_token = id;
    if (c->image_token >= 0 && c->image_token < c->text.vocab) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT,
                    "%s: the tokenizer has no added token %s below %d, which stands for pictures",
                    e->model.path, text, c->text.vocab);
}

bal_status bal_model_chat(bal_chat_family *out, const bal_model *m, bal_error *err)
{
    const char *otherwise = bal_family_of(&m->config)->chat;
    if (!m->is_artifact) return bal_chat_family_of_dir(out, m->path, otherwise, err);
    /* a file older than this key has the template of its family */
    const char *kept = bal_tensor_meta(&m->tensors, "chat_template");
    return bal_chat_family_find(out, kept ? kept : otherwise, err);
}

static bal_status open_all(bal_engine *e, const char *path, int threads, const char *isa_name,
                           bal_error *err)
{
    BAL_TRY(choose_kernels(e, isa_name, err));
    BAL_TRY(bal_model_load(&e->model, path, err));
    BAL_TRY(open_tokenizer(e, err));
    BAL_TRY(find_image_token(e, err));
    if (bal_model_chat(&e->chat, &e->model, &e->no_chat) < 0) e->chat = BAL_CHAT_N_FAMILIES;
    if (bal_tokenizer_size(e->tokenizer) > (size_t)e->model.config.text.vocab)
        return bal_fail(err, BAL_E_FORMAT, "%s: the tokenizer has %zu tokens, the model %d rows",
                        path, bal_tokenizer_size(e->tokenizer), e->model.config.text.vocab);
    return bal_pool_create(&e->pool, threads, err);
}

bal_status bal_engine_open(bal_engine *e, const char *path, int threads, const char *isa_name,
                           bal_error *err)
{
    *e = (bal_engine){0};
    const bal_status st = open_all(e, path, threads, isa_name, err);
    if (st < 0) bal_engine_close(e);
    return st;
}

bal_status bal_engine_check_chat(const bal_engine *e, bal_error *err)
{
    if (e->chat < BAL_CHAT_N_FAMILIES) return BAL_OK;
    return bal_fail(err, e->no_chat.status, "%s", e->no_chat.text);
}

const char *bal_engine_chat_name(const bal_engine *e)
{
    return e->chat < BAL_CHAT_N_FAMILIES ? bal_chat_family_name(e->chat) : "unknown";
}

bal_status bal_engine_use_chat(bal_engine *e, const char *name, bal_error *err)
{
    return name ? bal_chat_family_find(&e->chat, name, err) : BAL_OK;
}

bal_status bal_engine_limit_images(bal_engine *e, int n, bal_error *err)
{
    bal_config *c = &e->model.config;
    const bal_family_def *family = bal_family_of(c);
    if (n == 0 || !c->has_vision) return BAL_OK;
    if (n < 0) return bal_fail(err, BAL_E_ARG, "at most %d tokens for a picture", n);
    if (!family->limit)
        return bal_fail(err, BAL_E_UNSUP,
                        "%s: a limit of tokens for a picture does not apply to %s models: %s",
                        e->model.path, family->model_type,
                        c->max_tiles ? "the picture's shape decides how many it takes"
                                     : "every picture takes the same number");
    return family->limit(c, n, err);
}

bal_status bal_engine_use_device(bal_engine *e, const char *name, bal_error *err)
{
    bal_device_choice choice;
    BAL_TRY(bal_device_parse(name, &choice, err));
    if (!choice.device) return BAL_OK;
    const bal_status st = bal_device_model_open(&e->on_device, &e->model, choice.index, err);
    return choice.insist ? st : BAL_OK;
}

bal_status bal_engine_use_shapes(bal_engine *e, const char *path, bal_error *err)
{
    bal_shapes_free(&e->shapes);
    if (!path) return BAL_OK;
    const bal_shapes_host here = bal_shapes_here(e->isa, bal_pool_size(e->pool));
    return bal_shapes_read(&e->shapes, path, &here, err);
}

void bal_engine_close(bal_engine *e)
{
    bal_shapes_free(&e->shapes);
    bal_device_model_close(e->on_device);
    bal_pool_destroy(e->pool);
    bal_tokenizer_close(e->tokenizer);
    bal_model_unload(&e->model);
    *e = (bal_engine){0};
}
