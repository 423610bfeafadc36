#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Everything about speed on this CPU in one run: limits, matrix kernels beside them, models of published shapes from
# a prompt of 729 tokens to 64 decoded ones, and peers on models of the same shape, turn by turn. Keeps the figures in
# bench/results/*.csv and makes the part of docs/benchmarks.md between its marks of them. Nothing else should run.
#   bench/cpu.sh [--table] [--part kernels|few|picture|models]   --table: only make the page of what is there
#     --peer NAME PROGRAM FILE.gguf SHAPE              llama-bench of llama.cpp or a relative of it; several times
#   What is not measured now keeps its figures: other parts, and models of other shapes.
#   MATRICES, SHAPES, BITS, HEAD, THREADS, ROWS, FEW, FEW_MATRIX, REPEATS, TURNS, PROMPT, TOKENS, ACTS in the
#   environment; see below
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
ballast=${BALLAST:-$root/build/ballast}
results=${RESULTS:-$root/bench/results}
page=${PAGE:-$root/docs/benchmarks.md}
matrices=${MATRICES:-3584x18944 18944x3584 3584x3584 1536x8960 896x4864}
shapes=${SHAPES:-qwen2.5-0.5b qwen2.5-1.5b qwen2.5-7b}
bits=${BITS:-2 3 4 8}
head=${HEAD:-6} # bits of the models' heads, as peers' files have them
acts=${ACTS:-a16 a8g128}
threads=${THREADS:-1 $(nproc)}
rows=${ROWS:-512}
few=${FEW:-2 4 8 16} # rows of a draft or of several answers at once
few_matrix=${FEW_MATRIX:-3584x3584}
repeats=${REPEATS:-7}
turns=${TURNS:-7}
prompt=${PROMPT:-729}
tokens=${TOKENS:-64}
begin='<!-- cpu: begin -->' end='<!-- cpu: end -->'
peers=() # NAME PROGRAM FILE SHAPE, four by four
table_only=
parts='kernels few picture models'
while [ $# -gt 0 ]; do
  case $1 in
    --table) table_only=1 ;;
    --part) parts=${2:?kernels, few, picture or models}; shift ;;
    --peer)
      [ $# -ge 5 ] || { sed -n '3,11p' "$0" >&2; exit 2; }
      peers+=("$2" "$3" "$4" "$5")
      shift 4
      ;;
    *) sed -n '3,11p' "$0" >&2; exit 2 ;;
  esac
  shift
done

# The rows of bench --json, one a line: name,bits,group,rows,threads,weights_per_s,bytes_per_s,seconds,slowest,fastest,
# tokens_per_s,limit,fraction
json_rows() {
  awk -F': ' 'function strip(s) { gsub(/[",]/, "", s); return s == "null" ? "" : s }
    /^    \{/ { inside = 1 } inside && NF == 2 { key = $1; gsub(/[" ]/, "", key); v[key] = strip($2) }
    inside && /^    \}/ { inside = 0
      printf "%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s\n", v["name"], v["bits"], v["group"], v["rows"], v["threads"],
        v["weights_per_s"], v["bytes_per_s"], v["seconds"], v["slowest"], v["fastest"], v["tokens_per_s"], v["limit"],
        v["fraction"]; delete v }'
}
fields=name,bits,group,rows,threads,weights_per_s,bytes_per_s,seconds,slowest,fastest,tokens_per_s,limit,fraction

# Groups of 128 with one row and with many, groups of 32 with one row, and one row of a matrix that a cache keeps.
measure_kernels() {
  local m t
  echo "matrix,what,$fields" >"$results/kernels.csv"
  for m in $matrices; do
    for t in $threads; do
      kernels "$m" "$t" g128 --rows "$rows"
      kernels "$m" "$t" g32 --rows 1 --group 32
      kernels "$m" "$t" resident --rows 1 --resident
    done
  done >>"$results/kernels.csv"
}

# A few rows, each number of them beside one row in the same rounds.
measure_few() {
  local m t
  echo "matrix,what,$fields" >"$results/few.csv"
  for t in $threads; do
    for m in $few; do kernels "$few_matrix" "$t" "with $m" --rows "$m"; done
  done >>"$results/few.csv"
}

kernels() { # MATRIX THREADS WHAT [flags]
  local m=$1 t=$2 what=$3
  shift 3
  "$ballast" bench --kernels --matrix "$m" --threads "$t" --repeats "$repeats" --json -q "$@" | json_rows |
    sed "s/^/$m,$what,/"
}

# One picture of 384 x 384, from its bytes to the first token, with the tower as it is published and with weights of 8
# bits that meet inputs of 16 or 8 (and so does the decoder).
measure_picture() {
  echo "tower,$fields" >"$results/picture.csv"
  measure_tower f16 16 a8g0
  measure_tower W8A16 8 a16
  measure_tower W8A8 8 a8g0
}

measure_tower() { # NAME BITS ACT
  "$ballast" bench --shape llava-ov-0.5b -b 3 --head "$head" --act "$3" --tower "$2" --picture 384x384 --rows 1536 \
    --tokens 8 --repeats "$repeats" --json -q | json_rows | sed "s/^/$1,/" >>"$results/picture.csv"
}

# One turn of a peer: prefill and decode in tokens/s, by the names of llama-bench's CSV header.
measure_peer() { # NAME PROGRAM FILE SHAPE TURN
  "$2" -m "$3" -p "$prompt" -n "$tokens" -t "$(nproc)" -r 1 -o csv 2>/dev/null |
    awk -v name="$1" -v shape="$4" -v turn="$5" -v bytes="$(stat -c %s "$3")" '
      NR == 1 { gsub(/"/, ""); n = split($0, header, ","); for (i = 1; i <= n; i++) at[header[i]] = i; next }
      { gsub(/^"|"$/, ""); split($0, v, "\",\"")
        print shape "," name "," bytes "," turn "," (v[at["n_gen"]] > 0 ? "decode" : "prefill") "," v[at["avg_ts"]] "," }' \
        >>"$results/models.csv"
}

measure_ours() { # SHAPE BITS ACT TURN
  local file=$work/$1-w$2$3.safetensors
  "$ballast" bench "$file" --picture none --rows "$prompt" --tokens "$tokens" --ctx $((prompt + tokens + 8)) --repeats 1 \
    --json -q | json_rows | awk -F, -v OFS=, -v shape="$1" -v name="ballast W$2 $3 head W$head" -v bytes="$(stat -c %s "$file")" \
    -v turn="$4" '$11 != "" && ($1 == "prefill" || $1 == "decode") { print shape, name, bytes, turn, $1, $11, $13 }' \
    >>"$results/models.csv"
}

measure_models() {
  local shape b act turn i
  [ -f "$results/models.csv" ] || echo "shape,engine,bytes,turn,stage,tokens_per_s,fraction" >"$results/models.csv"
  for shape in $shapes; do
    awk -F, -v shape="$shape" '$1 != shape' "$results/models.csv" >"$results/models.new"
    mv "$results/models.new" "$results/models.csv"
    work=$(mktemp -d -p "${TMPDIR:-/tmp}")
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/new"
    for b in $bits; do
      for act in $acts; do
        "$ballast" bench --shape "$shape" -b "$b" --head "$head" --act "$act" --picture none --rows 1 --tokens 1 --repeats 1 --keep "$work/new" -q >/dev/null
        mv "$work/new"/*.safetensors "$work/$shape-w$b$act.safetensors"
      done
    done
    for turn in $(seq "$turns"); do
      for b in $bits; do for act in $acts; do measure_ours "$shape" "$b" "$act" "$turn"; done; done
      for ((i = 0; i < ${#peers[@]}; i += 4)); do
        [ "${peers[i + 3]}" != "$shape" ] || measure_peer "${peers[@]:i:4}" "$turn"
      done
    done
    rm -rf "$work"
  done
}

# Medians over turns, of the share of the limit too, with the slowest and the fastest turn, in the order of speed.
model_table() {
  sort -t, -k1,2 -k5,5 -k6,6g "$results/models.csv" | awk -F, '
    function middle(k, count,  i, j, low) { # of shares: the one that half of them are below
      for (i = 1; i <= count; i++) { low = 0
        for (j = 1; j <= count; j++) low += share[k, j] < share[k, i] || (share[k, j] == share[k, i] && j < i)
        if (low == int((count - 1) / 2)) return share[k, i] } }
    $4 + 0 { k = $1 "," $2 "," $5; v[k, ++n[k]] = $6; size[k] = $3; if ($7 != "") share[k, ++shares[k]] = $7 + 0 }
    END { for (k in n) { m = v[k, int((n[k] + 1) / 2)]; split(k, p, ",")
      printf "%s,%s,%s,%.2f,%.2f,%.2f,%.0f,%s,%d\n", p[1], p[3], p[2], m, v[k, 1] / m, v[k, n[k]] / m, size[k] / 1048576,
        shares[k] ? middle(k, shares[k]) : "", n[k] } }' |
    sort -t, -k1,1V -k2,2r -k4,4gr | awk -F, '
    { group = $1 " " $2 } group != last { last = group; printf "\n### %s, %s\n\n| engine | file MiB | tokens/s | slowest, fastest of %d | of the limit |\n| --- | ---: | ---: | ---: | ---: |\n", $1, $2, $9 }
    { printf "| %s | %s | %s | %s, %s | %s |\n", $3, $7, $4, $5, $6, $8 == "" ? "" : sprintf("%.0f %%", 100 * $8) }'
}

# Cells of 10^9 weights/s and the part of the limit, a line for each matrix, number of threads and case.
kernel_rows() { # TITLE WHAT ROWS KERNELS
  local name
  printf '\n### %s\n\n| matrix | threads |' "$1"
  for name in $4; do printf ' `%s` |' "$name"; done
  printf '\n| --- | ---: |%s\n' "$(for name in $4; do printf ' ---: |'; done)"
  awk -F, -v what="$2" -v rows="$3" -v names="$4" '
    BEGIN { n = split(names, order, " ") }
    { split($1, side, "x") }
    what == "resident" && side[1] * side[2] > 16e6 { next } # no cache keeps it
    $2 == what && $6 == rows && $14 != "" { key = $1 " | " $7; if (!(key in seen)) { seen[key] = 1; keys[++k] = key }
      cell[key, $3] = sprintf("%.3g, %.0f %%", $8 / 1e9, 100 * $15) }
    END { for (i = 1; i <= k; i++) { printf "| %s |", keys[i]
      for (j = 1; j <= n; j++) printf " %s |", cell[keys[i], order[j]]; print "" } }' "$results/kernels.csv"
}

# Time of a few rows over that of one, and the part of reading or multiplying, whichever takes longer.
few_table() {
  local name names='gemm_a8w2 gemm_a8w3 gemm_a8w4 gemm_a8w8 gemm_w2 gemm_w3 gemm_w4 gemm_w8'
  printf '\n### A few rows, groups of 128, %s: time over that of one row, part of reading (r) or multiplying (m)\n\n| rows | threads |' \
    "$(sed -n '2s/,.*//p' "$results/few.csv")"
  for name in $names; do printf ' `%s` |' "$name"; done
  printf '\n| ---: | ---: |%s\n' "$(for name in $names; do printf ' ---: |'; done)"
  awk -F, -v names="$names" '
    BEGIN { n = split(names, order, " ") }
    NR == 1 { next }
    $6 == 1 { one[$2, $7, $3] = $10; next }
    ($2, $7, $3) in one { key = $6 " | " $7; if (!(key in seen)) { seen[key] = 1; keys[++k] = key }
      cell[key, $3] = sprintf("%.2f, %.0f %% %s", $10 / one[$2, $7, $3], 100 * $15, $14 == "read" ? "r" : "m") }
    END { for (i = 1; i <= k; i++) { printf "| %s |", keys[i]
      for (j = 1; j <= n; j++) printf " %s |", cell[keys[i], order[j]]; print "" } }' "$results/few.csv"
}

kernel_table() {
  local packed='gemm_a8w2 gemm_a8w3 gemm_a8w4 gemm_a8w8 gemm_w2 gemm_w3 gemm_w4 gemm_w8'
  echo
  echo "Cells: 10⁹ weights a second, and the part of the limit that was probed before and behind each round."
  kernel_rows "One row, groups of 128: part of reading" g128 1 "$packed gemm_t3 linear_bf16"
  kernel_rows "One row, groups of 32: part of reading" g32 1 "$packed gemm_t3"
  kernel_rows "One row, the matrix in a cache: part of multiplying bytes" resident 1 "$packed gemm_t3"
  kernel_rows "$rows rows: part of multiplying" g128 "$rows" "$packed gemm_t3 linear_f32 linear_bf16 openblas_f32"
}

picture_table() {
  printf '\n### A picture of 384 x 384 in the shape of llava-ov-0.5b (two views), W3, %s threads\n\n' "$(nproc)"
  echo "| tower | stage | ms | slowest, fastest | of the limit |"
  echo "| ---: | --- | ---: | ---: | ---: |"
  awk -F, 'NR > 1 && $2 ~ /^(load|pixels|encode|prefill|decode)$/ {
    printf "| %s | %s | %.1f | %.2f, %.2f | %s |\n", $1, $2, 1000 * $9, $10, $11,
      $14 == "" ? "" : sprintf("%.0f %% of %s", 100 * $14, $13) }' "$results/picture.csv"
}

make_page() {
  grep -qF -- "$begin" "$page" && grep -qF -- "$end" "$page" || { echo "cpu.sh: $page has no '$begin' and '$end'" >&2; exit 1; }
  {
    sed "/$begin/q" "$page"
    printf '\n'
    cat "$results/machine.txt"
    [ ! -f "$results/models.csv" ] || model_table
    [ ! -f "$results/picture.csv" ] || picture_table
    [ ! -f "$results/kernels.csv" ] || kernel_table
    [ ! -f "$results/few.csv" ] || few_table
    printf '\n'
    sed -n "/$end/,\$p" "$page"
  } >"$page.new"
  mv "$page.new" "$page"
}

describe_machine() {
  local cpu
  cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
  echo "On $cpu ($("$ballast" bench --limits --repeats 1 --threads 1 -q | awk '$1 == "clock" { print $2 ", " $5 " GHz" }')), $(nproc) threads,"
  echo "$("$ballast" --version), $(date -u +%F). Medians of $repeats rounds (kernels, few rows, picture) and of the turns that are named (models, prompts"
  echo "of $prompt tokens, $tokens decoded, heads of $head bits); rounds and turns go over all rows before the next begins."
}

if [ -z "$table_only" ]; then
  mkdir -p "$results"
  describe_machine >"$results/machine.txt"
  for part in $parts; do "measure_$part"; done
fi
make_page
