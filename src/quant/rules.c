/* SPDX-License-Identifier: MIT
 * Rules first, moves below. Ties are broken by the unit's number, so the same problem gives the
 * same choices everywhere. */
#include "quant/rules.h"

#include "quant/recipe.h"

#include <stdlib.h>
#include <string.h>

enum { V = 2, O = 3, DOWN = 6, TURNS = 6 };

/* ---- Rules ------------------------------------------------------------------------------------
 */

/* 0 comes first. */
static int turn_of(const bal_alloc_problem *p, int unit)
{
    const int layers = p->units / BAL_RECIPE_LINEARS;
    const int layer = unit / BAL_RECIPE_LINEARS, linear = unit % BAL_RECIPE_LINEARS;
    const bool outer = layer < 2 || layer == layers - 1;
    if (outer) return linear == DOWN ? 0 : 1;
    return linear == DOWN ? 2 : linear == V ? 3 : linear == O ? 4 : 5;
}

static void widest_for_all(int *choice, const bal_alloc_problem *p)
{
    for (int option = 1; option < p->options; option++) {
        for (int u = 0; u < p->units; u++) choice[u] = option;
        if (bal_alloc_bytes(p, choice) <= p->budget) continue;
        for (int u = 0; u < p->units; u++) choice[u] = option - 1;
        return;
    }
}

bal_status bal_alloc_rules(int *choice, const bal_alloc_problem *p, bal_error *err)
{
    if (bal_alloc_least(p) > p->budget)
        return bal_fail(err, BAL_E_ARG, "a budget of %llu bytes: the least possible is %llu",
                        (unsigned long long)p->budget, (unsigned long long)bal_alloc_least(p));
    memset(choice, 0, (size_t)p->units * sizeof *choice);
    widest_for_all(choice, p);
    if (choice[0] == p->options - 1) return BAL_OK;
    uint64_t left = p->budget - bal_alloc_bytes(p, choice);
    for (int turn = 0; turn < TURNS; turn++)
        for (int u = 0; u < p->units; u++) {
            if (turn_of(p, u) != turn) continue;
            const bal_alloc_option *o = &p->option[u * p->options + choice[u]];
            const uint64_t more = o[1].n_bytes - o[0].n_bytes;
            if (more > left) continue;
            choice[u]++;
            left -= more;
        }
    return BAL_OK;
}

/* ---- Moves ------------------------------------------------------------------------------------
 */

static int by_gain(const void *a, const void *b)
{
    const bal_move *x = a, *y = b;
    if (x->rate != y->rate) return x->rate < y->rate ? 1 : -1;
    return x->unit - y->unit;
}

static int by_loss(const void *a, const void *b)
{
    const bal_move *x = a, *y = b;
    if (x->rate != y->rate) return x->rate > y->rate ? 1 : -1;
    return x->unit - y->unit;
}

static void add_move(bal_moves *m, int unit, int from, int to)
{
    const bal_alloc_option *o = &m->problem->option[unit * m->problem->options];
    const int narrow = from < to ? from : to, wide = from < to ? to : from;
    const double bytes = (double)(o[wide].n_bytes - o[narrow].n_bytes);
    const bal_move move = {unit, (o[narrow].cost - o[wide].cost) / bytes};
    if (from < to)
        m->up[m->n_up++] = move;
    else
        m->down[m->n_down++] = move;
}

bal_status bal_moves_create(bal_moves *m, const bal_alloc_problem *p, const int *from,
                            const int *to, bal_error *err)
{
    const size_t units = (size_t)p->units;
    *m = (bal_moves){.problem = p, .to = to};
    m->up = malloc(2 * units * sizeof *m->up);
    if (!m->up) return bal_nomem(err, 2 * units * sizeof *m->up, "moves of widths");
    m->down = m->up + units;
    for (int u = 0; u < p->units; u++)
        if (from[u] != to[u]) add_move(m, u, from[u], to[u]);
    qsort(m->up, (size_t)m->n_up, sizeof *m->up, by_gain);
    qsort(m->down, (size_t)m->n_down, sizeof *m->down, by_loss);
    m->batch = (m->n_up + BAL_MOVE_BATCHES - 1) / BAL_MOVE_BATCHES;
    return BAL_OK;
}

void bal_moves_destroy(bal_moves *m)
{
    free(m->up);
    *m = (bal_moves){0};
}

bool bal_moves_next(bal_moves *m, const int *now, int *trial)
{
    const bal_alloc_problem *p = m->problem;
    memcpy(trial, now, (size_t)p->units * sizeof *trial);
    if (m->at_up == m->n_up) return false;
    for (int n = 0; n < m->batch && m->at_up < m->n_up; n++) {
        const int unit = m->up[m->at_up++].unit;
        trial[unit] = m->to[unit];
    }
    while (bal_alloc_bytes(p, trial) > p->budget && m->at_down < m->n_down) {
        const int unit = m->down[m->at_down++].unit;
        trial[unit] = m->to[unit];
    }
    return bal_alloc_bytes(p, trial) <= p->budget;
}
