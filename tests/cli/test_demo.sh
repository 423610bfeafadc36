#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ballast demo, small: its table, and a demo that goes on with what one before it left.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
args=(--demo "$BALLAST_SOURCE_DIR/demo" --work work --questions 16)
demo() { "$ballast" demo "${args[@]}" "$@"; }
kept() { holds [ "$(grep -c ", kept$" out.txt)" = "$1" ]; }
table() { sed -n 's/ *[0-9]*$//; /^recipe /,/^$/p' "$1"; } # without the speed of decoding, which is a measurement

# begun ARGUMENTS...: a demo that is stopped when it has made its first file
begun() {
    "$ballast" demo "${args[@]}" "$@" >out.txt 2>err.txt &
    until grep -q "^  rtn " out.txt; do sleep 0.05; done
    kill -TERM $!
    wait $! && { echo "was not stopped"; exit 1; }
    lacks grep "Asking" out.txt
}

begun --samples 2
status 0 "^ballast  *3 " demo --samples 2 --resume
holds grep -q "^  rtn  *W3 .*, kept$" out.txt
table out.txt >resumed.txt
status 0 "^ballast  *3 " demo --samples 2
kept 0
table out.txt >whole.txt
same resumed.txt whole.txt "the tables of a demo that was stopped and of one that was not"
holds [ "$(wc -l <whole.txt)" -ge 7 ]

# not what is damaged or gone, nor with other options
echo '{' >work/awq-w3.cost.json
rm work/mbq-w3.safetensors
status 0 "^ballast  *3 " demo --samples 2 --resume
kept 3
lacks grep "^  awq  *W3 .*, kept$" out.txt
lacks grep "^  mbq  *W3 .*, kept$" out.txt
begun --samples 3 --resume
kept 0
