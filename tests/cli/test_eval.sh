#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ballast eval as it is typed: table, JSON with a stable schema, a model against itself and another.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
model=$golden/tiled/model
other=$golden/mha/model
cp "$golden/tiled/picture0_100x70.png" a.png
cp "$golden/calib/calib1_60x90.png" b.png
cat >data.jsonl <<'END'
{"id": 1, "image": "a.png", "question": "What is it?", "answers": ["a circle", "circle"], "type": "what"}
{"id": 2, "image": "a.png", "question": "How many?", "answers": ["3"], "type": "count"}
{"images": ["b.png"], "question": "What is it?", "answers": ["a cat"], "type": "what"}

{"question": "Say yes", "answers": ["yes"]}
END
eval_() { "$ballast" eval "$@" --data data.jsonl --ctx 512; }

status 0 "4 questions about 3 pictures" eval_ "$model"
holds grep -q "of 4" out.txt
holds grep -q "^what  *2 " out.txt
holds grep -q "^model 1: $model$" out.txt
holds [ "$(cat err.txt)" = "ballast eval: 4 of 4 answers were cut at 16 tokens; see --max-tokens" ]
status 0 "2 questions about 1 picture," eval_ "$model" --limit 2


# below six pictures there is neither interval nor verdict, from six on both
eval_ "$model" "$other" --against "$model" >few.txt 2>/dev/null
holds grep -q "3 pictures, .*too few pictures for intervals (6)" few.txt
holds grep -q "^  NLL change  *-*[0-9.]*$" few.txt
lacks grep -q '\[\|worse\|better\|no difference' few.txt
eval_ "$model" --json >few.json 2>/dev/null
holds [ "$(grep -c '_\(lo\|hi\)": null' few.json)" = 4 ]
cp data.jsonl few.jsonl
for i in 1 2; do
    echo "{\"question\": \"Say yes $i\", \"answers\": [\"yes\"]}" >>data.jsonl
done
eval_ "$model" --json >five.json 2>/dev/null
holds grep -q '"nll_lo": null' five.json
echo '{"question": "Say yes 3", "answers": ["yes"]}' >>data.jsonl
eval_ "$model" "$other" --against "$model" >six.txt 2>/dev/null
holds grep -q "6 pictures, .*95 % intervals" six.txt
holds grep -q "NLL change .*\[.*no difference" six.txt

eval_ "$model" "$other" --against "$model" --json --rows --threads 1 >one.json
eval_ "$model" "$other" --against "$model" --json --rows --threads 3 --isa scalar >three.json
for f in one three; do grep -v '"seconds":' $f.json >$f.txt; done
same one.txt three.txt "results for other threads and ISA"
for key in data n n_groups n_positions models against model n_right accuracy accuracy_lo accuracy_hi \
    nll nll_lo nll_hi perplexity kl kl_lo kl_hi top1 top1_lo top1_hi accuracy_change accuracy_change_lo \
    accuracy_change_hi nll_change nll_change_lo nll_change_hi seconds types type rows line id said right \
    positions agree; do
    grep -q "\"$key\":" one.json || { echo "eval --json lacks $key"; exit 1; }
done
# the first model is the reference itself, the second is not
holds [ "$(grep -m1 '"kl":' one.json)" = '      "kl": 0.0,' ]
holds [ "$(grep -m1 '"top1":' one.json)" = '      "top1": 1.0,' ]
holds [ "$(grep -c '"kl_hi": 0.0' one.json)" = 1 ]

# the table has it in thousandths of a nat
kl=$(grep '^      "kl":' one.json | sed -n 2p)
holds grep -q "^  KL, 1e-3 nats  *$(awk -F'[:,]' '{printf "%.4f", 1000 * $2}' <<<"$kl") *\[" six.txt

# ---- what is refused
bad() { printf '%s\n' "$1" >bad.jsonl; }
eval_bad() { "$ballast" eval "$model" --data bad.jsonl; }
bad '{"question": "q"}' && refused 1 "bad.jsonl, line 1: answers" eval_bad
bad '{"question": "q", "answers": [], "image": "a.png"}' && refused 1 "answers" eval_bad
bad '{"question": 1, "answers": ["a"]}' && refused 1 "question" eval_bad
bad '{"question": "q", "answers": ["a"], "image": "lost.png"}' && refused 1 "line 1: .*lost.png" eval_bad
bad '{"question": "q", ' && refused 1 "bad.jsonl, line 1" eval_bad
bad '' && refused 1 "no question" eval_bad
refused 1 "lost.jsonl" "$ballast" eval "$model" --data lost.jsonl
refused 1 "line 1: .*does\|line 1: .*context" "$ballast" eval "$model" --data data.jsonl --ctx 64
cp -r "$model" renamed && chmod -R u+w renamed && sed -i 's/<video>/<vidio>/g' renamed/tokenizer.json
refused 1 "tokenizer is not that of .*not comparable" eval_ renamed --against "$model"
