/* SPDX-License-Identifier: MIT
 * Sweep, exchange, branch and bound. The sweep alone is within one step of the optimum; exchange
 * moves one or two units at a time; the search settles small problems for good and stops after a
 * fixed number of nodes on large ones, where it rarely finds more. */
#include "quant/allocate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_NODES = 1 << 17, MOST_ROUNDS = 1000 };

/* From one point of a unit's hull to the next: more bytes, less cost. */
typedef struct hull_step {
    int unit, to;     /* option reached */
    int from;         /* option left */
    uint64_t n_bytes; /* added */
    double gain;      /* cost saved */
    double slope;     /* gain per byte */
} hull_step;

typedef struct solver {
    const bal_alloc_problem *p;
    hull_step *steps; /* steepest first */
    int n_steps;
    int *best;  /* [units] */
    int *trial; /* [units] of the search */
    uint64_t n_bytes;
    double cost; /* of best */
    long nodes;
} solver;

static const bal_alloc_option *option_at(const bal_alloc_problem *p, int unit, int i)
{
    return &p->option[(size_t)unit * (size_t)p->options + (size_t)i];
}

uint64_t bal_alloc_least(const bal_alloc_problem *p)
{
    uint64_t sum = 0;
    for (int u = 0; u < p->units; u++) sum += option_at(p, u, 0)->n_bytes;
    return sum;
}

uint64_t bal_alloc_most(const bal_alloc_problem *p)
{
    uint64_t sum = 0;
    for (int u = 0; u < p->units; u++) sum += option_at(p, u, p->options - 1)->n_bytes;
    return sum;
}

uint64_t bal_alloc_bytes(const bal_alloc_problem *p, const int *choice)
{
    uint64_t sum = 0;
    for (int u = 0; u < p->units; u++) sum += option_at(p, u, choice[u])->n_bytes;
    return sum;
}

double bal_alloc_cost(const bal_alloc_problem *p, const int *choice)
{
    double sum = 0.0;
    for (int u = 0; u < p->units; u++) sum += option_at(p, u, choice[u])->cost;
    return sum;
}

/* ---- Hull -------------------------------------------------------------------------------------
 */

static double slope_of(const bal_alloc_option *a, const bal_alloc_option *b)
{
    return (a->cost - b->cost) / (double)(b->n_bytes - a->n_bytes);
}

/* The steps of one unit: from each point to the one that saves most per byte, the farthest of
 * equals, until nothing saves. */
static void add_hull(solver *s, int unit)
{
    for (int at = 0;;) {
        const bal_alloc_option *here = option_at(s->p, unit, at);
        int next = -1;
        double steepest = 0.0;
        for (int i = at + 1; i < s->p->options; i++) {
            const double slope = slope_of(here, option_at(s->p, unit, i));
            if (slope <= 0.0 || slope < steepest) continue;
            steepest = slope;
            next = i;
        }
        if (next < 0) return;
        const bal_alloc_option *there = option_at(s->p, unit, next);
        s->steps[s->n_steps++] = (hull_step){
            unit, next, at, there->n_bytes - here->n_bytes, here->cost - there->cost, steepest};
        at = next;
    }
}

static int steeper(const void *a, const void *b)
{
    const hull_step *x = a, *y = b;
    if (x->slope != y->slope) return x->slope > y->slope ? -1 : 1;
    if (x->unit != y->unit) return x->unit < y->unit ? -1 : 1;
    return (x->to > y->to) - (x->to < y->to);
}

/* ---- Sweep ------------------------------------------------------------------------------------
 */

/* From the least bytes down the slopes. Until the first step that does not fit this is what the
 * Lagrangian with that slope as its price gives, and a fraction of that step bounds every
 * allocation. What still fits behind it is taken as well. */
static double sweep(solver *s)
{
    double cost = bal_alloc_cost(s->p, s->best), bound = cost;
    uint64_t room = s->p->budget - bal_alloc_least(s->p);
    bool whole = true;
    for (int i = 0; i < s->n_steps; i++) {
        const hull_step *t = &s->steps[i];
        if (whole && t->n_bytes > room) bound = cost - t->slope * (double)room;
        whole = whole && t->n_bytes <= room;
        if (t->n_bytes > room || s->best[t->unit] != t->from) continue;
        s->best[t->unit] = t->to;
        room -= t->n_bytes;
        cost -= t->gain;
    }
    return whole ? bal_alloc_cost(s->p, s->best) : bound;
}

static void measure(solver *s)
{
    s->n_bytes = bal_alloc_bytes(s->p, s->best);
    s->cost = bal_alloc_cost(s->p, s->best);
}

/* ---- Exchange ---------------------------------------------------------------------------------
 */

/* Gives unit u option i if that saves and fits into the budget. */
static bool move_one(solver *s, int u, int i)
{
    const bal_alloc_option *was = option_at(s->p, u, s->best[u]), *is = option_at(s->p, u, i);
    if (is->cost >= was->cost || s->n_bytes - was->n_bytes + is->n_bytes > s->p->budget)
        return false;
    s->best[u] = i;
    measure(s);
    return true;
}

static bool move_two(solver *s, int u, int v, int i, int k)
{
    const bal_alloc_option *a = option_at(s->p, u, s->best[u]), *b = option_at(s->p, v, s->best[v]);
    const bal_alloc_option *x = option_at(s->p, u, i), *y = option_at(s->p, v, k);
    if ((x->cost - a->cost) + (y->cost - b->cost) >= 0.0) return false;
    if (s->n_bytes - a->n_bytes - b->n_bytes + x->n_bytes + y->n_bytes > s->p->budget) return false;
    const int was_u = s->best[u], was_v = s->best[v];
    const double before = s->cost;
    s->best[u] = i;
    s->best[v] = k;
    measure(s);
    if (s->cost < before) return true; /* not by rounding alone: or two states could alternate */
    s->best[u] = was_u;
    s->best[v] = was_v;
    measure(s);
    return false;
}

static bool exchange_round(solver *s)
{
    const int n = s->p->options;
    bool moved = false;
    for (int u = 0; u < s->p->units; u++) {
        for (int i = 0; i < n; i++) moved |= i != s->best[u] && move_one(s, u, i);
        for (int v = u + 1; v < s->p->units; v++)
            for (int pair = 0; pair < n * n; pair++) moved |= move_two(s, u, v, pair / n, pair % n);
    }
    return moved;
}

/* ---- Search -----------------------------------------------------------------------------------
 */

/* What the units from `unit` on cost at least within `room` bytes beyond their least. */
static double rest_bound(const solver *s, int unit, uint64_t room)
{
    double cost = 0.0;
    for (int u = unit; u < s->p->units; u++) cost += option_at(s->p, u, 0)->cost;
    for (int i = 0; i < s->n_steps; i++) {
        const hull_step *t = &s->steps[i];
        if (t->unit < unit) continue;
        if (t->n_bytes > room) return cost - t->slope * (double)room;
        room -= t->n_bytes;
        cost -= t->gain;
    }
    return cost;
}

/* Every option of `unit` with every one of those behind it, unless its bound says that it cannot
 * be better. room: bytes beyond the least of the units not yet chosen. */
static void search(solver *s, int unit, double cost, uint64_t room)
{
    if (s->nodes >= MOST_NODES) return;
    s->nodes++;
    if (unit == s->p->units) {
        const double exact = bal_alloc_cost(s->p, s->trial);
        if (exact >= s->cost) return;
        memcpy(s->best, s->trial, (size_t)s->p->units * sizeof *s->best);
        measure(s);
        return;
    }
    const double slack = 1e-12 * fabs(s->cost);
    if (cost + rest_bound(s, unit, room) >= s->cost - slack) return;
    const uint64_t least = option_at(s->p, unit, 0)->n_bytes;
    for (int i = 0; i < s->p->options; i++) {
        const bal_alloc_option *o = option_at(s->p, unit, i);
        if (o->n_bytes - least > room) return;
        s->trial[unit] = i;
        search(s, unit + 1, cost + o->cost, room - (o->n_bytes - least));
    }
}

/* ---- All ----------------------------------------------------------------------------------------
 */

static bal_status check(const bal_alloc_problem *p, bal_error *err)
{
    if (p->units < 1 || p->options < 1 || p->options > BAL_ALLOC_MAX_OPTIONS)
        return bal_fail(err, BAL_E_ARG, "an allocation of %d units with %d options", p->units,
                        p->options);
    for (int u = 0; u < p->units; u++)
        for (int i = 0; i < p->options; i++) {
            if (!isfinite(option_at(p, u, i)->cost))
                return bal_fail(err, BAL_E_NUMERIC, "unit %d, option %d: a cost of %g", u, i,
                                option_at(p, u, i)->cost);
            if (i > 0 && option_at(p, u, i)->n_bytes <= option_at(p, u, i - 1)->n_bytes)
                return bal_fail(err, BAL_E_ARG,
                                "unit %d, option %d is not larger than the one "
                                "before",
                                u, i);
        }
    if (bal_alloc_least(p) <= p->budget) return BAL_OK;
    return bal_fail(err, BAL_E_ARG, "a budget of %llu bytes; the least possible is %llu",
                    (unsigned long long)p->budget, (unsigned long long)bal_alloc_least(p));
}

static bal_status create(solver *s, const bal_alloc_problem *p, bal_error *err)
{
    const size_t units = (size_t)p->units, steps = units * (size_t)p->options;
    *s = (solver){.p = p};
    s->steps = calloc(steps, sizeof *s->steps);
    s->best = calloc(units, sizeof *s->best);
    s->trial = calloc(units, sizeof *s->trial);
    if (s->steps && s->best && s->trial) return BAL_OK;
    return bal_nomem(err, steps * sizeof *s->steps, "allocation of widths");
}

static void destroy(solver *s)
{
    free(s->steps);
    free(s->best);
    free(s->trial);
}

bal_status bal_allocate(int *choice, bal_alloc_result *r, const bal_alloc_problem *p,
                        bal_error *err)
{
    solver s;
    *r = (bal_alloc_result){0};
    BAL_TRY(check(p, err));
    bal_status st = create(&s, p, err);
    if (st >= 0) {
        for (int u = 0; u < p->units; u++) add_hull(&s, u);
        qsort(s.steps, (size_t)s.n_steps, sizeof *s.steps, steeper);
        r->bound = sweep(&s);
        measure(&s);
        for (int i = 0; i < MOST_ROUNDS && exchange_round(&s); i++) continue;
        search(&s, 0, 0.0, p->budget - bal_alloc_least(p));
        memcpy(choice, s.best, (size_t)p->units * sizeof *choice);
        r->n_bytes = s.n_bytes;
        r->cost = s.cost;
        r->proved = s.nodes < MOST_NODES;
    }
    destroy(&s);
    return st;
}
