/* SPDX-License-Identifier: MIT
 * A made-up tokenizer of any size, built as published ones are: tokens 0 .. 255 are the bytes,
 * every further one merges an earlier token and a letter, so that opening it costs what opening a
 * real one costs. Tokens of two parts in a tree have no two ways to be written, so none stands
 * twice. */
#include "bench_shape.h"

#include "text/tokenizer_blob.h"

#include <stdio.h>
#include <stdlib.h>

enum { SPECIALS = 24, SIDE = 6, MAX_ADDED = SPECIALS + SIDE * SIDE + 1, LETTERS = 26, BYTES = 256 };

static const char PATTERN[] = /* as in Qwen2's tokenizer.json */
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/* What chat templates and pictures' layouts of the families name. */
static const char *const specials[SPECIALS] = {"<|endoftext|>",
                                               "<|im_start|>",
                                               "<|im_end|>",
                                               "<|vision_start|>",
                                               "<|vision_end|>",
                                               "<|image_pad|>",
                                               "<|video_pad|>",
                                               "<image>",
                                               "<s>",
                                               "</s>",
                                               "<unk>",
                                               "<img>",
                                               "</img>",
                                               "<IMG_CONTEXT>",
                                               "<fake_token_around_image>",
                                               "<global-img>",
                                               "<end_of_utterance>",
                                               "<|begin_of_text|>",
                                               "<|end_of_text|>",
                                               "<|start_header_id|>",
                                               "<|end_header_id|>",
                                               "<|eot_id|>",
                                               "<think>",
                                               "</think>"};

typedef struct added {
    char text[40];
    uint32_t id;
} added;

typedef struct word {
    uint32_t left, right; /* tokens; the right one is a letter */
} word;

typedef struct maker {
    uint32_t n;            /* tokens */
    added list[MAX_ADDED]; /* in rising order of ids */
    uint32_t n_added, n_words;
    uint32_t *lengths; /* [n] bytes of a token */
    word *words;       /* [n]; of tokens that are no words: unused */
    uint32_t *order;   /* [LETTERS + 1 + n_words] roots and words */
    uint8_t *is_added; /* [n] */
} maker;

static void put_added(maker *m, const char *text, uint32_t id)
{
    added *a = &m->list[m->n_added++];
    snprintf(a->text, sizeof a->text, "%s", text);
    a->id = id;
    m->is_added[id] = 1;
}

static int by_id(const void *a, const void *b)
{
    const added *x = a, *y = b;
    return (x->id > y->id) - (x->id < y->id);
}

/* The placeholder of pictures where the config has it, all others at the end. */
static void choose_added(maker *m, const char *image, int image_id)
{
    uint32_t id = m->n - 1;
    if (image_id < 0) image = NULL;
    if (image) put_added(m, image, (uint32_t)image_id);
    for (int i = 0; i < SPECIALS + SIDE * SIDE; i++) {
        char text[40];
        const int cell = i - SPECIALS;
        if (cell < 0)
            snprintf(text, sizeof text, "%s", specials[i]);
        else
            snprintf(text, sizeof text, "<row_%d_col_%d>", cell / SIDE + 1, cell % SIDE + 1);
        if (image && strcmp(text, image) == 0) continue;
        while (m->is_added[id]) id--;
        put_added(m, text, id);
    }
    qsort(m->list, m->n_added, sizeof *m->list, by_id);
}

/* Words in order of their ids: the children of each token in turn, breadth first. */
static void choose_words(maker *m)
{
    uint32_t n_order = 0, parent = 0, letter = 0;
    for (uint32_t i = 0; i < LETTERS; i++) m->order[n_order++] = 'a' + i;
    m->order[n_order++] = ' ';
    for (uint32_t id = 0; id < BYTES; id++) m->lengths[id] = 1;
    for (uint32_t id = BYTES; id < m->n; id++) {
        if (m->is_added[id]) continue;
        m->words[id] = (word){m->order[parent], 'a' + letter};
        m->lengths[id] = m->lengths[m->order[parent]] + 1;
        m->order[n_order++] = id;
        m->n_words++;
        if (++letter == LETTERS) {
            letter = 0;
            parent++;
        }
    }
    for (uint32_t i = 0; i < m->n_added; i++)
        m->lengths[m->list[i].id] = (uint32_t)strlen(m->list[i].text);
}

/* Text of a word from its end. */
static void spell(const maker *m, uint32_t id, uint8_t *out)
{
    uint32_t n = m->lengths[id];
    for (; id >= BYTES; id = m->words[id].left) out[--n] = (uint8_t)m->words[id].right;
    out[0] = (uint8_t)id;
}

static uint8_t *put_numbers(uint8_t *p, const uint32_t *v, int n)
{
    for (int i = 0; i < n; i++, p += 4) bal_put_le32(p, v[i]);
    return p;
}

/* The sections in the order of tokenizer_blob.h. */
static void write_blob(const maker *m, uint32_t n_text, uint8_t *blob)
{
    const uint32_t header[] = {BAL_TOKENIZER_BLOB_VERSION,
                               BAL_TOKENIZER_NFC,
                               m->n,
                               m->n_words,
                               m->n_added,
                               (uint32_t)sizeof PATTERN - 1,
                               n_text,
                               0};
    uint32_t at = 0;
    memcpy(blob, BAL_TOKENIZER_BLOB_MAGIC, 8);
    uint8_t *p = put_numbers(blob + 8, header, 8);
    for (uint32_t id = 0; id <= m->n; id++) {
        p = put_numbers(p, &at, 1);
        if (id < m->n) at += m->lengths[id];
    }
    for (uint32_t id = BYTES; id < m->n; id++)
        if (!m->is_added[id])
            p = put_numbers(p, (const uint32_t[]){m->words[id].left, m->words[id].right, id}, 3);
    for (uint32_t i = 0; i < m->n_added; i++)
        p = put_numbers(p, (const uint32_t[]){m->list[i].id, BAL_TOKENIZER_SPECIAL}, 2);
    memcpy(p, PATTERN, sizeof PATTERN - 1);
    p += sizeof PATTERN - 1;
    for (uint32_t id = 0, a = 0; id < m->n; p += m->lengths[id++])
        if (m->is_added[id])
            memcpy(p, m->list[a++].text, m->lengths[id]);
        else
            spell(m, id, p);
}

static bal_status make(maker *m, const char *image, int image_id, uint8_t **blob, size_t *n,
                       bal_error *err)
{
    const size_t tokens = m->n;
    m->lengths = calloc(tokens, sizeof *m->lengths);
    m->words = calloc(tokens, sizeof *m->words);
    m->order = calloc(tokens, sizeof *m->order);
    m->is_added = calloc(tokens, 1);
    if (!m->lengths || !m->words || !m->order || !m->is_added)
        return bal_nomem(err, tokens * sizeof *m->words, "a tokenizer");
    choose_added(m, image, image_id);
    choose_words(m);
    uint32_t n_text = 0;
    for (uint32_t id = 0; id < m->n; id++) n_text += m->lengths[id];
    *n = BAL_TOKENIZER_BLOB_HEADER + 4 * (tokens + 1) + 12 * (size_t)m->n_words +
         8 * (size_t)m->n_added + sizeof PATTERN - 1 + n_text;
    *blob = malloc(*n);
    if (!*blob) return bal_nomem(err, *n, "a tokenizer");
    write_blob(m, n_text, *blob);
    return BAL_OK;
}

bal_status bal_shape_tokenizer(int n_tokens, const char *image, int image_id, uint8_t **blob,
                               size_t *n, bal_error *err)
{
    enum { LEAST = BYTES + MAX_ADDED + LETTERS, MOST = 1 << 20 };
    *blob = NULL;
    if (n_tokens < LEAST || n_tokens > MOST || (image && image_id >= 0 && image_id < BYTES))
        return bal_fail(err, BAL_E_ARG,
                        "a made-up tokenizer has %d to %d tokens and pictures at %d or above; the "
                        "config says vocab_size %d, image token %d",
                        LEAST, MOST, BYTES, n_tokens, image_id);
    maker m = {.n = (uint32_t)n_tokens};
    const bal_status st = make(&m, image, image_id, blob, n, err);
    free(m.lengths);
    free(m.words);
    free(m.order);
    free(m.is_added);
    return st;
}
