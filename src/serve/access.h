/* SPDX-License-Identifier: MIT
 * Who may ask: bearers of an API key, and pages of allowed origins. */
#ifndef BAL_SERVE_ACCESS_H
#define BAL_SERVE_ACCESS_H

#include "serve/refusal.h"

/* authorization: the header's value or NULL. No keys: everybody may. Takes the same time for every
 * wrong key of a length. */
bal_status bal_check_key(const char *const *keys, int n_keys, const char *authorization,
                         bal_refusal *f);

/* A page may ask the server it came from, under an address that nobody can give to a name of his
 * own (an IP address or localhost: otherwise a name that is pointed here would pass), and the
 * server of which its owner said so. origin, host: the headers' values or NULL. */
bal_status bal_check_origin(const char *const *origins, int n_origins, const char *origin,
                            const char *host, bal_refusal *f);
/* What a page is checked by where the browser names no origin, as it does for what the page gets
 * from its own address: the name it was loaded by must be an address, localhost, or the name in a
 * listed origin. host NULL is no browser. */
bal_status bal_check_host(const char *const *origins, int n_origins, const char *host,
                          bal_refusal *f);
/* Whether that origin is one of the list, so that the answer may name it. */
bool bal_origin_is_listed(const char *const *origins, int n_origins, const char *origin);

#endif
