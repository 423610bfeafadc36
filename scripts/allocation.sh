#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Widths under a budget against the same width everywhere, on the embedded model: makes docs/allocation.md. Results
# already in build/allocation are not measured again, so a run that was stopped goes on; a quarter of an hour on two
# idle cores.
#   SAMPLES, QUESTIONS, RECIPE in the environment: 64, 960, "gptq --set gain=row"
set -euo pipefail
cd "$(dirname "$0")/.."
ballast=${BALLAST:-build/ballast}
samples=${SAMPLES:-64} questions=${QUESTIONS:-960} recipe=${RECIPE:-gptq --set gain=row}
work=${WORK:-build/allocation} page=${PAGE:-docs/allocation.md}
mkdir -p "$work"

# name | flags; 3.191667 is what 3 bits everywhere take
arms() {
  cat <<'END'
2 bits everywhere|--bits 2
2.5 bits per weight|--target-bpw 2.5
3.0 bits per weight|--target-bpw 3.0
3 bits everywhere|--bits 3
as many bytes as 3 bits everywhere|--target-bpw 3.191667
3.2 bits per weight|--target-bpw 3.2
3.2, vision tower 4 bits everywhere|--target-bpw 3.2 --set vision=4
3.2, vision tower 5 bits per weight|--target-bpw decoder=3.2,vision=5
3.2, vision tower 6 bits everywhere|--target-bpw 3.2 --set vision=6
3.2, vision tower 5.5, projector and head 6.5 bits per weight|--target-bpw decoder=3.2,vision=5.5,projector=6.5,head=6.5
END
}

file_of() { echo "$work/$(echo "$recipe $samples $questions $1" | tr -c 'a-z0-9.\n' '_')"; }

measure() {
  local out
  out=$(file_of "$1")
  [ -s "$out.json" ] && return
  # shellcheck disable=SC2086
  "$ballast" quantize demo/model -o "$out.safetensors" --recipe $recipe --calib demo/data/calib.jsonl \
    --samples "$samples" --force -q $2 >/dev/null
  "$ballast" eval "$out.safetensors" --against demo/model --data demo/data/eval.jsonl --limit "$questions" \
    --json -q >"$out.json.tmp"
  "$ballast" inspect "$out.safetensors" --json >"$out.inspect"
  mv "$out.json.tmp" "$out.json"
}

# value KEY FILE: of a number in pretty-printed JSON, the first
value() { sed -n "s/^ *\"$1\": \([-0-9.e]*\),\{0,1\}$/\1/p" "$2" | head -n 1; }

# Bits per weight of the decoder's linears, from their bytes and weights.
bpw() {
  awk '/"part"/ {on = /decoder linears/} on && /"bytes"/ {gsub(/[^0-9]/, ""); b += $0}
    on && /"weights"/ {gsub(/[^0-9]/, ""); w += $0} END {printf "%.2f", 8 * b / w}' "$1"
}

row() {
  local out
  out=$(file_of "$1")
  awk -v name="$1" -v bpw="$(bpw "$out.inspect")" -v bytes="$(stat -c %s "$out.safetensors")" -v kl="$(value kl "$out.json")" -v lo="$(value kl_lo "$out.json")" \
    -v hi="$(value kl_hi "$out.json")" -v nll="$(value nll "$out.json")" -v top="$(value top1 "$out.json")" \
    -v acc="$(value accuracy "$out.json")" 'BEGIN {
      printf "| %s | %s | %.2f | %.2f [%.2f, %.2f] | %.4f | %.1f | %.1f |\n", name, bpw, bytes / 1e6, 1e3 * kl, 1e3 * lo, 1e3 * hi, nll,
        100 * top, 100 * acc}'
}

while IFS='|' read -r name flags; do measure "$name" "$flags"; done < <(arms)
{
  echo "# Widths under a budget"
  echo
  echo "Made by \`scripts/allocation.sh\`: recipe \`$recipe\` on the embedded model, groups of 128, $samples calibration"
  echo "conversations, the first $questions held-out questions. KL to the float model in 10⁻³ nats, with its 95 % interval."
  echo "How widths are chosen: [numerics.md](numerics.md)."
  echo
  echo "| bits | bits per weight | file, MB | KL | NLL | top-1 % | accuracy % |"
  echo "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
  while IFS='|' read -r name flags; do row "$name"; done < <(arms)
  cat <<'END'

Widths here are 2, 3, 4, 6 and 8 bits, bits per weight those of the decoder's linears. Costs are local (one linear at a time, rounded, its error times
the squared gradient behind it); that they order whole files rightly is what the table is for: with as many bytes as 3 bits everywhere the KL should be
lower, with fewer bytes not much higher. Below it the tower has bits too: between 4 and 6 bits everywhere a budget should keep most of what 6 bits
keep. Single questions decide accuracy and top-1; the intervals of KL are over pictures.
END
} >"$page.tmp"
mv "$page.tmp" "$page"
