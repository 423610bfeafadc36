/* SPDX-License-Identifier: MIT
 * The run from end to end: a straight line of steps in go(), each of which can be continued from
 * what the one before left in OUT.partial/. Refuses what it can before the first expensive step.
 * Read pipeline.h and workspace.h first. */
#include "quant/pipeline.h"

#include "base/build_id.h"
#include "base/size.h"
#include "model/family.h"
#include "quant/blas.h"
#include "quant/estimate.h"
#include "quant/factor.h"
#include "quant/finite.h"
#include "quant/gather.h"
#include "quant/price.h"
#include "quant/side.h"
#include "quant/stream.h"
#include "quant/tower.h"
#include "quant/verify.h"
#include "quant/workspace.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 1200, BLOCK_UNITS = 1000, SOLVE_UNITS = 900 };

typedef struct run {
    const bal_pipeline_opts *o;
    bal_recipe recipe; /* with arithmetic resolved */
    bal_engine engine;
    bal_exec exec;
    bal_workspace space;
    bal_tower tower;
    bal_transform transform;
    bal_calib calib;
    size_t *order, n; /* the records in use */
    size_t want;      /* how many to choose */
    bal_select_log selection;
    bal_gathered data;
    bal_store quant;     /* the quantized stream */
    bal_store gradients; /* of tokens, if the recipe weighs them by these */
    bal_streamer streamer;
    bal_sensitivity sensitivity;
    bal_widths_plan widths; /* with bits=auto */
    json_t *allocation;     /* its record */
    json_t *sides;          /* that of sides with bits=auto */
    bal_part *parts;        /* [layers] */
    json_t *identity, *blocks;
    char model_sha256[BAL_SHA256_HEX];
    char *calibration; /* JSON text for the file's metadata */
    int block;         /* in progress */
    long unit;         /* of that block, 0 .. BLOCK_UNITS */
    bal_error *err;
} run;

static int layers_of(const run *r)
{
    return r->engine.model.config.text.layers;
}

/* ---- Opening -----------------------------------------------------------------------------------
 */

static bool needs_sensitivity(const bal_recipe *r)
{
    return (bal_recipe_needs_data(r) &&
            (r->balance == BAL_BALANCE_GRADIENT || bal_recipe_prices_widths(r))) ||
           bal_recipe_weighs_tokens(r);
}

static void resolve_arithmetic(bal_recipe *r, const bal_model *m)
{
    if (r->arithmetic != BAL_ARITH_MODEL) return;
    const bal_type t = m->layers[0].q.type;
    r->arithmetic = t == BAL_TYPE_F16    ? BAL_ARITH_F16
                    : t == BAL_TYPE_BF16 ? BAL_ARITH_BF16
                                         : BAL_ARITH_F32;
}

static bal_status open_model(run *r)
{
    const bal_pipeline_opts *o = r->o;
    BAL_TRY(bal_engine_open(&r->engine, o->model, o->threads, o->isa, r->err));
    BAL_TRY(bal_engine_use_chat(&r->engine, o->chat_template, r->err));
    if (r->engine.model.is_artifact)
        return bal_fail(r->err, BAL_E_ARG,
                        "%s: quantized already; give the folder of the original checkpoint",
                        o->model);
    r->recipe = *o->recipe;
    BAL_TRY(bal_recipe_check(&r->recipe, r->err));
    resolve_arithmetic(&r->recipe, &r->engine.model);
    BAL_TRY(bal_transform_list(&r->transform, &r->engine.model, &r->recipe, o->seed, r->err));
    BAL_TRY(bal_tower_list(&r->tower, &r->engine.model, &r->recipe, r->err));
    return bal_exec_create(&r->exec, r->engine.pool, &r->engine.kernels,
                           bal_model_max_k(&r->engine.model), r->err);
}

enum { POOL = 8 }; /* candidates for each record that select=diverse chooses */

static int step_through(void *ctx, const char *stage, long done, long total);

/* Looks at candidates[n], each rank at its own. */
static bal_status look(run *r, const size_t *order, size_t n, bal_prospect *c, float *features)
{
    const size_t dim = (size_t)r->engine.model.config.text.hidden;
    for (size_t i = 0; i < n; i++) {
        const bal_calib_record *record = &r->calib.records[order[i]];
        if (!bal_rank_owns(r->o->rank, (int)i)) continue;
        BAL_TRY(bal_gather_look(&c[i], features + 2 * i * dim, &r->calib, record, &r->engine,
                                &r->exec, &r->recipe, r->err));
        if (step_through(r, "candidates", (long)i + 1, (long)n))
            return bal_fail(r->err, BAL_E_CANCELLED, "cancelled while choosing records");
    }
    return BAL_OK;
}

static bal_status join_looks(run *r, size_t n, bal_prospect *c, float *features)
{
    const size_t row = 2 * (size_t)r->engine.model.config.text.hidden * sizeof *features;
    if (!r->o->rank) return BAL_OK;
    size_t *at = malloc((n + 1) * sizeof *at);
    if (!at) return bal_nomem(r->err, n * sizeof *at, "order of candidates");
    for (size_t i = 0; i <= n; i++) at[i] = i;
    bal_status st = bal_rank_join_samples(r->o->rank, c, at, (int)n, sizeof *c, r->err);
    if (st == BAL_OK) st = bal_rank_join_samples(r->o->rank, features, at, (int)n, row, r->err);
    free(at);
    return st;
}

/* Pictures are planned by the model's config. The limit is taken back behind that, since the config
 * goes into the file, whose pictures are nobody's business here. */
static bal_status with_limit(run *r, bal_status (*pass)(run *))
{
    const bal_config own = r->engine.model.config;
    bal_status st = bal_engine_limit_images(&r->engine, r->o->image_max_tokens, r->err);
    if (st == BAL_OK) st = pass(r);
    r->engine.model.config = own;
    return st;
}

/* order[n] of candidates becomes the chosen ones. */
static bal_status pick(run *r)
{
    const size_t want = r->want;
    const size_t n = r->n, dim = (size_t)r->engine.model.config.text.hidden;
    bal_prospect *c = calloc(n, sizeof *c);
    float *features = calloc(n, 2 * dim * sizeof *features);
    size_t *chosen = malloc(want * sizeof *chosen);
    bal_status st = c && features && chosen ? look(r, r->order, n, c, features)
                                            : bal_nomem(r->err, n * dim * 8, "candidates");
    if (st == BAL_OK) st = join_looks(r, n, c, features);
    if (st == BAL_OK)
        st = bal_select_diverse(c, features, n, dim, r->o->seed, want, chosen, &r->n, &r->selection,
                                r->err);
    for (size_t i = 0; st == BAL_OK && i < r->n; i++) chosen[i] = r->order[chosen[i]];
    for (size_t i = 0; st == BAL_OK && i < r->n; i++) r->order[i] = chosen[i];
    free(c);
    free(features);
    free(chosen);
    return st;
}

/* A plan takes as many by the seed: choosing would look at every candidate. */
static bal_status choose(run *r, bool planning)
{
    const size_t all = r->calib.n, shots = r->o->shots > 1 ? (size_t)r->o->shots : 1;
    size_t want = r->o->samples > 0 ? (size_t)r->o->samples * shots : all;
    if (want > all) want = all;
    const bool diverse = r->o->select == BAL_SELECT_DIVERSE && !planning;
    const size_t pool = diverse ? bal_min(want * POOL, all) : want;
    const bool first = r->o->select == BAL_SELECT_FIRST;
    BAL_TRY(
        bal_calib_choose(&r->calib, first ? 0 : (int)pool, r->o->seed, &r->order, &r->n, r->err));
    if (first) r->n = want;
    r->want = want;
    if (diverse) BAL_TRY(bal_engine_check_chat(&r->engine, r->err));
    if (diverse) BAL_TRY(with_limit(r, pick));
    BAL_TRY(bal_calib_join(&r->calib, r->order, &r->n, (int)shots, r->err));
    bal_calib_keep(&r->calib, r->order, r->n);
    return BAL_OK;
}

static bal_status open_calib(run *r, bool planning)
{
    if (!r->o->calib && bal_recipe_needs_data(&r->recipe))
        return bal_fail(r->err, BAL_E_ARG,
                        "recipe %s needs calibration data: give --calib FILE.jsonl",
                        r->recipe.name);
    if (!r->o->calib && r->o->image_max_tokens)
        return bal_fail(
            r->err, BAL_E_ARG,
            "--image-max-tokens is about calibration pictures: give --calib FILE.jsonl");
    if (!r->o->calib) return BAL_OK;
    BAL_TRY(bal_calib_open(&r->calib, r->o->calib, r->err));
    return choose(r, planning);
}

static void close_run(run *r)
{
    for (int i = 0; r->parts && i < layers_of(r); i++) bal_part_close(&r->parts[i]);
    free(r->parts);
    bal_sensitivity_free(&r->sensitivity);
    bal_widths_free(&r->widths);
    json_decref(r->allocation);
    json_decref(r->sides);
    bal_streamer_destroy(&r->streamer);
    bal_store_destroy(&r->quant);
    bal_store_destroy(&r->gradients);
    bal_gathered_free(&r->data);
    bal_calib_close(&r->calib);
    free(r->order);
    free(r->calibration);
    json_decref(r->identity);
    json_decref(r->blocks);
    bal_workspace_close(&r->space);
    bal_exec_destroy(&r->exec);
    bal_engine_close(&r->engine);
    bal_tower_close(&r->tower);
    bal_transform_close(&r->transform);
}

/* ---- Progress ----------------------------------------------------------------------------------
 */

static int step_through(void *ctx, const char *stage, long done, long total)
{
    const run *r = ctx;
    return r->o->step ? r->o->step(r->o->step_ctx, stage, done, total) : 0;
}

static int report_unit(run *r, long unit)
{
    if (unit > r->unit) r->unit = unit;
    return step_through(r, "blocks", (long)r->block * BLOCK_UNITS + r->unit,
                        (long)layers_of(r) * BLOCK_UNITS);
}

/* Inside a block: solving is most of it. Stages that start over do not move the bar back. */
static int step_solve(void *ctx, const char *stage, long done, long total)
{
    (void)stage;
    return report_unit(ctx, total > 0 ? SOLVE_UNITS * done / total : 0);
}

static int step_streams(void *ctx, const char *stage, long done, long total)
{
    (void)stage;
    return report_unit(ctx, SOLVE_UNITS + (BLOCK_UNITS - 1 - SOLVE_UNITS) * done / total);
}

/* ---- Identity ----------------------------------------------------------------------------------
 */

static const char *base_name(const char *path, char *buf, size_t size)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t start = n;
    while (start && path[start - 1] != '/') start--;
    snprintf(buf, size, "%.*s", (int)(n - start), path + start);
    return buf;
}

/* Names end up in JSON, which holds nothing but UTF-8. */
static bal_status check_name(const run *r, const char *path, const char *what)
{
    json_t *s = json_string(path);
    json_decref(s);
    return s ? BAL_OK : bal_fail(r->err, BAL_E_ARG, "%s %.200s: the name is not UTF-8", what, path);
}

static bal_status check_names(const run *r)
{
    BAL_TRY(check_name(r, r->o->model, "model folder"));
    if (r->o->calib) BAL_TRY(check_name(r, r->o->calib, "calibration file"));
    return check_name(r, r->o->recipe->name, "recipe");
}

static json_t *recipe_json(const bal_recipe *recipe, bal_error *err)
{
    char *text;
    if (bal_recipe_to_json(recipe, &text, err) < 0) return NULL;
    json_t *o = json_loads(text, 0, NULL);
    free(text);
    return o;
}

/* Where the data came from: for the file's metadata (as text) and the identity of the run. */
static bal_status describe_calibration(run *r, const char *sha256, json_t **out)
{
    char file[256];
    *out = json_pack("{s:s, s:s, s:I, s:I, s:I, s:s, s:i}", "file",
                     base_name(r->o->calib, file, sizeof file), "sha256", sha256, "samples",
                     (json_int_t)r->n, "of", (json_int_t)r->calib.n, "seed", (json_int_t)r->o->seed,
                     "select", bal_select_name(r->o->select), "shots",
                     r->o->shots > 1 ? r->o->shots : 1);
    if (*out && r->o->image_max_tokens)
        json_object_set_new(*out, "image_max_tokens", json_integer(r->o->image_max_tokens));
    r->calibration = *out ? json_dumps(*out, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    return r->calibration ? BAL_OK : bal_nomem(r->err, sizeof file, "identity of the run");
}

/* What must agree for a run to go on; also the head of the report. The sums of model and data are
 * known already. */
static bal_status identify(run *r, const char *data_sha256)
{
    char source[256];
    json_t *calib;
    r->identity = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "program", "ballast " BALLAST_VERSION,
                            "isa", bal_isa_name(r->engine.isa), "source",
                            base_name(r->o->model, source, sizeof source), "model_sha256",
                            r->model_sha256, "chat_template", bal_engine_chat_name(&r->engine),
                            "recipe", recipe_json(&r->recipe, r->err));
    if (!r->identity) return bal_nomem(r->err, sizeof source, "identity of the run");
    if (bal_recipe_solves(&r->recipe) &&
        json_object_set_new(r->identity, "blas", json_string(bal_blas_name())) < 0)
        return bal_nomem(r->err, sizeof source, "identity of the run");
    if (bal_transform_any(&r->transform) &&
        json_object_set_new(r->identity, "rotation_seed", json_integer((json_int_t)r->o->seed)) < 0)
        return bal_nomem(r->err, sizeof source, "identity of the run");
    if (!r->o->calib) return BAL_OK;
    const bal_status st = describe_calibration(r, data_sha256, &calib);
    json_object_set_new(r->identity, "calibration", calib);
    return st;
}

/* The file is the same for every build of a version; pieces of two builds do not mix. */
static bal_status identity_with_build(const run *r, json_t **out)
{
    *out = json_copy(r->identity);
    if (json_object_set_new(*out, "build", json_string(bal_build_id)) == 0) return BAL_OK;
    json_decref(*out);
    *out = NULL;
    return bal_nomem(r->err, sizeof(bal_error), "identity of the run");
}

static bal_status bind(run *r)
{
    json_t *all;
    BAL_TRY(identity_with_build(r, &all));
    const bal_status st = bal_workspace_bind(&r->space, all, r->err);
    json_decref(all);
    return st;
}

/* The identity of the first rank's run. Collective. */
static bal_status first_identity(const run *r, const json_t *mine, json_t **first)
{
    bal_rank *rank = r->o->rank;
    char *text = json_dumps(mine, JSON_COMPACT);
    size_t n = text ? strlen(text) : 0;
    bal_status st = bal_rank_agree(rank, text ? BAL_OK : bal_nomem(r->err, n, "identity"), r->err);
    if (st == BAL_OK) st = bal_rank_share(rank, &n, sizeof n, 0, r->err);
    char *said = malloc(n + 1);
    if (st == BAL_OK && !said) st = bal_nomem(r->err, n, "identity of the run");
    if (st == BAL_OK && rank->index == 0) memcpy(said, text, n);
    st = bal_rank_agree(rank, st, r->err);
    if (st == BAL_OK) st = bal_rank_share(rank, said, n, 0, r->err);
    *first = st == BAL_OK ? json_loadb(said, n, 0, NULL) : NULL;
    free(text);
    free(said);
    return st;
}

/* Ranks that run another build, or see another model or other data, cannot make one file. */
static bal_status compare_identities(const run *r)
{
    json_t *mine, *first;
    if (!r->o->rank) return BAL_OK;
    BAL_TRY(identity_with_build(r, &mine));
    bal_status st = first_identity(r, mine, &first);
    const char *key;
    json_t *value;
    json_object_foreach(mine, key, value)
    {
        if (st == BAL_OK && !json_equal(value, json_object_get(first, key)))
            st = bal_fail(r->err, BAL_E_ARG, "%s is not that of rank 0", key);
    }
    json_decref(mine);
    json_decref(first);
    return bal_rank_agree(r->o->rank, st, r->err);
}

static bal_artifact_origin origin_of(const run *r)
{
    return (bal_artifact_origin){
        .recipe = &r->recipe,
        .bits = (const bal_linear_bits *)r->widths.bits,
        .isa = bal_isa_name(r->engine.isa),
        .source = json_string_value(json_object_get(r->identity, "source")),
        .model_sha256 = r->model_sha256,
        .calibration = r->calibration,
        .tower = &r->tower,
        .transform = &r->transform,
    };
}

/* ---- Measuring ---------------------------------------------------------------------------------
 */

static const char SENSITIVITY[] = "sensitivity.json", WIDTHS[] = "widths.json",
                  SIDES[] = "sides.json";

/* The first rank writes; when this returns the file is there for all of them. Takes the record. */
static bal_status save(const run *r, const char *path, json_t *record)
{
    bal_status st = BAL_OK;
    if (bal_rank_is_first(r->o->rank)) st = bal_record_save(path, record, r->err);
    json_decref(record);
    return bal_rank_agree(r->o->rank, st, r->err);
}

/* Gradients of tokens are not kept over an interruption: they are measured again. */
static bal_status measure(run *r)
{
    char path[PATH_SIZE];
    if (!needs_sensitivity(&r->recipe)) return BAL_OK;
    bool measured;
    BAL_TRY(bal_workspace_path(&r->space, path, sizeof path, SENSITIVITY, r->err));
    BAL_TRY(bal_workspace_has(&r->space, SENSITIVITY, &measured, r->err));
    if (bal_recipe_weighs_tokens(&r->recipe)) {
        BAL_TRY(bal_store_create(&r->gradients, r->space.output.partial, &r->data.samples,
                                 bal_recipe_token_columns(&r->recipe) * layers_of(r), r->err));
        r->data.samples.gradients = &r->gradients;
    } else if (measured)
        return bal_record_read_sensitivity(&r->sensitivity, path, layers_of(r), r->err);
    BAL_TRY(bal_sensitivity_run(&r->sensitivity, &r->exec, &r->engine.model, &r->data.samples,
                                &r->data.embeds, &r->recipe, step_through, r, r->err));
    return save(r, path, bal_record_sensitivity(&r->sensitivity));
}

/* ---- Widths ------------------------------------------------------------------------------------
 */

static bal_status size_with(const run *r, const bal_linear_bits *bits, bal_artifact_sizes *sizes)
{
    bal_artifact_origin origin = origin_of(r);
    origin.bits = bits;
    return bal_artifact_size(sizes, &r->engine, &origin, r->err);
}

/* All linears at the narrowest. */
static bal_status least_size(const run *r, bal_artifact_sizes *sizes)
{
    const size_t layers = (size_t)layers_of(r);
    bal_linear_bits *bits = calloc(layers, sizeof *bits);
    if (!bits) return bal_nomem(r->err, layers * sizeof *bits, "widths");
    memset(bits, bal_widths[0], layers * sizeof *bits);
    const bal_status st = size_with(r, (const bal_linear_bits *)bits, sizes);
    free(bits);
    return st;
}

/* The smallest target_size that can be met. The recipe is in the file, and the target in the
 * recipe, so a target of more digits than the one that was asked for can take more itself. */
static bal_status least_target(const run *r, uint64_t *target)
{
    run with = *r;
    bal_artifact_sizes sizes;
    for (;;) {
        with.recipe.target_size = (double)*target;
        BAL_TRY(least_size(&with, &sizes));
        if (sizes.n_bytes <= *target) return BAL_OK;
        *target = sizes.n_bytes;
    }
}

/* Bytes that the packed linears may take. A file is a little more than its linears: how much,
 * depends on the lengths of numbers in its header, so it is asked with the widths in hand. */
static bal_status budget_of(const run *r, const bal_artifact_sizes *sizes, uint64_t *budget)
{
    const bal_recipe *recipe = &r->recipe;
    uint64_t least, most;
    BAL_TRY(bal_widths_range(&least, &most, &r->engine.model, recipe, r->err));
    const double weights = (double)sizes->linear_weights;
    char group[16] = "row";
    if (recipe->group) snprintf(group, sizeof group, "%d", recipe->group);
    const uint64_t rest = sizes->n_bytes - sizes->linear_bytes;
    if (recipe->target_bpw > 0.0) {
        *budget = (uint64_t)(recipe->target_bpw * weights / 8.0);
        if (*budget > most)
            return bal_fail(r->err, BAL_E_ARG,
                            "target_bpw=%.10g cannot be spent: the most possible is %.5f bits per "
                            "weight (all linears at %d bits); give less, or bits=%d",
                            recipe->target_bpw, floor(8e5 * (double)most / weights) / 1e5,
                            bal_widths[bal_width_count(recipe) - 1],
                            bal_widths[bal_width_count(recipe) - 1]);
        if (*budget >= least) return BAL_OK;
        return bal_fail(
            r->err, BAL_E_ARG,
            "target_bpw=%.10g cannot be met: the least possible is %.5f bits per weight "
            "(all linears at %d bits, group %s)",
            recipe->target_bpw, 8.0 * (double)least / weights + 5e-6, bal_widths[0], group);
    }
    const uint64_t target = (uint64_t)recipe->target_size;
    *budget = target > rest ? target - rest : 0;
    if (*budget >= least) return BAL_OK;
    uint64_t possible = rest + least;
    BAL_TRY(least_target(r, &possible));
    return bal_fail(r->err, BAL_E_ARG,
                    "target_size=%llu cannot be met: the least possible is %llu bytes, of which "
                    "%llu are not the decoder's linears",
                    (unsigned long long)target, (unsigned long long)possible,
                    (unsigned long long)(possible - least));
}

/* Before anything is measured: whether the budget can be met at all. */
static bal_status check_budget(const run *r, bal_artifact_sizes *sizes, uint64_t *budget)
{
    BAL_TRY(least_size(r, sizes));
    return budget_of(r, sizes, budget);
}

/* Makes a plan within the budget. */
typedef bal_status plan_fn(run *r, uint64_t budget);

static bal_status buy_plan(run *r, uint64_t budget)
{
    return bal_widths_buy(&r->widths, &r->engine.model, &r->recipe, budget, r->err);
}

static bal_widths_job widths_job(run *r)
{
    return (bal_widths_job){.e = &r->exec,
                            .m = &r->engine.model,
                            .samples = &r->data.samples,
                            .embeds = &r->data.embeds,
                            .recipe = &r->recipe,
                            .tmp_dir = r->space.output.partial,
                            .step = step_through,
                            .step_ctx = r};
}

static bal_status verify_plan(run *r, uint64_t budget)
{
    const bal_widths_job job = widths_job(r);
    return bal_widths_verify(&r->widths, &job, budget, r->err);
}

/* A plan for `budget` bytes of linears or, where the file as a whole has a target, for as many
 * fewer as it takes: *budget is what was left of it. */
static bal_status plan_within(run *r, plan_fn *make, uint64_t *budget)
{
    bal_artifact_sizes sizes;
    uint64_t least, most;
    BAL_TRY(bal_widths_range(&least, &most, &r->engine.model, &r->recipe, r->err));
    for (;;) {
        BAL_TRY(make(r, *budget));
        if (r->recipe.target_size <= 0.0) return BAL_OK;
        BAL_TRY(size_with(r, (const bal_linear_bits *)r->widths.bits, &sizes));
        const uint64_t target = (uint64_t)r->recipe.target_size;
        if (sizes.n_bytes <= target) return BAL_OK;
        const uint64_t over = sizes.n_bytes - target;
        *budget = *budget - least > over ? *budget - over : least;
    }
}

/* Buying costs nothing, so it finds the budget that a verified plan then has. */
static bal_status buy(run *r)
{
    bal_artifact_sizes sizes;
    uint64_t budget;
    BAL_TRY(check_budget(r, &sizes, &budget));
    BAL_TRY(plan_within(r, buy_plan, &budget));
    if (r->recipe.allocate != BAL_ALLOCATE_VERIFIED) return BAL_OK;
    return plan_within(r, verify_plan, &budget);
}

static bal_status make_widths(run *r, const char *path)
{
    const bal_widths_job job = widths_job(r);
    BAL_TRY(bal_widths_create(&r->widths, layers_of(r), &r->recipe, r->err));
    if (bal_recipe_prices_widths(&r->recipe))
        BAL_TRY(bal_widths_measure(&r->widths, &job, &r->sensitivity, r->err));
    BAL_TRY(buy(r));
    return save(r, path, bal_widths_to_json(&r->widths));
}

static bal_status choose_widths(run *r)
{
    char path[PATH_SIZE];
    if (r->recipe.bits != BAL_BITS_AUTO) return BAL_OK;
    bool measured;
    BAL_TRY(bal_workspace_path(&r->space, path, sizeof path, WIDTHS, r->err));
    BAL_TRY(bal_workspace_has(&r->space, WIDTHS, &measured, r->err));
    if (!measured) {
        BAL_TRY(make_widths(r, path));
        bal_widths_free(&r->widths);
    }
    BAL_TRY(bal_widths_read(&r->widths, path, layers_of(r), &r->recipe, r->err));
    return bal_record_load(&r->allocation, path, r->err);
}

/* ---- Beside the blocks -------------------------------------------------------------------------
 */

static bool has_auto_side(const bal_recipe *r)
{
    for (int s = 0; s < BAL_SIDES; s++)
        if (r->side[s] == BAL_SIDE_AUTO) return true;
    return false;
}

static bal_status price_sides(run *r)
{
    char path[PATH_SIZE];
    bal_side_plan p;
    json_t *record = NULL;
    BAL_TRY(bal_workspace_path(&r->space, path, sizeof path, SIDES, r->err));
    BAL_TRY(bal_side_plan_create(&p, &r->tower, r->err));
    bal_status st = bal_side_measure(&p, &r->tower, &r->engine, &r->exec, &r->recipe, &r->calib,
                                     r->order, r->n, r->o->rank, step_through, r, r->err);
    if (st == BAL_OK) st = bal_side_buy(&p, &r->tower, &r->recipe, r->err);
    if (st == BAL_OK && !(record = bal_side_to_json(&p, &r->tower, &r->recipe)))
        st = bal_nomem(r->err, p.n * sizeof *p.cost, "record of widths");
    bal_side_plan_free(&p);
    return st == BAL_OK ? save(r, path, record) : st;
}

static bal_status choose_sides(run *r)
{
    char path[PATH_SIZE];
    bal_side_plan p;
    bool measured;
    if (!has_auto_side(&r->recipe)) return BAL_OK;
    BAL_TRY(bal_workspace_path(&r->space, path, sizeof path, SIDES, r->err));
    BAL_TRY(bal_workspace_has(&r->space, SIDES, &measured, r->err));
    if (!measured) BAL_TRY(r->o->calib ? with_limit(r, price_sides) : price_sides(r));
    BAL_TRY(bal_side_read(&p, &r->tower, &r->recipe, path, r->err));
    bal_status st = bal_side_apply(&p, &r->tower, r->err);
    bal_side_plan_free(&p);
    return st == BAL_OK ? bal_record_load(&r->sides, path, r->err) : st;
}

/* The quantized stream starts where the float stream does. */
static bal_status open_streams(run *r)
{
    const bal_samples *s = &r->data.samples;
    if (!s->n) return BAL_OK;
    const bal_text_config *c = &r->engine.model.config.text;
    BAL_TRY(bal_streamer_create(&r->streamer, &r->exec, c, s->max_len, r->err));
    BAL_TRY(bal_store_create(&r->quant, r->space.output.partial, s, c->hidden, r->err));
    for (int i = 0; i < s->n; i++) {
        BAL_TRY(bal_store_read(&r->data.embeds, i, r->streamer.rows[0], r->err));
        BAL_TRY(bal_store_write(&r->quant, i, r->streamer.rows[0], r->err));
    }
    return BAL_OK;
}

/* ---- One block ---------------------------------------------------------------------------------
 */

typedef struct block_paths {
    char part[PATH_SIZE], record[PATH_SIZE];
} block_paths;

static bal_status paths_of(const run *r, block_paths *p)
{
    char name[64];
    snprintf(name, sizeof name, "block_%03d.safetensors", r->block);
    BAL_TRY(bal_workspace_path(&r->space, p->part, sizeof p->part, name, r->err));
    snprintf(name, sizeof name, "block_%03d.json", r->block);
    return bal_workspace_path(&r->space, p->record, sizeof p->record, name, r->err);
}

static bal_status hash_part(const char *path, char hex[BAL_SHA256_HEX], bal_error *err)
{
    uint8_t digest[BAL_SHA256_BYTES];
    BAL_TRY(bal_sha256_file(digest, path, err));
    bal_hex(hex, digest, sizeof digest);
    return BAL_OK;
}

/* The record of a finished block, or NULL: then the block is solved (again). */
static json_t *read_finished(const block_paths *p)
{
    char hex[BAL_SHA256_HEX];
    json_t *record;
    if (!bal_path_exists(p->record) || bal_record_load(&record, p->record, NULL) < 0) return NULL;
    const char *sha = json_string_value(json_object_get(record, "part_sha256"));
    if (sha && hash_part(p->part, hex, NULL) == BAL_OK && strcmp(sha, hex) == 0) return record;
    json_decref(record);
    return NULL;
}

/* Likewise as the first rank finds it. The others keep no records: theirs is empty. */
static bal_status finished_record(const run *r, const block_paths *p, json_t **record)
{
    *record = bal_rank_is_first(r->o->rank) ? read_finished(p) : NULL;
    bool finished = *record != NULL;
    BAL_TRY(bal_rank_share(r->o->rank, &finished, sizeof finished, 0, r->err));
    if (finished && !*record && !(*record = json_object()))
        return bal_nomem(r->err, sizeof *p, "record of a block");
    return BAL_OK;
}

/* What a block has beside its linears. */
static bal_status hash_rest(bal_sha256 *hash, const bal_block_result *result, size_t hidden,
                            bal_error *err)
{
    BAL_TRY(bal_sha256_update(hash, result->attn_norm, hidden * sizeof(float), err));
    BAL_TRY(bal_sha256_update(hash, result->mlp_norm, hidden * sizeof(float), err));
    for (int g = 0; g < BAL_GROUPS; g++) {
        char id[BAL_ACT_ID_SIZE];
        bal_act_id(result->act[g], id);
        BAL_TRY(bal_sha256_update(hash, id, strlen(id), err));
    }
    return BAL_OK;
}

static bal_status hash_result(const bal_block_result *result, size_t hidden,
                              uint8_t digest[BAL_SHA256_BYTES], bal_error *err)
{
    bal_sha256 hash;
    BAL_TRY(bal_sha256_init(&hash, err));
    bal_status st = BAL_OK;
    for (int i = 0; st == BAL_OK && i < BAL_DECODER_LINEARS; i++) {
        const bal_quantized_linear *q = &result->linear[i];
        const size_t n = (size_t)q->n, groups = n * (size_t)bal_group_count(q->k, q->group);
        st = bal_sha256_update(&hash, q->codes, n * (size_t)q->k, err);
        const size_t n_scales = n * (size_t)bal_quantized_scales(q);
        if (st == BAL_OK)
            st = bal_sha256_update(&hash, q->scales, n_scales * sizeof *q->scales, err);
        if (st == BAL_OK && q->steps) st = bal_sha256_update(&hash, q->steps, groups, err);
        if (st == BAL_OK) st = bal_sha256_update(&hash, q->zeros, groups, err);
        const size_t low = (size_t)q->rank * sizeof *q->low_a;
        if (st == BAL_OK && low) st = bal_sha256_update(&hash, q->low_a, low * (size_t)q->k, err);
        if (st == BAL_OK && low) st = bal_sha256_update(&hash, q->low_b, low * (size_t)q->n, err);
    }
    if (st == BAL_OK) st = hash_rest(&hash, result, hidden, err);
    if (st == BAL_OK) st = bal_sha256_final(&hash, digest, err);
    bal_sha256_deinit(&hash);
    return st;
}

/* What every rank computes for itself must be the same everywhere: on machines that round
 * differently it is not, and then the ranks would not be making one file. */
static bal_status compare_results(const run *r, const bal_block_result *result)
{
    uint8_t mine[BAL_SHA256_BYTES], first[BAL_SHA256_BYTES];
    bal_rank *rank = r->o->rank;
    if (!rank) return BAL_OK;
    BAL_TRY(hash_result(result, (size_t)r->engine.model.config.text.hidden, mine, r->err));
    memcpy(first, mine, sizeof first);
    BAL_TRY(bal_rank_share(rank, first, sizeof first, 0, r->err));
    if (memcmp(mine, first, sizeof first) == 0) return BAL_OK;
    return bal_fail(r->err, BAL_E_NUMERIC,
                    "block %d: another result than on rank 0; all ranks need the same kind of "
                    "machine with the same libraries",
                    r->block);
}

static bal_status solve(run *r, const block_paths *p, json_t **record)
{
    const bal_model *m = &r->engine.model;
    const int i = r->block;
    double ratio[BAL_SUBS] = {1.0, 1.0};
    for (int sub = 0; r->sensitivity.cell && sub < BAL_SUBS; sub++)
        ratio[sub] = r->sensitivity.cell[i][sub].weight;
    bal_block_result result = {0};
    bal_status st = bal_block_solve(&result, &r->exec, &m->config.text, &m->layers[i], i,
                                    &r->data.samples, &r->data.embeds, &r->quant, ratio, &r->recipe,
                                    r->space.output.partial, step_solve, r, r->err);
    if (st == BAL_OK) st = compare_results(r, &result);
    if (st == BAL_OK && bal_rank_is_first(r->o->rank))
        st = bal_part_write(p->part, &result, &m->config.text, &m->layers[i], i, r->err);
    if (st == BAL_OK && !(*record = bal_record_block(&result, i)))
        st = bal_nomem(r->err, sizeof result, "record of a block");
    bal_block_result_free(&result);
    return st;
}

/* Runs both streams through the block, from the bytes on disk, and completes the record. */
static bal_status advance(run *r, json_t *record)
{
    const int i = r->block;
    bal_drift drift;
    if (!r->data.samples.n) return BAL_OK;
    BAL_TRY(bal_stream_advance(&r->streamer, &r->data.samples, &r->data.embeds, &r->quant,
                               &r->engine.model.layers[i], &r->parts[i].layer, i, &drift,
                               step_streams, r, r->err));
    return json_object_set_new(record, "drift", bal_record_drift(&drift)) < 0
               ? bal_nomem(r->err, sizeof drift, "record of a block")
               : BAL_OK;
}

static bal_status seal(run *r, const block_paths *p, json_t *record)
{
    char hex[BAL_SHA256_HEX];
    BAL_TRY(hash_part(p->part, hex, r->err));
    if (json_object_set_new(record, "part_sha256", json_string(hex)) < 0)
        return bal_nomem(r->err, sizeof hex, "record of a block");
    return bal_record_save(p->record, record, r->err);
}

static bal_status do_block(run *r)
{
    const bal_model *m = &r->engine.model;
    block_paths p;
    if (r->widths.bits)
        memcpy(r->recipe.linear_bits, r->widths.bits[r->block], sizeof r->recipe.linear_bits);
    BAL_TRY(paths_of(r, &p));
    json_t *record = NULL;
    bal_status st = finished_record(r, &p, &record);
    const bool finished = record != NULL;
    if (st == BAL_OK && !finished) st = solve(r, &p, &record);
    st = bal_rank_agree(r->o->rank, st, r->err);
    if (st == BAL_OK)
        st = bal_part_open(&r->parts[r->block], p.part, &m->config.text, &m->layers[r->block],
                           &r->recipe, r->block, r->err);
    if (st == BAL_OK) st = advance(r, record);
    if (st == BAL_OK && !finished && bal_rank_is_first(r->o->rank)) st = seal(r, &p, record);
    if (st == BAL_OK) json_array_append(r->blocks, record);
    json_decref(record);
    if (st == BAL_OK && report_unit(r, BLOCK_UNITS))
        st = bal_fail(r->err, BAL_E_CANCELLED, "cancelled");
    return st;
}

static bal_status do_blocks(run *r)
{
    r->blocks = json_array();
    r->parts = calloc((size_t)layers_of(r), sizeof *r->parts);
    if (!r->parts || !r->blocks)
        return bal_nomem(r->err, (size_t)layers_of(r) * sizeof *r->parts, "blocks");
    for (r->block = 0; r->block < layers_of(r); r->block++) {
        r->unit = 0;
        BAL_TRY(do_block(r));
    }
    return BAL_OK;
}

/* ---- The record --------------------------------------------------------------------------------
 */

static json_t *tokens_json(const run *r)
{
    json_t *o = json_object();
    for (int i = 0; i < BAL_MODALITIES; i++)
        json_object_set_new(o, bal_modality_names[i], json_integer(r->data.tokens[i]));
    return o;
}

static json_t *model_json(const run *r)
{
    const bal_config *c = &r->engine.model.config;
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "family",
                     bal_family_of(c)->model_type, "layers", c->text.layers, "hidden",
                     c->text.hidden, "intermediate", c->text.intermediate, "heads", c->text.heads,
                     "kv_heads", c->text.kv_heads, "vocab", c->text.vocab, "vision_layers",
                     c->has_vision ? c->vision.layers : 0);
}

static json_t *sizes_json(const run *r, const bal_artifact_sizes *s)
{
    json_t *o =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "file_bytes", (json_int_t)s->n_bytes,
                  "source_bytes", (json_int_t)r->engine.model.tensors.n_file_bytes, "linear_bytes",
                  (json_int_t)s->linear_bytes, "linear_weights", (json_int_t)s->linear_weights,
                  "all_weights", (json_int_t)s->all_weights, "linear_bits_per_weight",
                  bal_bits_per_weight(s->linear_bytes, s->linear_weights), "file_bits_per_weight",
                  bal_bits_per_weight(s->n_bytes, s->all_weights));
    if (s->format_bytes)
        json_object_set_new(o, "format_bits_per_weight",
                            json_real(bal_bits_per_weight(s->format_bytes, s->linear_weights)));
    return o;
}

static json_t *selection_json(const bal_select_log *s)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "candidates", (json_int_t)s->candidates,
                     "broken", (json_int_t)s->broken, "duplicates", (json_int_t)s->duplicates,
                     "repeated_answers", (json_int_t)s->repeated, "long_or_short",
                     (json_int_t)s->long_or_short, "outliers", (json_int_t)s->outliers);
}

static bal_status make_record(const run *r, json_t **out)
{
    bal_artifact_sizes sizes;
    const bal_artifact_origin origin = origin_of(r);
    BAL_TRY(bal_artifact_size(&sizes, &r->engine, &origin, r->err));
    json_t *doc = json_pack("{s:s}", "ballast_report", "1.0");
    int bad = json_object_update(doc, r->identity);
    bad |= json_object_set_new(doc, "model", model_json(r));
    bad |= json_object_set_new(doc, "sizes", sizes_json(r, &sizes));
    if (r->data.samples.n) {
        bad |= json_object_set_new(doc, "tokens", tokens_json(r));
        bad |= json_object_set_new(doc, "pictures", json_integer(r->data.n_images));
    }
    if (r->sensitivity.cell)
        bad |= json_object_set_new(doc, "sensitivity", bal_record_sensitivity(&r->sensitivity));
    if (r->selection.candidates)
        bad |= json_object_set_new(doc, "selection", selection_json(&r->selection));
    if (r->allocation) bad |= json_object_set(doc, "allocation", r->allocation);
    if (r->sides) bad |= json_object_set(doc, "sides", r->sides);
    bad |= json_object_set(doc, "blocks", r->blocks);
    *out = bad ? NULL : doc;
    if (!bad) return BAL_OK;
    json_decref(doc);
    return bal_nomem(r->err, sizeof sizes, "report");
}

/* ---- The end -----------------------------------------------------------------------------------
 */

/* Before anything is moved: when it fails, all measurements are still there to go on from. */
static bal_status show_record(const run *r)
{
    json_t *record;
    if (!r->o->record) return BAL_OK;
    BAL_TRY(make_record(r, &record));
    const bal_status st = r->o->record(r->o->record_ctx, record, r->err);
    json_decref(record);
    return st;
}

static bal_status finish(run *r)
{
    char path[PATH_SIZE];
    const bal_artifact_origin origin = origin_of(r);
    if (!bal_rank_is_first(r->o->rank)) return BAL_OK;
    BAL_TRY(bal_workspace_path(&r->space, path, sizeof path, "out.safetensors", r->err));
    BAL_TRY(bal_artifact_write(path, &r->engine, r->parts, &origin, r->err));
    BAL_TRY(show_record(r));
    return bal_workspace_commit(&r->space, "out.safetensors", r->err);
}

/* Every layer sees every token, so what the data lacks is lacking in all of them. */
static bal_status check_modalities(const run *r)
{
    const bool vision = r->engine.model.config.has_vision;
    if (!bal_recipe_needs_data(&r->recipe)) return BAL_OK;
    if (r->data.tokens[BAL_VISION] > 0) return BAL_OK;
    if (r->recipe.rank_rows == BAL_LOW_VISION)
        return bal_fail(r->err, BAL_E_ARG,
                        "%.200s: none of the %zu samples in use has a vision token, and "
                        "rank_rows=vision fits a matrix to these: add pictures, where the model "
                        "sees, or --set rank_rows=all",
                        r->o->calib, r->n);
    if (!vision) return BAL_OK;
    if (r->recipe.balance == BAL_BALANCE_GRADIENT)
        return bal_fail(r->err, BAL_E_ARG,
                        "%.200s: none of the %zu samples in use has a picture, and "
                        "balance=gradient measures how much vision tokens weigh: add some, or take "
                        "a recipe that weighs all tokens alike, as ballast does, with --set "
                        "absent=allow",
                        r->o->calib, r->n);
    if (r->recipe.absent == BAL_ABSENT_ALLOW) return BAL_OK;
    return bal_fail(r->err, BAL_E_ARG,
                    "%.200s: none of the %zu samples in use has a picture, so no layer of this "
                    "model sees a vision token; add some, or --set absent=allow",
                    r->o->calib, r->n);
}

static bal_status layout_pass(run *r)
{
    return bal_gather_layout(&r->data, &r->calib, r->order, r->n, &r->engine, &r->recipe, r->err);
}

static bal_status encode_pass(run *r)
{
    return bal_gather_encode(&r->data, &r->calib, r->order, &r->engine, &r->exec, &r->recipe,
                             r->space.output.partial, step_through, r, r->err);
}

static bal_status lay_out_data(run *r)
{
    if (!r->o->calib) return BAL_OK;
    BAL_TRY(with_limit(r, layout_pass));
    r->data.samples.rank = r->o->rank;
    if (bal_recipe_prices_sides(&r->recipe) && r->data.n_images == 0)
        return bal_fail(r->err, BAL_E_ARG,
                        "%.200s: none of the %zu samples in use has a picture, and vision=auto and "
                        "projector=auto choose by pictures",
                        r->o->calib, r->n);
    return check_modalities(r);
}

static bal_status encode_data(run *r)
{
    return r->o->calib ? with_limit(r, encode_pass) : BAL_OK;
}

/* What would be refused is found before the first expensive step. */
static bal_status go(run *r)
{
    bal_artifact_sizes sizes;
    uint64_t budget;
    BAL_TRY(check_names(r));
    BAL_TRY(open_model(r));
    BAL_TRY(open_calib(r, false));
    BAL_TRY(bal_check_finite(&r->engine.model.tensors, r->err));
    BAL_TRY(lay_out_data(r));
    BAL_TRY(bal_artifact_hash_model(r->model_sha256, &r->engine.model, r->err));
    BAL_TRY(identify(r, r->data.sha256));
    BAL_TRY(bal_side_check(&r->tower, &r->recipe, r->err));
    if (r->recipe.bits == BAL_BITS_AUTO) BAL_TRY(check_budget(r, &sizes, &budget));
    BAL_TRY(compare_identities(r));
    BAL_TRY(
        bal_workspace_enter(&r->space, r->o->out, r->o->resume, r->o->force, r->o->rank, r->err));
    if (bal_rank_is_first(r->o->rank)) BAL_TRY(bind(r));
    BAL_TRY(bal_transform_apply(&r->transform, &r->exec, &r->space, step_through, r, r->err));
    BAL_TRY(choose_sides(r));
    /* what the sides took is known now, and gradients are not yet paid for */
    if (r->recipe.bits == BAL_BITS_AUTO) BAL_TRY(check_budget(r, &sizes, &budget));
    BAL_TRY(bal_tower_pack(&r->tower, &r->exec, &r->space, step_through, r, r->err));
    BAL_TRY(encode_data(r));
    BAL_TRY(measure(r));
    BAL_TRY(bal_tower_pack_head(&r->tower, &r->exec, &r->space, r->err));
    BAL_TRY(choose_widths(r));
    BAL_TRY(open_streams(r));
    BAL_TRY(do_blocks(r));
    return finish(r);
}

/* Says how to go on, which matters more to whoever pressed Ctrl-C than where it happened, and to
 * whose disk is full as much. */
static bal_status explain(run *r, bal_status st)
{
    if (st != BAL_E_CANCELLED && st != BAL_E_IO) return st;
    if (r->o->rank && r->o->rank->ended < 0) return st; /* another rank's, which said so itself */
    if (st == BAL_E_IO && bal_workspace_blocks(&r->space) > 0) {
        const bal_error was = *r->err;
        return bal_fail(r->err, st, "%.800s; %d of %d blocks are done, --resume goes on from there",
                        was.text, bal_workspace_blocks(&r->space), layers_of(r));
    }
    if (st == BAL_E_IO) return st;
    const int pieces = bal_workspace_pieces(&r->space);
    if (!pieces) return bal_fail(r->err, st, "cancelled; nothing was finished yet");
    return bal_fail(r->err, st, "cancelled after %d of %d blocks; --resume goes on from there",
                    bal_workspace_blocks(&r->space), layers_of(r));
}

bal_status bal_pipeline_run(const bal_pipeline_opts *o, bal_error *err)
{
    bal_error local;
    run r = {.o = o, .err = err ? err : &local, .data.embeds.fd = -1, .quant.fd = -1};
    const bal_status st = bal_rank_agree(o->rank, explain(&r, go(&r)), r.err);
    close_run(&r);
    return st;
}

/* ---- Planning ----------------------------------------------------------------------------------
 */

static void fill_plan(bal_pipeline_plan *p, const run *r)
{
    const bal_config *c = &r->engine.model.config;
    p->layers = c->text.layers;
    p->bits = r->recipe.bits;
    p->group = r->recipe.group;
    memcpy(p->side, r->recipe.side, sizeof p->side);
    p->needs_data = bal_recipe_needs_data(&r->recipe);
    p->samples = (int)r->n;
    p->blocks_done = r->o->out ? bal_workspace_left(r->o->out) : 0;
    p->source_bytes = r->engine.model.tensors.n_file_bytes;
}

/* The packed linears beside the blocks: their files, and the largest of them in f32, as codes and
 * packed. */
static void add_tower(bal_pipeline_plan *p, const bal_tower *t, uint64_t room)
{
    p->disk_bytes += room;
    for (size_t i = 0; i < t->n; i++) {
        const bal_linear *l = t->items[i].linear;
        const uint64_t weights = (uint64_t)l->n * (uint64_t)l->k;
        const uint64_t packed = t->items[i].layout.n_bytes;
        p->disk_bytes += packed;
        p->ram_bytes = bal_max(p->ram_bytes, weights * (sizeof(float) + 1) + packed);
    }
}

/* What it will take, from the samples as they are laid out. */
static bal_status fill_needs(bal_pipeline_plan *p, run *r)
{
    bal_speed speed;
    if (r->o->calib) BAL_TRY(lay_out_data(r));
    BAL_TRY(bal_speed_measure(&speed, &r->exec, r->err));
    const bal_estimate e =
        bal_estimate_make(&r->engine.model.config.text, &r->data.samples, &r->recipe,
                          needs_sensitivity(&r->recipe), speed, bal_pool_size(r->engine.pool));
    p->ram_bytes = e.ram_bytes;
    p->seconds = e.seconds;
    const int done = p->blocks_done < p->layers ? p->blocks_done : p->layers;
    if (r->o->resume) p->seconds -= e.block_seconds * done / p->layers;
    p->disk_bytes = p->sizes.n_bytes + p->sizes.linear_bytes + e.spill_bytes +
                    bal_transform_bytes(&r->transform);
    return BAL_OK;
}

/* The most that the file can be. */
static bal_status plan_budget(const run *r, bal_artifact_sizes *sizes)
{
    const bal_artifact_origin origin = origin_of(r);
    uint64_t budget, least, most;
    if (r->recipe.bits != BAL_BITS_AUTO)
        return bal_artifact_size(sizes, &r->engine, &origin, r->err);
    BAL_TRY(check_budget(r, sizes, &budget));
    BAL_TRY(bal_widths_range(&least, &most, &r->engine.model, &r->recipe, r->err));
    const uint64_t linears = budget < most ? budget : most;
    sizes->n_bytes += linears - least;
    sizes->linear_bytes = linears;
    return BAL_OK;
}

/* What resuming would be refused for, as far as that takes no sums of files. */
static bal_status compare_left(const run *r)
{
    json_t *all;
    if (!r->o->out || !r->o->resume || !bal_rank_is_first(r->o->rank)) return BAL_OK;
    BAL_TRY(identity_with_build(r, &all));
    const bal_status st = bal_workspace_compare(r->o->out, all, r->err);
    json_decref(all);
    return st;
}

static bal_status plan(run *r, bal_pipeline_plan *p)
{
    char zeros[BAL_SHA256_HEX] = "";
    memset(zeros, '0', sizeof zeros - 1);
    BAL_TRY(check_names(r));
    BAL_TRY(open_model(r));
    BAL_TRY(open_calib(r, true));
    memcpy(r->model_sha256, zeros, sizeof zeros);
    BAL_TRY(identify(r, zeros));
    BAL_TRY(compare_left(r));
    uint64_t room;
    BAL_TRY(bal_side_check(&r->tower, &r->recipe, r->err));
    BAL_TRY(plan_budget(r, &p->sizes));
    BAL_TRY(bal_side_room(&room, &r->tower, &r->recipe, r->err));
    p->sizes.n_bytes += room;
    if (r->recipe.target_size > 0 && p->sizes.n_bytes > (uint64_t)r->recipe.target_size)
        p->sizes.n_bytes = (uint64_t)r->recipe.target_size; /* blocks get what sides leave */
    fill_plan(p, r);
    BAL_TRY(fill_needs(p, r));
    add_tower(p, &r->tower, room);
    return BAL_OK;
}

bal_status bal_pipeline_plan_make(bal_pipeline_plan *p, const bal_pipeline_opts *o, bal_error *err)
{
    bal_error local;
    *p = (bal_pipeline_plan){0};
    run r = {.o = o, .err = err ? err : &local, .data.embeds.fd = -1, .quant.fd = -1};
    const bal_status st = plan(&r, p);
    close_run(&r);
    return st;
}
