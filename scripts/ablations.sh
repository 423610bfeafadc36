#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# What each step of the solver is worth on the embedded model: every arm below at 3 and 2 bits, with several choices of
# 64 out of the 128 calibration conversations. Rows are kept in docs/ablations.csv as they come, so a run that was
# stopped goes on; docs/ablations.md is made of them.
#   ablations.sh [--table]          --table: only make the page of what is there
#   SEEDS, BITS, QUESTIONS, SAMPLES, JOBS in the environment: "0 1 2", "3 2", 480, 64, one per CPU
#   ARMS: an extended regular expression of the arms to measure; all
set -euo pipefail
cd "$(dirname "$0")/.."
ballast=${BALLAST:-build/ballast}
csv=docs/ablations.csv
page=docs/ablations.md
work=build/ablations
questions=${QUESTIONS:-480}
samples=${SAMPLES:-64}
jobs=${JOBS:-$(nproc)}

# arm | recipe | overrides | what it asks
arms() {
  cat <<'END'
rtn|rtn||nothing is measured
awq|awq||
mbq|mbq||
mbq+|mbq+||
gptq|gptq||error feedback, every token alike
gain|gptq|gain=row|and no row falls short
no order|gptq|gain=row order=none|does the order of columns matter
damp 0.001|gptq|gain=row damp=0.001|
damp 0.1|gptq|gain=row damp=0.1|
float inputs|gptq|gain=row inputs=float|without what the blocks before lost
answers|gptq|gain=row hessian=answer|one modality
vision|gptq|gain=row hessian=vision|one modality
r = 1|gptq|gain=row balance=one loss=mse|each modality by its own mean, no prompt
balanced|gptq|gain=row balance=gradient loss=mse|vision by measured r, no prompt
balanced + prompt|gptq|gain=row balance=gradient loss=mse language=text|vision by measured r
short rows|gptq|clip=inverse|searched ranges without the gain
clip diag|gptq|gain=row clip=diag|ranges by diag(H)
clip inverse|gptq|gain=row clip=inverse|ranges by 1/[H⁻¹]jj
clip block|gptq|gain=row clip=block|ranges by the group's block of H
shift|gptq|gain=row shift=inputs|targets make up for quantized inputs
residual|gptq|gain=row shift=residual|and for the residual stream
sweep|gptq|gain=row polish=sweep|coordinate descent behind
refit|gptq|gain=row polish=refit|and of scales
undo|gptq|gain=row clip=inverse shift=residual polish=refit undo=on|all of it, what worsens held-out error undone
awq+gptq|awq+gptq|gain=row|channel scales before
mbq+gptq|mbq+gptq|gain=row|channel scales before
END
}

done_already() { [ -f "$csv" ] && grep -q "^$1,$2,$3,$samples,$questions," "$csv"; }

# The figures of the one model in what eval --json prints, in the order of the header.
figures() {
  awk -F'[:,]' '{ gsub(/[" ]/, "", $1); v[$1] = $2 + 0 }
    $1 == "top1_hi" { printf "%.9f,%.9f,%.9f,%.6f,%.9f,%.6f", v["kl"], v["kl_lo"], v["kl_hi"], v["accuracy"], v["nll"],
      v["top1"]; exit }'
}

# One arm from checkpoint to a row of the table; one thread, since several run at a time.
measure() { # ARM BITS SEED RECIPE OVERRIDES
  local set=() s file="$work/$1-w$2-s$3.safetensors" row
  for s in $5; do set+=(--set "$s"); done
  "$ballast" quantize demo/model -o "$file" --force -q --bits "$2" --recipe "$4" "${set[@]}" --threads 1 \
    --calib demo/data/calib.jsonl --samples "$samples" --seed "$3"
  row=$("$ballast" eval "$file" --against demo/model -d demo/data/eval.jsonl --limit "$questions" --threads 1 \
    --json -q | figures)
  rm "$file"
  echo "$1,$2,$3,$samples,$questions,$row" >>"$csv"
}

measure_all() { # BITS SEED: the arms that are missing
  local name recipe set ask
  while IFS='|' read -r name recipe set ask; do
    [[ $name =~ ^(${ARMS:-.*})$ ]] || continue
    done_already "$name" "$1" "$2" && continue
    [ "$(jobs -rp | wc -l)" -lt "$jobs" ] || wait -n
    measure "$name" "$1" "$2" "$recipe" "$set" </dev/null >/dev/null &
  done < <(arms)
}

cells() { # ARM BITS: mean KL [least, most] over seeds, and mean accuracy
  awk -F, -v a="$1" -v b="$2" -v n="$samples" -v q="$questions" '$1 == a && $2 == b && $4 == n && $5 == q { k = 1000 * $6; m++; s += k; r += $9
      if (m == 1 || k < lo) lo = k; if (m == 1 || k > hi) hi = k }
    END { if (m) printf "%.2f [%.2f, %.2f] | %.1f", s / m, lo, hi, 100 * r / m; else printf " | " }' "$csv"
}

table() {
  local name recipe set ask seeds
  seeds=$(awk -F, -v n="$samples" -v q="$questions" '$4 == n && $5 == q { print $3 }' "$csv" | sort -u | wc -l)
  {
    cat <<END
# Ablations

Made by \`scripts/ablations.sh\` from [ablations.csv](ablations.csv), where each single measurement stands with its interval: the embedded
model (\`demo/model\`), groups of 128, $samples of 128 calibration conversations chosen by $seeds seeds, the first $questions held-out questions.
KL to the float model in 10⁻³ nats: the mean over seeds [least, most]; accuracy in %, its mean. Fewer seeds were run where the range is a point.
What the options mean: [numerics.md](numerics.md).

| arm | recipe | asks | W3 KL | W3 acc. | W2 KL | W2 acc. |
| --- | --- | --- | ---: | ---: | ---: | ---: |
END
    while IFS='|' read -r name recipe set ask; do
      echo "| $name | \`$recipe\`${set:+ \`${set// /\` \`}\`} | $ask | $(cells "$name" 3) | $(cells "$name" 2) |"
    done < <(arms)
  } >"$page"
}

mkdir -p "$work"
[ -f "$csv" ] || echo "arm,bits,seed,samples,questions,kl,kl_lo,kl_hi,accuracy,nll,top1" >"$csv"
if [ "${1:-}" != --table ]; then
  for seed in ${SEEDS:-0 1 2}; do
    for bits in ${BITS:-3 2}; do measure_all "$bits" "$seed"; done
  done
  wait
  rm -rf "$work"
fi
table
