/* SPDX-License-Identifier: MIT
 * Any bytes as the body of a request; the first byte says for which route. It is read into what the
 * limits allow, or refused with a status, a sentence and a well-formed error object. */
#include "serve/request.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good) abort();
}

static void check_refusal(const bal_refusal *f)
{
    require(f->http >= 400 && f->http < 500 && f->message[0]);
    char *text = bal_refusal_text(f);
    json_t *v = json_loads(text, 0, NULL);
    require(json_is_string(json_object_get(json_object_get(v, "error"), "message")));
    json_decref(v);
    free(text);
}

static void check_answer(const bal_api_request *r, const bal_request_limits *limits)
{
    const bal_sampling *s = &r->sampling;
    require(r->n >= 1 && r->n <= limits->max_choices && r->max_tokens >= -1);
    require(s->temperature >= 0 && s->temperature <= 2 && s->top_p > 0 && s->top_p <= 1);
    require(fabsf(r->presence_penalty) <= 2 && fabsf(r->frequency_penalty) <= 2);
    require(r->n_top_logprobs >= 0 && r->n_top_logprobs <= BAL_MAX_TOP_LOGPROBS);
    require(r->n_stops <= BAL_REQUEST_MAX_STOPS);
    for (int i = 0; i < r->n_bias; i++) require(r->bias[i].id >= 0);
}

static void check_request(const bal_api_request *r, const bal_request_limits *limits)
{
    size_t slots = 0;
    for (size_t i = 0; i < r->n_messages; i++) {
        require(r->messages[i].n == 0 || r->messages[i].text);
        slots += r->messages[i].n_images;
    }
    require(slots == (size_t)r->n_images && r->n_images <= limits->max_images);
    for (int i = 0; i < r->n_images; i++) require(r->images[i].url && r->images[i].param[0]);
    for (size_t i = 0; i < r->n_prompts; i++) require(r->prompts[i].text || r->prompts[i].ids);
    if (r->kind <= BAL_REQUEST_COMPLETION) check_answer(r, limits);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const bal_request_limits limits = {.max_images = 3, .max_choices = 4};
    bal_api_request r = {0};
    bal_refusal f = {0};
    if (size < 1) return 0;
    const bal_request_kind kind = (bal_request_kind)(data[0] % 4);
    if (bal_api_request_read(&r, kind, (const char *)data + 1, size - 1, &limits, &f) < 0)
        check_refusal(&f);
    else
        check_request(&r, &limits);
    bal_api_request_free(&r);
    return 0;
}
