/* SPDX-License-Identifier: MIT
 * A tiny golden model with its three calibration samples, bound and ready for the solvers: pool,
 * kernels, scratch, model, samples, and their embeddings in a store. */
#ifndef BAL_TESTS_QUANT_CASE_H
#define BAL_TESTS_QUANT_CASE_H

#include "check.h"

#include "format/json.h"
#include "format/safetensors.h"
#include "model/model.h"
#include "quant/block.h"
#include "quant/sample.h"

enum { CASE_SAMPLES = 3 };

typedef struct quant_case {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec exec;
    bal_model model;
    bal_tensor_set calib;
    bal_sample items[CASE_SAMPLES];
    bal_samples samples;
    bal_store embeds;
} quant_case;

static inline const bal_tensor_view *case_tensor(const bal_tensor_set *set, const char *fmt, ...)
{
    char name[128];
    va_list args;
    va_start(args, fmt);
    vsnprintf(name, sizeof name, fmt, args);
    va_end(args);
    const bal_tensor_view *v = bal_tensor_find(set, name);
    if (!v) fail_msg("golden tensor %s is missing", name);
    return v;
}

/* n floats of an F32 view, whatever its address */
static inline float *case_floats(const bal_tensor_view *v)
{
    float *out = malloc(v->n_bytes);
    assert_non_null(out);
    assert_int_equal(v->dtype, BAL_ST_F32);
    memcpy(out, v->data, v->n_bytes);
    return out;
}

static inline void case_sample(quant_case *q, int i)
{
    bal_sample *s = &q->items[i];
    const bal_tensor_view *ids = case_tensor(&q->calib, "sample%d.input_ids", i);
    const bal_tensor_view *tags = case_tensor(&q->calib, "sample%d.modality", i);
    s->n = (int)ids->shape[0];
    s->ids = malloc((size_t)s->n * sizeof *s->ids);
    s->modality = malloc((size_t)s->n);
    assert_true(s->ids && s->modality);
    memcpy(s->modality, tags->data, (size_t)s->n);
    for (int t = 0; t < s->n; t++) {
        int64_t id;
        memcpy(&id, ids->data + 8 * (size_t)t, sizeof id);
        s->ids[t] = (int32_t)id;
    }
    if (s->n > q->samples.max_len) q->samples.max_len = s->n;
}

/* name: "tiled" or "mha" */
static inline void case_open(quant_case *q, const char *name, int threads)
{
    bal_error err = {0};
    char path[256];
    memset(q, 0, sizeof *q);
    ASSERT_OK(bal_pool_create(&q->pool, threads, &err));
    bal_kernels_init(&q->kernels, bal_cpu_isa());
    snprintf(path, sizeof path, "tests/golden/%s/model", name);
    ASSERT_OK(bal_model_load(&q->model, source_path(path), &err));
    ASSERT_OK(bal_exec_create(&q->exec, q->pool, &q->kernels, bal_model_max_k(&q->model), &err));
    snprintf(path, sizeof path, "tests/golden/%s/calib.safetensors", name);
    ASSERT_OK(bal_tensor_set_open(&q->calib, source_path(path), &err));
    q->samples.n = CASE_SAMPLES;
    q->samples.items = q->items;
    for (int i = 0; i < CASE_SAMPLES; i++) case_sample(q, i);
    ASSERT_OK(bal_store_create(&q->embeds, "/tmp", &q->samples, q->model.config.text.hidden, &err));
    for (int i = 0; i < CASE_SAMPLES; i++) {
        float *x = case_floats(case_tensor(&q->calib, "sample%d.inputs_embeds", i));
        ASSERT_OK(bal_store_write(&q->embeds, i, x, &err));
        free(x);
    }
}

static inline void case_close(quant_case *q)
{
    bal_store_destroy(&q->embeds);
    for (int i = 0; i < CASE_SAMPLES; i++) {
        free(q->items[i].ids);
        free(q->items[i].modality);
    }
    bal_tensor_set_close(&q->calib);
    bal_exec_destroy(&q->exec);
    bal_model_unload(&q->model);
    bal_pool_destroy(q->pool);
}

static inline json_t *case_json(const char *name, const char *file)
{
    char path[256];
    json_error_t e;
    snprintf(path, sizeof path, "tests/golden/%s/%s", name, file);
    json_t *root = json_load_file(source_path(path), 0, &e);
    if (!root) fail_msg("%s: %s", path, e.text);
    return root;
}

/* The published configuration at 3 bits, group 128. */
static inline bal_recipe case_recipe(void)
{
    return (bal_recipe){.name = "mbq",
                        .bits = 3,
                        .group = 128,
                        .scale = BAL_SCALE_SEARCH,
                        .balance = BAL_BALANCE_GRADIENT,
                        .loss = BAL_LOSS_MAE,
                        .floor = BAL_FLOOR_MEDIAN,
                        .shift_part = 100};
}

#endif
