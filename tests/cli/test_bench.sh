#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ballast bench on the machine: rows with every field of the schema and figures that are possible;
# bad matrices are refused. Speeds themselves are no matter of a test.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
bench() { "$ballast" bench --repeats 1 --threads 1 "$@"; }

bench --matrix 40x100 --rows 17 --group 32 --json >kernels.json
[ "$(grep -o '"name": *"[a-z0-9_]*"' kernels.json | sort | uniq -c | wc -l)" = 23 ]
for field in name isa bits group n k rows threads weights_per_s bytes_per_s seconds limit fraction; do
    [ "$(grep -o "\"$field\": *[^ []" kernels.json | wc -l)" = 41 ] || { echo "field $field"; exit 1; }
done
[ "$(grep -o '"limit": *null' kernels.json | wc -l)" = 4 ]
[ "$(grep -o '"limit": *"read"' kernels.json | wc -l)" = 18 ]
[ "$(grep -o '"limit": *"fma"' kernels.json | wc -l)" = 4 ]
[ "$(grep -o '"limit": *"int8"' kernels.json | wc -l)" = 15 ]
lacks grep -qi 'nan\|inf' kernels.json
"$ballast" bench --threads 1 --repeats 3 --matrix 512x512 --rows 2 >few.txt
# Two rows of floats wait for memory, where multiplying is measured by vector instructions.
! grep -q '^linear_f32  *avx' few.txt || status 0 "^linear_f32 .* 512x512  *2 .* of read" cat few.txt
status 0 "^gemm_w2 .* 512x512  *16 .* of int8" bench --matrix 512x512 --rows 16

bench --limits >limits.txt
for limit in read fma int8 cache clock barrier; do holds [ "$(grep -c "^$limit " limits.txt)" = 1 ]; done
bench --limits --isa scalar >limits.txt
lacks grep "^bf16 " limits.txt
status 0 "^gemm_w3 .* 40x100 .* of int8" bench --matrix 40x100 --rows 1 --resident
status 0 "^gemm_w3 .* 40x100 " bench --matrix 40x100 --rows 1 --isa scalar

refused 2 "3584y18944.*NxK" "$ballast" bench --matrix 3584y18944
refused 2 "'0x5'.*from 1" "$ballast" bench --matrix 0x5
refused 2 "exclude" "$ballast" bench --limits --kernels
refused 2 "multiple of 32" "$ballast" bench --repeats 1 --matrix 16x64 --group 33
