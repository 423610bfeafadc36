#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Shape tables on the command line: where they are looked for, what is ignored with a line and what
# is refused, that answers are the same with any of them, and what bench --shapes-make leaves.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
unset BALLAST_SHAPES
export XDG_CACHE_HOME=$PWD/cache
shapes=${BALLAST_SOURCE_DIR:?}/tests/data/shapes
cache=cache/ballast/shapes.json
model=kept/tiny_text-w3g128a8g0.safetensors
common=(--threads 2)
run() { "$ballast" run "$model" -p "what is it" -n 6 "${common[@]}" "$@"; }
make() { "$ballast" bench "$model" --shapes-make --repeats 1 "${common[@]}" "$@"; }
# count FILE KEY PATTERN: lines with a key and that behind it
count() { grep -c "\"$2\": $3" "$1" || true; }
# ignored PATTERN COMMAND...: status 0, one line on stderr, the answer as ever
ignored() {
    local pattern=$1
    shift
    status 0 "$pattern" "$@"
    holds [ "$(wc -l <err.txt)" = 1 ]
    holds grep -q "$pattern.*; this shape table is ignored" err.txt
    same out.txt plain.txt "answers"
}

# ---- made: in the cache, whose folders may be missing; nothing beside it
"$ballast" bench --shape "$shapes/tiny_text.json" --act a8g0 --keep kept --shapes-make --repeats 1 \
    "${common[@]}" >made.txt
holds [ "$(ls cache/ballast)" = shapes.json ]
holds grep -q "/$cache: 0 of [0-9]* taken, 0 entries" made.txt # of one round nothing is known
holds grep -q "^fewer than 3 rounds take nothing" made.txt
for key in ballast_shapes version processor isa threads; do holds [ "$(count $cache $key .)" = 1 ]; done
make --json >made.json
for key in n k rows rule_seconds chunk grain ratio spread; do
    holds [ "$(count made.json $key '[0-9]')" = "$(count made.json taken false)" ]
done
lacks grep -qi 'nan\|inf' made.json

# ---- nothing in it: silent
run --shapes none >plain.txt 2>err.txt
holds [ ! -s err.txt ]
run >out.txt 2>err.txt
holds [ ! -s err.txt ]
same out.txt plain.txt "answers with an empty table"

# ---- the furthest choices for everything: the same answers
entries() { # of the rows of made.txt, whose columns are format, inputs (not of floats), shape, rows, ...
    awk -v q='"' '
        NF >= 9 && $1 ~ /^(w|f|bf)[0-9]/ {
            f = $1 ~ /^w/ ? 1 : 0; split($(2 + f), side, "x")
            printf "%s{%sformat%s: %s%s%s", n++ ? ", " : "", q, q, q, $1, q
            if (f) printf ", %sact%s: %s%s%s", q, q, q, $2, q
            printf ", %sn%s: %d, %sk%s: %d, %srows%s: %d", q, q, side[1], q, q, side[2], q, q, $(3 + f)
            printf ", %skernel%s: %s%s%s, %schunk%s: 1, %sgrain%s: 1}", q, q, q, $(5 + f), q, q, q, q, q
        }' made.txt
}
sed "s|\"entries\": \[\]|\"entries\": [$(entries)]|" "$cache" >extreme.json
holds [ "$(grep -o '"grain": 1' extreme.json | wc -l)" = "$(count made.json taken false)" ]
for where in flag variable cache; do
    case $where in
    flag) run --shapes extreme.json >out.txt 2>err.txt ;;
    variable) BALLAST_SHAPES=extreme.json run >out.txt 2>err.txt ;;
    cache)
        cp extreme.json "$cache"
        run >out.txt 2>err.txt
        ;;
    esac
    holds [ ! -s err.txt ]
    same out.txt plain.txt "answers with the furthest choices ($where)"
done
bench() { "$ballast" bench "$model" --repeats 1 --rows 5 --tokens 2 --ctx 64 --picture none -q "$@"; }
bench "${common[@]}" >bench.txt
n=$(count made.json taken false)
holds grep -q "^shape table: .*/$cache, entries: $n$" bench.txt
run -v >out.txt 2>err.txt
holds grep -q "; shape table of $n\]" err.txt
bench "${common[@]}" --shapes none >bench.txt
lacks grep -q "shape table" bench.txt
"$ballast" bench --matrix 40x100 --rows 17 --group 32 --repeats 1 --threads 2 --shapes extreme.json >bench.txt
holds grep -q "^shape table: extreme.json$" bench.txt

# ---- of elsewhere or damaged: ignored with a line that names the file and what differs
sed 's/"version": "[^"]*"/"version": "0.0.1"/' extreme.json >version.json
sed 's/"processor": "[^"]*"/"processor": "Other 1"/' extreme.json >processor.json
sed 's/"threads": 2/"threads": 3/' extreme.json >threads.json
head -c 200 extreme.json >cut.json
sed 's/"grain": 1/"grain": 0/' extreme.json >zero.json
sed 's/"ballast_shapes": 1/"ballast_shapes": 7/' extreme.json >newer.json
ignored "version.json: .*version '0.0.1', here" run --shapes version.json
ignored "processor.json: .*processor 'Other 1', here" run --shapes processor.json
ignored "threads.json: .* 3 threads, here it is 2" run --shapes threads.json
ignored "cut.json" run --shapes cut.json
ignored "zero.json: entries.0..grain" run --shapes zero.json
ignored "newer.json: version 7" env BALLAST_SHAPES=newer.json "$ballast" run "$model" -p "what is it" -n 6 \
    "${common[@]}"
if [ "$(count extreme.json isa '"scalar"')" = 0 ]; then
    ignored "extreme.json: .*ISA level '.*', here it is 'scalar'" run --shapes extreme.json --isa scalar
fi
cp cut.json "$cache"
ignored "$cache" run
# silent COMMAND...: the answer as ever, and not a word
silent() {
    status 0 "" "$@"
    holds [ ! -s err.txt ]
    same out.txt plain.txt "answers"
}
silent run --quiet
# an empty variable and "none" look at nothing
BALLAST_SHAPES='' silent run
BALLAST_SHAPES=none silent run
BALLAST_SHAPES=cut.json silent run --shapes none
# a relative cache is none, and a home has one of its own
XDG_CACHE_HOME=cache HOME=$PWD/nobody silent run
mkdir -p home/.cache/ballast && cp cut.json home/.cache/ballast/shapes.json
ignored "home/.cache/ballast/shapes.json" env -u XDG_CACHE_HOME HOME="$PWD/home" "$ballast" run "$model" \
    -p "what is it" -n 6 "${common[@]}"

# ---- named and unreadable: refused, by every command that takes one
refused 1 "nowhere.json: cannot open" run --shapes nowhere.json
refused 1 "nowhere.json" env BALLAST_SHAPES=nowhere.json "$ballast" run "$model" -p hi
refused 1 "kept: not a regular file" run --shapes kept
refused 1 "nowhere.json" "$ballast" chat "$model" --shapes nowhere.json
refused 1 "nowhere.json" "$ballast" eval "$model" --data nothing.jsonl --shapes nowhere.json
refused 1 "nowhere.json" "$ballast" serve "$model" --shapes nowhere.json
refused 1 "nowhere.json" "$ballast" bench --limits --shapes nowhere.json
refused 2 "unknown flag '--shapes'" "$ballast" quantize "$model" --shapes extreme.json

# ---- made over a table: what it says of other linears stays, what was measured is new
sed 's/"entries": \[/&{"format": "f16", "n": 17, "k": 33, "rows": 4, "kernel": "wide", "chunk": 5, "grain": 6}, /' \
    extreme.json >more.json
make --shapes more.json >made.txt 2>err.txt
holds [ ! -s err.txt ]
holds grep -q "^more.json: 0 of [0-9]* taken, 1 entries" made.txt
holds [ "$(count more.json n 17)$(count more.json chunk 5)$(count more.json grain .)" = 111 ]
# of another machine, or damaged in the cache: replaced, with a line
status 0 "processor.json: .*; it is replaced" make --shapes processor.json
run --shapes processor.json >out.txt 2>err.txt
holds [ ! -s err.txt ]
status 0 "$cache: .*; it is replaced" make
# a named file that is something else stays
echo hello >other.txt
refused 1 "not a shape table that could be replaced: other.txt" make --shapes other.txt
holds [ "$(cat other.txt)" = hello ]
refused 1 "the folder nowhere does not exist" make --shapes nowhere/shapes.json
refused 1 "is a folder" make --shapes kept
refused 2 "no file to write" make --shapes none
refused 2 "needs MODEL or --shape" "$ballast" bench --shapes-make
refused 1 "computes on the CPU only" make --device cuda:0
refused 1 "nowhere" "$ballast" bench nowhere --shapes-make

# ---- three rounds: what is taken is better than the rule by more than the spread, and in the table
"$ballast" bench "$golden/tiled/model" --shapes-make --repeats 3 --shapes three.json --json >made.json
holds [ "$(count three.json grain .)" = "$(count made.json taken true)" ]
holds awk '
    /"ratio"/ { ratio = $2 + 0 }
    /"spread"/ { spread = $2 + 0 }
    /"taken"/ { n++; bad += ($2 ~ /true/) != (1 - ratio > spread) }
    END { exit !(n > 20 && !bad) }' made.json
"$ballast" run "$golden/tiled/model" -p hi -n 4 --shapes none >plain.txt
"$ballast" run "$golden/tiled/model" -p hi -n 4 --shapes three.json >out.txt 2>err.txt
holds [ ! -s err.txt ]
same out.txt plain.txt "answers with a measured table"
holds [ -z "$(find . -name '*.tmp')" ]
