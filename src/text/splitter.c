/* SPDX-License-Identifier: MIT */
#include "text/splitter.h"

#include <stdlib.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/size.h"
#include "text/utf8.h"

/* Unicode White_Space, which is Oniguruma's \s. PCRE2's adds U+180E, so \s is written out. */
#define SPACES                                                                                     \
    "\\t-\\r\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}"                                     \
    "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

struct bal_splitter {
    pcre2_code *code;
};

/* ---- Translation ------------------------------------------------------------------------- */

/* Reads the expression left to right, copying; `in_class` while between [ and ]. */
typedef struct translation {
    const char *in;
    size_t n_in, at;
    char *out;
    size_t n_out;
    bool in_class;
    bal_error *err;
} translation;

/* the longest thing one input byte can grow into */
#define GROWTH (sizeof "[^" SPACES "]")

static char peek(const translation *t, size_t ahead)
{
    return t->at + ahead < t->n_in ? t->in[t->at + ahead] : 0;
}

static void copy(translation *t, size_t n)
{
    memcpy(t->out + t->n_out, t->in + t->at, n);
    t->n_out += n;
    t->at += n;
}

/* Writes `text` for the next n bytes of input. */
static void replace(translation *t, size_t n, const char *text)
{
    const size_t len = strlen(text);
    memcpy(t->out + t->n_out, text, len);
    t->n_out += len;
    t->at += n;
}

static bal_status refuse(const translation *t, size_t n)
{
    const char *s = t->in + t->at;
    return bal_fail(t->err, BAL_E_UNSUP,
                    "split pattern: '%.*s' at byte %zu is not supported (the engines differ on it)",
                    bal_utf8_fit(s, t->n_in - t->at, (int)n), s, t->at);
}

/* \p{...} and \x{...}, and the short \pL and \x41: the whole name is copied, so that its brace is
 * not taken for a repetition. */
static bal_status translate_braced(translation *t)
{
    if (peek(t, 2) != '{') return copy(t, 2), BAL_OK;
    const char *s = t->in + t->at, *end = memchr(s, '}', t->n_in - t->at);
    if (!end)
        return bal_fail(t->err, BAL_E_FORMAT, "split pattern: '{' at byte %zu is never closed",
                        t->at + 2);
    copy(t, (size_t)(end + 1 - s));
    return BAL_OK;
}

static bal_status translate_escape(translation *t)
{
    const char c = peek(t, 1);
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c == 's') {
        replace(t, 2, t->in_class ? SPACES : "[" SPACES "]");
    } else if (c == 'S' && !t->in_class) {
        replace(t, 2, "[^" SPACES "]");
    } else if (c == 'p' || c == 'P' || c == 'x') {
        return translate_braced(t);
    } else if (c == 0 || (c >= '0' && c <= '9') || (letter && !strchr("rntfdD", c))) {
        return refuse(t, 2);
    } else {
        copy(t, 2);
    }
    return BAL_OK;
}

/* (?: (?i: (?= (?! (?> (?<= (?<! and plain groups; no verbs, names, flags or conditions */
static bal_status translate_group(translation *t)
{
    if (peek(t, 1) == '*') return refuse(t, 2);
    if (peek(t, 1) != '?') return copy(t, 1), BAL_OK;
    static const char *const known[] = {"(?:", "(?i:", "(?=", "(?!", "(?>", "(?<=", "(?<!"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const size_t n = strlen(known[i]);
        if (t->n_in - t->at >= n && memcmp(t->in + t->at, known[i], n) == 0)
            return copy(t, n), BAL_OK;
    }
    return refuse(t, 3);
}

static bal_status translate_in_class(translation *t)
{
    const char c = peek(t, 0);
    if (c == '\\') return translate_escape(t);
    if (c == '[' || (c == '&' && peek(t, 1) == '&')) return refuse(t, 2); /* set operations */
    if (c == ']') t->in_class = false;
    copy(t, 1);
    return BAL_OK;
}

static bal_status translate_next(translation *t)
{
    const char c = peek(t, 0);
    if (t->in_class) return translate_in_class(t);
    if (c == '\\') return translate_escape(t);
    if (c == '(') return translate_group(t);
    if ((c == '{' && peek(t, 1) == ',') || (c == '}' && peek(t, 1) == '+')) return refuse(t, 2);
    if (c == '[') {
        t->in_class = true;
        const size_t opening = peek(t, 1) == '^' ? 2 : 1;
        copy(t, opening + (peek(t, opening) == ']')); /* a bracket in first place is itself */
        return BAL_OK;
    }
    copy(t, 1);
    return BAL_OK;
}

static bal_status translate(char **out, size_t *n_out, const char *pattern, size_t n,
                            bal_error *err)
{
    translation t = {.in = pattern, .n_in = n, .err = err};
    if (n == 0 || n > BAL_SPLIT_PATTERN_MAX)
        return bal_fail(err, BAL_E_FORMAT, "split pattern has %zu bytes, expected 1 to %d", n,
                        BAL_SPLIT_PATTERN_MAX);
    if (!bal_utf8_valid(pattern, n) || memchr(pattern, 0, n))
        return bal_fail(err, BAL_E_FORMAT, "split pattern is not UTF-8 text");
    if (!(t.out = malloc(n * GROWTH + 8))) return bal_nomem(err, n * GROWTH, "a split pattern");
    replace(&t, 0, "(*LF)"); /* the only newline Oniguruma knows */
    while (t.at < n) {
        const bal_status st = translate_next(&t);
        if (st < 0) return free(t.out), st;
    }
    *out = t.out;
    *n_out = t.n_out;
    return BAL_OK;
}

/* ---- Compiling --------------------------------------------------------------------------- */

static bal_status pcre_failed(bal_error *err, const char *what, size_t at, int code)
{
    char why[128];
    if (pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why) < 0) why[0] = 0;
    if (code == PCRE2_ERROR_NOMEMORY || code == PCRE2_ERROR_HEAPLIMIT)
        return bal_fail(err, BAL_E_NOMEM, "%s at byte %zu: %s", what, at, why);
    return bal_fail(err, BAL_E_FORMAT, "%s at byte %zu: %s", what, at, why);
}

static bal_status compile(pcre2_code **out, const char *pattern, size_t n, bal_error *err)
{
    /* MULTILINE because Oniguruma's ^ and $ always mean lines */
    const uint32_t options =
        PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE;
    int code = 0;
    PCRE2_SIZE at = 0;
    *out = pcre2_compile((PCRE2_SPTR)pattern, n, options, &code, &at, NULL);
    if (!*out) return pcre_failed(err, "split pattern (white space written out)", at, code);
    uint32_t matches_nothing = 0;
    pcre2_pattern_info(*out, PCRE2_INFO_MATCHEMPTY, &matches_nothing);
    if (matches_nothing)
        return bal_fail(err, BAL_E_UNSUP, "split pattern can match the empty string");
    /* without executable memory the interpreter does the work, only slower */
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return BAL_OK;
}

bal_status bal_splitter_open(bal_splitter **out, const char *pattern, size_t n, bal_error *err)
{
    *out = NULL;
    char *text = NULL;
    size_t n_text = 0;
    BAL_TRY(translate(&text, &n_text, pattern, n, err));
    bal_splitter *s = calloc(1, sizeof *s);
    bal_status st =
        s ? compile(&s->code, text, n_text, err) : bal_nomem(err, sizeof *s, "a text splitter");
    free(text);
    if (st < 0)
        bal_splitter_close(s);
    else
        *out = s;
    return st;
}

void bal_splitter_close(bal_splitter *s)
{
    if (!s) return;
    pcre2_code_free(s->code);
    free(s);
}

/* ---- Walking ----------------------------------------------------------------------------- */

typedef struct walk {
    const pcre2_code *code;
    pcre2_match_data *match;
    pcre2_match_context *limits;
} walk;

/* Steps grow with the text: the known expressions back up over a run of white space once. */
static bal_status walk_init(walk *w, const bal_splitter *s, size_t n, bal_error *err)
{
    *w = (walk){.code = s->code,
                .match = pcre2_match_data_create(1, NULL),
                .limits = pcre2_match_context_create(NULL)};
    if (!w->match || !w->limits) return bal_nomem(err, 256, "matching a text");
    pcre2_set_match_limit(w->limits, (uint32_t)bal_min(100000 + 64 * n, UINT32_MAX));
    pcre2_set_heap_limit(w->limits, 1 << 18); /* KiB */
    return BAL_OK;
}

static void walk_deinit(walk *w)
{
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->limits);
}

/* The next match at or after *begin; false in *found when there is none. */
static bal_status walk_find(walk *w, const char *text, size_t n, size_t *begin, size_t *end,
                            bool *found, bal_error *err)
{
    const uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    const PCRE2_SPTR s = (PCRE2_SPTR)text;
    int rc = pcre2_match(w->code, s, n, *begin, options, w->match, w->limits);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(w->code, s, n, *begin, options | PCRE2_NO_JIT, w->match, w->limits);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return BAL_OK;
    if (rc < 0) return pcre_failed(err, "split pattern gave up on the text", *begin, rc);
    const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(w->match);
    *begin = pair[0];
    *end = pair[1];
    return BAL_OK;
}

static bal_status walk_all(walk *w, const char *text, size_t n, bal_piece_fn *fn, void *ctx,
                           bal_error *err)
{
    for (size_t at = 0; at < n;) {
        size_t begin = at, end = n;
        bool found = false;
        BAL_TRY(walk_find(w, text, n, &begin, &end, &found, err));
        if (!found) begin = end = n;
        if (begin > at) BAL_TRY(fn(ctx, text + at, begin - at, err));
        if (end > begin) BAL_TRY(fn(ctx, text + begin, end - begin, err));
        at = end;
    }
    return BAL_OK;
}

bal_status bal_splitter_each(const bal_splitter *s, const char *text, size_t n, bal_piece_fn *fn,
                             void *ctx, bal_error *err)
{
    walk w;
    bal_status st = walk_init(&w, s, n, err);
    if (st >= 0) st = walk_all(&w, text, n, fn, ctx, err);
    walk_deinit(&w);
    return st;
}
