/* SPDX-License-Identifier: MIT */
#include "make_shapes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "bench_choices.h"
#include "console.h"
#include "run/shapes_file.h"
#include "shapes_flag.h"

typedef struct maker {
    const bal_make_shapes_plan *plan;
    const char *path; /* of the table */
    bool named;
    bal_engine engine;
    bal_shapes_host here;
    bal_shapes old, new;
    bal_choices_row *rows;
    size_t n_rows, n_taken;
} maker;

/* ---- What is shown --------------------------------------------------------------------------- */

static int print_rows(const maker *m)
{
    printf("%s on %s, isa %s, %d thread%s\n\n", m->plan->title, m->here.processor, m->here.isa,
           m->here.threads, m->here.threads == 1 ? "" : "s");
    printf("%-18s %-6s %-13s %4s %10s   %-6s %5s %5s %6s %6s\n", "format", "inputs", "shape",
           "rows", "rule, us", "best", "chunk", "grain", "ratio", "spread");
    for (size_t i = 0; i < m->n_rows; i++) {
        const bal_choices_row *r = &m->rows[i];
        const bal_shapes_key *key = &r->best.key;
        char format[BAL_PACKED_ID_SIZE], act[BAL_ACT_ID_SIZE], shape[32];
        bal_shapes_format(key, format, act);
        snprintf(shape, sizeof shape, "%ux%u", key->n, key->k);
        printf("%-18s %-6s %-13s %4d %10.1f   %-6s %5d %5d %6.3f %6.3f%s\n", format, act, shape,
               bal_shapes_edge(key->bucket), 1e6 * r->seconds,
               bal_shapes_kernel_name(r->best.choice.kernel), r->best.choice.chunk,
               r->best.choice.grain, r->ratio, r->spread, r->taken ? "  taken" : "");
    }
    printf("\nbest: of the choices beside the rule, by its time over the rule's, the median of the "
           "rounds;\nspread: between the quartiles of the rounds; taken: better by more than that\n"
           "%s: %zu of %zu taken, %zu entries\n",
           m->path, m->n_taken, m->n_rows, m->new.n);
    if (m->plan->repeats < BAL_CHOICES_LEAST_ROUNDS)
        printf("fewer than %d rounds take nothing; see --repeats\n", BAL_CHOICES_LEAST_ROUNDS);
    return 0;
}

static json_t *row_json(const bal_choices_row *r)
{
    char format[BAL_PACKED_ID_SIZE], act[BAL_ACT_ID_SIZE];
    bal_shapes_format(&r->best.key, format, act);
    return json_pack(
        "{s:s, s:s?, s:I, s:I, s:i, s:f, s:s, s:s, s:i, s:i, s:f, s:f, s:b}", "format", format,
        "act", act[0] ? act : NULL, "n", (json_int_t)r->best.key.n, "k", (json_int_t)r->best.key.k,
        "rows", bal_shapes_edge(r->best.key.bucket), "rule_seconds", r->seconds, "rule_kernel",
        bal_shapes_kernel_name(r->rule.kernel), "kernel",
        bal_shapes_kernel_name(r->best.choice.kernel), "chunk", (int)r->best.choice.chunk, "grain",
        (int)r->best.choice.grain, "ratio", r->ratio, "spread", r->spread, "taken", (int)r->taken);
}

static int print_json(const maker *m)
{
    json_t *list = json_array();
    for (size_t i = 0; i < m->n_rows; i++) json_array_append_new(list, row_json(&m->rows[i]));
    return bal_print_json(
        "bench", json_pack("{s:s, s:s, s:s, s:s, s:i, s:i, s:o}", "model", m->plan->title, "file",
                           m->path, "processor", m->here.processor, "isa", m->here.isa, "threads",
                           m->here.threads, "entries", (int)m->new.n, "rows", list));
}

/* ---- The file -------------------------------------------------------------------------------- */

/* What the file says of this machine stays where it was not measured again. */
static bal_status read_old(maker *m, bal_error *err)
{
    if (m->named) BAL_TRY(bal_output_check(m->path, true, err));
    if (!bal_path_exists(m->path)) return BAL_OK;
    const bal_status st = bal_shapes_read(&m->old, m->path, &m->here, err);
    if (st == BAL_OK) return BAL_OK;
    if (m->named && st != BAL_E_UNSUP)
        return bal_fail_in(err, st, "not a shape table that could be replaced");
    if (!m->plan->common->quiet) fprintf(stderr, "ballast bench: %s; it is replaced\n", err->text);
    return BAL_OK;
}

/* The folders of a cache may be missing; a failure is that of writing the file. */
static void make_folders(const char *file)
{
    char path[sizeof((bal_common *)0)->shapes_path];
    snprintf(path, sizeof path, "%s", file);
    for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
}

static bal_status save(maker *m, bal_error *err)
{
    BAL_TRY(bal_choices_merge(&m->new, &m->old, m->rows, m->n_rows, err));
    for (size_t i = 0; i < m->n_rows; i++) m->n_taken += m->rows[i].taken;
    if (!m->named) make_folders(m->path);
    return bal_shapes_save(&m->new, m->path, &m->here, err);
}

static bal_status make(maker *m, bal_error *err)
{
    const bal_make_shapes_plan *p = m->plan;
    const bal_choices_plan measure = {
        .engine = &m->engine, .repeats = p->repeats, .progress = p->progress, .ctx = p->ctx};
    BAL_TRY(bal_engine_open(&m->engine, p->model, p->common->threads, p->common->isa, err));
    m->here = bal_shapes_here(m->engine.isa, bal_pool_size(m->engine.pool));
    BAL_TRY(read_old(m, err));
    BAL_TRY(bal_choices_measure(&measure, &m->rows, &m->n_rows, err));
    return save(m, err);
}

int bal_make_shapes(const bal_make_shapes_plan *plan)
{
    bal_error err;
    maker m = {.plan = plan};
    m.path = bal_shapes_place(plan->common, &m.named);
    if (!m.path)
        return bal_usage("bench", "--shapes-make: there is no file to write: --shapes FILE names "
                                  "one");
    const bal_status st = make(&m, &err);
    int status;
    if (st < 0)
        status = bal_failure("bench", "%s", err.text);
    else
        status = plan->common->json ? print_json(&m) : print_rows(&m);
    bal_engine_close(&m.engine);
    bal_shapes_free(&m.old);
    bal_shapes_free(&m.new);
    free(m.rows);
    return status ? status : bal_finish("bench", 0);
}
