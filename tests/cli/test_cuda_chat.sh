#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ballast chat with --device, its GPU played by the shim: turns with a picture, cleared and asked
# again, are the CPU's word for word; a device or a backend that is not there is a sentence, or the
# CPU for who did not insist.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
export BALLAST_CUDA_LIB=${BALLAST_CUDA_LIB:-$BALLAST_BINARY_DIR/tests/ballast_cuda_shim.so}
if [ ! -e "$BALLAST_CUDA_LIB" ]; then
    echo "skipped: this build has no shim (thread sanitizer)"
    exit 0
fi
model=$golden/tiled/model
picture=$golden/tiled/picture0_100x70.png
chat() { "$ballast" chat "$model" -n 6 "$@"; }

turns() { printf '/image %s\nWhat is it?\nAnd now?\n/clear\n/image %s\nWhat is it?\n' "$picture" "$picture"; }
for device in cpu cuda:0; do
    turns | chat --device $device >"turns-$device.txt" 2>"said-$device.txt"
done
holds [ "$(wc -l <turns-cpu.txt)" -ge 3 ]
same turns-cpu.txt turns-cuda:0.txt "turns on CPU and device"
same said-cpu.txt said-cuda:0.txt "what is said beside the answers"
"$ballast" run "$model" -i "$picture" -n 6 -p "What is it?" --device cuda:0 >run.txt
holds cmp -n "$(wc -c <run.txt)" run.txt turns-cuda:0.txt

# nobody answers from a device that is not there
echo "What is it?" >question.txt
asked() { chat "$@" <question.txt; }
refused 1 "cuda:777: this machine has .* cuda device" asked --device cuda:777
refused 2 "'gpu'.* cpu, cuda:N or auto" asked --device gpu
missing() { BALLAST_CUDA_LIB=$scratch/no.so asked "$@"; }
refused 1 "BALLAST_CUDA_LIB: .*no.so: No such file" missing --device cuda:0
asked >cpu.txt 2>/dev/null
missing --device auto >auto.txt 2>/dev/null
same cpu.txt auto.txt "answers of the CPU and of auto without a backend"
