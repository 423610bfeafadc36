#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# easy-VQA's test split (https://github.com/vzhou842/easy-VQA) as evaluation data: one JSON object per line.
#   easy_vqa_to_jsonl.sh FOLDER OUT.jsonl      FOLDER holds test/questions.json and test/images/
set -euo pipefail
[ $# = 2 ] || { sed -n '3,4p' "$0"; exit 2; }
folder=$(realpath "$1")
# the file is [["question", "answer", image], ...]; its strings contain no escapes
{ tr -d '\n' <"$folder/test/questions.json"; echo; } | sed 's/\], *\[/\n/g; s/\[\[//; s/\]\]//' |
  sed -E "s|^\"([^\"]*)\", *\"([^\"]*)\", *([0-9]+)\$|{\"image\": \"$folder/test/images/\\3.png\", \"question\": \"\\1\", \"answers\": [\"\\2\"], \"type\": \"easy_vqa\"}|" >"$2"
if grep -qv '^{' "$2"; then
  echo "$folder/test/questions.json: not the expected form" >&2
  exit 1
fi
echo "$2: $(wc -l <"$2") questions"
