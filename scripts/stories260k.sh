#!/bin/bash
# SPDX-License-Identifier: MIT
# Makes docs/stories260k.md: perplexity of stories260k, float and quantized. Needs the build and the
# third-party data (BALLAST_TEST_DATA, default ../shared/data beside the project). A minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
export BALLAST_SOURCE_DIR=$PWD
recipes=(rtn awq gptq mbq mbq+ ballast)
table=$(build/tests/test_stories260k --table "${recipes[@]}")
cat > docs/stories260k.md <<END
# stories260k

Made by \`scripts/stories260k.sh\`: a language model of 260,000 parameters that A. Karpathy trained and published (TinyStories,
Llama architecture, 5 layers, width 64), converted from its published file. In float it tells the story of its card token by token.

"card" is the perplexity of the two texts on that card, the greedy one and the sampled one. "own stories" is that of up to 128 tokens
of stories which the float model makes up at temperature 1 (other seeds than those of the 32 it is calibrated on), KL is
KL(float || quantized) in nats per token there, with 95 % intervals over stories. Groups are the recipes' (128, here whole
rows but for down_proj). There is no vision: answers are the only modality that counts, so what MBQ balances is not at work.

$table
END
