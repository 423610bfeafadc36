#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# The command with --device, its GPU played by the shim: the same answers as the CPU's from a float
# model and a packed one, and figures from bench that name the device.
#   usage: test_cuda_run.sh [QUESTIONS]     of the embedded model's set (2; the long tests take 50)
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
export BALLAST_CUDA_LIB=${BALLAST_CUDA_LIB:-$BALLAST_BINARY_DIR/tests/ballast_cuda_shim.so}
if [ ! -e "$BALLAST_CUDA_LIB" ]; then
    echo "skipped: this build has no shim (thread sanitizer)"
    exit 0
fi
questions=${1:-2}
gpu=${BALLAST_TEST_DEVICE:-cuda:0}
demo=$BALLAST_SOURCE_DIR/demo

answers() { grep -o '"said": *"[^"]*"' "$1"; }
eval_on() {
    "$ballast" eval "$2" --data "$demo/data/eval.jsonl" --limit "$questions" --json --rows \
        --device "$1" >"$3"
}
eval_on cpu "$demo/model" cpu.json
eval_on "$gpu" "$demo/model" cuda.json
answers cpu.json >cpu.txt
answers cuda.json >cuda.txt
holds [ "$(wc -l <cpu.txt)" = "$questions" ]
same cpu.txt cuda.txt "answers of CPU and device"

"$ballast" quantize "$golden/tiled/model" -o w3.safetensors --recipe rtn --set bits=3 --set group=32 \
    -q >/dev/null
for device in cpu "$gpu"; do
    "$ballast" run w3.safetensors -i "$golden/tiled/picture0_100x70.png" -p "What is it?" -n 6 \
        --device "$device" >"run-$device.txt"
done
holds [ -s run-cpu.txt ]
same run-cpu.txt "run-$gpu.txt" "answers of a packed file"

"$ballast" bench w3.safetensors --device "$gpu" --rows 3 --tokens 2 --picture none --repeats 2 --ctx 64 \
    --json >bench.json
holds grep -q '"name": "decode"' bench.json
holds [ "$(grep -c '"isa": "'"$gpu"'"' bench.json)" = 2 ]
# uploading takes long, so a model is loaded once
repeated() { awk -v name="\"$1\"" '/"name":/ { in_it = index($0, name) } in_it && /"fastest":/ { print ($2 + 0 > 1) }' bench.json; }
holds [ "$(repeated load)$(repeated first_token)$(repeated decode)" = 001 ]
refused 1 "cuda:777: this machine has .* cuda device" "$ballast" run w3.safetensors -p hi --device cuda:777
