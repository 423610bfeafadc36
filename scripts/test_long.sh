#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The long tier of test.sh: every fuzz target under sanitizers (FUZZ_SECONDS each, default 300); all tests with
# AVX2's kernels and with scalar ones; kernels and a model on an emulated processor without AVX, which finds
# instructions that leaked past the dispatch; the server under load and driven by OpenAI's Python client; the page
# in Chromium and replicas behind nginx, where those are installed; pictures of any size in the shape of a
# published model.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"

# fuzz TARGET: what it prints is shown only with a finding, which is kept
fuzz() {
  local name work
  name=$(basename "$1")
  work=$(mktemp -d)
  if "$1" -max_total_time="${FUZZ_SECONDS:-300}" -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 \
    -artifact_prefix="$work/" "$work" "tests/fuzz/corpus/$name" >"$work.log" 2>&1; then
    echo "-- $name: no finding, $(sed -n 's/^stat::number_of_executed_units: *//p' "$work.log") runs"
    rm -rf "$work" "$work.log"
    return 0
  fi
  tail -n 40 "$work.log" >&2
  echo "$name: finding kept in $work" >&2
  return 1
}

say "fuzzing, ${FUZZ_SECONDS:-300} s per parser, $jobs at a time"
build fuzz
running=0
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT # a finding in one ends the others
for target in build-fuzz/tests/fuzz_*; do
  [ -x "$target" ] && [ ! -d "$target" ] || continue
  fuzz "$target" &
  running=$((running + 1))
  [ "$running" -lt "$jobs" ] || { wait -n; running=$((running - 1)); }
done
while [ "$running" -gt 0 ]; do
  wait -n
  running=$((running - 1))
done

say "all tests with AVX2's kernels, then with scalar ones"
for preset in avx2 portable; do
  build "$preset"
  ctest --test-dir "$root/$(preset_dir "$preset")" --output-on-failure --no-tests=error -j "$jobs"
done

say "an emulated processor without AVX"
install qemu-user
for name in test_kernels test_parity; do
  BALLAST_SOURCE_DIR=$root qemu-x86_64 -cpu Nehalem "build/tests/$name"
done

say "the server under load, and questions about one picture"
bench/serve.sh --seconds "${LOAD_SECONDS:-10}"

say "OpenAI's client, the page in a browser, replicas behind nginx"
if command -v python3 >/dev/null; then
  python3 tests/dev/check_openai.py
  python3 tests/dev/check_page.py
  python3 tests/dev/check_nginx.py
else
  echo "skipped: no python3 here"
fi

say "fifty questions through the CUDA kernels, on the host"
BALLAST_SOURCE_DIR=$root BALLAST_BINARY_DIR=$root/build bash tests/cli/test_cuda_run.sh 50

say "pictures of any size in the shape of a published model"
BALLAST_SOURCE_DIR=$root BALLAST_BINARY_DIR=$root/build bash tests/long/real_shapes.sh
