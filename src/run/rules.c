/* SPDX-License-Identifier: MIT */
#include "run/rules.h"

#include "run/sampler.h"

#include <math.h>
#include <string.h>

static const float FORBIDS = -100.0f;

bool bal_rules_any(const bal_rules *r)
{
    const bool repeats = r->repetition_penalty != 0.0f && r->repetition_penalty != 1.0f;
    return repeats || r->presence_penalty != 0.0f || r->frequency_penalty != 0.0f || r->n_bias ||
           r->mask;
}

bal_status bal_rules_check(const bal_rules *r, int vocab, bal_error *err)
{
    if (!(r->repetition_penalty >= 0.0f && r->repetition_penalty <= 100.0f))
        return bal_fail(err, BAL_E_ARG, "repetition_penalty: %g, expected more than 0, at most 100",
                        (double)r->repetition_penalty);
    if (!(fabsf(r->presence_penalty) <= 100.0f) || !(fabsf(r->frequency_penalty) <= 100.0f))
        return bal_fail(err, BAL_E_ARG, "presence or frequency penalty out of -100 to 100");
    for (int i = 0; i < r->n_bias; i++) {
        if (r->bias[i].id < 0 || r->bias[i].id >= vocab)
            return bal_fail(err, BAL_E_ARG, "logit_bias: token %d, the model has 0 to %d",
                            r->bias[i].id, vocab - 1);
        if (!isfinite(r->bias[i].bias))
            return bal_fail(err, BAL_E_ARG, "logit_bias of token %d is not finite", r->bias[i].id);
    }
    return BAL_OK;
}

/* Whether a bit was clear; it is set now. */
static bool first_time(uint64_t *bits, int32_t id)
{
    uint64_t *word = &bits[id / 64];
    const uint64_t bit = (uint64_t)1 << (id % 64);
    const bool first = !(*word & bit);
    *word |= bit;
    return first;
}

static void discourage(float *logits, uint64_t *seen, int32_t id, float penalty)
{
    if (!first_time(seen, id)) return;
    logits[id] = logits[id] > 0.0f ? logits[id] / penalty : logits[id] * penalty;
}

static void penalties(const bal_rules *r, const bal_token_info *prompt, int n_prompt,
                      const int32_t *answer, int n_answer, float *logits, int vocab, uint64_t *bits)
{
    const size_t bytes = bal_rules_words(vocab) * sizeof *bits;
    if (r->repetition_penalty != 0.0f && r->repetition_penalty != 1.0f) {
        memset(bits, 0, bytes);
        for (int i = 0; i < n_prompt; i++)
            if (prompt[i].modality != BAL_VISION)
                discourage(logits, bits, prompt[i].id, r->repetition_penalty);
        for (int i = 0; i < n_answer; i++)
            discourage(logits, bits, answer[i], r->repetition_penalty);
    }
    if (r->presence_penalty == 0.0f && r->frequency_penalty == 0.0f) return;
    memset(bits, 0, bytes);
    for (int i = 0; i < n_answer; i++) {
        logits[answer[i]] -= r->frequency_penalty;
        if (first_time(bits, answer[i])) logits[answer[i]] -= r->presence_penalty;
    }
}

static bal_status apply_mask(const bal_rules *r, const int32_t *answer, int n_answer, float *logits,
                             int vocab, uint64_t *bits, bal_error *err)
{
    memset(bits, 0xff, bal_rules_words(vocab) * sizeof *bits);
    BAL_TRY(r->mask(r->mask_ctx, answer, n_answer, bits, err));
    for (int i = 0; i < vocab; i++)
        if (!(bits[i / 64] >> (i % 64) & 1)) logits[i] = -INFINITY;
    return BAL_OK;
}

bal_status bal_rules_apply(const bal_rules *r, const bal_token_info *prompt, int n_prompt,
                           const int32_t *answer, int n_answer, float *logits, int vocab,
                           uint64_t *bits, bal_error *err)
{
    penalties(r, prompt, n_prompt, answer, n_answer, logits, vocab, bits);
    for (int i = 0; i < r->n_bias; i++) {
        const bal_logit_bias b = r->bias[i];
        logits[b.id] = b.bias <= FORBIDS ? -INFINITY : logits[b.id] + b.bias;
    }
    if (r->mask) BAL_TRY(apply_mask(r, answer, n_answer, logits, vocab, bits, err));
    if (logits[bal_argmax(logits, vocab)] == -INFINITY)
        return bal_fail(err, BAL_E_ARG, "no token may follow after %d of the answer", n_answer);
    return BAL_OK;
}

/* Whether a goes before b. */
static bool likelier(const float *logits, int32_t a, int32_t b)
{
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

void bal_top_tokens(const float *logits, int vocab, int n, bal_token_prob *out)
{
    const double total = n > 0 ? bal_log_sum_exp(logits, vocab) : 0.0;
    int have = 0;
    for (int32_t id = 0; id < vocab && n > 0; id++) {
        if (have == n && !likelier(logits, id, out[n - 1].id)) continue;
        int at = have < n ? have++ : n - 1;
        for (; at > 0 && likelier(logits, id, out[at - 1].id); at--) out[at] = out[at - 1];
        out[at].id = id;
    }
    for (int i = 0; i < have; i++) out[i].logprob = (float)((double)logits[out[i].id] - total);
}
