#!/usr/bin/env bash
# Memory and time of quantizing a decoder as wide as a 7B, with random weights: how docs/scale.md was made.
#
#   scripts/scale_7b.sh [--layers N] [--samples N] [--recipe NAME] [--set KEY=VALUE ...]
#
# Needs 1 GB of disk for the checkpoint (two blocks) and about as much again for a run, in build/scale.
set -euo pipefail
. "$(dirname "$0")/common.sh"
layers=2 samples=128 recipe=ballast sets=()
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { sed -n '2,6p' "$0" >&2; exit 2; }
  case "$1" in
    --layers) layers=$2 ;;
    --samples) samples=$2 ;;
    --recipe) recipe=$2 ;;
    --set) sets+=("$2") ;;
    *) sed -n '2,6p' "$0" >&2; exit 2 ;;
  esac
  shift 2
done
cd "$root"
cmake --preset release >/dev/null
cmake --build build --target make_wide measure_quantize
mkdir -p "build/scale/model$layers"
[ -e "build/scale/model$layers/model.safetensors" ] ||
  build/tests/make_wide demo/model "build/scale/model$layers" "$layers"
build/tests/measure_quantize "build/scale/model$layers" build/scale/out.safetensors demo/data/calib.jsonl \
  "$samples" "$(nproc)" "$recipe" ${sets[@]+"${sets[@]}"}
