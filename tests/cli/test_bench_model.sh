#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ballast bench on a model and on the shape of one: the file it makes opens, runs and says what it
# is, the report has every field and possible figures, and nothing stays behind.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
shapes=${BALLAST_SOURCE_DIR:?}/tests/data/shapes
sizes=${BALLAST_SOURCE_DIR:?}/tests/data/sizes
bench() { "$ballast" bench --repeats 1 --rows 5 --tokens 2 --ctx 64 "$@"; }
# number FILE KEY: the first value of a key
number() { grep -o "\"$2\": *[-0-9.e+]*" "$1" | head -n 1 | sed 's/.*: *//'; }
# above FILE KEY LEAST
above() {
    holds awk -v v="$(number "$1" "$2")" -v least="$3" 'BEGIN { exit !(v > least) }'
}

# a shape, its file kept
bench --shape "$shapes/tiny_vl.json" --group 32 --keep kept --picture 100x60 --cold --json >vl.json
file=kept/tiny_vl-w3g32.safetensors
for name in read fma int8 load first_token pixels encode prefill decode; do
    holds [ "$(grep -c "\"name\": *\"$name\"" vl.json)" = 1 ]
done
for field in name isa bits group n k rows threads weights_per_s bytes_per_s products_per_s seconds tokens_per_s limit \
    limit_per_s fraction; do
    holds [ "$(grep -c "^ \{6\}\"$field\": *[^ []" vl.json)" = 9 ]
done
for limit in read int8+fma fma; do holds [ "$(grep -c "\"limit\": *\"$limit\"" vl.json)" = 1 ]; done
holds grep -q '"family": "qwen2_vl"' vl.json
holds [ "$(number vl.json file_bytes | cut -d. -f1)" = "$(stat -c %s "$file")" ]
holds [ "$(number vl.json resized_width)" = 112 ]
holds [ "$(grep -c '"tokens": 8' vl.json)" = 1 ]
for key in weights planned_bytes of_plan resident_bytes anonymous_bytes; do above vl.json $key 0; done
holds grep -q '"cold_first_token_s": *[0-9n]' vl.json
lacks grep -qi 'nan\|inf' vl.json

# it is a model like any other
status 0 "w3g32.p16u32" "$ballast" inspect "$file"
status 0 "random weights in the shape of tiny_vl, w3g32 a16" "$ballast" inspect "$file"
"$ballast" run "$file" -i "$sizes/picture_28x28.png" -p "what is it" -n 3 --json >run.json
holds grep -q '"n_vision": 4' run.json
holds grep -q '"n_generated": 3' run.json
# and its plan says what a photo costs before it is looked at
"$ballast" run "$file" -i "$sizes/picture_4000x3000.png" -p "what is it" -n 1 --image-max-tokens 64 \
    -v >/dev/null 2>plan.txt
holds grep -q "4000 x 3000 pixels -> 252 x 168, 54 tokens, [0-9]* MiB to look at it" plan.txt

# a second run takes the file as it is; another file in its place is nobody's to replace
stamp=$(stat -c %y "$file")
bench --shape "$shapes/tiny_vl.json" --group 32 --keep kept --picture none >again.txt
holds [ "$stamp" = "$(stat -c %y "$file")" ]
holds grep -q "^decode  *1 " again.txt
lacks grep -q "^encode" again.txt
cp "$file" kept/tiny_vl-w4g128.safetensors
refused 1 "exists and is not what" bench --shape "$shapes/tiny_vl.json" --bits 4 --keep kept

# what a reader could take for a figure is named
"$ballast" bench "$file" --repeats 1 --rows 5 --tokens 2 --ctx 64 --picture none >legend.txt 2>warn.txt
holds grep -q "first_token: load$" legend.txt
holds grep -q "no picture" legend.txt
holds grep -q "a single round, which says nothing" warn.txt
"$ballast" bench "$file" --repeats 1 --rows 5 --tokens 2 --ctx 64 --picture none --quiet >/dev/null 2>warn.txt
holds [ ! -s warn.txt ]
"$ballast" bench "$file" --repeats 3 --rows 5 --tokens 2 --ctx 64 --picture none >three.txt 2>warn.txt
lacks grep -q "a single round" warn.txt
# a share above the limit is said wherever there is one, and only there
said=0 most=0
"$ballast" bench "$file" --repeats 1 --rows 5 --tokens 2 --ctx 64 --picture none --json >share.json 2>warn.txt
grep -q "share above 100 %" warn.txt && said=1
most=$(grep -o '"fraction": *[0-9.e+-]*' share.json | awk '$2 > 1.005 { n = 1 } END { print n + 0 }')
holds [ "$said" = "$most" ]

# the same bytes for the same shape
bench --shape "$shapes/tiny_vl.json" --group 32 --keep other --picture none --json >/dev/null
same "$file" other/tiny_vl-w3g32.safetensors "files of one shape"

# without --keep nothing stays; every storage; a shape without pictures
mkdir tmp
for bits in 2 4 6 8 16; do
    TMPDIR=$scratch/tmp bench --shape "$shapes/tiny_text.json" --bits $bits >text.txt
    holds grep -q "^prefill  *5 " text.txt
    holds [ -z "$(ls tmp)" ]
done
holds grep -q "llama, 0.00 G weights, 16 bits" text.txt

bench --shape "$shapes/tiny_text.json" --act a8g32 --keep kept >a8.txt
holds grep -q "^prefill .* of int8+fma" a8.txt
status 0 "w3g128.p16u32.v1 a8g32" "$ballast" inspect kept/tiny_text-w3g128a8g32.safetensors

# a packed head beside a table that it shared; tied is the shape's own
bench --shape "$shapes/tiny_text.json" --head 6 --keep kept >head.txt
status 0 "head  *w6g128.p16u32.v1" "$ballast" inspect kept/tiny_text-w3g128-head6.safetensors

# a model at hand
bench "$golden/tiled/model" --picture 100x70 --json >model.json
holds grep -q '"family": "llava_onevision"' model.json
holds [ "$(grep -c '"tokens": 70' model.json)" = 1 ]
holds [ "$(grep -c '"limit": *"fma"' model.json)" = 2 ] # nothing in it is packed

refused 2 "qwen2.5-vl-7b" "$ballast" bench --shape qwen
refused 2 "3584x18944" "$ballast" bench --shape 3584x18944
refused 2 "no.json" "$ballast" bench --shape no.json
refused 2 "exclude" "$ballast" bench --shape llava-ov-7b model
refused 2 "bits is 5" "$ballast" bench --shape llava-ov-7b --bits 5
refused 2 "head is 5" "$ballast" bench --shape llava-ov-7b --head 5
refused 2 "act" "$ballast" bench --shape llava-ov-7b --act a4
refused 2 "keep goes with" "$ballast" bench --keep kept
refused 2 "picture is" "$ballast" bench model --picture 12
refused 1 "no such file" "$ballast" bench model
refused 1 "do not fit into a context of 64" bench --shape "$shapes/tiny_text.json" --rows 63
refused 1 "context" bench --shape "$shapes/tiny_text.json" --ctx 4096
sed 's/"lm_head": true/"lm_head": false/' "$shapes/tiny_text.json" >headless.json
refused 2 "lm_head" "$ballast" bench --shape ./headless.json
sed 's/"vocab_size": 600/"vocab_size": 300/' "$shapes/tiny_text.json" >small.json
refused 1 "vocab_size 300" bench --shape ./small.json
sed 's/llama/lama/' "$shapes/tiny_text.json" >unknown.json
refused 2 "lama" "$ballast" bench --shape ./unknown.json
