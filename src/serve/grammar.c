/* SPDX-License-Identifier: MIT */
#include "serve/grammar.h"

#include <stdlib.h>
#include <string.h>

void bal_grammar_free(bal_grammar *g)
{
    free(g->nodes);
    *g = (bal_grammar){0};
}

static bool reserve(bal_grammar *g)
{
    if (g->n < g->cap) return true;
    const int32_t cap = g->cap ? 2 * g->cap : 256;
    bal_grammar_node *more =
        cap > BAL_GRAMMAR_MAX_NODES ? NULL : realloc(g->nodes, (size_t)cap * sizeof *more);
    if (!more) return false;
    g->nodes = more;
    g->cap = cap;
    if (g->n == 0) g->nodes[g->n++] = (bal_grammar_node){.kind = BAL_NODE_RETURN};
    return true;
}

static int32_t add(bal_grammar *g, bal_grammar_node node)
{
    if (g->failed || !reserve(g)) {
        g->failed = true;
        return 0;
    }
    g->nodes[g->n] = node;
    return g->n++;
}

static void set_add(bal_byte_set *s, unsigned b)
{
    s->word[b / 64] |= (uint64_t)1 << b % 64;
}

int32_t bal_grammar_bytes(bal_grammar *g, const bal_byte_set *set, int32_t next)
{
    return add(g, (bal_grammar_node){BAL_NODE_BYTES, next, -1, *set});
}

int32_t bal_grammar_range(bal_grammar *g, int from, int to, int32_t next)
{
    bal_byte_set set = {0};
    for (int b = from; b <= to; b++) set_add(&set, (unsigned)b);
    return bal_grammar_bytes(g, &set, next);
}

int32_t bal_grammar_one_of(bal_grammar *g, const char *bytes, int32_t next)
{
    bal_byte_set set = {0};
    for (; *bytes; bytes++) set_add(&set, (unsigned char)*bytes);
    return bal_grammar_bytes(g, &set, next);
}

int32_t bal_grammar_literal(bal_grammar *g, const char *text, size_t n, int32_t next)
{
    for (size_t i = n; i-- > 0;)
        next = bal_grammar_range(g, (unsigned char)text[i], (unsigned char)text[i], next);
    return next;
}

int32_t bal_grammar_split(bal_grammar *g, int32_t a, int32_t b)
{
    return add(g, (bal_grammar_node){.kind = BAL_NODE_SPLIT, .next = a, .other = b});
}

int32_t bal_grammar_call(bal_grammar *g, int32_t part, int32_t next)
{
    return add(g, (bal_grammar_node){.kind = BAL_NODE_CALL, .next = next, .other = part});
}

int32_t bal_grammar_label(bal_grammar *g)
{
    return bal_grammar_split(g, 0, -1);
}

void bal_grammar_set(bal_grammar *g, int32_t label, int32_t to)
{
    if (!g->failed) g->nodes[label].next = to;
}

/* ---- What can end ---------------------------------------------------------------------------- */

static bool node_ends(const bool *ends, const bal_grammar_node *n)
{
    switch (n->kind) {
    case BAL_NODE_RETURN: return true;
    case BAL_NODE_BYTES: return ends[n->next];
    case BAL_NODE_SPLIT: return ends[n->next] || (n->other >= 0 && ends[n->other]);
    case BAL_NODE_CALL: return ends[n->next] && ends[n->other];
    }
    return false;
}

/* Nodes point mostly to earlier ones, so few rounds settle it. */
static void find_ends(const bal_grammar *g, bool *ends)
{
    for (bool again = true; again;) {
        again = false;
        for (int32_t i = 0; i < g->n; i++)
            if (!ends[i] && node_ends(ends, &g->nodes[i])) ends[i] = again = true;
    }
}

/* A split keeps only the ways that end; a node without any becomes a set of no bytes. */
static void cut(bal_grammar_node *n, const bool *ends, bool self)
{
    if (!self) {
        *n = (bal_grammar_node){.kind = BAL_NODE_BYTES, .other = -1};
    } else if (n->kind == BAL_NODE_SPLIT) {
        if (n->other >= 0 && !ends[n->other]) n->other = -1;
        if (!ends[n->next]) {
            n->next = n->other;
            n->other = -1;
        }
    }
}

bal_status bal_grammar_finish(bal_grammar *g, bool *can_end, bal_error *err)
{
    *can_end = false;
    bool *ends = g->failed || !g->n ? NULL : calloc((size_t)g->n, sizeof *ends);
    if (!ends) return bal_nomem(err, (size_t)g->n, "a grammar");
    find_ends(g, ends);
    for (int32_t i = 0; i < g->n; i++) cut(&g->nodes[i], ends, ends[i]);
    *can_end = ends[g->start];
    free(ends);
    return BAL_OK;
}
