/* SPDX-License-Identifier: MIT */
#include "format/safetensors.h"

#include "base/file.h"
#include "base/size.h"
#include "format/json.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bal_st_file {
    char *name; /* path as opened, for errors */
    bal_mapping map;
    bool owns_map;
    char *names; /* names of this file's tensors, one after the other */
    const uint8_t *data;
    uint64_t n_data;
} st_file;

/* ---- Dtypes and sizes ----------------------------------------------------------------------- */

static const struct {
    const char *name;
    int bits;
} dtypes[] = {
#define X(id, name, bits) {name, bits},
    BAL_ST_DTYPES(X)
#undef X
};

const char *bal_st_dtype_name(bal_st_dtype dtype)
{
    return (unsigned)dtype < BAL_ST_DTYPE_COUNT ? dtypes[dtype].name : "?";
}

int bal_st_dtype_bits(bal_st_dtype dtype)
{
    return (unsigned)dtype < BAL_ST_DTYPE_COUNT ? dtypes[dtype].bits : 0;
}

bool bal_st_dtype_from_name(bal_st_dtype *dtype, const char *name)
{
    for (int i = 0; i < BAL_ST_DTYPE_COUNT; i++) {
        if (strcmp(dtypes[i].name, name) != 0) continue;
        *dtype = (bal_st_dtype)i;
        return true;
    }
    return false;
}

bool bal_st_count(const uint64_t shape[], int n_dims, uint64_t *count)
{
    *count = 1;
    for (int i = 0; i < n_dims; i++)
        if (__builtin_mul_overflow(*count, shape[i], count)) return *count = 0, false;
    return true;
}

bool bal_st_bytes(bal_st_dtype dtype, uint64_t count, uint64_t *n_bytes)
{
    uint64_t bits;
    *n_bytes = 0;
    if (__builtin_mul_overflow(count, (uint64_t)bal_st_dtype_bits(dtype), &bits) || bits % 8 != 0)
        return false;
    *n_bytes = bits / 8;
    return true;
}

/* ---- Errors --------------------------------------------------------------------------------- */

/* The end of a path, where the file's name is. */
static const char *shown(const st_file *f)
{
    const size_t n = strlen(f->name), most = 140;
    return f->name + (n > most ? n - most : 0);
}

static bal_status bad(const st_file *f, const char *tensor, bal_error *err, const char *fmt, ...)
    BAL_PRINTF(4, 5);

static bal_status bad(const st_file *f, const char *tensor, bal_error *err, const char *fmt, ...)
{
    char why[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return bal_fail(err, BAL_E_FORMAT, "%s: tensor '%.100s': %s", shown(f), tensor, why);
}

/* ---- One tensor of a header ----------------------------------------------------------------- */

static bool get_u64(const json_t *v, uint64_t *out)
{
    *out = 0;
    if (!json_is_integer(v) || json_integer_value(v) < 0) return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

static bal_status read_dtype(const st_file *f, const json_t *info, bal_tensor_view *t,
                             bal_error *err)
{
    const char *name = json_string_value(json_object_get(info, "dtype"));
    if (!name) return bad(f, t->name, err, "dtype: a string was expected");
    if (!bal_st_dtype_from_name(&t->dtype, name))
        return bad(f, t->name, err, "unknown dtype '%.40s'", name);
    return BAL_OK;
}

static bal_status read_shape(const st_file *f, const json_t *info, bal_tensor_view *t,
                             bal_error *err)
{
    const json_t *shape = json_object_get(info, "shape");
    if (!json_is_array(shape)) return bad(f, t->name, err, "shape: an array was expected");
    const size_t n = json_array_size(shape);
    if (n > BAL_ST_MAX_DIMS)
        return bal_fail(err, BAL_E_UNSUP,
                        "%s: tensor '%.100s': %zu dimensions, at most %d are supported", shown(f),
                        t->name, n, (int)BAL_ST_MAX_DIMS);
    t->n_dims = (int)n;
    for (size_t i = 0; i < n; i++)
        if (!get_u64(json_array_get(shape, i), &t->shape[i]))
            return bad(f, t->name, err, "shape[%zu] is not an integer from 0", i);
    return BAL_OK;
}

/* begin and end inside the data, and exactly what dtype and shape need */
static bal_status read_range(const st_file *f, const json_t *info, bal_tensor_view *t,
                             bal_error *err)
{
    const json_t *range = json_object_get(info, "data_offsets");
    uint64_t begin, end, count;
    if (json_array_size(range) != 2 || !get_u64(json_array_get(range, 0), &begin) ||
        !get_u64(json_array_get(range, 1), &end))
        return bad(f, t->name, err, "data_offsets: two integers from 0 were expected");
    if (begin > end)
        return bad(f, t->name, err, "data_offsets: begin %llu is after end %llu",
                   (unsigned long long)begin, (unsigned long long)end);
    if (end > f->n_data)
        return bad(f, t->name, err, "ends at offset %llu, but the file has %llu bytes of data",
                   (unsigned long long)end, (unsigned long long)f->n_data);
    if (!bal_st_count(t->shape, t->n_dims, &count) || !bal_st_bytes(t->dtype, count, &t->n_bytes))
        return bad(f, t->name, err, "shape times dtype %s overflows or is not whole bytes",
                   bal_st_dtype_name(t->dtype));
    if (t->n_bytes != end - begin)
        return bad(f, t->name, err, "shape and dtype %s need %llu bytes, data_offsets span %llu",
                   bal_st_dtype_name(t->dtype), (unsigned long long)t->n_bytes,
                   (unsigned long long)(end - begin));
    t->data = f->data + begin;
    return BAL_OK;
}

static bal_status read_tensor(const st_file *f, const json_t *info, bal_tensor_view *t,
                              bal_error *err)
{
    if (!json_is_object(info)) return bad(f, t->name, err, "an object was expected");
    BAL_TRY(read_dtype(f, info, t, err));
    BAL_TRY(read_shape(f, info, t, err));
    return read_range(f, info, t, err);
}

/* ---- One file ------------------------------------------------------------------------------- */

static const char META_KEY[] = "__metadata__";

static int by_place(const void *pa, const void *pb)
{
    const bal_tensor_view *a = pa, *b = pb;
    if (a->data != b->data) return a->data < b->data ? -1 : 1;
    if (a->n_bytes != b->n_bytes) return a->n_bytes < b->n_bytes ? -1 : 1;
    return strcmp(a->name, b->name);
}

static int by_name(const void *pa, const void *pb)
{
    const bal_tensor_view *a = pa, *b = pb;
    return strcmp(a->name, b->name);
}

/* The tensors of one file, in any order, must tile its data: no hole, no overlap, no rest. */
static bal_status check_tiling(const st_file *f, bal_tensor_view *tensors, size_t n, bal_error *err)
{
    const uint8_t *at = f->data;
    if (n > 1) qsort(tensors, n, sizeof *tensors, by_place);
    for (size_t i = 0; i < n; i++) {
        const bal_tensor_view *t = &tensors[i];
        if (t->data != at)
            return bad(f, t->name, err, "begins at offset %llu, but the tensor before ends at %llu",
                       (unsigned long long)(t->data - f->data), (unsigned long long)(at - f->data));
        at += t->n_bytes;
    }
    const uint64_t used = (uint64_t)(at - f->data);
    if (used == f->n_data) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT,
                    "%s: tensors end at offset %llu, but the file has %llu bytes of data", shown(f),
                    (unsigned long long)used, (unsigned long long)f->n_data);
}

static bal_status read_meta(bal_tensor_set *set, const st_file *f, json_t *meta, bal_error *err)
{
    const char *key;
    json_t *value;
    if (!meta || json_is_null(meta)) return BAL_OK;
    if (!json_is_object(meta))
        return bal_fail(err, BAL_E_FORMAT, "%s: %s: an object was expected", shown(f), META_KEY);
    json_object_foreach(meta, key, value)
    {
        if (!json_is_string(value))
            return bal_fail(err, BAL_E_FORMAT, "%s: %s: value of '%.100s' is not a string",
                            shown(f), META_KEY, key);
    }
    if (json_object_update_missing(set->meta_json, meta) == 0) return BAL_OK;
    return bal_nomem(err, json_object_size(meta), META_KEY);
}

/* Copies the tensor names out of the header, which is not kept. */
static bal_status copy_names(st_file *f, json_t *root, bal_error *err)
{
    size_t n_bytes = 1;
    for (void *it = json_object_iter(root); it; it = json_object_iter_next(root, it))
        n_bytes += strlen(json_object_iter_key(it)) + 1;
    f->names = malloc(n_bytes);
    if (!f->names) return bal_nomem(err, n_bytes, f->name);
    char *at = f->names;
    for (void *it = json_object_iter(root); it; it = json_object_iter_next(root, it)) {
        const size_t len = strlen(json_object_iter_key(it)) + 1;
        memcpy(at, json_object_iter_key(it), len);
        at += len;
    }
    return BAL_OK;
}

/* Appends the tensors of `root` to the set. */
static bal_status read_tensors(bal_tensor_set *set, const st_file *f, json_t *root, bal_error *err)
{
    const size_t n_new = json_object_size(root), n_old = set->n_tensors;
    size_t n_bytes;
    if (!bal_size_mul(n_old + n_new, sizeof *set->tensors, &n_bytes)) n_bytes = SIZE_MAX;
    if (n_new == 0) return check_tiling(f, NULL, 0, err);
    bal_tensor_view *grown = realloc(set->tensors, n_bytes);
    if (!grown) return bal_nomem(err, n_bytes, f->name);
    set->tensors = grown;
    const char *name = f->names, *key;
    json_t *info;
    json_object_foreach(root, key, info)
    {
        bal_tensor_view *t = &set->tensors[set->n_tensors];
        *t = (bal_tensor_view){.name = name, .file = (int)(f - set->files)};
        name += strlen(name) + 1;
        if (strcmp(t->name, META_KEY) == 0) continue;
        BAL_TRY(read_tensor(f, info, t, err));
        set->n_tensors++;
    }
    return check_tiling(f, set->tensors + n_old, set->n_tensors - n_old, err);
}

/* What a file is that somebody gave for a model, by its first bytes; NULL: nothing that is known.
 * It is asked only about files whose frame is wrong: a header's length may look like anything. */
static const char *foreign_kind(const uint8_t *p, size_t n)
{
    static const struct {
        const char *magic;
        size_t n;
        const char *kind;
    } kinds[] = {
        {"GGUF", 4, "a GGUF file"},
        {"\x89PNG", 4, "a PNG picture"},
        {"\xff\xd8\xff", 3, "a JPEG picture"},
        {"RIFF", 4, "a RIFF file (a WebP picture?)"},
        {"PK\3\4", 4, "a zip archive (PyTorch's .bin and .pth are such)"},
        {"\x80\2", 2, "a pickle (PyTorch's older .bin and .pth are such)"},
        {"version https://git-lfs", 23, "a pointer of git-lfs: the file itself is not downloaded"},
        {"{", 1, "JSON text"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (n >= kinds[i].n && memcmp(p, kinds[i].magic, kinds[i].n) == 0) return kinds[i].kind;
    return NULL;
}

/* Length word and braces; on success *n is the header's length. */
static bal_status read_frame(const st_file *f, uint64_t *n, bal_error *err)
{
    const uint8_t *p = f->map.data;
    const unsigned long long size = f->map.n_bytes;
    *n = 0;
    if (size < 8)
        return bal_fail(err, BAL_E_FORMAT, "%s: %llu bytes, too short for a safetensors file",
                        shown(f), size);
    for (int i = 0; i < 8; i++) *n |= (uint64_t)p[i] << 8 * i;
    const unsigned long long len = *n;
    if (len > BAL_ST_MAX_HEADER)
        return bal_fail(err, BAL_E_FORMAT,
                        "%s: header length %llu, more than the %d allowed; not a safetensors "
                        "file?",
                        shown(f), len, (int)BAL_ST_MAX_HEADER);
    if (len > size - 8)
        return bal_fail(err, BAL_E_FORMAT, "%s: header of %llu bytes in a file of %llu bytes",
                        shown(f), len, size);
    if (len == 0 || p[8] != '{')
        return bal_fail(err, BAL_E_FORMAT, "%s: header does not start with '{' at offset 8",
                        shown(f));
    return BAL_OK;
}

/* The same, with a better sentence for what is another kind of file altogether. */
static bal_status check_frame(const st_file *f, uint64_t *n, bal_error *err)
{
    const bal_status st = read_frame(f, n, err);
    const char *kind = st < 0 ? foreign_kind(f->map.data, f->map.n_bytes) : NULL;
    if (!kind) return st;
    return bal_fail(err, st,
                    "%s: this is %s; expected a file that ballast quantize wrote, or the folder "
                    "of a model with its safetensors files",
                    shown(f), kind);
}

static bal_status read_header(bal_tensor_set *set, st_file *f, uint64_t n, bal_error *err)
{
    json_error_t je;
    const char *text = (const char *)f->map.data + 8;
    json_t *root = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &je);
    if (!root && json_error_code(&je) == json_error_out_of_memory)
        return bal_nomem(err, (size_t)n, "a parsed header");
    if (!root)
        return bal_fail(err, BAL_E_FORMAT, "%s: header, offset %d: %s", shown(f), je.position + 8,
                        je.text);
    bal_status st;
    BAL_GOTO(read_meta(set, f, json_object_get(root, META_KEY), err), done);
    BAL_GOTO(copy_names(f, root, err), done);
    BAL_GOTO(read_tensors(set, f, root, err), done);
done:
    json_decref(root);
    return st;
}

/* f->map and f->name are set. */
static bal_status read_file(bal_tensor_set *set, st_file *f, bal_error *err)
{
    uint64_t n;
    BAL_TRY(check_frame(f, &n, err));
    f->data = f->map.data + 8 + n;
    f->n_data = f->map.n_bytes - 8 - n;
    set->n_file_bytes += f->map.n_bytes;
    set->n_header_bytes += 8 + n;
    set->n_data_bytes += f->n_data;
    return read_header(set, f, n, err);
}

/* ---- Sets ----------------------------------------------------------------------------------- */

static bal_status begin_set(bal_tensor_set *set, size_t n_files, bal_error *err)
{
    *set = (bal_tensor_set){0};
    set->files = calloc(n_files, sizeof *set->files);
    set->meta_json = json_object();
    if (set->files && set->meta_json) return BAL_OK;
    return bal_nomem(err, n_files * sizeof *set->files, "a list of files");
}

static st_file *next_file(bal_tensor_set *set, const char *name, bal_error *err)
{
    st_file *f = &set->files[set->n_files];
    f->name = strdup(name);
    if (!f->name) return bal_nomem(err, strlen(name) + 1, name), NULL;
    set->n_files++;
    return f;
}

static bal_status add_path(bal_tensor_set *set, const char *path, bal_error *err)
{
    st_file *f = next_file(set, path, err);
    if (!f) return BAL_E_NOMEM;
    BAL_TRY(bal_map_open(&f->map, path, err));
    f->owns_map = true;
    return read_file(set, f, err);
}

static int by_key(const void *pa, const void *pb)
{
    const bal_st_meta *a = pa, *b = pb;
    return strcmp(a->key, b->key);
}

static bal_status index_meta(bal_tensor_set *set, bal_error *err)
{
    const size_t n = json_object_size(set->meta_json);
    if (n == 0) return BAL_OK;
    set->meta = calloc(n, sizeof *set->meta);
    if (!set->meta) return bal_nomem(err, n * sizeof *set->meta, META_KEY);
    const char *key;
    json_t *value;
    json_object_foreach(set->meta_json, key, value) set->meta[set->n_meta++] =
        (bal_st_meta){key, json_string_value(value)};
    qsort(set->meta, n, sizeof *set->meta, by_key);
    return BAL_OK;
}

/* Sorts for look-up; a name that stands twice can only come from two shards. */
static bal_status finish_set(bal_tensor_set *set, bal_error *err)
{
    if (set->n_tensors > 1) qsort(set->tensors, set->n_tensors, sizeof *set->tensors, by_name);
    for (size_t i = 1; i < set->n_tensors; i++) {
        const bal_tensor_view *a = &set->tensors[i - 1], *b = &set->tensors[i];
        if (strcmp(a->name, b->name) != 0) continue;
        return bal_fail(err, BAL_E_FORMAT,
                        "tensor '%.100s' stands in two shards: %.120s and %.120s", a->name,
                        bal_tensor_file(set, a), bal_tensor_file(set, b));
    }
    return index_meta(set, err);
}

void bal_tensor_set_close(bal_tensor_set *set)
{
    for (size_t i = 0; i < set->n_files; i++) {
        if (set->files[i].owns_map) bal_map_close(&set->files[i].map);
        free(set->files[i].names);
        free(set->files[i].name);
    }
    free(set->files);
    free(set->tensors);
    free(set->meta);
    json_decref(set->meta_json);
    *set = (bal_tensor_set){0};
}

/* ---- Model directories ---------------------------------------------------------------------- */

/* A shard name must stay inside the directory. */
static bool plain_file_name(const char *s)
{
    return s[0] && !strchr(s, '/') && !strstr(s, "..") && strcmp(s, ".") != 0;
}

static int by_string(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Distinct file names of the map, sorted, into *out (malloc). */
static bal_status list_shards(const char ***out, size_t *n_out, const bal_json *map, bal_error *err)
{
    const size_t n = json_object_size(map->value);
    const char **names = calloc(n + 1, sizeof *names);
    *out = names;
    *n_out = 0;
    if (!names) return bal_nomem(err, n * sizeof *names, map->file);
    size_t i = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map->value, key, value)
    {
        names[i] = json_string_value(value);
        const bal_json v = bal_json_get(map, key);
        if (!names[i] || !plain_file_name(names[i]))
            return bal_json_mismatch(&v, err, "a file name without '/' or '..'");
        i++;
    }
    if (n > 1) qsort(names, n, sizeof *names, by_string);
    for (i = 0; i < n; i++)
        if (i == 0 || strcmp(names[i], names[*n_out - 1]) != 0) names[(*n_out)++] = names[i];
    if (*n_out <= BAL_ST_MAX_SHARDS) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT, "%.200s: %zu shards, more than the %d allowed", map->file,
                    *n_out, (int)BAL_ST_MAX_SHARDS);
}

static const char *file_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Each tensor of the map in its shard, each tensor of a shard in the map. */
static bal_status check_map(const bal_tensor_set *set, const bal_json *map, bal_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map->value, key, value)
    {
        const bal_tensor_view *t = bal_tensor_find(set, key);
        const char *want = json_string_value(value);
        if (t && strcmp(file_part(bal_tensor_file(set, t)), want) == 0) continue;
        return bal_fail(err, BAL_E_FORMAT, "%.150s: tensor '%.100s' is not in its shard %.80s",
                        map->file, key, want);
    }
    for (size_t i = 0; i < set->n_tensors; i++)
        if (!json_object_get(map->value, set->tensors[i].name))
            return bal_fail(err, BAL_E_FORMAT, "%.150s: tensor '%.100s' is not in the weight_map",
                            bal_tensor_file(set, &set->tensors[i]), set->tensors[i].name);
    return BAL_OK;
}

static bal_status open_shards(bal_tensor_set *set, const char *dir, const bal_json *map,
                              bal_error *err)
{
    const char **shards;
    size_t n;
    char path[4096];
    bal_status st;
    BAL_GOTO(list_shards(&shards, &n, map, err), done);
    BAL_GOTO(begin_set(set, n + 1, err), done);
    for (size_t i = 0; i < n; i++) {
        BAL_GOTO(bal_path_join(path, sizeof path, dir, shards[i], err), done);
        BAL_GOTO(add_path(set, path, err), done);
    }
    BAL_GOTO(finish_set(set, err), done);
    BAL_GOTO(check_map(set, map, err), done);
done:
    free(shards);
    return st;
}

static bal_status open_index(bal_tensor_set *set, const char *dir, const char *index,
                             bal_error *err)
{
    bal_json_doc doc;
    bal_json map;
    bal_status st;
    BAL_TRY(bal_json_load(&doc, index, BAL_ST_MAX_HEADER, err));
    const bal_json root = bal_json_root(&doc);
    BAL_GOTO(bal_json_obj(&root, "weight_map", &map, err), done);
    BAL_GOTO(open_shards(set, dir, &map, err), done);
done:
    bal_json_close(&doc);
    return st;
}

static bal_status open_file(bal_tensor_set *set, const char *path, bal_error *err)
{
    BAL_TRY(begin_set(set, 1, err));
    BAL_TRY(add_path(set, path, err));
    return finish_set(set, err);
}

static bool ends_in(const char *name, const char *ending)
{
    const size_t n = strlen(name), m = strlen(ending);
    return n > m && strcmp(name + n - m, ending) == 0;
}

/* The first name in `dir`, in alphabetical order, that ends so; empty if there is none. */
static void first_ending(char *out, size_t size, const char *dir, const char *ending)
{
    out[0] = 0;
    DIR *d = opendir(dir);
    if (!d) return;
    for (const struct dirent *e; (e = readdir(d));)
        if (ends_in(e->d_name, ending) && (!out[0] || strcmp(e->d_name, out) < 0))
            snprintf(out, size, "%s", e->d_name);
    closedir(d);
}

/* A folder without weights in the one form that is read says which it has. */
static bal_status no_weights(const char *dir, bal_error *err)
{
    static const char pickles[] = "PyTorch's pickles are not read, because they can run programs; "
                                  "take the safetensors files of the same model";
    static const struct {
        const char *ending, *advice;
    } others[] = {
        {".safetensors", "weights in several files need model.safetensors.index.json"},
        {".bin", pickles},
        {".pth", pickles},
        {".pt", pickles},
        {".gguf", "GGUF is not read; take the safetensors files of the original model"},
    };
    char found[256];
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        first_ending(found, sizeof found, dir, others[i].ending);
        if (!found[0]) continue;
        return bal_fail(err, BAL_E_UNSUP, "%.200s: no model.safetensors in here, but %.100s: %s",
                        dir, found, others[i].advice);
    }
    return bal_fail(err, BAL_E_IO,
                    "%.200s: neither model.safetensors nor model.safetensors.index.json in here",
                    dir);
}

static bal_status open_dir(bal_tensor_set *set, const char *dir, bal_error *err)
{
    char path[4096];
    BAL_TRY(bal_path_join(path, sizeof path, dir, "model.safetensors", err));
    if (bal_path_exists(path)) return open_file(set, path, err);
    BAL_TRY(bal_path_join(path, sizeof path, dir, "model.safetensors.index.json", err));
    if (bal_path_exists(path)) return open_index(set, dir, path, err);
    return no_weights(dir, err);
}

bal_status bal_tensor_set_open(bal_tensor_set *set, const char *path, bal_error *err)
{
    *set = (bal_tensor_set){0};
    const bal_status st =
        bal_path_is_dir(path) ? open_dir(set, path, err) : open_file(set, path, err);
    if (st < 0) bal_tensor_set_close(set);
    return st;
}

static bal_status open_bytes(bal_tensor_set *set, const void *bytes, size_t n_bytes,
                             const char *name, bal_error *err)
{
    BAL_TRY(begin_set(set, 1, err));
    st_file *f = next_file(set, name, err);
    if (!f) return BAL_E_NOMEM;
    f->map = (bal_mapping){.data = bytes, .n_bytes = n_bytes};
    BAL_TRY(read_file(set, f, err));
    return finish_set(set, err);
}

bal_status bal_tensor_set_open_bytes(bal_tensor_set *set, const void *bytes, size_t n_bytes,
                                     const char *name, bal_error *err)
{
    const bal_status st = open_bytes(set, bytes, n_bytes, name, err);
    if (st < 0) bal_tensor_set_close(set);
    return st;
}

/* ---- Look-up -------------------------------------------------------------------------------- */

const bal_tensor_view *bal_tensor_find(const bal_tensor_set *set, const char *name)
{
    const bal_tensor_view key = {.name = name};
    if (set->n_tensors == 0) return NULL;
    return bsearch(&key, set->tensors, set->n_tensors, sizeof key, by_name);
}

bal_status bal_tensor_get(const bal_tensor_set *set, const char *name, const bal_tensor_view **out,
                          bal_error *err)
{
    *out = bal_tensor_find(set, name);
    if (*out) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT, "%.150s: tensor '%.100s' is missing",
                    set->n_files ? set->files[0].name : "model", name);
}

const char *bal_tensor_file(const bal_tensor_set *set, const bal_tensor_view *view)
{
    return set->files[view->file].name;
}

const char *bal_tensor_meta(const bal_tensor_set *set, const char *key)
{
    return json_string_value(json_object_get(set->meta_json, key));
}
