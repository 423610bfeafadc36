#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Bad input of every kind: the exit status, a sentence that names the culprit, nothing on stdout.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
model=$golden/tiled/model
picture=$golden/tiled/picture0_100x70.png
run() { "$ballast" run "$model" "$@"; }

# ---- the command line: 2
refused 2 "a command is missing" "$ballast"
refused 2 "unknown command 'rnu'; did you mean 'run'" "$ballast" rnu
refused 2 "unknown flag '--verison' (ballast" "$ballast" --verison
refused 2 "unknown flag '--bogus' (ballast run" run -p hi --bogus
status 0 "usage: ballast run MODEL" "$ballast" help run
refused 2 "MODEL missing" "$ballast" run
refused 2 "unknown flag '--max-token'; did you mean '--max-tokens'" run -p hi --max-token 3
refused 2 "unknown flag '-z'" run -p hi -z
refused 2 "unknown flag '--seed'" "$ballast" inspect --seed 1 "$model"
refused 2 "unknown flag '--ctx'" "$ballast" quantize --ctx 100 "$model"
refused 2 "unexpected operand 'more'" run more -p hi
refused 2 "-p is missing" run
refused 2 "needs a value" run -p
refused 2 "'0' is not a whole number from 1" run -p hi --max-tokens 0
refused 2 "'1.5' is not a whole number" run -p hi --threads 1.5
refused 2 "'x' is not a number" run -p hi --temp x
refused 2 "'nan' is not a number" run -p hi --temp nan
refused 2 "'-1' is not a whole number from 0 to 18446744073709551615" run -p hi --seed -1
refused 2 "--alpha: 'blue', expected one of white|drop" run -p hi --alpha blue
case $(uname -m) in
aarch64) levels="scalar|neon|neondot|i8mm" ;;
*) levels="scalar|avx2|avxvnni|avx512|avx512vnni" ;;
esac
refused 2 "--isa: 'mmx', expected one of $levels" run -p hi --isa mmx
refused 2 "--json takes no value" run -p hi --json=1
refused 2 "--data is missing" "$ballast" eval "$model"
refused 2 "MODEL... missing" "$ballast" eval
refused 2 "unknown flag '--json'" "$ballast" chat "$model" --json
refused 2 "rows needs --json" "$ballast" eval "$model" --data nowhere.jsonl --rows
refused 1 "not UTF-8" run -p $'\xff\xfe'

# ---- what a machine lacks
export BALLAST_CUDA_LIB=$PWD/nowhere.so
refused 1 "cuda:0: BALLAST_CUDA_LIB: .*/nowhere.so: No such file" run -p hi --device cuda:0
refused 2 "device 'cuda:x', expected cpu, cuda:N or auto" run -p hi --device cuda:x
refused 1 "computes on the CPU only" "$ballast" quantize "$model" -o out --device cuda:0
refused 1 "computes on the CPU only" "$ballast" bench --limits --device cuda:0
status 0 "" run -p hi --max-tokens 1 --device auto
unset BALLAST_CUDA_LIB

# ---- pictures: 1
: >empty.png
printf 'not a picture at all, just text\n' >text.png
head -c 300 "$picture" >cut.png
{ head -c 60 "$picture"; head -c 60 /dev/zero; tail -c +121 "$picture"; } >hole.png
mkdir folder.png
refused 1 "nowhere.png" run -p hi -i nowhere.png
refused 1 "empty.png" run -p hi -i empty.png
refused 1 "text.png" run -p hi -i text.png
refused 1 "cut.png" run -p hi -i cut.png
refused 1 "hole.png" run -p hi -i hole.png
refused 1 "folder.png" run -p hi -i folder.png
refused 1 "nowhere.png" run -p hi -i "$picture" -i nowhere.png
refused 1 "standard input is empty" run -p - </dev/null
printf 'a\0b' >zero.txt
refused 1 "standard input is not text" run -p - <zero.txt

# ---- the context: 1
refused 1 "does not fit" run -p hi -i "$picture" --ctx 64
refused 1 "context: 1000000 positions, this model takes" run -p hi --ctx 1000000

# ---- models: 1
refused 1 "nowhere" "$ballast" run nowhere -p hi
mkdir bare && refused 1 "bare" "$ballast" run bare -p hi
printf 'hello' >file && refused 1 "file" "$ballast" run file -p hi
broken() {
    rm -rf broken
    cp -r "$model" broken
    chmod -R u+w broken
}
broken && sed -i '/"num_hidden_layers"/d' broken/config.json
refused 1 "num_hidden_layers" "$ballast" run broken -p hi
broken && sed -i 's/"model_type": "llava_onevision"/"model_type": "other"/' broken/config.json
refused 1 "other" "$ballast" run broken -p hi
broken && printf '{"half": ' >broken/config.json
refused 1 "config.json" "$ballast" run broken -p hi
broken && rm broken/config.json
refused 1 "config.json" "$ballast" run broken -p hi
broken && rm broken/tokenizer.json
refused 1 "broken" "$ballast" run broken -p hi
broken && rm broken/preprocessor_config.json
refused 1 "preprocessor_config.json" "$ballast" run broken -p hi
broken && rm broken/model.safetensors
refused 1 "broken" "$ballast" run broken -p hi
broken && head -c 100000 "$model/model.safetensors" >broken/model.safetensors
refused 1 "model.safetensors" "$ballast" run broken -p hi
broken && head -c 5 "$model/model.safetensors" >broken/model.safetensors
refused 1 "model.safetensors" "$ballast" run broken -p hi
broken && { printf '\377\377\377\377\377\377\377\177'; tail -c +9 "$model/model.safetensors"; } \
    >broken/model.safetensors
refused 1 "model.safetensors" "$ballast" run broken -p hi
broken && sed -i 's/input_layernorm/input_layernoXX/' broken/model.safetensors
refused 1 "layerno" "$ballast" run broken -p hi

# ---- output that cannot be written: 1
failed_with() {
    holds [ $got = 1 ]
    holds grep -q "$1" err.txt
}
if [ -w /dev/full ]; then
    got=0
    run -p hi >/dev/full 2>err.txt || got=$?
    failed_with "No space left"
    got=0
    "$ballast" run --help >/dev/full 2>err.txt || got=$?
    failed_with "No space left"
    got=0
    run -p hi --json >/dev/full 2>err.txt || got=$?
    failed_with "No space left"
fi
mkfifo pipe
(exec 3<pipe) & # opens the reading end and closes it
got=0
(sleep 1; run -p hi -n 50 2>err.txt) >pipe || got=$?
wait
failed_with "Broken pipe"
