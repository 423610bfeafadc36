/* SPDX-License-Identifier: MIT */
#include "run/evaldata.h"

#include "base/file.h"
#include "base/size.h"
#include "format/json.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_IMAGES = 256, MAX_ANSWERS = 1024, LABEL = 1200 };
#define MAX_FILE ((size_t)1 << 31)
#define MAX_LINE ((size_t)1 << 24)

/* ---- One line -------------------------------------------------------------------------------- */

static void free_list(char **list, int n)
{
    for (int i = 0; list && i < n; i++) free(list[i]);
    free(list);
}

static void question_free(bal_eval_question *q)
{
    free_list(q->images, q->n_images);
    free_list(q->answers, q->n_answers);
    free(q->id);
    free(q->type);
    free(q->question);
    *q = (bal_eval_question){0};
}

static bal_status copy_text(char **out, const char *text, bal_error *err)
{
    *out = strdup(text);
    return *out ? BAL_OK : bal_nomem(err, strlen(text) + 1, "evaluation text");
}

static bal_status copy_full(char **out, const bal_json *v, const char *expected, bal_error *err)
{
    const char *text;
    BAL_TRY(bal_json_as_str(v, &text, err));
    if (!text[0]) return bal_json_mismatch(v, err, "%s", expected);
    return copy_text(out, text, err);
}

static bal_status copy_list(char ***out, int *n, const bal_json *list, const char *expected,
                            bal_error *err)
{
    const size_t len = bal_json_len(list);
    *out = calloc(len + 1, sizeof **out);
    if (!*out) return bal_nomem(err, (len + 1) * sizeof **out, expected);
    *n = (int)len;
    for (size_t i = 0; i < len; i++) {
        const bal_json item = bal_json_at(list, i);
        BAL_TRY(copy_full(&(*out)[i], &item, expected, err));
    }
    return BAL_OK;
}

/* "image": one path; "images": a list; neither: a question without a picture */
static bal_status read_images(bal_eval_question *q, const bal_json *line, bal_error *err)
{
    const bool one = bal_json_has(line, "image"), many = bal_json_has(line, "images");
    bal_json list;
    if (one && many)
        return bal_fail(err, BAL_E_FORMAT, "%s: both \"image\" and \"images\", expected one",
                        line->file);
    if (many) {
        BAL_TRY(bal_json_array(line, "images", 0, MAX_IMAGES, &list, err));
        return copy_list(&q->images, &q->n_images, &list, "the path of a picture", err);
    }
    if (!one) return BAL_OK;
    const bal_json v = bal_json_get(line, "image");
    q->images = calloc(1, sizeof *q->images);
    if (!q->images) return bal_nomem(err, sizeof *q->images, "picture name");
    q->n_images = 1;
    return copy_full(&q->images[0], &v, "the path of a picture", err);
}

/* Data sets have numbers as ids too. */
static bal_status read_id(bal_eval_question *q, const bal_json *line, bal_error *err)
{
    const bal_json v = bal_json_get(line, "id");
    const char *id;
    char number[32];
    if (json_is_integer(v.value)) {
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(v.value));
        return copy_text(&q->id, number, err);
    }
    BAL_TRY(bal_json_str_or(line, "id", NULL, &id, err));
    return id ? copy_text(&q->id, id, err) : BAL_OK;
}

static bal_status read_question(bal_eval_question *q, const bal_json *line, bal_error *err)
{
    bal_json answers;
    const char *type;
    BAL_TRY(bal_json_as_obj(line, err));
    BAL_TRY(read_id(q, line, err));
    BAL_TRY(bal_json_str_or(line, "type", NULL, &type, err));
    if (type) BAL_TRY(copy_text(&q->type, type, err));
    BAL_TRY(read_images(q, line, err));
    const char *text;
    BAL_TRY(bal_json_str(line, "question", &text, err));
    const bal_json v = bal_json_get(line, "question");
    BAL_TRY(copy_full(&q->question, &v, "a question", err));
    BAL_TRY(bal_json_array(line, "answers", 1, MAX_ANSWERS, &answers, err));
    return copy_list(&q->answers, &q->n_answers, &answers, "an answer", err);
}

/* ---- The file -------------------------------------------------------------------------------- */

static bal_status grow(bal_evaldata *d, size_t *room, bal_error *err)
{
    if (d->n < *room) return BAL_OK;
    const size_t more = *room ? 2 * *room : 64;
    size_t n_bytes = 0;
    bal_eval_question *grown = NULL;
    if (bal_size_mul(more, sizeof *grown, &n_bytes)) grown = realloc(d->questions, n_bytes);
    if (!grown) return bal_nomem(err, n_bytes, "evaluation questions");
    d->questions = grown;
    *room = more;
    return BAL_OK;
}

static bal_status add_line(bal_evaldata *d, size_t *room, const char *text, size_t n, size_t number,
                           bal_error *err)
{
    char label[LABEL];
    bal_json_doc doc;
    snprintf(label, sizeof label, "%s, line %zu", d->path, number);
    BAL_TRY(grow(d, room, err));
    BAL_TRY(bal_json_parse(&doc, text, n, MAX_LINE, label, err));
    const bal_json line = bal_json_root(&doc);
    bal_eval_question *q = &d->questions[d->n];
    *q = (bal_eval_question){.line = number};
    const bal_status st = read_question(q, &line, err);
    bal_json_close(&doc);
    if (st < 0)
        question_free(q);
    else
        d->n++;
    return st;
}

static bool is_blank(const char *p, size_t n)
{
    while (n && isspace((unsigned char)*p)) p++, n--;
    return n == 0;
}

static bal_status parse_lines(bal_evaldata *d, const char *bytes, size_t n_bytes, bal_error *err)
{
    size_t room = 0;
    if (n_bytes >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0) bytes += 3, n_bytes -= 3;
    for (size_t at = 0, number = 1; at < n_bytes; number++) {
        const char *text = bytes + at, *end = memchr(text, '\n', n_bytes - at);
        const size_t n = end ? (size_t)(end - text) : n_bytes - at;
        at += n + 1;
        if (!is_blank(text, n)) BAL_TRY(add_line(d, &room, text, n, number, err));
    }
    if (d->n == 0) return bal_fail(err, BAL_E_FORMAT, "%s: no question", d->path);
    return BAL_OK;
}

/* ---- Groups ---------------------------------------------------------------------------------- */

typedef struct sort_row {
    const bal_eval_question *q;
    size_t number;
} sort_row;

static int compare_pictures(const bal_eval_question *a, const bal_eval_question *b)
{
    if (a->n_images != b->n_images) return a->n_images < b->n_images ? -1 : 1;
    for (int i = 0; i < a->n_images; i++) {
        const int c = strcmp(a->images[i], b->images[i]);
        if (c) return c;
    }
    return 0;
}

static int by_number(size_t a, size_t b)
{
    return (a > b) - (a < b);
}

static int by_pictures(const void *x, const void *y)
{
    const sort_row *a = x, *b = y;
    const int c = compare_pictures(a->q, b->q);
    return c ? c : by_number(a->number, b->number);
}

static int by_group(const void *x, const void *y)
{
    const sort_row *a = x, *b = y;
    const int c = by_number(a->q->group, b->q->group);
    return c ? c : by_number(a->number, b->number);
}

/* Sorting brings questions about the same pictures together; the first of each in the file then
 * gives the group its number. */
static bal_status find_groups(bal_evaldata *d, bal_error *err)
{
    sort_row *rows = calloc(d->n, sizeof *rows);
    d->order = calloc(d->n, sizeof *d->order);
    if (!rows || !d->order) {
        free(rows);
        return bal_nomem(err, d->n * sizeof *rows, "groups of questions");
    }
    for (size_t i = 0; i < d->n; i++) rows[i] = (sort_row){&d->questions[i], i};
    qsort(rows, d->n, sizeof *rows, by_pictures);
    for (size_t i = 0, first = 0; i < d->n; i++) {
        const bool same =
            i > 0 && rows[i].q->n_images > 0 && compare_pictures(rows[i].q, rows[i - 1].q) == 0;
        if (!same) first = rows[i].number;
        d->order[rows[i].number] = first; /* for now: the first question about the same pictures */
    }
    for (size_t i = 0; i < d->n; i++)
        d->questions[i].group = d->order[i] == i ? d->n_groups++ : d->questions[d->order[i]].group;
    qsort(rows, d->n, sizeof *rows, by_group);
    for (size_t i = 0; i < d->n; i++) d->order[i] = rows[i].number;
    free(rows);
    return BAL_OK;
}

/* ---- Interface ------------------------------------------------------------------------------- */

bal_status bal_evaldata_parse(bal_evaldata *d, const char *bytes, size_t n_bytes, const char *path,
                              bal_error *err)
{
    *d = (bal_evaldata){.path = strdup(path)};
    bal_status st = d->path ? parse_lines(d, bytes, n_bytes, err)
                            : bal_nomem(err, strlen(path) + 1, "evaluation file name");
    if (st == BAL_OK) st = find_groups(d, err);
    if (st < 0) bal_evaldata_close(d);
    return st;
}

bal_status bal_evaldata_open(bal_evaldata *d, const char *path, bal_error *err)
{
    uint8_t *bytes;
    size_t n;
    *d = (bal_evaldata){0};
    BAL_TRY(bal_read_file(&bytes, &n, path, MAX_FILE, err));
    const bal_status st = bal_evaldata_parse(d, (const char *)bytes, n, path, err);
    free(bytes);
    return st;
}

void bal_evaldata_close(bal_evaldata *d)
{
    for (size_t i = 0; i < d->n; i++) question_free(&d->questions[i]);
    free(d->questions);
    free(d->order);
    free(d->path);
    *d = (bal_evaldata){0};
}

bal_status bal_evaldata_image_path(const bal_evaldata *d, const bal_eval_question *q, int i,
                                   char *out, size_t size, bal_error *err)
{
    char dir[1024];
    BAL_TRY(bal_path_dir(dir, sizeof dir, d->path, err));
    return bal_path_join(out, size, dir, q->images[i], err);
}
