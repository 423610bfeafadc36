#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What 8-bit activations cost the embedded model, beside the same weights with 16 bits, and what the recipes for them
# make of it. Files stay in build/activations and rows in docs/activations.csv, so a run that was stopped goes on, and only
# arms that are missing there are measured; docs/activations.md is made of the rows. Arms marked A11 and those of the default recipe are measured
# with three choices of the conversations. Remove build/activations when the program has changed.
#   activations.sh [--table | --speed]     --table: only make the page of the csv that is there; --speed: measure a
#                                          prompt through a model of 1.5 billion weights instead, on an idle machine
#   QUESTIONS, SAMPLES, TURNS in the environment: 240, 16, 3
set -euo pipefail
cd "$(dirname "$0")/.."
ballast=${BALLAST:-build/ballast}
csv=docs/activations.csv
speeds=docs/prompts.csv
page=docs/activations.md
work=build/activations
questions=${QUESTIONS:-240}
samples=${SAMPLES:-16}
turns=${TURNS:-3}
shape=qwen2.5-1.5b prompt=729 # that many tokens

# arm | recipe | overrides | what it is
arms() {
  cat <<'END'
w8-a16|rtn|bits=8 group=row grid=sym|8-bit weights, one range per output; 16-bit activations
w8-a8|rtn|bits=8 group=row grid=sym act=a8|the same weights; bytes per token
w8a8|w8a8||SmoothQuant, exponent 0.5
w4g128-a16|rtn|bits=4|4-bit weights in groups of 128; 16-bit activations
w4g128-a8|rtn|bits=4 act=a8|the same weights; bytes per token
w4g128-a8g128|rtn|bits=4 act=a8 act_group=128|the same weights; bytes per 128 inputs
w4g128-a8g32|rtn|bits=4 act=a8 act_group=32|the same weights; bytes per 32 inputs
w4row-a16|rtn|bits=4 group=row grid=sym|4-bit weights, one range per output; 16-bit activations
w4row-a8|rtn|bits=4 group=row grid=sym act=a8|the same weights; bytes per token (MBQ's baseline)
w4a8-smooth|w8a8|bits=4|SmoothQuant at 4 bits
w4a8-awq|awq|bits=4 group=row grid=sym act=a8|the search without balance
w4a8|w4a8||MBQ: balanced search, activations simulated (A11)
w4a8-distort|w4a8|distort=on|searched on the inputs of the model as quantized so far
w4a8-patch|w4a8|inputs=quantized rank=32 rank_rows=vision|and a matrix of rank 32 for vision rows alone (A11)
w4a8-patch-8|w4a8|inputs=quantized rank=8 rank_rows=vision|of rank 8 (A11)
w4a8-g128|w4a8|group=128|MBQ with groups of 128 (A11)
w4a8-g128-patch|w4a8|group=128 inputs=quantized rank=32 rank_rows=vision|and a matrix of rank 32 for vision rows alone (A11)
w4a8-spikes|w4a8|spikes=a16|inputs with spikes keep 16 bits
w4a8-tail|w4a8|spikes=a16 spike_rule=tail|inputs with a tail keep 16 bits
w4a8-tail-fine|w4a8|spikes=fine spike_rule=tail|inputs with a tail have a scale per 32
w8a8-static|w8a8|act_scale=static|SmoothQuant, one scale per linear that calibration fixed (A11)
w8a8-modality|w8a8|act_scale=static-modality|one for vision tokens and one for text (A11)
w8a8-static-mse|w8a8|act_scale=static act_clip=mse|one scale, cut where the squared error is least (A11)
w8a8-modality-mse|w8a8|act_scale=static-modality act_clip=mse|two scales, cut likewise (A11)
w4a8-static|w4a8|act_scale=static|MBQ, one fixed scale per linear (A11)
w4a8-modality|w4a8|act_scale=static-modality|one for vision tokens and one for text (A11)
w4a8-static-mse|w4a8|act_scale=static act_clip=mse|one scale, cut where the squared error is least (A11)
w4a8-modality-mse|w4a8|act_scale=static-modality act_clip=mse|two scales, cut likewise (A11)
awq+gptq-a8-static|awq+gptq|bits=4 act=a8 act_scale=static|channel scales and error feedback with one fixed scale per linear (A11)
awq+gptq-a8-modality|awq+gptq|bits=4 act=a8 act_scale=static-modality|and with two (A11)
w8-a8-static-turned|rtn|bits=8 group=row grid=sym act=a8 act_scale=static rotate=residual hadamard=all|one fixed scale where no input stands out
w8-a8-modality-turned|rtn|bits=8 group=row grid=sym act=a8 act_scale=static-modality rotate=residual hadamard=all|two there
w4d128-a16|rtn|bits=4 grid=two-level|4-bit weights with integer steps per 128 inputs over one scale per output; 16-bit activations
w4d128-a8|rtn|bits=4 grid=two-level act=a8|the same weights; bytes per token, summed over whole rows
dgq|dgq||steps and scales searched by the inputs' mean squares
qoq|qoq||GPTQ on such steps
awq+gptq-a16|awq+gptq|bits=4|channel scales and error feedback, groups of 128; 16-bit activations
awq+gptq-a8|awq+gptq|bits=4 act=a8|channel scales and error feedback with bytes per token (A11)
awq+gptq-a8-patch|awq+gptq|bits=4 act=a8 rank=32 rank_rows=vision|and a matrix of rank 32 for vision rows alone (A11)
awq+gptq-row-a8|awq+gptq|bits=4 group=row grid=sym act=a8|and one range per output (A11)
awq+gptq-row-a8-patch|awq+gptq|bits=4 group=row grid=sym act=a8 rank=32 rank_rows=vision|and a matrix of rank 32 for vision rows alone (A11)
awq+gptq-two-level-a8|awq+gptq|bits=4 grid=two-level act=a8|and integer steps per 128 inputs
w8-a8-turned|rtn|bits=8 group=row grid=sym act=a8 rotate=residual hadamard=all|every input in a basis where none stands out
w4row-a8-down|rtn|bits=4 group=row grid=sym act=a8 hadamard=down|inputs of down mixed
w4row-a8-rotated|rtn|bits=4 group=row grid=sym act=a8 rotate=residual|the residual stream rotated
w4row-a8-turned|rtn|bits=4 group=row grid=sym act=a8 rotate=residual hadamard=all|both, and o too (QuaRot's, rounded)
awq+gptq-row-a8-down|awq+gptq|bits=4 group=row grid=sym act=a8 hadamard=down|error feedback, inputs of down mixed
awq+gptq-row-a8-turned|awq+gptq|bits=4 group=row grid=sym act=a8 rotate=residual hadamard=all|error feedback, all inputs turned
w3-a16|ballast||the default recipe; 16-bit activations
w3-a8|ballast|act=a8|the default recipe with bytes per token
w3-a8g128|ballast|act=a8 act_group=128|the default recipe with bytes per 128 inputs
w2-a16|ballast|bits=2|the default recipe at 2 bits; 16-bit activations
w2-a8|ballast|bits=2 act=a8|the default recipe at 2 bits with bytes per token
END
}

header=arm,samples,seed,questions,linear_bpw,kl,kl_lo,kl_hi,nll,accuracy,accuracy_lo,accuracy_hi,change,change_lo,change_hi,top1

seeds_of() { case $1 in *A11* | 'the default recipe'*) echo 0 1 2 ;; *) echo 0 ;; esac } # WHAT

# The arms without a row for these counts, as lines: file | arm | seed | recipe | overrides
missing() {
  local name recipe set what seed
  while IFS='|' read -r name recipe set what; do
    for seed in $(seeds_of "$what"); do
      grep -q "^$name,$samples,$seed,$questions," "$csv" || echo "$work/$name-$samples-$seed|$name|$seed|$recipe|$set"
    done
  done < <(arms)
}

quantize_all() {
  local file name seed recipe set one s
  local data=(--calib demo/data/calib.jsonl --samples "$samples")
  while IFS='|' read -r file name seed recipe set; do
    one=(--seed "$seed")
    for s in $set; do one+=(--set "$s"); done
    [[ $recipe = rtn && $set != *static* ]] || one+=("${data[@]}") # rounding looks at none
    [ -f "$file" ] || "$ballast" quantize demo/model -o "$file" --force -q --recipe "$recipe" "${one[@]}" </dev/null
  done < <(missing)
}

# Bits per weight of the decoder's linears with all that stands beside them, of what inspect prints.
bits_of() { # FILE
  "$ballast" inspect "$1" | awk '/^ *decoder linears/ { rank = /rank/; bytes += rank ? $NF : $(NF - 2); if (!rank) weights += $(NF - 1) }
    END { printf "%.3f", 8 * bytes / weights }'
}

# From what eval --json prints, a line per model.
evaluate_all() {
  local files=() file rest bpw name
  while IFS='|' read -r file rest; do files+=("$file"); done < <(missing)
  [ ${#files[@]} != 0 ] || return 0
  printf '%s\0' "${files[@]}" |
    xargs -0 -n 6 "$ballast" eval --against demo/model -d demo/data/eval.jsonl --limit "$questions" --json -q |
    awk -F'[:,]' '{ gsub(/[" ]/, "", $1); gsub(/[" ]/, "", $2) }
      $1 == "model" { sub(".*/", "", $2); name = $2; split("", v) }
      name != "" && !($1 in v) { v[$1] = $2 }
      $1 == "accuracy_change_hi" && name != "" { printf "%s %.9f,%.9f,%.9f,%.9f,%.6f,%.6f,%.6f,%.6f,%.6f,%.6f,%.6f\n", name, v["kl"],
        v["kl_lo"], v["kl_hi"], v["nll"], v["accuracy"], v["accuracy_lo"], v["accuracy_hi"], v["accuracy_change"],
        v["accuracy_change_lo"], v["accuracy_change_hi"], v["top1"]; name = "" }' |
    while read -r file rest; do
      bpw=$(bits_of "$work/$file")
      name=${file%-*-*}
      echo "$name,$samples,${file##*-},$questions,$bpw,$rest" >>"$csv"
    done
}

# Bits of the decoder's weights, how they read their inputs (--act), group, what that is.
formats() {
  cat <<'END'
16|a16|128|bfloat16 weights
8|a16|0|8-bit weights, one range per output; 16-bit activations
8|a8g0|0|the same weights; bytes per token (W8A8)
4|a16|128|4-bit weights in groups of 128; 16-bit activations
4|a8g0|128|the same weights; bytes per token (W4A8)
4|a8g128|128|the same weights; bytes per 128 inputs
4|a8g0|0|4-bit weights, one range per output; bytes per token (W4A8)
3|a16|128|3-bit weights in groups of 128; 16-bit activations
3|a8g0|128|the same weights; bytes per token
END
}

file_of() { echo "$work/$shape-w$1-$2-g$3.safetensors"; } # BITS ACT GROUP

# The prompt through every format, turn by turn: tokens a second.
measure_speed() {
  local bits act group what turn file
  mkdir -p "$work/new"
  while IFS='|' read -r bits act group what; do
    file=$(file_of "$bits" "$act" "$group")
    [ ! -f "$file" ] || continue
    "$ballast" bench --shape "$shape" -b "$bits" --act "$act" --group "$group" --picture none --rows 1 --tokens 1 --repeats 1 \
      --keep "$work/new" -q </dev/null >/dev/null
    mv "$work/new"/*.safetensors "$file"
  done < <(formats)
  echo "bits,act,group,turn,tokens_per_s,part_of_limit,isa,threads" >"$work/prompts.csv"
  for turn in $(seq "$turns"); do
    while IFS='|' read -r bits act group what; do
      "$ballast" bench "$(file_of "$bits" "$act" "$group")" --picture none --rows "$prompt" --tokens 1 --ctx $((prompt + 8)) \
        --repeats 1 --json -q </dev/null |
        awk -F'[:,]' -v key="$bits,$act,$group,$turn" '{ gsub(/[" ]/, "", $1); gsub(/[" ]/, "", $2); v[$1] = $2 }
          /}/ { if (v["name"] == "prefill") printf "%s,%.2f,%s,%s,%s\n", key, v["tokens_per_s"], v["fraction"], v["isa"], v["threads"]; split("", v) }' >>"$work/prompts.csv"
    done < <(formats)
  done
  mv "$work/prompts.csv" "$speeds"
  rm -rf "${work:?}/$shape"-* "$work/new"
}

# Tokens a second of each format, and as a multiple of the first one's in the same turn: medians and extremes.
speed_table() {
  local bits act group what
  cat <<END

## A whole prompt

Made by \`scripts/activations.sh --speed\` from [prompts.csv](prompts.csv) ($(awk -F, 'NR == 2 { printf "%s, %s threads", $7, $8 }' "$speeds")): $prompt tokens through
a decoder of the shape of $shape with random weights, turn by turn, medians of $(tail -n 1 "$speeds" | cut -d, -f4); "times" is against bfloat16 weights in the same turn, with the least and the
most. What single matrices reach of the limits of multiplying: [benchmarks.md](benchmarks.md#512-rows-part-of-multiplying).

| weights and activations | tokens/s | times |
| --- | ---: | ---: |
END
  while IFS='|' read -r bits act group what; do
    awk -F, -v key="$bits,$act,$group" -v what="$what" '
      function middle(x, n,   i, j, t) {
        for (i = 2; i <= n; i++) for (j = i; j > 1 && x[j - 1] > x[j]; j--) { t = x[j]; x[j] = x[j - 1]; x[j - 1] = t }
        return x[int((n + 1) / 2)]
      }
      $1 == 16 { base[$4] = $5 }
      $1 "," $2 "," $3 == key { rate[++n] = $5; times[n] = $5 / base[$4] }
      END { if (!n) exit; m = middle(rate, n); r = middle(times, n); printf "| %s | %.1f | %.2f [%.2f, %.2f] |\n", what, m, r, times[1], times[n] }' "$speeds"
  done < <(formats)
}

default_path() {
  cat <<'END'

## Which path is the default

16-bit activations (`act=a16`), in all recipes that do not say otherwise. At 3 bits bytes per token cost the default recipe nothing that these questions show (w3-a8 against w3-a16), and a prompt takes
half the time (below), a token [as much](benchmarks.md#one-row-groups-of-128-part-of-reading), since memory bounds it; at 2 bits their mean KL is higher, though the choices of conversations overlap (w2-a8). What decides is what this model cannot show: 16 bits for what few
spikes it has gain nothing (w4a8-spikes, w4a8-tail), while inputs of published models have single values thousands of times the rest ([arXiv 2402.17762](https://arxiv.org/abs/2402.17762)), beside which a byte per token rounds
the others away. A default must not hang on that. `act=a8` is for those who look: the report of `quantize` says how the inputs of every linear spread, `spikes` what to do about it.
END
}

table() {
  local name recipe set what
  {
    cat <<END
# What 8-bit activations cost

Made by \`scripts/activations.sh\` from [activations.csv](activations.csv): the embedded model (\`demo/model\`), $samples of 128 calibration
conversations, the first $questions held-out questions. KL to the float model in 10⁻³ nats and accuracy in %, with 95 % intervals; the change
of accuracy against the float model in points, paired over pictures. Arms with A11 and those of the default recipe stand for three choices of the conversations, and have the
mean and, in braces, the least and the most of them. What the options mean: [numerics.md](numerics.md).

| arm | recipe | what it is | bits per weight | KL | accuracy | change | top-1 |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |
END
    while IFS='|' read -r name recipe set what; do
      awk -F, -v a="$name" -v r="\`$recipe\`${set:+ \`${set// /\` \`}\`}" -v w="$what" -v n="$samples" -v q="$questions" '
        function spread(at, scale, form,   i, sum, lo, hi) {
          lo = hi = v[1, at]
          for (i = 1; i <= rows; i++) { sum += v[i, at]; if (v[i, at] < lo) lo = v[i, at]; if (v[i, at] > hi) hi = v[i, at] }
          return sprintf(form " {" form ", " form "}", scale * sum / rows, scale * lo, scale * hi)
        }
        function interval(at, scale, form) {
          return sprintf(form " [" form ", " form "]", scale * v[1, at], scale * v[1, at + 1], scale * v[1, at + 2])
        }
        $1 == a && $2 == n && $4 == q { rows++; for (i = 5; i <= NF; i++) v[rows, i] = $i }
        END {
          if (rows == 0) exit
          if (rows == 1)
            printf "| %s | %s | %s | %s | %s | %s | %s | %.1f |\n", a, r, w, v[1, 5], interval(6, 1000, "%.3f"), interval(10, 100, "%.1f"),
              interval(13, 100, "%+.1f"), 100 * v[1, 16]
          else
            printf "| %s | %s | %s | %s | %s | %s | %s | %s |\n", a, r, w, v[1, 5], spread(6, 1000, "%.3f"), spread(10, 100, "%.1f"),
              spread(13, 100, "%+.1f"), spread(16, 100, "%.1f")
        }' "$csv"
    done < <(arms)
    default_path
    [ ! -f "$speeds" ] || speed_table
  } >"$page"
}

mkdir -p "$work"
case "${1:-}" in
  --table) ;;
  --speed) measure_speed ;;
  *)
    [ -f "$csv" ] || echo "$header" >"$csv"
    quantize_all
    evaluate_all
    ;;
esac
table
