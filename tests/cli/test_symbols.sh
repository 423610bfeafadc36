#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Every global symbol of the library starts with bal_, so that it can be linked into anything.
set -euo pipefail
library=${BALLAST_BINARY_DIR:?}/libballast.a
[ -f "$library" ] || { echo "$library is absent"; exit 1; }
# sanitizers and coverage put globals of their own, reserved names into each object
symbols=$(nm --defined-only --extern-only "$library" | awk 'NF == 3 {print $3}' | LC_ALL=C sort -u)
grep -q '^bal_' <<<"$symbols" || { echo "no bal_ symbol in $library"; exit 1; }
foreign=$(grep -v '^bal_\|^__\(asan\|ubsan\|sanitizer\|odr_asan\|gcov\|llvm\)' <<<"$symbols" || true)
if [ -n "$foreign" ]; then
    echo "symbols of $library without bal_:"
    echo "$foreign"
    exit 1
fi
echo "$(wc -l <<<"$symbols") global symbols, all bal_"
