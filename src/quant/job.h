/* SPDX-License-Identifier: MIT
 * Inside quant/ only: everything the steps of solving one block share. block.c owns it; collect.c
 * fills stores and statistics, search.c finds scales, clip.c shrinks ranges. */
#ifndef BAL_QUANT_JOB_H
#define BAL_QUANT_JOB_H

#include "quant/fold.h"
#include "quant/losses.h"
#include "quant/panels.h"
#include "quant/probe.h"

/* Rows that candidates of row-wise groups run on together: short samples are joined, which halves
 * what packing weights and waking threads cost. */
enum { BAL_JOB_BATCH = 256 };

enum { BAL_SOLVE_STEPS = 3 };            /* of a group: moments, factor, codes */
enum { BAL_JOB_TALLIES = 2 * BAL_SUBS }; /* an error and a reference of both sub-blocks */

typedef struct bal_block_job {
    const bal_exec *e;
    const bal_text_config *c;
    const bal_decoder_layer *layer; /* the float block as it was */
    int index;
    const bal_samples *samples;
    const bal_store *in_float, *in_quant;
    const bal_recipe *recipe;
    bal_quantizer quantizer[BAL_DECODER_LINEARS];
    double ratio[BAL_SUBS];
    bal_act act[BAL_GROUPS];              /* how each group will read its inputs */
    float clip[BAL_GROUPS][BAL_ACT_ROWS]; /* parts of the largest input that fixed scales hold */
    bal_step_fn *step;
    void *step_ctx;
    long done, total;

    bal_store ref[BAL_SUBS];             /* sub-module outputs of the float stream */
    bal_store x[BAL_GROUPS];             /* what each group's candidates read */
    bal_channel_stats stats[BAL_GROUPS]; /* of x */
    bal_layer_copy work;                 /* the block with scales folded, later clipped */
    bal_wide_layer trial;                /* what runs: the float block, a candidate, or rounded */
    bal_probe probe;
    bal_pass pass;
    int max_rows;                          /* max_len + BAL_JOB_BATCH */
    float *h, *out, *want;                 /* [max_rows][hidden] */
    float *rows;                           /* [max_rows][widest linear input] */
    uint8_t *tags;                         /* [max_rows] modalities of these rows */
    size_t *place;                         /* [max_rows] and their numbers among all */
    bal_row_error *sums;                   /* [max_rows] */
    bal_row_error *tally[BAL_JOB_TALLIES]; /* [rows of all samples] errors, added when complete */
} bal_block_job;

/* Row number of the first position of a sample, all samples being one behind the other. */
static inline size_t bal_job_row0(const bal_block_job *j, int sample)
{
    return j->ref[0].row0[sample];
}

/* Collective: sums of tally `which` over the samples with `judges` (NULL: all), rows of a modality
 * without weight left out (weight NULL: none is). Each rank has filled the rows of its own samples.
 */
bal_status bal_job_sum(bal_block_job *j, int which, const bool *judges, const double *weight,
                       bal_error_sums *sums, bal_error *err);

int bal_job_group_width(const bal_block_job *j, int group);

/* Runs the block in trial on the hidden states `in` of every sample. keep_ref:
 * writes ref[]. groups (bit per group): writes x[] and starts stats[] anew. NaN and Inf fail,
 * naming layer, tensor, sample and position. */
bal_status bal_job_collect(bal_block_job *j, const bal_store *in, unsigned groups, bool keep_ref,
                           bal_error *err);

/* Output errors of both sub-blocks of trial on the float stream, and sums of the float outputs
 * themselves where `ref` is not NULL. */
bal_status bal_job_errors(bal_block_job *j, bal_error_sums errors[BAL_SUBS], bal_error_sums *ref,
                          bal_error *err);

/* Errors of trial at the output that the group is judged by (docs/numerics.md, "The scale search"),
 * against ref[], on the rows that weigh something; x[] of the group must be there.
 * The group reads x / s as j->act says (s NULL: x). */
bal_status bal_job_group_errors(bal_block_job *j, int group, const float *s, bal_error_sums *sums,
                                bal_error *err);

/* act[group] at scale s (NULL: none), its fixed scales made for the largest |x| / s in stats[group]
 * and clip[group]. */
bal_act bal_job_act(const bal_block_job *j, int group, const float *s);
/* Chooses clip[group] at scale s as the recipe says and fixes the scales of act[group] with it.
 * Collective; stats[group] and x[group] must be there. Nothing happens to a path without fixed
 * scales. */
bal_status bal_job_settle(bal_block_job *j, int group, const float *s, bal_error *err);

/* SmoothQuant's scale for one group, from the ranges of its inputs and of its columns in work. */
bal_status bal_job_smooth(bal_block_job *j, int group, bal_group_log *log, bal_error *err);

enum { BAL_PROXY_ROWS = 512 }; /* that stand for a linear: every so many-th of a larger one */
/* The fast objective: the form of the balanced second moments of the group's inputs x[], and what
 * scale s (NULL: none) costs by it, summed over the group's linears. */
bal_status bal_job_form(bal_block_job *j, int group, bal_panels *form, bal_error *err);
bal_status bal_job_proxy_loss(bal_block_job *j, int group, const bal_panels *form, const float *s,
                              double *loss, bal_error *err);

/* The 20-point search for one group: fills the log. What is in trial afterwards is undefined. */
bal_status bal_job_search(bal_block_job *j, int group, bal_group_log *log, bal_error *err);

/* Clips the weights of linear i in work (scales already folded; s is the scale of its group or
 * NULL) as the recipe says. */
bal_status bal_job_clip(bal_block_job *j, int i, const float *s, bal_error *err);

/* Codes for all seven linears of work by the recipe's solver, `out` being empty; fills steps of the
 * logs, whose scales are in work already. x and stats must be those of the float stream. */
bal_status bal_job_solve(bal_block_job *j, bal_quantized_linear out[BAL_DECODER_LINEARS],
                         bal_group_log log[BAL_GROUPS], const char *dir, bal_error *err);

/* One step is done; BAL_E_CANCELLED if the caller wants to stop. */
bal_status bal_job_step(bal_block_job *j, const char *stage, bal_error *err);

#endif
