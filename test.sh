#!/usr/bin/env bash
# Builds Ballast and runs its tests.
#
#   ./test.sh          the quick tier: under 25 minutes on two cores with the build
#   ./test.sh --all    adds five minutes of fuzzing per parser, all tests with lesser kernels, an emulated old processor and real shapes
#
# Third-party test data is looked for in $BALLAST_TEST_DATA, by default ../shared/data; tests that need it
# are skipped with a line when it is absent. The kernels for AArch64 are checked where their cross compiler
# and emulator are installed, which --all sees to.
set -euo pipefail
. "$(dirname "$0")/scripts/common.sh"
all=
case "${1:-}" in
  '') ;;
  --all) all=1 ;;
  -h | --help) sed -n '2,10p' "$0"; exit 0 ;;
  *) sed -n '2,10p' "$0" >&2; exit 2 ;;
esac
start=$SECONDS

# run PRESET [ctest arguments]
run() {
  local dir
  dir=$root/$(preset_dir "$1")
  shift
  ctest --test-dir "$dir" --output-on-failure --no-tests=error -j "$jobs" "$@"
}

install "${build_packages[@]}" "${test_packages[@]}"
cd "$root"

say "format"
find include src tools tests bench \( -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' \) -print0 | xargs -0 clang-format --dry-run -Werror

say "gcc, release, all tests"
build release
run release

say "clang, release: kernels, parity, quantization"
build clang
run clang -R 'kernels|parity|oracle|gradients|quant'

say "address and undefined-behaviour sanitizers"
build asan
run asan -E 'cuda_run|gpu_bench|test_bench$|test_demo' # commands around what other tests run here

say "thread sanitizer"
targets='test_pool test_session test_parity' build tsan
run tsan -R '^test_(pool|session|parity)$'

say "portable build: scalar kernels only"
targets='test_kernels test_parity test_packed test_packed_logits test_packed_twin test_session' build portable
run portable -R '^test_(kernels|parity|packed.*|session)$'

say "AArch64: kernels under emulation"
[ -z "$all" ] || install "${cross_packages[@]}"
if command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null; then
  build aarch64
  run aarch64
else
  echo "skipped: needs ${cross_packages[*]} (250 MB, which --all installs)"
fi

if [ -n "$all" ]; then
  "$root/scripts/test_long.sh"
fi
say "done in $((SECONDS - start)) s"
