/* SPDX-License-Identifier: MIT
 * Memory for one whole sample in a block: pages like a session's, but for one layer and without
 * growth. Owns it; computes nothing but rotary tables. */
#include "quant/pass.h"

#include "base/half.h"
#include "base/size.h"
#include "model/rope.h"

#include <stdlib.h>

static bal_status make_pages(bal_pass *p, const bal_text_config *c, bal_error *err)
{
    const size_t n = bal_ceil_div((size_t)p->max_len, BAL_PAGE);
    size_t bytes;
    BAL_TRY(bal_kv_layout_init(&p->kv, BAL_KV_F32, 1, c->kv_heads, c->head_dim, err));
    if (!bal_size_mul(n, p->kv.page_bytes, &bytes))
        return bal_fail(err, BAL_E_ARG, "a calibration sample of %d positions", p->max_len);
    p->pages = calloc(n, sizeof *p->pages);
    p->page_memory = aligned_alloc(64, bytes);
    if (!p->pages || !p->page_memory) return bal_nomem(err, bytes, "keys and values of a sample");
    for (size_t i = 0; i < n; i++) p->pages[i] = p->page_memory + i * p->kv.page_bytes;
    return BAL_OK;
}

/* Positions 0, 1, 2, ... */
static void count_up(bal_pass *p)
{
    const int half = p->config->head_dim / 2;
    for (int i = 0; i < p->max_len; i++) {
        const int32_t pos[1][3] = {{i, i, i}};
        const size_t at = (size_t)i * (size_t)half;
        bal_rope_angles(p->config, pos, 1, p->cos + at, p->sin + at);
    }
    p->placed = false;
}

static bal_status make_angles(bal_pass *p, bal_error *err)
{
    const size_t bytes = (size_t)p->max_len * (size_t)p->config->head_dim / 2 * sizeof(float);
    p->cos = malloc(bytes);
    p->sin = malloc(bytes);
    if (!p->cos || !p->sin) return bal_nomem(err, 2 * bytes, "rotary tables");
    count_up(p);
    return BAL_OK;
}

void bal_pass_place(bal_pass *p, const bal_sample *s)
{
    p->modality = s->modality;
    if (s->pos) {
        bal_rope_angles(p->config, (const int32_t(*)[3])s->pos, s->n, p->cos, p->sin);
        p->placed = true;
    } else if (p->placed)
        count_up(p);
}

bal_status bal_pass_create(bal_pass *p, const bal_text_config *c, int max_len, bal_error *err)
{
    *p = (bal_pass){.max_len = max_len, .config = c};
    if (max_len < 1)
        return bal_fail(err, BAL_E_ARG, "calibration samples of %d positions", max_len);
    bal_status st = bal_decoder_buf_create(&p->buf, c, max_len, err);
    if (st >= 0) st = make_pages(p, c, err);
    if (st >= 0) st = make_angles(p, err);
    if (st < 0) bal_pass_destroy(p);
    return st;
}

void bal_pass_destroy(bal_pass *p)
{
    bal_decoder_buf_destroy(&p->buf);
    free(p->pages);
    free(p->page_memory);
    free(p->cos);
    free(p->sin);
    *p = (bal_pass){0};
}

bal_rows bal_pass_rows(bal_pass *p, int n)
{
    p->span = (bal_kv_span){.m = n, .pages = p->pages};
    return (bal_rows){.m = n,
                      .cos = p->cos,
                      .sin = p->sin,
                      .modality = p->modality,
                      .kv = &p->kv,
                      .spans = &p->span,
                      .n_spans = 1};
}

static bool not_finite(float x)
{
    return (bal_f32_bits(x) & 0x7f800000u) == 0x7f800000u;
}

/* Two passes, because the first without a branch in its loop is vectorized and nearly always the
 * only one. */
long bal_first_not_finite(const float *x, size_t n)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++) bad |= not_finite(x[i]);
    for (size_t i = 0; bad && i < n; i++)
        if (not_finite(x[i])) return (long)i;
    return -1;
}
