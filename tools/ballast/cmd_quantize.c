/* SPDX-License-Identifier: MIT
 * ballast quantize: a checkpoint to one packed file. The plan goes to stderr before the work
 * starts; --dry-run prints it to stdout and stops there. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "ballast_quant.h"
#include "commands.h"
#include "console.h"
#include "linear_bits.h"
#include "quant/recipe.h"

/* What --target-bpw has budgets for; of the decoder's blocks first. */
enum { PARTS = 4 };
static const char *const part_names[PARTS] = {"decoder", "vision", "projector", "head"};
typedef char amount_text[32];

/* Samples from which allocate=verified judges by others than those that priced the widths. */
enum { VERIFIED_APART = 64 };

/* --bits, --group, --target-size, and two for each part */
enum { SHORTHANDS = 3 + 2 * PARTS, MAX_SET = BAL_ARG_LIST_MAX + SHORTHANDS };

typedef struct quantize_flags {
    bal_common common;
    const char *out, *recipe, *bits, *group, *calib, *report, *target_bpw, *target_size,
        *chat_template;
    bal_arg_list set;
    const char *select;
    int samples, shots, image_max_tokens;
    bool resume, force, dry_run, help_recipes;
    amount_text target[PARTS]; /* of --target-bpw, "" where it does not say */
} quantize_flags;

/* Thousandths of a block are percents on a bar, and blocks in a log. */
static bool watch(void *ctx, const bal_progress *p)
{
    bal_bar *bar = ctx;
    if (strcmp(p->stage, "blocks") == 0 && bar->on)
        bal_bar_show(bar, "blocks, percent", p->done * 100 / p->total, 100);
    else if (strcmp(p->stage, "blocks") == 0)
        bal_bar_show(bar, p->stage, p->done / 1000, p->total / 1000);
    else
        bal_bar_show(bar, p->stage, p->done, p->total);
    return !bal_interrupted();
}

/* What the library calls an argument came from the command line. Of several ranks the first speaks
 * for all. */
static int fail(bal_status st, const bal_error *err, const bal_rank *rank)
{
    if (bal_rank_index(rank, NULL) > 0) return 1;
    return st == BAL_E_ARG ? bal_usage("quantize", "%s", err->text)
                           : bal_failure("quantize", "%s", err->text);
}

/* The command as it could be typed again; quoting is for reading, not for a shell. */
static char *command_line(int argc, char **argv)
{
    size_t n = sizeof "ballast";
    for (int i = 0; i < argc; i++) n += strlen(argv[i]) + 3;
    char *text = malloc(n);
    if (!text) return NULL;
    strcpy(text, "ballast");
    for (int i = 0; i < argc; i++) {
        const char *quote = argv[i][0] == 0 || strchr(argv[i], ' ') ? "'" : "";
        strcat(strcat(strcat(strcat(text, " "), quote), argv[i]), quote);
    }
    return text;
}

/* Words of `text` in lines of at most `width` characters, each after `indent` spaces. */
static void print_wrapped(const char *text, int indent, int width)
{
    int column = 0;
    for (const char *word = text; *word;) {
        const int n = (int)strcspn(word, " ");
        const bool breaks = column == 0 || column + 1 + n > width;
        if (breaks)
            printf("%s%*s%.*s", column ? "\n" : "", indent, "", n, word);
        else
            printf(" %.*s", n, word);
        column = breaks ? n : column + 1 + n;
        word += n;
        word += strspn(word, " ");
    }
    printf("\n");
}

static void print_recipes(void)
{
    const char *key, *help, *name;
    char words[120], about[400];
    printf("recipes, for --recipe NAME:\n");
    for (size_t i = 0; bal_quant_recipe(i, &name, about); i++) {
        printf("  %s\n", name);
        print_wrapped(about, 6, 90);
    }
    printf("\nkeys of a recipe, for --set KEY=VALUE or a file:\n");
    for (size_t i = 0; bal_quant_recipe_key(i, &key, words, &help); i++)
        printf("  %-10s %-22s %s\n", key, words, help);
}

/* "1.5 GB" or "1.5 MB" */
static const char *amount(char out[32], uint64_t n_bytes)
{
    const bool giga = n_bytes >= 1000000000;
    snprintf(out, 32, "%.1f %s", (double)n_bytes / (giga ? 1e9 : 1e6), giga ? "GB" : "MB");
    return out;
}

/* What stands in front of the decoder's blocks and behind them, where any of it is packed. */
static void print_sides(FILE *f, const bal_quant_plan *p)
{
    const struct {
        const char *name;
        int bits;
    } part[] = {{"vision tower", p->vision}, {"projector", p->projector}, {"head", p->head}};
    if (!p->vision && !p->projector && !p->head) return;
    for (int i = 0; i < 3; i++) {
        fprintf(f, "%s%s ", i ? ", " : "  beside   ", part[i].name);
        if (part[i].bits < 0)
            fprintf(f, "to bits of its own");
        else if (part[i].bits)
            fprintf(f, "to %d bits", part[i].bits);
        else
            fprintf(f, "as it is");
    }
    fprintf(f, "\n");
}

/* "40 s", "12 min" or "3 h 20 min" */
static const char *duration(char out[32], double seconds)
{
    const double minutes = seconds / 60.0, hours = minutes / 60.0;
    if (seconds < 99.5)
        snprintf(out, 32, "%.0f s", seconds < 1.0 ? 1.0 : seconds);
    else if (minutes < 99.5)
        snprintf(out, 32, "%.0f min", minutes);
    else
        snprintf(out, 32, "%.0f h %.0f min", floor(hours), floor((hours - floor(hours)) * 60.0));
    return out;
}

/* Where no linear's bits are still to be chosen. */
static bool is_exact(const bal_quant_plan *p)
{
    return p->bits && p->vision >= 0 && p->projector >= 0 && p->head >= 0;
}

/* Weights that stand as floats for a format: what that would take is no size of a file. */
static void print_format(FILE *f, const char *indent, const bal_quant_plan *p)
{
    if (p->format_bits_per_weight <= 0.0) return;
    fprintf(f,
            "%sstore=float: weights are written as plain floats, to judge a format; its own "
            "storage would take %.3f bits per weight in the linears (computed)\n",
            indent, p->format_bits_per_weight);
}

static void print_left(FILE *f, const bal_quant_plan *p, bool resume)
{
    if (!p->blocks_done) return;
    fprintf(f, "  done     %d of %d blocks by an interrupted run; %s\n", p->blocks_done, p->layers,
            resume ? "the rest is for now, if the bytes of model and data are the same"
                   : "--resume goes on from there, --force starts over");
}

/* The name with what was changed, and all keys. */
static void print_recipe(FILE *f, const char *json)
{
    char title[BAL_RECIPE_TITLE];
    bal_recipe_title_of(json, title);
    fprintf(f, "  recipe   %s\n  keys     %s\n", title, json);
}

static void print_data(FILE *f, const bal_quant_plan *p, int asked)
{
    fprintf(f, "  data     ");
    if (p->samples)
        fprintf(f, "%d sample%s", p->samples, p->samples == 1 ? "" : "s");
    else
        fprintf(f, "%s", p->needs_data ? "missing" : "none needed");
    if (p->samples && p->samples < asked) fprintf(f, ", where --samples allows %d", asked);
    fprintf(f, "\n");
}

static void print_plan(FILE *f, const bal_quant_plan *p, const char *model,
                       const quantize_flags *flags)
{
    fprintf(f, "%s -> %s\n", model, flags->out ? flags->out : "(no file)");
    print_recipe(f, p->recipe);
    fprintf(f, "  layers   %d blocks, %d linears to ", p->layers, p->linears);
    if (p->bits)
        fprintf(f, "%d bits, ", p->bits);
    else
        fprintf(f, "bits of their own, ");
    if (p->group)
        fprintf(f, "groups of %d\n", p->group);
    else
        fprintf(f, "one group per row\n");
    print_sides(f, p);
    print_data(f, p, flags->samples);
    if (p->samples < VERIFIED_APART && strstr(p->recipe, "\"allocate\":\"verified\""))
        fprintf(f,
                "           widths are verified on samples that also priced them; with %d and "
                "more on others\n",
                VERIFIED_APART);
    char a[32], b[32];
    fprintf(f, "  size     %s -> %s%s (%.2f bits per weight in the linears, %.2f over all)\n",
            amount(a, p->source_bytes), is_exact(p) ? "" : "at most ", amount(b, p->file_bytes),
            p->linear_bits_per_weight, p->file_bits_per_weight);
    print_format(f, "  ", p);
    fprintf(f, "  needs    about %s of memory beside the checkpoint, up to %s of disk\n",
            amount(a, p->ram_bytes), amount(b, p->disk_bytes));
    print_left(f, p, flags->resume);
    fprintf(f, "  takes    about %s on this machine when nothing else runs\n",
            duration(a, p->seconds));
}

/* The need is an estimate, so too little is no reason to refuse. */
static void warn_of_disk(const bal_quant_plan *p, const char *out)
{
    char dir[1100], need[32], have[32];
    struct statvfs s;
    const char *slash = out ? strrchr(out, '/') : NULL;
    if (!out || strlen(out) >= sizeof dir) return;
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - out) + 1 : 1, slash ? out : ".");
    if (statvfs(dir, &s) != 0) return;
    const uint64_t room = (uint64_t)s.f_bavail * s.f_frsize;
    if (room >= p->disk_bytes) return;
    fprintf(stderr, "ballast quantize: warning: %s has room for %s, and up to %s may be needed\n",
            dir, amount(have, room), amount(need, p->disk_bytes));
}

static json_t *plan_json(const bal_quant_plan *p, const char *model)
{
    json_t *o = json_pack(
        "{s:s, s:o, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "model",
        model, "recipe", json_loads(p->recipe, 0, NULL), "layers", p->layers, "linears", p->linears,
        "bits", p->bits, "group", p->group, "samples", p->samples, "blocks_done", p->blocks_done,
        "source_bytes", (json_int_t)p->source_bytes, "file_bytes", (json_int_t)p->file_bytes,
        "ram_bytes", (json_int_t)p->ram_bytes, "disk_bytes", (json_int_t)p->disk_bytes, "seconds",
        p->seconds, "linear_bits_per_weight", p->linear_bits_per_weight, "file_bits_per_weight",
        p->file_bits_per_weight);
    if (p->format_bits_per_weight > 0.0)
        json_object_set_new(o, "format_bits_per_weight", json_real(p->format_bits_per_weight));
    return o;
}

static int print_json(json_t *o)
{
    const int status = bal_print_json("quantize", o);
    return status ? status : bal_finish("quantize", 0);
}

/* The plan with the sizes of the finished file, where it said how large they can be at most, and
 * the bits of each side of it. */
static bal_quant_plan measured(const bal_quant_plan *plan, const char *out, double sides[BAL_SIDES])
{
    bal_quant_plan done = *plan;
    bal_model m;
    struct stat file;
    if (stat(out, &file) != 0 || bal_model_load(&m, out, NULL) < 0) return done;
    done.file_bytes = (uint64_t)file.st_size;
    done.file_bits_per_weight *= (double)done.file_bytes / (double)plan->file_bytes;
    done.linear_bits_per_weight = bal_linear_bpw(&m);
    for (int i = 0; i < BAL_SIDES; i++) sides[i] = bal_side_bpw(&m, (bal_side)i);
    bal_model_unload(&m);
    return done;
}

/* What the sides take, which a target only bounds. */
static void print_side_bits(const double sides[BAL_SIDES])
{
    int n = 0;
    for (int i = 0; i < BAL_SIDES; i++)
        if (sides[i] > 0.0)
            printf("%s%s %.2f", n++ ? ", " : "beside the blocks: ", bal_side_names[i], sides[i]);
    if (n) printf(" bits per weight\n");
}

static int print_done(const quantize_flags *f, const bal_quant_plan *plan, const char *model)
{
    double sides[BAL_SIDES] = {0};
    const bal_quant_plan done = measured(plan, f->out, sides), *p = &done;
    if (f->common.json) {
        json_t *o = plan_json(p, model);
        json_object_set_new(o, "out", json_string(f->out));
        json_object_set_new(o, "report", f->report ? json_string(f->report) : json_null());
        return print_json(o);
    }
    char size[32];
    printf("%s: %s, %.2f bits per weight in the linears, %.2f over the whole file\n", f->out,
           amount(size, p->file_bytes), p->linear_bits_per_weight, p->file_bits_per_weight);
    print_side_bits(sides);
    print_format(stdout, "", p);
    if (f->report) printf("report: %s\n", f->report);
    return bal_finish("quantize", 0);
}

static int quantize(const quantize_flags *f, bal_quant_opts *o, const char *model)
{
    bal_error err;
    bal_quant_plan plan;
    bal_bar bar;
    const bool speaks = bal_rank_index(o->rank, NULL) == 0;
    bal_status st = bal_quantize_plan(&plan, model, f->out, o, &err);
    if (st < 0) return fail(st, &err, o->rank);
    if (f->dry_run && !speaks) return 0;
    if (f->dry_run) {
        if (f->common.json) return print_json(plan_json(&plan, model));
        print_plan(stdout, &plan, model, f);
        return bal_finish("quantize", 0);
    }
    if (!f->common.quiet && speaks) print_plan(stderr, &plan, model, f);
    if (speaks) warn_of_disk(&plan, f->out);
    bal_bar_init(&bar, f->common.quiet || !speaks);
    bar.lines = f->common.verbose && !f->common.quiet && speaks;
    o->progress = watch;
    o->progress_ctx = &bar;
    bal_interrupt_catch();
    st = bal_quantize(model, f->out, o, &err);
    bal_bar_clear(&bar);
    if (st < 0) return fail(st, &err, o->rank);
    if (!speaks) return 0;
    return print_done(f, &plan, model);
}

/* Whether one of the --set says another value of `key` than its shorthand: which of the two is
 * meant, only the user knows. */
static bool contradicts(const quantize_flags *f, const char *key, const char *value)
{
    const size_t n = strlen(key);
    for (int i = 0; value && i < f->set.n; i++) {
        const char *item = f->set.items[i];
        if (strncmp(item, key, n) == 0 && item[n] == '=' && strcmp(item + n + 1, value) != 0) {
            if (strcmp(value, "auto") == 0)
                bal_usage("quantize",
                          "a target chooses the bits, --set %s fixes them: give one of "
                          "the two",
                          item);
            else
                bal_usage("quantize", "--%s %s and --set %s contradict each other", key, value,
                          item);
            return true;
        }
    }
    return false;
}

/* One PART=BITS of --target-bpw, or BITS alone, which are the decoder's. */
static bool read_target(quantize_flags *f, const char *text, size_t n)
{
    const char *equals = memchr(text, '=', n), *value = equals ? equals + 1 : text;
    const size_t n_name = equals ? (size_t)(equals - text) : 0, size = n - (size_t)(value - text);
    int part = equals ? PARTS : 0;
    bool good = false;
    for (int i = 0; equals && i < PARTS; i++)
        if (strlen(part_names[i]) == n_name && memcmp(part_names[i], text, n_name) == 0) part = i;
    if (part == PARTS)
        bal_usage("quantize",
                  "--target-bpw: no part \"%.*s\"; the parts are decoder, vision, projector, head",
                  (int)n_name, text);
    else if (f->target[part][0])
        bal_usage("quantize", "--target-bpw has %s twice", part_names[part]);
    else if (size == 0 || size >= sizeof f->target[part])
        bal_usage("quantize",
                  "--target-bpw: expected bits per weight, or PART=BITS with commas "
                  "between, found \"%.*s\"",
                  (int)n, text);
    else
        good = snprintf(f->target[part], sizeof f->target[part], "%.*s", (int)size, value) > 0;
    return good;
}

static bool read_targets(quantize_flags *f)
{
    for (const char *at = f->target_bpw; at;) {
        const size_t n = strcspn(at, ",");
        if (!read_target(f, at, n)) return false;
        at = at[n] ? at + n + 1 : NULL;
    }
    return true;
}

typedef struct shorthand {
    const char *key, *value; /* NULL: not given */
} shorthand;

/* --bits, --group and the targets are shorthands of --set; a target brings bits=auto, or that of
 * its part. */
static void shorthands(const quantize_flags *f, shorthand out[SHORTHANDS])
{
    static const char *const bpw[PARTS] = {"target_bpw", "target_bpw_vision",
                                           "target_bpw_projector", "target_bpw_head"};
    const bool decoder = f->target[0][0] || f->target_size;
    out[0] = (shorthand){"bits", decoder ? "auto" : f->bits};
    out[1] = (shorthand){"group", f->group};
    out[2] = (shorthand){"target_size", f->target_size};
    for (int i = 0; i < PARTS; i++) {
        const bool given = f->target[i][0] != 0;
        out[3 + 2 * i] = (shorthand){part_names[i], i && given ? "auto" : NULL};
        out[4 + 2 * i] = (shorthand){bpw[i], given ? f->target[i] : NULL};
    }
}

static size_t overrides(const quantize_flags *f, const char *set[MAX_SET],
                        char text[SHORTHANDS][64])
{
    shorthand all[SHORTHANDS];
    size_t n = 0;
    shorthands(f, all);
    for (int i = 0; i < f->set.n; i++) set[n++] = f->set.items[i];
    for (int i = 0; i < SHORTHANDS; i++) {
        if (!all[i].value) continue;
        snprintf(text[i], 64, "%s=%.40s", all[i].key, all[i].value);
        set[n++] = text[i];
    }
    return n;
}

/* Two flags that cannot both be meant. */
static bool target_contradicts(const quantize_flags *f)
{
    const bool bpw = f->target[0][0] != 0;
    const char *flag = bpw ? "--target-bpw" : "--target-size";
    shorthand all[SHORTHANDS];
    if (bpw && f->target_size) {
        bal_usage("quantize", "--target-bpw for the decoder and --target-size exclude each other");
        return true;
    }
    if ((bpw || f->target_size) && f->bits && strcmp(f->bits, "auto") != 0) {
        bal_usage("quantize", "%s chooses the bits, --bits %s fixes them: give one of the two",
                  flag, f->bits);
        return true;
    }
    shorthands(f, all);
    for (int i = 0; i < SHORTHANDS; i++)
        if (contradicts(f, all[i].key, all[i].value)) return true;
    return false;
}

static int start(const quantize_flags *f, const char *model, int argc, char **argv)
{
    const char *set[MAX_SET];
    char text[SHORTHANDS][64];
    char *command = command_line(argc, argv);
    bal_quant_opts o = {
        .size = sizeof o,
        .threads = (uint32_t)f->common.threads,
        .recipe = f->recipe,
        .set = set,
        .n_set = overrides(f, set, text),
        .calib = f->calib,
        .chat_template = f->chat_template,
        .samples = f->samples == 0 ? -1 : f->samples,
        .shots = f->shots,
        .select = f->select,
        .image_max_tokens = f->image_max_tokens,
        .seed = f->common.seed,
        .isa = f->common.isa,
        .resume = f->resume,
        .force = f->force,
        .report = f->report,
        .command = command,
    };
    bal_error err;
    const bal_status st = bal_rank_open(&o.rank, &err);
    const int status = st < 0 ? fail(st, &err, NULL) : quantize(f, &o, model);
    bal_rank_close(o.rank);
    free(command);
    return status;
}

int bal_cmd_quantize(int argc, char **argv)
{
    quantize_flags f = {.recipe = "ballast", .samples = 128, .shots = 1};
    const bal_arg args[] = {
        {"--output", 'o', BAL_ARG_STRING, &f.out, "FILE", "the file to make", 0, 0},
        {"--recipe", 0, BAL_ARG_STRING, &f.recipe, "NAME", "built-in recipe or FILE.json (ballast)",
         0, 0},
        {"--set", 0, BAL_ARG_LIST, &f.set, "KEY=VALUE", "change one option of the recipe", 0, 0},
        {"--bits", 0, BAL_ARG_STRING, &f.bits, "B",
         "2, 3, 4, 6 or 8 (the recipe's: 3); short for --set bits=B", 0, 0},
        {"--group", 0, BAL_ARG_STRING, &f.group, "G",
         "32, 64, 128 or row (128), 16 with store=float; short for --set group=G", 0, 0},
        {"--target-bpw", 0, BAL_ARG_STRING, &f.target_bpw, "X",
         "bits per weight, scales counted: each linear gets the width that pays. A number for the "
         "decoder, or PART=X,... of decoder, vision, projector, head",
         0, 0},
        {"--target-size", 0, BAL_ARG_STRING, &f.target_size, "BYTES",
         "the same for the size of the whole file", 0, 0},
        {"--calib", 0, BAL_ARG_STRING, &f.calib, "FILE",
         "calibration data: LLaVA conversations, JSON or JSONL", 0, 0},
        {"--samples", 0, BAL_ARG_INT, &f.samples, "N", "conversations to use; 0 for all (128)", 0,
         1e9},
        {"--select", 0, BAL_ARG_STRING, &f.select, "HOW",
         "random by --seed, first, or diverse: clean records far apart (random)", 0, 0},
        {"--shots", 0, BAL_ARG_INT, &f.shots, "K", "join K records to one conversation each (1)", 1,
         64},
        {"--chat-template", 0, BAL_ARG_STRING, &f.chat_template, "NAME",
         "a known chat template in place of the model's; a wrong name lists them", 0, 0},
        {"--image-max-tokens", 0, BAL_ARG_INT, &f.image_max_tokens, "N",
         "make calibration pictures smaller, to N tokens at most (the model's limit)", 1, 1 << 24},
        {"--report", 0, BAL_ARG_STRING, &f.report, "FILE.html",
         "write a page about the run, and the same as FILE.json beside it", 0, 0},
        {"--resume", 0, BAL_ARG_BOOL, &f.resume, "", "go on with an interrupted run", 0, 0},
        {"--force", 0, BAL_ARG_BOOL, &f.force, "",
         "replace FILE; without --resume also throw an interrupted run away", 0, 0},
        {"--dry-run", 0, BAL_ARG_BOOL, &f.dry_run, "", "print the plan and stop", 0, 0},
        {"--help-recipes", 0, BAL_ARG_BOOL, &f.help_recipes, "", "list recipes and their keys", 0,
         0},
    };
    const bal_command cmd = {"quantize",
                             "MODEL_DIR",
                             "Quantizes a Hugging Face folder to one packed file. Pieces live in\n"
                             "FILE.partial/ until it is complete; --resume goes on from them.\n"
                             "mpirun -n N ballast quantize ... shares the work out to N processes.",
                             args,
                             sizeof args / sizeof args[0],
                             0,
                             1,
                             "--ctx --shapes"};
    const char *model = NULL;
    int n;
    const int st = bal_args_read(&cmd, &f.common, argc, argv, &model, &n);
    if (st >= 0) return st;
    if (f.help_recipes) {
        print_recipes();
        return bal_finish("quantize", 0);
    }
    if (n == 0) return bal_usage("quantize", "MODEL_DIR is missing: the folder of a checkpoint");
    if (!f.out && !f.dry_run) return bal_usage("quantize", "-o is missing: the file to make");
    if (f.out && !f.out[0]) return bal_usage("quantize", "-o is empty: the file to make");
    if (!read_targets(&f) || target_contradicts(&f)) return 2;
    const int known = bal_device_check("quantize", &f.common, true);
    if (known >= 0) return known;
    return start(&f, model, argc, argv);
}
