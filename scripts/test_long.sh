#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The long tier of test.sh: every fuzz target under sanitizers (FUZZ_SECONDS each, default 300), and the release
# tests on an emulated processor without AVX, which finds instructions that leaked past the dispatch.
set -euo pipefail
. "$(dirname "$0")/common.sh"
cd "$root"

say "fuzzing, ${FUZZ_SECONDS:-300} s per parser"
build fuzz
for target in build-fuzz/tests/fuzz_*; do
  [ -x "$target" ] && [ ! -d "$target" ] || continue
  name=$(basename "$target")
  work=$(mktemp -d)
  echo "-- $name"
  "$target" -max_total_time="${FUZZ_SECONDS:-300}" -rss_limit_mb=4096 -timeout=20 -print_final_stats=0 \
    -artifact_prefix="$work/" "$work" "tests/fuzz/corpus/$name" >"$work.log" 2>&1 || {
    tail -n 40 "$work.log" >&2
    echo "finding kept in $work" >&2
    exit 1
  }
  rm -rf "$work" "$work.log"
done

say "an emulated processor without AVX"
install qemu-user
for name in test_kernels test_parity; do
  BALLAST_SOURCE_DIR=$root qemu-x86_64 -cpu Nehalem "build/tests/$name"
done
