#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Everything about speed on this CPU in one run: limits, matrix kernels beside them, models of published shapes from
# a prompt of 729 tokens to 64 decoded ones, and peers on models of the same shape, turn by turn. Keeps the figures in
# bench/results/*.csv and makes the part of docs/benchmarks.md between its marks of them. Nothing else should run.
#   bench/cpu.sh [--table]                             --table: only make the page of what is there
#     --peer NAME PROGRAM FILE.gguf SHAPE              llama-bench of llama.cpp or a relative of it; several times
#   MATRICES, SHAPES, BITS, HEAD, THREADS, ROWS, REPEATS, TURNS, PROMPT, TOKENS, ACTS in the environment; see below
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
repeats=${REPEATS:-7}
turns=${TURNS:-7}
prompt=${PROMPT:-729}
tokens=${TOKENS:-64}
begin='<!-- cpu: begin -->' end='<!-- cpu: end -->'
peers=() # NAME PROGRAM FILE SHAPE, four by four
table_only=
while [ $# -gt 0 ]; do
  case $1 in
    --table) table_only=1 ;;
    --peer)
      [ $# -ge 5 ] || { sed -n '3,9p' "$0" >&2; exit 2; }
      peers+=("$2" "$3" "$4" "$5")
      shift 4
      ;;
    *) sed -n '3,9p' "$0" >&2; exit 2 ;;
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

measure_kernels() {
  local m t
  echo "matrix,$fields" >"$results/kernels.csv"
  for m in $matrices; do
    for t in $threads; do
      "$ballast" bench --kernels --matrix "$m" --rows "$rows" --threads "$t" --repeats "$repeats" --json -q |
        json_rows | sed "s/^/$m,/" >>"$results/kernels.csv"
    done
  done
}

# One turn of a peer: prefill and decode in tokens/s, by the names of llama-bench's CSV header.
measure_peer() { # NAME PROGRAM FILE SHAPE TURN
  "$2" -m "$3" -p "$prompt" -n "$tokens" -t "$(nproc)" -r 1 -o csv 2>/dev/null |
    awk -F'","' -v name="$1" -v shape="$4" -v turn="$5" -v bytes="$(stat -c %s "$3")" '
      { gsub(/^"|"$/, "") } NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
      { print shape "," name "," bytes "," turn "," ($at["n_gen"] > 0 ? "decode" : "prefill") "," $at["avg_ts"] "," }' \
        >>"$results/models.csv"
}

measure_ours() { # SHAPE BITS ACT TURN
  local file=$work/$1-w$2$3.safetensors
  "$ballast" bench "$file" --picture none --rows "$prompt" --tokens "$tokens" --ctx $((prompt + tokens + 8)) --repeats 1 \
    --json -q | json_rows | awk -F, -v OFS=, -v shape="$1" -v name="ballast W$2 $3, head W$head" -v bytes="$(stat -c %s "$file")" \
    -v turn="$4" '$11 != "" && ($1 == "prefill" || $1 == "decode") { print shape, name, bytes, turn, $1, $11, $13 }' \
    >>"$results/models.csv"
}

measure_models() {
  local shape b act turn i
  echo "shape,engine,bytes,turn,stage,tokens_per_s,fraction" >"$results/models.csv"
  for shape in $shapes; do
    work=$(mktemp -d -p "${TMPDIR:-/tmp}")
    trap 'rm -rf "$work"' EXIT
    for b in $bits; do
      for act in $acts; do
        "$ballast" bench --shape "$shape" -b "$b" --head "$head" --act "$act" --picture none --rows 1 --tokens 1 --repeats 1 --keep "$work" -q >/dev/null
        mv "$work/$shape"-w*.safetensors "$work/kept" && mv "$work/kept" "$work/$shape-w$b$act.safetensors"
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

# Medians over turns with the slowest and the fastest turn over them, in the order of first appearance.
model_table() {
  sort -t, -k1,2 -k5,5 -k6,6g "$results/models.csv" | awk -F, '$4 + 0 { k = $1 "," $2 "," $5; v[k, ++n[k]] = $6; size[k] = $3
      if ($7 != "") share[k] = $7 }
    END { for (k in n) { m = v[k, int((n[k] + 1) / 2)]; split(k, p, ",")
      printf "%s,%s,%s,%.2f,%.2f,%.2f,%.0f,%s,%d\n", p[1], p[3], p[2], m, v[k, 1] / m, v[k, n[k]] / m, size[k] / 1048576, share[k], n[k] } }' |
    sort -t, -k1,1V -k2,2r -k4,4gr | awk -F, '
    { group = $1 " " $2 } group != last { last = group; printf "\n### %s, %s\n\n| engine | file MiB | tokens/s | slowest, fastest of %d | of the limit |\n| --- | ---: | ---: | ---: | ---: |\n", $1, $2, $9 }
    { printf "| %s | %s | %s | %s, %s | %s |\n", $3, $7, $4, $5, $6, $8 == "" ? "" : sprintf("%.0f %%", 100 * $8) }'
}

kernel_table() {
  awk -F, 'NR > 1 && $13 != "" { key = $1 "," $5 "," $6
      if (key != last) { last = key; printf "\n### %s, %s %s, %d %s\n\n| kernel | 10⁹ weights/s | GB/s | slowest, fastest | of the limit |\n| --- | ---: | ---: | ---: | ---: |\n", $1, $5, $5 == 1 ? "row" : "rows", $6, $6 == 1 ? "thread" : "threads" }
      printf "| `%s` | %.2f | %.2f | %.2f, %.2f | %.0f %% of %s |\n", $2, $7 / 1e9, $8 / 1e9, $10, $11, 100 * $14, $13 }' "$results/kernels.csv"
}

make_page() {
  grep -qF -- "$begin" "$page" && grep -qF -- "$end" "$page" || { echo "cpu.sh: $page has no '$begin' and '$end'" >&2; exit 1; }
  {
    sed "/$begin/q" "$page"
    printf '\n'
    cat "$results/machine.txt"
    [ ! -f "$results/models.csv" ] || model_table
    [ ! -f "$results/kernels.csv" ] || kernel_table
    printf '\n'
    sed -n "/$end/,\$p" "$page"
  } >"$page.new"
  mv "$page.new" "$page"
}

describe_machine() {
  local cpu
  cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)
  echo "On $cpu, $(nproc) threads, $("$ballast" --version), $(date -u +%F). Medians of $repeats rounds (kernels) and $turns turns"
  echo "(models, prompts of $prompt tokens, $tokens decoded); rounds and turns go over all rows before the next begins."
}

if [ -z "$table_only" ]; then
  mkdir -p "$results"
  describe_machine >"$results/machine.txt"
  measure_kernels
  measure_models
fi
make_page
