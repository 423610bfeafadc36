/* SPDX-License-Identifier: MIT */
#include "serve/request.h"

#include "base/size.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One object of the body and where it stands, for the parameter's name in a refusal. */
typedef struct place {
    const json_t *v;
    char path[BAL_PARAM_MAX];
    bal_refusal *f;
} place;

/* ---- Getters --------------------------------------------------------------------------------- */

static const char *kind_name(const json_t *v)
{
    static const char *const names[] = {"an object", "an array", "a string", "a whole number",
                                        "a number",  "true",     "false",    "null"};
    return v ? names[json_typeof(v)] : "nothing";
}

static void name_of(char out[BAL_PARAM_MAX], const place *p, const char *key)
{
    snprintf(out, BAL_PARAM_MAX, "%.80s%s%.40s", p->path, p->path[0] && key[0] != '[' ? "." : "",
             key);
}

/* The value at key; NULL where it is absent or null. */
static const json_t *get(const place *p, const char *key)
{
    const json_t *v = json_object_get(p->v, key);
    return json_is_null(v) ? NULL : v;
}

static place at_key(const place *p, const char *key)
{
    place child = {.v = get(p, key), .f = p->f};
    name_of(child.path, p, key);
    return child;
}

static place at_index(const place *p, size_t i)
{
    char key[32];
    snprintf(key, sizeof key, "[%zu]", i);
    place child = {.v = json_array_get(p->v, i), .f = p->f};
    name_of(child.path, p, key);
    return child;
}

static bal_status mismatch(const place *p, const char *expected)
{
    return bal_refuse(p->f, 400, "invalid_type", p->path, "%s: expected %s, found %s",
                      p->path[0] ? p->path : "the body", expected, kind_name(p->v));
}

static bal_status read_bool(const place *p, const char *key, bool *out)
{
    const place v = at_key(p, key);
    if (!v.v) return BAL_OK;
    if (!json_is_boolean(v.v)) return mismatch(&v, "true or false");
    *out = json_is_true(v.v);
    return BAL_OK;
}

/* min <= number <= max; above_min: min itself is refused. */
static bal_status read_real(const place *p, const char *key, bool above_min, double min, double max,
                            float *out)
{
    const place v = at_key(p, key);
    if (!v.v) return BAL_OK;
    if (!json_is_number(v.v)) return mismatch(&v, "a number");
    const double x = json_number_value(v.v);
    if (!(x >= min && x <= max) || (above_min && x == min))
        return bal_refuse(p->f, 400, "invalid_value", v.path, "%s: %g, expected %s%g to %g", v.path,
                          x, above_min ? "more than " : "", min, max);
    *out = (float)x;
    return BAL_OK;
}

static bal_status whole(const place *v, double min, double max, json_int_t *out)
{
    if (!json_is_number(v->v)) return mismatch(v, "a whole number");
    const double x = json_number_value(v->v);
    if (x != floor(x) || (json_is_real(v->v) && fabs(x) > 0x1p53))
        return mismatch(v, "a whole number");
    if (!(x >= min && x <= max))
        return bal_refuse(v->f, 400, "invalid_value", v->path, "%s: %.17g, expected %.17g to %.17g",
                          v->path, x, min, max);
    *out = json_is_integer(v->v) ? json_integer_value(v->v) : (json_int_t)x;
    return BAL_OK;
}

static bal_status read_int(const place *p, const char *key, int min, int max, int *out)
{
    const place v = at_key(p, key);
    json_int_t x = 0;
    if (!v.v) return BAL_OK;
    BAL_TRY(whole(&v, min, max, &x));
    *out = (int)x;
    return BAL_OK;
}

static bal_status need_array(const place *v, size_t min, size_t max)
{
    if (!json_is_array(v->v)) return mismatch(v, "an array");
    const size_t n = json_array_size(v->v);
    if (n < min || n > max)
        return bal_refuse(v->f, 400, "invalid_value", v->path,
                          "%s: %zu elements, expected %zu to %zu", v->path, n, min, max);
    return BAL_OK;
}

static bal_status no_memory(const place *p)
{
    return bal_refuse(p->f, 500, NULL, NULL, "memory is short");
}

/* ---- Messages -------------------------------------------------------------------------------- */

typedef struct text_buffer {
    char *bytes;
    size_t n, cap;
} text_buffer;

static bool text_add(text_buffer *t, const char *s, size_t n)
{
    size_t need = 0;
    if (!bal_size_add(t->n, n, &need)) return false;
    if (need >= t->cap) {
        char *more = realloc(t->bytes, 2 * need + 1);
        if (!more) return false;
        t->bytes = more;
        t->cap = 2 * need + 1;
    }
    if (n) memcpy(t->bytes + t->n, s, n);
    t->n = need;
    return true;
}

static bal_status find_role(const place *message, bal_chat_role *role)
{
    static const struct {
        const char *name;
        bal_chat_role role;
    } roles[] = {{"system", BAL_CHAT_SYSTEM},
                 {"developer", BAL_CHAT_SYSTEM},
                 {"user", BAL_CHAT_USER},
                 {"assistant", BAL_CHAT_ASSISTANT}};
    const place v = at_key(message, "role");
    if (!json_is_string(v.v)) return mismatch(&v, "a string");
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (strcmp(json_string_value(v.v), roles[i].name) == 0) {
            *role = roles[i].role;
            return BAL_OK;
        }
    return bal_refuse(message->f, 400, "invalid_value", v.path,
                      "%s: '%.40s', expected one of 'system', 'developer', 'user', 'assistant'",
                      v.path, json_string_value(v.v));
}

static bal_status add_image(bal_api_request *r, const place *part, const bal_request_limits *limits)
{
    place url = at_key(part, "image_url");
    if (json_is_object(url.v)) { /* a bare string is sent by some clients */
        const place inner = at_key(&url, "url");
        url = inner;
    }
    if (!json_is_string(url.v)) return mismatch(&url, "a string: a data, http or file URL");
    if (r->n_images == limits->max_images)
        return bal_refuse(part->f, 400, "too_many_images", url.path,
                          "%s: more than %d pictures in one request; send fewer, or start the "
                          "server with a larger --max-images",
                          url.path, limits->max_images);
    bal_image_ref *more = realloc(r->images, (size_t)(r->n_images + 1) * sizeof *more);
    if (!more) return no_memory(part);
    r->images = more;
    bal_image_ref *image = &r->images[r->n_images++];
    *image = (bal_image_ref){.url = json_string_value(url.v), .n = json_string_length(url.v)};
    memcpy(image->param, url.path, sizeof image->param);
    return BAL_OK;
}

/* Texts of one message stand on lines of their own, as the families' templates put them. */
static bal_status add_text_part(text_buffer *text, const place *part, bool first)
{
    const place v = at_key(part, "text");
    if (!json_is_string(v.v)) return mismatch(&v, "a string");
    if (!text_add(text, "\n", first ? 0 : 1) ||
        !text_add(text, json_string_value(v.v), json_string_length(v.v)))
        return no_memory(part);
    return BAL_OK;
}

static bal_status read_parts(bal_api_request *r, const place *content, bal_chat_message *m,
                             text_buffer *text, const bal_request_limits *limits)
{
    bool first = true;
    for (size_t i = 0; i < json_array_size(content->v); i++) {
        const place part = at_index(content, i);
        if (!json_is_object(part.v)) return mismatch(&part, "an object");
        const place type = at_key(&part, "type");
        if (!json_is_string(type.v)) return mismatch(&type, "a string");
        const char *name = json_string_value(type.v);
        if (strcmp(name, "text") == 0) {
            BAL_TRY(add_text_part(text, &part, first));
            first = false;
        } else if (strcmp(name, "image_url") == 0) {
            if (m->role != BAL_CHAT_USER)
                return bal_refuse(part.f, 400, "invalid_value", type.path,
                                  "%s: pictures belong to messages of the user", type.path);
            BAL_TRY(add_image(r, &part, limits));
            m->n_images++;
        } else {
            return bal_refuse(part.f, 400, "invalid_value", type.path,
                              "%s: '%.40s', expected 'text' or 'image_url'", type.path, name);
        }
    }
    return BAL_OK;
}

static bal_status read_message(bal_api_request *r, const place *message,
                               const bal_request_limits *limits)
{
    bal_chat_message *m = &r->messages[r->n_messages];
    text_buffer text = {0};
    if (!json_is_object(message->v)) return mismatch(message, "an object");
    BAL_TRY(find_role(message, &m->role));
    const place content = at_key(message, "content");
    bal_status st = BAL_OK;
    if (json_is_array(content.v))
        st = read_parts(r, &content, m, &text, limits);
    else if (!json_is_string(content.v))
        st = mismatch(&content, "a string or an array of parts");
    else if (!text_add(&text, json_string_value(content.v), json_string_length(content.v)))
        st = no_memory(message);
    m->text = r->texts[r->n_messages++] = text.bytes;
    m->n = text.n;
    return st;
}

static bal_status read_messages(bal_api_request *r, const place *body,
                                const bal_request_limits *limits)
{
    enum { MAX_MESSAGES = 4096 };
    const place list = at_key(body, "messages");
    if (!list.v)
        return bal_refuse(body->f, 400, "missing_parameter", "messages",
                          "messages: missing, expected an array of {role, content}");
    BAL_TRY(need_array(&list, 1, MAX_MESSAGES));
    const size_t n = json_array_size(list.v);
    r->messages = calloc(n, sizeof *r->messages);
    r->texts = calloc(n, sizeof *r->texts);
    if (!r->messages || !r->texts) return no_memory(body);
    for (size_t i = 0; i < n; i++) {
        const place message = at_index(&list, i);
        BAL_TRY(read_message(r, &message, limits));
    }
    return BAL_OK;
}

/* ---- Prompts --------------------------------------------------------------------------------- */

enum { MAX_PROMPTS = BAL_REQUEST_MAX_CHOICES, MAX_IDS = 1 << 22 };

static bal_status read_ids(bal_prompt *out, const place *list)
{
    BAL_TRY(need_array(list, 0, MAX_IDS));
    const size_t n = json_array_size(list->v);
    out->ids = malloc((n + 1) * sizeof *out->ids);
    if (!out->ids) return no_memory(list);
    for (size_t i = 0; i < n; i++) {
        const place id = at_index(list, i);
        json_int_t x = 0;
        BAL_TRY(whole(&id, 0, INT32_MAX, &x));
        out->ids[out->n_ids++] = (int32_t)x;
    }
    return BAL_OK;
}

static bal_status read_prompt(bal_prompt *out, const place *v)
{
    if (json_is_array(v->v)) return read_ids(out, v);
    if (!json_is_string(v->v)) return mismatch(v, "a string or an array of token ids");
    out->text = json_string_value(v->v);
    out->n = json_string_length(v->v);
    return BAL_OK;
}

/* A string, ids, or an array of either. */
static bal_status read_prompts(bal_api_request *r, const place *v)
{
    const json_t *first = json_array_get(v->v, 0);
    const bool many = json_is_array(v->v) && first && !json_is_number(first);
    if (many) BAL_TRY(need_array(v, 1, MAX_PROMPTS));
    const size_t n = many ? json_array_size(v->v) : 1;
    r->prompts = calloc(n, sizeof *r->prompts);
    if (!r->prompts) return no_memory(v);
    for (; r->n_prompts < n;) {
        const place one = many ? at_index(v, r->n_prompts) : *v;
        BAL_TRY(read_prompt(&r->prompts[r->n_prompts++], &one));
    }
    return BAL_OK;
}

static bal_status need_prompts(bal_api_request *r, const place *body, const char *key)
{
    const place v = at_key(body, key);
    if (!v.v)
        return bal_refuse(body->f, 400, "missing_parameter", key,
                          "%s: missing, expected a string or token ids", key);
    BAL_TRY(read_prompts(r, &v));
    if (r->kind != BAL_REQUEST_COMPLETION && r->n_prompts > 1)
        return bal_refuse(body->f, 400, "invalid_value", key, "%s: expected one text", key);
    return BAL_OK;
}

/* ---- Options of an answer -------------------------------------------------------------------- */

static bal_status read_stops(bal_api_request *r, const place *body)
{
    place list = at_key(body, "stop");
    if (!list.v) return BAL_OK;
    const bool one = json_is_string(list.v);
    if (!one) BAL_TRY(need_array(&list, 0, BAL_REQUEST_MAX_STOPS));
    const size_t n = one ? 1 : json_array_size(list.v);
    for (size_t i = 0; i < n; i++) {
        const place v = one ? list : at_index(&list, i);
        if (!json_is_string(v.v)) return mismatch(&v, "a string");
        const size_t length = json_string_length(v.v);
        if (length == 0 || length > BAL_REQUEST_MAX_STOP_BYTES)
            return bal_refuse(body->f, 400, "invalid_value", v.path,
                              "%s: %zu bytes, expected 1 to %d", v.path, length,
                              BAL_REQUEST_MAX_STOP_BYTES);
        r->stops[r->n_stops++] = json_string_value(v.v);
    }
    return BAL_OK;
}

static bal_status read_bias(bal_api_request *r, const place *body)
{
    enum { MAX_BIAS = 4096 };
    const place map = at_key(body, "logit_bias");
    if (!map.v) return BAL_OK;
    if (!json_is_object(map.v)) return mismatch(&map, "an object of token ids and numbers");
    const size_t n = json_object_size(map.v);
    if (n > MAX_BIAS)
        return bal_refuse(body->f, 400, "invalid_value", map.path,
                          "%s: %zu entries, expected at most %d", map.path, n, MAX_BIAS);
    r->bias = calloc(n + 1, sizeof *r->bias);
    if (!r->bias) return no_memory(body);
    json_t *obj = (json_t *)(uintptr_t)map.v; /* iterators are not const-correct in jansson */
    for (void *it = json_object_iter(obj); it; it = json_object_iter_next(obj, it)) {
        const char *key = json_object_iter_key(it);
        char *end;
        const long id = strtol(key, &end, 10);
        if (key[0] < '0' || key[0] > '9' || *end || id > INT32_MAX)
            return bal_refuse(body->f, 400, "invalid_value", map.path,
                              "%s: '%.40s' is not a token id", map.path, key);
        bal_logit_bias *b = &r->bias[r->n_bias++];
        b->id = (int32_t)id;
        BAL_TRY(read_real(&map, key, false, -100, 100, &b->bias));
    }
    return BAL_OK;
}

/* Chat: logprobs true, top_logprobs 0..20. Completions: logprobs is the number. */
static bal_status read_logprobs(bal_api_request *r, const place *body)
{
    if (r->kind == BAL_REQUEST_COMPLETION) {
        r->logprobs = get(body, "logprobs") != NULL;
        return read_int(body, "logprobs", 0, BAL_MAX_TOP_LOGPROBS, &r->n_top_logprobs);
    }
    BAL_TRY(read_bool(body, "logprobs", &r->logprobs));
    BAL_TRY(read_int(body, "top_logprobs", 0, BAL_MAX_TOP_LOGPROBS, &r->n_top_logprobs));
    if (r->n_top_logprobs && !r->logprobs)
        return bal_refuse(body->f, 400, "invalid_value", "top_logprobs",
                          "top_logprobs: needs logprobs to be true");
    return BAL_OK;
}

static bal_status read_schema(bal_api_request *r, const place *format)
{
    const place wrapper = at_key(format, "json_schema");
    if (!json_is_object(wrapper.v)) return mismatch(&wrapper, "an object {name, schema}");
    const place schema = at_key(&wrapper, "schema");
    if (!json_is_object(schema.v)) return mismatch(&schema, "an object");
    r->schema = schema.v;
    return BAL_OK;
}

static bal_status read_format(bal_api_request *r, const place *body)
{
    static const char *const names[] = {"text", "json_object", "json_schema"};
    const place format = at_key(body, "response_format");
    if (!format.v) return BAL_OK;
    if (!json_is_object(format.v)) return mismatch(&format, "an object");
    const place type = at_key(&format, "type");
    if (!json_is_string(type.v)) return mismatch(&type, "a string");
    for (int i = 0; i < 3; i++) {
        if (strcmp(json_string_value(type.v), names[i]) != 0) continue;
        r->format = (bal_format)i;
        return r->format == BAL_FORMAT_SCHEMA ? read_schema(r, &format) : BAL_OK;
    }
    return bal_refuse(body->f, 400, "invalid_value", type.path,
                      "%s: '%.40s', expected 'text', 'json_object' or 'json_schema'", type.path,
                      json_string_value(type.v));
}

static bal_status read_stream(bal_api_request *r, const place *body)
{
    BAL_TRY(read_bool(body, "stream", &r->stream));
    const place options = at_key(body, "stream_options");
    if (!options.v) return BAL_OK;
    if (!json_is_object(options.v)) return mismatch(&options, "an object");
    if (!r->stream)
        return bal_refuse(body->f, 400, "invalid_value", "stream_options",
                          "stream_options: needs stream to be true");
    return read_bool(&options, "include_usage", &r->include_usage);
}

static bal_status read_seed(bal_api_request *r, const place *body)
{
    const place v = at_key(body, "seed");
    json_int_t seed = 0;
    if (!v.v) return BAL_OK;
    BAL_TRY(whole(&v, -9223372036854775808.0, 9223372036854775807.0, &seed));
    r->sampling.seed = (uint64_t)seed;
    r->has_seed = true;
    return BAL_OK;
}

static bal_status read_sampling(bal_api_request *r, const place *body)
{
    r->sampling = (bal_sampling){.temperature = 1.0f, .top_p = 1.0f};
    BAL_TRY(read_real(body, "temperature", false, 0, 2, &r->sampling.temperature));
    BAL_TRY(read_real(body, "top_p", true, 0, 1, &r->sampling.top_p));
    BAL_TRY(read_int(body, "top_k", -1, 1 << 24, &r->sampling.top_k));
    if (r->sampling.top_k < 0) r->sampling.top_k = 0; /* as vLLM's clients say "off" */
    BAL_TRY(read_seed(r, body));
    BAL_TRY(read_real(body, "presence_penalty", false, -2, 2, &r->presence_penalty));
    BAL_TRY(read_real(body, "frequency_penalty", false, -2, 2, &r->frequency_penalty));
    BAL_TRY(read_real(body, "repetition_penalty", true, 0, 10, &r->repetition_penalty));
    return read_bias(r, body);
}

static bal_status read_length(bal_api_request *r, const place *body)
{
    const int min = r->kind == BAL_REQUEST_CHAT ? 1 : 0;
    r->max_tokens = -1;
    BAL_TRY(read_int(body, "max_tokens", min, 1 << 24, &r->max_tokens));
    return read_int(body, "max_completion_tokens", min, 1 << 24, &r->max_tokens);
}

/* Fields that a client sends only if it relies on them. */
static bal_status refuse_others(const bal_api_request *r, const place *body)
{
    static const char *const lists[] = {"tools", "functions"}, *const words[] = {"suffix", "audio"};
    for (int i = 0; i < 2; i++) {
        const json_t *list = get(body, lists[i]), *word = get(body, words[i]);
        const char *found = json_array_size(list)                                         ? lists[i]
                            : word && (!json_is_string(word) || json_string_length(word)) ? words[i]
                                                                                          : NULL;
        if (found)
            return bal_refuse(body->f, 400, "unsupported_parameter", found,
                              "%s: not supported; leave it out", found);
    }
    int best_of = r->n;
    BAL_TRY(read_int(body, "best_of", 1, BAL_REQUEST_MAX_CHOICES, &best_of));
    if (best_of != r->n)
        return bal_refuse(body->f, 400, "unsupported_parameter", "best_of",
                          "best_of: %d, only the value of n (%d) is supported", best_of, r->n);
    return BAL_OK;
}

static bal_status read_answer(bal_api_request *r, const place *body,
                              const bal_request_limits *limits)
{
    r->n = 1;
    BAL_TRY(read_int(body, "n", 1, limits->max_choices, &r->n));
    BAL_TRY(refuse_others(r, body));
    BAL_TRY(read_length(r, body));
    BAL_TRY(read_stream(r, body));
    BAL_TRY(read_sampling(r, body));
    BAL_TRY(read_stops(r, body));
    BAL_TRY(read_logprobs(r, body));
    BAL_TRY(read_format(r, body));
    BAL_TRY(read_bool(body, "ignore_eos", &r->ignore_eos));
    BAL_TRY(read_bool(body, "no_cache", &r->no_cache));
    if (r->n_prompts * (size_t)r->n > (size_t)limits->max_choices)
        return bal_refuse(body->f, 400, "invalid_value", "n",
                          "n: %zu prompts of %d answers, at most %d answers together", r->n_prompts,
                          r->n, limits->max_choices);
    return BAL_OK;
}

/* ---- Bodies ---------------------------------------------------------------------------------- */

static bal_status read_model(bal_api_request *r, const place *body)
{
    const place v = at_key(body, "model");
    if (!v.v) return BAL_OK;
    if (!json_is_string(v.v)) return mismatch(&v, "a string");
    r->model = json_string_value(v.v);
    return BAL_OK;
}

static bal_status read_body(bal_api_request *r, const place *body, const bal_request_limits *limits)
{
    BAL_TRY(read_model(r, body));
    switch (r->kind) {
    case BAL_REQUEST_CHAT: BAL_TRY(read_messages(r, body, limits)); break;
    case BAL_REQUEST_COMPLETION:
        BAL_TRY(read_bool(body, "echo", &r->echo));
        BAL_TRY(need_prompts(r, body, "prompt"));
        break;
    case BAL_REQUEST_TOKENIZE:
        if (get(body, "messages")) return read_messages(r, body, limits);
        return need_prompts(r, body, get(body, "content") ? "content" : "prompt");
    case BAL_REQUEST_DETOKENIZE: return need_prompts(r, body, "tokens");
    }
    return read_answer(r, body, limits);
}

/* "{}," is three bytes of a body and some three hundred once it is parsed, so values are counted
 * before. Well-formed bodies are counted exactly, others at least until they go wrong. */
static bal_status check_values(const char *body, size_t n, bal_refusal *f)
{
    size_t values = 1, groups = 0;
    bool text = false;
    for (size_t i = 0; i < n; i++) {
        const char b = body[i];
        if (text && b == '\\') {
            i++;
        } else if (b == '"') {
            text = !text;
        } else if (!text) {
            values += b == ',';
            groups += b == '[' || b == '{';
        }
    }
    if (values <= BAL_REQUEST_MAX_VALUES && groups <= BAL_REQUEST_MAX_GROUPS) return BAL_OK;
    return bal_refuse(f, 400, "too_many_values", NULL,
                      "the body has %zu values in %zu arrays and objects, at most %d in %d", values,
                      groups, BAL_REQUEST_MAX_VALUES, BAL_REQUEST_MAX_GROUPS);
}

bal_status bal_api_request_read(bal_api_request *r, bal_request_kind kind, const char *body,
                                size_t n, const bal_request_limits *limits, bal_refusal *f)
{
    bal_error err;
    r->kind = kind;
    BAL_TRY(check_values(body, n, f));
    if (bal_json_parse(&r->doc, n ? body : "", n, SIZE_MAX, "the body", &err) < 0)
        return bal_refuse(f, err.status == BAL_E_NOMEM ? 500 : 400, "invalid_json", NULL, "%s",
                          err.text);
    const place root = {.v = r->doc.root, .f = f};
    if (!json_is_object(root.v)) return mismatch(&root, "a JSON object");
    return read_body(r, &root, limits);
}

void bal_api_request_free(bal_api_request *r)
{
    for (size_t i = 0; i < r->n_messages; i++) free(r->texts[i]);
    for (size_t i = 0; i < r->n_prompts; i++) free(r->prompts[i].ids);
    free(r->messages);
    free(r->texts);
    free(r->images);
    free(r->prompts);
    free(r->bias);
    bal_json_close(&r->doc);
    *r = (bal_api_request){0};
}
