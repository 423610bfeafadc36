#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Widths under a budget against the same width everywhere, on the embedded model: makes docs/allocation.md. Files stay
# in build/allocation and rows in its figures.csv, so a run that was stopped goes on; ten minutes on two cores. Remove
# the folder when the program has changed.
#   SAMPLES, QUESTIONS, RECIPE in the environment: 64, 960, "gptq --set gain=row"
set -euo pipefail
cd "$(dirname "$0")/.."
ballast=${BALLAST:-build/ballast}
samples=${SAMPLES:-64} questions=${QUESTIONS:-960} recipe=${RECIPE:-gptq --set gain=row}
work=${WORK:-build/allocation} page=${PAGE:-docs/allocation.md}
csv=$work/figures.csv
mkdir -p "$work"
touch "$csv"

# name | flags; 3.191667 is what 3 bits everywhere take, and 2.691667 lies between that and 2 bits everywhere
arms() {
  cat <<'END'
2 bits everywhere|--bits 2
2.5, by rules|--target-bpw 2.5 --set allocate=rules
2.5, by scores|--target-bpw 2.5
2.5, verified|--target-bpw 2.5 --set allocate=verified
2.69, by rules|--target-bpw 2.691667 --set allocate=rules
2.69, by scores|--target-bpw 2.691667
2.69, verified|--target-bpw 2.691667 --set allocate=verified
3.0, by rules|--target-bpw 3.0 --set allocate=rules
3.0, by scores|--target-bpw 3.0
3.0, verified|--target-bpw 3.0 --set allocate=verified
3 bits everywhere|--bits 3
as many bytes, by scores|--target-bpw 3.191667
as many bytes, verified|--target-bpw 3.191667 --set allocate=verified
3.2, vision tower 4 bits everywhere|--target-bpw 3.2 --set vision=4
3.2, vision tower 5 bits per weight|--target-bpw decoder=3.2,vision=5
3.2, vision tower 6 bits everywhere|--target-bpw 3.2 --set vision=6
3.2, vision tower 5.5, projector and head 6.5 bits per weight|--target-bpw decoder=3.2,vision=5.5,projector=6.5,head=6.5
END
}

key_of() { echo "$recipe $samples $questions $1" | tr -c 'a-z0-9.\n' '_'; }

# The arms without figures: key | flags
missing() {
  local name flags key
  while IFS='|' read -r name flags; do
    key=$(key_of "$name")
    grep -q "^$key," "$csv" || echo "$key|$flags"
  done < <(arms)
}

# Bits per weight of the decoder's linears, from their bytes and weights.
bpw() {
  "$ballast" inspect "$1" --json | awk '/"part"/ {on = /decoder linears/} on && /"bytes"/ {gsub(/[^0-9]/, ""); b += $0}
    on && /"weights"/ {gsub(/[^0-9]/, ""); w += $0} END {printf "%.2f", 8 * b / w}'
}

# From what eval --json prints, a line of these figures per model.
figures() {
  awk -F'[:,]' '{ gsub(/[" ]/, "", $1); v[$1] = $2 + 0 }
    $1 == "top1_hi" { printf "%.9f,%.9f,%.9f,%.9f,%.9f,%.9f\n", v["kl"], v["kl_lo"], v["kl_hi"], v["nll"], v["top1"], v["accuracy"] }'
}

measure() {
  local lines=() files=() rows=() key flags file bits told i
  mapfile -t lines < <(missing)
  for ((i = 0; i < ${#lines[@]}; i++)); do
    IFS='|' read -r key flags <<<"${lines[i]}"
    file=$work/$key.safetensors
    # shellcheck disable=SC2086
    [ -f "$file" ] || "$ballast" quantize demo/model -o "$file" --recipe $recipe --calib demo/data/calib.jsonl \
      --samples "$samples" --force -q $flags </dev/null
    files+=("$file")
    bits=$(bpw "$file")
    rows+=("$key,$bits,$(stat -c %s "$file")")
  done
  for ((i = 0; i < ${#files[@]}; i += 6)); do # together, so that the float model is asked once for several
    told=$("$ballast" eval "${files[@]:i:6}" --against demo/model --data demo/data/eval.jsonl --limit "$questions" --json -q | figures)
    paste -d, <(printf '%s\n' "${rows[@]:i:6}") <(echo "$told") >>"$csv"
  done
}

row() { # NAME
  awk -F, -v key="$(key_of "$1")" -v name="$1" '$1 == key {
    printf "| %s | %s | %.2f | %.2f [%.2f, %.2f] | %.4f | %.1f | %.1f |\n", name, $2, $3 / 1e6, 1e3 * $4, 1e3 * $5, 1e3 * $6, $7,
      100 * $8, 100 * $9 }' "$csv"
}

measure
{
  cat <<END
# Widths under a budget

Made by \`scripts/allocation.sh\`: recipe \`$recipe\` on the embedded model, groups of 128, $samples calibration
conversations, the first $questions held-out questions. KL to the float model in 10⁻³ nats, with its 95 % interval.
How widths are chosen, by rules (\`allocate=rules\`), by scores (the default) or verified: [numerics.md](numerics.md#widths-under-a-budget).

| bits | bits per weight | file, MB | KL | NLL | top-1 % | accuracy % |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
END
  while IFS='|' read -r name flags; do row "$name"; done < <(arms)
  cat <<'END'

Widths here are 2, 3, 4, 6 and 8 bits, bits per weight those of the decoder's linears. Scores are local (one linear at a time, rounded, its error times
the squared gradient behind it); that they order whole files rightly is what the table is for: with as many bytes as 3 bits everywhere the KL should be
lower, with fewer bytes not much higher. A verified plan is one that the KL of whole roundings confirmed. With three choices of 16 conversations: A10 in
[ablations.md](ablations.md). Below, the tower has bits too: between 4 and 6 bits everywhere a budget should keep most of what 6 bits
keep. Single questions decide accuracy and top-1; the intervals of KL are over pictures.
END
} >"$page.tmp"
mv "$page.tmp" "$page"
