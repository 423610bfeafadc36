/* SPDX-License-Identifier: MIT */
#include "serve/matcher.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

/* SOFT: beyond it everything is built anew before the next token; HARD: a request fails. */
enum {
    MAX_DEPTH = 256, /* returns on a stack */
    MAX_ITEMS = 1 << 14,
    SOFT_STATES = 1024,
    HARD_STATES = 1 << 15,
    SOFT_STACKS = 1 << 15,
    HARD_STACKS = 1 << 20,
    DEAD = -1,
    UNKNOWN = -2,
};

/* ---- Vocabulary ------------------------------------------------------------------------------ */

static int by_bytes(const void *a, const void *b, void *ctx)
{
    const bal_tokenizer *t = ctx;
    const bal_token_view x = bal_tokenizer_decode(t, *(const int32_t *)a, false);
    const bal_token_view y = bal_tokenizer_decode(t, *(const int32_t *)b, false);
    const int order = memcmp(x.bytes, y.bytes, bal_min(x.n, y.n));
    return order ? order : (x.n > y.n) - (x.n < y.n);
}

static size_t common(bal_token_view a, bal_token_view b)
{
    size_t n = 0;
    while (n < a.n && n < b.n && n < UINT16_MAX && a.bytes[n] == b.bytes[n]) n++;
    return n;
}

bal_status bal_vocab_create(bal_vocab *v, const bal_tokenizer *tokenizer, int n_ids,
                            const int32_t *ends, int n_ends, bal_error *err)
{
    *v = (bal_vocab){.tokenizer = tokenizer, .n_ids = n_ids, .n_ends = n_ends};
    memcpy(v->ends, ends, (size_t)n_ends * sizeof *ends);
    v->order = malloc(((size_t)n_ids + 1) * sizeof *v->order);
    v->same = malloc(((size_t)n_ids + 1) * sizeof *v->same);
    if (!v->order || !v->same) {
        bal_vocab_destroy(v);
        return bal_nomem(err, (size_t)n_ids * 6, "the order of a vocabulary");
    }
    for (int32_t id = 0; id < n_ids; id++)
        if (bal_tokenizer_decode(tokenizer, id, false).n) v->order[v->n_order++] = id;
    qsort_r(v->order, v->n_order, sizeof *v->order, by_bytes, (void *)(uintptr_t)tokenizer);
    for (size_t i = 0; i < v->n_order; i++) {
        const bal_token_view t = bal_tokenizer_decode(tokenizer, v->order[i], false);
        v->same[i] = 0;
        if (i)
            v->same[i] =
                (uint16_t)common(bal_tokenizer_decode(tokenizer, v->order[i - 1], false), t);
        v->longest = bal_max(v->longest, t.n);
    }
    return BAL_OK;
}

void bal_vocab_destroy(bal_vocab *v)
{
    free(v->order);
    free(v->same);
    *v = (bal_vocab){0};
}

/* ---- Stacks and states ----------------------------------------------------------------------- */

typedef struct stack { /* 0 is the empty one */
    int32_t parent, node;
    int32_t depth;
} stack;

typedef struct item {
    int32_t node, stack;
} item;

typedef struct state {
    item *items; /* BYTES nodes, sorted */
    int32_t n;
    bool complete;
    uint64_t *mask; /* NULL until asked for */
    int32_t move[256];
} state;

struct bal_matcher {
    const bal_grammar *g;
    const bal_vocab *v;
    stack *stacks;
    int32_t n_stacks, cap_stacks;
    int32_t *stack_table; /* [table] index of a stack or -1 */
    state **states;
    int32_t n_states, cap_states;
    int32_t *state_table;
    size_t stack_slots, state_slots;
    item *work, *found; /* [MAX_ITEMS] of a closure */
    uint32_t *seen;     /* [4 * MAX_ITEMS] */
    item *seen_items;
    uint32_t turn;
    int32_t *path; /* [longest + 1] states along a token */
    int32_t now;
    int n_read; /* tokens of the answer that were pushed */
};

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static bal_status too_complex(bal_error *err)
{
    return bal_fail(err, BAL_E_UNSUP,
                    "the grammar of response_format has too many states at once; a simpler schema "
                    "would do");
}

static bal_status grow_stacks(bal_matcher *m, bal_error *err)
{
    const int32_t cap = m->cap_stacks ? 2 * m->cap_stacks : 1024;
    if (cap > HARD_STACKS) return too_complex(err);
    stack *more = realloc(m->stacks, (size_t)cap * sizeof *more);
    if (more) m->stacks = more;
    int32_t *table = more ? malloc(2 * (size_t)cap * sizeof *table) : NULL;
    if (!table) return bal_nomem(err, (size_t)cap * sizeof *more, "a grammar's stacks");
    free(m->stack_table);
    m->stack_table = table;
    m->stack_slots = 2 * (size_t)cap;
    m->cap_stacks = cap;
    memset(table, 0xff, m->stack_slots * sizeof *table);
    for (int32_t i = 1; i < m->n_stacks; i++) {
        size_t at = mix(mix(0, (uint64_t)m->stacks[i].parent), (uint64_t)m->stacks[i].node) %
                    m->stack_slots;
        while (table[at] >= 0) at = (at + 1) % m->stack_slots;
        table[at] = i;
    }
    if (m->n_stacks == 0) m->stacks[m->n_stacks++] = (stack){0};
    return BAL_OK;
}

/* *out: the stack `parent` with `node` on top; DEAD where it would be too deep. */
static bal_status push_stack(bal_matcher *m, int32_t parent, int32_t node, int32_t *out,
                             bal_error *err)
{
    *out = DEAD;
    if (m->stacks[parent].depth >= MAX_DEPTH) return BAL_OK;
    if (m->n_stacks == m->cap_stacks) BAL_TRY(grow_stacks(m, err));
    size_t at = mix(mix(0, (uint64_t)parent), (uint64_t)node) % m->stack_slots;
    for (; m->stack_table[at] >= 0; at = (at + 1) % m->stack_slots) {
        const stack *s = &m->stacks[m->stack_table[at]];
        if (s->parent == parent && s->node == node) {
            *out = m->stack_table[at];
            return BAL_OK;
        }
    }
    m->stacks[m->n_stacks] = (stack){parent, node, m->stacks[parent].depth + 1};
    *out = m->stack_table[at] = m->n_stacks++;
    return BAL_OK;
}

/* True the first time in this turn. */
static bool first_seen(bal_matcher *m, item it)
{
    const size_t slots = 4 * MAX_ITEMS;
    size_t at = mix(mix(1, (uint64_t)it.node), (uint64_t)it.stack) % slots;
    for (; m->seen[at] == m->turn; at = (at + 1) % slots)
        if (m->seen_items[at].node == it.node && m->seen_items[at].stack == it.stack) return false;
    m->seen[at] = m->turn;
    m->seen_items[at] = it;
    return true;
}

typedef struct closure {
    int n_work, n_found, n_seen;
    bool complete;
} closure;

static bal_status visit(bal_matcher *m, closure *c, int32_t node, int32_t stack_id, bal_error *err)
{
    if (stack_id == DEAD || node < 0) return BAL_OK;
    const item it = {node, stack_id};
    if (!first_seen(m, it)) return BAL_OK;
    if (++c->n_seen >= MAX_ITEMS) return too_complex(err);
    m->work[c->n_work++] = it;
    return BAL_OK;
}

static bool is_empty(const bal_byte_set *s)
{
    return !(s->word[0] | s->word[1] | s->word[2] | s->word[3]);
}

/* One node of the network without reading a byte. A call in last place leaves nothing to return
 * to, so lists of any length need no stack. */
static bal_status expand(bal_matcher *m, closure *c, item it, bal_error *err)
{
    const bal_grammar_node *n = &m->g->nodes[it.node];
    int32_t on = it.stack;
    switch (n->kind) {
    case BAL_NODE_BYTES:
        if (!is_empty(&n->set)) m->found[c->n_found++] = it; /* empty: cut off */
        return BAL_OK;
    case BAL_NODE_SPLIT:
        BAL_TRY(visit(m, c, n->next, it.stack, err));
        return visit(m, c, n->other, it.stack, err);
    case BAL_NODE_CALL:
        if (n->next) BAL_TRY(push_stack(m, it.stack, n->next, &on, err));
        return visit(m, c, n->other, on, err);
    case BAL_NODE_RETURN:
        if (it.stack) return visit(m, c, m->stacks[it.stack].node, m->stacks[it.stack].parent, err);
        c->complete = true;
        return BAL_OK;
    }
    return BAL_OK;
}

static int by_item(const void *a, const void *b)
{
    const item *x = a, *y = b;
    if (x->node != y->node) return x->node < y->node ? -1 : 1;
    return (x->stack > y->stack) - (x->stack < y->stack);
}

static uint64_t hash_items(const item *items, int n, bool complete)
{
    uint64_t h = mix(7, complete);
    for (int i = 0; i < n; i++)
        h = mix(h, (uint64_t)items[i].node << 32 | (uint32_t)items[i].stack);
    return h;
}

static bal_status grow_states(bal_matcher *m, bal_error *err)
{
    const int32_t cap = m->cap_states ? 2 * m->cap_states : 256;
    if (cap > HARD_STATES) return too_complex(err);
    state **more = realloc(m->states, (size_t)cap * sizeof *more);
    if (more) m->states = more;
    int32_t *table = more ? malloc(2 * (size_t)cap * sizeof *table) : NULL;
    if (!table) return bal_nomem(err, (size_t)cap * sizeof *table, "a grammar's states");
    free(m->state_table);
    m->state_table = table;
    m->state_slots = 2 * (size_t)cap;
    m->cap_states = cap;
    memset(table, 0xff, m->state_slots * sizeof *table);
    for (int32_t i = 0; i < m->n_states; i++) {
        const state *s = m->states[i];
        size_t at = hash_items(s->items, s->n, s->complete) % m->state_slots;
        while (table[at] >= 0) at = (at + 1) % m->state_slots;
        table[at] = i;
    }
    return BAL_OK;
}

static bal_status new_state(bal_matcher *m, const closure *c, size_t slot, int32_t *out,
                            bal_error *err)
{
    state *s = calloc(1, sizeof *s);
    const size_t n = (size_t)c->n_found;
    if (s) s->items = malloc((n + 1) * sizeof *s->items);
    if (!s || !s->items) {
        free(s);
        return bal_nomem(err, sizeof *s + n * sizeof *s->items, "a grammar's state");
    }
    memcpy(s->items, m->found, n * sizeof *s->items);
    s->n = c->n_found;
    s->complete = c->complete;
    for (int b = 0; b < 256; b++) s->move[b] = UNKNOWN;
    m->states[m->n_states] = s;
    *out = m->state_table[slot] = m->n_states++;
    return BAL_OK;
}

/* The state of what was found, DEAD if that is nothing. */
static bal_status intern(bal_matcher *m, const closure *c, int32_t *out, bal_error *err)
{
    *out = DEAD;
    if (!c->n_found && !c->complete) return BAL_OK;
    if (m->n_states == m->cap_states) BAL_TRY(grow_states(m, err));
    qsort(m->found, (size_t)c->n_found, sizeof *m->found, by_item);
    size_t at = hash_items(m->found, c->n_found, c->complete) % m->state_slots;
    for (; m->state_table[at] >= 0; at = (at + 1) % m->state_slots) {
        const state *s = m->states[m->state_table[at]];
        if (s->n == c->n_found && s->complete == c->complete &&
            memcmp(s->items, m->found, (size_t)s->n * sizeof *s->items) == 0) {
            *out = m->state_table[at];
            return BAL_OK;
        }
    }
    return new_state(m, c, at, out, err);
}

static void begin(bal_matcher *m, closure *c)
{
    *c = (closure){0};
    if (++m->turn == 0) {
        memset(m->seen, 0, 4 * MAX_ITEMS * sizeof *m->seen);
        m->turn = 1;
    }
}

static bal_status settle(bal_matcher *m, closure *c, int32_t *out, bal_error *err)
{
    while (c->n_work) BAL_TRY(expand(m, c, m->work[--c->n_work], err));
    return intern(m, c, out, err);
}

static bal_status start_state(bal_matcher *m, int32_t *out, bal_error *err)
{
    closure c;
    begin(m, &c);
    BAL_TRY(visit(m, &c, m->g->start, 0, err));
    return settle(m, &c, out, err);
}

static bool in_set(const bal_byte_set *s, unsigned b)
{
    return s->word[b / 64] >> b % 64 & 1;
}

static bal_status step(bal_matcher *m, int32_t from, unsigned char byte, int32_t *out,
                       bal_error *err)
{
    closure c;
    *out = m->states[from]->move[byte];
    if (*out != UNKNOWN) return BAL_OK;
    begin(m, &c);
    const state *s = m->states[from];
    for (int32_t i = 0; i < s->n; i++) {
        const bal_grammar_node *n = &m->g->nodes[s->items[i].node];
        if (in_set(&n->set, byte)) BAL_TRY(visit(m, &c, n->next, s->items[i].stack, err));
    }
    BAL_TRY(settle(m, &c, out, err));
    m->states[from]->move[byte] = *out;
    return BAL_OK;
}

/* ---- Lifetime -------------------------------------------------------------------------------- */

static void drop_states(bal_matcher *m)
{
    for (int32_t i = 0; i < m->n_states; i++) {
        free(m->states[i]->items);
        free(m->states[i]->mask);
        free(m->states[i]);
    }
    m->n_states = 0;
    if (m->state_table) memset(m->state_table, 0xff, m->state_slots * sizeof *m->state_table);
}

static bal_status create(bal_matcher *m, bal_error *err)
{
    m->work = malloc(MAX_ITEMS * sizeof *m->work);
    m->found = malloc(MAX_ITEMS * sizeof *m->found);
    m->seen = calloc(4 * MAX_ITEMS, sizeof *m->seen);
    m->seen_items = malloc(4 * MAX_ITEMS * sizeof *m->seen_items);
    m->path = malloc((m->v->longest + 2) * sizeof *m->path);
    if (!m->work || !m->found || !m->seen || !m->seen_items || !m->path)
        return bal_nomem(err, 16 * MAX_ITEMS * sizeof *m->work, "a grammar's matcher");
    BAL_TRY(grow_stacks(m, err));
    return start_state(m, &m->now, err);
}

bal_status bal_matcher_create(bal_matcher **out, const bal_grammar *g, const bal_vocab *v,
                              bal_error *err)
{
    bal_matcher *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m) return bal_nomem(err, sizeof *m, "a grammar's matcher");
    m->g = g;
    m->v = v;
    const bal_status st = create(m, err);
    if (st < 0)
        bal_matcher_destroy(m);
    else
        *out = m;
    return st;
}

void bal_matcher_destroy(bal_matcher *m)
{
    if (!m) return;
    drop_states(m);
    free(m->stacks);
    free(m->stack_table);
    free(m->states);
    free(m->state_table);
    free(m->work);
    free(m->found);
    free(m->seen);
    free(m->seen_items);
    free(m->path);
    free(m);
}

/* ---- Use ------------------------------------------------------------------------------------- */

bool bal_matcher_complete(const bal_matcher *m)
{
    return m->states[m->now]->complete;
}

/* The start is always state 0: it was the first, and so it is after every rebuild. */
void bal_matcher_reset(bal_matcher *m)
{
    m->now = 0;
    m->n_read = 0;
}

bal_status bal_matcher_push(bal_matcher *m, const char *bytes, size_t n, bool *fits, bal_error *err)
{
    int32_t at = m->now;
    *fits = true;
    for (size_t i = 0; i < n; i++) {
        BAL_TRY(step(m, at, (unsigned char)bytes[i], &at, err));
        if (at != DEAD) continue;
        *fits = false;
        return BAL_OK;
    }
    m->now = at;
    return BAL_OK;
}

/* A stack written out, top first, for moving it to a new table. */
typedef struct spelled {
    int32_t node, n;
    int32_t returns[MAX_DEPTH];
} spelled;

static bal_status respell(bal_matcher *m, const spelled *all, int32_t n, bool complete,
                          bal_error *err)
{
    closure c;
    begin(m, &c);
    c.complete = complete;
    for (int32_t i = 0; i < n; i++) {
        int32_t on = 0;
        for (int32_t j = all[i].n; j-- > 0;)
            BAL_TRY(push_stack(m, on, all[i].returns[j], &on, err));
        m->found[c.n_found++] = (item){all[i].node, on};
    }
    return intern(m, &c, &m->now, err);
}

/* Throws everything away but the start and where we stand. */
static bal_status rebuild(bal_matcher *m, bal_error *err)
{
    const state *s = m->states[m->now];
    const int32_t n = s->n;
    const bool complete = s->complete;
    int32_t start;
    spelled *all = malloc(((size_t)n + 1) * sizeof *all);
    if (!all) return bal_nomem(err, (size_t)n * sizeof *all, "a grammar's state");
    for (int32_t i = 0; i < n; i++) {
        all[i].node = s->items[i].node;
        all[i].n = 0;
        for (int32_t at = s->items[i].stack; at; at = m->stacks[at].parent)
            all[i].returns[all[i].n++] = m->stacks[at].node;
    }
    drop_states(m);
    m->n_stacks = 1;
    memset(m->stack_table, 0xff, m->stack_slots * sizeof *m->stack_table);
    bal_status st = start_state(m, &start, err);
    if (st == BAL_OK) st = respell(m, all, n, complete, err);
    free(all);
    return st;
}

/* Walks the sorted vocabulary: path[d] is the state after d bytes of the token at hand, known up to
 * `alive` bytes. A token that shares the byte at which its predecessor died dies with it. */
static bal_status fill_mask(bal_matcher *m, uint64_t *mask, bal_error *err)
{
    const bal_vocab *v = m->v;
    size_t alive = 0;
    bool died = false;
    m->path[0] = m->now;
    for (size_t i = 0; i < v->n_order; i++) {
        const bal_token_view t = bal_tokenizer_decode(v->tokenizer, v->order[i], false);
        const size_t same = v->same[i];
        if (died && same > alive) continue;
        alive = bal_min(alive, same);
        for (died = false; alive < t.n; alive++) {
            BAL_TRY(
                step(m, m->path[alive], (unsigned char)t.bytes[alive], &m->path[alive + 1], err));
            died = m->path[alive + 1] == DEAD;
            if (died) break;
        }
        const int32_t id = v->order[i];
        if (!died) mask[id / 64] |= (uint64_t)1 << id % 64;
    }
    return BAL_OK;
}

static bal_status mask_of_state(bal_matcher *m, const uint64_t **out, bal_error *err)
{
    const bal_vocab *v = m->v;
    const size_t words = bal_ceil_div((size_t)v->n_ids, 64);
    if (m->n_states > SOFT_STATES || m->n_stacks > SOFT_STACKS) BAL_TRY(rebuild(m, err));
    if (!m->states[m->now]->mask) {
        uint64_t *mask = calloc(words + 1, sizeof *mask);
        if (!mask) return bal_nomem(err, words * sizeof *mask, "a grammar's mask");
        const bal_status st = fill_mask(m, mask, err);
        if (st < 0) free(mask);
        BAL_TRY(st);
        m->states[m->now]->mask = mask;
        for (int i = 0; i < v->n_ends && bal_matcher_complete(m); i++)
            mask[v->ends[i] / 64] |= (uint64_t)1 << v->ends[i] % 64;
    }
    *out = m->states[m->now]->mask;
    return BAL_OK;
}

/* The tokens that came since the last call. */
static bal_status catch_up(bal_matcher *m, const int32_t *ids, int n, bal_error *err)
{
    if (n < m->n_read) bal_matcher_reset(m);
    for (; m->n_read < n; m->n_read++) {
        const bal_token_view t = bal_tokenizer_decode(m->v->tokenizer, ids[m->n_read], false);
        bool fits;
        BAL_TRY(bal_matcher_push(m, t.bytes, t.n, &fits, err));
        if (!fits)
            return bal_fail(err, BAL_E_ARG, "token %d does not fit the grammar of response_format",
                            (int)ids[m->n_read]);
    }
    return BAL_OK;
}

bal_status bal_matcher_mask(void *ctx, const int32_t *ids, int n, uint64_t *allowed, bal_error *err)
{
    bal_matcher *m = ctx;
    const uint64_t *mask = NULL;
    BAL_TRY(catch_up(m, ids, n, err));
    BAL_TRY(mask_of_state(m, &mask, err));
    for (size_t i = 0; i < bal_ceil_div((size_t)m->v->n_ids, 64); i++) allowed[i] &= mask[i];
    return BAL_OK;
}
