#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Everything that wants a GPU, in one command: builds ballast_cuda.so for the card of this machine,
# checks its answers against the CPU's, measures reading, linears and whole models, and writes the
# CSVs of bench/results and the section of docs/benchmarks.md. Rows that are not there stay
# "not measured".
#   bench/gpu.sh [--device N] [--out DIR] [--docs FILE] [--only check|kernels|models|docs]
#                [--models "llava-ov-7b qwen2.5-0.5b"] [--shim]
# --shim plays the GPU on the host with tiny shapes: it proves this script, and its figures are
# nobody's; --out is then needed, and docs are written only where --docs says.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
device=0 out='' docs='' only='' shim='' models='llava-ov-7b qwen2.5-0.5b'
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift ;;
    --out) out=$2; shift ;;
    --docs) docs=$2; shift ;;
    --only) only=$2; shift ;;
    --models) models=$2; shift ;;
    --shim) shim=1 ;;
    *) sed -n '3,12p' "$0" >&2; exit 2 ;;
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
    --target ballast_cuda ballast_tool gpu_kernels test_cuda_model >>"$work/log" ||
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

# ---- The section of the documentation --------------------------------------------------------------

# field FILE CONDITION COLUMN FORMAT: a measured figure, or "not measured"
field() {
  local v=''
  [ ! -e "$1" ] || v=$(awk -F, "$2 { printf \"$4\", \$$3; exit }" "$1")
  echo "${v:-not measured}"
}

section() {
  local k=$out/gpu_kernels.csv m=$out/gpu_models.csv bits shape model
  echo "Made by \`bench/gpu.sh\` from \`bench/results/gpu_kernels.csv\` and \`gpu_models.csv\`, in one run."
  echo
  echo "Device: $(field "$k" '$1 == "read"' 2 %s). Reading: $(field "$k" '$1 == "read"' 10 '%.0f GB/s')."
  echo
  echo "Linears of decoding at one row, as a fraction of reading (W16: bf16 in the file, f16 on the device):"
  echo
  echo "| shape | W16 | W8 | W4 | W3 | W2 | W3 at 16 rows | W3 at 64 rows |"
  echo "|---|---|---|---|---|---|---|---|"
  for shape in "7b qkv" "7b o" "7b gate up" "7b down" "7b head" "0.5b qkv" "0.5b o" "0.5b gate up" "0.5b down"; do
    printf '| %s ' "$shape"
    for bits in 16 8 4 3 2; do
      printf '| %s ' "$(field "$k" "\$3 == \"$shape\" && \$4 == $bits && \$8 == 1" 11 %.2f)"
    done
    printf '| %s ' "$(field "$k" "\$3 == \"$shape\" && \$4 == 3 && \$8 == 16" 11 %.2f)"
    printf '| %s |\n' "$(field "$k" "\$3 == \"$shape\" && \$4 == 3 && \$8 == 64" 11 %.2f)"
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
  echo "cuBLAS, PyTorch and other engines in the same run: not measured."
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
if wanted docs && [ -n "$docs" ]; then say "$docs"; write_docs; fi
