#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Includes point downward only: tools > serve > api > report, quant > run > model > op > device >
# kernel > type > base; format, image, text stand on base; model may include format and image, run
# also text; cuda only device, type, base. Prints each offender and fails.
#   usage: check_includes.sh [SOURCE_DIR]
set -euo pipefail
cd "${1:-${BALLAST_SOURCE_DIR:-.}}"

rooms=(src)
[ ! -d tools ] || rooms+=(tools)
find "${rooms[@]}" \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' \) | LC_ALL=C sort | xargs -r awk '
BEGIN {
    # what each room may include besides itself
    below["base"] = ""
    below["format"] = below["image"] = below["text"] = below["type"] = "base"
    below["kernel"] = below["type"] " type"
    below["device"] = below["kernel"] " kernel"
    below["op"] = below["device"] " device"
    below["model"] = below["op"] " op format image"
    below["run"] = below["model"] " model text"
    below["quant"] = below["run"] " run"
    below["report"] = below["quant"] " quant"
    below["api"] = below["report"] " report"
    below["serve"] = below["api"] " api"
    below["tools"] = below["serve"] " serve"
    below["cuda"] = "base type device"
}
function room_of(path,   parts) {
    split(path, parts, "/")
    return parts[1] == "tools" ? "tools" : parts[2]
}
function may(from, to,   rooms, n, i) {
    if (from == to) return 1
    n = split(below[from], rooms, " ")
    for (i = 1; i <= n; i++) if (rooms[i] == to) return 1
    return 0
}
/^[ \t]*#[ \t]*include[ \t]*"[a-z0-9_]+\// {
    split($0, quoted, "\"")
    to = quoted[2]
    sub(/\/.*/, "", to)
    from = room_of(FILENAME)
    checked++
    if (!(from in below)) {
        printf "%s:%d: room %s is not in the order\n", FILENAME, FNR, from
        bad++
    } else if (!may(from, to)) {
        printf "%s:%d: %s may not include \"%s\"\n", FILENAME, FNR, from, quoted[2]
        bad++
    }
}
END {
    printf "%d includes checked, %d point the wrong way\n", checked, bad
    if (bad || !checked) exit 1
}'
