#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# ballast chat through a pipe: answers on stdout, the rest on stderr; a first answer is that of run,
# a cleared conversation starts again, a saved one is calibration data.
source "${BALLAST_SOURCE_DIR:?}/tests/cli/status.sh"
model=$golden/tiled/model
picture=$golden/tiled/picture0_100x70.png
chat() { "$ballast" chat "$model" -n 6 "$@"; }

"$ballast" run "$model" -i "$picture" -n 6 -p "What is it?" >run.txt
printf '/image %s\nWhat is it?\n' "$picture" | chat >chat.txt 2>err.txt
same run.txt chat.txt "answers of run and chat"
holds grep -q "100 x 70 pixels -> 112 x 79, 2 x 2 tiles and an overview, 70 tokens" err.txt

# cleared: the same question, the same answer; not cleared: the second turn is another
printf '/image %s\nWhat is it?\n/clear\n/image %s\n  What is it?  \n' "$picture" "$picture" |
    chat --quiet >twice.txt 2>err.txt
cat run.txt run.txt >run2.txt
same run2.txt twice.txt "answers before and after /clear"
holds [ ! -s err.txt ]
printf '/image %s\nWhat is it?\nWhat is it?\n' "$picture" | chat >turns.txt 2>/dev/null
holds cmp -n "$(wc -c <run.txt)" run.txt turns.txt
differ run2.txt turns.txt "answers to a question asked twice"
printf '/image %s\nWhat is it?\nWhat is it?' "$picture" | chat --threads 1 >again.txt 2>/dev/null
same turns.txt again.txt "turns of two chats"

# a second picture: squares from now on
printf '/image %s\nA?\n/image %s\nB?\n' "$picture" "$picture" | chat >/dev/null 2>err.txt
holds grep -q "one square, " err.txt
holds grep -q "the first one now too" err.txt

# ---- save
printf '/image %s\nWhat is it?\nAnd "this"?\n/save talk.json\n/image %s\n/save late.json\n/quit\nnot read\n' \
    "$picture" "$picture" | chat >saved.txt 2>err.txt
holds grep -q "saved to talk.json" err.txt
holds [ "$(grep -c '"from": "gpt"' talk.json)" = 2 ]
holds grep -qF '"<image>\nWhat is it?"' talk.json
holds grep -qF "$picture" talk.json
holds grep -qF 'And \"this\"?' talk.json
same talk.json late.json "a picture not yet shown is not saved; conversations"
if "$ballast" --help | grep -q "^  quantize "; then
    status 0 "" "$ballast" quantize "$model" -o q.st --recipe awq --calib talk.json --dry-run
fi

# ---- refused, and the conversation goes on: status 1 at the end
refuses() {
    local pattern=$1 got=0
    printf '%b' "$2" | chat --ctx 128 >out.txt 2>err.txt || got=$?
    [ $got = 1 ] && grep -q -- "$pattern" err.txt && [ -s out.txt ] || {
        echo "chat: status $got, wanted 1, '$pattern' and an answer"
        cat out.txt err.txt
        exit 1
    }
}
refuses "unknown command '/imag a'; /help lists" '/imag a\nhi\n'
refuses "lost.png" '/image lost.png\nhi\n'
refuses "needs the path" '/image\nhi\n'
refuses "needs the name" '/save \nhi\n'
refuses "exists already" 'hi\n/save talk.json\n'
long=$(printf 'x%.0s' $(seq 1000))
refuses "does not fit" "$long\nhi\n"

# nothing said is fine; a conversation that fills its context fails and says so
printf '' | chat
printf '\n  \n/help\n' | chat 2>err.txt
holds grep -q "/image PATH" err.txt
if [ -w /dev/full ]; then
    got=0
    printf 'hi\n' | chat >/dev/full 2>err.txt || got=$?
    holds [ $got = 1 ]
    holds grep -q "No space left" err.txt
fi
