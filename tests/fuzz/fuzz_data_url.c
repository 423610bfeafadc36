/* SPDX-License-Identifier: MIT
 * Any bytes as the URL of a picture: data URLs become at most three quarters of their bytes or are
 * refused, and an allowed http URL has the host and port of the rule that allowed it. */
#include "serve/picture_source.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good) abort();
}

static void check_data(const char *url, size_t n)
{
    bal_refusal f = {0};
    uint8_t *bytes;
    size_t n_bytes;
    if (bal_data_url_decode(&bytes, &n_bytes, url, n, "param", &f) < 0)
        require(!bytes && f.http == 400 && f.message[0]);
    else
        require(bytes && n_bytes > 0 && n_bytes <= n / 4 * 3);
    free(bytes);
}

static void require_part(CURLU *u, CURLUPart what, const char *wanted)
{
    char *part = NULL;
    require(curl_url_get(u, what, &part, CURLU_DEFAULT_PORT) == CURLUE_OK);
    require(strcmp(part, wanted) == 0);
    curl_free(part);
}

static void check_allowed(const char *url)
{
    static const char *const rules[] = {"https://pictures.example/a/"};
    char *path = NULL, *host = NULL;
    if (!bal_url_is_allowed(url, rules, 1)) return;
    CURLU *u = curl_url();
    require(curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK);
    require_part(u, CURLUPART_SCHEME, "https");
    require_part(u, CURLUPART_PORT, "443");
    require(curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK);
    require(strcasecmp(host, "pictures.example") == 0);
    curl_free(host);
    require(curl_url_get(u, CURLUPART_PATH, &path, 0) == CURLUE_OK);
    require(strncmp(path, "/a/", 3) == 0 && !strstr(path, "/../"));
    curl_free(path);
    curl_url_cleanup(u);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *url = malloc(size + 1);
    if (!url) return 0;
    if (size) memcpy(url, data, size);
    url[size] = 0;
    check_data(url, size);
    check_allowed(url);
    free(url);
    return 0;
}
