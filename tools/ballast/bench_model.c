/* SPDX-License-Identifier: MIT */
#include "bench_model.h"

#include "base/rng.h"
#include "base/size.h"
#include "bench_limits.h"
#include "bench_work.h"
#include "run/sequence.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    BUFFER = 256 << 20,
    LIMITS = BAL_LIMIT_INT8 + 1,
    STAGES = LIMITS + 4,
    WARM_STEPS = 2,
    ENOUGH_S = 20
};

typedef enum stage { PIXELS = LIMITS, ENCODE, PREFILL, DECODE } stage;

typedef struct bench {
    const bal_model_bench *plan;
    bal_model_report *out;
    bal_engine engine;
    bal_session session;
    bal_token_info *info; /* [prompt] */
    float *embeds;        /* [prompt][hidden] */
    bal_image image;
    bal_view_plan view;
    float *pixels, *features;
    bal_limit_buffer buffer;
    uint8_t *memory; /* of the buffer */
    double load[BAL_MODEL_ROUNDS], first[BAL_MODEL_ROUNDS];
    int loads; /* of them */
    double seconds[STAGES][BAL_MODEL_ROUNDS], spent[STAGES];
    int rounds[STAGES];
    double work[LIMITS];
    int step, steps;
} bench;

static bal_status step(bench *b, bal_error *err)
{
    const bal_progress p = {"measuring", (uint64_t)++b->step, (uint64_t)b->steps};
    if (!b->plan->progress || b->plan->progress(b->plan->ctx_progress, &p)) return BAL_OK;
    return bal_fail(err, BAL_E_CANCELLED, "interrupted");
}

/* ---- Memory of this process ------------------------------------------------------------------ */

static bal_bench_memory memory_now(void)
{
    bal_bench_memory m = {0};
    char line[200];
    unsigned long kib;
    FILE *f = fopen("/proc/self/status", "r");
    if (!f) return m;
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmRSS: %lu", &kib) == 1) m.resident = 1024.0 * (double)kib;
        if (sscanf(line, "RssAnon: %lu", &kib) == 1) m.anonymous = 1024.0 * (double)kib;
    }
    fclose(f);
    return m;
}

/* ---- From nothing to the first token --------------------------------------------------------- */

static void close_model(bench *b)
{
    bal_session_destroy(&b->session);
    bal_engine_close(&b->engine);
}

static bal_status open_model(bench *b, bal_error *err)
{
    const bal_model_bench *p = b->plan;
    BAL_TRY(bal_engine_open(&b->engine, p->path, p->threads, p->isa, err));
    BAL_TRY(bal_engine_limit_images(&b->engine, p->image_max_tokens, err));
    BAL_TRY(bal_engine_use_shapes(&b->engine, p->shapes, err));
    BAL_TRY(bal_engine_use_device(&b->engine, p->device, err));
    return bal_session_create(&b->session, &b->engine, p->ctx, err);
}

static bal_token_info text_token(const bal_model *m, int i)
{
    const int32_t id = (int32_t)((int64_t)(i + 1) * 7919 % m->config.text.vocab);
    return (bal_token_info){.id = id, .pos = {i, i, i}, .image = -1, .modality = BAL_PROMPT};
}

/* A prompt of one token, as far as its logits. */
static bal_status first_token(bench *b, bal_error *err)
{
    const bal_token_info info = text_token(&b->engine.model, 0);
    bal_linear_row(&b->engine.model.embed, info.id, b->session.row);
    return bal_session_append(&b->session, &info, b->session.row, 1, 0, NULL, NULL, (bal_taps){0},
                              err);
}

static bal_status timed_start(bench *b, double *load, double *first, bal_error *err)
{
    close_model(b);
    const double start = bal_bench_now();
    BAL_TRY(open_model(b, err));
    *load = bal_bench_now() - start;
    BAL_TRY(first_token(b, err));
    *first = bal_bench_now() - start;
    return BAL_OK;
}

/* ---- Cold ------------------------------------------------------------------------------------ */

/* Asks the kernel to forget a file's pages; what part of them is still there, 1 if nobody knows. */
static double evict(const char *path)
{
    double left = 1;
    struct stat sb;
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return left;
    if (fstat(fd, &sb) == 0 && sb.st_size > 0 && fdatasync(fd) == 0 &&
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0) {
        const size_t n = (size_t)sb.st_size, pages = bal_ceil_div(n, 4096);
        void *map = mmap(NULL, n, PROT_READ, MAP_SHARED, fd, 0);
        unsigned char *seen = malloc(pages);
        if (map != MAP_FAILED && seen && mincore(map, n, seen) == 0) {
            size_t here = 0;
            for (size_t i = 0; i < pages; i++) here += seen[i] & 1;
            left = (double)here / (double)pages;
        }
        free(seen);
        if (map != MAP_FAILED) munmap(map, n);
    }
    close(fd);
    return left;
}

static double evict_all(char (*paths)[1200], size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        const double left = evict(paths[i]);
        if (left > most) most = left;
    }
    return most;
}

/* Only a start whose pages were really gone counts. */
static bal_status measure_cold(bench *b, bal_error *err)
{
    const bal_tensor_set *set = &b->engine.model.tensors;
    bal_model_report *r = b->out;
    const size_t n = set->n_files;
    char(*paths)[1200] = calloc(n, sizeof *paths);
    if (!paths) return bal_nomem(err, n * sizeof *paths, "paths");
    for (size_t i = 0; i < set->n_tensors; i++)
        snprintf(paths[set->tensors[i].file], sizeof *paths, "%s",
                 bal_tensor_file(set, &set->tensors[i]));
    close_model(b);
    const double left = evict_all(paths, n);
    free(paths);
    double load;
    const bal_status st = timed_start(b, &load, &r->cold_s, err);
    if (st == BAL_OK && left > 0.01) {
        snprintf(r->cold_why, sizeof r->cold_why,
                 "%.0f %% of the file stayed in memory when the kernel was asked to drop it",
                 100 * left);
        r->cold_s = -1;
    }
    return st;
}

/* The first start brings the pages in and counts for nothing, unless it uploaded to a device: that
 * takes so long that the file's pages are little of it, and is not repeated. */
static bal_status measure_starts(bench *b, bal_error *err)
{
    BAL_TRY(timed_start(b, &b->load[0], &b->first[0], err));
    b->loads = b->engine.on_device ? 1 : b->plan->repeats;
    b->steps = WARM_STEPS + b->plan->repeats * STAGES + (b->engine.on_device ? 0 : b->loads);
    BAL_TRY(step(b, err));
    if (b->plan->cold) BAL_TRY(measure_cold(b, err));
    for (int i = 0; i < b->loads && !b->engine.on_device; i++) {
        BAL_TRY(timed_start(b, &b->load[i], &b->first[i], err));
        BAL_TRY(step(b, err));
    }
    return BAL_OK;
}

/* ---- Preparation ----------------------------------------------------------------------------- */

/* Smooth shapes with grain: a picture that a decoder would have been given. */
static bal_status make_image(bench *b, bal_error *err)
{
    bal_rng rng;
    bal_rng_seed(&rng, 3);
    BAL_TRY(bal_image_create(&b->image, b->plan->width, b->plan->height, err));
    uint8_t *p = b->image.rgb;
    for (int y = 0; y < b->image.height; y++)
        for (int x = 0; x < b->image.width; x++)
            for (int c = 0; c < 3; c++)
                *p++ = (uint8_t)(112 +
                                 64 * sinf((float)(x * (c + 1)) * 0.01f) * cosf((float)y * 0.013f) +
                                 (float)(bal_rng_u64(&rng) & 31));
    return BAL_OK;
}

static bal_status prepare_picture(bench *b, bal_error *err)
{
    const bal_config *c = &b->engine.model.config;
    bal_model_report *r = b->out;
    if (!c->has_vision || b->plan->width < 1) return BAL_OK;
    BAL_TRY(bal_sequence_plan(&b->engine, b->plan->width, b->plan->height, BAL_VIEW_ONE, &b->view,
                              err));
    BAL_TRY(make_image(b, err));
    const size_t floats = (size_t)b->view.n_tokens * (size_t)c->text.hidden;
    b->pixels = malloc(b->view.n_floats * sizeof *b->pixels);
    b->features = malloc(floats * sizeof *b->features);
    if (!b->pixels || !b->features) return bal_nomem(err, floats * 4, "a picture");
    r->has_picture = true;
    r->picture_views = b->view.n_views;
    r->picture_tokens = b->view.n_tokens;
    r->resized_width = b->view.resized_w;
    r->resized_height = b->view.resized_h;
    r->picture_planned = (double)bal_sequence_look_bytes(&b->engine, &b->view);
    return BAL_OK;
}

static bal_status prepare_prompt(bench *b, bal_error *err)
{
    const bal_model *m = &b->engine.model;
    const size_t n = (size_t)b->plan->prompt, hidden = (size_t)m->config.text.hidden;
    b->info = calloc(n, sizeof *b->info);
    b->embeds = calloc(n * hidden, sizeof *b->embeds);
    if (!b->info || !b->embeds) return bal_nomem(err, n * hidden * 4, "a prompt");
    for (size_t i = 0; i < n; i++) {
        b->info[i] = text_token(m, (int)i);
        bal_linear_row(&m->embed, b->info[i].id, b->embeds + i * hidden);
    }
    return BAL_OK;
}

/* Small normal numbers: what is read does not matter, that there are pages behind it does. */
static bal_status prepare_buffer(bench *b, bal_error *err)
{
    b->memory = malloc(BUFFER);
    if (!b->memory) return bal_nomem(err, BUFFER, "a buffer to read");
    memset(b->memory, 0x3c, BUFFER);
    b->buffer = (bal_limit_buffer){b->memory, BUFFER};
    return BAL_OK;
}

static void release(bench *b)
{
    close_model(b);
    bal_image_free(&b->image);
    free(b->info);
    free(b->embeds);
    free(b->pixels);
    free(b->features);
    free(b->memory);
    free(b);
}

/* ---- Rounds ---------------------------------------------------------------------------------- */

static bal_status run_prompt(bench *b, bal_error *err)
{
    bal_session_truncate(&b->session, 0);
    return bal_session_append(&b->session, b->info, b->embeds, b->plan->prompt, 0, NULL, NULL,
                              (bal_taps){0}, err);
}

/* The answer of a model with random weights is anything; any id costs the same. */
static bal_status run_answer(bench *b, bal_error *err)
{
    bal_session_truncate(&b->session, b->plan->prompt);
    int32_t next = text_token(&b->engine.model, 0).id;
    for (int i = 0; i < b->plan->tokens; i++)
        BAL_TRY(b->engine.on_device
                    ? bal_session_next(&b->session, next, NULL, &next, err)
                    : bal_session_push(&b->session, text_token(&b->engine.model, i).id, err));
    return BAL_OK;
}

static bal_status run_stage(bench *b, int i, bal_error *err)
{
    const bal_model *m = &b->engine.model;
    const bal_family_def *f = bal_family_of(&m->config);
    switch (i) {
    case PIXELS: return f->pixels(&m->config, &b->view, &b->image, b->pixels, err);
    case ENCODE:
        return bal_sequence_encode(&b->engine, &b->session.exec, &b->view, b->pixels, b->features,
                                   (bal_taps){0}, err);
    case PREFILL: return run_prompt(b, err);
    case DECODE: return run_answer(b, err);
    default:
        b->work[i] =
            bal_limit_run((bal_limit)i, bal_isa_name(b->engine.isa), b->engine.pool, b->buffer);
        return BAL_OK;
    }
}

/* What takes long is not repeated for long. */
static bool runs(const bench *b, int i)
{
    if ((i == PIXELS || i == ENCODE) && !b->out->has_picture) return false;
    return b->rounds[i] == 0 || b->spent[i] < ENOUGH_S;
}

static bal_status time_stage(bench *b, int i, bal_error *err)
{
    const double start = bal_bench_now();
    BAL_TRY(run_stage(b, i, err));
    const double s = bal_bench_now() - start;
    b->seconds[i][b->rounds[i]++] = s;
    b->spent[i] += s;
    return step(b, err);
}

static bal_status run_rounds(bench *b, bal_error *err)
{
    for (int r = 0; r < b->plan->repeats; r++)
        for (int i = 0; i < STAGES; i++) {
            if (!runs(b, i)) continue;
            BAL_TRY(time_stage(b, i, err));
        }
    return BAL_OK;
}

/* Memory is looked at before the buffer of the limits is there. The picture's own run is the one
 * that brings its pages in. */
static bal_status measure(bench *b, bal_error *err)
{
    bal_model_report *r = b->out;
    size_t planned;
    r->before = memory_now();
    BAL_TRY(measure_starts(b, err));
    BAL_TRY(bal_session_bytes(&planned, &b->engine, b->plan->ctx,
                              b->engine.on_device ? BAL_KV_F16 : BAL_KV_F32, err));
    r->planned = (double)planned;
    BAL_TRY(prepare_prompt(b, err));
    BAL_TRY(run_prompt(b, err));
    r->text = memory_now();
    BAL_TRY(prepare_picture(b, err));
    if (r->has_picture) {
        BAL_TRY(run_stage(b, PIXELS, err));
        BAL_TRY(run_stage(b, ENCODE, err));
        r->picture = memory_now();
    }
    BAL_TRY(step(b, err));
    BAL_TRY(prepare_buffer(b, err));
    return run_rounds(b, err);
}

/* ---- Report ---------------------------------------------------------------------------------- */

static bal_bench_row *add_row(bench *b, const char *name, double *seconds, int n, int rows)
{
    bal_model_report *r = b->out;
    bal_bench_row *row = &r->rows[r->n_rows++];
    *row = (bal_bench_row){.isa = r->isa, .threads = r->threads, .rows = rows};
    snprintf(row->name, sizeof row->name, "%s", name);
    bal_bench_set_seconds(row, seconds, n);
    return row;
}

static bal_bench_row *add_stage(bench *b, const char *name, int i, int rows)
{
    return add_row(b, name, b->seconds[i], b->rounds[i], rows);
}

static void add_limit(bench *b, bal_limit limit)
{
    bal_bench_row *row = add_stage(b, bal_limit_name(limit), (int)limit, 0);
    const double rate = b->work[limit] / row->seconds;
    row->bits = bal_limit_bits(limit);
    *(bal_limit_reads(limit) ? &row->bytes_per_s : &row->weights_per_s) = rate;
}

static void set_rates(const bench *b, bal_bench_row *row, const bal_work *w, double tokens)
{
    row->bits = b->out->bits;
    row->group = b->out->group;
    row->weights_per_s = w->weights / row->seconds;
    row->products_per_s = w->products / row->seconds;
    row->bytes_per_s = w->bytes / row->seconds;
    row->tokens_per_s = tokens / row->seconds;
}

/* A row of what the decoder did: where it ran, when that was not the CPU. */
static bool on_device(const bench *b, bal_bench_row *row)
{
    if (b->out->device[0]) row->isa = b->out->device;
    return b->out->device[0] != 0;
}

/* Seconds it would take if nothing but the multiplications took time. */
static void limit_by_multiplying(bal_bench_row *row, const bal_work *w, const bal_bench_row *limits)
{
    const double bytes = w->bytes_mul / limits[BAL_LIMIT_INT8].weights_per_s;
    const double floats = w->floats / limits[BAL_LIMIT_FMA].weights_per_s;
    row->limit = w->bytes_mul > 0 ? "int8+fma" : "fma";
    row->fraction = (bytes + floats) / row->seconds;
    row->limit_per_s =
        w->bytes_mul > 0 ? row->tokens_per_s / row->fraction : limits[BAL_LIMIT_FMA].weights_per_s;
}

static void limit_by_reading(bal_bench_row *row, const bal_bench_row *limits)
{
    row->limit = "read";
    row->limit_per_s = limits[BAL_LIMIT_READ].bytes_per_s;
    row->fraction = row->bytes_per_s / row->limit_per_s;
}

static void report_picture(bench *b)
{
    const bal_work w = bal_work_picture(&b->engine.model, &b->view);
    const int tokens = b->view.n_tokens;
    add_stage(b, "pixels", PIXELS, tokens);
    bal_bench_row *row = add_stage(b, "encode", ENCODE, tokens);
    set_rates(b, row, &w, tokens);
    row->bits = bal_type_get(b->engine.model.vision_layers[0].fc1.type)->bits;
    row->group = 0;
    if (bal_sequence_encodes_on_device(&b->engine))
        on_device(b, row);
    else
        limit_by_multiplying(row, &w, b->out->rows);
}

static void report_text(bench *b)
{
    const bal_model_bench *p = b->plan;
    const bal_model *m = &b->engine.model;
    const bal_kv_layout *kv = &b->session.pool.layout;
    bal_work w = bal_work_decoder(m, kv, 0, p->prompt);
    bal_bench_row *row = add_stage(b, "prefill", PREFILL, p->prompt);
    set_rates(b, row, &w, p->prompt);
    if (!on_device(b, row)) limit_by_multiplying(row, &w, b->out->rows);
    for (int i = 0; i < b->rounds[DECODE]; i++) b->seconds[DECODE][i] /= p->tokens;
    row = add_stage(b, "decode", DECODE, 1);
    w = bal_work_decoder(m, kv, p->prompt + p->tokens / 2, 1);
    set_rates(b, row, &w, 1);
    if (!on_device(b, row)) limit_by_reading(row, b->out->rows);
}

static double count_weights(const bal_model *m)
{
    double n = 0;
    for (size_t i = 0; i < m->tensors.n_tensors; i++) {
        uint64_t count = 0;
        const bal_tensor_view *t = &m->tensors.tensors[i];
        if (t->dtype != BAL_ST_U8 && bal_st_count(t->shape, t->n_dims, &count)) n += (double)count;
    }
    for (int l = 0; l < m->config.text.layers; l++)
        for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
            const bal_linear *w = bal_decoder_linear(&m->layers[l], i);
            if (bal_type_get(w->type)->packed) n += (double)w->n * (double)w->k;
        }
    return n;
}

static void report_model(bench *b)
{
    const bal_model *m = &b->engine.model;
    const bal_linear *l = &m->layers[0].gate;
    bal_model_report *r = b->out;
    r->family = bal_family_of(&m->config)->model_type;
    r->isa = bal_isa_name(b->engine.isa);
    r->threads = bal_pool_size(b->engine.pool);
    const bal_device_model *d = b->engine.on_device;
    if (d) snprintf(r->device, sizeof r->device, "%s:%d", d->api->name, d->index);
    r->ctx = b->plan->ctx;
    r->bits = bal_type_get(l->type)->bits;
    r->group = bal_type_get(l->type)->packed ? l->packed.layout.group : 0;
    r->n_shapes = b->engine.shapes.n;
    r->weights = count_weights(m);
    r->file_bytes = (double)m->tensors.n_file_bytes;
}

static void report(bench *b)
{
    report_model(b);
    for (int i = 0; i < LIMITS; i++) add_limit(b, (bal_limit)i);
    add_row(b, "load", b->load, b->loads, 0);
    bal_bench_row *row = add_row(b, "first_token", b->first, b->loads, 1);
    row->tokens_per_s = 1 / row->seconds;
    if (b->out->has_picture) report_picture(b);
    report_text(b);
}

bal_status bal_bench_model(const bal_model_bench *plan, bal_model_report *out, bal_error *err)
{
    *out = (bal_model_report){.cold_s = -1};
    bench *b = calloc(1, sizeof *b);
    if (!b) return bal_nomem(err, sizeof *b, "the benchmark");
    b->plan = plan;
    b->out = out;
    bal_status st =
        plan->prompt + plan->tokens > plan->ctx
            ? bal_fail(err, BAL_E_ARG, "--rows %d and --tokens %d do not fit into a context of %d",
                       plan->prompt, plan->tokens, plan->ctx)
            : BAL_OK;
    if (st == BAL_OK) st = measure(b, err);
    if (st == BAL_OK) report(b);
    release(b);
    return st;
}
