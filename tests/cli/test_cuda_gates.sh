#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Limits on the machine code of the GPU kernels, for the architectures with the fewest and the most threads a
# processor; scripts/cuda_gates.sh checks all.
set -euo pipefail
case ${BALLAST_BINARY_DIR:?} in
*-asan | *-tsan | *-portable | *-clang) echo "skipped: does not depend on this build"; exit 0 ;;
esac
"${BALLAST_SOURCE_DIR:?}/scripts/cuda_gates.sh" 86 90a
