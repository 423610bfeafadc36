/* SPDX-License-Identifier: MIT
 * A recipe: every choice of a quantization method as a named option. Recipes are small JSON files
 * (recipes/, "extends" inherits); --set KEY=VALUE overrides; an unknown key or value fails and
 * names the allowed ones. The ambiguities of the published MBQ code and paper are options here;
 * recipe "mbq" is the published configuration. */
#ifndef BAL_QUANT_RECIPE_H
#define BAL_QUANT_RECIPE_H

#include "base/status.h"
#include "type/act.h"
#include "type/packed.h"

/* residual: the residual stream is rotated before anything is measured (transform.h) */
typedef enum bal_rotate { BAL_ROTATE_NONE, BAL_ROTATE_RESIDUAL } bal_rotate;
/* inputs that go through Hadamard's transform at run time: none, those of down, also those of o */
typedef enum bal_mixing { BAL_MIXING_NONE, BAL_MIXING_DOWN, BAL_MIXING_ALL } bal_mixing;
/* search: AWQ's 20-point channel scale search; smooth: SmoothQuant's closed form with `alpha`, on
 * the inputs that a norm makes; none: s = 1 */
typedef enum bal_scale { BAL_SCALE_NONE, BAL_SCALE_SEARCH, BAL_SCALE_SMOOTH } bal_scale;
/* off: every position weighs 1, prompt included (AWQ); one: answer and vision weigh 1, prompt 0;
 * gradient: answer 1, vision r = |g vision| / |g answer|, prompt 0 (MBQ) */
typedef enum bal_balance { BAL_BALANCE_OFF, BAL_BALANCE_ONE, BAL_BALANCE_GRADIENT } bal_balance;
/* mae: pooled sums over answer and vision tokens; mse: per-modality means (MBQ's two modes; with
 * balance off both are plain means) */
typedef enum bal_loss { BAL_LOSS_MAE, BAL_LOSS_MSE } bal_loss;
/* what judges a candidate of the scale search: the sub-module's output, by running it on every
 * token; or tr(dW H dW^T) at the outputs of the group's own linears, which costs no tokens */
typedef enum bal_objective { BAL_OBJECTIVE_OUTPUT, BAL_OBJECTIVE_MOMENTS } bal_objective;
/* median: r = max(r, median over layers) (in the code, not in the paper); none. Two controls of
 * what the ratio of a layer is worth: flat = the median in every layer; reversed = every layer has
 * the ratio of the layer as far from the other end */
typedef enum bal_floor {
    BAL_FLOOR_NONE,
    BAL_FLOOR_MEDIAN,
    BAL_FLOOR_FLAT,
    BAL_FLOOR_REVERSED
} bal_floor;
/* sample: mean per sample, then over samples; token: pooled over all tokens */
typedef enum bal_average { BAL_AVERAGE_SAMPLE, BAL_AVERAGE_TOKEN } bal_average;
/* the channel statistic m behind the scales: plain = mean |x| over all rows; balanced = answer rows
 * weigh 1, vision rows r, prompt rows 0 */
typedef enum bal_statistic { BAL_STATISTIC_PLAIN, BAL_STATISTIC_BALANCED } bal_statistic;
/* which positions are "language": answer = assistant turns; text = prompt too */
typedef enum bal_language { BAL_LANGUAGE_ANSWER, BAL_LANGUAGE_TEXT } bal_language;
/* gradient arithmetic: f16 rounds as an fp16 backward with the 1/N factor would (underflow
 * included); f32 does not */
typedef enum bal_gradient { BAL_GRADIENT_F32, BAL_GRADIENT_F16 } bal_gradient;
/* arithmetic of the simulated quantizer, of s and of the fold. model = the type of the checkpoint's
 * decoder weights; the pipeline resolves it before any solver sees the recipe */
typedef enum bal_arith { BAL_ARITH_F32, BAL_ARITH_F16, BAL_ARITH_BF16, BAL_ARITH_MODEL } bal_arith;
/* inputs with spikes, which would cost a8 most of its range: read as the others; as a16; with a
 * scale per 32 inputs */
typedef enum bal_spikes { BAL_SPIKES_KEEP, BAL_SPIKES_A16, BAL_SPIKES_FINE } bal_spikes;
/* what counts as one: bal_act_spikes, bal_act_tail */
typedef enum bal_spike_rule { BAL_SPIKE_MEAN, BAL_SPIKE_TAIL } bal_spike_rule;
/* fixed scales of a8 hold: the largest input of calibration; the part of it with the least squared
 * error */
typedef enum bal_act_clip { BAL_ACT_CLIP_MAX, BAL_ACT_CLIP_MSE } bal_act_clip;
/* asym, sym: codes between minimum and maximum, or around zero; table: skewed levels with a signed
 * step per group; two-level: asym with integer steps per group (type/packed.h); trellis: levels by
 * the codes of several outputs (trellis.h), with store float */
typedef enum bal_grid {
    BAL_GRID_ASYM,
    BAL_GRID_SYM,
    BAL_GRID_TABLE,
    BAL_GRID_TWO_LEVEL,
    BAL_GRID_TRELLIS
} bal_grid;
/* what ranges of grid asym hold: minimum and maximum only, so that a group of one sign saturates
 * and a constant one is lost (AWQ's and MBQ's programs); or 0 too (GPTQ's program). Groups with
 * both signs are the same. Grids table and two-level always hold 0, sym is around it. */
typedef enum bal_extent { BAL_EXTENT_MINMAX, BAL_EXTENT_ZERO } bal_extent;
/* none; awq = AWQ's symmetric clip by output error of group partial sums; diag = clip weighted by
 * the balanced diag(H); block = by the group's block of the balanced H; inverse = by 1 / [H^-1]_jj,
 * what an error costs that all other columns make up for; pivot = by D_jj of H = M D M^T, what one
 * costs that the columns behind it make up for */
typedef enum bal_clip {
    BAL_CLIP_NONE,
    BAL_CLIP_AWQ,
    BAL_CLIP_DIAG,
    BAL_CLIP_BLOCK,
    BAL_CLIP_INVERSE,
    BAL_CLIP_PIVOT
} bal_clip;
/* round: to nearest; gptq: error feedback along H (docs/numerics.md, "Error feedback"); descent:
 * coordinate descent from rounding on, as QuantEase */
typedef enum bal_solver { BAL_SOLVER_ROUND, BAL_SOLVER_GPTQ, BAL_SOLVER_DESCENT } bal_solver;
/* what H of the solver is made of: inputs in the float model, or in the model as quantized so far,
 * linear group by linear group */
typedef enum bal_inputs { BAL_INPUTS_FLOAT, BAL_INPUTS_QUANTIZED } bal_inputs;
/* what tokens weigh in H: as in the loss (balance, loss, language); the same with r^2; all alike;
 * one modality only; by the mean square of the gradient at the linears' own outputs, each token's
 * own (raw), cut off above the upper quartile of its modality by 1.5 quartile distances (grad2), or
 * the modality's mean; by how much a token is attended to in its block; q, k, v and o by the
 * squared mean gradient of what their block's attention has lost so far, the rest all alike */
typedef enum bal_hessian {
    BAL_HESSIAN_BALANCED,
    BAL_HESSIAN_SQUARED,
    BAL_HESSIAN_ALL,
    BAL_HESSIAN_ANSWER,
    BAL_HESSIAN_VISION,
    BAL_HESSIAN_GRAD2,
    BAL_HESSIAN_GRAD2_RAW,
    BAL_HESSIAN_GRAD2_MEAN,
    BAL_HESSIAN_ATTENTION,
    BAL_HESSIAN_LOCAL
} bal_hessian;
/* columns as they stand, or in the order of falling H_jj (groups stay where they are) */
typedef enum bal_order { BAL_ORDER_NONE, BAL_ORDER_DIAG } bal_order;
/* targets: W; W moved so that quantized inputs give what float inputs gave; the same and what the
 * residual stream has lost on top, for o and down; moved column by column while codes are chosen,
 * as GPTAQ does */
typedef enum bal_shift {
    BAL_SHIFT_OFF,
    BAL_SHIFT_INPUTS,
    BAL_SHIFT_RESIDUAL,
    BAL_SHIFT_COLUMN
} bal_shift;
/* behind the solver: nothing; coordinate descent over codes; also over scales and zero points */
typedef enum bal_polishing { BAL_POLISH_NONE, BAL_POLISH_SWEEP, BAL_POLISH_REFIT } bal_polishing;
/* which rows of inputs get the matrix of small rank: all, from codes that know of it; vision alone
 */
typedef enum bal_low_rows { BAL_LOW_ALL, BAL_LOW_VISION } bal_low_rows;
/* widths with bits=auto: by what each costs alone; by rules, which measure nothing; from rules to
 * costs as far as the model as a whole is better for it */
typedef enum bal_allocation {
    BAL_ALLOCATE_SCORE,
    BAL_ALLOCATE_RULES,
    BAL_ALLOCATE_VERIFIED
} bal_allocation;
/* answers: all assistant turns, or the last one only */
typedef enum bal_turns { BAL_TURNS_ALL, BAL_TURNS_LAST } bal_turns;
/* chat: the model's own template; legacy: "### Human: ... ### Assistant: ..." as the published
 * code fell back to for LLaVA-OneVision */
typedef enum bal_template { BAL_TEMPLATE_CHAT, BAL_TEMPLATE_LEGACY } bal_template;
/* anyres: as in use; single: one padded base view per picture, as the published calibration */
typedef enum bal_views { BAL_VIEWS_ANYRES, BAL_VIEWS_SINGLE } bal_views;

/* how the decoder's linears are written: packed, or as plain f32 with the same values, which is
 * what formats without storage and kernel are judged by */
typedef enum bal_storage { BAL_STORAGE_PACKED, BAL_STORAGE_FLOAT } bal_storage;

/* a modality of the model that no calibration token has: an error, or accepted */
typedef enum bal_absent { BAL_ABSENT_REFUSE, BAL_ABSENT_ALLOW } bal_absent;

/* bits: every tensor gets its own, under target_bpw or target_size */
enum { BAL_BITS_AUTO = 0, BAL_RECIPE_LINEARS = 7, BAL_RECIPE_GROUPS = 4 };
enum { BAL_SPIKE_GROUP = 32 }; /* inputs that share a scale with spikes=fine */
typedef uint8_t bal_linear_bits[BAL_RECIPE_LINEARS];

/* What is packed beside the decoder's blocks, each at bits of its own (keys of the same names). */
typedef enum bal_side { BAL_SIDE_VISION, BAL_SIDE_PROJECTOR, BAL_SIDE_HEAD, BAL_SIDES } bal_side;
enum { BAL_SIDE_AUTO = -1 }; /* each linear its own, under the side's target_bpw */
extern const char *const bal_side_names[BAL_SIDES]; /* "vision", "projector", "head" */

typedef struct bal_recipe {
    char name[64];
    int bits;                /* 2, 3, 4, 6, 8, or BAL_BITS_AUTO */
    bool mixed;              /* groups of columns may have a bit less or more (with store float) */
    int group;               /* 16 (with store float), 32, 64, 128, or 0: the whole row */
    int side[BAL_SIDES];     /* bits of each side: 4, 6, 8, BAL_SIDE_AUTO, or 0: as they are */
    bal_act_kind vision_act; /* how tower and projector read their inputs where they are packed */
    bal_grid grid;
    int tables; /* of grid table, that each group chooses from: 1, or 2 (with store float) */
    bal_extent range;
    bal_act_kind act; /* how the linears read their inputs */
    int act_group;    /* inputs that share a scale of a8: 32, 128, or 0: the token */
    bal_act_scale act_scale;
    bal_act_clip act_clip;
    bal_spikes spikes;
    bal_spike_rule spike_rule;
    bal_rotate rotate;
    bal_mixing hadamard;
    bal_scale scale;
    int alpha; /* of smooth, in hundredths */
    bal_balance balance;
    bal_loss loss;
    bal_objective objective;
    bal_floor floor;
    bal_average average;
    bal_statistic statistic;
    bal_language language;
    bal_gradient gradient;
    bal_arith arithmetic;
    bool distort; /* candidates are fed what the quantized model would see */
    bal_clip clip;
    bal_solver solver;
    bal_inputs inputs;
    bal_hessian hessian;
    int row_groups; /* of outputs, each with second moments by its own gradients; 0, 1: one */
    int damp;       /* thousandths of the mean diag(H) that are added to it */
    bal_order order;
    bal_shift shift;
    int ridge;      /* of the shift, in thousandths likewise */
    int shift_part; /* how much of the shift is taken, in hundredths */
    bal_polishing polish;
    bool gain; /* rows of the solver are scaled to slope 1 */
    int rank;  /* of a matrix that is added to the codes' weights; 0: none */
    bal_low_rows rank_rows;
    bool undo; /* of the solver's steps, those that raise the error on held-out samples */
    bal_allocation allocate;
    bal_turns turns;
    bal_template chat_template;
    bal_views views;
    bal_absent absent;
    bal_storage store;

    double target_bpw;          /* with bits auto one of the two: bits per weight of the linears */
    double target_size;         /* bytes of the file; 0: not given */
    double side_bpw[BAL_SIDES]; /* bits per weight of a side that is auto; 0: not given */
    /* With bits auto, the width of each linear (q k v o gate up down) of the block at hand; the
     * pipeline fills it before any solver sees the recipe. */
    bal_linear_bits linear_bits;

    uint64_t chosen; /* a bit per key of the table in recipe.c: set since the recipe was loaded */
} bal_recipe;

/* Of linear i of a block. */
static inline int bal_recipe_bits(const bal_recipe *r, int i)
{
    return r->bits != BAL_BITS_AUTO ? r->bits : r->linear_bits[i];
}

/* Whether any side's bits are to be chosen by what its linears do to what the model sees. */
bool bal_recipe_prices_sides(const bal_recipe *r);
/* Whether bits=auto measures what widths cost. */
bool bal_recipe_prices_widths(const bal_recipe *r);

/* How linear i of a block is packed. */
bal_packed_format bal_recipe_format(const bal_recipe *r, int i);

/* A recipe that is compiled in, generated from recipes/ at build time; ends with a NULL name. */
typedef struct bal_recipe_text {
    const char *name, *json;
} bal_recipe_text;
extern const bal_recipe_text bal_recipe_builtin[];

/* `name` is a built-in recipe, or a file if it holds a '/' or ends in ".json". "extends" names a
 * built-in recipe or a file beside the extending one. On failure *r is zero. */
bal_status bal_recipe_load(bal_recipe *r, const char *name, bal_error *err);
/* One override: a key of the table in recipe.c and one of its words. */
bal_status bal_recipe_set(bal_recipe *r, const char *key, const char *value, bal_error *err);
/* The same written "KEY=VALUE", as on the command line. */
bal_status bal_recipe_assign(bal_recipe *r, const char *assignment, bal_error *err);
/* Behind all overrides: keys that none of them set, and that are part of a choice which is not made
 * any more (shift_part with shift=off, a budget with bits=3), go back to what says nothing. */
void bal_recipe_drop_idle(bal_recipe *r);
/* Whether the keys fit together; the sentence names two that do not and what would. */
bal_status bal_recipe_check(const bal_recipe *r, bal_error *err);
/* Whether any step looks at calibration data; whether the solver of solve.h is needed; whether
 * that wants gradients of single tokens. */
bool bal_recipe_needs_data(const bal_recipe *r);
bool bal_recipe_solves(const bal_recipe *r);
bool bal_recipe_weighs_tokens(const bal_recipe *r);
/* Columns of a layer in the store of them: one per scale group of linears, or with row groups one
 * per linear (q k v o gate up down) and row group. */
int bal_recipe_token_columns(const bal_recipe *r);
/* One line of JSON with the name and every key in table order: the same recipe gives the same
 * bytes. *out is malloc'ed. */
bal_status bal_recipe_to_json(const bal_recipe *r, char **out, bal_error *err);

/* The recipe that such a line says. Keys it lacks, as those of an older version, are those of the
 * built-in recipe of its name, or rtn's. */
bal_status bal_recipe_parse(bal_recipe *r, const char *text, bal_error *err);
/* "hessian=local shift=column": what the recipe has other than the built-in one of its name;
 * empty where there is none of that name. */
void bal_recipe_changes(const bal_recipe *r, char *out, size_t size);
/* Of such a line, for people: "gptq, with hessian=local shift=column", or the name alone; empty for
 * what is no recipe. */
enum { BAL_RECIPE_TITLE = 600 };
void bal_recipe_title_of(const char *text, char out[BAL_RECIPE_TITLE]);

/* Built-in recipe number i and its own "about", cut if longer; false past the end. */
bool bal_recipe_about(size_t i, const char **name, char about[400]);

/* Key number i of the table with its words ("2 3 4 8") and what it means; false past the end. */
bool bal_recipe_describe(size_t i, const char **key, char words[120], const char **help);

#endif
