#!/usr/bin/env bash
# Memory and time of quantizing a decoder as wide as a 7B, with random weights: how docs/scale.md was made.
#
#   scripts/scale_7b.sh [--layers N] [--samples N] [--recipe NAME] [--set KEY=VALUE ...]
#   scripts/scale_7b.sh --same [...]    instead: one run of two threads, one killed after its first block and
#                                       resumed, and two ranks of one thread under mpirun must make the same file;
#                                       prints the seconds of each
#
# Needs 1 GB of disk for the checkpoint (two blocks), half as much for a file, and 4.4 GB for intermediate data of 128
# conversations, in build/scale.
set -euo pipefail
. "$(dirname "$0")/common.sh"
layers=2 samples=128 recipe=ballast sets=() same=
usage() { sed -n '2,10p' "$0" >&2; exit 2; }
while [ $# -gt 0 ]; do
  if [ "$1" = --same ]; then
    same=1
    shift
    continue
  fi
  [ $# -ge 2 ] || usage
  case "$1" in
    --layers) layers=$2 ;;
    --samples) samples=$2 ;;
    --recipe) recipe=$2 ;;
    --set) sets+=("$2") ;;
    *) usage ;;
  esac
  shift 2
done
cd "$root"
cmake --preset release -DBALLAST_TESTS=ON >/dev/null
cmake --build build --target make_wide measure_quantize ballast_tool
work=build/scale model=build/scale/model$layers
mkdir -p "$work"
if [ ! -e "$model/model.safetensors" ]; then # whole or not at all
  mkdir -p "$model.half"
  build/tests/make_wide demo/model "$model.half" "$layers"
  mv -T "$model.half" "$model"
fi
if [ -z "$same" ]; then
  exec build/tests/measure_quantize "$model" "$work/out.safetensors" demo/data/calib.jsonl "$samples" "$(nproc)" \
    "$recipe" ${sets[@]+"${sets[@]}"}
fi

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
  OMPI_MCA_btl=self,vader,tcp OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo \
  OMPI_MCA_hwloc_base_binding_policy=none
arguments=(--calib demo/data/calib.jsonl --samples "$samples" --recipe "$recipe" --quiet)
for s in ${sets[@]+"${sets[@]}"}; do arguments+=(--set "$s"); done

timed() { # NAME COMMAND...
  local start=$SECONDS
  "${@:2}" </dev/null >/dev/null
  echo "$1: $((SECONDS - start)) s"
}

quantize=(build/ballast quantize "$model" "${arguments[@]}" --threads 2)
rm -rf "$work"/{one,resumed,ranks}.safetensors{,.partial}
timed "one process, 2 threads" "${quantize[@]}" -o "$work/one.safetensors"

"${quantize[@]}" -o "$work/resumed.safetensors" </dev/null >/dev/null 2>&1 &
victim=$!
until [ -e "$work/resumed.safetensors.partial/block_000.json" ]; do
  kill -0 "$victim"
  sleep 0.2
done
sleep 5 # into the second block
kill -9 "$victim"
wait "$victim" || true
[ ! -e "$work/resumed.safetensors" ]
timed "killed after its first block, the rest" "${quantize[@]}" -o "$work/resumed.safetensors" --resume

timed "two ranks of 1 thread" mpirun -n 2 build/ballast quantize "$model" "${arguments[@]}" --threads 1 \
  -o "$work/ranks.safetensors"
for file in resumed ranks; do cmp "$work/one.safetensors" "$work/$file.safetensors"; done
echo "the same bytes: $(sha256sum <"$work/one.safetensors" | cut -c1-16)"
