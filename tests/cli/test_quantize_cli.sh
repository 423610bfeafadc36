#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# quantize and inspect as they are typed: exit status, what goes to stdout, files that are left.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
quantize() { "$ballast" quantize "$golden/tiled/model" "$@"; }

status 2 "MODEL_DIR is missing" "$ballast" quantize
status 2 "-o is missing" quantize --recipe rtn
status 2 "w8a8, or a FILE.json" quantize -o a.st --recipe nonesuch
status 2 "bits must be one of 2, 3, 4, 6, 8" quantize -o a.st --recipe rtn --bits 5
status 2 "no key" quantize -o a.st --recipe rtn --set colour=red
status 2 "needs calibration data" quantize -o a.st --recipe mbq
status 1 "no such file" "$ballast" quantize nowhere -o a.st --recipe rtn
status 1 "missing.jsonl" quantize -o a.st --calib missing.jsonl
status 2 "contradict" quantize -o a.st --recipe rtn --bits 4 --set bits=3
status 2 "contradict" quantize -o a.st --recipe rtn --set group=row --group 32
status 2 "-o is empty" quantize -o "" --recipe rtn
status 1 "nowhere/a.st: the folder nowhere does not exist" quantize -o nowhere/a.st --recipe rtn
status 2 "must end in .html" quantize -o a.st --recipe rtn --report a.txt
status 0 "mbq-r1" "$ballast" quantize --help-recipes
grep '^  [^ ]*$' out.txt | head -n "$(ls "$BALLAST_SOURCE_DIR"/recipes/*.json | wc -l)" >names.txt
holds grep -q "mbq+gptq" names.txt
LC_ALL=C sort names.txt >sorted.txt
same names.txt sorted.txt "recipes as listed and sorted"
[ -z "$(ls -d a.st* 2>/dev/null)" ] || { echo "a refused run left files"; exit 1; }

# the plan, and that it leaves nothing
status 0 "21 linears to 4 bits" quantize -o a.st --recipe rtn --bits 4 --dry-run
[ ! -e a.st ] && [ ! -e a.st.partial ]

# a recipe by its name and what was changed of it; what it brings for a choice that is not made goes,
# what the user asks for is refused
planned() { quantize --dry-run --calib "$golden/calib/calib.jsonl" "$@"; }
status 0 "^  recipe   gptq, with hessian=local shift=column$" planned --recipe gptq --set shift=column --set hessian=local
status 0 "^  recipe   gptq$" planned --recipe gptq
status 0 "^  data     3 samples, where --samples allows 7$" planned --samples 7
status 0 "^  data     3 samples$" planned --samples 3
status 0 "^  recipe   gptaq, with shift=off shift_part=1$" planned --recipe gptaq --set shift=off
status 2 "shift_part=0.5 needs shift=.*, found shift=off: without that it changes nothing" \
    planned --recipe gptaq --set shift=off --set shift_part=.50

status 0 "bits per weight" quantize -o a.st --recipe rtn --bits 4 --group row \
    --calib "$golden/calib/calib.jsonl" --report a.html
[ ! -e a.st.partial ]
grep -q "<svg" a.html
grep -q '"ballast_report": "1.0"' a.json
grep -q "'\\|ballast quantize" a.html
status 1 "exists already" quantize -o a.st --recipe rtn --bits 4
status 1 "a.html: exists already" quantize -o b.st --recipe rtn --report a.html
status 1 "exists already" quantize -o a.st --recipe rtn --dry-run
status 0 "bits per weight" quantize -o a.st --recipe rtn --bits 4 --force

# floats that stand for a format: the file says what it takes, and what a storage would
status 0 "would take 4.[0-9]* bits per weight" quantize -o f.st --recipe rtn --bits 4 --set store=float --report f.html
holds grep -q "32.00 bits per weight in the linears" out.txt
holds grep -q '"format_bits_per_weight": 4' f.json
holds grep -q "which floats stand for here" f.html
holds grep -q "bits per weight of the simulated format" f.html
status 0 "F32" "$ballast" inspect f.st
format=$(grep -o '"format_bits_per_weight": [0-9]*\.[0-9]\{1,6\}' f.json)
holds grep -q "^$(printf %.3f "${format#* }") bits per weight$" out.txt
status 0 "$format" "$ballast" inspect f.st --json
status 0 "^  made by  *rtn, with bits=4 store=float$" "$ballast" inspect f.st
status 0 "would take 4.[0-9]* bits per weight" quantize -o g.st --recipe rtn --bits 4 --set store=float --dry-run
status 2 "store=float needs act=a16" quantize -o g.st --recipe rtn --set store=float --set act=a8

# tokens that nothing weighs: the layer once, and the keys that leave them out
echo '{"id": "1", "conversations": [{"from": "human", "value": "what is it"}, {"from": "gpt", "value": "a cat"}]}' >text.jsonl
status 2 'quantize: layer 0, {q,k,v}: no calibration token has weight in the second moments by hessian and balance of recipe gptq' \
    quantize -o t.st --recipe gptq --set hessian=vision --set absent=allow --calib text.jsonl

# large calibration pictures made smaller: fewer vision tokens, in the plan's samples and the report
native=$golden/qwen2_vl/small/model
vision_tokens() { sed -n '/"tokens": *{/,/}/p' "$1" | grep -o '"vision": *[0-9]*' | head -n 1 | grep -o '[0-9]*$'; }
pictures() { "$ballast" quantize "$native" --recipe rtn --calib "$golden/calib/calib.jsonl" "$@"; }
status 0 "" pictures -o n1.st --report n1.html
status 0 "" pictures -o n2.st --report n2.html --image-max-tokens 4 -v
holds [ "$(vision_tokens n2.json)" -le $((4 * $(grep -o '"pictures": *[0-9]*' n2.json | grep -o '[0-9]*$'))) ]
holds [ "$(vision_tokens n2.json)" -lt "$(vision_tokens n1.json)" ]
holds grep -q "most tokens of a picture.*4" n2.html
lacks grep -q "most tokens of a picture" n1.html
status 0 '"image_max_tokens": *4' "$ballast" inspect n2.st
status 2 "limit cannot be below 4" pictures -o n3.st --image-max-tokens 3
# with -v a log has a line for each stage where a terminal has a bar, without it none
status 0 "" pictures -o n4.st -v
holds grep -q "^pictures: 1 of 3$" err.txt
holds grep -q "^blocks: 0 of [0-9]*$" err.txt
holds [ "$(grep -c "^blocks: " err.txt)" -le 2 ]
status 0 "" pictures -o n5.st
lacks grep -q "^pictures: \|^blocks: " err.txt
status 0 "" pictures -o n5.st --force -v --quiet
holds [ ! -s err.txt ]

# widths under a budget: the plan says the most, inspect who got what
status 2 "exclude each other" quantize -o auto.st --target-bpw 3 --target-size 5000000
status 2 "give one of the two" quantize -o auto.st --target-bpw 3 --bits 3
status 2 "the least possible is" quantize -o auto.st --recipe rtn --target-bpw 2 --calib "$golden/calib/calib.jsonl"
status 2 "the most possible is 8" quantize -o auto.st --recipe rtn --target-bpw 12 --calib "$golden/calib/calib.jsonl"
status 2 'no part "tower"; the parts are decoder, vision, projector, head' quantize -o auto.st --target-bpw tower=6
status 2 "has head twice" quantize -o auto.st --target-bpw head=6,decoder=3,head=8
status 2 'PART=BITS with commas between, found "head="' quantize -o auto.st --target-bpw 3,head=
status 2 "must be a number" quantize -o auto.st --recipe rtn --target-bpw head=six
status 2 "a target chooses the bits, --set head=8 fixes them: give one of the two" quantize -o auto.st --recipe rtn --target-bpw head=7 --set head=8
status 2 "target_bpw_head=3 cannot be met: the least possible is" quantize -o auto.st --recipe rtn --target-bpw head=3
status 2 "target_bpw_head=9.5 cannot be spent: the most possible is" quantize -o auto.st --recipe rtn --target-bpw head=9.5
status 2 "vision=auto needs a budget: target_bpw_vision" quantize -o auto.st --recipe rtn --set vision=auto
status 2 "target_bpw_projector needs projector=auto, found projector=float" quantize -o auto.st --recipe rtn \
    --set target_bpw_projector=6
status 2 "needs calibration data" quantize -o auto.st --recipe rtn --target-bpw vision=8
status 2 "vision=auto for a model without a vision tower" "$ballast" quantize "$golden/families/qwen2/model" -o t.st \
    --recipe rtn --target-bpw vision=8
status 2 "needs calibration data" quantize -o auto.st --recipe rtn --target-bpw 4
status 0 "at most" quantize -o auto.st --recipe rtn --target-bpw 4 --group 32 --calib "$golden/calib/calib.jsonl" --dry-run
status 0 "bits per weight" quantize -o auto.st --recipe rtn --target-bpw 4.4 --group 32 --calib "$golden/calib/calib.jsonl" --report auto.html
grep -q "Bits per linear" auto.html
status 0 "bits per linear" "$ballast" inspect auto.st
status 0 '"target_bpw":4.4' "$ballast" inspect auto.st
# what was not spent is not in what is said of the finished file
status 0 "" quantize -o spent.st --recipe rtn --target-bpw 8.5 --set allocate=rules --group 32 -q
holds grep -q ", 8.48 bits per weight in the linears" out.txt
status 2 "group row" quantize -o least.st --recipe hawq --target-bpw 1.1 --calib "$golden/calib/calib.jsonl"
status 2 "a target chooses the bits, --set bits=3 fixes them" quantize -o least.st --target-bpw 3 --set bits=3

# matrices of small rank stand in a line of their own, and who gets them
for rows in all vision; do
    status 0 "bits per weight" quantize -o $rows.st --recipe rtn --group 32 --set rank=4 --set rank_rows=$rows \
        --calib "$golden/calib/calib.jsonl"
done
status 0 "decoder linears  *F16 of small rank  *42  *26304$" "$ballast" inspect all.st
status 0 "decoder linears  *F16 rank, vision  *42  *26304$" "$ballast" inspect vision.st
lacks grep -q "of small rank" out.txt
holds grep -q "format 2.2" out.txt

# budgets of their own: the decoder's bits stay what they are unless one is named for it too
status 0 "head to bits of its own" quantize -o sides.st --recipe rtn --bits 3 --group 32 --target-bpw head=7 --dry-run
status 0 "at most" quantize -o sides.st --recipe rtn --bits 3 --group 32 --target-bpw head=7 --dry-run
status 0 "bits per weight" quantize -o sides.st --recipe rtn --bits 3 --group 32 --target-bpw head=7
holds grep -q "^beside the blocks: head 6.[0-9]* bits per weight$" out.txt
status 0 "head  *w6g32.p16u32.v1" "$ballast" inspect sides.st
status 0 "decoder linears  *w3g32.p16u32.v1  *21 " "$ballast" inspect sides.st
if "$ballast" inspect a.st | grep -q "bits per linear"; then echo "uniform bits are listed"; exit 1; fi

# the tower, the projector and the head at bits of their own: the same bytes from any number of threads, the
# size that was planned, and nothing to pack where there is no tower
tower() { quantize --recipe rtn --bits 4 --group 32 --set vision=6 --set projector=8 --set head=8 "$@"; }
status 0 "vision tower to 6 bits, projector to 8 bits, head to 8 bits" tower -o v1.st --dry-run
status 0 "bits per weight" tower -o v1.st --threads 1
mv out.txt done.txt
status 0 "" "$ballast" inspect v1.st
for side in vision projector head; do
    took=$(awk -v side="$side" '$1 == side && /w[0-9]+g/ {printf "%.2f", $NF}' out.txt)
    holds grep -q "^beside the blocks:.* $side $took[, ].*bits per weight$" done.txt
done
status 0 "bits per weight" tower -o v2.st --threads 2
same v1.st v2.st "files of one thread and two"
status 0 "vision tower  *w6g32.p16u32.v1" "$ballast" inspect v1.st
status 0 "projector  *w8g32.p16u32.v1" "$ballast" inspect v1.st
status 0 "head  *w8g32.p16u32.v1" "$ballast" inspect v1.st
status 0 "" "$ballast" run v1.st -i "$golden/tiled/picture0_100x70.png" -p hi -n 4
status 2 "vision=6 for a model without a vision tower" "$ballast" quantize \
    "$golden/families/qwen2/model" -o t.st --recipe rtn --set vision=6
status 2 "vision must be one of float, 4, 6, 8" quantize -o t.st --recipe rtn --set vision=5
status 2 "head must be one of float, 4, 6, 8" quantize -o t.st --recipe rtn --set head=3

# never over what the run reads, nor over what is no file, --force or not
cp -r "$golden/tiled/model" copy
cp "$golden/calib/calib.jsonl" copy.jsonl
mkfifo pipe
status 2 "among the model's files" "$ballast" quantize copy -o copy/model.safetensors --recipe rtn --force
status 2 "among the model's files" "$ballast" quantize copy -o copy/config.json --recipe rtn --force
status 2 "is the calibration data" quantize -o copy.jsonl --calib ./copy.jsonl --recipe rtn --force
status 1 "not a regular file" quantize -o pipe --recipe rtn --force
diff -r "$golden/tiled/model" copy && cmp "$golden/calib/calib.jsonl" copy.jsonl && [ -p pipe ]

# the rows of the table and the tensors of the JSON add up to the file
for model in a.st v1.st "$golden/tiled/model" "$golden/two_images_f16/model"; do
    status 0 "as on disk" "$ballast" inspect "$model"
    if [ -d "$model" ]; then size=$(cat "$model"/*.safetensors | wc -c); else size=$(wc -c <"$model"); fi
    sum=$(awk '/^  part/ {on = 1; next} /all, as on disk/ {print sum; exit}
        on && NF {for (i = NF; i > 0; i--) if ($i ~ /^[0-9]+$/) n[i] = $i
            # bytes: the last whole number, or the one before it where weights follow
            k = NF; if ($NF ~ /\./) k = NF - 2; sum += $k}' out.txt)
    [ "$sum" = "$size" ] || { echo "$model: rows add up to $sum, the file has $size"; cat out.txt; exit 1; }
    status 0 '"tensor_bytes"' "$ballast" inspect "$model" --json
    sum=$(awk -F'[:,]' '/"bytes"/ && ++n > 1 {s += $2} /"(header|padding)_bytes"/ {s += $2} END {print s}' out.txt)
    [ "$sum" = "$size" ] || { echo "$model: JSON adds up to $sum, the file has $size"; exit 1; }
done
status 0 "self_attn.q_proj.weight.packed" "$ballast" inspect a.st --tensors
status 0 "model_sha256" "$ballast" inspect a.st
lacks grep -q "simulated" out.txt
# a name that a terminal would obey, and one that JSON cannot hold
cp -r "$golden/tiled/model" $'m\e[31m'
status 0 "bits per weight" "$ballast" quantize $'m\e[31m' -o odd.st --recipe rtn
status 0 "source" "$ballast" inspect odd.st
if grep -q $'\e' out.txt; then echo "inspect prints control characters"; exit 1; fi
grep -q $'source  *m\xef\xbf\xbd\\[31m' out.txt
cp -r "$golden/tiled/model" $'m\xff'
status 1 "cannot be written as JSON" "$ballast" inspect $'m\xff' --json
status 2 "not UTF-8" "$ballast" quantize $'m\xff' -o never.st --recipe rtn
[ ! -e never.st.partial ]
status 1 "nowhere" "$ballast" inspect nowhere
head -c 100 a.st >cut.st
status 1 "cut.st" "$ballast" inspect cut.st
echo "quantize and inspect: as documented"
