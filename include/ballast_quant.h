/* SPDX-License-Identifier: MIT
 * Ballast, public API, the other half: measure, balance, quantize, write. Read ballast.h first for
 * status values and errors. */
#ifndef BALLAST_QUANT_H
#define BALLAST_QUANT_H

#include "ballast.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One of several processes that make a file together. */
typedef struct bal_rank bal_rank;

/* Joins the processes that this one was started with by mpirun or the like; *out is NULL where it
 * is alone. BAL_E_UNSUP: started with others, but the library is built without MPI. Once a process;
 * MPI is started here, and ended by bal_rank_close, unless the program has started it itself. */
bal_status bal_rank_open(bal_rank **out, bal_error *err);
/* 0 .. *count - 1; 0 of 1 for NULL. Rank 0 writes the file, and is the one that should speak. */
int bal_rank_index(const bal_rank *r, int *count);
void bal_rank_close(bal_rank *r); /* waits for the others; NULL is fine */

/* Zero is the default of every field but size. Strings are borrowed for the call. */
typedef struct bal_quant_opts {
    uint32_t size;          /* sizeof(bal_quant_opts): lets the struct grow */
    uint32_t threads;       /* 0: one per CPU this process may use; at most 256 */
    const char *recipe;     /* built-in name or FILE.json; NULL: "ballast" */
    const char *const *set; /* [n_set] overrides "KEY=VALUE" */
    size_t n_set;
    const char *calib;  /* LLaVA conversations, JSON array or JSONL; NULL for recipes without */
    int samples;        /* conversations; 0: 128; negative: all */
    int shots;          /* records that are joined to one conversation of many turns; 0: 1 */
    const char *select; /* which records: "random" by the seed, "first" of the file, or "diverse":
                           clean ones that lie far apart. NULL: random */
    uint64_t seed;      /* of the choice of samples, and of rotations */
    const char *isa;    /* as in bal_open_opts (ballast.h); NULL: what the CPU has */
    bool resume;        /* go on with an interrupted run */
    bool force;         /* replace an existing file; without resume throw an interrupted run away */
    const char *report; /* FILE.html to write, with the same as .json beside it; NULL: none.
                           Either existing is BAL_E_EXISTS without force */
    const char *command;       /* shown in the report; NULL: left out */
    bal_progress_fn *progress; /* stages "rotation" (blocks), "sides" (linears beside the
                                  blocks), "tower" (pieces), "pictures" and "sensitivity"
                                  (samples), "widths" and "plans" (blocks), "blocks"
                                  (thousandths of a block); false stops with BAL_E_CANCELLED */
    void *progress_ctx;
    bal_rank *rank; /* of several, which all make the same calls with the same options; all must see
                       the same model, data and output folder. A failure of one is that of all.
                       NULL: alone */
    const char *chat_template; /* of the conversations, and of the file: the name of a known one;
                                  NULL: the one that comes with the model */
    int image_max_tokens; /* calibration pictures are made smaller, to so many tokens at most; the
                             file that is made keeps the model's own limit. 0: that limit */
} bal_quant_opts;

/* What a run would do and make. ram_bytes and disk_bytes are estimates: memory beside the mapped
 * checkpoint, and room for OUT.partial/. file_bytes is exact unless bits is 0. */
typedef struct bal_quant_plan {
    char recipe[2048];                /* as JSON, overrides applied */
    int layers, linears, bits, group; /* bits 0: each linear its own, and sizes are the most they
                                         can be; group 0: the whole row */
    int vision, projector, head;      /* bits beside the decoder's blocks, 0: as they are,
                                         -1: each linear its own, and sizes are the most */
    bool needs_data;
    int samples;     /* 0 without data */
    int blocks_done; /* of an interrupted run to `out`; with `resume` one that was another run is
                        refused, but for the bytes of model and data, which are not looked at */
    uint64_t source_bytes, file_bytes, ram_bytes, disk_bytes;
    double seconds;                /* on this machine, if nothing else runs, with `resume` without
                                      the blocks that are done; an estimate */
    double linear_bits_per_weight; /* of the quantized linears, scales and zero points counted */
    double file_bits_per_weight;   /* of the whole file, embeddings and vision tower counted */
    double format_bits_per_weight; /* with store=float what the linears would take in a storage of
                                      their format, by computation; 0: they are packed */
} bal_quant_plan;

/* Reads the checkpoint's header, recipe, data file and its pictures, and measures this machine's
 * speed for a moment; writes nothing. `out`: the file
 * that the run would make, refused as bal_quantize would refuse its name; may be NULL. */
bal_status bal_quantize_plan(bal_quant_plan *plan, const char *model_dir, const char *out,
                             const bal_quant_opts *opts, bal_error *err);

/* Quantizes the checkpoint in `model_dir` (a Hugging Face folder) to the file `out`, which appears
 * when it is complete; until then pieces live in the folder OUT.partial/. Same inputs and seed,
 * same bytes, for any number of threads. An `out` in the checkpoint's folder, or that is a file the
 * run reads, is BAL_E_ARG even with force. BAL_E_EXISTS: out exists, or an interrupted run does,
 * and neither resume nor force says what to do. BAL_E_CANCELLED: the callback stopped it; resume
 * goes on. */
bal_status bal_quantize(const char *model_dir, const char *out, const bal_quant_opts *opts,
                        bal_error *err);

/* Built-in recipe number i and key number i of recipes, for help texts; false past the end.
 * `about` says in a sentence or two what the recipe is, cut if longer; `words` are a key's allowed
 * values with spaces between. */
bool bal_quant_recipe(size_t i, const char **name, char about[400]);
bool bal_quant_recipe_key(size_t i, const char **key, char words[120], const char **help);

#ifdef __cplusplus
}
#endif
#endif
