/* SPDX-License-Identifier: MIT */
#include "serve/address.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <string.h>
#include <strings.h>

/* ---- Addresses ------------------------------------------------------------------------------- */

static bool v4_is_public(uint32_t a)
{
    static const struct {
        uint32_t net;
        int bits;
    } closed[] = {
        {0x00000000, 8},  /* this network */
        {0x0a000000, 8},  /* private */
        {0x64400000, 10}, /* shared between provider and customer */
        {0x7f000000, 8},  /* loopback */
        {0xa9fe0000, 16}, /* link-local, cloud metadata among them */
        {0xac100000, 12}, /* private */
        {0xc0000000, 24}, /* protocol assignments */
        {0xc0000200, 24}, /* documentation */
        {0xc0586300, 24}, /* 6to4 relay */
        {0xc0a80000, 16}, /* private */
        {0xc6120000, 15}, /* benchmark */
        {0xc6336400, 24}, /* documentation */
        {0xcb007100, 24}, /* documentation */
        {0xe0000000, 4},  /* multicast */
        {0xf0000000, 4},  /* reserved, broadcast */
    };
    for (size_t i = 0; i < sizeof closed / sizeof closed[0]; i++)
        if ((a ^ closed[i].net) >> (32 - closed[i].bits) == 0) return false;
    return true;
}

static uint32_t v4_at(const uint8_t *b)
{
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

/* Only 2000::/3 is the open internet; inside it some prefixes wrap IPv4 or are set aside. */
static bool v6_is_public(const uint8_t b[16])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    static const uint8_t nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    if (memcmp(b, mapped, 12) == 0 || memcmp(b, nat64, 12) == 0) return v4_is_public(v4_at(b + 12));
    if (b[0] >> 5 != 1) return false;
    if (b[0] == 0x20 && b[1] == 0x02) return v4_is_public(v4_at(b + 2)); /* 6to4 */
    if (b[0] == 0x20 && b[1] == 0x01 && b[2] < 2) return false;          /* 2001::/23, Teredo */
    if (v4_at(b) == 0x20010db8) return false;                            /* documentation */
    return !(b[0] == 0x3f && b[1] == 0xff && b[2] < 0x10);               /* documentation */
}

bool bal_address_is_public(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, address, sizeof in);
        return v4_is_public(ntohl(in.sin_addr.s_addr));
    }
    if (address->sa_family != AF_INET6) return false;
    struct sockaddr_in6 in6;
    memcpy(&in6, address, sizeof in6);
    return v6_is_public(in6.sin6_addr.s6_addr);
}

/* ---- URLs ------------------------------------------------------------------------------------ */

typedef struct parts {
    char *scheme, *host, *port, *path;
} parts;

static void parts_free(parts *p)
{
    curl_free(p->scheme);
    curl_free(p->host);
    curl_free(p->port);
    curl_free(p->path);
}

static bool parts_read(parts *p, const char *url)
{
    *p = (parts){0};
    CURLU *u = curl_url();
    const bool good = u && curl_url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
                      curl_url_get(u, CURLUPART_SCHEME, &p->scheme, 0) == CURLUE_OK &&
                      curl_url_get(u, CURLUPART_HOST, &p->host, 0) == CURLUE_OK &&
                      curl_url_get(u, CURLUPART_PORT, &p->port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                      curl_url_get(u, CURLUPART_PATH, &p->path, 0) == CURLUE_OK;
    curl_url_cleanup(u);
    return good && (strcmp(p->scheme, "http") == 0 || strcmp(p->scheme, "https") == 0);
}

/* "/a" holds "/a" and "/a/b", not "/ab"; "/" and "/a/" hold what begins with them. */
static bool path_holds(const char *rule, const char *path)
{
    const size_t n = strlen(rule);
    if (strncmp(rule, path, n) != 0) return false;
    return n == 0 || rule[n - 1] == '/' || path[n] == 0 || path[n] == '/';
}

static bool rule_holds(const char *rule, const parts *url)
{
    if (strcmp(rule, "*") == 0) return true;
    parts r;
    const bool good = parts_read(&r, rule) && strcmp(r.scheme, url->scheme) == 0 &&
                      strcasecmp(r.host, url->host) == 0 && strcmp(r.port, url->port) == 0 &&
                      path_holds(r.path, url->path);
    parts_free(&r);
    return good;
}

bool bal_url_is_allowed(const char *url, const char *const *rules, int n_rules)
{
    parts u;
    bool good = false;
    if (parts_read(&u, url))
        for (int i = 0; i < n_rules && !good; i++) good = rule_holds(rules[i], &u);
    parts_free(&u);
    return good;
}

bal_status bal_url_rule_check(const char *rule, const char *flag, bal_error *err)
{
    parts p;
    if (strcmp(rule, "*") == 0) return BAL_OK;
    const bool good = parts_read(&p, rule) && !strpbrk(rule, "?#");
    parts_free(&p);
    if (good) return BAL_OK;
    return bal_fail(err, BAL_E_ARG,
                    "%s '%.200s': expected * for any URL, or the beginning of those that are "
                    "allowed, such as https://pictures.example/",
                    flag, rule);
}
