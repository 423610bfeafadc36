/* SPDX-License-Identifier: MIT */
#include "serve/access.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <string.h>
#include <strings.h>

bal_status bal_check_key(const char *const *keys, int n_keys, const char *authorization,
                         bal_refusal *f)
{
    static const char scheme[] = "Bearer ";
    const size_t skip = sizeof scheme - 1;
    if (n_keys == 0) return BAL_OK;
    if (!authorization || strncasecmp(authorization, scheme, skip) != 0)
        return bal_refuse(f, 401, "invalid_api_key", NULL,
                          "an API key is needed: send the header 'Authorization: Bearer KEY'");
    const char *given = authorization + skip;
    const size_t n = strlen(given);
    bool good = false;
    for (int i = 0; i < n_keys; i++)
        good |= strlen(keys[i]) == n && CRYPTO_memcmp(keys[i], given, n) == 0;
    if (good) return BAL_OK;
    return bal_refuse(f, 401, "invalid_api_key", NULL, "the API key is not one of this server's");
}

bool bal_origin_is_listed(const char *const *origins, int n_origins, const char *origin)
{
    for (int i = 0; i < n_origins; i++)
        if (strcasecmp(origins[i], origin) == 0) return true;
    return false;
}

/* "127.0.0.1:8080", "[::1]:8080", "localhost". */
static bool is_address(const char *host)
{
    char name[64];
    struct in6_addr out;
    const bool bracket = host[0] == '[';
    const size_t n = strcspn(host + bracket, bracket ? "]" : ":");
    if (n >= sizeof name) return false;
    memcpy(name, host + bracket, n);
    name[n] = 0;
    return strcasecmp(name, "localhost") == 0 || inet_pton(AF_INET, name, &out) == 1 ||
           inet_pton(AF_INET6, name, &out) == 1;
}

static bool is_own(const char *origin, const char *host)
{
    static const char scheme[] = "http://";
    const size_t skip = sizeof scheme - 1;
    return host && strncasecmp(origin, scheme, skip) == 0 && strcasecmp(origin + skip, host) == 0 &&
           is_address(host);
}

bal_status bal_check_origin(const char *const *origins, int n_origins, const char *origin,
                            const char *host, bal_refusal *f)
{
    if (!origin || bal_origin_is_listed(origins, n_origins, origin) || is_own(origin, host))
        return BAL_OK;
    return bal_refuse(f, 403, "origin_not_allowed", NULL,
                      "pages of '%.100s' may not use this server; --origin allows it", origin);
}

/* Bytes of "name" in "name:port" and "name". */
static size_t name_bytes(const char *host)
{
    return strcspn(host, ":");
}

/* Of "https://chat.example:8443" the name, whatever the port. */
static bool origin_names(const char *origin, const char *host)
{
    const char *at = strstr(origin, "://");
    const char *name = at ? at + 3 : origin;
    const size_t n = name_bytes(host);
    return n > 0 && name_bytes(name) == n && strncasecmp(name, host, n) == 0;
}

bal_status bal_check_host(const char *const *origins, int n_origins, const char *host,
                          bal_refusal *f)
{
    if (!host || is_address(host)) return BAL_OK;
    for (int i = 0; i < n_origins; i++)
        if (origin_names(origins[i], host)) return BAL_OK;
    return bal_refuse(f, 403, "host_not_allowed", NULL,
                      "Host '%.100s': this server answers on loopback without an API key, so only "
                      "under an address, localhost, or a name that --origin http://NAME gives it",
                      host);
}
