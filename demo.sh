#!/usr/bin/env bash
# Builds Ballast and shows what it does on the embedded vision-language model.
#
#   ./demo.sh               a few minutes: answers from 3-bit weights, and a table of what each method lost
#   ./demo.sh --full        W4, W3 and W2, every recipe, all questions, 64 conversations; writes docs/results.md
#   ./demo.sh --json FILE   also writes the table as JSON rows
#   ./demo.sh --resume      goes on with a run that was stopped: with --full that saves up to half an hour
#   --samples N, --questions N, --easy-questions N   other amounts
set -euo pipefail
. "$(dirname "$0")/scripts/common.sh"
usage() { sed -n '2,8p' "$0" >&2; exit 2; }
args=()
full=
while [ $# -gt 0 ]; do
  case "$1" in
    --full) full=1 ;;
    --resume) args+=(--resume) ;;
    --json) [ $# -ge 2 ] || usage; args+=(--out-json "$(realpath -m "$2")"); shift ;;
    --samples | --questions | --easy-questions) [ $# -ge 2 ] || usage; args+=("$1" "$2"); shift ;;
    -h | --help) sed -n '2,8p' "$0"; exit 0 ;;
    *) usage ;;
  esac
  shift
done

install "${build_packages[@]}"
cd "$root"
say "building"
build release -DBALLAST_TESTS=OFF
if [ -z "$full" ]; then
  exec build/ballast demo "${args[@]}"
fi

# easy-VQA's published test split is third-party data: measured where it is present
easy=${BALLAST_TEST_DATA:-../shared/data}/easy_vqa
if [ -d "$easy" ]; then
  scripts/easy_vqa_to_jsonl.sh "$easy" build/easy_vqa_test.jsonl
  args+=(--easy-vqa build/easy_vqa_test.jsonl)
else
  echo "easy-VQA is not at $easy (set BALLAST_TEST_DATA): its column is left out"
fi
exec build/ballast demo --full --markdown docs/results.md "${args[@]}"
