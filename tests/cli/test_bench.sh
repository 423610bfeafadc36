#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ballast bench: rows with every field of the schema and figures that are possible; bad shapes are
# refused. Speeds themselves are no matter of a test.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
bench() { "$ballast" bench --repeats 1 --threads 1 "$@"; }

bench --shape 40x100 --rows 3 --group 32 --json >kernels.json
[ "$(grep -o '"name": *"[a-z0-9_]*"' kernels.json | sort | uniq -c | wc -l)" = 14 ]
for field in name isa bits group n k rows threads weights_per_s bytes_per_s limit fraction; do
    [ "$(grep -o "\"$field\": *[^ []" kernels.json | wc -l)" = 25 ] || { echo "field $field"; exit 1; }
done
[ "$(grep -o '"limit": *null' kernels.json | wc -l)" = 3 ]
[ "$(grep -o '"limit": *"read"' kernels.json | wc -l)" = 11 ]
[ "$(grep -o '"limit": *"fma"' kernels.json | wc -l)" = 3 ]
[ "$(grep -o '"limit": *"int8"' kernels.json | wc -l)" = 8 ]
! grep -qi 'nan\|inf' kernels.json

bench --limits >limits.txt
[ "$(grep -c '^read ' limits.txt)" = 1 ] && [ "$(grep -c '^fma ' limits.txt)" = 1 ] &&
    [ "$(grep -c '^int8 ' limits.txt)" = 1 ]
status 0 "^gemm_w3 .* 40x100 " bench --shape 40x100 --rows 1 --isa scalar

refused 2 "3584y18944.*NxK" "$ballast" bench --shape 3584y18944
refused 2 "'0x5'.*from 1" "$ballast" bench --shape 0x5
refused 2 "exclude" "$ballast" bench --limits --kernels
refused 1 "group of 33" "$ballast" bench --repeats 1 --shape 16x64 --group 33
