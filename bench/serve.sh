#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Measures ballast serve on loopback and fails where it should:
#   - load: clients that stream answers of mixed sizes, some of which go away; no error but a 429, and
#     resident memory flat over the rounds (the last at most 5 % and 8 MiB above the first);
#   - 32 questions about one large picture: encoded once, keys and values within the plan, same answers
#     as one by one without caches; both times and their ratio.
# Prints one line of JSON per measurement, and appends it to FILE with --out.
#   bench/serve.sh [--seconds 60] [--clients 64] [--rounds 3] [--model demo/model] [--out FILE]
#                  [--llama-server PROGRAM --gguf FILE]     the same load without pictures on both
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD:-$root/build}
seconds=60 clients=64 rounds=3 model=$root/demo/model out='' llama='' gguf=''
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=$2 ;;
    --clients) clients=$2 ;;
    --rounds) rounds=$2 ;;
    --model) model=$2 ;;
    --out) out=$2 ;;
    --llama-server) llama=$2 ;;
    --gguf) gguf=$2 ;;
    *) sed -n '3,12p' "$0" >&2; exit 2 ;;
  esac
  shift 2
done
work=$(mktemp -d)
pid=''
stop() {
  [ -z "$pid" ] || { kill "$pid" && wait "$pid"; } || true
  pid=''
}
trap 'stop; rm -rf "$work"' EXIT

# start ARGUMENTS: sets pid and url
start() {
  "$build/ballast" serve "$model" --port 0 --quiet "$@" >"$work/out" &
  pid=$!
  for _ in $(seq 600); do
    grep -q ready "$work/out" && break
    kill -0 "$pid" || { cat "$work/out" >&2; exit 1; }
    sleep 0.1
  done
  url=$(sed -n 's/^listening on //p' "$work/out")
}

resident_kib() { sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$1/status"; }

say() {
  local row="{\"what\": \"$1\", ${2#\{}"
  echo "$row"
  [ -z "$out" ] || echo "$row" >>"$out"
}

start --ctx 2048
say questions "$("$build/serve_questions" "$url" 32 16)"
stop

start --ctx 2048 --kv-memory 48 --picture-cache 4 # full soon, so that rounds can be compared
# the ends of an answer and what stands for a picture, which are no text: what the config of a folder names
banned=$(grep -ohE '"(eos_token_id|pad_token_id|image_token_index|video_token_index)": [0-9]+' "$model/config.json" |
  grep -oE '[0-9]+$' | sort -u | paste -sd,) || banned=none
pictures=("$root"/demo/data/pictures/eval2[0-4]*.png)
"$build/serve_load" "$url" "$clients" "$((seconds / 4 + 1))" 0 "$banned" "${pictures[@]}" >"$work/warm"
first=0
for round in $(seq "$rounds"); do
  row=$("$build/serve_load" "$url" "$clients" "$seconds" "$round" "$banned" "${pictures[@]}")
  sleep 1
  kib=$(resident_kib "$pid")
  [ "$first" -gt 0 ] || first=$kib
  say "load, round $round" "{\"resident_kib\": $kib, ${row#\{}"
done
stop
limit=$((first + first / 20))
[ "$limit" -gt $((first + 8192)) ] || limit=$((first + 8192))
[ "$kib" -le "$limit" ] || { echo "bench/serve.sh: resident memory grew from $first to $kib KiB" >&2; exit 1; }

[ -n "$llama" ] || exit 0
for turn in 1 2 3; do # interleaved
  start --ctx 2048
  say "text only, ballast, turn $turn" "$("$build/serve_load" "$url" "$clients" "$seconds" "$turn" "$banned")"
  stop
  "$llama" -m "$gguf" --port 18080 -c $((2048 * clients)) -np "$clients" >"$work/llama" 2>&1 &
  pid=$!
  until curl -fs http://127.0.0.1:18080/health >/dev/null; do kill -0 "$pid"; sleep 0.5; done
  say "text only, llama-server, turn $turn" "$("$build/serve_load" http://127.0.0.1:18080 "$clients" "$seconds" "$turn" "$banned")"
  stop
done
