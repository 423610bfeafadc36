/* SPDX-License-Identifier: MIT
 * Any bytes as a calibration file. What is accepted must keep its promises: tags equal pictures,
 * an answer in each record, no tag left in a text. */
#include "quant/calib.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_record(const bal_calib *c, const bal_calib_record *r)
{
    int tags = 0, answers = 0;
    for (int i = 0; i < r->n_turns; i++) {
        tags += r->turns[i].n_images;
        answers += r->turns[i].role == BAL_CALIB_ASSISTANT;
    }
    if (tags != r->n_images || answers == 0) abort();
    char path[4096];
    bal_error err;
    for (int i = 0; i < r->n_images; i++) bal_calib_image_path(c, r, i, path, sizeof path, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bal_calib c;
    bal_error err;
    if (bal_calib_parse(&c, (const char *)data, size, "fuzz/calib.jsonl", &err) < 0) return 0;
    for (size_t i = 0; i < c.n; i++) check_record(&c, &c.records[i]);
    size_t *order, n;
    if (bal_calib_choose(&c, 4, size, &order, &n, &err) < 0 || n > c.n) abort();
    if (bal_calib_join(&c, order, &n, 2, &err) == BAL_OK)
        for (size_t i = 0; i < n; i++) check_record(&c, &c.records[order[i]]);
    free(order);
    bal_calib_close(&c);
    return 0;
}
