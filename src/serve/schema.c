/* SPDX-License-Identifier: MIT */
#include "serve/schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARAM "response_format.json_schema.schema"
enum {
    MAX_REFS = 512,
    MAX_COUNT = 4096,
    DIGITS = 15,
    SPACES = 20,
    MAX_NESTING = 128,
    MAX_TYPES = 7
};

typedef struct compiler {
    bal_grammar *g;
    const json_t *root;
    bal_refusal *f; /* the first refusal sticks */
    int nesting;
    int32_t space, character, string, integer, number, value, object, array; /* parts */
    struct {
        const json_t *target;
        int32_t part;
    } refs[MAX_REFS];
    int n_refs;
} compiler;

static int32_t schema_node(compiler *c, const json_t *schema, const char *path, int32_t next);

/* ---- The parts of JSON ----------------------------------------------------------------------- */

static int32_t text(compiler *c, const char *s, int32_t next)
{
    return bal_grammar_literal(c->g, s, strlen(s), next);
}

/* At most `max` times a byte of from..to. */
static int32_t up_to(compiler *c, int from, int to, int max, int32_t next)
{
    int32_t at = next;
    for (int i = 0; i < max; i++)
        at = bal_grammar_split(c->g, bal_grammar_range(c->g, from, to, at), next);
    return at;
}

static int32_t space_part(compiler *c)
{
    int32_t at = 0;
    for (int i = 0; i < SPACES; i++)
        at = bal_grammar_split(c->g, bal_grammar_one_of(c->g, " \t", at), 0);
    const int32_t line = text(c, "\n", at);
    return bal_grammar_split(c->g, bal_grammar_split(c->g, text(c, " ", 0), line), 0);
}

/* Well-formed UTF-8 (Unicode 15, table 3-7) but for quote, backslash and controls. */
static int32_t plain_character(compiler *c)
{
    bal_grammar *g = c->g;
    bal_byte_set ascii = {{0, 0, 0, 0}};
    for (unsigned b = 0x20; b < 0x80; b++)
        if (b != '"' && b != '\\') ascii.word[b / 64] |= (uint64_t)1 << b % 64;
    const int32_t one = bal_grammar_range(g, 0x80, 0xbf, 0);
    const int32_t two = bal_grammar_range(g, 0x80, 0xbf, one);
    int32_t at = bal_grammar_bytes(g, &ascii, 0);
    const struct {
        int lead, lead_to, from, to;
        int32_t rest;
    } rows[] = {{0xe0, 0xe0, 0xa0, 0xbf, one}, {0xe1, 0xec, 0x80, 0xbf, one},
                {0xed, 0xed, 0x80, 0x9f, one}, {0xee, 0xef, 0x80, 0xbf, one},
                {0xf0, 0xf0, 0x90, 0xbf, two}, {0xf1, 0xf3, 0x80, 0xbf, two},
                {0xf4, 0xf4, 0x80, 0x8f, two}};
    at = bal_grammar_split(g, at, bal_grammar_range(g, 0xc2, 0xdf, one));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const int32_t second = bal_grammar_range(g, rows[i].from, rows[i].to, rows[i].rest);
        at = bal_grammar_split(g, at, bal_grammar_range(g, rows[i].lead, rows[i].lead_to, second));
    }
    return at;
}

#define HEX "0123456789abcdefABCDEF"

/* \uXXXX of anything but a surrogate: a lone one is no character. */
static int32_t escape(compiler *c)
{
    bal_grammar *g = c->g;
    const int32_t one = bal_grammar_one_of(g, HEX, 0), two = bal_grammar_one_of(g, HEX, one);
    const int32_t other =
        bal_grammar_one_of(g, "0123456789abcefABCEF", bal_grammar_one_of(g, HEX, two));
    const int32_t below = bal_grammar_one_of(g, "dD", bal_grammar_one_of(g, "01234567", two));
    const int32_t u = text(c, "u", bal_grammar_split(g, other, below));
    const int32_t letter = bal_grammar_one_of(g, "\"\\/bfnrt", 0);
    return text(c, "\\", bal_grammar_split(g, letter, u));
}

/* `min` to `max` times the part, max -1: any number; between two of them `comma` if it is set. */
static int32_t repeat(compiler *c, int32_t part, bool comma, int min, int max, int32_t next)
{
    bal_grammar *g = c->g;
    int32_t more; /* where one stands already and another may follow */
    const int32_t loop = max < 0 ? bal_grammar_label(g) : next;
    more = loop;
    if (max < 0) {
        int32_t again = bal_grammar_call(g, part, loop);
        if (comma) again = text(c, ",", bal_grammar_call(g, c->space, again));
        bal_grammar_set(g, loop, bal_grammar_split(g, again, next));
    }
    const int n = max < 0 ? (min > 1 ? min : 1) : max;
    for (int i = n; i > 1; i--) {
        int32_t again = bal_grammar_call(g, part, more);
        if (comma) again = text(c, ",", bal_grammar_call(g, c->space, again));
        more = i > min ? bal_grammar_split(g, again, next) : again;
    }
    if (n == 0) return next;
    const int32_t first = bal_grammar_call(g, part, more);
    return min > 0 ? first : bal_grammar_split(g, first, next);
}

static int32_t string_of(compiler *c, int min, int max, int32_t next)
{
    const int32_t close = text(c, "\"", next);
    return text(c, "\"", repeat(c, c->character, false, min, max, close));
}

static int32_t integer_part(compiler *c, int32_t next)
{
    bal_grammar *g = c->g;
    const int32_t digits = bal_grammar_range(g, '1', '9', up_to(c, '0', '9', DIGITS, next));
    const int32_t zero = text(c, "0", next);
    const int32_t absolute = bal_grammar_split(g, digits, zero);
    return bal_grammar_split(g, absolute, text(c, "-", absolute));
}

static int32_t number_part(compiler *c)
{
    bal_grammar *g = c->g;
    const int32_t power = bal_grammar_range(g, '0', '9', up_to(c, '0', '9', 1, 0));
    const int32_t sign = bal_grammar_split(g, power, bal_grammar_one_of(g, "+-", power));
    const int32_t exponent = bal_grammar_split(g, bal_grammar_one_of(g, "eE", sign), 0);
    const int32_t digits = bal_grammar_range(g, '0', '9', up_to(c, '0', '9', DIGITS, exponent));
    return integer_part(c, bal_grammar_split(g, text(c, ".", digits), exponent));
}

static int32_t array_of(compiler *c, int32_t item, int min, int max, int32_t next)
{
    const int32_t close = text(c, "]", next);
    const int32_t end = bal_grammar_call(c->g, c->space, close);
    const int32_t items = repeat(c, item, true, min, max, end);
    return text(c, "[", bal_grammar_call(c->g, c->space, items));
}

/* {"any key": value, ...} */
static int32_t map_of(compiler *c, int32_t value, int32_t next)
{
    bal_grammar *g = c->g;
    const int32_t colon =
        text(c, ":", bal_grammar_call(g, c->space, bal_grammar_call(g, value, 0)));
    const int32_t member = bal_grammar_call(g, c->string, colon);
    const int32_t end = bal_grammar_call(g, c->space, text(c, "}", next));
    const int32_t members = repeat(c, member, true, 0, -1, end);
    return text(c, "{", bal_grammar_call(g, c->space, members));
}

static void build_parts(compiler *c)
{
    bal_grammar *g = c->g;
    c->space = space_part(c);
    c->character = bal_grammar_split(g, plain_character(c), escape(c));
    c->string = string_of(c, 0, -1, 0);
    c->integer = integer_part(c, 0);
    c->number = number_part(c);
    c->value = bal_grammar_label(g);
    c->object = map_of(c, c->value, 0);
    c->array = array_of(c, c->value, 0, -1, 0);
    const int32_t ways[] = {
        c->object,         c->array,           bal_grammar_call(g, c->string, 0),
        c->number,         text(c, "true", 0), text(c, "false", 0),
        text(c, "null", 0)};
    int32_t at = ways[0];
    for (size_t i = 1; i < sizeof ways / sizeof ways[0]; i++)
        at = bal_grammar_split(g, at, ways[i]);
    bal_grammar_set(g, c->value, at);
}

/* ---- Keywords -------------------------------------------------------------------------------- */

static int32_t refuse(compiler *c, const char *path, const char *what)
{
    if (!c->f->http)
        bal_refuse(c->f, 400, "unsupported_schema", PARAM, "schema%s%.200s: %s",
                   path[0] ? " at " : "", path, what);
    return 0;
}

static bool among(const char *key, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(key, *names) == 0) return true;
    return false;
}

static const char *const annotations[] = {
    "title",      "description", "default",   "examples", "$schema",     "$id", "$comment",
    "deprecated", "readOnly",    "writeOnly", "$defs",    "definitions", NULL};

/* Names the first keyword that neither list has. */
static bool only(compiler *c, const json_t *schema, const char *path, const char *const *allowed)
{
    json_t *obj = (json_t *)(uintptr_t)schema; /* iterators are not const-correct in jansson */
    for (void *it = json_object_iter(obj); it; it = json_object_iter_next(obj, it)) {
        const char *key = json_object_iter_key(it);
        char what[160];
        if (among(key, annotations) || among(key, allowed)) continue;
        snprintf(what, sizeof what, "the keyword '%.60s' is not supported here", key);
        refuse(c, path, what);
        return false;
    }
    return true;
}

static void below(char out[256], const char *path, const char *key)
{
    snprintf(out, 256, "%.180s/%.60s", path, key);
}

static int count_of(compiler *c, const json_t *schema, const char *path, const char *key,
                    int otherwise)
{
    const json_t *v = json_object_get(schema, key);
    char what[120];
    if (!v) return otherwise;
    if (json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= MAX_COUNT)
        return (int)json_integer_value(v);
    snprintf(what, sizeof what, "%s: expected a whole number from 0 to %d", key, MAX_COUNT);
    refuse(c, path, what);
    return otherwise;
}

static int32_t literal_json(compiler *c, const json_t *v, int32_t next)
{
    char *s = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!s) {
        c->g->failed = true;
        return 0;
    }
    const int32_t at = text(c, s, next);
    free(s);
    return at;
}

static bool is_of_type(const json_t *v, const char *type)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return strcmp(type, "object") == 0;
    case JSON_ARRAY: return strcmp(type, "array") == 0;
    case JSON_STRING: return strcmp(type, "string") == 0;
    case JSON_INTEGER: return strcmp(type, "integer") == 0 || strcmp(type, "number") == 0;
    case JSON_REAL: return strcmp(type, "number") == 0;
    case JSON_NULL: return strcmp(type, "null") == 0;
    default: return strcmp(type, "boolean") == 0;
    }
}

static bool is_allowed_type(const json_t *v, const json_t *type)
{
    if (json_is_string(type)) return is_of_type(v, json_string_value(type));
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *name = json_string_value(json_array_get(type, i));
        if (name && is_of_type(v, name)) return true;
    }
    return !type;
}

static int32_t enum_node(compiler *c, const json_t *schema, const json_t *values, const char *path,
                         int32_t next)
{
    static const char *const allowed[] = {"enum", "const", "type", NULL};
    int32_t at = -1;
    if (!only(c, schema, path, allowed)) return 0;
    if (!json_is_array(values)) return refuse(c, path, "enum: expected an array");
    for (size_t i = 0; i < json_array_size(values); i++) {
        const json_t *v = json_array_get(values, i);
        if (!is_allowed_type(v, json_object_get(schema, "type"))) continue;
        const int32_t way = literal_json(c, v, next);
        at = at < 0 ? way : bal_grammar_split(c->g, at, way);
    }
    return at < 0 ? refuse(c, path, "enum: no value fits") : at;
}

static int32_t any_of_node(compiler *c, const json_t *schema, const char *path, int32_t next)
{
    static const char *const allowed[] = {"anyOf", NULL};
    const json_t *list = json_object_get(schema, "anyOf");
    int32_t at = -1;
    if (!only(c, schema, path, allowed)) return 0;
    if (!json_array_size(list)) return refuse(c, path, "anyOf: expected an array of schemas");
    for (size_t i = 0; i < json_array_size(list); i++) {
        char name[32], inner[256];
        snprintf(name, sizeof name, "anyOf/%zu", i);
        below(inner, path, name);
        const int32_t way = schema_node(c, json_array_get(list, i), inner, next);
        at = at < 0 ? way : bal_grammar_split(c->g, at, way);
    }
    return at;
}

/* ---- References ------------------------------------------------------------------------------ */

/* "#/a/b" from the root; ~1 and ~0 stand for / and ~. */
static const json_t *resolve(const json_t *root, const char *pointer)
{
    if (*pointer++ != '#') return NULL;
    while (root && *pointer == '/') {
        char key[256];
        size_t n = 0;
        for (pointer++; *pointer && *pointer != '/' && n < sizeof key - 1; pointer++) {
            char b = *pointer;
            if (b == '~' && (pointer[1] == '0' || pointer[1] == '1'))
                b = *++pointer == '0' ? '~' : '/';
            key[n++] = b;
        }
        key[n] = 0;
        root = json_is_array(root) ? json_array_get(root, strtoul(key, NULL, 10))
                                   : json_object_get(root, key);
    }
    return *pointer ? NULL : root;
}

static int32_t ref_node(compiler *c, const json_t *schema, const char *path, int32_t next)
{
    static const char *const allowed[] = {"$ref", NULL};
    const char *pointer = json_string_value(json_object_get(schema, "$ref"));
    if (!only(c, schema, path, allowed)) return 0;
    const json_t *target = pointer ? resolve(c->root, pointer) : NULL;
    if (!target) return refuse(c, path, "$ref: expected '#/...' of something in this schema");
    for (int i = 0; i < c->n_refs; i++)
        if (c->refs[i].target == target) return bal_grammar_call(c->g, c->refs[i].part, next);
    if (c->n_refs == MAX_REFS) return refuse(c, path, "$ref: too many of them");
    const int32_t part = bal_grammar_label(c->g);
    c->refs[c->n_refs].target = target;
    c->refs[c->n_refs++].part = part;
    bal_grammar_set(c->g, part, schema_node(c, target, pointer, 0));
    return bal_grammar_call(c->g, part, next);
}

/* ---- Types ----------------------------------------------------------------------------------- */

/* "key": value */
static int32_t member_node(compiler *c, const char *key, const json_t *schema, const char *path,
                           int32_t next)
{
    char inner[256], name[80];
    snprintf(name, sizeof name, "properties/%.60s", key);
    below(inner, path, name);
    const int32_t value = schema_node(c, schema, inner, next);
    json_t *quoted = json_string(key);
    const int32_t at =
        literal_json(c, quoted, text(c, ":", bal_grammar_call(c->g, c->space, value)));
    json_decref(quoted);
    return at;
}

typedef struct members {
    const char **keys;
    const json_t **schemas;
    size_t n;
    json_t *required; /* an object with these keys */
} members;

/* The properties in order, then what is required without being one. */
static bool gather(compiler *c, members *m, const json_t *schema, const char *path)
{
    json_t *list = json_object_get(schema, "properties");
    const json_t *required = json_object_get(schema, "required");
    const json_t *others = json_object_get(schema, "additionalProperties");
    const size_t max = json_object_size(list) + json_array_size(required) + 1;
    m->keys = calloc(max, sizeof *m->keys);
    m->schemas = calloc(max, sizeof *m->schemas);
    m->required = json_object();
    if (!m->keys || !m->schemas || !m->required) return c->g->failed = true, false;
    for (void *it = json_object_iter(list); it; it = json_object_iter_next(list, it)) {
        m->keys[m->n] = json_object_iter_key(it);
        m->schemas[m->n++] = json_object_iter_value(it);
    }
    for (size_t i = 0; i < json_array_size(required); i++) {
        const char *key = json_string_value(json_array_get(required, i));
        if (!key) return refuse(c, path, "required: expected an array of strings"), false;
        if (json_object_get(m->required, key)) continue;
        if (json_object_set_new(m->required, key, json_true()) != 0)
            return c->g->failed = true, false;
        if (json_object_get(list, key)) continue;
        if (json_is_false(others))
            return refuse(c, path, "required: a property that additionalProperties forbids"), false;
        m->keys[m->n] = key;
        m->schemas[m->n++] = json_is_object(others) ? others : json_true();
    }
    return true;
}

/* From the last property to the first: `later` is entered where a property stands already, `first`
 * where none does. */
static int32_t members_node(compiler *c, const members *m, const char *path, int32_t next)
{
    bal_grammar *g = c->g;
    int32_t later = bal_grammar_call(g, c->space, text(c, "}", next)), first = later;
    for (size_t i = m->n; i-- > 0 && !c->f->http && !g->failed;) {
        const int32_t member = member_node(c, m->keys[i], m->schemas[i], path, later);
        const int32_t comma = text(c, ",", bal_grammar_call(g, c->space, member));
        if (json_object_get(m->required, m->keys[i])) {
            later = comma;
            first = member;
        } else {
            later = bal_grammar_split(g, comma, later);
            first = bal_grammar_split(g, member, first);
        }
    }
    return text(c, "{", bal_grammar_call(g, c->space, first));
}

static int32_t object_node(compiler *c, const json_t *schema, const char *path, int32_t next)
{
    const json_t *properties = json_object_get(schema, "properties");
    const json_t *others = json_object_get(schema, "additionalProperties");
    const json_t *required = json_object_get(schema, "required");
    if (properties && !json_is_object(properties))
        return refuse(c, path, "properties: expected an object");
    if (required && !json_is_array(required))
        return refuse(c, path, "required: expected an array of strings");
    if (others && !json_is_object(others) && !json_is_boolean(others))
        return refuse(c, path, "additionalProperties: expected a schema or true or false");
    if (!json_object_size(properties) && !json_array_size(required)) {
        if (json_is_false(others))
            return text(c, "{", bal_grammar_call(c->g, c->space, text(c, "}", next)));
        if (!json_is_object(others)) return bal_grammar_call(c->g, c->object, next);
        char inner[256];
        below(inner, path, "additionalProperties");
        return map_of(c, schema_node(c, others, inner, 0), next);
    }
    members m = {0};
    const int32_t at = gather(c, &m, schema, path) ? members_node(c, &m, path, next) : 0;
    free(m.keys);
    free(m.schemas);
    json_decref(m.required);
    return at;
}

static bool bounds(compiler *c, const json_t *schema, const char *path, const char *low,
                   const char *high, int *min, int *max)
{
    *min = count_of(c, schema, path, low, 0);
    *max = count_of(c, schema, path, high, -1);
    if (*max >= 0 && *min > *max) {
        refuse(c, path, "the minimum is above the maximum");
        return false;
    }
    return true;
}

static int32_t array_node(compiler *c, const json_t *schema, const char *path, int32_t next)
{
    const json_t *items = json_object_get(schema, "items");
    char inner[256];
    int min, max;
    below(inner, path, "items");
    if (!bounds(c, schema, path, "minItems", "maxItems", &min, &max)) return 0;
    return array_of(c, items ? schema_node(c, items, inner, 0) : c->value, min, max, next);
}

static int32_t string_node(compiler *c, const json_t *schema, const char *path, int32_t next)
{
    int min, max;
    if (!bounds(c, schema, path, "minLength", "maxLength", &min, &max)) return 0;
    return min == 0 && max < 0 ? bal_grammar_call(c->g, c->string, next)
                               : string_of(c, min, max, next);
}

static int32_t type_node(compiler *c, const char *type, const json_t *schema, const char *path,
                         int32_t next)
{
    bal_grammar *g = c->g;
    if (strcmp(type, "object") == 0) return object_node(c, schema, path, next);
    if (strcmp(type, "array") == 0) return array_node(c, schema, path, next);
    if (strcmp(type, "string") == 0) return string_node(c, schema, path, next);
    if (strcmp(type, "integer") == 0) return bal_grammar_call(g, c->integer, next);
    if (strcmp(type, "number") == 0) return bal_grammar_call(g, c->number, next);
    if (strcmp(type, "null") == 0) return text(c, "null", next);
    if (strcmp(type, "boolean") == 0)
        return bal_grammar_split(g, text(c, "true", next), text(c, "false", next));
    return refuse(c, path,
                  "type: expected object, array, string, number, integer, boolean or null");
}

static const char *const object_keys[] = {"type", "properties", "required", "additionalProperties",
                                          NULL};
static const char *const array_keys[] = {"type", "items", "minItems", "maxItems", NULL};
static const char *const string_keys[] = {"type", "minLength", "maxLength", NULL};
static const char *const no_keys[] = {"type", NULL};
static const char *const all_keys[] = {
    "type",      "properties", "required", "additionalProperties", "items", "minItems", "maxItems",
    "minLength", "maxLength",  NULL};

static const char *const *keys_of(const char *type)
{
    if (strcmp(type, "object") == 0) return object_keys;
    if (strcmp(type, "array") == 0) return array_keys;
    return strcmp(type, "string") == 0 ? string_keys : no_keys;
}

static bool has_any(const json_t *schema, const char *const *keys)
{
    for (; *keys; keys++)
        if (strcmp(*keys, "type") != 0 && json_object_get(schema, *keys)) return true;
    return false;
}

/* Keywords without a type say which one is meant. */
static int32_t untyped_node(compiler *c, const json_t *schema, const char *path, int32_t next)
{
    static const char *const types[] = {"object", "array", "string"};
    for (int i = 0; i < 3; i++) {
        if (!has_any(schema, keys_of(types[i]))) continue;
        return only(c, schema, path, keys_of(types[i])) ? type_node(c, types[i], schema, path, next)
                                                        : 0;
    }
    return only(c, schema, path, no_keys) ? bal_grammar_call(c->g, c->value, next) : 0;
}

static int32_t typed_node(compiler *c, const json_t *schema, const char *path, int32_t next)
{
    const json_t *type = json_object_get(schema, "type");
    int32_t at = -1;
    if (!type) return untyped_node(c, schema, path, next);
    if (json_is_string(type)) {
        const char *name = json_string_value(type);
        return only(c, schema, path, keys_of(name)) ? type_node(c, name, schema, path, next) : 0;
    }
    if (!json_array_size(type)) return refuse(c, path, "type: expected a name or an array of them");
    if (!only(c, schema, path, all_keys)) return 0;
    for (size_t i = 0; i < json_array_size(type); i++) {
        const char *name = json_string_value(json_array_get(type, i));
        const int32_t way = type_node(c, name ? name : "", schema, path, next);
        at = at < 0 ? way : bal_grammar_split(c->g, at, way);
    }
    return at;
}

static int32_t keyword_node(compiler *c, const json_t *schema, const char *path, int32_t next)
{
    const json_t *constant = json_object_get(schema, "const");
    if (json_is_true(schema)) return bal_grammar_call(c->g, c->value, next);
    if (!json_is_object(schema)) return refuse(c, path, "expected a schema: an object or true");
    if (json_array_size(json_object_get(schema, "type")) > MAX_TYPES)
        return refuse(c, path, "type: more names than there are types");
    if (json_object_get(schema, "$ref")) return ref_node(c, schema, path, next);
    if (json_object_get(schema, "anyOf")) return any_of_node(c, schema, path, next);
    if (constant) {
        json_t *one = json_array();
        json_array_append(one, (json_t *)(uintptr_t)constant); /* counts a reference */
        const int32_t at = enum_node(c, schema, one, path, next);
        json_decref(one);
        return at;
    }
    if (json_object_get(schema, "enum"))
        return enum_node(c, schema, json_object_get(schema, "enum"), path, next);
    return typed_node(c, schema, path, next);
}

/* References nest as deep as there are of them, on top of the document's own depth. */
static int32_t schema_node(compiler *c, const json_t *schema, const char *path, int32_t next)
{
    if (c->f->http || c->g->failed) return 0;
    if (c->nesting == MAX_NESTING) return refuse(c, path, "nested too deep");
    c->nesting++;
    const int32_t at = keyword_node(c, schema, path, next);
    c->nesting--;
    return at;
}

/* ---- Entry ----------------------------------------------------------------------------------- */

static bal_status finish(compiler *c)
{
    bool can_end;
    if (c->f->http) return BAL_E_ARG;
    if (c->g->failed)
        return bal_refuse(c->f, 400, "unsupported_schema", PARAM,
                          "the schema is too large: it takes more than %d states",
                          BAL_GRAMMAR_MAX_NODES);
    if (bal_grammar_finish(c->g, &can_end, NULL) < 0)
        return bal_refuse(c->f, 500, NULL, NULL, "memory is short");
    if (!can_end)
        return bal_refuse(c->f, 400, "unsupported_schema", PARAM, "nothing satisfies the schema");
    return BAL_OK;
}

bal_status bal_schema_compile(bal_grammar *g, const json_t *schema, bal_refusal *f)
{
    *g = (bal_grammar){0};
    *f = (bal_refusal){0};
    compiler c = {.g = g, .root = schema, .f = f};
    build_parts(&c);
    g->start = schema ? schema_node(&c, schema, "", 0) : c.object;
    const bal_status st = finish(&c);
    if (st < 0) bal_grammar_free(g);
    return st;
}
