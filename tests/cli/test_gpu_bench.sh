#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# bench/gpu.sh, its GPU played by the shim: every row of the CSVs is there, and the section it writes
# has figures where they are and says so where they are not. Then with programs that were built before, the
# contract in plain C as their device: what fails is said and stops nothing, rows of a run that was killed are
# kept, and devices are not mixed.
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
holds [ "$(grep -c '^linear,tiny,3,128,64,160,16,.*,shim,20' gpu_kernels.csv)" = 1 ]
holds [ "$(grep -c '^linear,' gpu_kernels.csv)" = 40 ]
holds [ "$(grep -c '^linear a8,tiny,4,128,64,160,16,' gpu_kernels.csv)" = 1 ]
holds [ "$(grep -c '^linear a8,' gpu_kernels.csv)" = 16 ]
gpu --out . --only models --bits "3 16 tower"
for row in 3,prefill 3,decode 16,prefill 16,decode tower,encode; do
    holds [ "$(grep -c "^tiny,$row,.*,shim,20" gpu_models.csv)" = 1 ]
done
gpu --out . --only models --bits 3
holds [ "$(wc -l <gpu_models.csv)" = 6 ]

# peers: none is there, then two that say what theirs would
export CUDA_VISIBLE_DEVICES=
PYTHON=false gpu --out . --only peers
holds [ "$(grep -c '^cuBLAS: not measured: ' log.txt)" = 1 ]
holds [ "$(grep -c '^PyTorch: not measured: ' log.txt)" = 1 ]
holds [ "$(wc -l <gpu_peers.csv)" = 1 ]
printf '#!/bin/sh\necho "$@" >>asked.txt\necho "7b o,3584,3584,1,10.000,2569.0,2.57"\n' >python
printf '#!/bin/sh\nprintf %s\n' \
    "'\"model\",\"n_gen\",\"avg_ts\"\n\"q\",\"0\",\"5000.5\"\n\"q\",\"128\",\"123.25\"\n'" >llama
chmod +x python llama
printf 12345678 >q3.gguf
sed -i '/^read,/s/[^,]*,1.0000,,/5138.0,1,,/' gpu_kernels.csv
PYTHON=./python gpu --out . --only peers --peer llama.cpp ./llama q3.gguf tiny
holds [ "$(cut -d' ' -f2- asked.txt)" = "0 tiny:64:160:0 tiny gate up:48:128:1 tiny down:32:2304:0 1 2 4 8 16 32 64 256 1024" ]
holds [ "$(grep -c '^PyTorch,7b o,3584,3584,1,10.000,2569.0,2.57,0.5000,shim,20' gpu_peers.csv)" = 1 ]
holds [ "$(grep -c '^llama.cpp,tiny,8,decode,123.25,shim,20' gpu_engines.csv)" = 1 ]
gpu --out . --docs docs.md --only docs
holds [ "$(grep -c '^| tiny | llama.cpp | 0 | 123.2 | 5000.5 |$' docs.md)" = 1 ]
holds [ "$(grep -c '| tiny | 3 | [0-9.]* |' docs.md)" = 1 ]
holds [ "$(grep -c '^| tiny | 36 | [0-9.]* | [0-9.]* |$' docs.md)" = 1 ]
holds [ "$(grep -c '^Device: shim, measured 20[0-9-]*\. Reading: 5138 GB/s\.$' docs.md)" = 1 ]
holds [ "$(grep -c 'sums in double: all 56 rows are within' docs.md)" = 1 ]
holds [ "$(grep -c '| 7b o | not measured |' docs.md)" = 2 ]
holds [ "$(grep -c '^| 7b o | not measured |.*| 0.50 |$' docs.md)" = 1 ]
lacks grep -q '^old$' docs.md
holds [ "$(head -1 docs.md)$(tail -1 docs.md)" = beforeafter ]

echo nothing >bare.md
status 1 "has no markers" env BUILD="$BALLAST_BINARY_DIR" bash "$BALLAST_SOURCE_DIR/bench/gpu.sh" --shim \
    --out . --docs bare.md --only docs

# programs that were built before
mkdir -p before/tests plain
cp "$BALLAST_BINARY_DIR/gpu_kernels" "$BALLAST_BINARY_DIR/gpu_cublas" before
cp "$BALLAST_BINARY_DIR/tests/plain_device.so" before/ballast_cuda.so
printf '#!/bin/sh\necho "$BALLAST_TEST_DEVICE"\nexit 1\n' >before/tests/test_cuda_model
printf '#!/bin/sh\nexit 0\n' >before/tests/test_cuda_vision
cat >before/ballast <<END
#!/bin/sh
case "\$*" in
    eval*) exit 1 ;;
    bench*w3*) [ -e well ] || { echo "no room" >&2; exit 1; } ;;
    bench*) [ ! -e well ] || { kill -KILL "\$(cat pid)"; exit 1; } ;;
esac
exec "$ballast" "\$@"
END
chmod +x before/ballast before/tests/*
export TMPDIR=$scratch
before=(env PYTHON=false bash "$BALLAST_SOURCE_DIR/bench/gpu.sh" --shim --prebuilt before --out plain --bits "3 16")
status 1 "^cuda:1$" env PLAIN_DEVICE=wrong "${before[@]}" --device 1 --docs docs.md
for sentence in "check test_cuda_model failed" "check test_cuda_run failed" "tiny at 3 failed: no room" \
    "outputs of linears are out of their bounds"; do
    holds [ "$(grep -c "^$sentence" out.txt)" = 1 ]
done
holds [ "$(cut -d, -f1-3 plain/gpu_checks.csv | tail -n 3 | paste -sd' ')" = "$(printf '%s,plain C  number 1 ' \
    test_cuda_model,failed test_cuda_vision,passed test_cuda_run,failed | sed 's/ $//')" ]
holds [ "$(wc -l <plain/gpu_kernels.csv)" = 58 ]
holds [ "$(grep -c '^tiny,3,failed,' plain/gpu_models.csv)$(grep -c '^tiny,16,decode,' plain/gpu_models.csv)" = 11 ]
holds [ "$(grep -c '^| tiny | 3 | failed | failed | failed | failed |$' docs.md)" = 1 ]
holds [ "$(grep -c '^| tiny | 16 | [0-9.]* | not measured | [0-9]* |' docs.md)" = 1 ]
holds [ "$(grep -c '`test_cuda_model` failed.*56 of 56 rows are out' docs.md)" = 1 ]

# killed in its second format
touch well
"${before[@]}" --only models >log.txt 2>&1 &
echo $! >pid
{ wait $! || killed=$?; } 2>/dev/null
holds [ "$killed" = 137 ]
holds [ "$(grep -c '^tiny,3,decode,.*,plain C  number 0,20' plain/gpu_models.csv)" = 1 ]
holds [ "$(wc -l <plain/gpu_models.csv)" = 3 ] # none of number 1

# by now the kernels are of another device
cp docs.md same.md
status 1 "are of several devices" "${before[@]}" --only docs --docs docs.md
holds grep -q '^gpu_kernels.csv: plain C  number 1$' err.txt
same docs.md same.md "a page that was refused"
status 1 "cuda:2: this machine has 2 cuda devices" "${before[@]}" --device 2
status 1 "there is no folder" bash "$BALLAST_SOURCE_DIR/bench/gpu.sh" --prebuilt nowhere

# nothing is installed and nothing can be: kernels are measured all the same
mkdir bare bin
program() { printf '#!/bin/sh\n%s\n' "$2" >"$1"; chmod +x "$1"; }
program bin/nvidia-smi 'echo 9.0'
for name in nvcc apt-get sudo dpkg-query; do program bin/$name 'exit 1'; done
program bin/cmake "echo \"\$@\" >>asked-cmake.txt
case \"\$*\" in *CORE=OFF*) echo \"--   No package 'libjansson' found\"; exit 1 ;; esac"
program bare/gpu_kernels '[ "$1" = --name ] && echo "a card" || printf "what,us\nread,1.5\n"'
status 1 "^ballast itself is not built, not found: libjansson$" env PATH="$scratch/bin:$PATH" BUILD="$scratch/bare" \
    bash "$BALLAST_SOURCE_DIR/bench/gpu.sh" --out bare --only kernels
holds grep -q -- "CUDA_ARCHITECTURES=90a-real .*CORE=ON$" asked-cmake.txt
holds grep -q -- "--target ballast_cuda gpu_kernels gpu_cublas$" asked-cmake.txt
holds grep -q '^read,1.5,a card,20' bare/gpu_kernels.csv

# what is no device, format or page
gpu_of=(bash "$BALLAST_SOURCE_DIR/bench/gpu.sh" --shim --out none)
status 1 "^gpu.sh: --device 'x', expected a number$" "${gpu_of[@]}" --device x
status 1 "^gpu.sh: --bits 'seven', expected 2, 3" "${gpu_of[@]}" --bits "3 seven"
status 1 "names no format" "${gpu_of[@]}" --bits ""
status 1 "there is no such file" "${gpu_of[@]}" --docs nowhere.md
lacks test -e none
