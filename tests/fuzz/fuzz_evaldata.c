/* SPDX-License-Identifier: MIT
 * Any bytes as an evaluation file. What is accepted must keep its promises: a question and an
 * answer in each line, groups numbered in the order of the file, `order` a permutation that goes
 * group by group. */
#include "run/evaldata.h"
#include "run/evaluate.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_question(const bal_evaldata *d, const bal_eval_question *q)
{
    char path[4096], *normal;
    bal_error err;
    if (!q->question[0] || q->n_answers < 1 || q->group >= d->n_groups) abort();
    for (int i = 0; i < q->n_images; i++) bal_evaldata_image_path(d, q, i, path, sizeof path, &err);
    for (int i = 0; i < q->n_answers; i++) {
        if (!q->answers[i][0]) abort();
        if (bal_eval_normalise(&normal, q->answers[i], &err) == BAL_OK) free(normal);
    }
}

static void check_order(const bal_evaldata *d)
{
    size_t next = 0;
    for (size_t i = 0; i < d->n; i++) {
        const bal_eval_question *q = &d->questions[i];
        if (q->group > next) abort();
        next += q->group == next;
    }
    if (next != d->n_groups) abort();
    for (size_t i = 1; i < d->n; i++) {
        const size_t a = d->order[i - 1], b = d->order[i];
        const size_t ga = d->questions[a].group, gb = d->questions[b].group;
        if (ga > gb || (ga == gb && a >= b)) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bal_evaldata d;
    bal_error err;
    if (bal_evaldata_parse(&d, (const char *)data, size, "fuzz/eval.jsonl", &err) < 0) return 0;
    for (size_t i = 0; i < d.n; i++) check_question(&d, &d.questions[i]);
    check_order(&d);
    bal_evaldata_close(&d);
    return 0;
}
