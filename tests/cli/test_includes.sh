#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The order of the rooms holds, and the script that says so notices when it does not.
set -euo pipefail
source_dir=${BALLAST_SOURCE_DIR:?}
check=$source_dir/tests/check_includes.sh

bash "$check" "$source_dir"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# expect VERDICT ROOM INCLUDE
expect() {
    rm -rf "$scratch/src"
    mkdir -p "$scratch/src/$2"
    printf '#include <stdio.h>\n#include "%s"\n' "$3" >"$scratch/src/$2/probe.c"
    local verdict=good
    bash "$check" "$scratch" >"$scratch/out" || verdict=bad
    if [ "$verdict" != "$1" ]; then
        echo "$2 including $3: found $verdict, expected $1"
        exit 1
    fi
    [ "$verdict" = good ] || grep -q "src/$2/probe.c:2: .*$3\|src/$2/probe.c:2: room" "$scratch/out"
}
expect good base base/status.h
expect good format base/status.h
expect good model format/json.h
expect good run image/decode.h
expect good quant run/session.h
expect good cuda device/device.h
expect good serve run/scheduler.h
expect good kernel/x86 kernel/kernel.h
expect bad base format/json.h
expect bad format type/type.h
expect bad type kernel/kernel.h
expect bad op model/model.h
expect good model image/plan.h
expect bad model text/tokenizer.h
expect bad run quant/recipe.h
expect bad cuda kernel/kernel.h
expect bad api serve/http.h
expect bad run serve/http.h
expect bad attic base/status.h
echo "order and its check are sound"
