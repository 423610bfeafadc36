/* SPDX-License-Identifier: MIT
 * Two passes over the chosen records: the first is cheap and finds what is wrong with them, the
 * second runs the vision tower. Pictures are read in both, so the second refuses bytes that the
 * first has not seen. */
#include "quant/gather.h"

#include "base/file.h"
#include "run/sequence.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PICTURE_BYTES ((size_t)256 << 20)

typedef struct gatherer {
    bal_gathered *out;
    const bal_calib *calib;
    const bal_engine *engine;
    const bal_exec *exec;
    const bal_recipe *recipe;
    bal_sha256 hash; /* first pass */
    int n_seen;      /* pictures so far in this pass */
    bal_error *err;
} gatherer;

/* ---- Conversations to tokens ------------------------------------------------------------------
 */

static bal_status chat_tokens(const gatherer *g, const bal_calib_record *r, bal_chat_tokens *out)
{
    static const bal_chat_role roles[] = {[BAL_CALIB_SYSTEM] = BAL_CHAT_SYSTEM,
                                          [BAL_CALIB_USER] = BAL_CHAT_USER,
                                          [BAL_CALIB_ASSISTANT] = BAL_CHAT_ASSISTANT};
    bal_chat_message *messages = calloc((size_t)r->n_turns, sizeof *messages);
    if (!messages) return bal_nomem(g->err, (size_t)r->n_turns * sizeof *messages, "messages");
    for (int i = 0; i < r->n_turns; i++) {
        const bal_calib_turn *t = &r->turns[i];
        messages[i] = (bal_chat_message){.role = roles[t->role],
                                         .text = t->text,
                                         .n = strlen(t->text),
                                         .n_images = (size_t)t->n_images};
    }
    const bal_status st = bal_chat_encode(out, g->engine->tokenizer, g->engine->chat, messages,
                                          (size_t)r->n_turns, false, g->err);
    free(messages);
    return st;
}

/* Rows of ids and tags that grow together. */
typedef struct token_row {
    bal_ids ids;
    uint8_t *tags;
    size_t room;
} token_row;

/* Gives all ids behind the tagged ones the tag. */
static bal_status tag_rest(token_row *row, size_t from, bal_token_tag tag, bal_error *err)
{
    if (row->ids.cap > row->room) {
        uint8_t *tags = realloc(row->tags, row->ids.cap);
        if (!tags) return bal_nomem(err, row->ids.cap, "token tags");
        row->tags = tags;
        row->room = row->ids.cap;
    }
    if (row->ids.n > from) memset(row->tags + from, tag, row->ids.n - from);
    return BAL_OK;
}

static bal_status add_text(const gatherer *g, token_row *row, const char *text, bal_token_tag tag)
{
    const size_t from = row->ids.n;
    BAL_TRY(bal_tokenizer_append(g->engine->tokenizer, text, strlen(text), &row->ids, g->err));
    return tag_rest(row, from, tag, g->err);
}

static bal_status add_slot(const gatherer *g, token_row *row)
{
    const size_t from = row->ids.n;
    BAL_TRY(bal_ids_push(&row->ids, g->engine->model.config.image_token, g->err));
    return tag_rest(row, from, BAL_TAG_IMAGE_SLOT, g->err);
}

/* One turn "### Human: ...\n". Pictures come first, each with a newline, as upstream moves them;
 * text between two pictures is encoded as one piece. */
static bal_status add_legacy_turn(const gatherer *g, token_row *row, const bal_calib_turn *t)
{
    const bool answer = t->role == BAL_CALIB_ASSISTANT;
    const bal_token_tag tag = answer ? BAL_TAG_ANSWER : BAL_TAG_PROMPT;
    const size_t from = row->ids.n;
    const char *lead = answer ? "### Assistant: " : "### Human: ";
    for (int i = 0; i < t->n_images; i++, lead = "\n") {
        BAL_TRY(add_text(g, row, lead, tag));
        BAL_TRY(add_slot(g, row));
    }
    char *piece = NULL;
    if (asprintf(&piece, "%s%s\n", lead, t->text) < 0)
        return bal_nomem(g->err, strlen(t->text) + 32, "a turn");
    const bal_status st = add_text(g, row, piece, tag);
    free(piece);
    /* upstream masks a human turn from its third token on, so the first two count as answer */
    for (size_t i = from; st == BAL_OK && i < row->ids.n && i < from + 2; i++)
        row->tags[i] = BAL_TAG_ANSWER;
    return st;
}

/* The form that the published code fell back to for LLaVA-OneVision, answer mask included: header
 * of the answer, first two tokens of human turns and the closing "### " count as answer. */
static bal_status legacy_tokens(const gatherer *g, const bal_calib_record *r, token_row *row)
{
    static const char header[] =
        "A chat between a curious human and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the human's questions.\n\n";
    BAL_TRY(add_text(g, row, header, BAL_TAG_PROMPT));
    for (int i = 0; i < r->n_turns; i++)
        if (r->turns[i].role != BAL_CALIB_SYSTEM) BAL_TRY(add_legacy_turn(g, row, &r->turns[i]));
    return add_text(g, row, "### ", BAL_TAG_ANSWER);
}

/* Only the last run of answer tokens stays one. */
static void keep_last_answer(bal_chat_tokens *t)
{
    size_t end = t->n;
    while (end && t->tags[end - 1] != BAL_TAG_ANSWER) end--;
    while (end && t->tags[end - 1] == BAL_TAG_ANSWER) end--;
    for (size_t i = 0; i < end; i++)
        if (t->tags[i] == BAL_TAG_ANSWER) t->tags[i] = BAL_TAG_PROMPT;
}

static bal_status tokens_of(const gatherer *g, const bal_calib_record *r, bal_chat_tokens *out)
{
    *out = (bal_chat_tokens){0};
    bal_status st;
    if (g->recipe->chat_template == BAL_TEMPLATE_LEGACY) {
        token_row row = {0};
        st = legacy_tokens(g, r, &row);
        *out = (bal_chat_tokens){row.ids.v, row.tags, row.ids.n};
    } else {
        st = chat_tokens(g, r, out);
    }
    if (st == BAL_OK && g->recipe->turns == BAL_TURNS_LAST) keep_last_answer(out);
    return st;
}

/* ---- Pictures ---------------------------------------------------------------------------------
 */

static bal_status open_picture(const gatherer *g, const bal_calib_record *r, int i,
                               bal_image *image, uint8_t digest[BAL_SHA256_BYTES])
{
    char path[2100];
    uint8_t *bytes;
    size_t n;
    BAL_TRY(bal_calib_image_path(g->calib, r, i, path, sizeof path, g->err));
    BAL_TRY(bal_read_file(&bytes, &n, path, PICTURE_BYTES, g->err));
    bal_status st = bal_sha256_bytes(digest, bytes, n, g->err);
    if (st == BAL_OK) {
        st = bal_image_decode(image, bytes, n, NULL, g->err);
        if (st < 0) bal_fail_in(g->err, st, "%.120s", path);
    }
    free(bytes);
    return st;
}

/* Sizes and hashes of a record's pictures. */
static bal_status measure(gatherer *g, const bal_calib_record *r, int (*sizes)[2])
{
    uint8_t(*digests)[BAL_SHA256_BYTES] =
        realloc(g->out->digests, ((size_t)g->n_seen + (size_t)r->n_images + 1) * sizeof *digests);
    if (!digests) return bal_nomem(g->err, (size_t)r->n_images * sizeof *digests, "hashes");
    g->out->digests = digests;
    for (int i = 0; i < r->n_images; i++, g->n_seen++) {
        bal_image image = {0};
        BAL_TRY(open_picture(g, r, i, &image, digests[g->n_seen]));
        sizes[i][0] = image.width;
        sizes[i][1] = image.height;
        bal_image_free(&image);
        BAL_TRY(bal_sha256_update(&g->hash, digests[g->n_seen], sizeof digests[0], g->err));
    }
    return BAL_OK;
}

/* The pictures themselves, which must still be those that were measured. */
static bal_status reopen(gatherer *g, const bal_calib_record *r, int (*sizes)[2], bal_image *images)
{
    for (int i = 0; i < r->n_images; i++, g->n_seen++) {
        uint8_t digest[BAL_SHA256_BYTES];
        BAL_TRY(open_picture(g, r, i, &images[i], digest));
        if (memcmp(digest, g->out->digests[g->n_seen], sizeof digest) != 0)
            return bal_fail(g->err, BAL_E_IO, "picture %.160s changed while it was being read",
                            r->images[i]);
        sizes[i][0] = images[i].width;
        sizes[i][1] = images[i].height;
    }
    return BAL_OK;
}

/* ---- First pass: layout -----------------------------------------------------------------------
 */

static bal_status build_sequence(const gatherer *g, const bal_calib_record *r,
                                 const int (*sizes)[2], bal_sequence *s)
{
    const bal_config *c = &g->engine->model.config;
    const bal_view_mode mode =
        g->recipe->views == BAL_VIEWS_SINGLE ? BAL_VIEW_SINGLE : BAL_VIEW_AUTO;
    bal_chat_tokens tokens;
    bal_status st = tokens_of(g, r, &tokens);
    if (st == BAL_OK)
        st = bal_sequence_build(s, g->engine, &tokens, sizes, r->n_images, mode, 0, 0, g->err);
    bal_chat_tokens_deinit(&tokens);
    if (st < 0 || s->n <= c->text.max_positions) return st;
    st = bal_fail(g->err, BAL_E_CAPACITY, "%d positions, the model has room for %d", s->n,
                  c->text.max_positions);
    bal_sequence_free(s);
    return st;
}

static bal_status keep_positions(const gatherer *g, const bal_sequence *s, bal_sample *sample)
{
    sample->pos = malloc(((size_t)s->n + 1) * sizeof *sample->pos);
    if (!sample->pos) return bal_nomem(g->err, (size_t)s->n * sizeof *sample->pos, "positions");
    for (int i = 0; i < s->n; i++) memcpy(sample->pos[i], s->info[i].pos, sizeof *sample->pos);
    return BAL_OK;
}

static bal_status keep_tags(gatherer *g, const bal_sequence *s, bal_sample *sample)
{
    *sample = (bal_sample){.n = s->n};
    sample->ids = malloc(((size_t)s->n + 1) * sizeof *sample->ids);
    sample->modality = malloc((size_t)s->n + 1);
    if (!sample->ids || !sample->modality)
        return bal_nomem(g->err, (size_t)s->n * 5, "tokens of a sample");
    if (bal_family_of(&g->engine->model.config)->positions) BAL_TRY(keep_positions(g, s, sample));
    for (int i = 0; i < s->n; i++) {
        sample->ids[i] = s->info[i].id;
        sample->modality[i] = s->info[i].modality;
        g->out->tokens[s->info[i].modality]++;
    }
    if (s->n > g->out->samples.max_len) g->out->samples.max_len = s->n;
    g->out->n_images += s->n_images;
    return BAL_OK;
}

/* images NULL: the first pass */
static bal_status sequence_of(gatherer *g, const bal_calib_record *r, bal_sequence *s,
                              bal_image *images)
{
    if (r->n_images && !g->engine->model.config.has_vision)
        return bal_fail(g->err, BAL_E_ARG,
                        "a picture, but the model has no vision tower; give conversations "
                        "without pictures");
    int(*sizes)[2] = calloc((size_t)r->n_images + 1, sizeof *sizes);
    if (!sizes) return bal_nomem(g->err, (size_t)r->n_images * sizeof *sizes, "picture sizes");
    bal_status st = images ? reopen(g, r, sizes, images) : measure(g, r, sizes);
    if (st == BAL_OK) st = build_sequence(g, r, sizes, s);
    free(sizes);
    return st;
}

static bal_status lay_out(gatherer *g, const bal_calib_record *r)
{
    bal_sequence s = {0};
    bal_status st = sequence_of(g, r, &s, NULL);
    if (st == BAL_OK) st = keep_tags(g, &s, &g->out->samples.items[g->out->samples.n++]);
    bal_sequence_free(&s);
    return st;
}

/* ---- Second pass: embeddings -------------------------------------------------------------------
 */

static bal_status embed(gatherer *g, const bal_sequence *s, const bal_image *images, int sample)
{
    const size_t n_bytes =
        (size_t)s->n * (size_t)g->engine->model.config.text.hidden * sizeof(float);
    float *rows = malloc(n_bytes + 1);
    if (!rows) return bal_nomem(g->err, n_bytes, "embeddings of a sample");
    bal_status st = bal_sequence_embed(s, g->engine, g->exec, images, rows, (bal_taps){0}, g->err);
    if (st == BAL_OK) st = bal_store_write(&g->out->embeds, sample, rows, g->err);
    free(rows);
    return st;
}

static bal_status encode(gatherer *g, const bal_calib_record *r, int sample)
{
    bal_sequence s = {0};
    bal_image *images = calloc((size_t)r->n_images + 1, sizeof *images);
    if (!images) return bal_nomem(g->err, (size_t)r->n_images * sizeof *images, "pictures");
    bal_status st = sequence_of(g, r, &s, images);
    if (st == BAL_OK) st = embed(g, &s, images, sample);
    for (int i = 0; i < r->n_images; i++) bal_image_free(&images[i]);
    free(images);
    bal_sequence_free(&s);
    return st;
}

/* ---- Looking at candidates ---------------------------------------------------------------------
 */

/* Letters in lower case, runs of blanks as one, so that what reads alike hashes alike. */
static bal_status hash_text(bal_sha256 *hash, const char *text, bal_error *err)
{
    const size_t n = strlen(text);
    char *plain = malloc(n + 2);
    size_t at = 0;
    if (!plain) return bal_nomem(err, n + 2, "a turn");
    for (size_t i = 0; i < n; i++) {
        const bool blank = isspace((unsigned char)text[i]);
        if (blank && (at == 0 || plain[at - 1] == ' ')) continue;
        plain[at++] = blank ? ' ' : (char)tolower((unsigned char)text[i]);
    }
    if (at && plain[at - 1] == ' ') at--;
    plain[at++] = '\n';
    const bal_status st = bal_sha256_update(hash, plain, at, err);
    free(plain);
    return st;
}

/* Of the turns that answer, or of all of them behind the digests of the pictures. */
static bal_status hash_turns(const gatherer *g, const bal_calib_record *r, bool answers,
                             uint8_t digest[BAL_SHA256_BYTES])
{
    bal_sha256 hash;
    BAL_TRY(bal_sha256_init(&hash, g->err));
    bal_status st = BAL_OK;
    if (!answers && r->n_images > 0)
        st = bal_sha256_update(&hash, g->out->digests,
                               (size_t)r->n_images * sizeof *g->out->digests, g->err);
    for (int i = 0; st == BAL_OK && i < r->n_turns; i++)
        if (!answers || r->turns[i].role == BAL_CALIB_ASSISTANT)
            st = hash_text(&hash, r->turns[i].text, g->err);
    if (st == BAL_OK) st = bal_sha256_final(&hash, digest, g->err);
    bal_sha256_deinit(&hash);
    return st;
}

/* Means of the rows of text and of what is seen. */
static void mean_rows(const bal_sequence *s, const float *rows, size_t hidden, float *feature,
                      bal_prospect *c)
{
    float n[2] = {0};
    for (size_t k = 0; k < 2 * hidden; k++) feature[k] = 0.0f;
    for (int i = 0; i < s->n; i++) {
        const size_t half = s->info[i].modality == BAL_VISION;
        n[half] += 1.0f;
        for (size_t k = 0; k < hidden; k++)
            feature[half * hidden + k] += rows[(size_t)i * hidden + k];
    }
    for (size_t k = 0; k < 2 * hidden; k++)
        if (n[k / hidden] > 0.0f) feature[k] /= n[k / hidden];
    c->tokens = (int)n[0];
    c->sees = n[1] > 0.0f;
}

/* What is made of a record's pictures and words. */
typedef struct onlooker {
    bal_prospect *c;
    float *feature; /* NULL: only rows */
    float *rows;    /* malloc'ed, of all positions */
    int n_seen;     /* rows of what the model sees, once they stand in front */
} onlooker;

static bal_status look_at(gatherer *g, const bal_calib_record *r, const bal_sequence *s,
                          const bal_image *images, onlooker *o)
{
    const size_t hidden = (size_t)g->engine->model.config.text.hidden;
    const size_t n_bytes = (size_t)s->n * hidden * sizeof(float);
    o->rows = malloc(n_bytes + 1);
    if (!o->rows) return bal_nomem(g->err, n_bytes, "embeddings of a sample");
    BAL_TRY(bal_sequence_embed(s, g->engine, g->exec, images, o->rows, (bal_taps){0}, g->err));
    if (o->feature) {
        mean_rows(s, o->rows, hidden, o->feature, o->c);
        BAL_TRY(hash_turns(g, r, false, o->c->content));
        return hash_turns(g, r, true, o->c->answer);
    }
    for (int i = 0; i < s->n; i++)
        if (s->info[i].modality == BAL_VISION)
            memmove(o->rows + (size_t)o->n_seen++ * hidden, o->rows + (size_t)i * hidden,
                    hidden * sizeof *o->rows);
    return BAL_OK;
}

static bal_status look(gatherer *g, const bal_calib_record *r, onlooker *o)
{
    bal_sequence s = {0};
    bal_image *images = calloc((size_t)r->n_images + 1, sizeof *images);
    if (!images) return bal_nomem(g->err, (size_t)r->n_images * sizeof *images, "pictures");
    bal_status st = sequence_of(g, r, &s, NULL);
    bal_sequence_free(&s);
    g->n_seen = 0;
    if (st == BAL_OK) st = sequence_of(g, r, &s, images);
    if (st == BAL_OK) st = look_at(g, r, &s, images, o);
    for (int i = 0; i < r->n_images; i++) bal_image_free(&images[i]);
    free(images);
    bal_sequence_free(&s);
    return st;
}

static bal_status look_once(onlooker *o, const bal_calib *calib, const bal_calib_record *r,
                            const bal_engine *engine, const bal_exec *exec,
                            const bal_recipe *recipe, bal_error *err)
{
    bal_gathered out = {.embeds.fd = -1};
    bal_recipe single = *recipe;
    bal_error local;
    single.views = BAL_VIEWS_SINGLE;
    gatherer g = {.out = &out,
                  .calib = calib,
                  .engine = engine,
                  .exec = exec,
                  .recipe = &single,
                  .err = err ? err : &local};
    BAL_TRY(bal_sha256_init(&g.hash, err));
    const bal_status st = look(&g, r, o);
    bal_sha256_deinit(&g.hash);
    bal_gathered_free(&out);
    return st;
}

bal_status bal_gather_look(bal_prospect *c, float *feature, const bal_calib *calib,
                           const bal_calib_record *r, const bal_engine *engine,
                           const bal_exec *exec, const bal_recipe *recipe, bal_error *err)
{
    onlooker o = {.c = c, .feature = feature};
    *c = (bal_prospect){0};
    const bal_status st = look_once(&o, calib, r, engine, exec, recipe, err);
    free(o.rows);
    if (st == BAL_OK || st == BAL_E_NOMEM) return st;
    if (st == BAL_E_ARG && r->n_images && !engine->model.config.has_vision) /* as any would be */
        return bal_fail_in(err, st, "record %zu of %.100s", r->number, calib->path);
    *c = (bal_prospect){.broken = true};
    return BAL_OK;
}

bal_status bal_gather_see(float **rows, int *n, const bal_calib *calib, const bal_calib_record *r,
                          const bal_engine *engine, const bal_exec *exec, const bal_recipe *recipe,
                          bal_error *err)
{
    onlooker o = {0};
    const bal_status st = look_once(&o, calib, r, engine, exec, recipe, err);
    *rows = o.rows;
    *n = o.n_seen;
    if (st == BAL_OK) return BAL_OK;
    free(o.rows);
    *rows = NULL;
    return bal_fail_in(err, st, "record %zu of %.100s", r->number, calib->path);
}

/* ---- Both --------------------------------------------------------------------------------------
 */

static bal_status name_record(const gatherer *g, const bal_calib_record *r, bal_status st)
{
    return st < 0 ? bal_fail_in(g->err, st, "record %zu of %.100s", r->number, g->calib->path) : st;
}

static bal_status lay_out_all(gatherer *g, const size_t *order, size_t n)
{
    bal_gathered *out = g->out;
    uint8_t digest[BAL_SHA256_BYTES];
    BAL_TRY(bal_sha256_init(&g->hash, g->err));
    BAL_TRY(bal_sha256_update(&g->hash, g->calib->sha256, sizeof g->calib->sha256, g->err));
    out->samples.items = calloc(n, sizeof *out->samples.items);
    if (!out->samples.items) return bal_nomem(g->err, n * sizeof *out->samples.items, "samples");
    for (size_t i = 0; i < n; i++) {
        const bal_calib_record *r = &g->calib->records[order[i]];
        BAL_TRY(name_record(g, r, lay_out(g, r)));
    }
    BAL_TRY(bal_sha256_final(&g->hash, digest, g->err));
    bal_hex(out->sha256, digest, sizeof digest);
    return BAL_OK;
}

static bal_status join(gatherer *g)
{
    const bal_samples *s = &g->out->samples;
    const size_t floats = (size_t)s->max_len * (size_t)g->engine->model.config.text.hidden;
    if (!s->rank) return BAL_OK;
    float *rows = malloc(floats * sizeof *rows);
    if (!rows) return bal_nomem(g->err, floats * sizeof *rows, "embeddings of a sample");
    const bal_status st = bal_store_join(&g->out->embeds, s->rank, rows, g->err);
    free(rows);
    return st;
}

static bal_status encode_all(gatherer *g, const size_t *order, const char *tmp_dir,
                             bal_step_fn *step, void *step_ctx)
{
    const int n = g->out->samples.n;
    BAL_TRY(bal_store_create(&g->out->embeds, tmp_dir, &g->out->samples,
                             g->engine->model.config.text.hidden, g->err));
    for (int i = 0; i < n; i++) {
        const bal_calib_record *r = &g->calib->records[order[i]];
        if (!bal_rank_owns(g->out->samples.rank, i)) {
            g->n_seen += r->n_images;
            continue;
        }
        BAL_TRY(name_record(g, r, encode(g, r, i)));
        if (step && step(step_ctx, "pictures", (long)i + 1, (long)n))
            return bal_fail(g->err, BAL_E_CANCELLED, "cancelled while encoding pictures");
    }
    return join(g);
}

bal_status bal_gather_layout(bal_gathered *out, const bal_calib *calib, const size_t *order,
                             size_t n, const bal_engine *engine, const bal_recipe *recipe,
                             bal_error *err)
{
    *out = (bal_gathered){.embeds.fd = -1};
    gatherer g = {.out = out, .calib = calib, .engine = engine, .recipe = recipe, .err = err};
    BAL_TRY(bal_engine_check_chat(engine, err));
    const bal_status st = lay_out_all(&g, order, n);
    bal_sha256_deinit(&g.hash);
    if (st < 0) bal_gathered_free(out);
    return st;
}

bal_status bal_gather_encode(bal_gathered *out, const bal_calib *calib, const size_t *order,
                             const bal_engine *engine, const bal_exec *exec,
                             const bal_recipe *recipe, const char *tmp_dir, bal_step_fn *step,
                             void *step_ctx, bal_error *err)
{
    gatherer g = {
        .out = out, .calib = calib, .engine = engine, .exec = exec, .recipe = recipe, .err = err};
    const bal_status st = encode_all(&g, order, tmp_dir, step, step_ctx);
    if (st < 0) bal_gathered_free(out);
    return st;
}

void bal_gathered_free(bal_gathered *g)
{
    for (int i = 0; i < g->samples.n; i++) {
        free(g->samples.items[i].ids);
        free(g->samples.items[i].modality);
        free(g->samples.items[i].pos);
    }
    free(g->samples.items);
    free(g->digests);
    bal_store_destroy(&g->embeds);
    *g = (bal_gathered){.embeds.fd = -1};
}
