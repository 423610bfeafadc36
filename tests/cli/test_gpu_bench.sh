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
gpu --out . --only models
for bits in 16 8 4 3 2; do
    for row in prefill decode; do holds [ "$(grep -c "^tiny,$bits,$row," gpu_models.csv)" = 1 ]; done
done
gpu --out . --docs docs.md --only docs
holds [ "$(grep -c '| tiny | 3 | [0-9.]* |' docs.md)" = 1 ]
holds [ "$(grep -c '^Device: shim' docs.md)" = 1 ]
holds [ "$(grep -c '| 7b o | not measured |' docs.md)" = 1 ]
lacks grep -q '^old$' docs.md
holds [ "$(head -1 docs.md)$(tail -1 docs.md)" = beforeafter ]

echo nothing >bare.md
status 1 "has no markers" env BUILD="$BALLAST_BINARY_DIR" bash "$BALLAST_SOURCE_DIR/bench/gpu.sh" --shim \
    --out . --docs bare.md --only docs
