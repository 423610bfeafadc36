#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Pictures of any size in the shape of the published Qwen2-VL-2B, under a bound on memory that an
# attention of pictures squared would break at once: 61,204 patches squared are 15 GB a head. The
# photo at full size passes through one block of each half, whose buffers are those of all 32 (it
# would take an hour otherwise); smaller ones through the whole model. About ten minutes.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
shape=${BALLAST_SOURCE_DIR:?}/shapes/qwen2-vl-2b.json
sizes=${BALLAST_SOURCE_DIR:?}/tests/data/sizes
bench() { "$ballast" bench --picture none --repeats 1 --rows 1 --tokens 1 "$@" >/dev/null; }
# look FILE PICTURE [flags]: an answer, and the plan on stderr, within 6 GiB of address space
look() {
    local file=$1 picture=$2
    shift 2
    (ulimit -v 6291456 && "$ballast" run "$file" -i "$sizes/picture_$picture.png" -p "What is it?" \
        -n 2 -v --json "$@" >out.json 2>err.txt) || { cat err.txt; exit 1; }
    holds grep -q '"n_generated": [12]' out.json
    sed -n 's/^\[.*picture_/  /p' err.txt
}
tokens() { holds grep -q "\"n_vision\": $1" out.json; }

sed 's/"depth": 32/"depth": 1/; s/"num_hidden_layers": 28/"num_hidden_layers": 1/' "$shape" >shallow.json
bench --shape ./shallow.json --keep .
look shallow-w3g128.safetensors 4000x3000
tokens 15301
holds grep -q "4000 x 3000 pixels -> 4004 x 2996, 15301 tokens, [0-9]* MiB to look at it" err.txt
rm shallow-w3g128.safetensors

bench --shape qwen2-vl-2b --keep .
look qwen2-vl-2b-w3g128.safetensors 28x28
tokens 4
look qwen2-vl-2b-w3g128.safetensors 100x2000
tokens 284
look qwen2-vl-2b-w3g128.safetensors 4000x3000 --image-max-tokens 1024
tokens 972
