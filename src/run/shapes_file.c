/* SPDX-License-Identifier: MIT */
#include "run/shapes_file.h"

#include "base/file.h"
#include "format/json.h"
#include "type/type.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 2 << 20, MAX_SIDE = 1 << 24, MAX_THREADS = 256 };

static const char *const kernel_names[BAL_SHAPES_KERNELS] = {"rows", "wide", "tiles"};

bal_shapes_host bal_shapes_here(unsigned isa, int threads)
{
    bal_shapes_host h = {.isa = bal_isa_name(isa), .threads = threads};
    bal_cpu_name(h.processor);
    return h;
}

const char *bal_shapes_kernel_name(int kernel)
{
    return kernel_names[kernel];
}

/* ---- The head -------------------------------------------------------------------------------- */

static bal_status differs(const bal_json *head, bal_error *err, const char *what,
                          const char *theirs, const char *ours)
{
    return bal_fail(err, BAL_E_UNSUP, "%s: measured with %s '%.160s', here it is '%s'", head->file,
                    what, theirs, ours);
}

/* Versions come first: a file of another one may have other keys. */
static bal_status check_version(const bal_json *head, bal_error *err)
{
    int format;
    const char *version;
    BAL_TRY(bal_json_int(head, "ballast_shapes", 1, INT_MAX, &format, err));
    if (format != BAL_SHAPES_VERSION)
        return bal_fail(err, BAL_E_UNSUP, "%s: version %d of shape tables, here it is %d",
                        head->file, format, BAL_SHAPES_VERSION);
    BAL_TRY(bal_json_str(head, "version", &version, err));
    if (strcmp(version, bal_version()) == 0) return BAL_OK;
    return differs(head, err, "version", version, bal_version());
}

static bal_status check_host(const bal_json *head, const bal_shapes_host *host, bal_error *err)
{
    static const char *const keys[] = {"ballast_shapes", "version", "processor", "isa",
                                       "threads",        "entries"};
    const char *processor, *isa;
    int threads;
    BAL_TRY(bal_json_only_keys(head, keys, sizeof keys / sizeof *keys, err));
    BAL_TRY(bal_json_str(head, "processor", &processor, err));
    BAL_TRY(bal_json_str(head, "isa", &isa, err));
    BAL_TRY(bal_json_int(head, "threads", 1, MAX_THREADS, &threads, err));
    if (strcmp(processor, host->processor) != 0)
        return differs(head, err, "processor", processor, host->processor);
    if (strcmp(isa, host->isa) != 0) return differs(head, err, "ISA level", isa, host->isa);
    if (threads == host->threads) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP, "%s: measured with %d threads, here it is %d", head->file,
                    threads, host->threads);
}

/* ---- Entries --------------------------------------------------------------------------------- */

static bal_status read_packed(const bal_json *e, const char *id, bal_shapes_key *key,
                              bal_error *err)
{
    const char *act_id;
    bal_packed_format f;
    bal_act act;
    bal_type type;
    const bal_json format = bal_json_get(e, "format"), act_value = bal_json_get(e, "act");
    if (bal_packed_id_parse(id, &f, NULL) < 0)
        return bal_json_mismatch(&format, err, "f32, f16, bf16 or the layout of packed weights");
    BAL_TRY(bal_type_from_bits(&type, f.bits, err));
    BAL_TRY(bal_json_str(e, "act", &act_id, err));
    if (bal_act_parse(act_id, &act, NULL) < 0 || act.scale != BAL_ACT_DYNAMIC)
        return bal_json_mismatch(&act_value, err, "a16, a8g0 or a8gN");
    key->type = (uint8_t)type;
    key->kind = (uint8_t)f.kind;
    key->group = (uint32_t)f.group; /* ids have nine digits at most */
    key->act = (uint8_t)act.kind;
    key->act_group = (uint32_t)act.group;
    return BAL_OK;
}

static bal_status read_format(const bal_json *e, bal_shapes_key *key, bal_error *err)
{
    const char *id;
    bal_type type;
    BAL_TRY(bal_json_str(e, "format", &id, err));
    if (bal_type_from_name(&type, id, NULL) < 0 || bal_type_get(type)->packed)
        return read_packed(e, id, key, err);
    const bal_json act = bal_json_get(e, "act");
    if (act.value) return bal_json_mismatch(&act, err, "no such key beside floats");
    key->type = (uint8_t)type;
    return BAL_OK;
}

static bal_status read_key(const bal_json *e, bal_shapes_key *key, bal_error *err)
{
    int n, k, rows;
    BAL_TRY(read_format(e, key, err));
    BAL_TRY(bal_json_int(e, "n", 1, MAX_SIDE, &n, err));
    BAL_TRY(bal_json_int(e, "k", 1, MAX_SIDE, &k, err));
    BAL_TRY(bal_json_int(e, "rows", 1, bal_shapes_edge(BAL_SHAPES_BUCKETS - 1), &rows, err));
    const int bucket = bal_shapes_bucket((size_t)rows);
    const bal_json value = bal_json_get(e, "rows");
    if (bal_shapes_edge(bucket) != rows)
        return bal_json_mismatch(&value, err, "1, a multiple of 4 up to 64, 128, 240 or 480");
    key->n = (uint32_t)n;
    key->k = (uint32_t)k;
    key->bucket = (uint8_t)bucket;
    return BAL_OK;
}

static bal_status read_choice(const bal_json *e, const bal_shapes_key *key, bal_shapes_choice *c,
                              bal_error *err)
{
    size_t kernel;
    int chunk, grain;
    BAL_TRY(bal_json_choice(e, "kernel", kernel_names, BAL_SHAPES_KERNELS, &kernel, err));
    const int most = bal_shapes_most_rows(key, (bal_shapes_kernel)kernel);
    const bal_json value = bal_json_get(e, "kernel");
    if (!most) return bal_json_mismatch(&value, err, "a kernel of this format");
    BAL_TRY(bal_json_int(e, "chunk", 1, most, &chunk, err));
    BAL_TRY(bal_json_int(e, "grain", 1, UINT16_MAX, &grain, err));
    *c = (bal_shapes_choice){(uint16_t)kernel, (uint16_t)chunk, (uint16_t)grain};
    return BAL_OK;
}

static bal_status read_entry(const bal_json *e, bal_shapes_entry *out, bal_error *err)
{
    static const char *const keys[] = {"format", "act",    "n",     "k",
                                       "rows",   "kernel", "chunk", "grain"};
    BAL_TRY(bal_json_as_obj(e, err));
    BAL_TRY(bal_json_only_keys(e, keys, sizeof keys / sizeof *keys, err));
    BAL_TRY(read_key(e, &out->key, err));
    return read_choice(e, &out->key, &out->choice, err);
}

static bal_status read_entries(bal_shapes *t, const bal_json *list, bal_error *err)
{
    const size_t n = bal_json_len(list);
    t->entries = calloc(n ? n : 1, sizeof *t->entries);
    if (!t->entries) return bal_nomem(err, n * sizeof *t->entries, list->file);
    for (; t->n < n; t->n++) {
        const bal_json e = bal_json_at(list, t->n);
        BAL_TRY(read_entry(&e, &t->entries[t->n], err));
    }
    qsort(t->entries, n, sizeof *t->entries, bal_shapes_order);
    for (size_t i = 1; i < n; i++)
        if (bal_shapes_order(&t->entries[i - 1], &t->entries[i]) == 0)
            return bal_fail(err, BAL_E_FORMAT, "%s: %s: two for %u x %u at %d rows", list->file,
                            list->path, t->entries[i].key.n, t->entries[i].key.k,
                            bal_shapes_edge(t->entries[i].key.bucket));
    return BAL_OK;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static bal_status read_root(bal_shapes *t, const bal_json_doc *doc, const bal_shapes_host *host,
                            bal_error *err)
{
    const bal_json head = bal_json_root(doc);
    bal_json list;
    BAL_TRY(bal_json_as_obj(&head, err));
    BAL_TRY(check_version(&head, err));
    BAL_TRY(check_host(&head, host, err));
    BAL_TRY(bal_json_array(&head, "entries", 0, BAL_SHAPES_MOST, &list, err));
    return read_entries(t, &list, err);
}

bal_status bal_shapes_parse(bal_shapes *out, const void *bytes, size_t n_bytes, const char *file,
                            const bal_shapes_host *host, bal_error *err)
{
    bal_json_doc doc;
    *out = (bal_shapes){0};
    BAL_TRY(bal_json_parse(&doc, bytes, n_bytes, MAX_BYTES, file, err));
    const bal_status st = read_root(out, &doc, host, err);
    bal_json_close(&doc);
    if (st < 0) bal_shapes_free(out);
    return st;
}

bal_status bal_shapes_read(bal_shapes *out, const char *path, const bal_shapes_host *host,
                           bal_error *err)
{
    uint8_t *bytes;
    size_t n;
    *out = (bal_shapes){0};
    BAL_TRY(bal_read_file(&bytes, &n, path, MAX_BYTES, err));
    const bal_status st = bal_shapes_parse(out, bytes, n, path, host, err);
    free(bytes);
    return st;
}

void bal_shapes_free(bal_shapes *t)
{
    free(t->entries);
    *t = (bal_shapes){0};
}

/* ---- Writing --------------------------------------------------------------------------------- */

void bal_shapes_format(const bal_shapes_key *key, char format[BAL_PACKED_ID_SIZE],
                       char act[BAL_ACT_ID_SIZE])
{
    const bal_type_info *t = bal_type_get(key->type);
    act[0] = 0;
    if (!t->packed) {
        snprintf(format, BAL_PACKED_ID_SIZE, "%s", t->name);
        return;
    }
    const bal_packed_layout layout = {.kind = key->kind, .bits = t->bits, .group = key->group};
    bal_packed_layout_id(&layout, format);
    bal_act_id((bal_act){.kind = key->act, .group = key->act_group}, act);
}

static json_t *entry_json(const bal_shapes_entry *e)
{
    char format[BAL_PACKED_ID_SIZE], act[BAL_ACT_ID_SIZE];
    bal_shapes_format(&e->key, format, act);
    return json_pack("{s:s, s:s*, s:I, s:I, s:i, s:s, s:i, s:i}", "format", format, "act",
                     act[0] ? act : NULL, "n", (json_int_t)e->key.n, "k", (json_int_t)e->key.k,
                     "rows", bal_shapes_edge(e->key.bucket), "kernel",
                     kernel_names[e->choice.kernel], "chunk", e->choice.chunk, "grain",
                     e->choice.grain);
}

static json_t *table_json(const bal_shapes *t, const bal_shapes_host *host)
{
    json_t *list = json_array();
    bool good = list != NULL;
    for (size_t i = 0; i < t->n && good; i++)
        good = json_array_append_new(list, entry_json(&t->entries[i])) == 0;
    if (!good) {
        json_decref(list);
        return NULL;
    }
    return json_pack("{s:i, s:s, s:s, s:s, s:i, s:o}", "ballast_shapes", BAL_SHAPES_VERSION,
                     "version", bal_version(), "processor", host->processor, "isa", host->isa,
                     "threads", host->threads, "entries", list);
}

bal_status bal_shapes_save(const bal_shapes *t, const char *path, const bal_shapes_host *host,
                           bal_error *err)
{
    if (t->n > BAL_SHAPES_MOST)
        return bal_fail(err, BAL_E_CAPACITY, "%s: %zu entries, a table of shapes has %d at most",
                        path, t->n, BAL_SHAPES_MOST);
    json_t *root = table_json(t, host);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    if (!text) return bal_nomem(err, t->n * sizeof *t->entries, path);
    const size_t n = strlen(text);
    text[n] = '\n'; /* in the place of the NUL, which is not written */
    const bal_status st = bal_write_file(path, text, n + 1, err);
    free(text);
    return st;
}
