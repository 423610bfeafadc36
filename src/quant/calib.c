/* SPDX-License-Identifier: MIT
 * Reading calibration data: one parser for both forms, every check per record, and the choice of
 * records. Opens no picture. */
#include "quant/calib.h"

#include "base/file.h"
#include "base/rng.h"
#include "base/size.h"
#include "format/json.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TURNS = 4096, MAX_IMAGES = 256, LABEL = 1200 };
#define MAX_FILE ((size_t)1 << 31)
#define MAX_LINE ((size_t)1 << 26)

static const char TAG[] = "<image>";

/* ---- One record ------------------------------------------------------------------------------ */

static void record_free(bal_calib_record *r)
{
    for (int i = 0; i < r->n_images && r->images; i++) free(r->images[i]);
    for (int i = 0; i < r->n_turns && r->turns; i++) free(r->turns[i].text);
    free(r->images);
    free(r->turns);
    free(r->id);
    *r = (bal_calib_record){0};
}

static bal_status copy_text(char **out, const char *text, bal_error *err)
{
    *out = strdup(text);
    return *out ? BAL_OK : bal_nomem(err, strlen(text) + 1, "calibration text");
}

/* Takes the tags out of `text` in place and counts them. */
static int strip_tags(char *text)
{
    const size_t n = sizeof TAG - 1;
    int count = 0;
    for (char *at = text; (at = strstr(at, TAG)); count++) {
        char *rest = at + n;
        if (*rest == '\n')
            rest++;
        else if (*rest == 0 && at > text && at[-1] == '\n')
            at--;
        memmove(at, rest, strlen(rest) + 1);
    }
    return count;
}

static bal_status read_turn(bal_calib_turn *t, const bal_json *turn, bal_error *err)
{
    static const char *const names[] = {"human", "user", "gpt", "assistant", "system"};
    static const bal_calib_role roles[] = {BAL_CALIB_USER, BAL_CALIB_USER, BAL_CALIB_ASSISTANT,
                                           BAL_CALIB_ASSISTANT, BAL_CALIB_SYSTEM};
    const char *text;
    size_t which;
    BAL_TRY(bal_json_as_obj(turn, err));
    BAL_TRY(bal_json_choice(turn, "from", names, sizeof names / sizeof names[0], &which, err));
    BAL_TRY(bal_json_str(turn, "value", &text, err));
    BAL_TRY(copy_text(&t->text, text, err));
    t->role = roles[which];
    t->n_images = strip_tags(t->text);
    return BAL_OK;
}

static bal_status read_turns(bal_calib_record *r, const bal_json *rec, bal_error *err)
{
    bal_json list;
    BAL_TRY(bal_json_array(rec, "conversations", 1, MAX_TURNS, &list, err));
    r->turns = calloc(bal_json_len(&list), sizeof *r->turns);
    if (!r->turns) return bal_nomem(err, bal_json_len(&list) * sizeof *r->turns, "turns");
    r->n_turns = (int)bal_json_len(&list);
    for (int i = 0; i < r->n_turns; i++) {
        const bal_json turn = bal_json_at(&list, (size_t)i);
        BAL_TRY(read_turn(&r->turns[i], &turn, err));
    }
    return BAL_OK;
}

/* "image": absent, one path, or a list of them */
static bal_status read_images(bal_calib_record *r, const bal_json *rec, bal_error *err)
{
    if (!bal_json_has(rec, "image")) return BAL_OK;
    const bal_json v = bal_json_get(rec, "image");
    bal_json list = v;
    size_t n = 1;
    if (!json_is_string(v.value)) {
        BAL_TRY(bal_json_array(rec, "image", 0, MAX_IMAGES, &list, err));
        n = bal_json_len(&list);
    }
    if (n == 0) return BAL_OK;
    r->images = calloc(n, sizeof *r->images);
    if (!r->images) return bal_nomem(err, n * sizeof *r->images, "picture names");
    r->n_images = (int)n;
    for (size_t i = 0; i < n; i++) {
        const bal_json item = json_is_string(v.value) ? v : bal_json_at(&list, i);
        const char *path;
        BAL_TRY(bal_json_as_str(&item, &path, err));
        if (!path[0]) return bal_json_mismatch(&item, err, "the path of a picture");
        BAL_TRY(copy_text(&r->images[i], path, err));
    }
    return BAL_OK;
}

/* LLaVA's files have numbers as ids too. */
static bal_status read_id(bal_calib_record *r, const bal_json *rec, bal_error *err)
{
    const bal_json v = bal_json_get(rec, "id");
    char number[32];
    if (json_is_integer(v.value)) {
        snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(v.value));
        return copy_text(&r->id, number, err);
    }
    const char *id;
    BAL_TRY(bal_json_str_or(rec, "id", NULL, &id, err));
    return id ? copy_text(&r->id, id, err) : BAL_OK;
}

static bal_status check_tags(const bal_calib_record *r, const char *label, bal_error *err)
{
    int tags = 0;
    for (int i = 0; i < r->n_turns; i++) {
        if (r->turns[i].n_images && r->turns[i].role != BAL_CALIB_USER)
            return bal_fail(err, BAL_E_FORMAT, "%s: conversations[%d]: %s outside a human turn",
                            label, i, TAG);
        tags += r->turns[i].n_images;
    }
    if (tags == r->n_images) return BAL_OK;
    if (!r->n_images)
        return bal_fail(err, BAL_E_FORMAT, "%s: %d %s in the text, but no picture in \"image\"",
                        label, tags, TAG);
    return bal_fail(err, BAL_E_FORMAT, "%s: %d picture%s in \"image\", but %d %s in the text",
                    label, r->n_images, r->n_images == 1 ? "" : "s", tags, TAG);
}

static bal_status check_answers(const bal_calib_record *r, const char *label, bal_error *err)
{
    bool answered = false;
    for (int i = 0; i < r->n_turns; i++) {
        if (r->turns[i].role != BAL_CALIB_ASSISTANT) continue;
        if (!r->turns[i].text[0])
            return bal_fail(err, BAL_E_FORMAT, "%s: conversations[%d]: the answer is empty", label,
                            i);
        answered = true;
    }
    if (answered) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT, "%s: conversations: no answer (\"from\": \"gpt\")", label);
}

/* `value` is a borrowed JSON object; unknown keys are fine, data sets carry many. */
static bal_status read_record(bal_calib_record *r, const json_t *value, const char *path,
                              size_t number, bal_error *err)
{
    char label[LABEL];
    snprintf(label, sizeof label, "record %zu of %s", number, path);
    const bal_json rec = {.value = value, .file = label};
    r->number = number;
    BAL_TRY(bal_json_as_obj(&rec, err));
    BAL_TRY(read_id(r, &rec, err));
    BAL_TRY(read_images(r, &rec, err));
    BAL_TRY(read_turns(r, &rec, err));
    BAL_TRY(check_tags(r, label, err));
    return check_answers(r, label, err);
}

/* ---- The file -------------------------------------------------------------------------------- */

static bal_status append(bal_calib *c, size_t *room, const json_t *value, bal_error *err)
{
    if (c->n == *room) {
        const size_t more = *room ? 2 * *room : 64;
        size_t n_bytes;
        bal_calib_record *grown = NULL;
        if (bal_size_mul(more, sizeof *grown, &n_bytes)) grown = realloc(c->records, n_bytes);
        if (!grown) return bal_nomem(err, more * sizeof *grown, "calibration records");
        c->records = grown;
        *room = more;
    }
    bal_calib_record *r = &c->records[c->n];
    *r = (bal_calib_record){0};
    const bal_status st = read_record(r, value, c->path, c->n + 1, err);
    if (st < 0)
        record_free(r);
    else
        c->n++;
    return st;
}

static bal_status parse_array(bal_calib *c, const char *bytes, size_t n_bytes, bal_error *err)
{
    bal_json_doc doc;
    BAL_TRY(bal_json_parse(&doc, bytes, n_bytes, MAX_FILE, c->path, err));
    bal_status st = BAL_OK;
    size_t room = 0;
    for (size_t i = 0; i < json_array_size(doc.root) && st == BAL_OK; i++)
        st = append(c, &room, json_array_get(doc.root, i), err);
    bal_json_close(&doc);
    return st;
}

static bool is_blank(const char *p, size_t n)
{
    while (n && isspace((unsigned char)*p)) p++, n--;
    return n == 0;
}

static bal_status parse_lines(bal_calib *c, const char *bytes, size_t n_bytes, bal_error *err)
{
    char label[LABEL];
    size_t room = 0;
    for (size_t at = 0, line = 1; at < n_bytes; line++) {
        const char *end = memchr(bytes + at, '\n', n_bytes - at);
        const size_t n = end ? (size_t)(end - bytes) - at : n_bytes - at;
        const char *text = bytes + at;
        at += n + 1;
        if (is_blank(text, n)) continue;
        snprintf(label, sizeof label, "%s, line %zu", c->path, line);
        bal_json_doc doc;
        BAL_TRY(bal_json_parse(&doc, text, n, MAX_LINE, label, err));
        const bal_status st = append(c, &room, doc.root, err);
        bal_json_close(&doc);
        BAL_TRY(st);
    }
    return BAL_OK;
}

static bal_status parse(bal_calib *c, const char *bytes, size_t n_bytes, bal_error *err)
{
    if (n_bytes >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0) bytes += 3, n_bytes -= 3;
    size_t i = 0;
    while (i < n_bytes && isspace((unsigned char)bytes[i])) i++;
    if (i < n_bytes && bytes[i] == '[')
        BAL_TRY(parse_array(c, bytes, n_bytes, err));
    else
        BAL_TRY(parse_lines(c, bytes, n_bytes, err));
    if (c->n == 0) return bal_fail(err, BAL_E_FORMAT, "%s: no calibration record", c->path);
    return BAL_OK;
}

bal_status bal_calib_parse(bal_calib *c, const char *bytes, size_t n_bytes, const char *path,
                           bal_error *err)
{
    *c = (bal_calib){.path = strdup(path)};
    bal_status st = c->path ? bal_sha256_bytes(c->sha256, bytes, n_bytes, err)
                            : bal_nomem(err, strlen(path) + 1, "calibration file name");
    if (st == BAL_OK) st = parse(c, bytes, n_bytes, err);
    if (st < 0) bal_calib_close(c);
    return st;
}

bal_status bal_calib_open(bal_calib *c, const char *path, bal_error *err)
{
    *c = (bal_calib){0};
    uint8_t *bytes;
    size_t n;
    BAL_TRY(bal_read_file(&bytes, &n, path, MAX_FILE, err));
    const bal_status st = bal_calib_parse(c, (const char *)bytes, n, path, err);
    free(bytes);
    return st;
}

void bal_calib_close(bal_calib *c)
{
    for (size_t i = 0; i < c->n; i++) record_free(&c->records[i]);
    free(c->records);
    free(c->path);
    *c = (bal_calib){0};
}

bal_status bal_calib_choose(const bal_calib *c, int samples, uint64_t seed, size_t **order,
                            size_t *n, bal_error *err)
{
    *n = 0;
    *order = malloc(c->n * sizeof **order);
    if (!*order) return bal_nomem(err, c->n * sizeof **order, "order of samples");
    for (size_t i = 0; i < c->n; i++) (*order)[i] = i;
    *n = c->n;
    if (samples <= 0 || (size_t)samples >= c->n) return BAL_OK;
    bal_rng rng;
    bal_rng_seed(&rng, seed);
    *n = (size_t)samples;
    for (size_t i = 0; i < *n; i++) {
        const size_t j = i + (size_t)bal_rng_below(&rng, c->n - i), t = (*order)[i];
        (*order)[i] = (*order)[j];
        (*order)[j] = t;
    }
    return BAL_OK;
}

/* Room for n elements of `size` in place of the array at *items. */
static bal_status grow(void *items, size_t n, size_t size, bal_error *err)
{
    void *old, *grown;
    size_t n_bytes;
    memcpy(&old, items, sizeof old);
    grown = bal_size_mul(n, size, &n_bytes) ? realloc(old, n_bytes) : NULL;
    if (!grown) return bal_nomem(err, n * size, "a conversation");
    memcpy(items, &grown, sizeof grown);
    return BAL_OK;
}

/* Moves turns and pictures of `from` behind those of `to`. */
static bal_status append_record(bal_calib_record *to, bal_calib_record *from, bal_error *err)
{
    const int turns = to->n_turns + from->n_turns, images = to->n_images + from->n_images;
    if (turns > MAX_TURNS || images > MAX_IMAGES)
        return bal_fail(err, BAL_E_CAPACITY,
                        "records %zu and %zu make a conversation of %d turns and %d pictures, at "
                        "most %d and %d are possible",
                        to->number, from->number, turns, images, MAX_TURNS, MAX_IMAGES);
    BAL_TRY(grow(&to->turns, (size_t)turns, sizeof *to->turns, err));
    BAL_TRY(grow(&to->images, (size_t)images + 1, sizeof *to->images, err));
    for (int i = 0; i < from->n_turns; i++) {
        if (from->turns[i].role == BAL_CALIB_SYSTEM) continue;
        to->turns[to->n_turns++] = from->turns[i];
        from->turns[i].text = NULL;
    }
    for (int i = 0; i < from->n_images; i++) {
        to->images[to->n_images++] = from->images[i];
        from->images[i] = NULL;
    }
    record_free(from);
    return BAL_OK;
}

bal_status bal_calib_join(bal_calib *c, size_t *order, size_t *n, int shots, bal_error *err)
{
    size_t joined = 0;
    for (size_t i = 0; shots > 1 && i < *n; i++) {
        if (i % (size_t)shots == 0)
            order[joined++] = order[i];
        else
            BAL_TRY(append_record(&c->records[order[joined - 1]], &c->records[order[i]], err));
    }
    if (shots > 1) *n = joined;
    return BAL_OK;
}

static int by_index(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

void bal_calib_keep(bal_calib *c, const size_t *order, size_t n)
{
    size_t *sorted = malloc(n * sizeof *sorted);
    if (!sorted) return; /* then more memory is in use, nothing else */
    memcpy(sorted, order, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_index);
    for (size_t i = 0, at = 0; i < c->n; i++)
        if (at < n && sorted[at] == i)
            at++;
        else
            record_free(&c->records[i]);
    free(sorted);
}

bal_status bal_calib_image_path(const bal_calib *c, const bal_calib_record *r, int i, char *out,
                                size_t size, bal_error *err)
{
    char dir[1024];
    BAL_TRY(bal_path_dir(dir, sizeof dir, c->path, err));
    return bal_path_join(out, size, dir, r->images[i], err);
}
