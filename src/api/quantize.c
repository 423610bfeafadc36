/* SPDX-License-Identifier: MIT
 * ballast_quant.h: argument checks, defaults, and the report behind a finished run. */
#include "ballast_quant.h"

#include "base/file.h"
#include "quant/pipeline.h"
#include "report/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_SAMPLES = 128, MAX_THREADS = 256 };

typedef struct call {
    bal_quant_opts opts; /* as this library knows them */
    bal_recipe recipe;
    bal_pipeline_opts pipeline;
} call;

static int on_step(void *ctx, const char *stage, long done, long total)
{
    const bal_quant_opts *o = ctx;
    const bal_progress p = {stage, (uint64_t)done, (uint64_t)total};
    return o->progress && !o->progress(o->progress_ctx, &p);
}

/* A caller that was built with an older header has a shorter struct: the rest is zero. */
static bal_status copy_opts(bal_quant_opts *to, const bal_quant_opts *from, bal_error *err)
{
    *to = (bal_quant_opts){0};
    if (!from) return BAL_OK;
    if (from->size < sizeof from->size || from->size > sizeof *to)
        return bal_fail(err, BAL_E_ARG, "opts.size is %u, expected %zu or the size of an older one",
                        from->size, sizeof *to);
    memcpy(to, from, from->size);
    return BAL_OK;
}

static bal_status check_opts(const bal_quant_opts *o, bal_error *err)
{
    if (o->threads > MAX_THREADS)
        return bal_fail(err, BAL_E_ARG, "threads is %u, expected 0 to %d", o->threads, MAX_THREADS);
    if (o->n_set && !o->set)
        return bal_fail(err, BAL_E_ARG, "n_set is %zu, but set is NULL", o->n_set);
    char dir[1024];
    if (!o->report) return BAL_OK;
    BAL_TRY(bal_path_dir(dir, sizeof dir, o->report, err));
    if (bal_path_is_dir(dir)) return BAL_OK;
    return bal_fail(err, BAL_E_ARG, "report %s: the folder %s does not exist", o->report, dir);
}

static bal_status prepare(call *c, const char *model_dir, const char *out,
                          const bal_quant_opts *opts, bal_error *err)
{
    *c = (call){0};
    if (!model_dir || !model_dir[0]) return bal_fail(err, BAL_E_ARG, "no model folder is given");
    BAL_TRY(copy_opts(&c->opts, opts, err));
    const bal_quant_opts *o = &c->opts;
    BAL_TRY(check_opts(o, err));
    BAL_TRY(bal_recipe_load(&c->recipe, o->recipe ? o->recipe : "mbq", err));
    for (size_t i = 0; i < o->n_set; i++) BAL_TRY(bal_recipe_assign(&c->recipe, o->set[i], err));
    c->pipeline = (bal_pipeline_opts){
        .model = model_dir,
        .out = out,
        .recipe = &c->recipe,
        .calib = o->calib,
        .samples = o->samples == 0  ? DEFAULT_SAMPLES
                   : o->samples < 0 ? 0
                                    : o->samples,
        .seed = o->seed,
        .threads = (int)o->threads,
        .isa = o->isa,
        .resume = o->resume,
        .force = o->force,
        .step = on_step,
        .step_ctx = &c->opts,
    };
    return BAL_OK;
}

static double per_weight(uint64_t n_bytes, uint64_t weights)
{
    return weights ? 8.0 * (double)n_bytes / (double)weights : 0.0;
}

bal_status bal_quantize_plan(bal_quant_plan *plan, const char *model_dir,
                             const bal_quant_opts *opts, bal_error *err)
{
    call c;
    bal_pipeline_plan p;
    char *recipe;
    if (!plan) return bal_fail(err, BAL_E_ARG, "plan is NULL");
    *plan = (bal_quant_plan){0};
    BAL_TRY(prepare(&c, model_dir, NULL, opts, err));
    BAL_TRY(bal_pipeline_plan_make(&p, &c.pipeline, err));
    BAL_TRY(bal_recipe_to_json(&c.recipe, &recipe, err));
    snprintf(plan->recipe, sizeof plan->recipe, "%s", recipe);
    free(recipe);
    plan->layers = p.layers;
    plan->linears = p.layers * BAL_DECODER_LINEARS;
    plan->bits = p.bits;
    plan->group = p.group;
    plan->needs_data = p.needs_data;
    plan->samples = p.samples;
    plan->source_bytes = p.source_bytes;
    plan->file_bytes = p.sizes.n_bytes;
    plan->ram_bytes = p.ram_bytes;
    plan->disk_bytes = p.disk_bytes;
    plan->linear_bits_per_weight = per_weight(p.sizes.linear_bytes, p.sizes.linear_weights);
    plan->file_bits_per_weight = per_weight(p.sizes.n_bytes, p.sizes.all_weights);
    return BAL_OK;
}

static bal_status write_report(const bal_quant_opts *o, json_t *record, bal_error *err)
{
    if (o->command && json_object_set_new(record, "command", json_string(o->command)) < 0)
        return bal_fail(err, BAL_E_ARG, "the command line is not UTF-8");
    return bal_report_write(o->report, record, err);
}

bal_status bal_quantize(const char *model_dir, const char *out, const bal_quant_opts *opts,
                        bal_error *err)
{
    call c;
    json_t *record = NULL;
    if (!out || !out[0]) return bal_fail(err, BAL_E_ARG, "no output file is given");
    BAL_TRY(prepare(&c, model_dir, out, opts, err));
    bal_status st = bal_pipeline_run(&c.pipeline, c.opts.report ? &record : NULL, err);
    if (st == BAL_OK && c.opts.report) st = write_report(&c.opts, record, err);
    json_decref(record);
    return st;
}

const char *bal_quant_recipe_name(size_t i)
{
    for (size_t at = 0; bal_recipe_builtin[at].name; at++)
        if (at == i) return bal_recipe_builtin[at].name;
    return NULL;
}

bool bal_quant_recipe_key(size_t i, const char **key, char words[80], const char **help)
{
    return bal_recipe_describe(i, key, words, help);
}
