#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# src/serve/page.html keeps to what its policy allows: one script and one style, both inline; no style attributes, no
# inline handlers, nothing from elsewhere, no text parsed as markup. What a browser makes of it: tests/dev/check_page.py
set -euo pipefail
page=$(cd "$(dirname "$0")/../.." && pwd)/src/serve/page.html
failed=0

# none WHAT PATTERN: no line of the page may match
none() {
  if grep -nE -- "$2" "$page"; then
    echo "page.html: $1" >&2
    failed=1
  fi
}

for tag in script style; do
  if [ "$(grep -c "^<$tag>\$" "$page")" != 1 ] || [ "$(grep -c "<$tag" "$page")" != 1 ]; then
    echo "page.html: expected one <$tag>" >&2
    failed=1
  fi
done
none "a style attribute, which the policy forbids" '<[^>]* style='
none "an inline handler, which the policy forbids" '<[^>]* on[a-z]+='
none "something from elsewhere" "(src|href|action)=[\"']?(https?:)?//|[^A-Za-z_]url\(|@import|fetch\([\"']http"
none "text parsed as markup" 'innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function'
exit $failed
