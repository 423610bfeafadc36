/* SPDX-License-Identifier: MIT
 * Grammars over bytes: a recursive transition network, that is an NFA whose edges may call other
 * parts of it and return. Built back to front: every builder takes the node that follows and gives
 * the node to enter. serve/schema.c builds them from JSON schemas, serve/matcher.c runs them.
 *
 * Failures stick: once memory or BAL_GRAMMAR_MAX_NODES is exhausted the builders give node 0 and
 * `failed` is set, to be looked at once at the end. */
#ifndef BAL_SERVE_GRAMMAR_H
#define BAL_SERVE_GRAMMAR_H

#include "base/status.h"

enum { BAL_GRAMMAR_MAX_NODES = 1 << 17 };

typedef struct bal_byte_set {
    uint64_t word[4]; /* bit b % 64 of word[b / 64] */
} bal_byte_set;

typedef enum bal_node_kind {
    BAL_NODE_RETURN, /* end of the part; the answer ends where nothing is left to return to */
    BAL_NODE_BYTES,  /* one byte of `set`, then next */
    BAL_NODE_SPLIT,  /* next or other; other may be -1 */
    BAL_NODE_CALL,   /* the part that begins at other, then next */
} bal_node_kind;

typedef struct bal_grammar_node {
    bal_node_kind kind;
    int32_t next, other;
    bal_byte_set set;
} bal_grammar_node;

/* Zero-initialise. Node 0 is always a RETURN. Immutable once built. */
typedef struct bal_grammar {
    bal_grammar_node *nodes;
    int32_t n, cap;
    int32_t start;
    bool failed;
} bal_grammar;

void bal_grammar_free(bal_grammar *g); /* idempotent */

int32_t bal_grammar_bytes(bal_grammar *g, const bal_byte_set *set, int32_t next);
int32_t bal_grammar_range(bal_grammar *g, int from, int to, int32_t next); /* bytes from..to */
int32_t bal_grammar_one_of(bal_grammar *g, const char *bytes, int32_t next);
int32_t bal_grammar_literal(bal_grammar *g, const char *text, size_t n, int32_t next);
int32_t bal_grammar_split(bal_grammar *g, int32_t a, int32_t b);
int32_t bal_grammar_call(bal_grammar *g, int32_t part, int32_t next);
/* A node that something else may point to before it is known; set gives it its way on. */
int32_t bal_grammar_label(bal_grammar *g);
void bal_grammar_set(bal_grammar *g, int32_t label, int32_t to);

/* Whether the grammar can end at all from its start. Ways that can never end are cut, so that a
 * matcher does not enter them. BAL_E_NOMEM. */
bal_status bal_grammar_finish(bal_grammar *g, bool *can_end, bal_error *err);

#endif
