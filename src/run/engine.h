/* SPDX-License-Identifier: MIT
 * A model ready to run: weights, tokenizer, threads and kernels. Immutable once open and shared by
 * sessions; jobs of several sessions queue on the one pool. */
#ifndef BAL_RUN_ENGINE_H
#define BAL_RUN_ENGINE_H

#include "model/decoder.h"
#include "model/device_model.h"
#include "op/shapes.h"
#include "text/chat.h"

typedef struct bal_engine {
    bal_model model;
    bal_tokenizer *tokenizer;
    bal_pool *pool;
    bal_kernels kernels;
    unsigned isa;                /* BAL_ISA_* in use */
    bal_shapes shapes;           /* for every exec of a session or scheduler; empty: rules alone */
    bal_device_model *on_device; /* NULL: everything is computed on the CPU */
    bal_chat_family chat;        /* BAL_CHAT_N_FAMILIES: no known one, no_chat says why */
    bal_error no_chat;
} bal_engine;

/* threads 0: one per CPU of the affinity mask. isa_name NULL: all that the CPU has, else at most
 * that level (BAL_ISA_LEVELS of base/cpu.h); a level the CPU lacks is an error. */
bal_status bal_engine_open(bal_engine *e, const char *path, int threads, const char *isa_name,
                           bal_error *err);
/* The chat template is that of the folder, or what the file says of the folder it was made of.
 * Where it is none of the known ones the model opens all the same (text is completed without one);
 * this refuses, and what holds conversations asks it first. */
bal_status bal_engine_check_chat(const bal_engine *e, bal_error *err);
/* The same of a model alone. */
bal_status bal_model_chat(bal_chat_family *out, const bal_model *m, bal_error *err);
/* Its name, or "unknown"; static. */
const char *bal_engine_chat_name(const bal_engine *e);
/* Another one, by name (bal_chat_family_find); NULL: as it is. Before the engine is used. */
bal_status bal_engine_use_chat(bal_engine *e, const char *name, bal_error *err);
/* Pictures of at most n tokens; 0: what the model is made for. Before the engine is used.
 * BAL_E_ARG: none can be that small. BAL_E_UNSUP: the family's rule leaves no choice. A model that
 * cannot see is unchanged. */
bal_status bal_engine_limit_images(bal_engine *e, int n, bal_error *err);
/* Where the model runs: NULL or "cpu"; "cuda:N", whose failures are the caller's; "auto", a device
 * if there is one that works, else the CPU as before. Before the engine is used. */
bal_status bal_engine_use_device(bal_engine *e, const char *name, bal_error *err);
/* The shape table in a file (run/shapes_file.h, with its failures); NULL: none. It changes speed
 * and no bit of a result. Before the engine is used. */
bal_status bal_engine_use_shapes(bal_engine *e, const char *path, bal_error *err);
void bal_engine_close(bal_engine *e); /* idempotent; zeroed struct is fine */

#endif
