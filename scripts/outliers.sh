#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What outlier channels do to each recipe: the embedded model with the weights of 1 % of the inputs of its linears 8 and
# 64 times larger and these inputs as much smaller (scripts/blow_up.py, which needs python3), so that it computes the
# same.
# Rows are kept in docs/outliers.csv as they come, so a run that was stopped goes on; docs/outliers.md is made of them.
#   outliers.sh [--table]           --table: only make the page of what is there
#   BITS, QUESTIONS, SAMPLES, JOBS in the environment: 3, 240, 16, one per CPU
set -euo pipefail
cd "$(dirname "$0")/.."
ballast=${BALLAST:-build/ballast}
csv=${CSV:-docs/outliers.csv}
page=docs/outliers.md
work=build/outliers
bits=${BITS:-3}
questions=${QUESTIONS:-240}
samples=${SAMPLES:-16}
jobs=${JOBS:-$(nproc)}
# recipe and overrides
recipes=("rtn" "awq" "mbq" "gptq" "gptq+shift" "awq+gptq" "ballast" "table+shift" "rtn rotate=residual" "gptq rotate=residual"
  "rtn rotate=residual hadamard=down" "gptq rotate=residual hadamard=down" "vlmq" "gptq group_bits=mixed store=float")
factors=(64 8 1)

figures() {
  awk -F'[:,]' '{ gsub(/[" ]/, "", $1); v[$1] = $2 + 0 }
    $1 == "top1_hi" { printf "%.9f,%.9f,%.9f,%.6f,%.6f,%.6f", v["kl"], v["kl_lo"], v["kl_hi"], v["accuracy"],
      v["accuracy_lo"], v["accuracy_hi"]; exit }'
}

# One recipe on one model to a row of the table; one thread, since several run at a time.
measure() { # FACTOR "RECIPE KEY=VALUE ..."
  local file="$work/$1-${2// /-}.safetensors" row name set=() s
  read -r name s <<<"$2"
  for s in $s; do set+=(--set "$s"); done
  "$ballast" quantize "$work/x$1" -o "$file" --force -q --bits "$bits" --recipe "$name" "${set[@]}" --threads 1 \
    --calib demo/data/calib.jsonl --samples "$samples" || return 1
  row=$("$ballast" eval "$file" --against demo/model -d demo/data/eval.jsonl --limit "$questions" --threads 1 \
    --json -q | figures) || return 1
  rm "$file"
  echo "$1,$2,$bits,$samples,$questions,$row" >>"$csv"
}

measure_all() {
  local f r
  for f in "${factors[@]}"; do
    if [ ! -d "$work/x$f" ]; then # whole or not at all
      rm -rf "$work/half"
      python3 scripts/blow_up.py demo/model "$work/half" "$f" 1
      mv "$work/half" "$work/x$f"
    fi
    for r in "${recipes[@]}"; do
      ! grep -q "^$f,$r,$bits,$samples,$questions," "$csv" || continue
      [ "$(jobs -rp | wc -l)" -lt "$jobs" ] || wait -n || true
      { measure "$f" "$r" </dev/null >/dev/null || echo "$f $r" >>"$work/failed"; } &
    done
  done
  wait
  [ ! -e "$work/failed" ] || {
    echo "outliers: these failed: $(paste -sd, "$work/failed")" >&2
    exit 1
  }
}

table() {
  {
    cat <<END
# Outlier channels

Made by \`scripts/outliers.sh\` from [outliers.csv](outliers.csv): the embedded model (\`demo/model\`) with the weights of 1 % of the inputs of its
linears 8 or 64 times larger and these inputs as much smaller, which leaves its float output as it was, at $bits bits, groups of 128, $samples
calibration conversations, the first $questions held-out questions. Accuracy in %; KL to the float model in 10⁻³ nats; brackets are 95 % intervals.

| weights × | recipe | accuracy | KL |
| ---: | --- | ---: | ---: |
END
    sort -t, -k1,1rn -s "$csv" | awk -F, -v b="$bits" -v n="$samples" -v q="$questions" '$3 == b && $4 == n && $5 == q { printf "| %d | `%s` | %.1f [%.1f, %.1f] | %.2f [%.2f, %.2f] |\n", $1, $2, 100 * $9,
      100 * $10, 100 * $11, 1000 * $6, 1000 * $7, 1000 * $8 }'
    cat <<'END'

Recipes that search channel scales keep the accuracy at either factor, though not all of the KL. Plain rounding collapses at 64; at 8 only its KL tells. Error
feedback alone (`gptq`, `gptq+shift`, `vlmq`) collapses with it: one channel's range swallows its group's, and no feedback gives that back. Nor does one bit
more for such groups at the cost of others (`group_bits=mixed`), where the range is wanting by six. A rotation spreads
the loud channels of the residual stream, and needs the transform at run time (`hadamard=down`) for those inside the MLP.
END
  } >"$page"
}

mkdir -p "$work"
rm -f "$work/failed"
[ -f "$csv" ] || echo "factor,recipe,bits,samples,questions,kl,kl_lo,kl_hi,accuracy,accuracy_lo,accuracy_hi" >"$csv"
if [ "${1:-}" != --table ]; then
  measure_all
  rm -rf "$work"
fi
table
