/* SPDX-License-Identifier: MIT
 * ballast_quant.h: argument checks, defaults, and the report behind a finished run. */
#include "ballast_quant.h"

#include "api/context.h"
#include "base/file.h"
#include "quant/pipeline.h"
#include "report/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DEFAULT_SAMPLES = 128, MAX_THREADS = 256, MAX_SHOTS = 64 };

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

/* ---- Where the report goes -------------------------------------------------------------------
 */

static bool same_inode(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Whether two paths lead to one file, which need not be there yet. */
static bool same_file(const char *a, const char *b)
{
    char dir_a[1024], dir_b[1024];
    const char *end_a = strrchr(a, '/'), *end_b = strrchr(b, '/');
    if (same_inode(a, b)) return true;
    if (strcmp(end_a ? end_a + 1 : a, end_b ? end_b + 1 : b) != 0) return false;
    return bal_path_dir(dir_a, sizeof dir_a, a, NULL) == BAL_OK &&
           bal_path_dir(dir_b, sizeof dir_b, b, NULL) == BAL_OK && same_inode(dir_a, dir_b);
}

static bal_status check_target(const call *c, const char *path, const char *dir, bal_error *err)
{
    const struct {
        const char *path, *what;
    } taken[] = {{c->pipeline.out, "the output"},
                 {c->opts.calib, "the calibration data"},
                 {c->opts.recipe, "the recipe"}};
    for (size_t i = 0; i < sizeof taken / sizeof taken[0]; i++)
        if (taken[i].path && same_file(path, taken[i].path))
            return bal_fail(err, BAL_E_ARG, "report %s: that is %s", path, taken[i].what);
    if (same_inode(dir, c->pipeline.model))
        return bal_fail(err, BAL_E_ARG, "report %s: would stand among the model's files", path);
    if (bal_path_is_dir(path))
        return bal_fail(err, BAL_E_EXISTS, "report %s: is a folder, a file was expected", path);
    if (!c->opts.force && bal_path_exists(path))
        return bal_fail(err, BAL_E_EXISTS, "report %s: exists already; --force replaces it", path);
    return BAL_OK;
}

/* The output: never over what the run reads, --force or not. */
static bal_status check_out(const call *c, bal_error *err)
{
    char dir[1024];
    const char *out = c->pipeline.out;
    BAL_TRY(bal_output_check(out, c->opts.force, err));
    BAL_TRY(bal_path_dir(dir, sizeof dir, out, err));
    if (same_inode(dir, c->pipeline.model))
        return bal_fail(err, BAL_E_ARG, "output %s: would stand among the model's files", out);
    if (c->opts.calib && same_file(out, c->opts.calib))
        return bal_fail(err, BAL_E_ARG, "output %s: that is the calibration data", out);
    if (c->opts.recipe && same_file(out, c->opts.recipe))
        return bal_fail(err, BAL_E_ARG, "output %s: that is the recipe", out);
    return BAL_OK;
}

static bool ends_in(const char *text, const char *ending)
{
    const size_t n = strlen(text), m = strlen(ending);
    return n > m && strcmp(text + n - m, ending) == 0;
}

/* Both of its files, before hours of work that they are to show. */
static bal_status check_report(const call *c, bal_error *err)
{
    char dir[1024], beside[1200];
    const char *report = c->opts.report;
    if (!report) return BAL_OK;
    BAL_TRY(bal_path_dir(dir, sizeof dir, report, err));
    if (!bal_path_is_dir(dir))
        return bal_fail(err, BAL_E_ARG, "report %s: the folder %s does not exist", report, dir);
    BAL_TRY(bal_report_json_path(beside, sizeof beside, report, err));
    BAL_TRY(check_target(c, report, dir, err));
    BAL_TRY(check_target(c, beside, dir, err));
    if (!ends_in(report, ".html"))
        return bal_fail(err, BAL_E_ARG, "report %s: the name of the page must end in .html",
                        report);
    return BAL_OK;
}

/* ---- Arguments -------------------------------------------------------------------------------
 */

static bal_status check_command(const char *command, bal_error *err)
{
    json_t *s = command ? json_string(command) : NULL;
    json_decref(s);
    if (!command || s) return BAL_OK;
    return bal_fail(err, BAL_E_ARG, "the command line, which the report shows, is not UTF-8");
}

static bal_status check_opts(const bal_quant_opts *o, bal_error *err)
{
    if (o->threads > MAX_THREADS)
        return bal_fail(err, BAL_E_ARG, "threads is %u, expected 0 to %d", o->threads, MAX_THREADS);
    if (o->shots < 0 || o->shots > MAX_SHOTS)
        return bal_fail(err, BAL_E_ARG, "shots is %d, expected 0 to %d", o->shots, MAX_SHOTS);
    if (o->n_set && !o->set)
        return bal_fail(err, BAL_E_ARG, "n_set is %zu, but set is NULL", o->n_set);
    return check_command(o->command, err);
}

static bal_status write_report(void *ctx, const json_t *record, bal_error *err)
{
    const bal_quant_opts *o = ctx;
    json_t *all = json_copy((json_t *)(uintptr_t)record);
    const bool bad =
        !all || (o->command && json_object_set_new(all, "command", json_string(o->command)) < 0);
    const bal_status st =
        bad ? bal_nomem(err, sizeof *o, "report") : bal_report_write(o->report, all, err);
    json_decref(all);
    return st;
}

static bal_status prepare(call *c, const char *model_dir, const char *out,
                          const bal_quant_opts *opts, bal_error *err)
{
    *c = (call){0};
    if (!model_dir || !model_dir[0]) return bal_fail(err, BAL_E_ARG, "no model folder is given");
    BAL_TRY(bal_opts_read(&c->opts, sizeof c->opts, sizeof c->opts, opts, "bal_quant_opts", err));
    const bal_quant_opts *o = &c->opts;
    BAL_TRY(check_opts(o, err));
    BAL_TRY(bal_recipe_load(&c->recipe, o->recipe ? o->recipe : "ballast", err));
    bal_select select;
    BAL_TRY(bal_select_parse(&select, o->select, err));
    for (size_t i = 0; i < o->n_set; i++) BAL_TRY(bal_recipe_assign(&c->recipe, o->set[i], err));
    bal_recipe_drop_idle(&c->recipe);
    c->pipeline = (bal_pipeline_opts){
        .model = model_dir,
        .out = out,
        .recipe = &c->recipe,
        .calib = o->calib,
        .chat_template = o->chat_template,
        .samples = o->samples == 0  ? DEFAULT_SAMPLES
                   : o->samples < 0 ? 0
                                    : o->samples,
        .shots = o->shots,
        .select = select,
        .seed = o->seed,
        .threads = (int)o->threads,
        .isa = o->isa,
        .image_max_tokens = o->image_max_tokens,
        .resume = o->resume,
        .force = o->force,
        .step = on_step,
        .step_ctx = &c->opts,
        .record = c->opts.report ? write_report : NULL,
        .record_ctx = &c->opts,
        .rank = c->opts.rank,
    };
    if (out) BAL_TRY(check_out(c, err));
    return check_report(c, err);
}

static bal_status make_plan(bal_quant_plan *plan, const char *model_dir, const char *out,
                            const bal_quant_opts *opts, bal_error *err)
{
    call c;
    bal_pipeline_plan p;
    char *recipe;
    *plan = (bal_quant_plan){0};
    BAL_TRY(prepare(&c, model_dir, out, opts, err));
    BAL_TRY(bal_pipeline_plan_make(&p, &c.pipeline, err));
    BAL_TRY(bal_recipe_to_json(&c.recipe, &recipe, err));
    snprintf(plan->recipe, sizeof plan->recipe, "%s", recipe);
    free(recipe);
    plan->layers = p.layers;
    plan->linears = p.layers * BAL_DECODER_LINEARS;
    plan->bits = p.bits;
    plan->group = p.group;
    plan->vision = p.side[BAL_SIDE_VISION];
    plan->projector = p.side[BAL_SIDE_PROJECTOR];
    plan->head = p.side[BAL_SIDE_HEAD];
    plan->needs_data = p.needs_data;
    plan->samples = p.samples;
    plan->blocks_done = p.blocks_done;
    plan->source_bytes = p.source_bytes;
    plan->file_bytes = p.sizes.n_bytes;
    plan->ram_bytes = p.ram_bytes;
    plan->disk_bytes = p.disk_bytes;
    plan->seconds = p.seconds;
    plan->linear_bits_per_weight =
        bal_bits_per_weight(p.sizes.linear_bytes, p.sizes.linear_weights);
    plan->format_bits_per_weight =
        bal_bits_per_weight(p.sizes.format_bytes, p.sizes.linear_weights);
    plan->file_bits_per_weight = bal_bits_per_weight(p.sizes.n_bytes, p.sizes.all_weights);
    return BAL_OK;
}

/* What a call comes to for all ranks: one that was refused before it met the others does so here.
 * Options too broken to have a rank in them are that everywhere. */
static bal_status settle(const bal_quant_opts *opts, bal_status st, bal_error *mine, bal_error *err)
{
    bal_quant_opts o;
    if (bal_opts_read(&o, sizeof o, sizeof o, opts, "bal_quant_opts", NULL) == BAL_OK)
        st = bal_rank_agree(o.rank, st, mine);
    if (st < 0 && err) *err = *mine;
    return st;
}

bal_status bal_quantize_plan(bal_quant_plan *plan, const char *model_dir, const char *out,
                             const bal_quant_opts *opts, bal_error *err)
{
    bal_error mine = {0};
    if (!plan) return bal_fail(err, BAL_E_ARG, "plan is NULL");
    return settle(opts, make_plan(plan, model_dir, out, opts, &mine), &mine, err);
}

bal_status bal_quantize(const char *model_dir, const char *out, const bal_quant_opts *opts,
                        bal_error *err)
{
    call c;
    bal_error mine = {0};
    if (!out || !out[0]) return bal_fail(err, BAL_E_ARG, "no output file is given");
    bal_status st = prepare(&c, model_dir, out, opts, &mine);
    if (st == BAL_OK) st = bal_pipeline_run(&c.pipeline, &mine);
    return settle(opts, st, &mine, err);
}

bal_status bal_rank_open(bal_rank **out, bal_error *err)
{
    return out ? bal_rank_join(out, err) : bal_fail(err, BAL_E_ARG, "out is NULL");
}

int bal_rank_index(const bal_rank *r, int *count)
{
    if (count) *count = r ? r->count : 1;
    return r ? r->index : 0;
}

void bal_rank_close(bal_rank *r)
{
    bal_rank_leave(r);
}

bool bal_quant_recipe(size_t i, const char **name, char about[400])
{
    return bal_recipe_about(i, name, about);
}

bool bal_quant_recipe_key(size_t i, const char **key, char words[120], const char **help)
{
    return bal_recipe_describe(i, key, words, help);
}
