/* SPDX-License-Identifier: MIT
 * Fixed scales of 8-bit activations: how much of the largest input they should hold. Beyond it
 * bytes saturate; what that costs against finer steps is measured on the inputs themselves. */
#include "quant/actsim.h"
#include "quant/job.h"

#include <math.h>
#include <string.h>

/* Parts of the largest input that are tried: 1, 2^-1/4, 2^-1/2, ... 2^-6. A range that is cut a few
 * times further than the best has always been worse; the search ends there. */
enum { POINTS = 25, PER_OCTAVE = 4 };
static const double HOPELESS = 4.0;

bal_act bal_job_act(const bal_block_job *j, int group, const float *s)
{
    bal_act act = j->act[group];
    bal_act_fix(&act, &j->stats[group], s, j->clip[group]);
    return act;
}

/* Squared errors of the group's inputs x / s, by modality, as `act` reads them. */
static bal_status input_errors(bal_block_job *j, int group, const float *s, bal_act act,
                               bal_error_sums *sums, bal_error *err)
{
    const size_t k = (size_t)bal_job_group_width(j, group);
    for (int i = 0; i < j->samples->n; i++) {
        const bal_sample *sample = &j->samples->items[i];
        const size_t floats = (size_t)sample->n * k;
        if (!bal_rank_owns(j->samples->rank, i)) continue;
        BAL_TRY(bal_store_read(&j->x[group], i, j->rows, err));
        for (size_t c = 0; s && c < floats; c++) j->rows[c] /= s[c % k];
        memcpy(j->trial.rows, j->rows, floats * sizeof *j->rows);
        bal_act_simulate(j->e, act, NULL, sample->modality, j->trial.rows, sample->n, (int)k);
        bal_row_errors(j->e->pool, j->rows, j->trial.rows, sample->n, (int)k,
                       j->tally[0] + bal_job_row0(j, i));
    }
    return bal_job_sum(j, 0, NULL, NULL, sums, err);
}

/* Of the tokens that share scale `row`; with one scale, of all. */
static double error_of(const bal_error_sums *sums, bal_act act, int row)
{
    double sum = 0.0;
    for (int m = 0; m < BAL_MODALITIES; m++)
        if (act.scale == BAL_ACT_STATIC || (int)bal_act_row_of(m) == row) sum += sums->sq[m];
    return sum;
}

/* Every point is tried for both scales at once: neither reads the other's tokens. */
static bal_status search(bal_block_job *j, int group, const float *s, bal_error *err)
{
    double least[BAL_ACT_ROWS] = {INFINITY, INFINITY};
    float best[BAL_ACT_ROWS] = {1.0f, 1.0f};
    bool going = true;
    for (int i = 0; going && i < POINTS; i++) {
        bal_error_sums sums;
        const float part = exp2f(-(float)i / PER_OCTAVE);
        for (int row = 0; row < BAL_ACT_ROWS; row++) j->clip[group][row] = part;
        const bal_act act = bal_job_act(j, group, s);
        BAL_TRY(input_errors(j, group, s, act, &sums, err));
        going = false;
        for (int row = 0; row < BAL_ACT_ROWS; row++) {
            const double error = error_of(&sums, act, row);
            going = going || error < HOPELESS * least[row];
            if (!(error < least[row])) continue;
            least[row] = error;
            best[row] = part;
        }
    }
    /* a modality that was not seen has the other's scale */
    const int64_t *seen = j->stats[group].count;
    if (!seen[BAL_VISION]) best[BAL_ACT_VISION] = best[BAL_ACT_TEXT];
    if (!seen[BAL_PROMPT] && !seen[BAL_ANSWER]) best[BAL_ACT_TEXT] = best[BAL_ACT_VISION];
    memcpy(j->clip[group], best, sizeof best);
    return BAL_OK;
}

bal_status bal_job_settle(bal_block_job *j, int group, const float *s, bal_error *err)
{
    if (j->act[group].scale == BAL_ACT_DYNAMIC) return BAL_OK;
    for (int row = 0; row < BAL_ACT_ROWS; row++) j->clip[group][row] = 1.0f;
    if (j->recipe->act_clip == BAL_ACT_CLIP_MSE) BAL_TRY(search(j, group, s, err));
    j->act[group] = bal_job_act(j, group, s);
    return BAL_OK;
}
