/* SPDX-License-Identifier: MIT
 * Any bytes against grammars of schemas that use every keyword: what is let through to the end is
 * JSON that satisfies the schema, however it is cut into pieces, and a piece that does not fit
 * leaves the matcher where it was. */
#include "../schema_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const schemas[] = {
    "{}",
    "{\"type\":[\"number\",\"null\",\"boolean\"]}",
    "{\"type\":\"object\",\"required\":[\"a\",\"c\"],\"properties\":{\"a\":{\"type\":\"integer\"},"
    "\"b\":{\"enum\":[\"x\",1.5,null,[1]]},\"c\":{\"type\":\"string\",\"maxLength\":4}}}",
    "{\"type\":\"array\",\"minItems\":1,\"maxItems\":3,\"items\":{\"anyOf\":[{\"const\":\"k\"},"
    "{\"type\":\"string\",\"minLength\":2}]}}",
    "{\"$ref\":\"#/$defs/tree\",\"$defs\":{\"tree\":{\"type\":\"object\",\"properties\":{"
    "\"next\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/tree\"}}}}}}",
    "{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}",
};
enum { N_SCHEMAS = sizeof schemas / sizeof schemas[0] };

static void require(bool good)
{
    if (!good) abort();
}

/* Byte by byte up to the first that does not fit. */
static size_t push_bytes(bal_matcher *m, const char *text, size_t n)
{
    bal_error err;
    size_t at = 0;
    bool fits = true;
    while (at < n) {
        if (bal_matcher_push(m, text + at, 1, &fits, &err) < 0 || !fits) return at;
        at++;
    }
    return at;
}

static void check_end(const json_t *schema, const char *text, size_t n)
{
    json_t *v = json_loadb(text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    require(v != NULL);
    require(satisfies(schema, schema, v, 0));
    json_decref(v);
}

static void check_text(const bal_grammar *g, const json_t *schema, const char *text, size_t n)
{
    static const bal_vocab none;
    bal_error err;
    bal_matcher *m;
    bool fits;
    require(bal_matcher_create(&m, g, &none, &err) == BAL_OK);
    const size_t good = push_bytes(m, text, n);
    const bool complete = bal_matcher_complete(m);
    if (complete) check_end(schema, text, good);
    bal_matcher_reset(m);
    if (good < n && bal_matcher_push(m, text, n, &fits, &err) == BAL_OK) require(!fits);
    if (bal_matcher_push(m, text, good, &fits, &err) == BAL_OK)
        require(fits && bal_matcher_complete(m) == complete);
    bal_matcher_destroy(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bal_grammar g;
    bal_refusal f;
    if (size < 1 || size > 4096) return 0;
    json_t *schema = json_loads(schemas[data[0] % N_SCHEMAS], 0, NULL);
    require(bal_schema_compile(&g, schema, &f) == BAL_OK);
    check_text(&g, schema, (const char *)data + 1, size - 1);
    bal_grammar_free(&g);
    json_decref(schema);
    return 0;
}
