#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Everything that wants a GPU, in one command: builds ballast_cuda.so for the card of this machine,
# checks its answers against the CPU's, measures reading, linears and whole models, and writes the
# CSVs of bench/results and the section of docs/benchmarks.md. Rows that are not there stay
# "not measured".
#   bench/gpu.sh [--device N] [--out DIR] [--docs FILE] [--only check|kernels|models|peers|docs]
#                [--models "llava-ov-7b qwen2.5-0.5b"] [--peer NAME PROGRAM FILE MODEL]... [--shim]
# Peers: cuBLAS of the toolkit and PyTorch of $PYTHON (python3) where they are; --peer is llama-bench of llama.cpp
# or a relative of it on a file of that model's shape.
# --shim plays the GPU on the host with tiny shapes: it proves this script, and its figures are
# nobody's; --out is then needed, and docs are written only where --docs says.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
device=0 out='' docs='' only='' shim='' models='llava-ov-7b qwen2.5-0.5b'
engines=() # NAME PROGRAM FILE MODEL, four by four
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift ;;
    --out) out=$2; shift ;;
    --docs) docs=$2; shift ;;
    --only) only=$2; shift ;;
    --models) models=$2; shift ;;
    --peer)
      [ $# -ge 5 ] || { sed -n '3,14p' "$0" >&2; exit 2; }
      engines+=("$2" "$3" "$4" "$5")
      shift 4
      ;;
    --shim) shim=1 ;;
    *) sed -n '3,14p' "$0" >&2; exit 2 ;;
  esac
  shift
done
if [ -n "$shim" ]; then
  [ -n "$out" ] || { echo "gpu.sh: --shim needs --out" >&2; exit 2; }
  build=${BUILD:-$root/build}
  models=tiny
else
  out=${out:-$root/bench/results}
  docs=${docs:-$root/docs/benchmarks.md}
  build=${BUILD:-$root/build-gpu}
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
say() { printf '\n== %s\n' "$*"; }
wanted() { [ -z "$only" ] || [ "$only" = "$1" ]; }

# ---- Build -----------------------------------------------------------------------------------------

compile() {
  command -v nvidia-smi >/dev/null || { echo "gpu.sh: this machine has no NVIDIA driver" >&2; exit 1; }
  local cap
  cap=$(nvidia-smi --id="$device" --query-gpu=compute_cap --format=csv,noheader | tr -d ' .')
  [ "$cap" != 90 ] || cap=90a
  . "$root/scripts/common.sh"
  install "${build_packages[@]}" g++ libcmocka-dev
  cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBALLAST_CUDA=ON \
    -DBALLAST_CUDA_ARCHITECTURES="$cap-real" >"$work/log"
  cmake --build "$build" -j "$(nproc)" \
    --target ballast_cuda ballast_tool gpu_kernels gpu_cublas test_cuda_model >>"$work/log" ||
    { tail -n 40 "$work/log" >&2; exit 1; }
}

if [ -n "$shim" ]; then
  export BALLAST_CUDA_LIB=$build/tests/ballast_cuda_shim.so
else
  [ "$only" = docs ] || { say "building in $build"; compile; }
  export BALLAST_CUDA_LIB=$build/ballast_cuda.so
fi

# ---- Answers ---------------------------------------------------------------------------------------

sanitize() {
  local tool=${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer kind
  if [ -n "$shim" ] || [ ! -x "$tool" ]; then
    echo "skipped: no compute-sanitizer here"
    return 0
  fi
  for kind in memcheck racecheck; do
    "$tool" --tool "$kind" --error-exitcode 1 "$build/gpu_kernels" --tiny "$device" >"$work/$kind" 2>&1 ||
      { tail -n 20 "$work/$kind" >&2; exit 1; }
    echo "$kind: silent"
  done
}

check() {
  export BALLAST_SOURCE_DIR=$root BALLAST_BINARY_DIR=$build
  "$build/tests/test_cuda_model"
  bash "$root/tests/cli/test_cuda_run.sh" "$([ -n "$shim" ] && echo 1 || echo 50)"
  sanitize
}

# ---- Models ----------------------------------------------------------------------------------------

# rows MODEL BITS: from the JSON of ballast bench, what ran on the device, as CSV
rows() {
  awk -v model="$1" -v bits="$2" -v read_gb="$(read_rate)" '
    function value(s) { sub(/^[^:]*: */, "", s); gsub(/[",]/, "", s); return s }
    /"name":/ { name = value($0) }
    /"isa":/ { isa = value($0) }
    /"rows":/ && !/\[/ { n = value($0) }
    /"weights_per_s":/ { weights = value($0) }
    /"bytes_per_s":/ { bytes = value($0) }
    /"seconds":/ { seconds = value($0) }
    /"tokens_per_s":/ { tokens = value($0) }
    /}/ && isa ~ /^cuda/ {
      part = name == "decode" && read_gb > 0 ? bytes / 1e9 / read_gb : ""
      printf "%s,%s,%s,%d,%.6f,%.2f,%.2f,%.2f,%s\n", model, bits, name, n, seconds, tokens, bytes / 1e9,
             2 * weights * n / 1e12, part
      isa = ""
    }'
}

# gigabytes a second that were read in this run
read_rate() { awk -F, '$1 == "read" { print $10 }' "$out/gpu_kernels.csv" 2>/dev/null || echo 0; }

measure() {
  local model bits flags=(--device "cuda:$device" --picture none --json --quiet)
  echo "model,bits,row,rows,seconds,tokens_per_s,gb_per_s,tflop_per_s,fraction_of_read" >"$work/models.csv"
  for model in $models; do
    for bits in 16 8 4 3 2; do
      if [ "$model" = tiny ]; then
        [ "$bits" = 16 ] || "$build/ballast" quantize "$root/tests/golden/tiled/model" -o "$work/w$bits" \
          --recipe rtn --set "bits=$bits" --quiet >/dev/null
        "$build/ballast" bench "$([ "$bits" = 16 ] && echo "$root/tests/golden/tiled/model" || echo "$work/w$bits")" \
          --rows 3 --tokens 2 --ctx 64 --repeats 1 "${flags[@]}"
      else
        "$build/ballast" bench --shape "$model" --bits "$bits" --rows 1024 --tokens 128 --ctx 2048 \
          --repeats 7 "${flags[@]}"
      fi | rows "$model" "$bits" >>"$work/models.csv"
    done
  done
  mv "$work/models.csv" "$out/gpu_models.csv"
}

# ---- Peers -----------------------------------------------------------------------------------------

# linear_peer NAME COMMAND...: what it prints, as rows of the CSV; a sentence where it cannot be measured
linear_peer() {
  local name=$1
  shift
  if "$@" >"$work/peer" 2>"$work/why"; then
    awk -F, -v name="$name" -v read_gb="$(read_rate)" \
      '{ printf "%s,%s,%s\n", name, $0, (read_gb > 0 ? sprintf("%.4f", $6 / read_gb) : "") }' "$work/peer" \
      >>"$work/peers.csv"
  else
    echo "$name: not measured: $(tail -n 1 "$work/why")"
  fi
}

# name:n:k:gated of every shape that was measured
measured_shapes() {
  awk -F, '$1 == "linear" && !seen[$3]++ { print $3 ":" $6 ":" $7 ":" ($3 ~ /gate up/) }' "$out/gpu_kernels.csv" 2>/dev/null
}

measure_engine() { # NAME PROGRAM FILE MODEL
  if CUDA_VISIBLE_DEVICES=$device "$2" -m "$3" -p 1024 -n 128 -ngl 999 -r 7 -o csv >"$work/peer" 2>"$work/why"; then
    awk -F'","' -v OFS=, -v name="$1" -v model="$4" -v bytes="$(stat -c %s "$3")" '
      { gsub(/^"|"$/, "") } NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
      { print name, model, bytes, ($at["n_gen"] > 0 ? "decode" : "prefill"), $at["avg_ts"] }' "$work/peer" \
      >>"$work/engines.csv"
  else
    echo "$1: not measured: $(tail -n 1 "$work/why")"
  fi
}

peers() {
  local shapes i
  mapfile -t shapes < <(measured_shapes)
  echo "peer,shape,n,k,rows,us,gb_per_s,tflop_per_s,fraction" >"$work/peers.csv"
  linear_peer cuBLAS "$build/gpu_cublas" $([ -z "$shim" ] || echo --tiny) "$device"
  linear_peer PyTorch "${PYTHON:-python3}" "$root/bench/gpu_torch.py" "$device" "${shapes[@]}" 1 2 4 8 16 32 64 256 1024
  mv "$work/peers.csv" "$out/gpu_peers.csv"
  echo "engine,model,bytes,row,tokens_per_s" >"$work/engines.csv"
  for ((i = 0; i < ${#engines[@]}; i += 4)); do measure_engine "${engines[@]:i:4}"; done
  mv "$work/engines.csv" "$out/gpu_engines.csv"
}

# ---- The section of the documentation --------------------------------------------------------------

# field FILE CONDITION COLUMN FORMAT: a measured figure, or "not measured"; COLUMN a number or an expression of awk
field() {
  local v=''
  local column=$3
  [[ $column == *[!0-9]* ]] || column="\$$column"
  [ ! -e "$1" ] || v=$(awk -F, "$2 { printf \"$4\", $column; exit }" "$1")
  echo "${v:-not measured}"
}

# speed SHAPE WHAT BITS: TFLOP/s of 1,024 rows
speed() {
  field "$out/gpu_kernels.csv" "\$1 == \"$2\" && \$3 == \"$1\" && \$4 == $3 && \$8 == 1024" \
    "(\$3 ~ /gate up/ ? 4 : 2) * \$6 * \$7 * \$8 / \$9 / 1e6" %.1f
}

engine_table() {
  if [ "$(wc -l 2>/dev/null <"$out/gpu_engines.csv" || echo 0)" -lt 2 ]; then
    echo "Other engines in the same run: not measured."
    return
  fi
  echo "Other engines in the same run, llama-bench of each, as long a prompt and answer:"
  echo
  echo "| model | engine | file, MiB | decode, tokens/s | prefill, tokens/s |"
  echo "|---|---|---|---|---|"
  awk -F, 'NR > 1 { key = $2 " | " $1 " | " int($3 / 1048576); if (!(key in seen)) order[++n] = key; seen[key]; v[key, $4] = $5 }
    function of(key, row) { return (key, row) in v ? sprintf("%.1f", v[key, row]) : "not measured" }
    END { for (i = 1; i <= n; i++) print "| " order[i] " | " of(order[i], "decode") " | " of(order[i], "prefill") " |" }' \
    "$out/gpu_engines.csv"
}

section() {
  local k=$out/gpu_kernels.csv m=$out/gpu_models.csv p=$out/gpu_peers.csv bits shape model peer
  local shapes=("7b qkv" "7b o" "7b gate up" "7b down" "7b head" "0.5b qkv" "0.5b o" "0.5b gate up" "0.5b down")
  echo "Made by \`bench/gpu.sh\` from \`bench/results/gpu_*.csv\`, in one run."
  echo
  echo "Device: $(field "$k" '$1 == "read"' 2 %s). Reading: $(field "$k" '$1 == "read"' 10 '%.0f GB/s')."
  echo
  echo "Linears of decoding at one row, as a fraction of reading (W16: bf16 in the file, f16 on the device; A8: 8-bit"
  echo "activations; cuBLAS and PyTorch: bf16):"
  echo
  echo "| shape | W16 | W8 | W4 | W3 | W2 | W8A8 | W4A8 | W3 at 16 rows | W3 at 64 rows | cuBLAS | PyTorch |"
  echo "|---|---|---|---|---|---|---|---|---|---|---|---|"
  for shape in "${shapes[@]}"; do
    printf '| %s ' "$shape"
    for bits in 16 8 4 3 2; do
      printf '| %s ' "$(field "$k" "\$1 == \"linear\" && \$3 == \"$shape\" && \$4 == $bits && \$8 == 1" 11 %.2f)"
    done
    for bits in 8 4; do
      printf '| %s ' "$(field "$k" "\$1 == \"linear a8\" && \$3 == \"$shape\" && \$4 == $bits && \$8 == 1" 11 %.2f)"
    done
    printf '| %s ' "$(field "$k" "\$1 == \"linear\" && \$3 == \"$shape\" && \$4 == 3 && \$8 == 16" 11 %.2f)"
    printf '| %s ' "$(field "$k" "\$1 == \"linear\" && \$3 == \"$shape\" && \$4 == 3 && \$8 == 64" 11 %.2f)"
    for peer in cuBLAS PyTorch; do
      printf '| %s ' "$(field "$p" "\$1 == \"$peer\" && \$2 == \"$shape\" && \$5 == 1" 9 %.2f)"
    done
    echo '|'
  done
  echo
  echo "Products of 1,024 rows, as in prompts, in TFLOP/s. What dequantizing to bf16 in front of a dense product could reach is cuBLAS's column, less the"
  echo "time of writing and reading the weights at 16 bits:"
  echo
  echo "| shape | W16 | W8 | W4 | W3 | W2 | W8A8 | W4A8 | cuBLAS | PyTorch |"
  echo "|---|---|---|---|---|---|---|---|---|---|"
  for shape in "${shapes[@]}"; do
    [ "$shape" != "7b head" ] || continue
    printf '| %s ' "$shape"
    for bits in 16 8 4 3 2; do printf '| %s ' "$(speed "$shape" linear "$bits")"; done
    for bits in 8 4; do printf '| %s ' "$(speed "$shape" "linear a8" "$bits")"; done
    for peer in cuBLAS PyTorch; do
      printf '| %s ' "$(field "$p" "\$1 == \"$peer\" && \$2 == \"$shape\" && \$5 == 1024" 8 %.1f)"
    done
    echo '|'
  done
  echo
  echo "Whole decoders, group 128, a prompt of 1,024 tokens and 128 behind it:"
  echo
  echo "| model | bits | decode, tokens/s | of reading | prefill, tokens/s | prefill, TFLOP/s |"
  echo "|---|---|---|---|---|---|"
  for model in $models; do
    for bits in 16 8 4 3 2; do
      local is="\$1 == \"$model\" && \$2 == $bits"
      printf '| %s | %s | %s | %s | %s | %s |\n' "$model" "$bits" \
        "$(field "$m" "$is && \$3 == \"decode\"" 6 %.1f)" "$(field "$m" "$is && \$3 == \"decode\"" 9 %.2f)" \
        "$(field "$m" "$is && \$3 == \"prefill\"" 6 %.0f)" "$(field "$m" "$is && \$3 == \"prefill\"" 8 %.1f)"
    done
  done
  echo
  engine_table
}

# Between the two markers of the file.
write_docs() {
  section >"$work/section"
  grep -q '<!-- gpu: begin -->' "$docs" && grep -q '<!-- gpu: end -->' "$docs" ||
    { echo "gpu.sh: $docs has no markers of this section" >&2; exit 1; }
  awk -v new="$work/section" '
    /<!-- gpu: end -->/ { inside = 0 }
    !inside
    /<!-- gpu: begin -->/ { inside = 1; while ((getline line < new) > 0) print line }' "$docs" >"$work/docs"
  cat "$work/docs" >"$docs"
}

if wanted check; then say "answers beside the CPU's"; check; fi
if wanted kernels; then
  say "reading and linears"
  "$build/gpu_kernels" $([ -z "$shim" ] || echo --tiny) "$device" >"$work/kernels.csv"
  mv "$work/kernels.csv" "$out/gpu_kernels.csv"
fi
if wanted models; then say "whole models"; measure; fi
if wanted peers; then say "peers"; peers; fi
if wanted docs && [ -n "$docs" ]; then say "$docs"; write_docs; fi
