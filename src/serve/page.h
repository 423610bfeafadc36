/* SPDX-License-Identifier: MIT
 * The page: src/serve/page.html, compiled in, and the policy that keeps it from loading or running
 * anything but itself. */
#ifndef BAL_SERVE_PAGE_H
#define BAL_SERVE_PAGE_H

#include "base/status.h"

extern const unsigned char bal_page_html[];
extern const size_t bal_page_html_bytes;

/* Content-Security-Policy of a page of n bytes: only its own <script> and <style>, by their
 * hashes, and requests to its own server. BAL_E_FORMAT if it lacks either. */
bal_status bal_page_policy(char *out, size_t size, const char *html, size_t n, bal_error *err);

#endif
