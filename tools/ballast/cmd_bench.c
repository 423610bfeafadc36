/* SPDX-License-Identifier: MIT
 * ballast bench: what this machine can do at most, and how much of that the kernels or a model
 * reach. Timings are those of the moment: compare rows of one run, which are taken in turn. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cpu.h"
#include "base/file.h"
#include "bench_kernels.h"
#include "bench_model.h"
#include "bench_shape.h"
#include "commands.h"
#include "console.h"
#include "make_shapes.h"
#include "run/shapes_file.h"
#include "shapes_flag.h"

enum { MAX_SIDE = 1 << 20, MAX_ROWS = 4096, PATH_SIZE = 1200 };

typedef struct bench_flags {
    bal_common common;
    bool limits, kernels, resident, cold, shapes_make;
    const char *model, *shape, *matrix, *keep, *picture, *act;
    int bits, head, tower, group, rows, tokens, repeats, image_max_tokens;
    bal_bar bar;
} bench_flags;

/* "3584x18944" */
static bool parse_pair(const char *text, size_t least, size_t *a, size_t *b)
{
    char tail;
    if (sscanf(text, "%7zux%7zu%c", a, b, &tail) != 2) return false;
    return *a >= least && *a <= MAX_SIDE && *b >= least && *b <= MAX_SIDE;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static json_t *number_or_null(double v)
{
    return v > 0 ? json_real(v) : json_null();
}

static json_t *row_json(const bal_bench_row *r)
{
    json_t *j = json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:i, s:i, s:f, s:f, s:f, s:f, s:f, s:f}",
                          "name", r->name, "isa", r->isa, "bits", r->bits, "group",
                          (json_int_t)r->group, "n", (json_int_t)r->n, "k", (json_int_t)r->k,
                          "rows", r->rows, "threads", r->threads, "weights_per_s", r->weights_per_s,
                          "bytes_per_s", r->bytes_per_s, "products_per_s", r->products_per_s,
                          "seconds", r->seconds, "slowest", r->slowest, "fastest", r->fastest);
    json_object_set_new(j, "tokens_per_s", number_or_null(r->tokens_per_s));
    json_object_set_new(j, "limit", r->limit ? json_string(r->limit) : json_null());
    json_object_set_new(j, "limit_per_s", r->limit ? json_real(r->limit_per_s) : json_null());
    json_object_set_new(j, "fraction", r->limit ? json_real(r->fraction) : json_null());
    return j;
}

static json_t *rows_json(const bal_bench_row *rows, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, row_json(&rows[i]));
    return list;
}

static void share_of(char *out, size_t size, const bal_bench_row *r)
{
    out[0] = 0;
    if (r->limit) snprintf(out, size, "%.0f %% of %s", 100 * r->fraction, r->limit);
}

static void print_row(const bal_bench_row *r)
{
    char shape[32] = "", rate[32] = "", share[32];
    if (r->n) snprintf(shape, sizeof shape, "%zux%zu", r->n, r->k);
    if (r->weights_per_s > 0) snprintf(rate, sizeof rate, "%.2f", r->weights_per_s * 1e-9);
    share_of(share, sizeof share, r);
    if (!strcmp(r->name, "barrier"))
        snprintf(share, sizeof share, "%.2f us each", 1e6 / r->weights_per_s);
    printf("%-13s %-7s %-12s %5d %7d %10s %8.2f %6.2f-%-5.2f %s\n", r->name, r->isa, shape, r->rows,
           r->threads, rate, r->bytes_per_s * 1e-9, r->slowest, r->fastest, share);
}

/* What a reader may take for a figure and is none. */
static void warn_rows(const bench_flags *f, const bal_bench_row *rows, int n)
{
    bool above = false, single = false;
    for (int i = 0; i < n; i++) {
        above |= rows[i].limit && rows[i].fraction > 1.005;
        single |= rows[i].slowest == rows[i].fastest;
    }
    if (f->common.quiet) return;
    if (above)
        fprintf(stderr, "ballast bench: a share above 100 %% means that the limit was measured too "
                        "low, or read from a cache; measure again when nothing else runs\n");
    if (single)
        fprintf(stderr, "ballast bench: a spread of 1.00-1.00 is that of a single round, which "
                        "says nothing about the next; see --repeats\n");
}

static int print_rows(const bench_flags *f, const bal_bench_row *rows, int n)
{
    if (f->common.json)
        return bal_print_json("bench", json_pack("{s:s?, s:o}", "shapes", f->common.shapes, "rows",
                                                 rows_json(rows, n)));
    if (f->common.shapes) printf("shape table: %s\n", f->common.shapes);
    printf("%-13s %-7s %-12s %5s %7s %10s %8s %12s\n", "name", "isa", "shape", "rows", "threads",
           "Gweights/s", "GB/s", "spread");
    for (int i = 0; i < n; i++) print_row(&rows[i]);
    printf("\nmedians of the rounds; spread: the slowest and the fastest round over the median\n");
    return 0;
}

/* ---- Limits and kernels ---------------------------------------------------------------------- */

static bal_status read_shapes(bal_shapes *out, const bench_flags *f, unsigned isa,
                              const bal_pool *pool, bal_error *err)
{
    const bal_shapes_host here = bal_shapes_here(isa, bal_pool_size(pool));
    return f->common.shapes ? bal_shapes_read(out, f->common.shapes, &here, err) : BAL_OK;
}

static int bench_machine(const bench_flags *f)
{
    bal_error err = {0};
    unsigned isa = bal_cpu_isa();
    if (f->common.isa && bal_isa_from_name(&isa, f->common.isa, &err) < 0)
        return bal_usage("bench", "--isa: %s", err.text);
    isa &= bal_cpu_isa();
    bal_kernels table;
    bal_kernels_init(&table, isa);
    bal_bench_plan plan = {.kernels = &table, .isa = bal_isa_name(isa), .rows = f->rows};
    plan.resident = f->resident;
    plan.group = (size_t)f->group, plan.repeats = f->repeats ? f->repeats : 9;
    if (!parse_pair(f->matrix, 1, &plan.n, &plan.k))
        return bal_usage("bench", "--matrix is '%s'; expected NxK with both from 1 to %d",
                         f->matrix, MAX_SIDE);
    if (bal_pool_create(&plan.pool, f->common.threads, &err) < 0)
        return bal_failure("bench", "%s", err.text);
    bal_bench_row out[BAL_BENCH_ROWS];
    int n = 0;
    bal_shapes shapes = {0};
    bal_status st = read_shapes(&shapes, f, isa, plan.pool, &err);
    plan.shapes = &shapes;
    if (st == BAL_OK)
        st = f->limits ? bal_bench_limits(&plan, out, &n, &err)
                       : bal_bench_kernels(&plan, out, &n, &err);
    bal_shapes_free(&shapes);
    bal_pool_destroy(plan.pool);
    if (st < 0) return bal_failure("bench", "%s", err.text);
    const int status = print_rows(f, out, n);
    warn_rows(f, out, n);
    return status ? status : bal_finish("bench", 0);
}

/* ---- A model --------------------------------------------------------------------------------- */

static bool watch(void *ctx, const bal_progress *p)
{
    bench_flags *f = ctx;
    bal_bar_show(&f->bar, p->stage, p->done, p->total);
    return !bal_interrupted();
}

static json_t *memory_json(const bal_bench_memory *m)
{
    return json_pack("{s:f, s:f}", "resident_bytes", m->resident, "anonymous_bytes", m->anonymous);
}

/* Resident memory over what was to be expected. */
static double of_plan(const bal_model_report *r)
{
    return r->text.resident / (r->file_bytes + r->planned);
}

static int print_model_json(const bench_flags *f, const bal_model_report *r)
{
    json_t *m = json_pack("{s:s, s:s?, s:s, s:i, s:I, s:i, s:f, s:f, s:f, s:f}", "model",
                          f->shape ? f->shape : f->model, "shapes", f->common.shapes, "family",
                          r->family, "bits", r->bits, "group", (json_int_t)r->group, "context",
                          r->ctx, "weights", r->weights, "file_bytes", r->file_bytes,
                          "planned_bytes", r->planned, "of_plan", of_plan(r));
    if (!m) return bal_print_json("bench", NULL);
    json_object_set_new(m, "memory_before", memory_json(&r->before));
    json_object_set_new(m, "memory", memory_json(&r->text));
    json_object_set_new(m, "picture", json_null());
    if (r->has_picture)
        json_object_set_new(m, "picture",
                            json_pack("{s:s, s:i, s:i, s:i, s:i, s:f, s:o}", "size", f->picture,
                                      "views", r->picture_views, "tokens", r->picture_tokens,
                                      "resized_width", r->resized_width, "resized_height",
                                      r->resized_height, "planned_bytes", r->picture_planned,
                                      "memory", memory_json(&r->picture)));
    json_object_set_new(m, "cold_first_token_s", number_or_null(r->cold_s));
    return bal_print_json(
        "bench", json_pack("{s:o, s:o}", "model", m, "rows", rows_json(r->rows, r->n_rows)));
}

static void print_model_row(const bal_bench_row *r)
{
    char rate[32] = "", bytes[32] = "", share[40], rows[32] = "";
    share_of(share, sizeof share, r);
    if (r->rows) snprintf(rows, sizeof rows, "%d", r->rows);
    if (r->tokens_per_s > 0) snprintf(rate, sizeof rate, "%.2f", r->tokens_per_s);
    if (r->bytes_per_s > 0) snprintf(bytes, sizeof bytes, "%.2f", r->bytes_per_s * 1e-9);
    if (r->limit_per_s <= 0 && r->bytes_per_s <= 0 && r->weights_per_s > 0)
        snprintf(rate, sizeof rate, "%.1f G", r->weights_per_s * 1e-9);
    printf("%-12s %6s %12.2f %10s %8s %6.2f-%-5.2f %s\n", r->name, rows, 1e3 * r->seconds, rate,
           bytes, r->slowest, r->fastest, share);
}

static void print_model(const bench_flags *f, const bal_model_report *r)
{
    const double mib = 1 << 20;
    printf("%s: %s, %.2f G weights, ", f->shape ? f->shape : f->model, r->family,
           r->weights * 1e-9);
    if (r->group || r->bits < 16)
        printf("decoder at %d bits in groups of %zu", r->bits, r->group);
    else
        printf("%d bits", r->bits);
    printf("; isa %s, %d threads\n", r->isa, r->threads);
    if (f->common.shapes) printf("shape table: %s, entries: %zu\n", f->common.shapes, r->n_shapes);
    printf("memory: file %.0f MiB, session of %d positions %.0f MiB by plan; resident with a text "
           "prompt %.0f MiB (%.0f %% of both), %.0f MiB of it not the file\n",
           r->file_bytes / mib, r->ctx, r->planned / mib, r->text.resident / mib, 100 * of_plan(r),
           r->text.anonymous / mib);
    if (r->has_picture)
        printf("picture: %s -> %d x %d, %d view%s, %d tokens, %.0f MiB by plan; resident after it "
               "%.0f MiB\n",
               f->picture, r->resized_width, r->resized_height, r->picture_views,
               r->picture_views == 1 ? "" : "s", r->picture_tokens, r->picture_planned / mib,
               r->picture.resident / mib);
    if (f->cold && r->cold_s >= 0)
        printf("cold: first token after %.0f ms, nothing of the file in memory before\n",
               1e3 * r->cold_s);
    else if (f->cold)
        printf("cold: not measured: %s\n", r->cold_why);
    printf("\n%-12s %6s %12s %10s %8s %12s\n", "name", "rows", "ms", "per s", "GB/s", "spread");
    for (int i = 0; i < r->n_rows; i++) print_model_row(&r->rows[i]);
    printf(
        "\nmedians of the rounds; spread: the slowest and the fastest round over the median;\n"
        "per s: tokens, of limits multiply-adds; load: until a question can come; first_token: "
        "load\n"
        "and a prompt of one token, no picture (a picture adds pixels and encode, its tokens "
        "count\n"
        "in prefill); decode: of one token; %% of: the share of the limit measured in this run\n");
}

static int bench_model(bench_flags *f)
{
    bal_error err = {0};
    size_t width = 0, height = 0;
    if (strcmp(f->picture, "none") != 0 && !parse_pair(f->picture, 1, &width, &height))
        return bal_usage("bench", "--picture is '%s'; expected WIDTHxHEIGHT or none", f->picture);
    const bal_model_bench plan = {.path = f->model,
                                  .threads = f->common.threads,
                                  .isa = f->common.isa,
                                  .device = f->common.device,
                                  .shapes = f->common.shapes,
                                  .ctx = f->common.ctx ? f->common.ctx : 2048,
                                  .prompt = f->rows,
                                  .tokens = f->tokens,
                                  .width = (int)width,
                                  .height = (int)height,
                                  .image_max_tokens = f->image_max_tokens,
                                  .cold = f->cold,
                                  .repeats = f->repeats ? f->repeats : 3,
                                  .progress = watch,
                                  .ctx_progress = f};
    bal_model_report report;
    const bal_status st = bal_bench_model(&plan, &report, &err);
    bal_bar_clear(&f->bar);
    if (st < 0) return bal_failure("bench", "%s", err.text);
    int status = 0;
    if (f->common.json)
        status = print_model_json(f, &report);
    else
        print_model(f, &report);
    warn_rows(f, report.rows, report.n_rows);
    return status ? status : bal_finish("bench", 0);
}

static int make_shapes(bench_flags *f)
{
    const bal_make_shapes_plan plan = {.model = f->model,
                                       .title = f->shape ? f->shape : f->model,
                                       .common = &f->common,
                                       .repeats = f->repeats ? f->repeats : 9,
                                       .progress = watch,
                                       .ctx = f};
    return bal_make_shapes(&plan);
}

static int bench_opened(bench_flags *f)
{
    return f->shapes_make ? make_shapes(f) : bench_model(f);
}

/* ---- A shape --------------------------------------------------------------------------------- */

/* The folder for the file: what the user named, made if need be, or one that is removed again. */
static bool open_folder(const bench_flags *f, char *dir, size_t size)
{
    const char *tmp = getenv("TMPDIR");
    if (f->keep) {
        snprintf(dir, size, "%s", f->keep);
        if (mkdir(dir, 0777) == 0 || errno == EEXIST) return true;
    } else {
        snprintf(dir, size, "%s/ballast-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
        if (mkdtemp(dir)) return true;
    }
    bal_failure("bench", "%s: %s", dir, strerror(errno));
    return false;
}

static int write_shape(bench_flags *f, const bal_shape_file *file, const char *path)
{
    bal_error err = {0};
    if (bal_path_exists(path)) {
        if (bal_shape_is(path, file)) return 0; /* from an earlier run */
        return bal_failure("bench", "%s exists and is not what --shape %s would write there", path,
                           f->shape);
    }
    const bal_status st = bal_shape_write(path, file, watch, f, &err);
    bal_bar_clear(&f->bar);
    return st < 0 ? bal_failure("bench", "%s", err.text) : 0;
}

/* DIR/NAME[-w3g128[a8g128]][-head6][-tower8].safetensors */
static void shape_path(char *out, size_t size, const bench_flags *f, const char *dir,
                       const char *name)
{
    char weights[96] = "", head[32] = "", tower[32] = "";
    if (f->bits < 16)
        snprintf(weights, sizeof weights, "-w%dg%d%s", f->bits, f->group,
                 strcmp(f->act, "a16") == 0 ? "" : f->act);
    if (f->head < 16) snprintf(head, sizeof head, "-head%d", f->head);
    if (f->tower < 16) snprintf(tower, sizeof tower, "-tower%d", f->tower);
    snprintf(out, size, "%s/%s%s%s%s.safetensors", dir, name, weights, head, tower);
}

static int bench_shape(bench_flags *f)
{
    bal_error err = {0};
    bal_shape shape;
    char dir[PATH_SIZE], path[PATH_SIZE + 100];
    if (bal_shape_load(&shape, f->shape, &err) < 0)
        return bal_usage("bench", "--shape: %s", err.text);
    bal_shape_file file = {.shape = &shape,
                           .bits = f->bits,
                           .head = f->head,
                           .tower = f->tower,
                           .group = (size_t)f->group};
    if (bal_act_parse(f->act, &file.act, &err) < 0)
        return bal_usage("bench", "--act: %s", err.text);
    if (!open_folder(f, dir, sizeof dir)) return 1;
    shape_path(path, sizeof path, f, dir, shape.name);
    int status = write_shape(f, &file, path);
    f->model = path;
    if (!status) status = bench_opened(f);
    if (!f->keep) {
        unlink(path);
        rmdir(dir);
    }
    return status;
}

/* ---- Flags ----------------------------------------------------------------------------------- */

static int dispatch(bench_flags *f)
{
    const int n = (f->model != NULL) + (f->shape != NULL) + f->limits + f->kernels;
    if (n > 1)
        return bal_usage("bench", "MODEL, --shape, --limits and --kernels exclude each other");
    if (f->bits == 5 || (f->bits > 6 && f->bits != 8 && f->bits != 16))
        return bal_usage("bench", "--bits is %d; expected 2, 3, 4, 6, 8, or 16 for none", f->bits);
    if (f->head != 16 && f->head != 8 && f->head != 6 && f->head != 4)
        return bal_usage("bench", "--head is %d; expected 4, 6, 8, or 16 for none", f->head);
    if (f->tower != 16 && f->tower != 8 && f->tower != 6 && f->tower != 4)
        return bal_usage("bench", "--tower is %d; expected 4, 6, 8, or 16 for none", f->tower);
    if (f->group % 32)
        return bal_usage("bench", "--group is %d; expected a multiple of 32, or 0", f->group);
    if (f->keep && !f->shape) return bal_usage("bench", "--keep goes with --shape");
    if (f->shapes_make && !f->model && !f->shape)
        return bal_usage("bench", "--shapes-make needs MODEL or --shape: whose linears to measure");
    int known = bal_device_check("bench", &f->common, f->shapes_make || (!f->model && !f->shape));
    if (known < 0 && !f->shapes_make) known = bal_shapes_check("bench", &f->common);
    if (known >= 0) return known;
    bal_interrupt_catch();
    bal_bar_init(&f->bar, f->common.quiet);
    if (f->shape) return bench_shape(f);
    return f->model ? bench_opened(f) : bench_machine(f);
}

int bal_cmd_bench(int argc, char **argv)
{
    bench_flags f = {.matrix = "3584x18944",
                     .picture = "640x480",
                     .act = "a16",
                     .bits = 3,
                     .head = 16,
                     .tower = 16,
                     .group = 128};
    f.rows = 64;
    f.tokens = 16;
    const bal_arg args[] = {
        {"--limits", 0, BAL_ARG_BOOL, &f.limits, "", "read bandwidth and multiply-add peaks", 0, 0},
        {"--kernels", 0, BAL_ARG_BOOL, &f.kernels, "",
         "matrix kernels beside those limits (the default)", 0, 0},
        {"--matrix", 0, BAL_ARG_STRING, &f.matrix, "NxK",
         "of the kernels: outputs x inputs (3584x18944)", 0, 0},
        {"--resident", 0, BAL_ARG_BOOL, &f.resident, "",
         "of the kernels: one copy of the matrix, for a cache to keep", 0, 0},
        {"--shape", 0, BAL_ARG_STRING, &f.shape, "NAME",
         "random weights in the shape of a published model, or of FILE.json; a wrong name lists "
         "them",
         0, 0},
        {"--bits", 'b', BAL_ARG_INT, &f.bits, "B", "of a shape's decoder: 2, 3, 4, 6, 8, 16 (3)", 2,
         16},
        {"--head", 0, BAL_ARG_INT, &f.head, "B", "of a shape's head: 4, 6, 8, 16 (16)", 4, 16},
        {"--tower", 0, BAL_ARG_INT, &f.tower, "B", "of a shape's vision tower: 4, 6, 8, 16 (16)", 4,
         16},
        {"--group", 'g', BAL_ARG_INT, &f.group, "G", "group of packed weights, 0: the row (128)", 0,
         MAX_SIDE},
        {"--act", 0, BAL_ARG_STRING, &f.act, "ID",
         "how a shape's packed weights read inputs: a16, a8g0, a8g32, a8g128 (a16)", 0, 0},
        {"--keep", 0, BAL_ARG_STRING, &f.keep, "DIR", "where a shape's file stays (removed)", 0, 0},
        {"--rows", 0, BAL_ARG_INT, &f.rows, "M",
         "tokens of a prompt, and of the kernels' second half (64)", 1, MAX_ROWS},
        {"--tokens", 0, BAL_ARG_INT, &f.tokens, "N", "tokens of a model's answer (16)", 1,
         MAX_ROWS},
        {"--picture", 0, BAL_ARG_STRING, &f.picture, "WxH", "a made-up picture, or none (640x480)",
         0, 0},
        {"--image-max-tokens", 0, BAL_ARG_INT, &f.image_max_tokens, "N",
         "make it smaller, to N tokens at most (the model's limit)", 1, 1 << 24},
        {"--shapes-make", 0, BAL_ARG_BOOL, &f.shapes_make, "",
         "measure what is fastest for a model's linears and write that to --shapes", 0, 0},
        {"--cold", 0, BAL_ARG_BOOL, &f.cold, "",
         "also the first token with the file dropped from memory", 0, 0},
        {"--repeats", 0, BAL_ARG_INT, &f.repeats, "R", "rounds over all cases (9; of a model 3)", 1,
         101},
    };
    const bal_command cmd = {
        "bench",
        "[MODEL]",
        "Measures this machine and the kernels on it, or a model from opening\n"
        "to the last token. MODEL is a Hugging Face folder or a Ballast file.",
        args,
        sizeof args / sizeof *args,
        0,
        1,
        "--seed"};
    int n_operands = 0;
    const int done = bal_args_read(&cmd, &f.common, argc, argv, &f.model, &n_operands);
    if (done >= 0) return done;
    if (n_operands == 0) f.model = NULL;
    return dispatch(&f);
}
