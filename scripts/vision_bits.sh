#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What bits of the vision tower and the projector cost on the embedded model, the decoder at 8 bits throughout: figures
# for all questions and for those that need reading (numbers and words), with 16-bit inputs and with bytes. Makes
# docs/vision_bits.md; eight minutes on two idle cores.
#   vision_bits.sh [QUESTIONS]      480; 0: all 1,440
set -euo pipefail
cd "$(dirname "$0")/.."
ballast=${BALLAST:-build/ballast}
page=${PAGE:-docs/vision_bits.md}
limit=${1:-480}
work=build/vision_bits
mkdir -p "$work"

# Of the first model, or of the one compared with ("against"), in what eval --json prints: questions, right ones,
# KL with its interval, top-1 agreement, right ones and questions of the types number and word.
figures() { # models|against
  awk -F'[:,]' -v part="$1" '
    { key = $1; gsub(/[" ]/, "", key); value = $2; gsub(/[" ]/, "", value) }
    key == "against" { inside = part == "against" }
    key == "models" { inside = part == "models" }
    !inside { next }
    key == "type" { type = value; next }
    type == "" { v[key] = value; next }
    { v[type "_" key] = value }
    END {
      printf "%d %d %.1e %.1e %.1e %.2f %d/%d %d/%d\n", v["n"], v["n_right"], v["kl"], v["kl_lo"], v["kl_hi"],
        100 * v["top1"], v["number_n_right"], v["number_n"], v["word_n_right"], v["word_n"] }'
}

row() { # VISION PROJECTOR [INPUTS]
  local act=${3:-a16} n right kl lo hi top1 number word
  local file=$work/$1-$2-$act.safetensors json=$work/$1-$2-$act.json
  "$ballast" quantize demo/model -o "$file" --recipe rtn --bits 8 --set "vision=$1" --set "projector=$2" \
    --set "vision_act=$act" --force -q >&2
  "$ballast" eval "$file" --against demo/model --data demo/data/eval.jsonl --limit "$limit" --json >"$json"
  read -r n right kl lo hi top1 number word < <(figures models <"$json")
  echo "| $1 | $2 | $act | $(stat -c %s "$file") | $right of $n | $number | $word | $kl [$lo, $hi] | $top1 |"
}

{
  echo "# Bits in front of the decoder"
  echo
  echo "Made by \`scripts/vision_bits.sh $limit\`: the embedded model, decoder at 8 bits (\`rtn\`), tower and projector as said, held-out"
  echo "questions. Number and word: right answers of the questions that need reading. KL in nats to"
  echo "the float model, with its bootstrap interval over pictures; top-1 agreement in %. Inputs: what packed linears in"
  echo "front of the decoder read, 16-bit integers or a byte per value with one scale per patch (\`vision_act\`)."
  echo
  echo "| vision | projector | inputs | bytes | right | number | word | KL | top-1 |"
  echo "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
  row float float
  row 8 8
  row 8 float
  row float 8
  row 6 8
  row 6 6
  row 4 8
  row 4 4
  row 8 8 a8
  row 6 6 a8
  row 4 8 a8
  row 4 4 a8
  read -r n right _ _ _ _ number word < <(figures against <"$work/8-8-a16.json")
  echo "| f16 | f16 | | $(cat demo/model/*.safetensors | wc -c) | $right of $n | $number | $word | the float model | |"
} >"$work/page.md"
mv "$work/page.md" "$page"
