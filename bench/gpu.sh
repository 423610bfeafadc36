#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Everything that wants a GPU, in one command: builds ballast_cuda.so for the card of this machine,
# checks its answers against the CPU's, measures reading, linears and whole models, and writes the
# CSVs of bench/results and the section of docs/benchmarks.md. Rows that are not there stay
# "not measured".
#   bench/gpu.sh [--device N] [--out DIR] [--docs FILE] [--only check|kernels|models|peers|docs]
#                [--models "llava-ov-7b qwen2.5-0.5b"] [--bits "2 3 4 8 16 tower"] [--prebuilt DIR]
#                [--peer NAME PROGRAM FILE MODEL]... [--shim]
# --bits: formats of the decoders; tower is a picture through the vision tower. --prebuilt takes the programs of
# DIR, a build folder made elsewhere (docs/benchmarks.md), and compiles nothing.
# Peers: cuBLAS of the toolkit and PyTorch of $PYTHON (python3) where they are; --peer is llama-bench of llama.cpp
# or a relative of it on a file of that model's shape.
# Rows are in the CSVs as soon as they are measured. What fails is said, measuring goes on, and the exit status
# is 1 at the end.
# --shim plays the GPU on the host with tiny shapes: it proves this script, and its figures are
# nobody's; --out is then needed, and docs are written only where --docs says.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
usage() { sed -n '3,17p' "$0" >&2; exit 2; }
refuse() { echo "gpu.sh: $*" >&2; exit 1; }

device=0 out='' docs='' only='' shim='' prebuilt=''
models='llava-ov-7b qwen2.5-0.5b' formats='2 3 4 8 16 tower'
engines=() # NAME PROGRAM FILE MODEL, four by four
while [ $# -gt 0 ]; do
  case $1 in
    --shim) shim=1 ;;
    --peer)
      [ $# -ge 5 ] || usage
      engines+=("$2" "$3" "$4" "$5")
      shift 4
      ;;
    --device | --out | --docs | --only | --models | --bits | --prebuilt)
      [ $# -ge 2 ] || usage
      case $1 in
        --device) device=$2 ;;
        --out) out=$2 ;;
        --docs) docs=$2 ;;
        --only) only=$2 ;;
        --models) models=$2 ;;
        --bits) formats=$2 ;;
        --prebuilt) prebuilt=$2 ;;
      esac
      shift
      ;;
    *) usage ;;
  esac
  shift
done
case $only in '' | check | kernels | models | peers | docs) ;; *) usage ;; esac
case $device in '' | *[!0-9]*) refuse "--device '$device', expected a number" ;; esac
[ -n "${formats// /}" ] || refuse "--bits names no format"
for format in $formats; do
  case $format in 2 | 3 | 4 | 6 | 8 | 16 | tower) ;; *) refuse "--bits '$format', expected 2, 3, 4, 6, 8, 16 or tower" ;; esac
done
[ -z "$docs" ] || [ -e "$docs" ] || refuse "--docs $docs: there is no such file"
if [ -n "$shim" ]; then
  [ -n "$out" ] || { echo "gpu.sh: --shim needs --out" >&2; exit 2; }
  build=${BUILD:-$root/build}
  models=tiny
else
  out=${out:-$root/bench/results}
  docs=${docs:-$root/docs/benchmarks.md}
  build=${BUILD:-$root/build-gpu}
fi
if [ -n "$prebuilt" ]; then build=$(cd "$prebuilt" && pwd) || refuse "there is no folder $prebuilt"; fi
LIMIT=900 # seconds that a check or a format of a model may take
work=$(mktemp -d)
export TMPDIR=$work # what a program that was stopped leaves behind goes with it
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$out"
failed=() # sentences
tiny=()   # as gpu_kernels is told
[ -z "$shim" ] || tiny=(--tiny)
say() { printf '\n== %s\n' "$*"; }
fail() { echo "gpu.sh: $*" >&2; failed+=("$*"); }
limited() { timeout --foreground -k 10 "$LIMIT" "$@"; }
wanted() { [ -z "$only" ] || [ "$only" = "$1" ]; }
. "$root/bench/gpu_page.sh"

# ---- Build -----------------------------------------------------------------------------------------

# N as nvidia-smi and CUDA_VISIBLE_DEVICES count, where the latter shows some devices only
physical() {
  local seen
  IFS=, read -ra seen <<<"${CUDA_VISIBLE_DEVICES:-}"
  echo "${seen[device]:-$device}"
}

configure() { # CMAKE ARGUMENTS...
  local generator=()
  if [ ! -e "$build/CMakeCache.txt" ] && command -v ninja >/dev/null; then generator=(-G Ninja); fi
  cmake -S "$root" -B "$build" "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DBALLAST_CUDA=ON \
    -DBALLAST_CUDA_ARCHITECTURES="$architecture-real" "$@" >"$work/log" 2>&1
}

# What the last configure did not find, in a line.
lacking() {
  local names
  names=$(sed -n "s/.*No package '\([^']*\)' found.*/\1/p; s/.*Package '\([^']*\)',.* not found.*/\1/p
    s/.*Could NOT find \([^ ]*\).*/\1/p" "$work/log" | sort -u | paste -sd' ')
  echo "${names:-$(grep -A 3 'CMake Error' "$work/log" | tr -s '\n ' ' ' | cut -c1-300)}"
}

install_packages() {
  command -v apt-get >/dev/null || { echo "no apt-get here to install them"; return 1; }
  (. "$root/scripts/common.sh" && install "${build_packages[@]}" g++ libcmocka-dev)
}

# Everything; else without the tests; else what needs no library: the kernels alone. Sets targets.
choose_targets() {
  targets=(ballast_cuda gpu_kernels gpu_cublas ballast_tool test_cuda_model test_cuda_vision test_cuda_attend
    plain_device)
  configure -DBALLAST_CORE=OFF -DBALLAST_TESTS=ON && return
  echo "not found: $(lacking)"
  if install_packages && configure -DBALLAST_CORE=OFF -DBALLAST_TESTS=ON; then return; fi
  targets=(ballast_cuda gpu_kernels gpu_cublas ballast_tool)
  if configure -DBALLAST_CORE=OFF -DBALLAST_TESTS=OFF; then
    fail "the test programs are not built: the libraries for them are not here"
    return
  fi
  targets=(ballast_cuda gpu_kernels gpu_cublas)
  fail "ballast itself is not built, not found: $(lacking)"
  configure -DBALLAST_CORE=ON || refuse "cmake cannot configure anything: $(lacking)"
}

compile() {
  local architecture targets
  command -v nvidia-smi >/dev/null || refuse "this machine has no NVIDIA driver"
  command -v cmake >/dev/null || install_packages || refuse "no cmake here; --prebuilt needs none"
  command -v nvcc >/dev/null || [ -n "${CUDACXX:-}" ] || [ -x /usr/local/cuda/bin/nvcc ] ||
    refuse "no CUDA toolkit here (nvcc); --prebuilt needs none"
  architecture=$(nvidia-smi --id="$(physical)" --query-gpu=compute_cap --format=csv,noheader | tr -d ' .')
  [ "$architecture" != 90 ] || architecture=90a
  choose_targets
  cmake --build "$build" -j "$(nproc)" --target "${targets[@]}" >"$work/log" 2>&1 ||
    { tail -n 40 "$work/log" >&2; refuse "the build failed"; }
}

# Sets card, the device's name, and date: rows carry both.
find_device() {
  [ -z "$shim" ] || [ -n "$prebuilt" ] || BALLAST_CUDA_LIB=$build/tests/ballast_cuda_shim.so
  export BALLAST_CUDA_LIB=${BALLAST_CUDA_LIB:-$build/ballast_cuda.so}
  card=$("$build/gpu_kernels" --name "$device") || refuse "cuda:$device is not reached from $build"
  date=$(date -u +%F)
}

if [ "$only" != docs ]; then
  unset BALLAST_CUDA_LIB
  [ -n "$shim$prebuilt" ] || { say "building in $build"; compile; }
  find_device
fi

# ---- Rows ------------------------------------------------------------------------------------------

# keep FILE HEADER KEY: rows of stdin in the place of those that begin with KEY, and of another device's, in one step
keep() {
  {
    echo "$2,device,date"
    [ ! -e "$1" ] || awk -F, -v key="$3," -v device="$card" \
      'NR > 1 && index($0, key) != 1 && $(NF - 1) == device' "$1"
    awk -v OFS=, -v device="$card" -v date="$date" '{ print $0, device, date }'
  } >"$1.new"
  mv "$1.new" "$1"
}

# stream FILE: lines of stdin, a header and rows, as they come; what was in FILE goes when the first row is there
stream() {
  awk -v OFS=, -v file="$1" -v device="$card" -v date="$date" '
    NR == 1 { head = $0; next }
    NR == 2 { print head, "device", "date" >file }
    { print $0, device, date >file; fflush(file) }'
}

# ---- Answers ---------------------------------------------------------------------------------------

check() { # NAME COMMAND...
  local name=$1 result=passed
  shift
  limited "$@" || { result=failed; fail "check $name failed"; }
  echo "$name,$result" | keep "$out/gpu_checks.csv" check,result "$name"
}

sanitize() {
  local tool=${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer kind
  if [ -n "$shim" ] || [ ! -x "$tool" ]; then
    echo "skipped: no compute-sanitizer here"
    return 0
  fi
  for kind in memcheck racecheck; do
    check "$kind" "$tool" --tool "$kind" --error-exitcode 1 "$build/gpu_kernels" --tiny "$device"
    [ ! -x "$build/tests/test_cuda_attend" ] || [ ! -e "$build/tests/plain_device.so" ] ||
      check "$kind of attention" "$tool" --tool "$kind" --error-exitcode 1 "$build/tests/test_cuda_attend"
  done
}

has_ballast() {
  "$build/ballast" --version >/dev/null 2>"$work/why" && return
  fail "no ballast in $build that starts: $(tail -n 1 "$work/why")"
  return 1
}

checks() {
  local test
  export BALLAST_SOURCE_DIR=$root BALLAST_BINARY_DIR=$build BALLAST_TEST_DEVICE=cuda:$device
  for test in test_cuda_model test_cuda_vision test_cuda_attend; do
    if [ ! -x "$build/tests/$test" ]; then
      echo "skipped: no $test in $build/tests"
    elif [ "$test" = test_cuda_attend ] && [ ! -e "$build/tests/plain_device.so" ]; then
      echo "skipped: $test has nothing to compare with, no plain_device.so in $build/tests"
    else
      check "$test" "$build/tests/$test"
    fi
  done
  ! has_ballast || check test_cuda_run bash "$root/tests/cli/test_cuda_run.sh" "$([ -n "$shim" ] && echo 1 || echo 50)"
  sanitize
}

# ---- Kernels ---------------------------------------------------------------------------------------

measure_kernels() {
  local status=0
  timeout --foreground -k 10 $((4 * LIMIT)) "$build/gpu_kernels" "${tiny[@]}" "$device" |
    stream "$out/gpu_kernels.csv" || { status=("${PIPESTATUS[@]}"); status=$((status[0] ? status[0] : status[1])); }
  case $status in
    0) ;;
    4) fail "outputs of linears are out of their bounds (column worst of gpu_kernels.csv)" ;;
    *) fail "gpu_kernels ended with status $status" ;;
  esac
}

# ---- Models ----------------------------------------------------------------------------------------

# rows MODEL FORMAT: from the JSON of ballast bench, what ran on the device, as CSV
rows() {
  awk -v model="$1" -v bits="$2" -v read_gb="$(read_rate)" '
    function value(s) { sub(/^[^:]*: */, "", s); gsub(/[",]/, "", s); return s }
    /"name":/ { name = value($0) }
    /"isa":/ { isa = value($0) }
    /"rows":/ && !/\[/ { n = value($0) }
    /"products_per_s":/ { products = value($0) }
    /"bytes_per_s":/ { bytes = value($0) }
    /"seconds":/ { seconds = value($0) }
    /"tokens_per_s":/ { tokens = value($0) }
    /}/ && isa ~ /^cuda/ {
      if ((name == "encode") == (bits == "tower")) {
        part = name == "decode" && read_gb > 0 ? bytes / 1e9 / read_gb : ""
        printf "%s,%s,%s,%d,%.6f,%.2f,%.2f,%.2f,%s\n", model, bits, name, n, seconds, tokens, bytes / 1e9,
               2 * products / 1e12, part
      }
      isa = ""
    }'
}

# gigabytes a second that were read from this device
read_rate() {
  [ ! -e "$out/gpu_kernels.csv" ] ||
    awk -F, -v device="$card" '$1 == "read" && $(NF - 1) == device { print $9 }' "$out/gpu_kernels.csv"
}

has_tower() { [ "$1" = tiny ] || grep -qs '"vision_config"' "$root/shapes/$1.json" "$1"; }

bench_format() { # MODEL FORMAT: its JSON
  local file=$root/tests/golden/tiled/model size=(--rows 1024 --tokens 128 --picture none)
  local flags=(--device "cuda:$device" --json --quiet)
  [ "$2" != tower ] || size=(--rows 16 --tokens 1 --picture "$PICTURE" --tower 16)
  if [ "$1" != tiny ]; then
    limited "$build/ballast" bench --shape "$1" --bits "${2/tower/3}" "${size[@]}" --ctx 2048 --repeats 7 \
      "${flags[@]}"
    return
  fi
  if [ "$2" -lt 16 ] 2>/dev/null; then
    "$build/ballast" quantize "$file" -o "$work/w$2" --recipe rtn --set "bits=$2" --quiet >/dev/null || return
    file=$work/w$2
  fi
  limited "$build/ballast" bench "$file" --rows 3 --tokens 2 --ctx 64 --repeats 1 \
    --picture "$([ "$2" = tower ] && echo 50x40 || echo none)" "${flags[@]}"
}

measure_models() {
  local model format head="model,bits,row,rows,seconds,tokens_per_s,gb_per_s,tflop_per_s,fraction_of_read"
  has_ballast || return 0
  for model in $models; do
    for format in $formats; do
      [ "$format" != tower ] || has_tower "$model" || continue
      if bench_format "$model" "$format" >"$work/json" 2>"$work/why"; then
        rows "$model" "$format" <"$work/json"
      else
        fail "$model at $format failed: $(tail -n 1 "$work/why")"
        echo "$model,$format,failed,,,,,,"
      fi >"$work/rows"
      keep "$out/gpu_models.csv" "$head" "$model,$format" <"$work/rows"
      cat "$work/rows"
    done
  done
}

# ---- Peers -----------------------------------------------------------------------------------------

# linear_peer NAME COMMAND...: what it prints, as rows of the CSV; a sentence where it cannot be measured
linear_peer() {
  local peer=$1 rows='not measured'
  shift
  if ! "$@" >"$work/peer" 2>"$work/why"; then
    [ ! -s "$work/peer" ] || rows='not measured to the end'
    echo "$peer: $rows: $(tail -n 1 "$work/why")"
  fi
  awk -F, -v peer="$peer" -v read_gb="$(read_rate)" \
    '{ printf "%s,%s,%s\n", peer, $0, (read_gb > 0 ? sprintf("%.4f", $6 / read_gb) : "") }' "$work/peer" |
    keep "$out/gpu_peers.csv" "peer,shape,n,k,rows,us,gb_per_s,tflop_per_s,fraction" "$peer"
}

# name:n:k:gated of every shape that was measured
measured_shapes() {
  awk -F, '$1 == "linear" && !seen[$2]++ { print $2 ":" $5 ":" $6 ":" ($2 ~ /gate up/) }' "$out/gpu_kernels.csv" 2>/dev/null
}

measure_engine() { # NAME PROGRAM FILE MODEL
  CUDA_VISIBLE_DEVICES=$(physical) "$2" -m "$3" -p 1024 -n 128 -ngl 999 -r 7 -o csv >"$work/peer" 2>"$work/why" ||
    { echo "$1: not measured: $(tail -n 1 "$work/why")"; return; }
  awk -F'","' -v OFS=, -v name="$1" -v model="$4" -v bytes="$(stat -c %s "$3")" '
    { gsub(/^"|"$/, "") } NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
    { print name, model, bytes, ($at["n_gen"] > 0 ? "decode" : "prefill"), $at["avg_ts"] }' "$work/peer" |
    keep "$out/gpu_engines.csv" "engine,model,bytes,row,tokens_per_s" "$1,$4"
}

measure_peers() {
  local shapes i
  mapfile -t shapes < <(measured_shapes)
  linear_peer cuBLAS "$build/gpu_cublas" "${tiny[@]}" "$device"
  linear_peer PyTorch "${PYTHON:-python3}" "$root/bench/gpu_torch.py" "$device" "${shapes[@]}" 1 2 4 8 16 32 64 256 1024
  for ((i = 0; i < ${#engines[@]}; i += 4)); do measure_engine "${engines[@]:i:4}"; done
}

# ---- All of it -------------------------------------------------------------------------------------

if wanted check; then say "answers beside the CPU's"; checks; fi
if wanted kernels; then say "reading and linears"; measure_kernels; fi
if wanted models; then say "whole models"; measure_models; fi
if wanted peers; then say "peers"; measure_peers; fi
if wanted docs && [ -n "$docs" ]; then say "$docs"; write_docs; fi
[ ${#failed[@]} -eq 0 ] || { say "not all of it"; printf '%s\n' "${failed[@]}"; exit 1; }
