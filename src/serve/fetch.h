/* SPDX-License-Identifier: MIT
 * Pictures by http and https, for servers whose owner allows it. The address that is connected to
 * is the one that was checked, for every redirect anew: names that resolve to private addresses,
 * and redirects to them, end here. No proxy, no credentials, no cookies, no other protocol. */
#ifndef BAL_SERVE_FETCH_H
#define BAL_SERVE_FETCH_H

#include "serve/address.h"

typedef bool bal_address_fn(const struct sockaddr *address);

typedef struct bal_fetch_rules {
    const char *const *allow; /* [n_allow] as bal_url_is_allowed reads them */
    int n_allow;
    bal_address_fn *may_connect; /* bal_address_is_public, unless the owner says otherwise */
    size_t max_bytes;
    int timeout_ms; /* for all of it, redirects included */
} bal_fetch_rules;

/* *out is malloc'ed. `param` names the picture in the refusal: 400 for what the client can change
 * (not allowed, not reachable, too large), 504 where time ran out. curl_global_init must have been
 * called. */
bal_status bal_fetch(uint8_t **out, size_t *n, const char *url, const bal_fetch_rules *rules,
                     const char *param, bal_refusal *f);

#endif
