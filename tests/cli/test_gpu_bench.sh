#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# bench/gpu.sh, its GPU played by the shim: every row of the CSVs is there, and the section it writes
# has figures where they are and says so where they are not.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
if [ ! -e "$BALLAST_BINARY_DIR/tests/ballast_cuda_shim.so" ]; then
    echo "skipped: this build has no shim (thread sanitizer)"
    exit 0
fi
gpu() { BUILD=$BALLAST_BINARY_DIR bash "$BALLAST_SOURCE_DIR/bench/gpu.sh" --shim "$@" >log.txt; }

printf 'before\n<!-- gpu: begin -->\nold\n<!-- gpu: end -->\nafter\n' >docs.md
gpu --out . --docs docs.md --only docs
holds [ "$(grep -c '| tiny | 3 | not measured | not measured |' docs.md)" = 1 ]
holds [ "$(grep -c '^Device: not measured. Reading: not measured.$' docs.md)" = 1 ]

gpu --out . --only kernels
holds [ "$(grep -c '^read,' gpu_kernels.csv)" = 1 ]
holds [ "$(grep -c '^linear,shim,tiny,3,128,64,160,16,' gpu_kernels.csv)" = 1 ]
holds [ "$(grep -c '^linear,' gpu_kernels.csv)" = 20 ]
holds [ "$(grep -c '^linear a8,shim,tiny,4,128,64,160,16,' gpu_kernels.csv)" = 1 ]
holds [ "$(grep -c '^linear a8,' gpu_kernels.csv)" = 8 ]
gpu --out . --only models
for bits in 16 8 4 3 2; do
    for row in prefill decode; do holds [ "$(grep -c "^tiny,$bits,$row," gpu_models.csv)" = 1 ]; done
done

# peers: none is there, then two that say what theirs would
export CUDA_VISIBLE_DEVICES=
PYTHON=false gpu --out . --only peers
holds [ "$(grep -c '^cuBLAS: not measured: ' log.txt)" = 1 ]
holds [ "$(grep -c '^PyTorch: not measured: ' log.txt)" = 1 ]
holds [ "$(wc -l <gpu_peers.csv)$(wc -l <gpu_engines.csv)" = 11 ]
printf '#!/bin/sh\necho "$@" >>asked.txt\necho "7b o,3584,3584,1,10.000,2569.0,2.57"\n' >python
printf '#!/bin/sh\nprintf %s\n' \
    "'\"model\",\"n_gen\",\"avg_ts\"\n\"q\",\"0\",\"5000.5\"\n\"q\",\"128\",\"123.25\"\n'" >llama
chmod +x python llama
printf 12345678 >q3.gguf
sed -i '/^read,/s/[^,]*,[^,]*$/5138.0,1/' gpu_kernels.csv
PYTHON=./python gpu --out . --only peers --peer llama.cpp ./llama q3.gguf tiny
holds [ "$(cut -d' ' -f2- asked.txt)" = "0 tiny:64:160:0 tiny gate up:48:128:1 1 2 4 8 16 32 64 256 1024" ]
holds [ "$(grep -c '^PyTorch,7b o,3584,3584,1,10.000,2569.0,2.57,0.5000$' gpu_peers.csv)" = 1 ]
holds [ "$(grep -c '^llama.cpp,tiny,8,decode,123.25$' gpu_engines.csv)" = 1 ]
gpu --out . --docs docs.md --only docs
holds [ "$(grep -c '^| tiny | llama.cpp | 0 | 123.2 | 5000.5 |$' docs.md)" = 1 ]
holds [ "$(grep -c '| tiny | 3 | [0-9.]* |' docs.md)" = 1 ]
holds [ "$(grep -c '^Device: shim' docs.md)" = 1 ]
holds [ "$(grep -c '| 7b o | not measured |' docs.md)" = 2 ]
holds [ "$(grep -c '^| 7b o | not measured |.*| 0.50 |$' docs.md)" = 1 ]
lacks grep -q '^old$' docs.md
holds [ "$(head -1 docs.md)$(tail -1 docs.md)" = beforeafter ]

echo nothing >bare.md
status 1 "has no markers" env BUILD="$BALLAST_BINARY_DIR" bash "$BALLAST_SOURCE_DIR/bench/gpu.sh" --shim \
    --out . --docs bare.md --only docs
