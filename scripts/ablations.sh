#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What each step of the solver is worth on the embedded model: every arm below at 2 and 3 bits, with several choices of
# a few of the 128 calibration conversations. Rows are kept in docs/ablations.csv as they come, so a run that was
# stopped goes on; docs/ablations.md is made of them. Arms are numbered by the question they answer (A1 ...); half an
# hour on two idle cores.
#   ablations.sh [--table]          --table: only make the page of what is there
#   SEEDS, BITS, QUESTIONS, DESCRIPTIONS, SAMPLES, JOBS in the environment: "0 1 2", "2 3", 180, 20, 16, one per CPU
#   ARMS: an extended regular expression of the arms to measure; all
set -euo pipefail
cd "$(dirname "$0")/.."
ballast=${BALLAST:-build/ballast}
csv=${CSV:-docs/ablations.csv}
page=${PAGE:-docs/ablations.md}
work=build/ablations
questions=${QUESTIONS:-180}
descriptions=${DESCRIPTIONS:-20}
samples=${SAMPLES:-16}
jobs=${JOBS:-$(nproc)}
batch=4 # arms that are judged together

# number | arm | recipe | overrides, % standing for the bits | what it asks
arms() {
  cat <<'END'
A0|rtn|rtn||nothing is measured
A0|awq|awq||scale search, every token alike
A0|mbq|mbq||scale search, vision by measured r
A1|mbq r=1|mbq-r1||does the ratio matter?
A1|mbq r flat|mbq|floor=flat|does the ratio of each layer matter?
A1|mbq r swapped|mbq|floor=reversed|or just some ratio?
A2|gptq|gptq||error feedback, every token alike
A2|gptq sym|gptq|grid=sym|the grid of many published baselines
A2|gptq no order|gptq|order=none|the largest inputs first, or not
A2|damp 0.001|gptq|damp=0.001|
A2|damp 0.1|gptq|damp=0.1|
A2|float inputs|gptq|inputs=float|without what the blocks before lost
A2|gain|gptq|gain=row|rows that keep their gain
A3|clip diag|gptq|gain=row clip=diag|ranges by diag(H)
A3|clip inverse|gptq|gain=row clip=inverse|ranges by 1/[H⁻¹]jj
A3|clip pivot|gptq|gain=row clip=pivot|ranges by the pivots of LDLQ
A3|clip block|gptq|gain=row clip=block|ranges by the group's block of H
A3|clip without gain|gptq|clip=inverse|what the gain is for
A4|H of answers|gptq|hessian=answer|one modality
A4|H of vision|gptq|hessian=vision|one modality
A4|H of text|gptq|hessian=balanced balance=gradient loss=mse language=text|text by its mean, vision by r
A4|H r=1|gptq|balance=one loss=mse|means of both, no prompt
A4|H balanced|gptq|balance=gradient loss=mse|vision by r, no prompt
A4|H balanced sums|gptq|balance=gradient loss=mae|sums instead of means
A4|H r²|gptq|balance=gradient loss=mse hessian=squared|
A5|shift|gptq|shift=inputs|targets make up for quantized inputs
A5|shift ridge 0.01|gptq|shift=inputs ridge=0.01|
A5|shift ridge 1|gptq|shift=inputs ridge=1|
A5|shift 0.25|gptq|shift=inputs shift_part=0.25|a quarter of it
A5|residual|gptq|shift=residual|and for the residual stream
A5|column 0.25|gptq|shift=column shift_part=0.25|column by column, as GPTAQ's program has it
A5|column 1|gptq|shift=column|and all of it
A6|grad2|gptq|hessian=grad2|tokens by squared gradients, cut off
A6|grad2 raw|gptq|hessian=grad2-raw|not cut off
A6|grad2 mean|gptq|hessian=grad2-mean|one weight per modality, prompt included
A6|attention|gptq|hessian=attention|tokens by the attention they get in their block
A6|local|gptq|hessian=local|q, k, v, o by the gradient of what their block's attention lost, as VLMQ
A6|local column|gptq|hessian=local shift=column shift_part=0.25|and targets moved column by column
A6|local shift|gptq|hessian=local shift=inputs|and targets that make up for quantized inputs, solved for at once
A6|local shift 0.25|gptq|hessian=local shift=inputs shift_part=0.25|a quarter of that
A6|grad2 raw 4|gptq|hessian=grad2-raw row_groups=4|not cut off, four groups of outputs apart, as GuidedQuant
A6|grad2 4|gptq|hessian=grad2 row_groups=4|cut off, four groups of outputs apart
A7|group 64|gptq|group=64|more bits: 0.19 per weight
A7|group 32|gptq|group=32|more bits: 0.56 per weight
A7|table|gptq|grid=table group=32|skewed levels and steps for 32, as many bits as ranges for 128
A7|table gain|gptq|grid=table group=32 gain=row|
A7|table inverse|gptq|grid=table group=32 clip=inverse|steps and scales by 1/[H⁻¹]jj
A7|table inverse gain|gptq|grid=table group=32 clip=inverse gain=row|
A7|table 64|gptq|grid=table group=64|fewer bits: 0.06 per weight
A7|table rtn|rtn|grid=table group=32|no error feedback
A7|table 16|gptq|grid=table group=16 store=float|simulated: would take 0.31 bits beside the codes, groups of 32 take 0.18, ranges for 64 0.38
A7|table 16 gain|gptq|grid=table group=16 gain=row store=float|
A7|two tables|gptq|grid=table group=32 tables=2 store=float|simulated: each group has the better of two, would take 0.21 bits beside the codes
A7|two tables gain|gptq|grid=table group=32 tables=2 gain=row store=float|
A7|trellis|gptq|grid=trellis group=128 store=float|simulated: states of 12 bits, would take 0.13 bits beside the codes, ranges for 128 take 0.19
A7|table awq+gptq|table||channel scales before
A7|table awq+gptq shift|table|shift=inputs|and targets that make up for quantized inputs
A8|sweep|gptq|polish=sweep|coordinate descent behind
A8|refit|gptq|polish=refit|and of scales
A8|awq+gptq|awq+gptq||channel scales before
A8|awq+gptq shift|awq+gptq|shift=inputs|and shifted targets
A8|awq+gptq local column|awq+gptq|hessian=local shift=column shift_part=0.25|or moved column by column, tokens by what attention lost
A8|awq+gptq local shift 0.25|awq+gptq|hessian=local shift=inputs shift_part=0.25|or a quarter of the shift with these tokens
A8|table local column|table|hessian=local shift=column shift_part=0.25|and on tables
A8|mbq+gptq|mbq+gptq||channel scales before
A8|awq+gptq gain|awq+gptq|gain=row|
A8|rtn rotated|rtn|rotate=residual|the residual stream in another basis
A8|gptq rotated|gptq|rotate=residual|
A8|awq+gptq rotated|awq+gptq|rotate=residual|
A8|rtn rank 4|rtn|rank=4|a matrix of small rank beside the codes
A8|gptq rank 4|gptq|rank=4|more bits: 0.4 per weight
A8|gptq rank 8|gptq|rank=8|more bits: 0.8 per weight
A8|undo|gptq|gain=row clip=inverse shift=residual polish=refit undo=on|all of it, what worsens held-out error undone
A8|table sweep|table|polish=sweep|coordinate descent behind tables
A8|table refit|table|polish=refit|and of their scales
A8|awq+gptq shift undo|awq+gptq|shift=inputs undo=on|each step of a group kept only if held-out error falls
A10|auto|gptq|bits=auto target_bpw=%.19|widths by the cost of each linear alone, as many bytes as one width
A10|auto verified|gptq|bits=auto target_bpw=%.19 allocate=verified|and only as far as KL confirms
A10|rules half|gptq|bits=auto target_bpw=%.69 allocate=rules|between two widths: down and the outer blocks first
A10|auto half|gptq|bits=auto target_bpw=%.69|by the cost of each linear alone
A10|verified half|gptq|bits=auto target_bpw=%.69 allocate=verified|from rules to costs, as far as KL confirms
A10|widths alike|gptq|store=float|one width as floats, which the next two are to be held against
A10|widths 128|gptq|group_bits=mixed store=float|simulated: groups of columns with a bit less, as many with a bit more; none moves
A10|widths 32|gptq|group=32 group_bits=mixed store=float|likewise, and as many bits as A7's group 32
END
}

# number | arm | conversations | data | flags | what it asks; all with the recipe gptq
data_arms() {
  cat <<'END'
A9|random 32|32|pictures||a few by the seed
A9|first 32|32|pictures|--select first|the first of the file
A9|diverse 32|32|pictures|--select diverse|clean ones, far apart
A9|random 64|64|pictures||twice as many
A9|diverse 64|64|pictures|--select diverse|
A9|all 128|128|pictures||all there are
A9|two a conversation|16|pictures|--shots 2|32 records as 16 conversations of two pictures
A9|diverse, two a conversation|16|pictures|--select diverse --shots 2|
A9|mixed 32|32|mixed||every other record without its picture
A9|text only 32|32|text|--set absent=allow|no picture at all
END
}

# The calibration data of the demo, with no picture in any record, or in every other.
make_data() {
  sed -E "s|\"image\": \"pictures/|\"image\": \"$PWD/demo/data/pictures/|" demo/data/calib.jsonl >"$work/pictures.jsonl"
  sed -E 's|"image": "[^"]*", ||; s|<image>\\n||g' "$work/pictures.jsonl" >"$work/text.jsonl"
  paste -d'\n' "$work/pictures.jsonl" "$work/text.jsonl" | awk 'NR % 4 == 1 || NR % 4 == 0' >"$work/mixed.jsonl"
}

done_already() { # ARM BITS SEED SAMPLES
  [ -f "$csv" ] && awk -F, -v a="$1" -v b="$2" -v s="$3" -v n="$4" -v q="$questions" -v d="$descriptions" '
    $1 == a && $2 == b && $3 == s && $4 == n && $5 == q && $6 == d { found = 1 } END { exit !found }' "$csv"
}

# The arms that are missing, as lines: name | recipe | overrides | conversations | data | flags
missing() { # BITS SEED
  local number name recipe set ask n kind flags
  {
    while IFS='|' read -r number name recipe set ask; do
      [ "$name $1" != "auto 2" ] && [ "$name $1" != "auto verified 2" ] || continue # 2 bits are the least
      echo "$name|$recipe|${set//%/$1}|$samples|pictures|"
    done < <(arms)
    while IFS='|' read -r number name n kind flags ask; do
      echo "${name//,/ +}|gptq||$n|$kind|$flags"
    done < <(data_arms)
  } | while IFS='|' read -r name recipe set n kind flags; do
    [[ $name =~ ^(${ARMS:-.*})$ ]] || continue
    done_already "$name" "$1" "$2" "$n" || echo "$name|$recipe|$set|$n|$kind|$flags"
  done
}

# From what eval --json prints, a line of these figures per model.
figures() { # NAME...
  awk -F'[:,]' -v names="$*" 'BEGIN { n = split(names, want, " ") }
    { gsub(/[" ]/, "", $1); v[$1] = $2 + 0 }
    $1 == "top1_hi" { for (i = 1; i <= n; i++) printf "%s%.9f", (i > 1 ? "," : ""), v[want[i]]
      print "" }'
}

judge() { # DATA LIMIT FILE... -- NAME...
  local data=$1 limit=$2 files=()
  shift 2
  while [ "$1" != -- ]; do files+=("$1") && shift; done
  "$ballast" eval "${files[@]}" --against demo/model -d "$data" --limit "$limit" --threads 1 --json -q | figures "${@:2}"
}

quantize_arm() { # FILE BITS SEED RECIPE OVERRIDES CONVERSATIONS DATA [FLAG...]
  local set=(--set "bits=$2") s
  for s in $5; do set+=(--set "$s"); done
  "$ballast" quantize demo/model -o "$1" --force -q --recipe "$4" "${set[@]}" --threads 1 --calib "$work/$7.jsonl" \
    --samples "$6" --seed "$3" "${@:8}"
}

# Lines of `missing` from checkpoints to rows of the table. One thread, since several batches run at a time; judged
# together, so that the float model and the towers are computed once.
measure_batch() { # BITS SEED LINE...
  local bits=$1 seed=$2 line file files=() rows=() name recipe set n kind flags asked told
  for line in "${@:3}"; do
    IFS='|' read -r name recipe set n kind flags <<<"$line"
    file="$work/${name//[ ,]/_}-w$bits-s$seed.safetensors"
    # shellcheck disable=SC2086 # flags are words
    quantize_arm "$file" "$bits" "$seed" "$recipe" "$set" "$n" "$kind" $flags
    files+=("$file")
    rows+=("$name,$bits,$seed,$n,$questions,$descriptions")
  done
  asked=$(judge demo/data/eval.jsonl "$questions" "${files[@]}" -- kl kl_lo kl_hi accuracy nll top1)
  told=$(judge demo/data/describe.jsonl "$descriptions" "${files[@]}" -- kl kl_lo kl_hi)
  rm "${files[@]}"
  paste -d, <(printf '%s\n' "${rows[@]}") <(echo "$asked") <(echo "$told") >>"$csv"
}

measure_all() { # BITS SEED
  local lines i
  mapfile -t lines < <(missing "$1" "$2")
  for ((i = 0; i < ${#lines[@]}; i += batch)); do
    [ "$(jobs -rp | wc -l)" -lt "$jobs" ] || wait -n
    measure_batch "$1" "$2" "${lines[@]:i:batch}" </dev/null >/dev/null &
  done
}

measured() { # ARM BITS
  awk -F, -v a="$1" -v b="$2" -v n="$samples" -v q="$questions" -v d="$descriptions" '
    $1 == a && $2 == b && $4 == n && $5 == q && $6 == d { found = 1 } END { exit !found }' "$csv"
}

# ARM BITS: mean [least, most] over seeds of the KL on questions, the same on descriptions, mean accuracy
cells() {
  awk -F, -v a="$1" -v b="$2" -v n="$samples" -v q="$questions" -v d="$descriptions" '
    $1 == a && $2 == b && $4 == n && $5 == q && $6 == d { m++; k = 1000 * $7; t = 1000 * $13; s += k; u += t; r += $10
      if (m == 1 || k < lo) lo = k; if (m == 1 || k > hi) hi = k
      if (m == 1 || t < tlo) tlo = t; if (m == 1 || t > thi) thi = t }
    END { printf "%.2f [%.2f, %.2f] | %.2f [%.2f, %.2f] | %.1f", s / m, lo, hi, u / m, tlo, thi, 100 * r / m }' "$csv"
}

data_table() {
  local number name samples kind flags ask bits
  cat <<'END'

## Calibration data

Which conversations calibrate `gptq`, of the same 128 with their pictures or without ([calibration.md](calibration.md)); otherwise as above.

| | arm | bits | conversations | data | flags | asks | KL, questions | KL, descriptions | accuracy |
| --- | --- | ---: | ---: | --- | --- | --- | ---: | ---: | ---: |
END
  for bits in 2 3; do
    while IFS='|' read -r number name samples kind flags ask; do
      measured "${name//,/ +}" "$bits" || continue
      echo "| $number | $name | $bits | $samples | $kind | ${flags:+\`$flags\`} | $ask | $(cells "${name//,/ +}" "$bits") |"
    done < <(data_arms)
  done
}

table() {
  local number name recipe set ask seeds bits missing
  seeds=$(awk -F, -v n="$samples" -v q="$questions" '$4 == n && $5 == q { print $3 }' "$csv" | sort -u | wc -l)
  {
    cat <<END
# Ablations

Made by \`scripts/ablations.sh\` from [ablations.csv](ablations.csv), where each single measurement stands with its interval: the embedded
model (\`demo/model\`), groups of 128 where nothing else is said, $samples of 128 calibration conversations chosen by $seeds seeds, the first $questions held-out questions and
$descriptions descriptions. KL to the float model in 10⁻³ nats: the mean over seeds [least, most]; accuracy on the questions in %, its mean. A range
that is a point does not depend on the seed. What the options mean: [numerics.md](numerics.md).
END
    for bits in 2 3; do
      printf '\n## %d bits\n\n' "$bits"
      echo '| | arm | recipe | asks | KL, questions | KL, descriptions | accuracy |'
      echo '| --- | --- | --- | --- | ---: | ---: | ---: |'
      missing=()
      while IFS='|' read -r number name recipe set ask; do
        if ! measured "$name" "$bits"; then
          missing+=("$number $name")
          continue
        fi
        set=${set//%/$bits}
        echo "| $number | $name | \`$recipe\`${set:+ \`${set// /\` \`}\`} | $ask | $(cells "$name" "$bits") |"
      done < <(arms)
      [ ${#missing[@]} = 0 ] || printf '\nNot measured with these counts: %s.\n' "$(IFS=';'; echo "${missing[*]}" | sed 's/;/; /g')"
    done
    data_table
    cat <<'END'

## With other counts

Single measurements with other numbers of conversations and questions, by recipe and overrides; brackets are 95 % intervals over pictures.

| arm | bits | seed | conversations | questions | KL | accuracy |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
END
    awk -F, -v n="$samples" -v q="$questions" -v d="$descriptions" -v arms="$(data_arms | cut -d'|' -f2 | sed 's/,/ +/')" '
      BEGIN { m = split(arms, name, "\n"); for (i = 1; i <= m; i++) data[name[i]] = 1 }
      NR > 1 && !(($4 == n || data[$1]) && $5 == q && $6 == d) { printf "| `%s` | %d | %d | %d | %d | %.2f [%.2f, %.2f] | %.1f |\n",
        $1, $2, $3, $4, $5, 1000 * $7, 1000 * $8, 1000 * $9, 100 * $10 }' "$csv" | sort -t'|' -k3,3n -k5,5n -k7,7n
    cat <<'END'

## Not built

* A7: a storage and kernels for groups of 16, a second table per group and trellis codes. Their arms are simulated (`store=float`): the weights stand in the file as floats, and
  the bits are those that a storage would take.
* A10: a storage and kernels for widths by block of columns, simulated likewise.
* A11, 8-bit activations, stands in [activations.md](activations.md), its scales from each token or fixed, for all tokens or per modality, with a matrix of small rank for vision rows alone.
END
  } >"$page"
}

mkdir -p "$work"
[ -f "$csv" ] ||
  echo "arm,bits,seed,samples,questions,descriptions,kl,kl_lo,kl_hi,accuracy,nll,top1,describe_kl,describe_lo,describe_hi" >"$csv"
if [ "${1:-}" != --table ]; then
  make_data
  for seed in ${SEEDS:-0 1 2}; do
    for bits in ${BITS:-2 3}; do
      measure_all "$bits" "$seed"
    done
  done
  wait
  rm -rf "$work"
fi
table
