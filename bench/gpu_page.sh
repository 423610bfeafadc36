# SPDX-License-Identifier: MIT
# Sourced by gpu.sh: the section of the documentation, from the CSVs in $out and nothing else.

PICTURE=640x480

# field FILE CONDITION COLUMN FORMAT: a measured figure, or "not measured"; COLUMN a number or an expression of awk
field() {
  local v=''
  local column=$3
  [[ $column == *[!0-9]* ]] || column="\$$column"
  [ ! -e "$1" ] || v=$(awk -F, "$2 { v = $column; if (v != \"\") printf \"$4\", v; exit }" "$1")
  echo "${v:-not measured}"
}

# linear WHAT SHAPE BITS ROWS COLUMN FORMAT
linear() {
  field "$out/gpu_kernels.csv" "\$1 == \"$1\" && \$2 == \"$2\" && \$3 == $3 && \$7 == $4 && \$8 > 0" "$5" "$6"
}

# speed WHAT SHAPE BITS: TFLOP/s of 1,024 rows
speed() { linear "$1" "$2" "$3" 1024 '($2 ~ /gate up/ ? 4 : 2) * $5 * $6 * $7 / $8 / 1e6' %.1f; }

# peer NAME SHAPE ROWS COLUMN FORMAT
peer() { field "$out/gpu_peers.csv" "\$1 == \"$1\" && \$2 == \"$2\" && \$5 == $3" "$4" "$5"; }

# model MODEL FORMAT ROW COLUMN FORMAT: as field; "failed" where it was tried
model() {
  local is="\$1 == \"$1\" && \$2 == \"$2\""
  [ "$(field "$out/gpu_models.csv" "$is && \$3 == \"failed\"" 3 %s)" != failed ] || { echo failed; return; }
  field "$out/gpu_models.csv" "$is && \$3 == \"$3\"" "$4" "$5"
}

# ---- Whose figures these are -----------------------------------------------------------------------

# "FILE: DEVICE" of all rows, once each
owners() {
  local f
  for f in "$out"/gpu_*.csv; do
    [ ! -e "$f" ] || awk -F, -v file="$(basename "$f")" 'NR > 1 { print file ": " $(NF - 1) }' "$f"
  done | sort -u
}

# The device and the days, or "not measured".
owner() {
  local days
  days=$(awk -F, 'FNR > 1 { print $NF }' "$out"/gpu_*.csv 2>/dev/null | sort -u | sed -n '1p;$p' | uniq | paste -sd' ')
  if [ -n "$days" ]; then
    echo "$(owners | sed 's/^[^:]*: //' | head -n 1), measured ${days/ / to }"
  else
    echo "not measured"
  fi
}

one_device() {
  [ "$(owners | sed 's/^[^:]*: //' | sort -u | wc -l)" -le 1 ] && return
  owners >&2
  fail "no page is written: the CSVs in $out are of several devices; measure again what is not this one's"
  return 1
}

# ---- Checks ----------------------------------------------------------------------------------------

said_by_checks() {
  local said=''
  [ ! -e "$out/gpu_checks.csv" ] ||
    said=$(awk -F, 'NR > 1 { printf "%s`%s` %s", sep, $1, $2; sep = ", " }' "$out/gpu_checks.csv")
  echo "${said:-not measured}"
}

said_by_linears() {
  [ -e "$out/gpu_kernels.csv" ] || { echo "not measured"; return; }
  awk -F, '$1 ~ /^linear/ { n++; wrong += $11 > 1; if ($11 > worst) worst = $11 }
    END {
      if (!n) print "not measured"
      else if (wrong) printf "%d of %d rows are out of their bounds\n", wrong, n
      else printf "all %d rows are within their bounds, the largest error is %.2f of one\n", n, worst
    }' "$out/gpu_kernels.csv"
}

# ---- Tables ----------------------------------------------------------------------------------------

shapes=("7b qkv" "7b o" "7b gate up" "7b down" "7b head" "0.5b qkv" "0.5b o" "0.5b gate up" "0.5b down")

decoding_table() {
  local shape bits
  echo "| shape | W16 | W8 | W4 | W3 | W2 | W8A8 | W4A8 | W3 at 16 rows | W3 at 64 rows | cuBLAS | PyTorch |"
  echo "|---|---|---|---|---|---|---|---|---|---|---|---|"
  for shape in "${shapes[@]}"; do
    printf '| %s ' "$shape"
    for bits in 16 8 4 3 2; do printf '| %s ' "$(linear linear "$shape" "$bits" 1 10 %.2f)"; done
    for bits in 8 4; do printf '| %s ' "$(linear 'linear a8' "$shape" "$bits" 1 10 %.2f)"; done
    printf '| %s | %s ' "$(linear linear "$shape" 3 16 10 %.2f)" "$(linear linear "$shape" 3 64 10 %.2f)"
    printf '| %s | %s |\n' "$(peer cuBLAS "$shape" 1 9 %.2f)" "$(peer PyTorch "$shape" 1 9 %.2f)"
  done
}

prompt_table() {
  local shape bits
  echo "| shape | W16 | W8 | W4 | W3 | W2 | W8A8 | W4A8 | cuBLAS | PyTorch |"
  echo "|---|---|---|---|---|---|---|---|---|---|"
  for shape in "${shapes[@]}"; do
    [ "$shape" != "7b head" ] || continue
    printf '| %s ' "$shape"
    for bits in 16 8 4 3 2; do printf '| %s ' "$(speed linear "$shape" "$bits")"; done
    for bits in 8 4; do printf '| %s ' "$(speed 'linear a8' "$shape" "$bits")"; done
    printf '| %s | %s |\n' "$(peer cuBLAS "$shape" 1024 8 %.1f)" "$(peer PyTorch "$shape" 1024 8 %.1f)"
  done
}

model_table() {
  local m bits
  echo "| model | bits | decode, tokens/s | of reading | prefill, tokens/s | prefill, TFLOP/s |"
  echo "|---|---|---|---|---|---|"
  for m in $models; do
    for bits in 16 8 4 3 2; do
      printf '| %s | %s | %s | %s | %s | %s |\n' "$m" "$bits" \
        "$(model "$m" "$bits" decode 6 %.1f)" "$(model "$m" "$bits" decode 9 %.2f)" \
        "$(model "$m" "$bits" prefill 6 %.0f)" "$(model "$m" "$bits" prefill 8 %.1f)"
    done
  done
}

tower_table() {
  local m
  echo "| model | features | encode, ms | TFLOP/s |"
  echo "|---|---|---|---|"
  for m in $models; do
    ! has_tower "$m" || printf '| %s | %s | %s | %s |\n' "$m" "$(model "$m" tower encode 4 %d)" \
      "$(model "$m" tower encode '1e3 * $5' %.1f)" "$(model "$m" tower encode 8 %.1f)"
  done
}

engine_table() {
  if [ "$(wc -l 2>/dev/null <"$out/gpu_engines.csv" || echo 0)" -lt 2 ]; then
    echo "Other engines on this device: not measured."
    return
  fi
  echo "Other engines on this device, llama-bench of each, as long a prompt and answer:"
  echo
  echo "| model | engine | file, MiB | decode, tokens/s | prefill, tokens/s |"
  echo "|---|---|---|---|---|"
  awk -F, 'NR > 1 { key = $2 " | " $1 " | " int($3 / 1048576); if (!(key in seen)) order[++n] = key; seen[key]; v[key, $4] = $5 }
    function of(key, row) { return (key, row) in v ? sprintf("%.1f", v[key, row]) : "not measured" }
    END { for (i = 1; i <= n; i++) print "| " order[i] " | " of(order[i], "decode") " | " of(order[i], "prefill") " |" }' \
    "$out/gpu_engines.csv"
}

# ---- The section -----------------------------------------------------------------------------------

section() {
  cat <<END
Made by \`bench/gpu.sh\` from \`bench/results/gpu_*.csv\`, which are of one device.

Device: $(owner). Reading: $(field "$out/gpu_kernels.csv" '$1 == "read"' 9 '%.0f GB/s').

Answers beside the CPU's: $(said_by_checks). Outputs of linears beside sums in double: $(said_by_linears).

Linears of decoding at one row, as a fraction of reading (W16: bf16 in the file, f16 on the device; A8: 8-bit
activations; cuBLAS and PyTorch: bf16):

$(decoding_table)

Products of 1,024 rows, as in prompts, in TFLOP/s. What dequantizing to bf16 in front of a dense product could reach is cuBLAS's column, less the
time of writing and reading the weights at 16 bits:

$(prompt_table)

Whole decoders, group 128, a prompt of 1,024 tokens and 128 behind it (TFLOP/s here and below: products of weights only, the head's for
one token):

$(model_table)

A picture of ${PICTURE/x/ x } pixels through vision tower and projector, 16 bits:

$(tower_table)

$(engine_table)
END
}

# Between the two markers of the file.
write_docs() {
  one_device || return 0
  section >"$work/section"
  grep -q '<!-- gpu: begin -->' "$docs" && grep -q '<!-- gpu: end -->' "$docs" ||
    refuse "$docs has no markers of this section"
  awk -v new="$work/section" '
    /<!-- gpu: end -->/ { inside = 0 }
    !inside
    /<!-- gpu: begin -->/ { inside = 1; while ((getline line < new) > 0) print line }' "$docs" >"$work/docs"
  cat "$work/docs" >"$docs"
}
