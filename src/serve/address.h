/* SPDX-License-Identifier: MIT
 * Which addresses and URLs the server may fetch pictures from. */
#ifndef BAL_SERVE_ADDRESS_H
#define BAL_SERVE_ADDRESS_H

#include "serve/refusal.h"

#include <sys/socket.h>

/* Whether an address is one of the open internet: not loopback, private, link-local, shared
 * (100.64/10), documentation, benchmark, multicast or reserved, also where an IPv4 address stands
 * inside an IPv6 one (mapped, NAT64, 6to4, Teredo). After the IANA special-purpose address
 * registries (RFC 6890 and its successors). Other families are not public. */
bool bal_address_is_public(const struct sockaddr *address);

/* "*" lets every http and https URL through; else a rule is a URL whose scheme, host and port must
 * be the same and whose path the URL's path must begin with, up to a slash. Paths are compared
 * after "." and ".." are resolved. */
bool bal_url_is_allowed(const char *url, const char *const *rules, int n_rules);
/* BAL_E_ARG for a rule that is neither "*" nor an http(s) URL with a host, or has a query or a
 * fragment, which no URL would be compared with. The sentence begins with `flag` and the rule. */
bal_status bal_url_rule_check(const char *rule, const char *flag, bal_error *err);

#endif
