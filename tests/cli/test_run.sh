#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ballast run as it is typed: the answer alone on stdout, the same for any threads and ISA level.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
model=$golden/tiled/model
picture=$golden/tiled/picture0_100x70.png
run() { "$ballast" run "$model" -i "$picture" -n 12 "$@"; }

run -p "What is it?" >plain.txt 2>err.txt
holds [ -s plain.txt ]
holds [ ! -s err.txt ] # no statistics off a terminal
run -p "What is it?" --threads 1 >one.txt
run -p "What is it?" --isa scalar --threads 3 >scalar.txt
run -p "What is it?" -v >verbose.txt 2>stats.txt
echo "What is it?" | run -p - >stdin.txt
run --prompt="What is it?" --seed 9 >seed.txt # greedy: the seed changes nothing
for other in one scalar verbose stdin seed; do same plain.txt $other.txt "answers ($other)"; done
holds grep -q "[89][0-9] tokens in" stats.txt
holds grep -q "70 of pictures" stats.txt
holds grep -q "answer [0-9.]* s ([0-9.]*/s);" stats.txt
# columns first, like the sizes; one token has no rate
"$ballast" run "$model" -i "$golden/families/pictures/260x9.png" -p hi -n 1 -v 2>wide.txt >/dev/null
holds grep -q "260 x 9 pixels -> [0-9]* x [0-9]*, [2-9] x 1 tiles" wide.txt
holds grep -q "answer [0-9.]* s; length" wide.txt

# the picture counts, and so does temperature; a seed repeats
"$ballast" run "$model" -n 12 -p "What is it?" >blind.txt
differ plain.txt blind.txt "answers with and without a picture"
run -p hi -t 1.5 --seed 3 >a.txt
run -p hi -t 1.5 --seed 3 >b.txt
run -p hi -t 1.5 --seed 4 >c.txt
same a.txt b.txt "answers of one seed"
differ a.txt c.txt "answers of two seeds"
run -p hi -t 1.5 --top-k 1 --seed 4 >d.txt
run -p hi >e.txt
same d.txt e.txt "greedy and top-k 1"

# several pictures
pair=$golden/two_images
"$ballast" run "$pair/model" -i "$pair/picture0_90x60.png" -i "$pair/picture1_50x80.png" -p "Both?" \
    -n 3 --json >pair.json
holds [ "$(grep -c '"rows": 0' pair.json)" = 2 ]

run -p "What is it?" --json >run.json
for key in model question answer stop pictures path width height rows cols tokens n_prompt n_vision \
    n_generated n_context seed vision_s prefill_s decode_s; do
    grep -q "\"$key\":" run.json || { echo "run --json lacks $key"; exit 1; }
done
holds grep -q '"tokens": 70' run.json
holds grep -q '"rows": 2' run.json

status 0 "usage: ballast run MODEL" "$ballast" run --help
status 0 "max-tokens" "$ballast" run -h
status 0 "ballast [0-9]" "$ballast" --version
status 0 "  run " "$ballast" --help
