/* SPDX-License-Identifier: MIT
 * Recipes: one table of keys drives reading, overriding, printing and help. Refuses unknown keys
 * and values by listing the allowed ones. Read recipe.h first, for what the words mean. */
#include "quant/recipe.h"

#include "base/file.h"
#include "format/json.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_EXTENDS = 8, MAX_WORDS = 11, MAX_BYTES = 1 << 16 };

typedef struct word {
    const char *text; /* NULL ends the list */
    int value;
} word;

typedef struct key {
    const char *name;
    size_t offset, size;
    word words[MAX_WORDS];
    const char *help;
} key;

/* enums are stored like the int fields, so one reader and one writer do for all but the bool */
static_assert(sizeof(bal_grid) == sizeof(int) && sizeof(bal_clip) == sizeof(int), "enum is an int");

const char *const bal_side_names[BAL_SIDES] = {"vision", "projector", "head"};

#define FIELD(f) offsetof(bal_recipe, f), sizeof(((bal_recipe *)0)->f)

static const key KEYS[] = {
    {"bits",
     FIELD(bits),
     {{"2", 2}, {"3", 3}, {"4", 4}, {"6", 6}, {"8", 8}, {"auto", BAL_BITS_AUTO}},
     "bits per weight code; auto: each tensor its own, under a target"},
    {"group",
     FIELD(group),
     {{"16", 16}, {"32", 32}, {"64", 64}, {"128", 128}, {"row", 0}},
     "weights that share a scale and a zero point; 16 with store=float"},
    {"group_bits",
     FIELD(mixed),
     {{"alike", 0}, {"mixed", 1}},
     "bits of a linear's groups of columns: all alike, or (store=float, solver=gptq, grid=asym, "
     "clip=none) some one less, as many one more"},
    {"vision",
     FIELD(side[BAL_SIDE_VISION]),
     {{"float", 0}, {"4", 4}, {"6", 6}, {"8", 8}, {"auto", BAL_SIDE_AUTO}},
     "bits of the vision tower, rounded to nearest; float: as it is"},
    {"projector",
     FIELD(side[BAL_SIDE_PROJECTOR]),
     {{"float", 0}, {"4", 4}, {"6", 6}, {"8", 8}, {"auto", BAL_SIDE_AUTO}},
     "bits of the projector likewise"},
    {"head",
     FIELD(side[BAL_SIDE_HEAD]),
     {{"float", 0}, {"4", 4}, {"6", 6}, {"8", 8}, {"auto", BAL_SIDE_AUTO}},
     "bits of the head likewise; the embedding table stays"},
    {"vision_act",
     FIELD(vision_act),
     {{"a16", BAL_ACT_A16}, {"a8", BAL_ACT_A8}},
     "inputs of tower and projector where they are packed: 16-bit integers, or bytes per patch"},
    {"grid",
     FIELD(grid),
     {{"asym", BAL_GRID_ASYM},
      {"sym", BAL_GRID_SYM},
      {"table", BAL_GRID_TABLE},
      {"two-level", BAL_GRID_TWO_LEVEL},
      {"trellis", BAL_GRID_TRELLIS}},
     "codes between minimum and maximum, around zero, in skewed tables, with integer steps, or "
     "(store=float) in a trellis"},
    {"tables",
     FIELD(tables),
     {{"1", 1}, {"2", 2}},
     "with grid=table: tables that each group chooses from; 2 with store=float"},
    {"range",
     FIELD(range),
     {{"minmax", BAL_EXTENT_MINMAX}, {"zero", BAL_EXTENT_ZERO}},
     "what a range of grid=asym holds: minimum and maximum, or 0 besides"},
    {"act",
     FIELD(act),
     {{"a16", BAL_ACT_A16}, {"a8", BAL_ACT_A8}},
     "inputs of the linears: 16-bit integers, or bytes"},
    {"act_group",
     FIELD(act_group),
     {{"32", 32}, {"128", 128}, {"row", 0}},
     "inputs that share a scale of a8; row: one scale per token"},
    {"act_scale",
     FIELD(act_scale),
     {{"dynamic", BAL_ACT_DYNAMIC},
      {"static", BAL_ACT_STATIC},
      {"static-modality", BAL_ACT_STATIC_MODALITY}},
     "scales of a8: from each token, fixed by calibration, fixed for vision and text apart"},
    {"act_clip",
     FIELD(act_clip),
     {{"max", BAL_ACT_CLIP_MAX}, {"mse", BAL_ACT_CLIP_MSE}},
     "what fixed scales hold: all that calibration saw, or what costs the least squared error"},
    {"spikes",
     FIELD(spikes),
     {{"keep", BAL_SPIKES_KEEP}, {"a16", BAL_SPIKES_A16}, {"fine", BAL_SPIKES_FINE}},
     "linears whose inputs have spikes: as the others, a16, or bytes in groups of 32"},
    {"spike_rule",
     FIELD(spike_rule),
     {{"mean", BAL_SPIKE_MEAN}, {"tail", BAL_SPIKE_TAIL}},
     "a spike: max |x| beyond 127 times the mean, or 8 times the 99.9th percentile"},
    {"rotate",
     FIELD(rotate),
     {{"none", BAL_ROTATE_NONE}, {"residual", BAL_ROTATE_RESIDUAL}},
     "basis of the residual stream: as it is, or rotated into all weights beside it"},
    {"hadamard",
     FIELD(hadamard),
     {{"none", BAL_MIXING_NONE}, {"down", BAL_MIXING_DOWN}, {"all", BAL_MIXING_ALL}},
     "inputs mixed at run time so that none stands out: none, those of down, of o too"},
    {"scale",
     FIELD(scale),
     {{"none", BAL_SCALE_NONE}, {"search", BAL_SCALE_SEARCH}, {"smooth", BAL_SCALE_SMOOTH}},
     "channel scales: none, the best of 20 exponents, or SmoothQuant's"},
    {"alpha",
     FIELD(alpha),
     {{"0.4", 40}, {"0.5", 50}, {"0.6", 60}, {"0.7", 70}, {"0.8", 80}, {"0.9", 90}},
     "how much of the range smooth moves from inputs to weights"},
    {"balance",
     FIELD(balance),
     {{"off", BAL_BALANCE_OFF}, {"one", BAL_BALANCE_ONE}, {"gradient", BAL_BALANCE_GRADIENT}},
     "weight of vision against answer tokens; off counts the prompt too"},
    {"loss",
     FIELD(loss),
     {{"mae", BAL_LOSS_MAE}, {"mse", BAL_LOSS_MSE}},
     "what the scale search minimises"},
    {"objective",
     FIELD(objective),
     {{"output", BAL_OBJECTIVE_OUTPUT}, {"moments", BAL_OBJECTIVE_MOMENTS}},
     "how the search measures: every candidate run on all tokens, or by second moments"},
    {"floor",
     FIELD(floor),
     {{"none", BAL_FLOOR_NONE},
      {"median", BAL_FLOOR_MEDIAN},
      {"flat", BAL_FLOOR_FLAT},
      {"reversed", BAL_FLOOR_REVERSED}},
     "least vision weight of a layer: none, or the median; as controls the median in all layers, "
     "or layers swapped"},
    {"average",
     FIELD(average),
     {{"sample", BAL_AVERAGE_SAMPLE}, {"token", BAL_AVERAGE_TOKEN}},
     "gradients averaged per sample first, or pooled over tokens"},
    {"statistic",
     FIELD(statistic),
     {{"plain", BAL_STATISTIC_PLAIN}, {"balanced", BAL_STATISTIC_BALANCED}},
     "channel magnitudes over all tokens, or balanced like the loss"},
    {"language",
     FIELD(language),
     {{"answer", BAL_LANGUAGE_ANSWER}, {"text", BAL_LANGUAGE_TEXT}},
     "language tokens: the answers, or all text"},
    {"gradient",
     FIELD(gradient),
     {{"f32", BAL_GRADIENT_F32}, {"f16", BAL_GRADIENT_F16}},
     "gradient arithmetic; f16 underflows as the published code does"},
    {"arithmetic",
     FIELD(arithmetic),
     {{"f32", BAL_ARITH_F32},
      {"f16", BAL_ARITH_F16},
      {"bf16", BAL_ARITH_BF16},
      {"model", BAL_ARITH_MODEL}},
     "arithmetic of the quantizer; model is the checkpoint's type"},
    {"distort",
     FIELD(distort),
     {{"off", false}, {"on", true}},
     "search on the inputs that the quantized model would see"},
    {"clip",
     FIELD(clip),
     {{"none", BAL_CLIP_NONE},
      {"awq", BAL_CLIP_AWQ},
      {"diag", BAL_CLIP_DIAG},
      {"block", BAL_CLIP_BLOCK},
      {"inverse", BAL_CLIP_INVERSE},
      {"pivot", BAL_CLIP_PIVOT}},
     "narrower ranges: none, AWQ's, or by balanced second moments"},
    {"solver",
     FIELD(solver),
     {{"round", BAL_SOLVER_ROUND}, {"gptq", BAL_SOLVER_GPTQ}, {"descent", BAL_SOLVER_DESCENT}},
     "codes: to nearest, by error feedback, or by coordinate descent"},
    {"inputs",
     FIELD(inputs),
     {{"float", BAL_INPUTS_FLOAT}, {"quantized", BAL_INPUTS_QUANTIZED}},
     "the solver's second moments: of the float model, or as quantized so far"},
    {"hessian",
     FIELD(hessian),
     {{"balanced", BAL_HESSIAN_BALANCED},
      {"squared", BAL_HESSIAN_SQUARED},
      {"all", BAL_HESSIAN_ALL},
      {"answer", BAL_HESSIAN_ANSWER},
      {"vision", BAL_HESSIAN_VISION},
      {"grad2", BAL_HESSIAN_GRAD2},
      {"grad2-raw", BAL_HESSIAN_GRAD2_RAW},
      {"grad2-mean", BAL_HESSIAN_GRAD2_MEAN},
      {"attention", BAL_HESSIAN_ATTENTION},
      {"local", BAL_HESSIAN_LOCAL}},
     "tokens in the second moments: as in the loss, with r^2, all alike, one kind, by gradient, by "
     "attention, or by the gradient of their block's own loss"},
    {"row_groups",
     FIELD(row_groups),
     {{"1", 1}, {"2", 2}, {"4", 4}, {"8", 8}},
     "parts of a linear's outputs, each with second moments by its own gradients"},
    {"damp",
     FIELD(damp),
     {{"0.001", 1}, {"0.01", 10}, {"0.025", 25}, {"0.05", 50}, {"0.1", 100}},
     "added to the diagonal of the second moments, as a part of its mean"},
    {"order",
     FIELD(order),
     {{"none", BAL_ORDER_NONE}, {"diag", BAL_ORDER_DIAG}},
     "columns for error feedback: as they are, or the largest inputs first"},
    {"shift",
     FIELD(shift),
     {{"off", BAL_SHIFT_OFF},
      {"inputs", BAL_SHIFT_INPUTS},
      {"residual", BAL_SHIFT_RESIDUAL},
      {"column", BAL_SHIFT_COLUMN}},
     "targets that make up for quantized inputs, and for the residual stream; or column by column"},
    {"ridge",
     FIELD(ridge),
     {{"0.01", 10}, {"0.1", 100}, {"1", 1000}},
     "what holds the shift back, as a part of the mean diagonal"},
    {"shift_part",
     FIELD(shift_part),
     {{"0.25", 25}, {"0.5", 50}, {"1", 100}},
     "how much of the shift is taken"},
    {"polish",
     FIELD(polish),
     {{"none", BAL_POLISH_NONE}, {"sweep", BAL_POLISH_SWEEP}, {"refit", BAL_POLISH_REFIT}},
     "behind the solver: coordinate descent over codes, and over scales"},
    {"gain",
     FIELD(gain),
     {{"off", false}, {"row", true}},
     "behind the solver: rows as they are, or scaled so that none falls short"},
    {"rank",
     FIELD(rank),
     {{"0", 0}, {"4", 4}, {"8", 8}, {"16", 16}, {"32", 32}, {"64", 64}},
     "of a 16-bit matrix that takes up what the codes leave, beside them"},
    {"rank_rows",
     FIELD(rank_rows),
     {{"all", BAL_LOW_ALL}, {"vision", BAL_LOW_VISION}},
     "tokens that get it: all, with codes solved for that; or vision, with the codes as they are"},
    {"undo",
     FIELD(undo),
     {{"off", false}, {"on", true}},
     "solver steps that raise the error on held-out samples are undone"},
    {"allocate",
     FIELD(allocate),
     {{"score", BAL_ALLOCATE_SCORE},
      {"rules", BAL_ALLOCATE_RULES},
      {"verified", BAL_ALLOCATE_VERIFIED}},
     "with bits=auto: widths by each linear's own cost, by rules, or moved while the answers' KL "
     "falls"},
    {"turns",
     FIELD(turns),
     {{"all", BAL_TURNS_ALL}, {"last", BAL_TURNS_LAST}},
     "assistant turns that count as answers"},
    {"template",
     FIELD(chat_template),
     {{"chat", BAL_TEMPLATE_CHAT}, {"legacy", BAL_TEMPLATE_LEGACY}},
     "the model's own chat template, or the one the published code fell back to"},
    {"views",
     FIELD(views),
     {{"anyres", BAL_VIEWS_ANYRES}, {"single", BAL_VIEWS_SINGLE}},
     "pictures as in use, or one padded view as published"},
    {"absent",
     FIELD(absent),
     {{"refuse", BAL_ABSENT_REFUSE}, {"allow", BAL_ABSENT_ALLOW}},
     "calibration data without pictures for a model that sees: an error, or accepted"},
    {"store",
     FIELD(store),
     {{"packed", BAL_STORAGE_PACKED}, {"float", BAL_STORAGE_FLOAT}},
     "the decoder's linears in the file: packed, or as plain floats of the same values, to judge a "
     "format that has no kernel"},
};

/* Keys with a number instead of a word, each the budget of a key that is auto. */
typedef struct number_key {
    const char *name, *of;
    size_t offset; /* of a double */
    double least, most;
    const char *words, *help;
} number_key;

/* those of the sides last */
static const number_key NUMBERS[] = {
    {"target_bpw", "bits", offsetof(bal_recipe, target_bpw), 1.0, 16.0, "NUMBER",
     "with bits=auto: bits per weight of the quantized linears, scales counted"},
    {"target_size", "bits", offsetof(bal_recipe, target_size), 1.0, 9e15, "BYTES",
     "with bits=auto: bytes of the whole file"},
    {"target_bpw_vision", "vision", offsetof(bal_recipe, side_bpw[BAL_SIDE_VISION]), 1.0, 16.0,
     "NUMBER", "with vision=auto: bits per weight of the vision tower's linears"},
    {"target_bpw_projector", "projector", offsetof(bal_recipe, side_bpw[BAL_SIDE_PROJECTOR]), 1.0,
     16.0, "NUMBER", "with projector=auto: likewise of the projector's"},
    {"target_bpw_head", "head", offsetof(bal_recipe, side_bpw[BAL_SIDE_HEAD]), 1.0, 16.0, "NUMBER",
     "with head=auto: likewise of the head"},
};
enum { N_KEYS = sizeof KEYS / sizeof KEYS[0], N_NUMBERS = sizeof NUMBERS / sizeof NUMBERS[0] };

/* Keys that only say how another choice is made, and the values of that one which ask. With any
 * other it changes nothing: what was inherited goes back to `rest`, what the user set is refused.
 * A key stands behind the one it is part of. */
static const struct {
    const char *name;
    int rest;
    const char *of;
    int least, most;
    const char *needs;
} PARTS[] = {
    {"tables", 1, "grid", BAL_GRID_TABLE, BAL_GRID_TABLE, "grid=table"},
    {"act_scale", BAL_ACT_DYNAMIC, "act", BAL_ACT_A8, BAL_ACT_A8, "act=a8"},
    {"act_clip", BAL_ACT_CLIP_MAX, "act_scale", BAL_ACT_STATIC, BAL_ACT_STATIC_MODALITY,
     "act_scale=static or static-modality"},
    {"spikes", BAL_SPIKES_KEEP, "act", BAL_ACT_A8, BAL_ACT_A8, "act=a8"},
    {"spike_rule", BAL_SPIKE_MEAN, "spikes", BAL_SPIKES_A16, BAL_SPIKES_FINE, "spikes=a16 or fine"},
    {"act_group", 0, "act", BAL_ACT_A8, BAL_ACT_A8, "act=a8"},
    {"alpha", 50, "scale", BAL_SCALE_SMOOTH, BAL_SCALE_SMOOTH, "scale=smooth"},
    {"row_groups", 1, "hessian", BAL_HESSIAN_GRAD2, BAL_HESSIAN_GRAD2_MEAN,
     "hessian=grad2, grad2-raw or grad2-mean"},
    {"ridge", 100, "shift", BAL_SHIFT_INPUTS, BAL_SHIFT_RESIDUAL, "shift=inputs or residual"},
    {"shift_part", 100, "shift", BAL_SHIFT_INPUTS, BAL_SHIFT_COLUMN,
     "shift=inputs, residual or column"},
    {"rank_rows", BAL_LOW_ALL, "rank", 1, 64, "rank=4, 8, 16, 32 or 64"},
    {"allocate", BAL_ALLOCATE_SCORE, "bits", BAL_BITS_AUTO, BAL_BITS_AUTO,
     "bits=auto and a budget (--target-bpw, --target-size)"},
};
enum { N_PARTS = sizeof PARTS / sizeof PARTS[0] };

static void set_field(bal_recipe *r, const key *k, int value)
{
    const bool flag = value != 0;
    memcpy((char *)r + k->offset, k->size == sizeof value ? (const void *)&value : &flag, k->size);
}

static int get_field(const bal_recipe *r, const key *k)
{
    int value = 0;
    bool flag = false;
    memcpy(k->size == sizeof value ? (void *)&value : &flag, (const char *)r + k->offset, k->size);
    return k->size == sizeof value ? value : flag;
}

static const key *find_key(const char *name)
{
    for (size_t i = 0; i < N_KEYS; i++)
        if (strcmp(KEYS[i].name, name) == 0) return &KEYS[i];
    return NULL;
}

static_assert((int)N_KEYS + (int)N_NUMBERS <= 64, "a bit of `chosen` for each key");

static uint64_t bit_of(const key *k)
{
    return (uint64_t)1 << (k - KEYS);
}

static uint64_t bit_of_number(const number_key *k)
{
    return (uint64_t)1 << ((k - NUMBERS) + N_KEYS);
}

/* Whether what key PARTS[i] is part of asks for it. */
static bool is_asked(const bal_recipe *r, size_t i)
{
    const int value = get_field(r, find_key(PARTS[i].of));
    return value >= PARTS[i].least && value <= PARTS[i].most;
}

static const char *word_of(const bal_recipe *r, const key *k)
{
    const int value = get_field(r, k);
    for (const word *w = k->words; w->text; w++)
        if (w->value == value) return w->text;
    return NULL;
}

static void drop_number(bal_recipe *r, const number_key *k)
{
    const char *of = word_of(r, find_key(k->of));
    const double none = 0.0;
    if (r->chosen & bit_of_number(k) || (of && strcmp(of, "auto") == 0)) return;
    memcpy((char *)r + k->offset, &none, sizeof none);
}

void bal_recipe_drop_idle(bal_recipe *r)
{
    for (size_t i = 0; i < N_PARTS; i++) {
        const key *k = find_key(PARTS[i].name);
        if (!is_asked(r, i) && !(r->chosen & bit_of(k))) set_field(r, k, PARTS[i].rest);
    }
    for (size_t i = 0; i < N_NUMBERS; i++) drop_number(r, &NUMBERS[i]);
}

static void join_words(const key *k, const char *separator, char *out, size_t size)
{
    size_t used = 0;
    out[0] = 0;
    for (const word *w = k->words; w->text && used < size; w++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", w == k->words ? "" : separator,
                                 w->text);
}

static void join_keys(char *out, size_t size)
{
    size_t used = 0;
    for (size_t i = 0; i < N_KEYS && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? ", " : "", KEYS[i].name);
    for (size_t i = 0; i < N_NUMBERS - BAL_SIDES && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, ", %s", NUMBERS[i].name);
    if (used < size) snprintf(out + used, size - used, ", target_bpw_SIDE");
}

/* The same word, or the same number: ".25" is "0.25". */
static bool says(const char *text, const char *wanted)
{
    static const char digits[] = "0123456789.";
    if (strcmp(text, wanted) == 0) return true;
    if (!*text || text[strspn(text, digits)] || wanted[strspn(wanted, digits)]) return false;
    char *end;
    const double x = strtod(text, &end);
    return *end == 0 && x == strtod(wanted, NULL);
}

static bal_status set_word(bal_recipe *r, const key *k, const char *text, const char *where,
                           bal_error *err)
{
    for (const word *w = k->words; w->text; w++)
        if (says(text, w->text)) {
            set_field(r, k, w->value);
            r->chosen |= bit_of(k);
            return BAL_OK;
        }
    char words[120];
    join_words(k, ", ", words, sizeof words);
    return bal_fail(err, BAL_E_ARG, "%s: %s must be one of %s, found \"%.60s\"", where, k->name,
                    words, text);
}

static const number_key *find_number(const char *name)
{
    for (size_t i = 0; i < N_NUMBERS; i++)
        if (strcmp(NUMBERS[i].name, name) == 0) return &NUMBERS[i];
    return NULL;
}

static double number_of(const bal_recipe *r, const number_key *k)
{
    double x;
    memcpy(&x, (const char *)r + k->offset, sizeof x);
    return x;
}

static bal_status set_number(bal_recipe *r, const number_key *k, const char *text,
                             const char *where, bal_error *err)
{
    char *end;
    const double x = strtod(text, &end);
    if (end == text || *end || !(x == 0.0 || (x >= k->least && x <= k->most)))
        return bal_fail(err, BAL_E_ARG,
                        "%s: %s must be a number from %.15g to %.15g, or 0 for none, found "
                        "\"%.60s\"",
                        where, k->name, k->least, k->most, text);
    memcpy((char *)r + k->offset, &x, sizeof x);
    r->chosen |= bit_of_number(k);
    return BAL_OK;
}

bal_status bal_recipe_set(bal_recipe *r, const char *name, const char *value, bal_error *err)
{
    const key *k = find_key(name);
    const number_key *number = find_number(name);
    if (k) return set_word(r, k, value, "recipe", err);
    if (number) return set_number(r, number, value, "recipe", err);
    char keys[800];
    join_keys(keys, sizeof keys);
    return bal_fail(err, BAL_E_ARG, "recipe: no key \"%.60s\"; the keys are %s", name, keys);
}

bal_status bal_recipe_assign(bal_recipe *r, const char *assignment, bal_error *err)
{
    char name[64];
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment || (size_t)(equals - assignment) >= sizeof name)
        return bal_fail(err, BAL_E_ARG, "recipe: expected KEY=VALUE, found \"%.80s\"", assignment);
    snprintf(name, sizeof name, "%.*s", (int)(equals - assignment), assignment);
    return bal_recipe_set(r, name, equals + 1, err);
}

/* A value in a recipe file is a word, a number or, for off and on, a boolean. */
static bal_status json_text(const bal_json *v, char number[32], const char **text, bal_error *err)
{
    *text = number;
    if (json_is_string(v->value))
        *text = json_string_value(v->value);
    else if (json_is_integer(v->value))
        snprintf(number, 32, "%" JSON_INTEGER_FORMAT, json_integer_value(v->value));
    else if (json_is_real(v->value))
        snprintf(number, 32, "%.15g", json_real_value(v->value));
    else if (json_is_boolean(v->value))
        *text = json_is_true(v->value) ? "on" : "off";
    else
        return bal_json_mismatch(v, err, "a word or a number");
    return BAL_OK;
}

static bal_status set_json(bal_recipe *r, const key *k, const bal_json *v, bal_error *err)
{
    char number[32];
    const char *text;
    BAL_TRY(json_text(v, number, &text, err));
    return set_word(r, k, text, v->file, err);
}

static bal_status set_json_number(bal_recipe *r, const number_key *k, const bal_json *v,
                                  bal_error *err)
{
    char number[32];
    const char *text;
    BAL_TRY(json_text(v, number, &text, err));
    return set_number(r, k, text, v->file, err);
}

static const char *builtin_text(const char *name)
{
    for (const bal_recipe_text *t = bal_recipe_builtin; t->name; t++)
        if (strcmp(t->name, name) == 0) return t->json;
    return NULL;
}

static bool has_ending(const char *name)
{
    const size_t n = strlen(name);
    return n > 5 && strcmp(name + n - 5, ".json") == 0;
}

static bool is_file_name(const char *name)
{
    return strchr(name, '/') || has_ending(name);
}

static bal_status open_doc(bal_json_doc *doc, const char *name, bal_error *err)
{
    if (is_file_name(name)) return bal_json_load(doc, name, MAX_BYTES, err);
    const char *text = builtin_text(name);
    if (text) return bal_json_parse(doc, text, strlen(text), MAX_BYTES, name, err);
    char names[400];
    size_t used = 0;
    for (const bal_recipe_text *t = bal_recipe_builtin; t->name && used < sizeof names; t++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s",
                                 t == bal_recipe_builtin ? "" : ", ", t->name);
    return bal_fail(err, BAL_E_ARG, "no recipe \"%.80s\"; the recipes are %s, or a FILE.json", name,
                    names);
}

static bal_status load(bal_recipe *r, const char *name, int depth, bal_error *err);

static bal_status load_base(bal_recipe *r, const char *base, const char *name, int depth,
                            bal_error *err)
{
    if (depth == MAX_EXTENDS)
        return bal_fail(err, BAL_E_FORMAT, "%s: more than %d recipes extend each other", name,
                        MAX_EXTENDS);
    if (!is_file_name(base)) return load(r, base, depth + 1, err);
    char dir[1024], path[1200];
    BAL_TRY(bal_path_dir(dir, sizeof dir, is_file_name(name) ? name : ".", err));
    BAL_TRY(bal_path_join(path, sizeof path, dir, base, err));
    return load(r, path, depth + 1, err);
}

static bal_status set_keys(bal_recipe *r, const bal_json *root, bool complete, bal_error *err)
{
    for (size_t i = 0; i < N_NUMBERS; i++) {
        const bal_json v = bal_json_get(root, NUMBERS[i].name);
        if (v.value) BAL_TRY(set_json_number(r, &NUMBERS[i], &v, err));
    }
    for (size_t i = 0; i < N_KEYS; i++) {
        const bal_json v = bal_json_get(root, KEYS[i].name);
        if (v.value)
            BAL_TRY(set_json(r, &KEYS[i], &v, err));
        else if (complete)
            return bal_fail(err, BAL_E_FORMAT,
                            "%s: key \"%s\" is missing; give it, or inherit it with \"extends\"",
                            root->file, KEYS[i].name);
    }
    return BAL_OK;
}

static bal_status read_keys(bal_recipe *r, const bal_json *root, bool complete, bal_error *err)
{
    const char *allowed[N_KEYS + N_NUMBERS + 2] = {"extends", "about"};
    for (size_t i = 0; i < N_KEYS; i++) allowed[i + 2] = KEYS[i].name;
    for (size_t i = 0; i < N_NUMBERS; i++) allowed[N_KEYS + i + 2] = NUMBERS[i].name;
    BAL_TRY(bal_json_only_keys(root, allowed, N_KEYS + N_NUMBERS + 2, err));
    return set_keys(r, root, complete, err);
}

static bal_status read_doc(bal_recipe *r, const bal_json *root, const char *name, int depth,
                           bal_error *err)
{
    const char *base, *about;
    BAL_TRY(bal_json_str_or(root, "extends", NULL, &base, err));
    BAL_TRY(bal_json_str_or(root, "about", NULL, &about, err));
    if (base) BAL_TRY(load_base(r, base, name, depth, err));
    r->chosen = 0;
    BAL_TRY(read_keys(r, root, !base, err));
    bal_recipe_drop_idle(r);
    return BAL_OK;
}

static bal_status load(bal_recipe *r, const char *name, int depth, bal_error *err)
{
    bal_json_doc doc = {0};
    BAL_TRY(open_doc(&doc, name, err));
    const bal_json root = bal_json_root(&doc);
    bal_status st = bal_json_as_obj(&root, err);
    if (st == BAL_OK) st = read_doc(r, &root, name, depth, err);
    bal_json_close(&doc);
    return st;
}

bal_status bal_recipe_load(bal_recipe *r, const char *name, bal_error *err)
{
    *r = (bal_recipe){0};
    const bal_status st = load(r, name, 1, err);
    if (st < 0) {
        *r = (bal_recipe){0};
        return st;
    }
    r->chosen = 0;
    const char *slash = strrchr(name, '/');
    const char *stem = slash ? slash + 1 : name;
    size_t n = strlen(stem);
    if (has_ending(stem)) n -= 5;
    if (n >= sizeof r->name) n = sizeof r->name - 1;
    while (n && ((unsigned char)stem[n] & 0xc0) == 0x80) n--; /* whole characters of UTF-8 */
    snprintf(r->name, sizeof r->name, "%.*s", (int)n, stem);
    return BAL_OK;
}

bal_status bal_recipe_to_json(const bal_recipe *r, char **out, bal_error *err)
{
    *out = NULL;
    json_t *o = json_object();
    int bad = json_object_set_new(o, "name", json_string(r->name));
    for (size_t i = 0; i < N_KEYS; i++) {
        const char *text = word_of(r, &KEYS[i]);
        if (!text) {
            json_decref(o);
            return bal_fail(err, BAL_E_ARG, "recipe: %s is out of range", KEYS[i].name);
        }
        const bool number = text[strspn(text, "0123456789")] == 0;
        bad |= json_object_set_new(o, KEYS[i].name,
                                   number ? json_integer(atoi(text)) : json_string(text));
    }
    for (size_t i = 0; i < N_NUMBERS; i++)
        if (number_of(r, &NUMBERS[i]) > 0.0)
            bad |= json_object_set_new(o, NUMBERS[i].name, json_real(number_of(r, &NUMBERS[i])));
    if (!bad) *out = json_dumps(o, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(15));
    json_decref(o);
    return *out ? BAL_OK : bal_nomem(err, MAX_BYTES, "recipe");
}

bal_status bal_recipe_parse(bal_recipe *r, const char *text, bal_error *err)
{
    bal_json_doc doc = {0};
    const char *name = "";
    BAL_TRY(bal_json_parse(&doc, text, strlen(text), MAX_BYTES, "recipe", err));
    const bal_json root = bal_json_root(&doc);
    bal_status st = bal_json_as_obj(&root, err);
    if (st == BAL_OK) st = bal_json_str_or(&root, "name", "", &name, err);
    if (st == BAL_OK) st = bal_recipe_load(r, builtin_text(name) ? name : "rtn", err);
    if (st == BAL_OK) st = set_keys(r, &root, false, err);
    if (st == BAL_OK) snprintf(r->name, sizeof r->name, "%s", name);
    bal_json_close(&doc);
    return st;
}

/* "model" is resolved to the checkpoint's type in what a file says of its recipe. */
static bool is_changed(const bal_recipe *r, const bal_recipe *base, const key *k)
{
    if (k->offset == offsetof(bal_recipe, arithmetic) && base->arithmetic == BAL_ARITH_MODEL)
        return false;
    return get_field(r, k) != get_field(base, k) && word_of(r, k);
}

void bal_recipe_changes(const bal_recipe *r, char *out, size_t size)
{
    bal_recipe base;
    size_t used = 0;
    out[0] = 0;
    if (!builtin_text(r->name) || bal_recipe_load(&base, r->name, NULL) < 0) return;
    for (size_t i = 0; i < N_KEYS && used < size; i++)
        if (is_changed(r, &base, &KEYS[i]))
            used += (size_t)snprintf(out + used, size - used, "%s%s=%s", used ? " " : "",
                                     KEYS[i].name, word_of(r, &KEYS[i]));
    for (size_t i = 0; i < N_NUMBERS && used < size; i++)
        if (number_of(r, &NUMBERS[i]) > 0.0)
            used += (size_t)snprintf(out + used, size - used, "%s%s=%.15g", used ? " " : "",
                                     NUMBERS[i].name, number_of(r, &NUMBERS[i]));
}

void bal_recipe_title_of(const char *text, char out[BAL_RECIPE_TITLE])
{
    bal_recipe r;
    char changes[BAL_RECIPE_TITLE - sizeof r.name - sizeof ", with "];
    out[0] = 0;
    if (bal_recipe_parse(&r, text, NULL) < 0) return;
    bal_recipe_changes(&r, changes, sizeof changes);
    snprintf(out, BAL_RECIPE_TITLE, "%s%s%s", r.name, changes[0] ? ", with " : "", changes);
}

static bal_packed_kind kind_of(bal_grid grid)
{
    if (grid == BAL_GRID_TABLE) return BAL_PACKED_TABLE;
    return grid == BAL_GRID_TWO_LEVEL ? BAL_PACKED_TWO_LEVEL : BAL_PACKED_GROUPS;
}

bal_packed_format bal_recipe_format(const bal_recipe *r, int i)
{
    return (bal_packed_format){kind_of(r->grid), bal_recipe_bits(r, i), (size_t)r->group};
}

bool bal_recipe_needs_data(const bal_recipe *r)
{
    return r->scale != BAL_SCALE_NONE || (r->act == BAL_ACT_A8 && (r->spikes || r->act_scale)) ||
           r->clip != BAL_CLIP_NONE || bal_recipe_solves(r) || bal_recipe_prices_widths(r) ||
           bal_recipe_prices_sides(r);
}

bool bal_recipe_prices_widths(const bal_recipe *r)
{
    return r->bits == BAL_BITS_AUTO && r->allocate != BAL_ALLOCATE_RULES;
}

bool bal_recipe_prices_sides(const bal_recipe *r)
{
    return r->side[BAL_SIDE_VISION] == BAL_SIDE_AUTO ||
           r->side[BAL_SIDE_PROJECTOR] == BAL_SIDE_AUTO;
}

bool bal_recipe_solves(const bal_recipe *r)
{
    const bool steps = kind_of(r->grid) != BAL_PACKED_GROUPS;
    return r->solver != BAL_SOLVER_ROUND || r->rank > 0 || r->clip == BAL_CLIP_INVERSE ||
           r->clip == BAL_CLIP_PIVOT || (steps && r->clip == BAL_CLIP_DIAG);
}

bool bal_recipe_weighs_tokens(const bal_recipe *r)
{
    return bal_recipe_solves(r) && r->hessian >= BAL_HESSIAN_GRAD2 &&
           r->hessian <= BAL_HESSIAN_ATTENTION;
}

int bal_recipe_token_columns(const bal_recipe *r)
{
    return r->row_groups > 1 ? r->row_groups * BAL_RECIPE_LINEARS : BAL_RECIPE_GROUPS;
}

static bal_status check_target(const bal_recipe *r, bal_error *err)
{
    const bool is_auto = r->bits == BAL_BITS_AUTO, bpw = r->target_bpw > 0.0;
    const bool size = r->target_size > 0.0;
    if (is_auto && !bpw && !size)
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: bits=auto needs a budget: target_bpw or target_size "
                        "(--target-bpw, --target-size)",
                        r->name);
    if (bpw && size)
        return bal_fail(err, BAL_E_ARG, "recipe %s: target_bpw and target_size exclude each other",
                        r->name);
    if (!is_auto && (bpw || size))
        return bal_fail(err, BAL_E_ARG, "recipe %s: %s needs bits=auto, found bits=%d", r->name,
                        bpw ? "target_bpw" : "target_size", r->bits);
    return BAL_OK;
}

static bal_status check_side_targets(const bal_recipe *r, bal_error *err)
{
    for (int s = 0; s < BAL_SIDES; s++) {
        const char *side = bal_side_names[s];
        const bool is_auto = r->side[s] == BAL_SIDE_AUTO, bpw = r->side_bpw[s] > 0.0;
        char bits[16] = "float";
        if (r->side[s]) snprintf(bits, sizeof bits, "%d", r->side[s]);
        if (is_auto && !bpw)
            return bal_fail(err, BAL_E_ARG, "recipe %s: %s=auto needs a budget: target_bpw_%s",
                            r->name, side, side);
        if (!is_auto && bpw)
            return bal_fail(err, BAL_E_ARG, "recipe %s: target_bpw_%s needs %s=auto, found %s=%s",
                            r->name, side, side, side, bits);
    }
    return BAL_OK;
}

/* Grids with steps: what they have no storage, kernel or search for. */
static bal_status check_steps(const bal_recipe *r, bal_error *err)
{
    const bool table = r->grid == BAL_GRID_TABLE, two_level = r->grid == BAL_GRID_TWO_LEVEL;
    const char *grid = table ? "table" : "two-level";
    if (!table && !two_level) return BAL_OK;
    const bool any = r->bits == BAL_BITS_AUTO;
    if (table ? !any && (r->bits < 2 || r->bits > 4) : r->bits != 4) {
        char bits[16] = "auto";
        if (!any) snprintf(bits, sizeof bits, "%d", r->bits);
        return bal_fail(err, BAL_E_ARG, "recipe %s: grid=%s has %s bits, found bits=%s", r->name,
                        grid, table ? "2, 3 or 4" : "4", bits);
    }
    if (table && r->act != BAL_ACT_A16)
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: grid=table needs act=a16, found act=a8: levels of a table are "
                        "no integers that bytes could be multiplied with",
                        r->name);
    if (r->clip == BAL_CLIP_AWQ || r->clip == BAL_CLIP_BLOCK)
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: grid=%s searches its steps with clip=diag, inverse or pivot; "
                        "found clip=%s",
                        r->name, grid, r->clip == BAL_CLIP_AWQ ? "awq" : "block");
    return BAL_OK;
}

/* What is packed has units of 32 inputs, and what stands beside the blocks has the recipe's groups.
 */
static bal_status check_group(const bal_recipe *r, bal_error *err)
{
    if (r->group != 16) return BAL_OK;
    if (r->store != BAL_STORAGE_FLOAT)
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: group=16 has no storage and no kernel: it needs store=float, "
                        "found store=packed; or use group=32",
                        r->name);
    for (int s = 0; s < BAL_SIDES; s++)
        if (r->side[s])
            return bal_fail(err, BAL_E_ARG,
                            "recipe %s: group=16 needs %s=float: what is packed beside the blocks "
                            "has groups of 32 and more",
                            r->name, bal_side_names[s]);
    return BAL_OK;
}

static bal_status check_tables(const bal_recipe *r, bal_error *err)
{
    if (r->tables < 2 || r->store == BAL_STORAGE_FLOAT) return BAL_OK;
    return bal_fail(err, BAL_E_ARG,
                    "recipe %s: tables=2 has no storage and no kernel: it needs store=float, found "
                    "store=packed; or use tables=1",
                    r->name);
}

/* Codes of a trellis hang together: what takes them one by one has nothing to work on. */
static bal_status check_trellis(const bal_recipe *r, bal_error *err)
{
    const struct {
        bool found;
        const char *needs, *why;
    } rules[] = {
        {r->store != BAL_STORAGE_FLOAT, "store=float", "it has no storage and no kernel"},
        {r->bits < 2 || r->bits > 4, "bits=2, 3 or 4", "a state has whole codes"},
        {r->solver != BAL_SOLVER_GPTQ, "solver=gptq", "a code is part of several weights"},
        {r->polish != BAL_POLISH_NONE, "polish=none", "a code is part of several weights"},
        {r->clip != BAL_CLIP_NONE, "clip=none", "it has no ranges"},
        {r->shift == BAL_SHIFT_COLUMN, "shift=off, inputs or residual", "rows are chosen together"},
        {r->row_groups > 1, "row_groups=1", "rows are chosen together"},
        {r->scale == BAL_SCALE_SEARCH, "scale=none or smooth", "the search rounds row by row"},
    };
    for (size_t i = 0; r->grid == BAL_GRID_TRELLIS && i < sizeof rules / sizeof *rules; i++)
        if (rules[i].found)
            return bal_fail(err, BAL_E_ARG, "recipe %s: grid=trellis needs %s: %s", r->name,
                            rules[i].needs, rules[i].why);
    return BAL_OK;
}

/* Groups of columns with other widths: made by error feedback, on plain ranges. */
static bal_status check_mixed(const bal_recipe *r, bal_error *err)
{
    const struct {
        bool found;
        const char *needs, *why;
    } rules[] = {
        {r->store != BAL_STORAGE_FLOAT, "store=float", "it has no storage and no kernel"},
        {r->bits > 6, "bits=2, 3, 4 or 6", "a code has a byte at most"},
        {r->group == 0, "group=16, 32, 64 or 128", "a row has one group"},
        {r->grid != BAL_GRID_ASYM, "grid=asym", "the others have no single bit"},
        {r->solver != BAL_SOLVER_GPTQ, "solver=gptq", "widths are chosen by what its pivots say"},
        {r->clip != BAL_CLIP_NONE, "clip=none", "ranges are searched at one width"},
        {r->row_groups > 1, "row_groups=1", "widths are those of all rows"},
    };
    for (size_t i = 0; r->mixed && i < sizeof rules / sizeof *rules; i++)
        if (rules[i].found)
            return bal_fail(err, BAL_E_ARG, "recipe %s: group_bits=mixed needs %s: %s", r->name,
                            rules[i].needs, rules[i].why);
    return BAL_OK;
}

/* Plain floats: what only packed weights have. */
static bal_status check_store(const bal_recipe *r, bal_error *err)
{
    const struct {
        bool found;
        const char *key, *instead;
    } packed[] = {{r->bits == BAL_BITS_AUTO, "bits=auto", "bits=2, 3, 4, 6 or 8"},
                  {r->act != BAL_ACT_A16, "act=a8", "act=a16"},
                  {r->hadamard != BAL_MIXING_NONE, "hadamard", "hadamard=none"},
                  {r->rank > 0, "rank", "rank=0"}};
    for (size_t i = 0; r->store == BAL_STORAGE_FLOAT && i < sizeof packed / sizeof *packed; i++)
        if (packed[i].found)
            return bal_fail(err, BAL_E_ARG,
                            "recipe %s: %s is for packed weights: it needs store=packed, and "
                            "store=float needs %s",
                            r->name, packed[i].key, packed[i].instead);
    return BAL_OK;
}

/* Steps that a recipe asks for and that would have nothing to work on. */
static bal_status check_idle(const bal_recipe *r, bal_error *err)
{
    const bool solves = bal_recipe_solves(r);
    const bool ranges = r->solver != BAL_SOLVER_ROUND || r->clip != BAL_CLIP_NONE;
    const struct {
        bool idle;
        const char *key, *needs;
    } steps[] = {
        {r->gain && !(solves && ranges), "gain=row",
         "solver=gptq or descent, or ranges by clip=diag, block, inverse or pivot behind rank"},
        {r->undo && !solves, "undo=on", "solver=gptq or descent, or rank"},
        {r->hessian >= BAL_HESSIAN_GRAD2 && !solves, "hessian by gradients of tokens or attention",
         "solver=gptq or descent, or rank"},
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (steps[i].idle)
            return bal_fail(err, BAL_E_ARG,
                            "recipe %s: %s needs %s: without that it changes nothing", r->name,
                            steps[i].key, steps[i].needs);
    return BAL_OK;
}

/* What gradients of tokens and column-wise shifts do not go together with. */
static bal_status check_weights(const bal_recipe *r, bal_error *err)
{
    const bool column = r->shift == BAL_SHIFT_COLUMN;
    const struct {
        bool wrong;
        const char *key, *needs, *why;
    } rules[] = {
        {r->row_groups > 1 && r->clip == BAL_CLIP_BLOCK, "row_groups above 1",
         "clip=none, diag, inverse or pivot", "clip=block looks at whole linears"},
        {r->row_groups > 1 && r->rank > 0, "row_groups above 1", "rank=0",
         "a matrix of small rank is fitted to whole linears"},
        {r->hessian == BAL_HESSIAN_LOCAL && r->inputs != BAL_INPUTS_QUANTIZED, "hessian=local",
         "inputs=quantized", "on float inputs a block has lost nothing"},
        {r->hessian == BAL_HESSIAN_LOCAL && r->clip == BAL_CLIP_BLOCK, "hessian=local",
         "clip=none, diag, inverse or pivot", "clip=block looks at all linears of a group"},
        {r->hessian == BAL_HESSIAN_LOCAL && r->rank > 0, "hessian=local", "rank=0",
         "a matrix of small rank is fitted with the moments of a group"},
        {column && r->solver != BAL_SOLVER_GPTQ, "shift=column", "solver=gptq",
         "only error feedback goes column by column"},
        {column && (r->polish != BAL_POLISH_NONE || r->rank > 0), "shift=column",
         "polish=none and rank=0", "there is no target for them"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (rules[i].wrong)
            return bal_fail(err, BAL_E_ARG, "recipe %s: %s needs %s: %s", r->name, rules[i].key,
                            rules[i].needs, rules[i].why);
    return BAL_OK;
}

static bal_status check_act_scale(const bal_recipe *r, bal_error *err)
{
    const char *kind = r->act_scale == BAL_ACT_STATIC ? "static" : "static-modality";
    if (r->act_scale != BAL_ACT_DYNAMIC && r->act_group)
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: act_scale=%s fixes one scale for all inputs of a linear: it "
                        "needs act_group=row, found act_group=%d",
                        r->name, kind, r->act_group);
    return BAL_OK;
}

/* Steps of a choice that was not made. */
static bal_status check_parts(const bal_recipe *r, bal_error *err)
{
    for (size_t i = 0; i < N_PARTS; i++) {
        const key *k = find_key(PARTS[i].name), *of = find_key(PARTS[i].of);
        if (is_asked(r, i) || get_field(r, k) == PARTS[i].rest || !word_of(r, k)) continue;
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: %s=%s needs %s, found %s=%s: without that it changes nothing",
                        r->name, k->name, word_of(r, k), PARTS[i].needs, of->name, word_of(r, of));
    }
    return BAL_OK;
}

bal_status bal_recipe_check(const bal_recipe *r, bal_error *err)
{
    BAL_TRY(check_parts(r, err));
    BAL_TRY(check_target(r, err));
    BAL_TRY(check_side_targets(r, err));
    BAL_TRY(check_steps(r, err));
    BAL_TRY(check_store(r, err));
    BAL_TRY(check_group(r, err));
    BAL_TRY(check_tables(r, err));
    BAL_TRY(check_trellis(r, err));
    BAL_TRY(check_mixed(r, err));
    if (r->rank > 0 && r->bits == BAL_BITS_AUTO)
        return bal_fail(
            err, BAL_E_ARG,
            "recipe %s: rank=%d with bits=auto: the budget does not count it; use rank=0", r->name,
            r->rank);
    if (r->objective == BAL_OBJECTIVE_MOMENTS && r->act != BAL_ACT_A16)
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: objective=moments knows errors of weights only: act=a8 needs "
                        "objective=output",
                        r->name);
    if (r->objective == BAL_OBJECTIVE_MOMENTS && r->loss != BAL_LOSS_MSE)
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: objective=moments measures squares: it needs loss=mse, found "
                        "loss=mae",
                        r->name);
    if (r->shift != BAL_SHIFT_OFF && r->inputs != BAL_INPUTS_QUANTIZED)
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: shift needs inputs=quantized, found inputs=float: float inputs "
                        "leave nothing to make up for",
                        r->name);
    BAL_TRY(check_act_scale(r, err));
    if (r->vision_act == BAL_ACT_A8 && !r->side[BAL_SIDE_VISION] && !r->side[BAL_SIDE_PROJECTOR])
        return bal_fail(
            err, BAL_E_ARG,
            "recipe %s: vision_act=a8 needs vision=4, 6, 8 or auto, or projector likewise: "
            "float weights read floats",
            r->name);
    if (r->spikes == BAL_SPIKES_FINE && r->act_group == BAL_SPIKE_GROUP)
        return bal_fail(
            err, BAL_E_ARG,
            "recipe %s: spikes=fine changes nothing with act_group=%d: use act_group=128 "
            "or row, or spikes=a16",
            r->name, BAL_SPIKE_GROUP);
    if (r->solver == BAL_SOLVER_ROUND && r->shift != BAL_SHIFT_OFF)
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: shift needs solver=gptq or descent, found solver=round",
                        r->name);
    if (r->solver == BAL_SOLVER_ROUND && r->polish != BAL_POLISH_NONE)
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: polish needs solver=gptq or descent, found solver=round",
                        r->name);
    if ((r->solver != BAL_SOLVER_ROUND || r->rank > 0) && r->clip == BAL_CLIP_AWQ)
        return bal_fail(err, BAL_E_ARG,
                        "recipe %s: clip=awq clamps weights, a solver and rank need ranges: use "
                        "clip=diag, block, inverse or pivot",
                        r->name);
    BAL_TRY(check_weights(r, err));
    return check_idle(r, err);
}

bool bal_recipe_describe(size_t i, const char **name, char words[120], const char **help)
{
    if (i >= N_KEYS + N_NUMBERS) return false;
    if (i >= N_KEYS) {
        const number_key *k = &NUMBERS[i - N_KEYS];
        *name = k->name;
        *help = k->help;
        snprintf(words, 120, "%s", k->words);
        return true;
    }
    *name = KEYS[i].name;
    *help = KEYS[i].help;
    join_words(&KEYS[i], " ", words, 120);
    return true;
}

bool bal_recipe_about(size_t i, const char **name, char about[400])
{
    bal_error unused;
    bal_json_doc doc = {0};
    const char *text = NULL;
    size_t at = 0;
    while (at < i && bal_recipe_builtin[at].name) at++;
    *name = bal_recipe_builtin[at].name;
    about[0] = 0;
    if (!*name) return false;
    if (open_doc(&doc, *name, &unused) == BAL_OK) {
        const bal_json root = bal_json_root(&doc);
        if (bal_json_str_or(&root, "about", "", &text, &unused) == BAL_OK)
            snprintf(about, 400, "%s", text);
    }
    bal_json_close(&doc);
    return true;
}
