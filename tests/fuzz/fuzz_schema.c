/* SPDX-License-Identifier: MIT
 * Any bytes as a schema of response_format: it is refused with a sentence, or what its grammar
 * writes is JSON that satisfies it. */
#include "format/json.h"
#include "../schema_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good) abort();
}

static void check_walk(bal_matcher *m, const json_t *schema, uint64_t seed)
{
    enum { MAX = 600 };
    char text[MAX];
    bool complete = false;
    bal_rng rng;
    bal_rng_seed(&rng, seed);
    const size_t n = walk_grammar(m, &rng, text, MAX, &complete);
    if (!complete) return;
    json_t *v = json_loadb(text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    require(v != NULL);
    require(satisfies(schema, schema, v, 0));
    json_decref(v);
}

static void check_schema(const json_t *schema)
{
    static const bal_vocab none;
    bal_grammar g;
    bal_refusal f;
    bal_error err;
    bal_matcher *m;
    if (bal_schema_compile(&g, schema, &f) < 0) {
        require(f.http >= 400 && f.message[0] && !g.nodes);
        return;
    }
    require(bal_matcher_create(&m, &g, &none, &err) == BAL_OK || err.status == BAL_E_CAPACITY);
    for (uint64_t seed = 0; m && seed < 3; seed++) check_walk(m, schema, seed);
    bal_matcher_destroy(m);
    bal_grammar_free(&g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bal_error err;
    bal_json_doc doc;
    if (size > 4096 || bal_json_parse(&doc, data, size, 1 << 16, "fuzz", &err) < 0) return 0;
    check_schema(doc.root);
    bal_json_close(&doc);
    return 0;
}
