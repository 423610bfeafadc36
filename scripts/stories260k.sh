#!/bin/bash
# SPDX-License-Identifier: MIT
# Makes docs/stories260k.md: perplexity of stories260k, float and quantized. Needs the build and the
# third-party data (BALLAST_TEST_DATA, default ../shared/data beside the project). Ten minutes on a
# core.
set -euo pipefail
cd "$(dirname "$0")/.."
export BALLAST_SOURCE_DIR=$PWD
data=${BALLAST_TEST_DATA:-../shared/data}/stories260k
[ -d "$data" ] || { echo "stories260k is not at $data (set BALLAST_TEST_DATA)" >&2; exit 1; }
rows=(rtn:8 awq:8 mbq:8 mbq+:8 gptq:8 ballast:8)
for bits in 4 3 2; do
  for recipe in rtn awq awq+clip mbq mbq-r1 mbq+ gptq awq+gptq mbq+gptq gptq+shift gptaq vlm-ptq quantease vlmq guidedquant ballast table table+shift lqer; do
    rows+=("$recipe:$bits")
  done
done
table=$(build/tests/test_stories260k --table "${rows[@]}" w8a8 w4a8 dgq qoq mixpe)
cat > docs/stories260k.md <<END
# stories260k

Made by \`scripts/stories260k.sh\`: a language model of 260,000 parameters that A. Karpathy trained and published (TinyStories,
Llama architecture, 5 layers, width 64), converted from its published file. In float it tells the story of its card token by token.

"card" is the perplexity of the two texts on that card, the greedy one and the sampled one. "own stories" is that of up to 128 tokens
of stories which the float model makes up at temperature 1 (other seeds than those of the 32 it is calibrated on), KL is
KL(float || quantized) in nats per token there, top-1 how often both find the same token likeliest, with 95 % intervals over
stories. Groups are the recipes' (128, here whole rows but for down_proj). There is no vision: answers are the
only modality that counts, so what MBQ balances is not at work.

With so few weights every bit counts, and 2 bits for whole rows ruin the model under every recipe. From 4 bits down, targets that
make up for quantized inputs (\`gptq+shift\`, and with channel scales the default, \`ballast\`) lose about half of what \`mbq\` loses, and with searched ranges in front (\`vlm-ptq\`)
least of all ranges, which on the embedded model they do not ([results.md](results.md)); tables lose less again, and both together (\`table+shift\`) a third of it at 3 bits. \`lqer\`'s matrices of rank 32 weigh more here than the model's own of
width 64, and \`quarot\` is not there: down_proj has 172 inputs, no multiple of 8.

$table
END
